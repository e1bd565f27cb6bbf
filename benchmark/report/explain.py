"""Makes the figures of a report that show results: curves, scores, training, recall, embeddings, confusion.

There is one set of figures per comparison (``comparison.py``). A figure without data in the store is omitted,
and the report lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmark.figures.curves import MethodCurve, best_of, method_curves_figure
from benchmark.figures.embedding_layout import flat_map
from benchmark.figures.results import (
    Drawn,
    Row,
    Scores,
    confusion_figure,
    map_figure,
    recall_figure,
    scores_figure,
    training_figure,
)
from benchmark.figures.style import Figure
from benchmark.report.comparison import Comparison, Series, comparisons_of
from benchmark.report.parallel import in_parallel
from benchmark.report.results.artifacts import artifact_frame
from benchmark.report.results.collect import Results, records
from benchmark.report.results.published import differences, published_for
from benchmark.report.results.released import RELEASED
from benchmark.report.sections import ReportFigure, Section
from benchmark.report.tables.captions import method_title
from benchmark.report.tables.means import IDENTITY, method_ranks, over_searches
from benchmark.report.tables.recall import recall_by_class
from benchmark.system.beside import Guard, reason_of, unguarded
from benchmark.tracking.schema import Artifact, Metric
from benchmark.tracking.tracker import Tracker
from benchmark.uncertainty import FEWEST_SEEDS, spearman, spread

SCORES = {"hm": "HM", "zsl": "ZSL"}
PANELS = 9
"""Panels of a figure at most; further methods or settings get further figures."""
CLASSES = 100
"""Classes of a confusion matrix at most: those with the most samples."""
NOT_LOGGED = "not logged; jobs of earlier versions do not log it"
MAP_NOT_LOGGED = "not logged; only jobs of repetition 0 log it, and those of earlier versions do not"
COLLAPSED = "all embeddings are the same, or not finite"


Missing = list[str]
"""Sentences on what is missing, collected while figures are made."""


def _miss(missing: Missing, what: str, compared: Comparison, reasons: Mapping[str, str]) -> None:
    """Note the methods without data (title -> reason)."""
    for reason in dict.fromkeys(reasons.values()):
        titles = ", ".join(title for title, why in reasons.items() if why == reason)
        missing.append(f"{what}, {compared.title}: {titles} ({reason}).")


def explain(tracker: Tracker, results: Results, guard: Guard = unguarded) -> list[Section]:
    """Make all figures that show the results of a report; the last section lists what has no data.

    Args:
        guard: encloses the figures of each kind and comparison; it gets their name.
    """
    missing: Missing = []
    tested, validated = comparisons_of(results, results.test), comparisons_of(results, results.validation)
    maps: Mapping[str, pd.DataFrame | str] = {}
    with guard("embedding maps"):
        maps = _flat_maps(tracker, tested)
    kinds: list[tuple[str, str, Sequence[Comparison], Callable[[Comparison], list[ReportFigure]]]] = [
        (SCORES_HEADING, SCORES_TEXT, tested, lambda c: [scores_of(c)]),
        ("Seen-unseen curves", CURVES_TEXT, tested, lambda c: _curves(tracker, results, c)),
        ("Training", TRAINING_TEXT, validated, lambda c: _training(tracker, c, missing)),
        ("Recall of unseen classes", RECALL_TEXT, tested, lambda c: _recalls(results, c, missing)),
        ("Embeddings", MAP_TEXT, tested, lambda c: _maps(maps, c, missing)),
        ("Confusion of unseen classes", CONFUSION_TEXT, tested, lambda c: _confusions(tracker, c, missing)),
    ]
    sections = []
    for heading, text, comparisons, make in kinds:
        figures: list[ReportFigure] = []
        for compared in comparisons:
            with guard(f"{heading}, {compared.title}"):
                figures += make(compared)
        sections.append(Section(heading, [text], figures, leads=heading == SCORES_HEADING))
    return [*sections, Section("Figures without data", [], [], missing)]


CURVES_TEXT = (
    "Seen and unseen accuracy as the calibration beta varies, for the first seed of each method. Filled "
    "marker: the beta chosen on validation. Hollow diamond: oracle beta (upper bound), the highest harmonic "
    "mean on the curve, which is chosen on test data and is not a result. Grey: lines of equal harmonic "
    "mean. Each figure has its numbers as CSV."
)
SCORES_HEADING = "Results by seed"
SCORES_TEXT = (
    "HM and ZSL of each seed, with their mean. With several searches, a dot is the mean of one search. Grey "
    f"band: the 95 % t-interval of the mean, from {FEWEST_SEEDS} seeds on; an arrow marks a band that ends "
    "outside the axes. Diamond: the published value, if its protocol, data and settings are the same."
)
TRAINING_TEXT = (
    "Training loss and validation HM of stage 1 after each epoch: mean over seeds, with the range of the "
    "seeds as a band. Losses are not comparable across methods."
)
RECALL_TEXT = (
    "Recall of each unseen class among all classes at the calibrated beta (mean over seeds), by the cosine "
    "of its class embedding to the nearest one of a training class. ρ: Spearman's rank correlation over n "
    "classes."
)
MAP_TEXT = (
    "Test samples and classes of the first seed in the embedding space, by t-SNE (scikit-learn, PCA "
    "initialisation, seed 0, Euclidean). Samples are balanced over classes and the same for all methods. "
    "Only local neighbourhoods are meaningful, not distances or directions."
)
CONFUSION_TEXT = (
    "Predictions for samples of unseen classes with unseen classes as the only candidates (ZSL), in % of "
    "each true class, over all seeds."
)


def _curves(tracker: Tracker, results: Results, compared: Comparison) -> list[ReportFigure]:
    """The curve of each method's first seed."""
    ranks, curves, points = method_ranks(results), [], []
    firsts = compared.jobs.sort_values("repetition", kind="stable").drop_duplicates("method")
    firsts = firsts.sort_values("method", key=lambda names: names.map(ranks), kind="stable")
    for row in records(firsts):
        curve = artifact_frame(tracker, row["run_id"], Artifact.CURVE)
        if curve is not None and len(curve):
            title, chosen = method_title(results, row["method"]), (row["unseen"], row["seen"])
            curves.append(MethodCurve(title, curve, chosen, ranks[row["method"]]))
            points.append(_marked(curve, row).assign(method=row["method"], repetition=row["repetition"]))
    if not curves:
        return []
    data = pd.concat(points, ignore_index=True)[["method", "repetition", "beta", "seen", "unseen", "point"]]
    seed = "" if compared.slot == RELEASED else f", seed {firsts['repetition'].iloc[0]}"
    title = f"Seen-unseen curves: {compared.title}{seed}"
    figure = partial(method_curves_figure, curves, title)
    return [ReportFigure(compared.stem("curve"), title, figure, data, compared.keys)]


