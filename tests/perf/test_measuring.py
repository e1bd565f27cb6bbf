"""The tools of perf/: the formula of needed operations against torch's counter, memory, short runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark import registry
from benchmark.data.store import SPLITS
from benchmark.method import Batch, Classes, Spec
from methods.tcaf import Tcaf
from perf import bounds, evaluation, flops, generated, memory, resident, stage, store, training_step

linux = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")

SPEC = Spec(audio_dim=5, video_dim=7, text_dim=6, audio_seconds=1.0, video_seconds=1.0)
SIZES: dict[str, Any] = {
    "dim": 12, "embedding_dim": 8, "encoder_hidden": 10, "decoder_hidden": 9, "token_size": 4, "mlp_dim": 6,
    "heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("depth", [1, 3])
def test_necessary_operations_are_those_that_torch_counts_where_nothing_is_padded_or_masked(
    depth: int,
) -> None:
    config = Tcaf.Config(**SIZES, depth=depth, dim_head=4, sees="all")
    model = Tcaf(config, SPEC).train()
    ones, text, label = torch.ones(3, 4, dtype=torch.bool), torch.randn(4, 6), torch.tensor([0, 1, 3])
    times = torch.arange(4.0).expand(3, 4)
    batch = Batch(torch.randn(3, 4, 5), torch.randn(3, 4, 7), ones, ones, times, times, label, text[label])
    counter = flops.counter()

    with counter:
        model.loss(batch, Classes(text))["total"].backward()

    assert flops.tcaf_step(config, SPEC, [4] * 3, [4] * 3, classes=4) == counter.get_total_flops()


def test_of_pairs_only_those_that_see_each_other_count() -> None:
    assert flops.pairs_of(2, 3, "all") == 36
    assert flops.pairs_of(2, 3, "cross") == 2 * 6 + 2 * 5 + 1
    assert flops.pairs_of(2, 3, "self") == 4 + 9 + 2 * 5 + 1


def test_of_an_embedding_all_counts_but_words_and_decoders_and_the_backward() -> None:
    config, steps = Tcaf.Config(**SIZES, depth=2, dim_head=4), ([2, 3], [4, 1])
    model = Tcaf(config, SPEC).eval()
    counter = flops.counter()
    masks = [torch.arange(4) < torch.tensor(lengths)[:, None] for lengths in ([4, 4], [4, 4])]
    times = torch.arange(4.0).expand(2, 4)
    with counter, torch.no_grad():
        model.embed(Batch(torch.randn(2, 4, 5), torch.randn(2, 4, 7), *masks, times, times))

    everything = Tcaf.Config(**SIZES, depth=2, dim_head=4, sees="all")
    assert flops.tcaf_embedding(everything, SPEC, [4, 4], [4, 4]) == counter.get_total_flops()
    assert flops.tcaf_embedding(config, SPEC, *steps) < flops.tcaf_embedding(config, SPEC, [4, 4], [4, 4])


def test_whole_stages_are_timed_by_what_they_are_spent_on(tmp_path: Path) -> None:
    small = generated.generate(tmp_path / "store.h5", "main", 60)
    experiment = generated.experiment_on(
        small, "cjme", epochs=2, batches_per_epoch=3, batch_size=8, threads=1
    )

    seconds = stage.run(experiment)

    parts = (stage.BATCHES, stage.VALIDATION, stage.CHECKPOINTS, stage.TEST)
    assert 0 < seconds[stage.WAITING] < seconds[stage.BATCHES]
    assert all(seconds[part] > 0 for part in parts)
    assert sum(seconds[part] for part in parts) <= seconds[stage.WHOLE]


def test_an_epoch_needs_its_batches_and_the_embedding_of_what_it_is_validated_on(tmp_path: Path) -> None:
    experiment = generated.experiment_on(
        generated.generate(tmp_path / "store.h5", "main", 60), "tcaf", batch_size=8
    )

    one, two = stage.needed(experiment, 1), stage.needed(experiment, 2)

    assert one is not None
    assert two is not None
    assert 0.1 * one < two - one < one  # a batch, and validation beside it
    assert stage.needed(generated.experiment_on(experiment.store, "avca"), 1) is None


@pytest.mark.slow  # a step at published sizes
def test_the_shares_of_a_step_by_kind_of_operation_are_a_whole(tmp_path: Path) -> None:
    found = registry.load()
    method = found.get("avgzslnet")
    bench = training_step.Bench.published(method, found.search_space(method), "main", "corrected", tmp_path)

    shares = bounds.of(bench, 1)

    for speed in ("products, of peak", "alone, of peak"):
        assert 0 < shares.pop(speed) < 400  # the peak is measured apart, perhaps beside other work
    assert shares[bounds.PRODUCTS] > 5
    assert shares[bounds.OPTIMISER] > 0
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)


def test_the_evaluation_of_a_test_set_is_timed() -> None:
    seconds = evaluation.measure(evaluation.DRAWN, 600, 7, Path(), 1)

    assert set(seconds) == {"embed and rank", "grid", "curve"}
    assert all(value > 0 for value in seconds.values())


@linux
@pytest.mark.slow
def test_evaluation_keeps_a_block_of_distances_and_not_the_matrix() -> None:
    _, peak = resident.watched(
        evaluation.measure, evaluation.DRAWN, 50_000, 2_000, Path(), 1
    )  # a matrix of 400 MB

    assert peak.own - peak.start < 100e6


@linux
@pytest.mark.slow
def test_the_peak_of_a_function_is_seen_from_outside() -> None:
    size, peak = resident.watched(allocate, 300_000_000)

    assert size == 300_000_000
    assert peak.own - peak.start > 250e6
    assert peak.whole >= peak.own > 0


def allocate(size: int) -> int:
    """Hold so many bytes for a while."""
    held = np.ones(size, np.uint8)
    time.sleep(0.1)
    return len(held)


def test_a_generated_store_has_the_size_that_was_asked_for_and_the_splits_of_ucf(tmp_path: Path) -> None:
    made = generated.generate(tmp_path / "store.h5", "main", generated.samples_of(0.04, "main"))

    assert made.path.stat().st_size == pytest.approx(0.04e9, rel=0.05)
    tables = made.tables()
    assert [len(tables.class_splits[split]) for split in SPLITS] == [30, 30, 12, 42, 6]
    assert all(
        set(tables.class_splits[split]) == set(tables.labels[tables.splits == i])
        for i, split in enumerate(SPLITS)
    )
    assert (made.audio_dim, made.video_dim, made.text_dim) == (512, 512, 300)


def test_the_official_layout_that_is_imported_has_no_faults(tmp_path: Path) -> None:
    (row,) = store.importing(tmp_path, [60], rounds=1)

    assert row["samples"] >= 60
    assert row["import (s)"] > 0


def test_all_ways_of_reading_are_measured(tmp_path: Path) -> None:
    rows = store.reading(tmp_path, 150, rounds=1)

    assert len(rows) == 12
    assert all(row["MB/s"] > 0 for row in rows)


def test_the_bound_of_memory_is_3_gb_for_a_store_of_30() -> None:
    assert memory.bound(30) == pytest.approx(3e9)


@linux
@pytest.mark.slow(50)
def test_training_on_a_store_of_1_gb_stays_within_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    resident.watched(memory.make, path, 1.0, "cls")
    try:
        _, peak = resident.watched(memory.work, path, "tcaf", 5, 1, False)
    finally:
        path.unlink()

    assert 300e6 < peak.own < memory.bound(1.0)
