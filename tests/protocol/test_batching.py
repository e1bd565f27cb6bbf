"""Batches: which samples are drawn, how they are cut, padded and scaled, and which times they have."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.cards import FeatureSetConfig, ModalityConfig
from benchmark.data.store import ModalityData, Samples
from benchmark.method import Classes
from benchmark.protocol.batching import (
    ClassBalanced,
    FeatureRules,
    TrainingBatches,
    ahead,
    make_batch,
    plan_cuts,
    with_evaluation_times,
)
from benchmark.settings.schema import LengthConfig, ProtocolConfig

AUDIO_S, VIDEO_S = 0.96, 0.64


def rules(lengths: LengthConfig | None = None, inputs: str = "sequence", **protocol: str) -> FeatureRules:
    return FeatureRules(
        inputs,  # type: ignore[arg-type]
        AUDIO_S,
        VIDEO_S,
        255.0,
        1.0,
        lengths or LengthConfig(),
        ProtocolConfig(**protocol),  # type: ignore[arg-type]
    )


def modality(lengths: list[int], dim: int, seed: int) -> ModalityData:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    frames = np.random.default_rng(seed).random((offsets[-1], dim), np.float32) + 0.1
    means = np.stack([frames[a:b].mean(0) for a, b in itertools.pairwise(offsets)])
    return ModalityData(dim, means, frames, offsets)


def samples(audio: list[int], video: list[int], labels: list[int] | None = None) -> Samples:
    n = len(audio)
    return Samples(
        modality(audio, 4, 0),
        modality(video, 6, 1),
        np.array(labels if labels is not None else range(n)),
        np.zeros(n, np.uint8),
        [f"s{i}" for i in range(n)],
    )


def test_max_length_pads_to_the_longest_of_the_batch_and_cuts_nothing() -> None:
    data = samples([3, 5, 2], [4, 7, 1])
    batch = make_batch(data, np.array([0, 2]), rules(), training=True)
    assert batch.audio.shape == (2, 3, 4)
    assert batch.video.shape == (2, 4, 6)
    assert batch.audio_mask is not None
    assert batch.audio_mask.sum(1).tolist() == [3, 2]
    assert torch.equal(batch.audio[1, 2], torch.zeros(4))
    assert torch.allclose(batch.audio[0], torch.from_numpy(data.audio.frames[:3]) / 255)  # type: ignore[index]


def test_video_is_normalised_over_time_as_published_or_over_channels() -> None:
    data, rows = samples([3, 3], [4, 6]), np.array([0, 1])
    paper = make_batch(data, rows, rules(), training=False)
    corrected = make_batch(data, rows, rules(video_norm="corrected"), training=False)
    assert torch.allclose(paper.video.norm(dim=1), torch.ones(2, 6))
    assert corrected.video_mask is not None
    assert torch.allclose(corrected.video.norm(dim=2)[corrected.video_mask], torch.ones(10))


@pytest.mark.parametrize(("video", "audio"), [(60, 37), (300, 184)])
def test_published_audio_length_for_a_fixed_video_length(video: int, audio: int) -> None:
    assert rules().audio_length(video) == audio
    assert rules(length_rule="corrected").audio_length(video) == round(video * VIDEO_S / AUDIO_S)


def outcomes(
    rule: FeatureRules, video: int, audio: int, *, training: bool
) -> dict[tuple[int, int, int, int], int]:
    """Counts of (first audio step, audio steps, first video step, video steps) over 4,000 samples."""
    lengths = (np.full(4000, audio), np.full(4000, video))
    a, v = plan_cuts(rule, *lengths, training=training, rng=np.random.default_rng(0) if training else None)
    kept, counts = np.unique(np.stack([a.start, a.length, v.start, v.length], 1), axis=0, return_counts=True)
    return {tuple(row): int(n) for row, n in zip(kept.tolist(), counts, strict=True)}


@pytest.mark.parametrize(
    ("video", "audio", "starts"),
    [
        (10, 9, {0: 0}),  # nothing is cut, so audio starts with the video
        (11, 9, {0: 0}),  # one step too many: the published code never draws the second start
        (14, 9, {0: 0, 1: 1, 2: 1, 3: 2}),
        (16, 7, {0: 0, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}),  # audio has one step more than needed
        (16, 6, dict.fromkeys(range(6), 0)),  # all audio, wherever the video starts
        (16, 2, dict.fromkeys(range(6), 0)),
    ],
)
def test_published_random_cuts_of_video_and_the_audio_that_goes_with_each(
    video: int, audio: int, starts: dict[int, int]
) -> None:
    """Video is cut to 10 steps, audio to round(10 * 0.64 * 0.96) = 6."""
    found = outcomes(rules(LengthConfig(train=10, test=10)), video, audio, training=True)
    assert set(found) == {(start, min(audio, 6), v, 10) for v, start in starts.items()}
    assert [n / 4000 for n in found.values()] == pytest.approx([1 / len(starts)] * len(starts), abs=0.03)


@pytest.mark.parametrize(
    ("video", "audio", "expected"),
    [
        (400, 125, (0, 125, 50, 300)),
        (400, 200, (16, 184, 50, 300)),
        (400, 260, (33, 184, 50, 300)),
        (299, 260, (0, 184, 0, 299)),
    ],
)
def test_published_centre_cuts_of_the_test(video: int, audio: int, expected: tuple[int, ...]) -> None:
    assert set(outcomes(rules(LengthConfig(test=300)), video, audio, training=False)) == {expected}


def test_corrected_cuts_take_every_start_and_the_audio_of_the_same_moment() -> None:
    rule = rules(
        LengthConfig(train=10, test=10), length_rule="corrected"
    )  # audio: 10 * 0.64 / 0.96 = 7 steps
    found = outcomes(rule, 14, 9, training=True)
    assert set(found) == {(0, 7, 0, 10), (1, 7, 1, 10), (1, 7, 2, 10), (2, 7, 3, 10), (3, 6, 4, 10)}
    assert [n / 4000 for n in found.values()] == pytest.approx([1 / 5] * 5, abs=0.03)
    assert set(outcomes(rule, 30, 3, training=False)) == {
        (2, 1, 10, 10)
    }  # audio ends before the cut: one step is kept


def test_fixed_lengths_are_padded_up_to_the_wanted_steps() -> None:
    a, v = plan_cuts(
        rules(LengthConfig(test=10)), np.array([40, 4]), np.array([50, 6]), training=False, rng=None
    )
    assert (a.padded, v.padded) == (6, 10)
    assert (a.length.tolist(), v.length.tolist()) == ([6, 4], [10, 6])


@pytest.mark.parametrize("kind", ["centre", "random"])
def test_fixed_cuts_equal_those_of_the_published_collator(shared: Path, kind: str) -> None:
    """Compares centre cuts one by one, of random cuts the set of outcomes and their frequencies."""
    cases = json.loads((shared / "golden" / "fixed_cuts" / "expected.json").read_text())[kind]
    assert cases
    for case in cases:
        rule = rules(LengthConfig(train=case["n"], test=case["n"]))
        if case["rates"] == "main":
            rule = replace(rule, audio_seconds=1.0, video_seconds=1.0)
        found = outcomes(rule, case["video_steps"], case["audio_steps"], training=kind == "random")
        if kind == "centre":
            assert set(found) == {tuple(case["centre"])}, case
            continue
        assert set(found) == {tuple(row[:4]) for row in case["seen"]}, case
        expected = 4000 / len(found)
        assert (
            sum((n - expected) ** 2 / expected for n in found.values())
            < len(found) + 5 * (2 * len(found)) ** 0.5
        )  # chi2


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=6),
    st.one_of(st.just("max"), st.integers(1, 50)),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_cut_stays_inside_its_sample_and_takes_its_very_frames(
    lengths: list[tuple[int, int]], wanted: int | str, training: bool
) -> None:
    data = samples([a for a, _ in lengths], [v for _, v in lengths])
    rule = rules(LengthConfig(train=wanted, test=wanted))  # type: ignore[arg-type]
    rows = np.arange(len(lengths))
    cuts = plan_cuts(
        rule, data.audio.lengths, data.video.lengths, training=training, rng=np.random.default_rng(1)
    )
    batch = make_batch(data, rows, rule, training=training, rng=np.random.default_rng(1))
    for cut, steps in zip(cuts, (data.audio.lengths, data.video.lengths), strict=True):
        assert (cut.start >= 0).all()
        assert (cut.length >= 1).all()
        assert (cut.start + cut.length <= steps).all()
        assert (cut.length <= cut.padded).all()
    assert data.audio.frames is not None
    assert data.audio.offsets is not None
    for i in rows:
        first = data.audio.offsets[i] + cuts[0].start[i]
        expected = data.audio.frames[first : first + cuts[0].length[i]] / np.float32(255)
        assert np.array_equal(batch.audio[i, : cuts[0].length[i]].numpy(), expected)
        assert not batch.audio[i, cuts[0].length[i] :].any()


def test_training_times_are_seconds_and_evaluation_times_are_step_numbers_as_published() -> None:
    data, rows = samples([3], [4]), np.array([0])
    training = make_batch(data, rows, rules(), training=True)
    evaluation = make_batch(data, rows, rules(), training=False)
    assert training.video_times is not None
    assert evaluation.video_times is not None
    assert training.video_times[0].tolist() == pytest.approx([0, 0.64, 1.28, 1.92])
    assert evaluation.video_times[0].tolist() == [0, 1, 2, 3]
    moved = with_evaluation_times(training, rules())
    assert moved.audio_times is not None
    assert moved.audio_times[0].tolist() == [0, 1, 2]


def test_corrected_times_are_seconds_of_the_sample_after_cuts_too() -> None:
    data, rows = samples([40], [50]), np.array([0])
    rule = rules(LengthConfig(test=10), evaluation_times="corrected")
    batch = make_batch(data, rows, rule, training=False)
    assert batch.video_times is not None
    assert batch.video_times[0, 0].item() == pytest.approx(20 * VIDEO_S)
    assert with_evaluation_times(batch, rule) is batch


def test_published_audio_scale_holds_for_every_feature_set() -> None:
    modality = ModalityConfig(extractor="x", dim=4, seconds=1, scale=1, published_scale=255)
    feature_set = FeatureSetConfig(description="", audio=modality, video=modality, text_dim=3)
    lengths = LengthConfig()
    assert FeatureRules.of("sequence", feature_set, lengths, ProtocolConfig()).audio_scale == 255
    assert (
        FeatureRules.of("sequence", feature_set, lengths, ProtocolConfig(audio_scale="corrected")).audio_scale
        == 1
    )


def test_classes_are_drawn_uniformly_whatever_their_size() -> None:
    labels = [7] * 1 + [3] * 99
    sampler = ClassBalanced.over(samples([1] * 100, [1] * 100, labels), np.arange(100))
    rows, drawn = sampler.epoch(seed=0, epoch=0, batches=100, size=64)
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert sampler.class_ids.tolist() == [3, 7]
    assert (np.array(labels)[rows] == sampler.class_ids[drawn]).all()
    assert len(set(rows[drawn == 0].tolist())) == 99


def test_negatives_are_of_another_class_and_uniform_over_the_others() -> None:
    sampler = ClassBalanced.over(samples([1] * 40, [1] * 40, [i % 4 for i in range(40)]), np.arange(40))
    _, labels = sampler.epoch(0, 0, 200, 32)
    rows, other = sampler.negatives(labels, 0, 0)
    assert (other != labels).all()
    assert (rows % 4 == other).all()
    counts = np.bincount((other - labels).ravel() % 4)
    assert counts[1:] / counts.sum() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_an_epoch_is_the_same_each_time_it_is_drawn() -> None:
    data = samples([2] * 12, [3] * 12, [i % 3 for i in range(12)])
    sampler, classes = ClassBalanced.over(data, np.arange(12)), Classes(torch.eye(3))
    plain = TrainingBatches(data, sampler, classes, rules(), negatives=False)
    negatives = TrainingBatches(data, sampler, classes, rules(inputs="mean"), negatives=True)
    again = list(plain.epoch(5, 3, 4, 8))
    for a, b, c in zip(plain.epoch(5, 3, 4, 8), again, negatives.epoch(5, 3, 4, 8), strict=True):
        assert a.label is not None
        assert b.label is not None
        assert c.label is not None
        assert torch.equal(a.video, b.video)
        assert torch.equal(a.label, c.label)
        assert a.text is not None
        assert torch.equal(a.text, torch.eye(3)[a.label])
        assert c.negative is not None
        assert c.negative.label is not None
        assert (c.negative.label != c.label).all()
    assert not torch.equal(next(plain.epoch(5, 4, 4, 8)).label, again[0].label)  # type: ignore[arg-type]


def test_batches_are_drawn_one_ahead_in_order_and_their_errors_are_raised() -> None:
    drawn: list[int] = []

    def batches() -> Iterator[Any]:
        for i in range(4):
            if i == 3:
                raise ValueError("row 3")
            drawn.append(i)
            yield i

    coming = ahead(batches())
    assert next(coming) == 0
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(ValueError, match="row 3"):
        next(coming)
    assert drawn == [0, 1, 2]


def test_no_thread_is_left_if_training_is_interrupted() -> None:
    threads = threading.active_count()

    def train() -> None:
        for _ in ahead(iter(range(100))):  # type: ignore[arg-type]
            assert threading.active_count() == threads + 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert threading.active_count() == threads
