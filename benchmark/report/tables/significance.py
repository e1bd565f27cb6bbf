"""Tables of uncertainty: intervals, paired differences between methods, and differences to published
numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from benchmark.report.results.collect import UNIT, Results, distinct, once, records, slot_of
from benchmark.report.results.published import differences, published_for
from benchmark.report.results.released import RELEASED
from benchmark.report.tables.captions import dataset_title, labels, method_title, processors_sentence
from benchmark.report.tables.means import (
    IDENTITY,
    LABELS,
    PUBLISHED_METRICS,
    method_ranks,
    order_rows,
    over_searches,
)
from benchmark.report.tables.studies import ONE_SEARCH
from benchmark.report.tables.table import (
    NOTHING,
    Column,
    Table,
    about,
    plain_table,
    protocol_text,
)
from benchmark.uncertainty import (
    DRAWS,
    FEWEST_SEEDS,
    LEVEL,
    bootstrap_intervals,
    holm,
    mean_interval,
    p_value,
    p_value_of_one_more,
    same_samples,
    smallest_t,
)

TESTED = ("hm", "zsl")
"""Metrics that are tested. There are no others, so that p-values need correction for fewer tests."""
COMPARED_IN = [*UNIT[:-1], "slot"]
"""What compared methods have in common."""
SIGNIFICANT = "*"
NOT_RECORDED, DIFFERENT = "not recorded", "different"


def _trained(results: Results) -> pd.DataFrame:
    """Finished stage-2 jobs that were trained here, with ``slot``; accuracies in percent."""
    done = results.test[(results.test["state"] == "done") & (results.test["variant"] != RELEASED)]
    return done.assign(
        slot=done["variant"].map(slot_of), **{m: 100 * done[m].astype(float) for m in PUBLISHED_METRICS}
    )


def _repeated(results: Results) -> pd.DataFrame:
    """``_trained`` with a row per repetition of the procedure: a training, or a search with its trainings."""
    return over_searches(_trained(results))


@once
def intervals(results: Results) -> pd.DataFrame:
    """A row per method and kind of settings (``IDENTITY``), in percent and percentage points.

    Columns: ``variant``, ``seeds``, and for each of ``PUBLISHED_METRICS``: its mean; ``_by_seed``, the value
    of each seed; ``_low`` and ``_high``, the 95 % interval of the mean over seeds; ``_samples_low`` and
    ``_samples_high``, the 95 % interval of the same mean over test samples; ``_published``; if that is
    comparable ``_to_published`` (ours - published), and for ``TESTED`` ``_p`` (null hypothesis: the published
    number is one more training of ours) and ``_p_holm``, corrected for all tests of the feature set. Below
    ``FEWEST_SEEDS`` seeds there are no intervals over seeds and no p-values. ``samples_drawn``: see
    ``_over_samples``.
    """
    rows, trained = [], dict(list(_trained(results).groupby(IDENTITY, sort=False)))
    for key, jobs in _repeated(results).groupby(IDENTITY, sort=False):
        row: dict[str, Any] = dict(zip(IDENTITY, key, strict=True))
        first = jobs.sort_values("repetition").iloc[0]
        row |= {"variant": first["variant"], "seeds": len(jobs)}
        row |= {name: int(first[name]) for name in ("searches", "trainings")}
        row["trainings"] = row["trainings"] if row["searches"] > 1 else len(jobs)
        found = published_for(row["dataset"], row["features"], row["method"])
        row |= _over_samples([results.groups.get(run_id) for run_id in trained[key]["run_id"]])
        for metric in PUBLISHED_METRICS:
            low, high = mean_interval(jobs[metric]) if len(jobs) >= FEWEST_SEEDS else (math.nan, math.nan)
            row |= {metric: jobs[metric].mean(), f"{metric}_low": low, f"{metric}_high": high}
            row[f"{metric}_by_seed"] = ", ".join(map(_number, jobs.sort_values("repetition")[metric]))
            value = getattr(found.numbers, metric) if found else None
            apart = value is None or found is None or bool(differences(first.to_dict(), found))
            gaps = jobs[metric] - (float("nan") if apart else value)
            row |= {f"{metric}_published": value, f"{metric}_to_published": gaps.mean()}
            tested = metric in TESTED and len(jobs) >= FEWEST_SEEDS
            row |= {f"{metric}_p": p_value_of_one_more(gaps)} if tested else {}
        rows.append(row)
    ends = ["", "_by_seed", "_low", "_high", "_samples_low", "_samples_high", "_published", "_to_published"]
    names = [m + end for m in PUBLISHED_METRICS for end in (*ends, *(["_p"] if m in TESTED else []))]
    facts = ["variant", "seeds", "searches", "trainings", "samples_drawn"]
    frame = pd.DataFrame(rows, columns=[*IDENTITY, *facts, *names])
    return _corrected(order_rows(frame, method_ranks(results)))


def _over_samples(logged: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """The 95 % interval over test samples of the mean over trainings.

    Args:
        logged: ``Artifact.GROUPS`` of each training; None if it has none.

    Returns:
        ``<metric>_samples_low`` and ``_high`` in percent, and ``samples_drawn``: ``groups`` (by the dataset's
        rule), ``single samples`` (there is no rule), ``not recorded`` (by at least one training) or
        ``different`` (the trainings were tested on different samples). In the last two cases there is no
        interval.
    """
    known = [groups for groups in logged if groups is not None]
    if len(known) < len(logged):
        return {"samples_drawn": NOT_RECORDED}
    trainings = [groups["classes"] for groups in known]
    if not same_samples(trainings):
        return {"samples_drawn": DIFFERENT}
    found = bootstrap_intervals(trainings).items()
    ends = {
        f"{name}_samples_{end}": 100 * v
        for name, pair in found
        for end, v in zip(("low", "high"), pair, strict=True)
    }
    return {"samples_drawn": "groups" if known[0]["grouping"] else "single samples", **ends}


@once
def comparisons(results: Results) -> pd.DataFrame:
    """A row per pair of methods with the same ``COMPARED_IN``, in percentage points.

    Columns: ``COMPARED_IN``, ``method``, ``settings``, ``other``, ``other_settings``, ``seeds`` that both
    have, and for each metric of ``TESTED``: ``_difference`` (method - other), its ``_std``, ``_low`` and
    ``_high`` of its 95 % interval, ``_wins`` and ``_losses`` (seeds in which the method is above or below the
    other), ``_p`` of the paired t-test and ``_p_holm``, corrected for all tests of the feature set. Below
    ``FEWEST_SEEDS`` seeds there are no intervals and no tests. Tuned settings are not tested if a method has
    one search only, since the variance between searches is unknown. With several, ``seeds`` counts searches.
    """
    rows, ranks = [], method_ranks(results)
    for key, jobs in _repeated(results).groupby(COMPARED_IN, sort=False):
        single = key[-1] == "tuned" and bool((jobs["searches"] == 1).any())
        groups = jobs.groupby(["method", "settings"], sort=False)
        sides = [(key, side.set_index("seed")[list(TESTED)]) for key, side in groups]
        sides.sort(key=lambda side: ranks[str(side[0][0])])
        for (first, one), (second, two) in combinations(sides, 2):
            if first[0] == second[0]:
                continue  # the same method with other settings
            row: dict[str, Any] = dict(zip(COMPARED_IN, key, strict=True))
            row |= {"method": first[0], "settings": first[1], "other": second[0], "other_settings": second[1]}
            seeds = one.index.intersection(two.index)
            gaps = one.loc[seeds].to_numpy(float) - two.loc[seeds].to_numpy(float)
            gaps = gaps[~np.isnan(gaps).any(axis=1)]
            row["seeds"] = len(gaps)
            for metric, values in zip(TESTED, gaps.T, strict=True):
                gap = pd.Series(values)
                enough = len(gap) >= FEWEST_SEEDS
                low, high = mean_interval(gap) if enough else (math.nan, math.nan)
                row |= {f"{metric}_difference": gap.mean(), f"{metric}_std": gap.std(ddof=1)}
                row |= {f"{metric}_wins": int((gap > 0).sum()), f"{metric}_losses": int((gap < 0).sum())}
                p = p_value(gap) if enough and not single else math.nan
                row |= {f"{metric}_low": low, f"{metric}_high": high, f"{metric}_p": p}
            rows.append(row)
    numbers = ("difference", "std", "low", "high", "wins", "losses", "p")
    names = [f"{m}_{name}" for m in TESTED for name in numbers]
    labels = ["method", "settings", "other", "other_settings", "seeds"]
    return _corrected(pd.DataFrame(rows, columns=[*COMPARED_IN, *labels, *names]))


def _corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Add ``_p_holm`` to each ``_p``, corrected for all tests of a table: both metrics, all rows of a feature
    set."""
    p = frame[[f"{metric}_p" for metric in TESTED]].to_numpy(float)
    corrected = np.full_like(p, np.nan)
    for rows in frame.groupby("features", sort=False).indices.values():
        corrected[rows] = np.reshape(holm(p[rows].ravel().tolist()), p[rows].shape)
    for metric, values in zip(TESTED, corrected.T, strict=True):
        frame.insert(list(frame.columns).index(f"{metric}_p") + 1, f"{metric}_p_holm", values)
    return frame


