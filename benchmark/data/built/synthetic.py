"""Generate synthetic data whose classes differ, and whose text embeddings predict them, as settings say.

Every class has a code of binary attributes, y in {-1, +1}^K. Text embeddings are a linear map of the code, so
that an unseen class can be recognised from the attributes that it shares with seen ones. The features hold
the code in four channels, each with its own strength and subspace:

- audio, video: a vector that is constant over the time steps, a linear map of y;
- joint: random signs r in audio and r * y in video. Each is independent of the class; their product is y;
- order: for each attribute a time step +b and a mirrored one -b, in this order for +1 and in the other for
-1. The set
  of time steps is the same for all classes, so means (and all statistics that ignore order) hold no
  information.

All data are held in memory, about three times the larger modality at the peak.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError, model_validator

from benchmark.data.cards import Card
from benchmark.data.store import SPLITS, Ints, ModalityContent, StoreContent, write_store
from benchmark.errors import UsageError, validation_message
from benchmark.system.reading import Fields
from benchmark.system.streams import Purpose, stream

BUILDER_VERSION = 2
"""Part of the provenance: increase it when the same settings would give other contents."""
MAX_DRAWS = 1000

Steps = tuple[int, int]
Values = NDArray[np.float32]


class SyntheticConfig(Fields):
    """Settings of synthetic data. Unknown keys and impossible values are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    seed: int = Field(0, ge=0, description="everything random follows from it")
    audio_dim: int = Field(32, ge=1)
    video_dim: int = Field(48, ge=1)
    text_dim: int = Field(24, ge=1)
    attributes: int = Field(
        6, ge=1, le=20, description="binary attributes of a class; 2 ** attributes >= classes"
    )
    train_classes: int = Field(16, ge=2, description="seen classes")
    val_unseen_classes: int = Field(6, ge=1)
    test_unseen_classes: int = Field(6, ge=1)
    train_samples: int = Field(20, ge=1, description="samples of each class in stage_1_train; alike below")
    val_seen_samples: int = Field(4, ge=1)
    val_unseen_samples: int = Field(10, ge=1)
    test_seen_samples: int = Field(6, ge=1)
    test_unseen_samples: int = Field(10, ge=1)
    audio_steps: Steps = Field((12, 20), description="fewest and most time steps of a sample")
    video_steps: Steps = Field((12, 16), description="fewest and most time steps of a sample")
    audio_signal: float = Field(
        0.6, ge=0, description="how far audio alone distinguishes classes, in units of an attribute"
    )
    video_signal: float = Field(0.8, ge=0, description="how far video alone distinguishes classes")
    joint_signal: float = Field(0.0, ge=0, description="how far only both modalities together do so")
    order_signal: float = Field(0.0, ge=0, description="how far only the order of the time steps does so")
    text_predictiveness: float = Field(
        1.0,
        ge=0,
        le=1,
        description="probability that features have an attribute of the text embedding, else drawn again",
    )
    seen_bias: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="how far the audio and video of unseen classes are moved to their nearest seen class",
    )
    noise: float = Field(
        1.0, ge=0, description="deviation of each sample's attributes and each step's values"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.classes > 2**self.attributes:
            raise ValueError(f"{self.classes} classes for {self.attributes} attributes: raise `attributes`")
        for name, (fewest, most) in (("audio_steps", self.audio_steps), ("video_steps", self.video_steps)):
            if not 1 <= fewest <= most:
                raise ValueError(f"{name}: 1 <= fewest <= most must hold, got {fewest}, {most}")
            if self.order_signal > 0 and fewest < 2 * self.attributes:
                raise ValueError(f"{name}: order_signal needs at least {2 * self.attributes} time steps")
        return self

    @property
    def classes(self) -> int:
        """All classes, seen and unseen."""
        return self.train_classes + self.val_unseen_classes + self.test_unseen_classes

    @property
    def samples_per_class(self) -> dict[str, int]:
        """Split -> samples of each of its classes, in the order of ``SPLITS``."""
        counts = (self.train_samples, self.val_seen_samples, self.val_unseen_samples, self.test_seen_samples)
        return dict(zip(SPLITS, (*counts, self.test_unseen_samples), strict=True))


@dataclass(frozen=True)
class _Truth:
    """The true codes of the classes; C classes, K attributes."""

    class_splits: Mapping[str, list[int]]
    word_codes: Values
    """``[C, K]`` codes that make the text embeddings."""
    codes: Values
    """``[C, K]`` codes that make the features."""
    biased: Values
    """``[C, K]`` codes of the audio and video channels: ``codes``, with unseen classes moved to seen ones."""


@dataclass(frozen=True)
class _Channels:
    """The signal of a modality for N samples, in attribute space, scaled by the strengths, without noise."""

    own: Values
    """``[N, K]`` channel of this modality alone."""
    joint: Values
    """``[N, K]`` channel that is informative only together with the other modality's."""
    order: Values
    """``[N, K]`` channel of temporal order."""


def synthetic_config(card: Card, overrides: Mapping[str, Any] | None = None) -> SyntheticConfig:
    """Settings: the dimensions of the feature set, ``builder_options`` of the dataset config, then overrides.

    Raises:
        UsageError: an unknown or impossible setting; all are listed.
    """
    _, features = card.feature_set(None)
    dims = {"audio_dim": features.audio.dim, "video_dim": features.video.dim, "text_dim": features.text_dim}
    try:
        return SyntheticConfig.model_validate({**dims, **card.builder_options, **(overrides or {})})
    except ValidationError as error:
        raise UsageError(
            validation_message(error, f"dataset {card.name!r}: settings of synthetic data")
        ) from None


def synthetic_provenance(card: Card, config: SyntheticConfig) -> dict[str, Any]:
    """All that determines the contents of the feature file: the builder and its settings."""
    return {
        "builder": "synthetic",
        "builder_version": BUILDER_VERSION,
        "options": config.model_dump(mode="json"),
        "dataset": card.name,
        "features": card.default_features,
        "sources": {},
        "licence": card.licence,
    }


def build_synthetic(card: Card, target: Path, **overrides: Any) -> None:
    """Generate the data of a dataset config, with overridden settings, and write the feature file atomically.

    Raises:
        UsageError: an unknown or impossible setting; all are listed.
    """
    config = synthetic_config(card, overrides)
    provenance = synthetic_provenance(card, config)
    write_store(target, synthetic_content(config, card.name, card.default_features, provenance))


def synthetic_content(
    config: SyntheticConfig,
    dataset: str = "synthetic",
    features: str = "native",
    provenance: Mapping[str, Any] | None = None,
) -> StoreContent:
    """Synthetic data, which the settings determine completely; samples sorted by split, then class.

    Args:
        config: the settings; ``config.seed`` determines everything random.
        dataset: name of the dataset in the feature file.
        features: name of the feature set in the feature file.
        provenance: recorded in the feature file.
    """
    rng = stream(Purpose.SYNTHETIC_CLASSES, config.seed)
    truth = _truth(config, rng)
    names = [f"class_{c:04d}" for c in range(config.classes)]
    text_map = _directions(rng, config.attributes, config.text_dim)
    labels, splits = _samples(config, truth.class_splits)
    audio, video = _channels(config, truth, labels, rng)
    return StoreContent(
        dataset=dataset,
        features=features,
        generated=True,
        class_names=names,
        class_splits=truth.class_splits,
        vector_names=names,
        vectors=truth.word_codes @ text_map / np.float32(np.sqrt(config.attributes)),
        own_vector=range(len(names)),
        ids=[f"synthetic_{i:07d}" for i in range(len(labels))],
        labels=labels,
        splits=splits,
        audio=_modality(
            config, audio, config.audio_dim, config.audio_steps, stream(Purpose.SYNTHETIC_AUDIO, config.seed)
        ),
        video=_modality(
            config, video, config.video_dim, config.video_steps, stream(Purpose.SYNTHETIC_VIDEO, config.seed)
        ),
        provenance=provenance or {},
    )


def _truth(config: SyntheticConfig, rng: np.random.Generator) -> _Truth:
    """Draw the codes. Class ids are divided at random, so that nothing can rely on their order."""
    # Divide the classes, and draw a distinct code for each.
    order = rng.permutation(config.classes)
    seen, val_unseen, test_unseen = (
        sorted(group.tolist())
        for group in np.split(order, np.cumsum([config.train_classes, config.val_unseen_classes])[:2])
    )
    class_splits = dict(
        zip(SPLITS, (seen, seen, val_unseen, sorted(seen + val_unseen), test_unseen), strict=True)
    )
    numbers = rng.choice(2**config.attributes, size=config.classes, replace=False)
    word_codes = _signs(numbers, config.attributes)
    codes = _feature_codes(word_codes, config.text_predictiveness, rng)

    # Move unseen classes towards the nearest class that is seen in their stage.
    biased = codes.copy()
    for unseen, known in ((val_unseen, seen), (test_unseen, seen + val_unseen)):
        nearest = np.array(known)[np.argmax(codes[unseen] @ codes[known].T, axis=1)]
        biased[unseen] += np.float32(config.seen_bias) * (codes[nearest] - codes[unseen])
    return _Truth(class_splits, word_codes, codes, biased)


def _signs(numbers: Ints, attributes: int) -> Values:
    """Binary digits of ``numbers`` as -1 and +1, ``[C, K]`` float32."""
    digits = (np.asarray(numbers)[:, None] >> np.arange(attributes)) & 1
    return (2 * digits - 1).astype(np.float32)


def _feature_codes(word_codes: Values, predictiveness: float, rng: np.random.Generator) -> Values:
    """``word_codes``, each attribute drawn again with probability ``1 - predictiveness``; all rows differ."""
    if predictiveness == 1:
        return word_codes.copy()
    n, k = word_codes.shape
    codes = np.empty_like(word_codes)
    used: set[bytes] = set()
    for c in range(n):
        for _ in range(MAX_DRAWS):
            kept = rng.random(k) < predictiveness
            codes[c] = np.where(kept, word_codes[c], _signs(rng.integers(2**k, size=1), k)[0])
            if codes[c].tobytes() not in used:
                break
        else:
            free = (code for code in _signs(rng.permutation(2**k), k) if code.tobytes() not in used)
            codes[c] = next(free)
        used.add(codes[c].tobytes())
    return codes


def _directions(rng: np.random.Generator, rows: int, dim: int) -> Values:
    """``[rows, dim]`` random directions of length sqrt(dim / rows), orthogonal if ``dim`` allows it."""
    directions = rng.standard_normal((rows, dim))
    if rows <= dim:
        directions = np.linalg.qr(directions.T)[0].T
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    scaled: Values = (directions / lengths * np.sqrt(dim / rows)).astype(np.float32)
    return scaled


def _samples(
    config: SyntheticConfig, class_splits: Mapping[str, list[int]]
) -> tuple[Ints, NDArray[np.uint8]]:
    """Labels ``[N]`` and splits ``[N]``."""
    per_split = [np.repeat(class_splits[split], n) for split, n in config.samples_per_class.items()]
    splits = np.repeat(np.arange(len(SPLITS), dtype=np.uint8), [len(labels) for labels in per_split])
    return np.concatenate(per_split).astype(np.int64), splits


def _channels(
    config: SyntheticConfig, truth: _Truth, labels: Ints, rng: np.random.Generator
) -> tuple[_Channels, _Channels]:
    """The signals of audio and of video for the samples."""
    codes, biased = truth.codes[labels], truth.biased[labels]
    signs = 2 * rng.integers(0, 2, size=codes.shape).astype(np.float32) - 1
    joint, order = np.float32(config.joint_signal), np.float32(config.order_signal) * codes
    return (
        _Channels(np.float32(config.audio_signal) * biased, joint * signs, order),
        _Channels(np.float32(config.video_signal) * biased, joint * signs * codes, order),
    )


def _modality(
    config: SyntheticConfig, channels: _Channels, dim: int, steps: Steps, rng: np.random.Generator
) -> ModalityContent:
    """Time steps ``[total steps, dim]`` float32 of all samples of one modality."""
    # One subspace for each channel, and a number of time steps for each sample.
    k, n = config.attributes, len(channels.own)
    own, joint, order = np.split(_directions(rng, 3 * k, dim) * np.float32(np.sqrt(3)), 3)
    lengths = rng.integers(steps[0], steps[1] + 1, size=n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    # What is constant over the time steps of a sample, then noise of each time step, then the order.
    noise = np.float32(config.noise)
    nuisance = noise * rng.standard_normal((2, n, k), dtype=np.float32)
    constant = (channels.own + nuisance[0]) @ own + (channels.joint + nuisance[1]) @ joint
    frames = rng.standard_normal((int(offsets[-1]), dim), dtype=np.float32)
    frames *= noise
    frames += np.repeat(constant, lengths, axis=0)
    if config.order_signal > 0:
        _add_order(frames, offsets, channels.order, order, rng)
    return ModalityContent(dim, frames, offsets)


def _add_order(
    frames: Values, offsets: Ints, values: Values, directions: Values, rng: np.random.Generator
) -> None:
    """For each attribute, add ``+value * direction`` in the first half, and the negative mirrored in time.

    Each attribute has its own random pair of time steps in each sample, so that the set of time steps of a
    sample is the same for both signs of an attribute.
    """
    # Random distinct time steps of the first half of each sample: those with the smallest keys.
    halves = np.diff(offsets) // 2
    keys = rng.random((len(halves), int(halves.max())))
    keys[np.arange(keys.shape[1]) >= halves[:, None]] = np.inf
    steps = np.argsort(keys, axis=1)[:, : len(directions)]
    for a, direction in enumerate(directions):
        pulse = values[:, a, None] * direction
        frames[offsets[:-1] + steps[:, a]] += pulse
        frames[offsets[1:] - 1 - steps[:, a]] -= pulse
