"""The shipped data teach something: the best method beats its own control with shuffled class vectors. Slow."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.report.collect import collect
from benchmark.tracking import Tracker

PROJECT = Path(__file__).resolve().parents[1]
SEEDS = 4
METHODS = "cjme,avgzslnet,avca"
"""The three quickest, so that it takes minutes. The best of all six is not sought."""

pytestmark = pytest.mark.slow


def zsl(folder: Path, tracker: Tracker, *options: str) -> dict[str, list[float]]:
    """ZSL of each method on the demo data, a value per seed."""
    command = [sys.executable, str(PROJECT / "run_benchmark.py"), "--dataset", "demo", "--trials", "0"]
    places = ["--runs-dir", folder / "runs", "--data-root", folder / "data", "--reports-dir", folder / "reports"]
    out = folder / "out.json"
    subprocess.run([*command, *map(str, places), "--seeds", str(SEEDS), "--json", str(out), *options], check=True)
    assert not json.loads(out.read_text())["failed"]
    test = collect(tracker, None).test
    return {method: group["zsl"].tolist() for method, group in test.groupby("method")}


def test_the_best_method_is_better_with_class_names_than_with_shuffled_ones(tmp_path: Path, tracker: Tracker) -> None:
    results = zsl(tmp_path, tracker, "--methods", METHODS)
    best = max(results, key=lambda m: statistics.fmean(results[m]))
    control = zsl(tmp_path, tracker, "--methods", best, "--set", "protocol.text_alignment=shuffled")[best]
    values = results[best]
    assert len(values) == len(control) == SEEDS
    error = ((statistics.variance(values) + statistics.variance(control)) / SEEDS) ** 0.5
    difference = statistics.fmean(values) - statistics.fmean(control)
    print(f"{best}: ZSL {values} against {control} with shuffled class vectors; difference {difference:.3f}, error {error:.3f}")
    assert difference > 2 * error
