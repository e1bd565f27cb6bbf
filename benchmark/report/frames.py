"""Frames of results for readers in Python, in percent."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmark.report.results.collect import Results
from benchmark.report.tables.means import LABELS, ablation_effects
from benchmark.uncertainty import FEWEST_SEEDS, spread

ENDS = ("", "_low", "_high")
ROW = ["method", "dataset", "features", "mode", "settings"]
"""What the seeds of a row of a table have in common."""


def metrics_frame(results: Results) -> pd.DataFrame:
    """The columns of ``api.Result.metrics``, and ``run_id``."""
    done = results.test[results.test["state"] == "done"].reset_index(drop=True)
    frame = done[["run_id", "method", "dataset", "features", "mode"]].assign(seed=done["repetition"])
    for name, label in LABELS.items():
        frame[label] = 100 * done[name].astype(float)
    settings = (done["variant"] + " " + done["settings"]).str.strip()
    return frame.assign(beta=done["beta"], settings=settings, study=done["study"], random_seed=done["seed"])


def summary_frame(metrics: pd.DataFrame) -> pd.DataFrame:
    """The columns of ``api.Result.summary``."""
    rows = []
    for key, group in metrics.groupby(ROW, sort=False):
        row: dict[str, Any] = {**dict(zip(ROW, key, strict=True)), "seeds": len(group)}
        for name in LABELS.values():
            low, high = spread(group[name])
            row |= {name: group[name].mean(), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def recall_frame(results: Results) -> pd.DataFrame:
    """The columns of ``api.Result.recall``."""
    found = results.recall.merge(metrics_frame(results))
    percent = {"recall": 100 * found["gzsl"], "recall_of_side": 100 * found["own_group"]}
    columns = [*ROW, "seed", "class", "group", "recall", "recall_of_side", "samples"]
    return found.assign(**percent)[columns]


def ablation_frame(results: Results) -> pd.DataFrame:
    """The columns of ``api.Result.ablation``."""
    found = ablation_effects(results.ablation)
    found = found[found["ablation"] != ""].rename(columns={"ablation": "flag"})
    effects = {f"{m}_effect{end}": label + end for m, label in LABELS.items() for end in ENDS}
    columns = ["method", "dataset", "features", "flag", "seeds", *effects]
    return found[columns].rename(columns=effects).reset_index(drop=True)


def summary_text(summary: pd.DataFrame) -> str:
    """A summary as a table of text: what all rows have in common is above it."""
    if summary.empty:
        return "Result without a test"
    same = [name for name in ROW[1:] if summary[name].nunique() == 1]
    shown = summary[[name for name in [*ROW, "seeds"] if name not in same]].copy()
    several = summary["seeds"].max() > 1
    for name in LABELS.values():
        shown[name] = summary[name].map("{:.2f}".format)
        if name in ("HM", "ZSL") and several:
            ends = zip(summary[f"{name}_low"], summary[f"{name}_high"], strict=True)
            shown[name] += [f" [{low:.2f}, {high:.2f}]" for low, high in ends]

    enough = summary["seeds"].min() >= FEWEST_SEEDS
    note = "95 % interval of the mean" if enough else "lowest and highest seed"
    about = ", ".join(f"{name} {summary[name].iloc[0]}" for name in same) + "; percent"
    about += f", [{note}]" if several else ""
    return f"{about}\n{shown.to_string(index=False)}"
