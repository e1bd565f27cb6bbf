"""perf/report.py makes stores that reports can be made of, and times them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from perf import report


@pytest.mark.slow
def test_a_small_store_is_made_read_and_timed(runs: Path) -> None:
    made = report.fill(runs, 200)

    assert made >= 200
    assert made == sum(shape.runs for shape in report.shapes(200))
    tracker = report.tracker_of(runs)
    found = report.measurements(runs)
    for name in set(found) - {"largest", "all"}:  # as "newest", with more figures to draw
        times, action = found[name]
        assert times > 0
        action(tracker)
    assert len(tracker.find(kind="job", status="FINISHED")) > 150
    assert {"gzsl.csv", "comparisons.csv", "report.md"} <= {f.name for f in (runs / "newest").iterdir()}
    shutil.rmtree(runs)


def test_half_of_the_runs_belong_to_one_call() -> None:
    first, *others = report.shapes(report.RUNS)
    assert first.runs == pytest.approx(report.RUNS / 2, rel=0.1)
    assert len({shape.runs for shape in others}) == 1
    assert report.RUNS <= first.runs + sum(shape.runs for shape in others) < report.RUNS + others[0].runs
