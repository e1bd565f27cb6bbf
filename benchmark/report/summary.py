"""Means and standard deviations over seeds, in percent: the numbers of all tables and of their CSV files."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmark.report.collect import METRICS, Results, records
from benchmark.report.published import PublishedTable, method_order, published_for

LABELS = {"seen": "S", "unseen": "U", "hm": "HM", "zsl": "ZSL", "ausuc": "AUSUC"}
IDENTITY = ["dataset", "features", "mode", "alignment", "method", "slot", "settings"]
PUBLISHED_METRICS = ("seen", "unseen", "hm", "zsl")


def summarise(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per data set, features, mode, alignment, method and kind of settings.

    Columns: ``IDENTITY`` (``slot``: untuned or tuned; ``settings``: what tells apart rows of different settings),
    ``variant`` (published, default or tuned), ``seeds`` with a result, ``planned`` seeds, ``state`` of the worst job,
    ``<metric>`` and ``<metric>_std`` in percent (n - 1; missing with one seed), ``beta``, ``beta_std``, ``epochs``.
    """
    rows: list[dict[str, Any]] = []
    slots = frame.assign(slot=["tuned" if v == "tuned" else "untuned" for v in frame["variant"]])
    for key, group in slots.groupby(IDENTITY, sort=False):
        done = group[group["state"] == "done"]
        row: dict[str, Any] = dict(zip(IDENTITY, key, strict=True))
        row |= {"variant": group["variant"].iloc[0], **_progress(group)}
        for name in (*METRICS, "beta", "epochs"):
            factor = 100.0 if name in METRICS else 1.0
            row[name] = factor * float(done[name].mean())
            row[f"{name}_std"] = factor * float(done[name].std(ddof=1))
        rows.append(row)
    numbers = [name for metric in (*METRICS, "beta", "epochs") for name in (metric, f"{metric}_std")]
    return pd.DataFrame(rows, columns=[*IDENTITY, "variant", "seeds", "planned", "state", *numbers])


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
        base = group[group["ablation"] == ""].set_index("repetition")
        for _, mine in group.groupby("ablation", sort=False):
            row: dict[str, Any] = {name: mine.iloc[0][name] for name in (*ABLATED, "ablation")}
            row |= _progress(mine)
            for metric in METRICS:
                values = 100 * mine.set_index("repetition")[metric].astype(float)
                effects = values - 100 * base[metric].astype(float)
                row |= {metric: values.mean(), f"{metric}_std": values.std(ddof=1)}
                row |= {f"{metric}_effect": effects.mean(), f"{metric}_effect_std": effects.std(ddof=1)}
            rows.append(row)
    names = [f"{m}{suffix}" for m in METRICS for suffix in ("", "_std", "_effect", "_effect_std")]
    return pd.DataFrame(rows, columns=[*ABLATED, "ablation", "planned", "seeds", "state", *names])


def method_ranks(results: Results) -> dict[str, int]:
    """Place of each method in tables and its number in figures: as published tables list them, then as the calls ran them."""
    seen = [*results.test["method"], *results.validation["method"], *(u.method for u in results.units)]
    return {name: rank for rank, name in enumerate(dict.fromkeys([*method_order(), *seen]))}


def order_rows(summary: pd.DataFrame, ranks: dict[str, int]) -> pd.DataFrame:
    """Rows in the order of tables: method, untuned before tuned, settings, mode paper before corrected; data sets as run."""
    datasets = {name: i for i, name in enumerate(dict.fromkeys(summary["dataset"]))}
    keys = pd.DataFrame(
        {
            "dataset": summary["dataset"].map(datasets),
            "method": summary["method"].map(ranks),
            "slot": summary["slot"] == "tuned",
            "settings": summary["settings"],
            "mode": summary["mode"] != "paper",
            "alignment": summary["alignment"] != "official",
        },
        index=summary.index,
    )
    return summary.loc[keys.sort_values([str(k) for k in keys], kind="stable").index].reset_index(drop=True)


def numbers_csv(summary: pd.DataFrame, metrics: list[str], tables: tuple[PublishedTable, ...] | None = None) -> pd.DataFrame:
    """The numbers behind a table, for CSV: percent with full precision, published ones beside ours."""
    columns: dict[str, Any] = {name: summary[name] for name in ("dataset", "features", "mode", "alignment", "method")}
    columns["settings"] = [f"{v} {s}".strip() for v, s in zip(summary["variant"], summary["settings"], strict=True)]
    columns |= {"seeds": summary["seeds"], "seeds_planned": summary["planned"]}
    found = [published_for(r["dataset"], r["features"], r["method"], tables) for r in records(summary)]
    for metric in metrics:
        label = LABELS.get(metric, metric)
        unit = "_percent" if metric in METRICS else ""
        columns[f"{label}{unit}"] = summary[metric].round(6)
        columns[f"{label}_std{unit}"] = summary[f"{metric}_std"].round(6)
        if metric in PUBLISHED_METRICS and any(found):
            columns[f"{label}_published{unit}"] = [getattr(p.numbers, metric) if p else None for p in found]
    if any(found):
        columns["published_origin"] = [p.source.origin if p else None for p in found]
    return pd.DataFrame(columns)