def _marked(curve: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    """A curve by beta with the column ``point``: ``best`` (highest HM), a row ``chosen`` (by calibration), or
    empty."""
    points = curve.assign(point=np.where(np.arange(len(curve)) == best_of(curve), "best", ""))
    chosen = pd.DataFrame(
        [{"beta": row["beta"], "seen": row["seen"], "unseen": row["unseen"], "point": "chosen"}]
    )
    return pd.concat([points, chosen]).sort_values("beta", kind="stable")


def scores_of(compared: Comparison) -> ReportFigure:
    """HM and ZSL of the compared methods: seeds, means with intervals, and comparable published values."""
    rows: list[dict[str, Any]] = []
    drawn = []
    for one in compared.series:
        found = published_for(compared.dataset, compared.features, one.method)
        comparable = found is not None and not differences(one.jobs.iloc[0].to_dict(), found)
        scores = {}
        for metric in SCORES:
            values = over_searches(one.jobs)[metric].astype(float).dropna()
            low, high = spread(values)
            number = getattr(found.numbers, metric) if found is not None and comparable else None
            theirs = float("nan") if number is None else number / 100
            few = float("nan") if len(values) < FEWEST_SEEDS else 100.0
            scores[metric] = Scores([100 * v for v in values], few * low, few * high, 100 * theirs)
            facts = {"method": one.method, "settings": one.settings, "metric": metric, "seeds": len(values)}
            numbers = {"mean": float(values.mean()), "low": low, "high": high, "published": theirs}
            rows.append({**facts, **numbers, "by_seed": ", ".join(f"{v:.6f}" for v in values)})
        drawn.append(Row(one.title, one.style, scores))
    title = f"HM and ZSL: {compared.title}"
    draw = partial(scores_figure, drawn, SCORES, title)
    return ReportFigure(compared.stem("scores"), title, draw, pd.DataFrame(rows), compared.keys)


def _training(tracker: Tracker, compared: Comparison, missing: Missing) -> list[ReportFigure]:
    drawn, reasons = [], dict[str, str]()
    for one in compared.series:
        epochs = training_epochs(tracker, one.jobs["run_id"])
        if epochs.empty:
            reasons[one.title] = NOT_LOGGED
        else:
            drawn.append((one, epochs))
    _miss(missing, "Training curves", compared, reasons)
    if not drawn:
        return []
    title = f"Training, stage 1: {compared.title}"
    figure = partial(training_figure, [Drawn(one.title, one.style, data) for one, data in drawn], title)
    return [ReportFigure(compared.stem("training"), title, figure, _labelled(drawn), compared.keys)]


def training_epochs(tracker: Tracker, run_ids: Sequence[str] | pd.Series) -> pd.DataFrame:
    """Loss and validation HM by epoch, over runs that differ in their seeds only.

    Returns:
        Columns ``epoch`` (from 1), ``seeds``, and ``_mean``, ``_low`` (least) and ``_high`` (greatest) of
        ``loss`` and ``hm`` (validation, fraction); no rows if nothing was logged.
    """
    rows, keys, nan = [], (Metric.TRAIN_LOSS, Metric.VALIDATION_HM), float("nan")
    histories = tracker.histories(run_ids, keys)
    for run_id in run_ids:
        losses, scores = (histories.get((run_id, key), {}) for key in keys)
        rows += [
            (epoch, losses.get(epoch, nan), scores.get(epoch, nan)) for epoch in sorted({*losses, *scores})
        ]
    groups = pd.DataFrame(rows, columns=["epoch", "loss", "hm"], dtype=float).groupby("epoch")
    columns = {f"{name}_{end}": (name, how) for name in ("loss", "hm") for end, how in ENDS.items()}
    epochs = groups.agg(seeds=("hm", "size"), **columns).reset_index()
    return pd.DataFrame(epochs.assign(epoch=epochs["epoch"].astype(int) + 1))


ENDS = {"mean": "mean", "low": "min", "high": "max"}


def _recalls(results: Results, compared: Comparison, missing: Missing) -> list[ReportFigure]:
    recall, drawn, reasons = recall_by_class(results), [], dict[str, str]()
    for one in compared.series:
        key = [*compared.keys.values(), one.method, compared.slot, one.settings]
        mine = recall[(recall[IDENTITY] == key).all(axis=1) & (recall["group"] == "unseen")]
        points = mine.dropna(subset=["nearest_seen_cosine"])
        if points.empty:
            shuffled = compared.alignment == "shuffled" and len(mine)
            reasons[one.title] = "seeds have different class embeddings" if shuffled else NOT_LOGGED
            continue
        data = points[
            ["class", "samples", "seeds", "gzsl", "own_group", "nearest_seen_class", "nearest_seen_cosine"]
        ]
        data = data.assign(
            gzsl=data["gzsl"].astype(float) / 100, own_group=data["own_group"].astype(float) / 100
        )
        drawn.append((one, data))
    _miss(missing, "Recall by nearest seen class", compared, reasons)

    def draw(chunk: Chunk, title: str) -> Callable[[], Figure]:
        panels = [Drawn(f"{one.title}\n{_correlation(data)}", one.style, data) for one, data in chunk]
        return partial(recall_figure, panels, title)

    return _paneled(compared, "recall", "Recall of unseen classes", drawn, draw)


def _correlation(data: pd.DataFrame) -> str:
    rho = spearman(data["nearest_seen_cosine"], data["gzsl"])
    return f"ρ {'not defined' if np.isnan(rho) else f'= {rho:.2f}'}, n = {len(data)}".replace("-", "−")


def _flat_maps(tracker: Tracker, comparisons: Sequence[Comparison]) -> dict[str, pd.DataFrame | str]:
    """``laid_out`` of the first seed of each method, by run id; the logged map if there is one."""
    firsts = dict.fromkeys(_first_run(one) for compared in comparisons for one in compared.series)
    logged = {run_id: artifact_frame(tracker, run_id, Artifact.EMBEDDING_MAP) for run_id in firsts}
    unmapped = [run_id for run_id in firsts if logged[run_id] is None]
    embedded = {run_id: artifact_frame(tracker, run_id, Artifact.EMBEDDING) for run_id in unmapped}
    frames = {run_id: frame for run_id, frame in embedded.items() if frame is not None}
    made = dict(zip(frames, in_parallel(laid_out, list(frames.values())), strict=True))
    return {run_id: frame for run_id, frame in logged.items() if frame is not None} | made


def laid_out(frame: pd.DataFrame) -> pd.DataFrame | str:
    """``flat_map``, or the reason why there is none."""
    try:
        flat = flat_map(frame)
    except Exception as error:  # the other methods still get their maps
        return reason_of(error)
    return COLLAPSED if flat is None else flat


def _first_run(one: Series) -> str:
    return str(one.jobs["run_id"].iloc[0])


def _maps(
    maps: Mapping[str, pd.DataFrame | str], compared: Comparison, missing: Missing
) -> list[ReportFigure]:
    drawn, reasons = [], dict[str, str]()
    for one in compared.series:
        points = maps.get(_first_run(one), MAP_NOT_LOGGED)
        if isinstance(points, str):
            reasons[one.title] = points
        else:
            drawn.append((one, points))
    _miss(missing, "Embedding map", compared, reasons)

    def draw(chunk: Chunk, title: str) -> Callable[[], Figure]:
        return partial(map_figure, [Drawn(one.title, one.style, data) for one, data in chunk], title)

    return _paneled(compared, "embedding", "Embeddings of test samples", drawn, draw)


def _confusions(tracker: Tracker, compared: Comparison, missing: Missing) -> list[ReportFigure]:
    drawn, reasons = [], dict[str, str]()
    for one in compared.series:
        frames = [artifact_frame(tracker, run_id, Artifact.CONFUSION) for run_id in one.jobs["run_id"]]
        logged = [f for f in frames if f is not None and len(f)]
        if logged:
            counts = pd.concat(logged).groupby(["true", "predicted"], as_index=False)["count"].sum()
            drawn.append(
                (one, counts.assign(share=counts["count"] / counts.groupby("true")["count"].transform("sum")))
            )
        else:
            reasons[one.title] = NOT_LOGGED
    _miss(missing, "Confusion of unseen classes", compared, reasons)

    def draw(chunk: Chunk, title: str) -> Callable[[], Figure]:
        panels = [Drawn(one.title, one.style, square(data)) for one, data in chunk]
        most = max(data["true"].nunique() for _, data in chunk)
        shown = f"\n{CLASSES} of {most} classes: those with the most samples" if most > CLASSES else ""
        return partial(confusion_figure, panels, title + shown)

    return _paneled(compared, "confusion", "Confusion of unseen classes", drawn, draw)


def square(counts: pd.DataFrame, limit: int = CLASSES) -> pd.DataFrame:
    """Confusion matrix: shares of each true class (index) by predicted class (columns), by name; fractions.

    Args:
        counts: columns ``true``, ``predicted``, ``count``, ``share`` (of the true class).
        limit: classes at most, those with the most samples. Shares are of all samples of a class.
    """
    totals = counts.groupby("true")["count"].sum()
    names = sorted(sorted(totals.index, key=lambda name: (-totals[name], name))[:limit])
    names += [p for p in sorted(set(counts["predicted"])) if p not in totals.index][: limit - len(names)]
    shares = counts.pivot(index="true", columns="predicted", values="share")
    return shares.reindex(index=names, columns=names).fillna(0.0)


Chunk = Sequence[tuple[Series, pd.DataFrame]]
"""Some methods with the data of their panels."""


def _paneled(
    compared: Comparison,
    kind: str,
    what: str,
    drawn: Chunk,
    draw: Callable[[Chunk, str], Callable[[], Figure]],
) -> list[ReportFigure]:
    """Figures with a panel per method, ``PANELS`` at most; the files of further figures end in ``-2``,
    ``-3``, ..."""
    figures, title = [], f"{what}: {compared.title}"
    for number, start in enumerate(range(0, len(drawn), PANELS), 1):
        chunk = drawn[start : start + PANELS]
        stem = compared.stem(kind if number == 1 else f"{kind}-{number}")
        figures.append(ReportFigure(stem, title, draw(chunk, title), _labelled(chunk), compared.keys))
    return figures


def _labelled(drawn: Chunk) -> pd.DataFrame:
    """The data of several methods as one frame; ``method`` and ``settings`` are the first columns."""
    parts = [
        pd.DataFrame({"method": one.method, "settings": one.settings}, data.index).join(data)
        for one, data in drawn
    ]
    return pd.concat(parts, ignore_index=True)
