"""What explains results, from the tracking store to figures: scores with intervals, training, recall, embeddings, confusion.

One set of figures for each place (``places.py``). A figure of which a store has nothing is left out, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmark.figures.embedding_layout import flat_map
from benchmark.figures.results import (
    Bar,
    Bars,
    Drawn,
    confusion_figure,
    map_figure,
    recall_figure,
    scores_figure,
    training_figure,
)
from benchmark.report.parallel import side_by_side
from benchmark.report.places import Place, Series, places_of
from benchmark.report.results.collect import Results, artifact_frame
from benchmark.report.results.published import differences, published_for
from benchmark.report.sections import ReportFigure, Section
from benchmark.report.tables.means import IDENTITY
from benchmark.report.tables.recall import recall_by_class
from benchmark.system.beside import Guard, reason_of, unguarded
from benchmark.tracking.schema import Artifact, Metric
from benchmark.tracking.tracker import Tracker
from benchmark.uncertainty import mean_interval, spearman

SCORES = {"hm": "HM", "zsl": "ZSL"}
PANELS = 9
"""Panels of a figure, at most; more methods or settings get further figures."""
CLASSES = 100
"""Classes of a confusion map, at most: those with the most samples."""
NOT_LOGGED = "not logged; jobs of older versions do not log it"
MAP_NOT_LOGGED = "not logged; only jobs of repetition 0 log it, and those of older versions do not"
COLLAPSED = "all embeddings are the same, or not finite"


@dataclass(frozen=True)
class Explained:
    """The figures that explain results, and what is missing of them."""

    sections: Sequence[Section]
    """The last one says what is missing."""
    left_out: Sequence[str]
    """A sentence for each figure, or part of one, that the store has no data for."""

    @property
    def figures(self) -> list[ReportFigure]:
        """All figures."""
        return [figure for section in self.sections for figure in section.figures]


Missing = list[str]
"""Sentences on what is left out, while figures are made."""


def _miss(missing: Missing, what: str, place: Place, reasons: Mapping[str, str]) -> None:
    """Note for which methods a place has no data: title of a method -> reason."""
    for reason in dict.fromkeys(reasons.values()):
        mine = ", ".join(name for name, why in reasons.items() if why == reason)
        missing.append(f"{what}, {place.title}: {mine} ({reason}).")


def explain(tracker: Tracker, results: Results, guard: Guard = unguarded) -> Explained:
    """All figures that explain the results of a report.

    Args:
        guard: around the figures of each kind and place, with what they are.
    """
    missing: Missing = []
    tested, validated = places_of(results, results.test), places_of(results, results.validation)
    maps: Mapping[str, pd.DataFrame | str] = {}
    with guard("embedding maps"):
        maps = _flat_maps(tracker, tested)
    kinds: list[tuple[str, str, Sequence[Place], Callable[[Place], list[ReportFigure]]]] = [
        ("Scores", SCORES_TEXT, tested, lambda place: [scores_of(place)]),
        ("Training", TRAINING_TEXT, validated, lambda place: _training(tracker, place, missing)),
        ("Recall of unseen classes", RECALL_TEXT, tested, lambda p: _recalls(recall_by_class(results), p, missing)),
        ("Embeddings", MAP_TEXT, tested, lambda place: _maps(maps, place, missing)),
        ("Confusion of unseen classes", CONFUSION_TEXT, tested, lambda place: _confusions(tracker, place, missing)),
    ]
    sections = []
    for heading, text, places, make in kinds:
        figures: list[ReportFigure] = []
        for place in places:
            with guard(f"{heading}, {place.title}"):
                figures += make(place)
        sections.append(Section(heading, [text], figures))
    return Explained([*sections, Section("Figures without data", [], [], missing)], missing)


SCORES_TEXT = (
    "HM and ZSL: mean over seeds with Student's t interval, cut at the edge of the picture where it is wider "
    "(arrow). Diamond: the published value, where it was measured under the same protocol, data and settings."
)
TRAINING_TEXT = (
    "Training loss and validation HM of stage 1 after each epoch: mean over seeds, and the range of the seeds as a band. "
    "Losses of different methods are different sums and cannot be compared."
)
RECALL_TEXT = (
    "Recall among all classes at the calibrated beta, mean over seeds, of each unseen class, by the cosine of its word vector "
    "to the nearest one of a training class. ρ: Spearman's rank correlation over n classes."
)
MAP_TEXT = (
    "Test samples and classes of the first seed in the space in which they are compared, by t-SNE (scikit-learn, from the "
    "principal components, seed 0, Euclidean). Samples are drawn balanced over classes, the same for all methods. Neighbours "
    "say something in such a map; distances and directions do not."
)
CONFUSION_TEXT = (
    "What samples of unseen classes are taken for when unseen classes are the only candidates (ZSL), in % of each true class, "
    "over all seeds."
)


def scores_of(place: Place) -> ReportFigure:
    """HM and ZSL of a place's methods: means with intervals over seeds, beside comparable published values."""
    rows: list[dict[str, Any]] = []
    drawn = []
    for one in place.series:
        found = published_for(place.dataset, place.features, one.method)
        comparable = found is not None and not differences(one.jobs.iloc[0].to_dict(), found.source)
        bars = {}
        for metric in SCORES:
            values = one.jobs[metric].astype(float).dropna()
            low, high = mean_interval(values)
            number = getattr(found.numbers, metric) if found is not None and comparable else None
            theirs = float("nan") if number is None else number / 100
            numbers = {"mean": float(values.mean()), "low": low, "high": high, "published": theirs}
            bars[metric] = Bar(**{name: 100 * value for name, value in numbers.items()})
            rows.append({"method": one.method, "settings": one.settings, "metric": metric, "seeds": len(values), **numbers})
        drawn.append(Bars(one.title, one.style, bars))
    title = f"HM and ZSL: {place.title}"
    return ReportFigure(
        place.stem("scores"), title, partial(scores_figure, drawn, SCORES, title), pd.DataFrame(rows), place.keys
    )


