"""What synthetic data promise: each setting does what it is for and nothing else, and the truth is known."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.data.built.synthetic import (
    SyntheticConfig,
    build_synthetic,
    synthetic_config,
    synthetic_content,
)
from benchmark.data.cards import Card, load_cards
from benchmark.data.store import SPLITS, FeatureStore, Floats, Ints, ModalityContent, StoreContent
from benchmark.errors import UsageError

UNSEEN_CLASSES = 6
CHANCE = 1 / UNSEEN_CLASSES
SILENT: dict[str, Any] = {
    "audio_signal": 0.0,
    "video_signal": 0.0,
    "joint_signal": 0.0,
    "order_signal": 0.0,
    "seen_bias": 0.0,
    "noise": 0.3,
}
SEEDS = range(6)


@pytest.fixture(scope="module")
def card() -> Card:
    return load_cards()["synthetic"]


def generated(seed: int, **settings: Any) -> StoreContent:
    return synthetic_content(SyntheticConfig.model_validate({**SILENT, "seed": seed, **settings}))


def means(modality: ModalityContent) -> Floats:
    """``[N, D]`` temporal means."""
    assert modality.frames is not None
    assert modality.offsets is not None
    sums = np.add.reduceat(modality.frames, modality.offsets[:-1], axis=0)
    result: Floats = sums / np.diff(modality.offsets)[:, None]
    return result


def both(content: StoreContent) -> Floats:
    return np.hstack([means(content.audio), means(content.video)])


def products(content: StoreContent) -> Floats:
    """``[N, D_a * D_v]`` all products of an audio and a video mean."""
    audio, video = means(content.audio), means(content.video)
    return (audio[:, :, None] * video[:, None, :]).reshape(len(audio), -1)


def second_moments(content: StoreContent) -> Floats:
    """``[N, D * D]`` mean over steps of the products of two video features: what a set of steps tells."""
    frames, offsets = content.video.frames, content.video.offsets
    assert frames is not None
    assert offsets is not None
    bounds = pairwise(offsets)
    return np.stack([(frames[a:b].T @ frames[a:b]).ravel() / (b - a) for a, b in bounds])


def half_differences(content: StoreContent) -> Floats:
    """``[N, D]`` video's first half minus its second half."""
    frames, offsets = content.video.frames, content.video.offsets
    assert frames is not None
    assert offsets is not None
    bounds = [(a, (b - a) // 2, b) for a, b in pairwise(offsets)]
    return np.stack(
        [frames[a : a + half].sum(axis=0) - frames[b - half : b].sum(axis=0) for a, half, b in bounds]
    )


def unseen_accuracy(content: StoreContent, x: Floats, penalty: float = 0.1) -> float:
    """Accuracy by class, among unseen classes, of ridge regression from development splits to text."""
    text, labels = np.asarray(content.vectors), content.labels
    train, test = content.splits < 3, content.splits == SPLITS.index("stage_2_test_unseen")
    classes = np.asarray(content.class_splits["stage_2_test_unseen"])
    return accuracy(ridge(x[train], text[labels[train]], x[test], penalty), labels[test], text, classes)


def ridge(x: Floats, y: Floats, new: Floats, penalty: float) -> Floats:
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    centred, scaled = x - x_mean, penalty * len(x)
    if len(x) < x.shape[1]:
        kernel = centred @ centred.T + scaled * np.eye(len(x))
        result: Floats = (new - x_mean) @ centred.T @ np.linalg.solve(kernel, y - y_mean) + y_mean
    else:
        gram = centred.T @ centred + scaled * np.eye(x.shape[1])
        result = (new - x_mean) @ np.linalg.solve(gram, centred.T @ (y - y_mean)) + y_mean
    return result


def accuracy(predicted: Floats, labels: Ints, text: Floats, classes: Ints) -> float:
    distances = ((predicted[:, None] - text[classes][None]) ** 2).sum(axis=-1)
    right = classes[distances.argmin(axis=1)] == labels
    return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))


