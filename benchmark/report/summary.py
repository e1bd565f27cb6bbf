"""Means and standard deviations over seeds, in percent: the numbers of all tables and of their CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pandas as pd

from benchmark.report.collect import FRACTIONS, METRICS, NUMBERS, Results, records
from benchmark.report.published import PublishedTable, differences, method_order, published_for
from benchmark.report.released import RELEASED
from benchmark.report.switches import beyond_switches

LABELS = {"seen": "S", "unseen": "U", "hm": "HM", "zsl": "ZSL", "ausuc": "AUSUC"}
CSV_NAMES = {**LABELS, "disjoint_seen": "S_disjoint", "disjoint_hm": "HM_disjoint"}
IDENTITY = ["dataset", "features", "mode", "alignment", "method", "slot", "settings"]
PUBLISHED_METRICS = ("seen", "unseen", "hm", "zsl")
SLOTS = ("untuned", "user-set", "tuned", RELEASED)
"""Kinds of settings in the order of rows; what is published for one data set and default for another is one kind."""


def slot_of(variant: str) -> str:
    """The kind of settings of a variant."""
    return variant if variant in SLOTS else "untuned"


def settings_text(variant: str, settings: str) -> str:
    """A row's settings as a table names them."""
    return f"{'released weights' if variant == RELEASED else variant} {settings}".strip()


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per data set, features, mode, alignment, method and kind of settings.

    Columns: ``IDENTITY`` (``slot``: one of ``SLOTS``; ``settings``: what tells apart rows of different settings),
    ``variant`` (published, default, user-set, tuned or released), ``kind`` of data, ``switches`` set against the mode,
    ``seeds`` with a result, ``planned`` seeds, ``state`` of the worst job, and ``<number>`` and ``<number>_std`` for each of
    ``NUMBERS`` (n - 1; missing with one seed), accuracies in percent.
    """
    rows: list[dict[str, Any]] = []
    slots = frame.assign(slot=frame["variant"].map(slot_of))
    for key, group in slots.groupby(IDENTITY, sort=False):
        done = group[group["state"] == "done"]
        row: dict[str, Any] = dict(zip(IDENTITY, key, strict=True))
        row |= {"variant": group["variant"].iloc[0], "kind": group["kind"].iloc[0], "switches": group["switches"].max()}
        row["unlike"] = group["unlike"].max()
        row |= _progress(group)
        for name in NUMBERS:
            factor = 100.0 if name in FRACTIONS else 1.0
            row[name] = factor * float(done[name].mean())
            row[f"{name}_std"] = factor * float(done[name].std(ddof=1))
        rows.append(row)
    numbers = [name for number in NUMBERS for name in (number, f"{number}_std")]
    return pd.DataFrame(
        rows, columns=[*IDENTITY, "variant", "kind", "switches", "unlike", "seeds", "planned", "state", *numbers]
    )


def _progress(jobs: pd.DataFrame) -> dict[str, Any]:
    """``seeds`` with a result, ``planned`` seeds, ``state`` of the worst job."""
    lost = jobs.loc[jobs["state"] != "done", "state"].tolist()
    state = "done" if not lost else "failed" if "failed" in lost else lost[0]
    return {"seeds": len(jobs) - len(lost), "planned": len(jobs), "state": state}


ABLATED = ["call", "dataset", "features", "method"]


def ablation_effects(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per call, method and switch of an ablation, the published protocol (empty ``ablation``) first.

    Columns: ``ABLATED``, ``ablation``, ``seeds``, ``planned``, ``state``, in percent ``<metric>`` and ``<metric>_std``, and in
    percentage points ``<metric>_effect`` and ``<metric>_effect_std``: the mean over seeds of (switched - published), both of
    the same seed.
    """
    rows = []
    for _, group in frame.groupby(ABLATED, sort=False):
        base = group[group["ablation"] == ""]
        for _, mine in group.groupby("ablation", sort=False):
            row: dict[str, Any] = {name: mine.iloc[0][name] for name in (*ABLATED, "ablation")}
            rows.append(row | _progress(mine) | _paired(mine, base))
    names = [f"{m}{suffix}" for m in METRICS for suffix in ("", "_std", "_effect", "_effect_std")]
    return pd.DataFrame(rows, columns=[*ABLATED, "ablation", "planned", "seeds", "state", *names])


def _paired(jobs: pd.DataFrame, base: pd.DataFrame) -> dict[str, float]:
    """``<metric>`` of the jobs in percent and ``<metric>_effect``, the difference to the base job of the same seed in
    percentage points: means and deviations (``_std``) over seeds."""
    row: dict[str, float] = {}
    for metric in METRICS:
        values, before = (100 * _by_seed(frame)[metric].astype(float) for frame in (jobs, base))
        effects = values - before
        row |= {metric: values.mean(), f"{metric}_std": values.std(ddof=1)}
        row |= {f"{metric}_effect": effects.mean(), f"{metric}_effect_std": effects.std(ddof=1)}
    return row


def _by_seed(jobs: pd.DataFrame) -> pd.DataFrame:
    """Jobs with a result by repetition and seed; released weights have no seed, and are one training in both."""
    done = jobs[jobs["state"] == "done"]
    return done.set_index(done["repetition"].astype(str) + "/" + done["seed"].astype(str))


COMPARED = ["dataset", "features", "method", "slot", "settings"]