def _training(tracker: Tracker, place: Place, missing: Missing) -> list[ReportFigure]:
    drawn, reasons = [], dict[str, str]()
    for one in place.series:
        epochs = training_epochs(tracker, one.jobs["run_id"])
        if epochs.empty:
            reasons[one.title] = NOT_LOGGED
        else:
            drawn.append((one, epochs))
    _miss(missing, "Training curves", place, reasons)
    if not drawn:
        return []
    title = f"Training, stage 1: {place.title}"
    figure = partial(training_figure, [Drawn(one.title, one.style, data) for one, data in drawn], title)
    return [ReportFigure(place.stem("training"), title, figure, _labelled(drawn), place.keys)]


def training_epochs(tracker: Tracker, run_ids: Sequence[str] | pd.Series) -> pd.DataFrame:
    """The epochs of some runs of the same settings that are not the same seed.

    Returns:
        Columns ``epoch`` (from 1), ``seeds``, and ``_mean``, ``_low`` (least) and ``_high`` (greatest) of ``loss`` and ``hm``
        (validation, fraction); no row where nothing was logged.
    """
    rows, keys, nan = [], (Metric.TRAIN_LOSS, Metric.VALIDATION_HM), float("nan")
    histories = tracker.histories(run_ids, keys)
    for run_id in run_ids:
        losses, scores = (histories.get((run_id, key), {}) for key in keys)
        rows += [(epoch, losses.get(epoch, nan), scores.get(epoch, nan)) for epoch in sorted({*losses, *scores})]
    groups = pd.DataFrame(rows, columns=["epoch", "loss", "hm"], dtype=float).groupby("epoch")
    columns = {f"{name}_{end}": (name, how) for name in ("loss", "hm") for end, how in ENDS.items()}
    epochs = groups.agg(seeds=("hm", "size"), **columns).reset_index()
    return pd.DataFrame(epochs.assign(epoch=epochs["epoch"].astype(int) + 1))


ENDS = {"mean": "mean", "low": "min", "high": "max"}


def _recalls(recall: pd.DataFrame, place: Place, missing: Missing) -> list[ReportFigure]:
    drawn, reasons = [], dict[str, str]()
    for one in place.series:
        key = [place.dataset, place.features, place.mode, place.alignment, one.method, place.slot, one.settings]
        mine = recall[(recall[IDENTITY] == key).all(axis=1) & (recall["group"] == "unseen")]
        points = mine.dropna(subset=["nearest_seen_cosine"])
        if points.empty:
            reasons[one.title] = (
                "seeds have different word vectors" if place.alignment == "shuffled" and len(mine) else NOT_LOGGED
            )
            continue
        data = points[["class", "samples", "seeds", "gzsl", "own_group", "nearest_seen_class", "nearest_seen_cosine"]]
        data = data.assign(gzsl=data["gzsl"].astype(float) / 100, own_group=data["own_group"].astype(float) / 100)
        drawn.append((one, data))
    _miss(missing, "Recall by nearest seen class", place, reasons)
    figures = []
    for number, chunk in _chunks(drawn):
        title = f"Recall of unseen classes: {place.title}"
        panels = [Drawn(f"{one.title}\n{_correlation(data)}", one.style, data) for one, data in chunk]
        figure = partial(recall_figure, panels, title)
        figures.append(ReportFigure(place.stem(f"recall{number}"), title, figure, _labelled(chunk), place.keys))
    return figures


def _correlation(data: pd.DataFrame) -> str:
    rho = spearman(data["nearest_seen_cosine"], data["gzsl"])
    return f"ρ {'not defined' if np.isnan(rho) else f'= {rho:.2f}'}, n = {len(data)}".replace("-", "−")