def average(probe: Any, **settings: Any) -> float:
    """Unseen accuracy of a probe over several synthetic datasets."""
    contents = [generated(seed, **settings) for seed in SEEDS]
    return float(np.mean([unseen_accuracy(content, probe(content)) for content in contents]))


def at_chance(value: float) -> bool:
    return abs(value - CHANCE) < 0.12


@pytest.mark.parametrize(("signal", "heard"), [("audio_signal", "audio"), ("video_signal", "video")])
def test_a_modality_alone_tells_classes_apart_where_its_signal_is_on(signal: str, heard: str) -> None:
    other = "video" if heard == "audio" else "audio"
    assert average(lambda c: means(getattr(c, heard)), **{signal: 1.0}) > 0.8
    assert at_chance(average(lambda c: means(getattr(c, other)), **{signal: 1.0}))


def test_a_joint_signal_is_in_the_pair_and_in_neither_modality_alone() -> None:
    assert at_chance(average(lambda c: means(c.audio), joint_signal=1.0))
    assert at_chance(average(lambda c: means(c.video), joint_signal=1.0))
    assert at_chance(average(both, joint_signal=1.0))
    assert average(products, joint_signal=1.0) > 0.8


def test_an_order_signal_is_in_the_order_and_in_no_set_of_steps() -> None:
    assert at_chance(average(both, order_signal=1.0))
    assert at_chance(average(second_moments, order_signal=1.0))
    assert average(half_differences, order_signal=1.0) > 0.8


def test_without_noise_the_set_of_steps_is_the_same_for_all_samples() -> None:
    content = generated(0, order_signal=1.0, noise=0.0, video_steps=(14, 14))
    assert content.video.frames is not None
    samples = content.video.frames.reshape(len(content.ids), 14, -1)
    sets = {tuple(sorted(map(tuple, np.round(steps, 4) + 0.0))) for steps in samples}
    assert len(sets) == 1
    assert len({steps.tobytes() for steps in samples}) > 1


def test_order_survives_normalising_video_over_time() -> None:
    content = generated(0, order_signal=1.0)
    frames, offsets = content.video.frames, content.video.offsets
    assert frames is not None
    assert offsets is not None
    for a, b in pairwise(offsets):
        frames[a:b] /= np.linalg.norm(frames[a:b], axis=0)
    assert unseen_accuracy(content, half_differences(content)) > 0.8


def test_word_vectors_that_predict_nothing_give_chance_on_unseen_classes() -> None:
    accuracies = [
        average(lambda c: means(c.audio), audio_signal=1.0, text_predictiveness=p) for p in (0.0, 0.7, 1.0)
    ]
    assert at_chance(accuracies[0])
    assert accuracies[0] < accuracies[1] < accuracies[2]
    assert accuracies[2] > 0.8


def test_word_vectors_that_predict_nothing_leave_seen_classes_distinct() -> None:
    content = generated(0, audio_signal=1.0, text_predictiveness=0.0)
    x, labels = means(content.audio), content.labels
    train, test = content.splits == 0, content.splits == 1
    classes = np.unique(labels[train])
    centres = np.stack([x[train & (labels == c)].mean(axis=0) for c in classes])
    nearest = classes[((x[test][:, None] - centres[None]) ** 2).sum(axis=-1).argmin(axis=1)]
    assert np.mean(nearest == labels[test]) > 0.9


def test_seen_bias_moves_unseen_samples_to_seen_classes() -> None:
    def taken_for_seen(bias: float) -> float:
        fractions = []
        for seed in SEEDS:
            content = generated(seed, audio_signal=1.0, seen_bias=bias)
            x, text = means(content.audio), np.asarray(content.vectors)
            train, test = content.splits < 3, content.splits == SPLITS.index("stage_2_test_unseen")
            predicted = ridge(x[train], text[content.labels[train]], x[test], 0.1)
            nearest = ((predicted[:, None] - text[None]) ** 2).sum(axis=-1).argmin(axis=1)
            fractions.append(np.mean(np.isin(nearest, content.class_splits["stage_2_test_seen"])))
        return float(np.mean(fractions))

    assert taken_for_seen(0.0) < taken_for_seen(0.3) < taken_for_seen(0.6)


