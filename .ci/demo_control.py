"""Whether the shipped data teach something: the demo's best method, untuned, is better with class names than
with shuffled ones. ``python .ci/demo_control.py CHECKOUT``, where ``make demo`` has run."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd

from benchmark import registry
from benchmark.report.results.collect import collect
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker

SEEDS = 4


def untuned(checkout: Path) -> pd.DataFrame:
    """The test results of the latest call with the starting settings, a row per method and seed."""
    test = collect(
        Tracker(sqlite_uri(checkout / "runs" / "mlflow.db"), checkout / "runs" / "artifacts"), None
    ).test
    return test[test["variant"] != "tuned"]


def zsl(checkout: Path, method: str, *options: str) -> list[float]:
    """ZSL of a method on the demo data, a value per seed. The demo's own seeds are not trained again."""
    call = [
        "--methods",
        method,
        "--dataset",
        "demo",
        "--trials",
        "0",
        "--seeds",
        str(SEEDS),
        "--jobs",
        str(os.cpu_count()),
    ]
    report = ["--report", "control", *options]
    subprocess.run(
        [sys.executable, "run_benchmark.py", *call, *report],
        check=True,
        cwd=checkout,
        stdout=subprocess.DEVNULL,
    )
    values: list[float] = untuned(checkout)["zsl"].tolist()
    assert len(values) == SEEDS, values
    return values


def check(checkout: Path) -> None:
    """Fail where the difference is within two standard errors."""
    means = untuned(checkout).groupby("method")["zsl"].mean()
    assert set(means.index) == set(registry.load().methods), means
    best = str(means.idxmax())
    named = zsl(checkout, best)
    shuffled = zsl(checkout, best, "--set", "protocol.text_alignment=shuffled")
    error = ((statistics.variance(named) + statistics.variance(shuffled)) / SEEDS) ** 0.5
    difference = statistics.fmean(named) - statistics.fmean(shuffled)
    print(
        f"{best}: ZSL {named}, with shuffled class vectors {shuffled}; difference {difference:.3f}, its "
        f"error {error:.3f}"
    )
    assert difference > 2 * error


if __name__ == "__main__":
    check(Path(sys.argv[1]).resolve())
