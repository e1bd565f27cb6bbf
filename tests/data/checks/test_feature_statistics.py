"""Statistics of feature values equal those of the whole arrays, whatever the blocks; copies are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_store import CLASS_SPLITS, default_samples, make_store, own_card

from benchmark.data.checks.audit import audit_store
from benchmark.data.checks.feature_statistics import FeatureStatistics, SplitStatistics, feature_statistics
from benchmark.data.store import SPLITS, FeatureStore


def statistics_of(store: FeatureStore) -> FeatureStatistics:
    return feature_statistics(store, own_card().features["native"], lambda what, done, total: None)


def values_of(found: FeatureStatistics, split: str, modality: str = "audio") -> SplitStatistics:
    return next(p for p in found.splits if (p.split, p.modality) == (split, modality))


@st.composite
def samples_with_faults(draw: st.DrawFn) -> list[tuple[str, str, int, Any, Any]]:
    """Samples of few values, so that zeros, copies and values that are no numbers are common."""
    value = st.sampled_from([0.0, 0.0, 1.0, -2.5, float("nan"), float("inf"), -float("inf")])
    frames = st.integers(1, 3).flatmap(lambda t: st.lists(value, min_size=2 * t, max_size=2 * t))
    splits = sorted(draw(st.lists(st.integers(0, 4), min_size=1, max_size=9)))
    return [
        (f"s{i}", SPLITS[p], CLASS_SPLITS[SPLITS[p]][0], draw(frames), draw(frames))
        for i, p in enumerate(splits)
    ]


@settings(max_examples=60, deadline=None)
@given(samples=samples_with_faults(), means_only=st.booleans(), block=st.sampled_from([16, 64 * 2**20]))
def test_statistics_are_those_of_the_whole_arrays(
    tmp_path_factory: pytest.TempPathFactory, samples: Any, means_only: bool, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "statistics.h5"
    path.unlink(missing_ok=True)
    with np.errstate(invalid="ignore"), pytest.MonkeyPatch.context() as patch:
        store = make_store(path, samples, means_only)
        patch.setattr("benchmark.data.store.BLOCK_BYTES", block)
        found = statistics_of(store)
    assert found.form == ("means" if means_only else "sequences")
    with h5py.File(path, "r") as f:
        for modality, column, seconds in (("audio", 3, 0.5), ("video", 4, 2)):
            if means_only:
                frames = [row[None] for row in f[modality]["means"][:]]
            else:
                frames = [np.asarray(sample[column], "f4").reshape(-1, 2) for sample in samples]
            for split in SPLITS:
                own = [x for x, sample in zip(frames, samples, strict=True) if sample[1] == split]
                check_split(values_of(found, split, modality), own, None if means_only else seconds)
                others = [
                    x.tobytes() for x, sample in zip(frames, samples, strict=True) if sample[1] != split
                ]
                content = [x.tobytes() for x in own]
                assert values_of(found, split, modality).duplicates_within == sum(
                    content.count(x) > 1 for x in content
                )
                assert values_of(found, split, modality).duplicates_across == sum(
                    x in others for x in content
                )


def check_split(found: SplitStatistics, frames: list[Any], seconds: float | None) -> None:
    assert found.samples == len(frames)
    if not frames:
        assert (found.steps, found.minimum, found.zeros, found.lengths) == (0, None, None, None)
        return
    values = np.concatenate(frames)
    finite = values[np.isfinite(values)]
    assert found.steps == len(values)
    assert found.zeros == np.mean(values == 0)
    assert (found.nan, found.infinite) == (np.isnan(values).sum(), np.isinf(values).sum())
    assert found.zero_steps == (values == 0).all(1).sum()
    assert found.zero_samples == sum(not x.any() for x in frames)
    assert found.bad_samples == sum(not np.isfinite(x).all() for x in frames)
    if len(finite):
        assert (found.minimum, found.maximum) == (finite.min(), finite.max())
        assert found.mean == pytest.approx(finite.mean(), abs=1e-6)
    else:
        assert (found.minimum, found.maximum, found.mean) == (None, None, None)
    if seconds is None:
        assert found.lengths is None
    else:
        lengths = np.array([len(x) for x in frames])
        assert found.lengths == np.quantile(lengths, [0, 0.05, 0.5, 0.95, 1]).tolist()
        assert found.seconds == [seconds * n for n in found.lengths]


def test_copies_are_named_with_split_and_class_and_kept_apart_from_silence(tmp_path: Path) -> None:
    samples = default_samples()
    samples[-1] = (*samples[-1][:3], samples[0][3], samples[0][4])
    samples[4] = (*samples[4][:3], np.zeros((2, 2)), samples[4][4])
    samples[5] = (*samples[5][:3], np.zeros((2, 2)), samples[5][4])
    found = statistics_of(make_store(tmp_path / "own.h5", samples))
    ids = [samples[0][0], samples[-1][0]]
    assert [(d.modality, list(d.samples), d.zero) for d in found.duplicates] == [
        ("both", ids, False),
        ("audio", ids, False),
        ("audio", [samples[4][0], samples[5][0]], True),
        ("video", ids, False),
    ]
    assert (found.duplicates[0].splits, found.duplicates[0].classes) == (
        ["stage_1_train", "stage_2_test_unseen"],
        ["ant", "dog"],
    )
    assert values_of(found, "stage_1_val_seen").examples == [samples[4][0], samples[5][0]]


def test_progress_ends_with_all_samples_of_both_modalities(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    audit_store(own_card(), make_store(tmp_path / "own.h5"), lambda *step: told.append(step))
    n = len(default_samples())
    assert [
        max(done for what, done, total in told if m in what and total == n) for m in ("audio", "video")
    ] == [n, n]
