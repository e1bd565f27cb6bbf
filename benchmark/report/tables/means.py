"""Computes means over seeds with their intervals, in percent, for tables and their CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from benchmark.report.results.collect import FRACTIONS, METRICS, NUMBERS, SLOTS, Results, records, slot_of
from benchmark.report.results.published import differences, method_order, published_for
from benchmark.report.results.released import DATA, WEIGHTS
from benchmark.report.results.switches import Logged, beyond_switches, told_apart
from benchmark.tracking.schema import METRIC_LABELS
from benchmark.uncertainty import spread

LABELS = METRIC_LABELS
CSV_NAMES = {**LABELS, "disjoint_seen": "S_disjoint", "disjoint_hm": "HM_disjoint"}
IDENTITY = ["dataset", "features", "mode", "alignment", "method", "slot", "settings"]
PUBLISHED_METRICS = ("seen", "unseen", "hm", "zsl")
ENDS = ("_std", "_low", "_high")
"""What follows a number's name: its standard deviation over seeds (n - 1), and ``uncertainty.spread``."""


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per dataset, features, mode, alignment, method and kind of settings.

    Columns: ``IDENTITY`` (``slot``: one of ``SLOTS``; ``settings``: what distinguishes rows with different
    settings), ``variant`` (published, default, user-set, tuned or released), ``kind`` of data, ``switches``
    that differ from the mode, ``as_published`` (whether the settings are the published ones), ``seeds`` with
    a result, ``planned`` seeds, ``state`` of the worst job, ``searches`` that a tuned row is over and
    ``trainings`` of each (then ``seeds`` counts searches), and for each of ``NUMBERS`` its mean with
    ``ENDS``, accuracies in percent.
    """
    rows: list[dict[str, Any]] = []
    for key, group in over_searches(frame).groupby(IDENTITY, sort=False):
        done = group[group["state"] == "done"]
        row: dict[str, Any] = dict(zip(IDENTITY, key, strict=True))
        row |= {"variant": group["variant"].iloc[0], "kind": group["kind"].iloc[0]}
        row |= {"switches": group["switches"].max(), "as_published": bool(group["as_published"].all())}
        row |= _progress(group)
        searches = int(group["searches"].max())
        row |= {
            "searches": searches,
            "trainings": int(group["trainings"].max()) if searches > 1 else row["seeds"],
        }
        for name in NUMBERS:
            row |= _over_seeds(name, done[name] * (100.0 if name in FRACTIONS else 1.0))
        rows.append(row)
    numbers = [number + end for number in NUMBERS for end in ("", *ENDS)]
    facts = [
        "variant",
        "kind",
        "switches",
        "as_published",
        "seeds",
        "planned",
        "state",
        "searches",
        "trainings",
    ]
    return pd.DataFrame(rows, columns=[*IDENTITY, *facts, *numbers])


def over_searches(frame: pd.DataFrame) -> pd.DataFrame:
    """Jobs, in which tuned settings of several searches have a row per search: the mean over its trainings.

    Columns are added: ``slot``, ``searches`` (1 if there are not several) and ``trainings`` of each. The row
    of a search has its number as ``repetition`` and ``seed``.
    """
    frame = frame.assign(slot=frame["variant"].map(slot_of), searches=1, trainings=1)
    if not frame["study"].any():
        return frame
    parts = []
    for _, group in frame.groupby(IDENTITY, sort=False):
        number = group["study"].nunique()
        if number == 1:
            parts.append(group)
            continue
        for study, jobs in group.groupby("study"):
            done, row = jobs[jobs["state"] == "done"], jobs.iloc[:1].copy()
            for name in NUMBERS:
                row[name] = done[name].mean()
            row["state"] = _progress(jobs)["state"]
            parts.append(
                row.assign(repetition=study, seed=f"search {study}", searches=number, trainings=len(done))
            )
    return pd.concat(parts)


def _over_seeds(name: str, values: pd.Series) -> dict[str, float]:
    """The mean of a number over seeds, and ``ENDS``.

    If some seeds lack the number, its ``_low`` and ``_high`` are NaN, since the row's ``seeds`` are more than
    it has values: a range could be taken for an interval.
    """
    known = values.astype(float).dropna()
    low, high = spread(known) if len(known) == len(values) else (float("nan"), float("nan"))
    return {name: known.mean(), f"{name}_std": known.std(ddof=1), f"{name}_low": low, f"{name}_high": high}


def _progress(jobs: pd.DataFrame) -> dict[str, Any]:
    """``seeds`` with a result, ``planned`` seeds, ``state`` of the worst job."""
    lost = jobs.loc[jobs["state"] != "done", "state"].tolist()
    state = "done" if not lost else "failed" if "failed" in lost else lost[0]
    return {"seeds": len(jobs) - len(lost), "planned": len(jobs), "state": state}


ABLATED = ["benchmark_run", "dataset", "features", "method"]


def ablation_effects(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per benchmark run, method and switch of an ablation; the published protocol (empty ``ablation``)
    is first.

    Columns: ``ABLATED``, ``ablation``, ``planned``, ``seeds`` with a result under both protocols, ``state``,
    in percent ``<metric>`` and ``<metric>_base`` (the published protocol), and in percentage points
    ``<metric>_effect``: the mean over seeds of (switched - published), paired by seed; each with ``ENDS``.
    All are over ``seeds``. A row that shares no seed with the published protocol is over its own seeds and
    has no effect.
    """
    rows = []
    for _, group in frame.groupby(ABLATED, sort=False):
        base = group[group["ablation"] == ""]
        for _, mine in group.groupby("ablation", sort=False):
            row: dict[str, Any] = {name: mine.iloc[0][name] for name in (*ABLATED, "ablation")}
            pair = _paired(mine, base)
            if not pair["seeds"]:
                alone = _paired(mine, mine)
                pair = {n: v for n, v in alone.items() if "_base" not in n and "_effect" not in n}
            rows.append(row | _progress(mine) | pair)
    ends = [side + end for side in ("", "_base", "_effect") for end in ("", *ENDS)]
    names = [f"{m}{suffix}" for m in METRICS for suffix in ends]
    return pd.DataFrame(rows, columns=[*ABLATED, "ablation", "planned", "seeds", "state", *names])


