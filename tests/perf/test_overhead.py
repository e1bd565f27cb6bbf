"""perf/overhead.py runs, and its parts add up to the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf import overhead

SMALL_DATA = {
    "train_classes": 4, "val_unseen_classes": 3, "test_unseen_classes": 2, "train_samples": 6,
    "val_seen_samples": 2,
    "val_unseen_samples": 4, "audio_dim": 8, "video_dim": 12, "text_dim": 6,
}  # fmt: skip
SMALL_TCAF = {"dim": 16, "encoder_hidden": 16, "depth": 1, "heads": 2, "dim_head": 8}


def test_the_overhead_of_a_tiny_trial_is_measured_and_reported(runs: Path) -> None:
    found = overhead.measure(runs, epochs=2, batches=3, data_settings=SMALL_DATA, small=SMALL_TCAF)

    assert all(found.measured(what) > 0 for what in (*overhead.TRAINING, *overhead.HARNESS))
    assert {per for _, per in found.seconds} == {"batch", "epoch", "job", "second"}
    assert ("tracking", "epoch") in found.seconds
    assert ("tracking", "job") in found.seconds
    assert (found.published_epochs, found.published_batches) == (50, 300)
    assert 0 < found.checks < found.measured("training batches")
    assert "| **harness**" in found.markdown()
    assert json.loads(json.dumps(found.as_dict()))["share_at_published_length"] == pytest.approx(
        found.share()
    )


def test_what_is_done_for_batches_epochs_and_the_job_is_scaled_as_such() -> None:
    seconds = {("training batches", "batch"): 6.0, ("validation", "epoch"): 4.0, ("tracking", "job"): 1.0}
    seconds |= {("tracking", "epoch"): 0.2, ("progress", "batch"): 0.06, (overhead.BARS, "second"): 0.01}

    found = overhead.Measured(2, 3, 50, 300, seconds, 0.0)

    assert found.at_published_length("training batches") == pytest.approx(15_000)
    assert found.at_published_length("validation") == pytest.approx(100)
    assert found.at_published_length("tracking") == pytest.approx(1 + 5)
    assert found.at_published_length("progress") == pytest.approx(150)
    assert found.at_published_length(overhead.BARS) == pytest.approx(0.01 * 1_510)
    assert found.share() == pytest.approx((156 + 15.1) / 15_100)
    assert found.share(published=False) == pytest.approx(1.27 / 10)


def test_a_part_does_not_hold_what_it_calls_of_others() -> None:
    watch = overhead.Stopwatch()
    inner = watch.timed(lambda: sum(range(300_000)), "tracking")
    watch.timed(inner, "study")()

    assert watch.seconds["study", "job"] < watch.seconds["tracking", "job"] / 2