def test_noise_makes_classes_harder() -> None:
    quiet, loud = (average(lambda c: means(c.audio), audio_signal=1.0, noise=n) for n in (0.3, 2.0))
    assert loud < quiet - 0.2


def test_the_seed_determines_everything(card: Card, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_synthetic(card, tmp_path / f"{name}.h5", seed=seed)
    a, b, c = (FeatureStore(tmp_path / f"{name}.h5") for name in "abc")
    assert a.digest == b.digest != c.digest
    assert a.generated
    assert a.provenance["options"]["seed"] == 1


def test_the_card_gives_the_counts_of_the_default_settings(card: Card, tmp_path: Path) -> None:
    build_synthetic(card, tmp_path / "s.h5")
    store = FeatureStore(tmp_path / "s.h5")
    _, expected = card.feature_set(None)
    for p, split in enumerate(SPLITS):
        assert (store.tables().splits == p).sum() == expected.samples[split]
        assert len(store.tables().class_splits[split]) == expected.classes[split]
    assert (store.audio_dim, store.video_dim, store.text_dim) == (32, 48, 24)


def test_class_ids_do_not_tell_the_group_of_a_class() -> None:
    seen = generated(0).class_splits["stage_1_train"]
    assert list(seen) != list(range(len(seen)))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    counts=st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4)),
    samples=st.lists(st.integers(1, 3), min_size=5, max_size=5),
    dims=st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12)),
    shortest=st.integers(8, 10),
    predictiveness=st.floats(0, 1),
)
def test_any_size_gives_a_complete_store(
    seed: int,
    counts: tuple[int, int, int],
    samples: list[int],
    dims: tuple[int, int, int],
    shortest: int,
    predictiveness: float,
) -> None:
    names = ("train", "val_seen", "val_unseen", "test_seen", "test_unseen")
    config = SyntheticConfig.model_validate(
        {
            "seed": seed,
            "attributes": 4,
            **dict(zip(("train_classes", "val_unseen_classes", "test_unseen_classes"), counts, strict=True)),
            **{f"{name}_samples": n for name, n in zip(names, samples, strict=True)},
            **dict(zip(("audio_dim", "video_dim", "text_dim"), dims, strict=True)),
            "audio_steps": (shortest, shortest + 3),
            "video_steps": (shortest, shortest),
            "order_signal": 1.0,
            "joint_signal": 1.0,
            "text_predictiveness": predictiveness,
        }
    )
    content = synthetic_content(config)
    for p, split in enumerate(SPLITS):
        labels, counted = np.unique(content.labels[content.splits == p], return_counts=True)
        assert labels.tolist() == list(content.class_splits[split])
        assert set(counted) == {samples[p]}
    assert len(set(content.ids)) == len(content.ids)
    assert content.audio.offsets is not None
    assert set(np.diff(content.audio.offsets)) <= set(range(shortest, shortest + 4))
    assert content.audio.frames is not None
    assert content.audio.frames.dtype == np.float32
    assert np.isfinite(content.audio.frames).all()
    assert len(np.unique(np.round(content.vectors, 4), axis=0)) == sum(counts) or dims[2] < 4


def test_impossible_settings_are_refused_with_the_setting_that_fixes_them(card: Card) -> None:
    with pytest.raises(ValidationError, match="raise `attributes`"):
        SyntheticConfig(attributes=3)
    with pytest.raises(ValidationError, match="at least 12"):
        SyntheticConfig(order_signal=1.0, audio_steps=(4, 20))
    with pytest.raises(UsageError, match=r"(?s)noise.*nosie|nosie.*noise"):
        synthetic_config(card, {"nosie": 1, "noise": -1})