def intervals_table(results: Results, features: str, frame: pd.DataFrame) -> Table | None:
    """Intervals of a feature set and differences to published numbers; None if there are neither.

    Below ``FEWEST_SEEDS`` seeds there is no interval over seeds and no test, but the value of each seed.

    Args:
        frame: result of ``intervals``.
    """
    mine = frame[frame["features"] == features]
    shown = [m + end for m in PUBLISHED_METRICS for end in ("_low", "_samples_low", "_to_published")]
    if mine[shown].isna().all(axis=None) and (mine["seeds"] < 2).all():
        return None
    lines = records(mine)
    columns = [
        *labels(results, lines, "Dataset?", "Protocol?", "Method", "Settings"),
        Column("Seeds", "", [str(r["seeds"]) for r in lines]),
    ]
    for metric in PUBLISHED_METRICS:
        label = LABELS[metric]
        if metric not in TESTED:
            if mine[f"{metric}_to_published"].notna().any():
                gaps = [_gap(r, metric) for r in lines]
                columns.append(Column(f"{label} − published", label, gaps))
            continue
        columns.append(Column(label, label, [_number(r[metric]) for r in lines]))
        columns.append(Column(f"{label} over seeds", label, [_over_seeds(r, metric) for r in lines]))
        drawn = [
            NOT_RECORDED if r["samples_drawn"] == NOT_RECORDED else _range(r, f"{metric}_samples")
            for r in lines
        ]
        columns.append(Column(f"{label} 95 % over samples", label, drawn))
        if mine[f"{metric}_to_published"].notna().any():
            gaps = [_gap(r, metric) + _mark(r, metric) for r in lines]
            columns.append(Column(f"{label} − published", label, gaps))
            if mine[f"{metric}_p"].notna().any():
                columns.append(Column(f"{label} p", label, [_p(r[f"{metric}_p_holm"]) for r in lines]))
    caption = "Mean HM and ZSL in %, with intervals over seeds and over test samples."
    notes = [
        f"Over seeds: with n ≥ {FEWEST_SEEDS} seeds the 95 % t-interval of the mean; with fewer, which allow "
        "no interval and no test, the value of each seed.",
        *filter(None, [_samples_sentence(results, mine)]),
    ]
    if any(c.header.endswith("published") for c in columns):
        notes.append(
            "− published: our mean − the published number, if the two are comparable. p (HM and ZSL, n ≥ "
            f"{FEWEST_SEEDS}): the published number counts as one further training with the variance of ours "
            f"(t-test by the prediction interval). {_corrected_sentence(mine)}"
        )
    facts = [*([ONE_SEARCH] if "tuned" in set(mine["slot"]) else []), *_processors(results, features)]
    title = f"Intervals: {_datasets(results, mine)}, features {features}"
    keys = [about(r) for r in lines]
    return plain_table("intervals", title, caption, columns, notes, screen=False, keys=keys, facts=facts)