def mode_effects(frame: pd.DataFrame, settings: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """A row per data set, features, method and kind of settings that was tested in both modes.

    Columns: ``COMPARED``, ``variant``, ``paper_alignment``, ``corrected_alignment``, ``seeds`` that have both,
    ``other_settings`` (what else differs than switches: tuning finds settings in each mode by itself), in percent
    ``<metric>_paper`` and ``<metric>_corrected``, and in percentage points ``<metric>_difference``: the mean over seeds of
    (corrected - paper), both of the same seed; each with its deviation ``_std``.

    Args:
        frame: stage-2 jobs.
        settings: of each job key.
    """
    rows = []
    slots = frame.assign(slot=frame["variant"].map(slot_of))
    for key, group in slots[slots["state"] == "done"].groupby(COMPARED[:-1], sort=False):
        for paper, corrected, label in _pairs(group, settings):
            row: dict[str, Any] = {**dict(zip(COMPARED, key, strict=False)), "settings": label}
            row |= {"variant": paper["variant"].iloc[0], "paper_alignment": paper["alignment"].iloc[0]}
            row |= {"corrected_alignment": corrected["alignment"].iloc[0]}
            common = _by_seed(paper).index.intersection(_by_seed(corrected).index)
            firsts = [settings.get(jobs["job_key"].iloc[0], {}) for jobs in (paper, corrected)]
            row |= {"seeds": len(common), "other_settings": ", ".join(beyond_switches(row["method"], *firsts))}
            before, after = _paired(paper, paper), _paired(corrected, paper)
            for metric in METRICS:
                named = {"paper": (before, metric), "corrected": (after, metric), "difference": (after, f"{metric}_effect")}
                for name, (numbers, source) in named.items():
                    row |= {f"{metric}_{name}": numbers[source], f"{metric}_{name}_std": numbers[f"{source}_std"]}
            rows.append(row)
    names = [f"{m}_{name}{suffix}" for m in METRICS for name in ("paper", "corrected", "difference") for suffix in ("", "_std")]
    labels = ["variant", "paper_alignment", "corrected_alignment", "seeds", "other_settings"]
    return pd.DataFrame(rows, columns=[*COMPARED, *labels, *names])


def _pairs(group: pd.DataFrame, settings: Mapping[str, Mapping[str, str]]) -> list[tuple[pd.DataFrame, pd.DataFrame, str]]:
    """Jobs in mode paper, those in mode corrected with the same settings but for switches, and what tells several pairs apart.

    Where no settings are the same in both modes (tuning finds its own in each) and each mode has one, these are a pair.
    """

    def sides(mode: str) -> list[tuple[str, pd.DataFrame]]:
        by_settings = group[group["mode"] == mode].groupby(["alignment", "settings"], sort=False)
        return [(str(label), jobs) for (_, label), jobs in by_settings]

    def alike(paper: pd.DataFrame, corrected: pd.DataFrame) -> bool:
        firsts = [settings.get(jobs["job_key"].iloc[0], {}) for jobs in (paper, corrected)]
        return not beyond_switches(str(group["method"].iloc[0]), *firsts)

    papers, correcteds = sides("paper"), sides("corrected")
    found = [(p, c, p_label or c_label) for (p_label, p), (c_label, c) in product(papers, correcteds) if alike(p, c)]
    if not found and len(papers) == len(correcteds) == 1:
        found = [(papers[0][1], correcteds[0][1], "")]
    return found if len(found) > 1 else [(p, c, "") for p, c, _ in found]


def method_ranks(results: Results) -> dict[str, int]:
    """Place of each method in tables and its number in figures: as published tables list them, then as the calls ran them."""
    seen = [*results.test["method"], *results.validation["method"], *(u.method for u in results.units)]
    return {name: rank for rank, name in enumerate(dict.fromkeys([*method_order(), *seen]))}


def order_rows(summary: pd.DataFrame, ranks: dict[str, int]) -> pd.DataFrame:
    """Rows in the order of tables: method, kind of settings (``SLOTS``), settings, mode paper first; data sets as run."""
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


def numbers_csv(summary: pd.DataFrame, metrics: list[str], tables: tuple[PublishedTable, ...] | None = None) -> pd.DataFrame:
    """The numbers behind a table, for CSV: percent with full precision, published ones beside ours."""
    columns: dict[str, Any] = {name: summary[name] for name in ("dataset", "features", "mode", "alignment", "method")}
    columns["settings"] = [f"{v} {s}".strip() for v, s in zip(summary["variant"], summary["settings"], strict=True)]
    columns |= {"seeds": summary["seeds"], "seeds_planned": summary["planned"]}
    found = [published_for(r["dataset"], r["features"], r["method"], tables) for r in records(summary)]
    for metric in metrics:
        label = CSV_NAMES.get(metric, metric)
        unit = "_percent" if metric in FRACTIONS else ""
        columns[f"{label}{unit}"] = summary[metric].round(6)
        columns[f"{label}_std{unit}"] = summary[f"{metric}_std"].round(6)
        if metric in PUBLISHED_METRICS and any(found):
            columns[f"{label}_published{unit}"] = [getattr(p.numbers, metric) if p else None for p in found]
    if any(found):
        columns["published_origin"] = [p.source.origin if p else None for p in found]
        rows = zip(records(summary), found, strict=True)
        columns["published_differs_in"] = [", ".join(differences(row, p.source)) if p else None for row, p in rows]
    return pd.DataFrame(columns)
