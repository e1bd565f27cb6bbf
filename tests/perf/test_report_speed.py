"""perf/report.py makes stores that reports can be made of, and times them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from perf import report


@pytest.mark.slow
@pytest.mark.painted
def test_a_small_store_is_made_read_and_timed(runs: Path) -> None:
    made = report.fill(runs, 900)  # from which on there are small calls

    assert made >= 900
    assert made == sum(shape.runs for shape in report.shapes(900))
    tracker = report.tracker_of(runs)
    found = report.measurements(runs)
    for name in set(found) - {"largest", "all"}:  # as "newest", with more figures to draw
        times, action = found[name]
        assert times > 0
        action(tracker)
    (passed, used), *others = report.timed(runs, ["look-up"], profiled=False).values()
    assert not others
    assert passed > 0
    assert used >= 0
    assert len(tracker.find(kind="job", status="FINISHED")) > 150
    files = {f.name for f in (runs / "newest").iterdir()}
    assert {"gzsl.csv", "comparisons.csv", "recall.csv", "cost.csv", "report.md"} <= files
    kinds = ("curve", "scores", "training", "recall", "embedding", "confusion", "tuning", "importances")
    assert not {
        kind for kind in kinds if not any(f.startswith(f"{kind}-") and f.endswith(".png") for f in files)
    }
    assert "## Figures without data" not in (runs / "newest" / "report.md").read_text(encoding="utf-8")
    costs = pd.read_csv(runs / "newest" / "cost.csv")
    assert costs[["parameters", "flops_per_sample"]].notna().all(axis=None)
    shutil.rmtree(runs)


def test_half_of_the_runs_belong_to_one_call() -> None:
    first, *others = report.shapes(report.RUNS)
    assert first.runs == pytest.approx(report.RUNS / 2, rel=0.1)
    assert len({shape.runs for shape in others}) == 1
    assert report.RUNS <= first.runs + sum(shape.runs for shape in others) < report.RUNS + others[0].runs