def wins_tables(results: Results, features: str, frame: pd.DataFrame) -> list[Table]:
    """How often each method is above each other one, a table per metric and group of compared methods.

    There is none for methods that share fewer than ``FEWEST_SEEDS`` seeds, and none for tuned settings of
    single searches.

    Args:
        frame: result of ``comparisons``.
    """
    tested = frame[[f"{metric}_p" for metric in TESTED]].notna().any(axis=1)
    mine = frame[(frame["features"] == features) & (tested | (frame["slot"] != "tuned"))]
    enough = mine[mine["seeds"] >= FEWEST_SEEDS]
    several = mine["slot"].nunique() > 1
    tests = int(np.isfinite(mine[[f"{metric}_p" for metric in TESTED]].to_numpy(float)).sum())
    return [
        _wins_table(results, rows, metric, tests, several=several)
        for _, rows in enough.groupby(COMPARED_IN, sort=False)
        for metric in TESTED
    ]


def _wins_table(results: Results, rows: pd.DataFrame, metric: str, tests: int, *, several: bool) -> Table:
    """A row and a column for each method.

    Args:
        tests: for how many the p-values are corrected.
        several: whether other tables are of another kind of settings.
    """
    # Each pair both ways: (row, column) -> seeds that the row wins, and whether its lead is significant.
    pairs: dict[tuple[tuple[str, str], tuple[str, str]], str] = {}
    better: dict[tuple[str, str], int] = {}
    for r in records(rows):
        one, two = (r["method"], r["settings"]), (r["other"], r["other_settings"])
        ahead = r[f"{metric}_difference"] > 0
        for a, b, wins, leads in ((one, two, "wins", ahead), (two, one, "losses", not ahead)):
            marked = leads and r[f"{metric}_p_holm"] < LEVEL
            pairs[a, b] = f"{r[f'{metric}_{wins}']}/{r['seeds']}" + SIGNIFICANT * marked
            better[a] = better.get(a, 0) + marked
    ranks = method_ranks(results)
    methods = sorted(better, key=lambda key: ranks[key[0]])
    names = {key: f"{method_title(results, key[0])} {key[1]}".strip() for key in methods}

    # The columns, and what they are.
    label, first = LABELS[metric], records(rows.head(1))[0]
    columns = [Column("Method", "", list(names.values()))]
    columns += [
        Column(f"vs {name}", "wins", ["" if a == b else pairs.get((a, b), NOTHING) for a in names])
        for b, name in names.items()
    ]
    columns.append(Column("Better than", "wins", [str(better[a]) for a in names]))
    caption = f"{label}: in how many of the seeds that both have the row's method is above the column's."
    notes = [
        f"{SIGNIFICANT}: the mean difference is significant (paired t-test, p < {LEVEL:.2g} after Holm's "
        f"correction for {tests} tests: all pairs with these features, in HM and ZSL). Better than: number "
        "of marked wins. Differences and p-values: `comparisons.csv`."
    ]
    facts = _processors(results, str(first["features"]))
    place = f"{dataset_title(results, first['dataset'])}, features {first['features']}"
    title = f"Wins in {label}: {place}, mode {protocol_text(first)}" + (
        f", {first['slot']} settings" if several else ""
    )
    keys = [about({**first, "method": key[0]}) for key in names]
    return plain_table("comparisons", title, caption, columns, notes, screen=False, keys=keys, facts=facts)


