"""Whether the shipped data teach something and the evaluation invents nothing: in the demo the controls are
at chance, and the linear baseline is above them. ``python .ci/demo_control.py CHECKOUT`` after the demo."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from benchmark.report.results.collect import collect
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker

CHANCE = 1 / 8
"""Test-unseen classes of stamps."""
CONTROLS = ("chance", "linear_shuffled")


def check(checkout: Path) -> None:
    """Fail if a control is not within two standard errors of chance, or the baseline not above it."""
    runs = checkout / "runs"
    test = collect(Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts"), None).test
    zsl = test[test["variant"] != "tuned"].groupby("method")["zsl"]
    table = pd.DataFrame({"mean": zsl.mean(), "error": zsl.sem()})
    print(table)
    for control in CONTROLS:
        mean, error = table.loc[control]
        assert abs(mean - CHANCE) <= 2 * error, control
        baseline, its_error = table.loc["linear"]
        assert baseline - mean > 2 * (its_error**2 + error**2) ** 0.5, control


if __name__ == "__main__":
    check(Path(sys.argv[1]).resolve())