def _paired(jobs: pd.DataFrame, base: pd.DataFrame) -> dict[str, float]:
    """Means (with ``ENDS``) over the ``seeds`` with a result on both sides.

    Returns:
        ``<metric>`` of the jobs and ``<metric>_base`` in percent, and their difference ``<metric>_effect`` in
        percentage points.
    """
    ours, theirs = (100 * _by_seed(frame)[list(METRICS)].astype(float) for frame in (jobs, base))
    common = ours.index.intersection(theirs.index)
    effects = ours.loc[common] - theirs.loc[common]
    both = effects.notna()
    row: dict[str, float] = {"seeds": len(common)}
    sides = {"": ours.loc[common].where(both), "_base": theirs.loc[common].where(both), "_effect": effects}
    for end, values in sides.items():
        for metric in METRICS:
            row |= _over_seeds(f"{metric}{end}", values[metric])
    return row


def _by_seed(jobs: pd.DataFrame) -> pd.DataFrame:
    """Jobs with a result, one per repetition and seed. Released weights have no seed and count as one
    training."""
    done = jobs[jobs["state"] == "done"]
    done = done.set_index(done["repetition"].astype(str) + "/" + done["seed"].astype(str))
    return done[~done.index.duplicated()]


COMPARED = ["dataset", "features", "method", "slot", "settings"]


def mode_effects(frame: pd.DataFrame, settings: Mapping[str, Logged]) -> pd.DataFrame:
    """A row per dataset, features, method and kind of settings that was tested in both modes.

    Only rows with the same settings are paired. Rows that differ in protocol switches alone are paired, each
    with each. A row without a partner, or without a common seed, is omitted.

    Columns: ``COMPARED``, ``variant``, ``paper_alignment``, ``corrected_alignment``, ``seeds`` that have
    both, ``switches`` that differ from either mode, ``other_settings`` (differences besides switches, since
    each mode is tuned separately), in percent ``<metric>_paper`` and ``<metric>_corrected``, and in
    percentage points ``<metric>_difference``: the mean over seeds of (corrected - paper), paired by seed;
    each with ``ENDS``. All are over ``seeds``.

    Args:
        frame: stage-2 jobs and released weights.
        settings: settings by job key, and of released weights by run id.
    """
    rows = []
    slots = frame.assign(slot=frame["variant"].map(slot_of))
    for key, group in slots[slots["state"] == "done"].groupby(COMPARED[:-1], sort=False):
        kinds = [jobs for _, jobs in group.groupby(["mode", "alignment", "settings"], sort=False)]
        logged = [_logged(jobs, settings) for jobs in kinds]
        modes = [str(jobs["mode"].iloc[0]) for jobs in kinds]
        names = _telling_apart(str(group["method"].iloc[0]), modes, logged)
        by_mode = ([i for i, m in enumerate(modes) if m == mode] for mode in ("paper", "corrected"))
        for i, j in product(*by_mode):
            if told_apart(logged[i], names) == told_apart(logged[j], names):
                row: dict[str, Any] = dict(zip(COMPARED, key, strict=False))
                row |= _pair(kinds[i], kinds[j], logged[i], logged[j], names)
                rows += [row] if row["seeds"] else []
    kinds_of_numbers = product(METRICS, ("paper", "corrected", "difference"), ("", *ENDS))
    numbers = [f"{metric}_{name}{suffix}" for metric, name, suffix in kinds_of_numbers]
    labels = ["variant", "paper_alignment", "corrected_alignment", "seeds", "switches", "other_settings"]
    return pd.DataFrame(rows, columns=[*COMPARED, *labels, *numbers])