def _processors(results: Results, features: str) -> list[str]:
    trained = _trained(results)
    sentence = processors_sentence(results, trained[trained["features"] == features])
    return [sentence] if sentence else []


def _samples_sentence(results: Results, rows: pd.DataFrame) -> str:
    """What the bootstrap over samples draws, for which datasets."""
    how = {
        "groups": "groups of samples from the same source, by the dataset's rule `grouping`",
        "single samples": "single samples, since the dataset has no rule `grouping`, or some source videos "
        "are unknown",
    }
    drawn = {kind: distinct(rows.loc[rows["samples_drawn"] == kind, "dataset"]) for kind in how}
    texts = [
        f"{how[kind]} ({', '.join(dataset_title(results, name) for name in datasets)})"
        for kind, datasets in drawn.items()
        if datasets
    ]
    without = {
        NOT_RECORDED: f"{NOT_RECORDED.capitalize()}: by jobs of earlier versions.",
        DIFFERENT: "No interval over samples for rows whose trainings were tested on different samples.",
    }
    missing = [sentence for kind, sentence in without.items() if kind in set(rows["samples_drawn"])]
    if not texts:
        return " ".join(missing)
    bootstrap = (
        f"Over samples: cluster bootstrap of the mean over the n seeds ({DRAWS:,} draws, the same for all "
        f"seeds; models, betas and classes are fixed). Drawn within each class: {'; '.join(texts)}."
    )
    return " ".join([bootstrap, *missing])


def _corrected_sentence(rows: pd.DataFrame) -> str:
    """How the p-values of a table are corrected, and what a mark requires."""
    p = rows[[f"{metric}_p" for metric in TESTED]].to_numpy(float)
    text = f"All p-values of this table are corrected together (Holm). {SIGNIFICANT} p < {LEVEL:.2g}."
    tests = np.isfinite(p)
    if not tests.any():
        return text
    most = int(rows.loc[tests.any(axis=1), "seeds"].max())
    least = smallest_t(most, int(tests.sum()))
    needed = f"the smallest of {tests.sum()} p-values needs |t| > {least:.1f} for a mark."
    return f"{text} At n = {most} {needed}"


def _datasets(results: Results, frame: pd.DataFrame) -> str:
    return ", ".join(dict.fromkeys(dataset_title(results, name) for name in frame["dataset"]))


def _number(value: float) -> str:
    return NOTHING if pd.isna(value) else f"{value:.2f}"


def _gap(row: Mapping[str, Any], metric: str) -> str:
    """Ours - published."""
    gap = row[f"{metric}_to_published"]
    return NOTHING if pd.isna(gap) else f"{gap:+.2f}"


def _over_seeds(row: Mapping[str, Any], metric: str) -> str:
    """The interval of the mean, or what each of a few seeds gave."""
    if row["seeds"] >= FEWEST_SEEDS:
        return _range(row, metric)
    return str(row[f"{metric}_by_seed"]) if row["seeds"] > 1 else NOTHING


def _range(row: Mapping[str, Any], name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return NOTHING if pd.isna(low) else f"{low:.2f} to {high:.2f}"


def _p(value: float) -> str:
    if pd.isna(value):
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _mark(row: Mapping[str, Any], metric: str) -> str:
    return SIGNIFICANT if row[f"{metric}_p_holm"] < LEVEL else ""