def _flat_maps(tracker: Tracker, places: Sequence[Place]) -> dict[str, pd.DataFrame | str]:
    """``laid_out`` of the first seed of all methods that logged embeddings, by run id; read where the job logged it too."""
    firsts = dict.fromkeys(_first_run(one) for place in places for one in place.series)
    logged = {run_id: artifact_frame(tracker, run_id, Artifact.EMBEDDING_MAP) for run_id in firsts}
    embedded = {run_id: artifact_frame(tracker, run_id, Artifact.EMBEDDING) for run_id in firsts if logged[run_id] is None}
    frames = {run_id: frame for run_id, frame in embedded.items() if frame is not None}
    made = dict(zip(frames, side_by_side(laid_out, list(frames.values())), strict=True))
    return {run_id: frame for run_id, frame in logged.items() if frame is not None} | made


def laid_out(frame: pd.DataFrame) -> pd.DataFrame | str:
    """``flat_map``, or why there is none."""
    try:
        flat = flat_map(frame)
    except Exception as error:  # one method's embeddings must not cost the others their maps
        return reason_of(error)
    return COLLAPSED if flat is None else flat


def _first_run(one: Series) -> str:
    return str(one.jobs["run_id"].iloc[0])


def _maps(maps: Mapping[str, pd.DataFrame | str], place: Place, missing: Missing) -> list[ReportFigure]:
    drawn, reasons = [], dict[str, str]()
    for one in place.series:
        points = maps.get(_first_run(one), MAP_NOT_LOGGED)
        if isinstance(points, str):
            reasons[one.title] = points
        else:
            drawn.append((one, points))
    _miss(missing, "Embedding map", place, reasons)
    figures = []
    for number, chunk in _chunks(drawn):
        title = f"Embeddings of test samples: {place.title}"
        figure = partial(map_figure, [Drawn(one.title, one.style, data) for one, data in chunk], title)
        figures.append(ReportFigure(place.stem(f"embedding{number}"), title, figure, _labelled(chunk), place.keys))
    return figures


def _confusions(tracker: Tracker, place: Place, missing: Missing) -> list[ReportFigure]:
    drawn, reasons = [], dict[str, str]()
    for one in place.series:
        frames = [artifact_frame(tracker, run_id, Artifact.CONFUSION) for run_id in one.jobs["run_id"]]
        logged = [f for f in frames if f is not None and len(f)]
        if logged:
            counts = pd.concat(logged).groupby(["true", "predicted"], as_index=False)["count"].sum()
            drawn.append((one, counts.assign(share=counts["count"] / counts.groupby("true")["count"].transform("sum"))))
        else:
            reasons[one.title] = NOT_LOGGED
    _miss(missing, "Confusion of unseen classes", place, reasons)
    figures = []
    for number, chunk in _chunks(drawn):
        title = f"Confusion of unseen classes: {place.title}"
        panels = [Drawn(one.title, one.style, square(data)) for one, data in chunk]
        most = max(data["true"].nunique() for _, data in chunk)
        drawn_title = title if most <= CLASSES else f"{title}\n{CLASSES} of {most} classes, those with the most samples"
        figure = partial(confusion_figure, panels, drawn_title)
        figures.append(ReportFigure(place.stem(f"confusion{number}"), title, figure, _labelled(chunk), place.keys))
    return figures


def square(counts: pd.DataFrame, limit: int = CLASSES) -> pd.DataFrame:
    """Shares of true classes (index) that are taken for classes (columns), the same classes in both, by name; fractions.

    Args:
        counts: columns ``true``, ``predicted``, ``count``, ``share`` (of the true class).
        limit: classes at most, those with the most samples; shares stay those of all samples.
    """
    totals = counts.groupby("true")["count"].sum()
    names = sorted(sorted(totals.index, key=lambda name: (-totals[name], name))[:limit])
    names += [p for p in sorted(set(counts["predicted"])) if p not in totals.index][: limit - len(names)]
    return counts.pivot(index="true", columns="predicted", values="share").reindex(index=names, columns=names).fillna(0.0)


def _chunks(drawn: Sequence[tuple[Series, pd.DataFrame]]) -> Iterator[tuple[str, Sequence[tuple[Series, pd.DataFrame]]]]:
    """As many methods as a figure has panels, with what tells the figure's files apart: nothing, ``-2``, ``-3``, ..."""
    for number, start in enumerate(range(0, len(drawn), PANELS), 1):
        yield "" if number == 1 else f"-{number}", drawn[start : start + PANELS]


def _labelled(drawn: Sequence[tuple[Series, pd.DataFrame]]) -> pd.DataFrame:
    """The data of several methods as one frame, ``method`` and ``settings`` first."""
    parts = [pd.DataFrame({"method": one.method, "settings": one.settings}, data.index).join(data) for one, data in drawn]
    return pd.concat(parts, ignore_index=True)