def _logged(jobs: pd.DataFrame, settings: Mapping[str, Logged]) -> Logged:
    """The common settings of some rows; released weights have no job key."""
    first = jobs.iloc[0]
    return settings.get(first["job_key"] or first["run_id"], {})


def _telling_apart(method: str, modes: Sequence[str], logged: Sequence[Logged]) -> list[str]:
    """Settings, besides switches, that differ within a mode, and weights and data if they differ between the
    modes."""
    by_mode = [[p for m, p in zip(modes, logged, strict=True) if m == mode] for mode in set(modes)]
    within = {name for alike in by_mode for name in beyond_switches(method, alike)}
    return sorted(within | ({WEIGHTS, DATA} & set(beyond_switches(method, logged))))


def _pair(
    paper: pd.DataFrame,
    corrected: pd.DataFrame,
    paper_settings: Logged,
    corrected_settings: Logged,
    names: Sequence[str],
) -> dict[str, Any]:
    """The columns of ``mode_effects`` from the jobs with the same settings in each mode."""
    method, firsts = str(paper["method"].iloc[0]), [jobs.iloc[0] for jobs in (paper, corrected)]
    changed = [f"{first['switches']} in mode {first['mode']}" for first in firsts if first["switches"]]
    weights = [paper_settings[WEIGHTS]] if WEIGHTS in names else []
    row: dict[str, Any] = {
        "settings": ", ".join(
            [*weights, *told_apart(paper_settings, (n for n in names if n != WEIGHTS)), *changed]
        ),
        "variant": firsts[0]["variant"],
        "paper_alignment": firsts[0]["alignment"],
        "corrected_alignment": firsts[1]["alignment"],
        "switches": ", ".join(dict.fromkeys(first["switches"] for first in firsts if first["switches"])),
        "other_settings": ", ".join(beyond_switches(method, [paper_settings, corrected_settings])),
    }
    numbers = _paired(corrected, paper)
    for metric in METRICS:
        sources = {"paper": f"{metric}_base", "corrected": metric, "difference": f"{metric}_effect"}
        for name, source in sources.items():
            row |= {f"{metric}_{name}{end}": numbers[source + end] for end in ("", *ENDS)}
    return row | {"seeds": numbers["seeds"]}


def method_ranks(results: Results) -> dict[str, int]:
    """Rank of each method in tables, and its number in figures: first as in published tables, then as they
    were run."""
    seen = [*results.test["method"].unique(), *results.validation["method"].unique()]
    seen += [u.method for u in results.units]
    return {name: rank for rank, name in enumerate(dict.fromkeys([*method_order(), *seen]))}


def order_rows(summary: pd.DataFrame, ranks: dict[str, int]) -> pd.DataFrame:
    """Rows in the order of tables: dataset as run, method, kind of settings (``SLOTS``), settings, mode paper
    first."""
    datasets = {name: i for i, name in enumerate(dict.fromkeys(summary["dataset"]))}
    keys = {
        "dataset": summary["dataset"].map(datasets),
        "method": summary["method"].map(ranks),
        "slot": summary["slot"].map(SLOTS.index),
        "settings": summary["settings"],
    }
    if "mode" in summary:
        keys |= {"mode": summary["mode"] != "paper", "alignment": summary["alignment"] != "official"}
    placed = pd.DataFrame(keys, index=summary.index).sort_values(list(keys), kind="stable")
    return summary.loc[placed.index].reset_index(drop=True)


def numbers_csv(summary: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """The numbers of a table for its CSV file: percent with full precision, with the published numbers."""
    columns: dict[str, Any] = {
        name: summary[name] for name in ("dataset", "features", "mode", "alignment", "method")
    }
    columns["settings"] = [
        f"{v} {s}".strip() for v, s in zip(summary["variant"], summary["settings"], strict=True)
    ]
    columns |= {"seeds": summary["seeds"], "seeds_planned": summary["planned"]}
    found = [published_for(r["dataset"], r["features"], r["method"]) for r in records(summary)]
    for metric in metrics:
        label = CSV_NAMES.get(metric, metric)
        unit = "_percent" if metric in FRACTIONS else ""
        columns[f"{label}{unit}"] = summary[metric].round(6)
        columns |= {f"{label}{end}{unit}": summary[metric + end].round(6) for end in ENDS}
        if metric in PUBLISHED_METRICS and any(found):
            columns[f"{label}_published{unit}"] = [getattr(p.numbers, metric) if p else None for p in found]
    if any(found):
        columns["published_origin"] = [p.source.origin if p else None for p in found]
        columns["published_flags"] = [", ".join(p.flags) if p else None for p in found]
        rows = zip(records(summary), found, strict=True)
        columns["published_differs_in"] = [", ".join(differences(row, p)) if p else None for row, p in rows]
    return pd.DataFrame(columns)
