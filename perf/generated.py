"""Synthetic stores of any size with UCF's dimensions, lengths, classes and split ratios.

Their features are repeated random numbers without anything to learn.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.data.store import SPLITS, FeatureStore, ModalityContent, StoreContent, write_store
from benchmark.protocol.stages import Experiment
from benchmark.settings.resolve import resolve
from perf.sizes import SIZES

POOL = 4096
"""Time steps that are drawn and then repeated."""


@dataclass(frozen=True)
class Repeated:
    """Time steps ``[rows, dim]`` of which a slice is computed when it is read."""

    rows: int
    pool: np.ndarray

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.pool[np.arange(part.start, part.stop) % len(self.pool)]


def samples_of(gigabytes: float, features: str) -> int:
    """Number of samples in a float32 store of this many GB (1e9 bytes), including means."""
    sizes: dict[str, Any] = SIZES[features]
    numbers = sum(sizes[f"{m}_dim"] * (1 + np.mean(sizes[f"{m}_steps"])) for m in ("audio", "video"))
    return int(gigabytes * 1e9 / (4 * numbers))


def generate(
    path: Path, features: str, samples: int, dtype: Literal["float32", "float16"] = "float32"
) -> FeatureStore:
    """Write a store with about this many samples."""
    random, feature_set, sizes = (
        np.random.default_rng(0),
        load_cards()["ucf"].features[features],
        SIZES[features],
    )
    groups = np.split(np.arange(48), [30, 42])
    classes = (groups[0], groups[0], groups[1], np.arange(42), groups[2])
    total = sum(feature_set.samples[split] for split in SPLITS)
    counts = [
        max(len(ids), round(samples * feature_set.samples[split] / total))
        for split, ids in zip(SPLITS, classes, strict=True)
    ]
    labels = [np.sort(np.resize(ids, n)) for ids, n in zip(classes, counts, strict=True)]
    names = [f"class {i:02d}" for i in range(48)]
    content = StoreContent(
        dataset="ucf",
        features=features,
        generated=True,
        class_names=names,
        class_splits={split: ids.tolist() for split, ids in zip(SPLITS, classes, strict=True)},
        vector_names=names,
        vectors=random.standard_normal((48, feature_set.text_dim), np.float32),
        own_vector=range(48),
        ids=[f"sample_{i:09d}" for i in range(sum(counts))],
        labels=np.concatenate(labels),
        splits=np.repeat(np.arange(len(SPLITS), dtype=np.uint8), counts),
        audio=modality(sizes, "audio", sum(counts), random),
        video=modality(sizes, "video", sum(counts), random),
    )
    write_store(path, content, dtype)
    return FeatureStore(path)


def modality(sizes: dict[str, Any], name: str, samples: int, random: np.random.Generator) -> ModalityContent:
    """The sequences of one modality."""
    shortest, longest = sizes[f"{name}_steps"]
    offsets = np.concatenate([[0], np.cumsum(random.integers(shortest, longest + 1, samples))])
    pool = np.abs(random.standard_normal((POOL, sizes[f"{name}_dim"]), np.float32))
    return ModalityContent(sizes[f"{name}_dim"], Repeated(int(offsets[-1]), pool), offsets)  # type: ignore[arg-type]


def experiment_on(store: FeatureStore, method: str, **train: Any) -> Experiment:
    """A method with its published settings for UCF in mode ``corrected``, on a synthetic store.

    Args:
        train: training settings that replace the published ones.
    """
    found, card = registry.load(), load_cards()["ucf"]
    chosen = found.get(method)
    changed = {"protocol": {"text_alignment": "by_name"}, "train": train}
    settings = resolve(chosen, found.search_space(chosen), card, store.features, "corrected", changed)
    return Experiment(chosen, settings, card.features[store.features], store, seed=0, card=card)


def forget(path: Path) -> None:
    """Ask the system to drop its cached pages of an unmapped file, so that the next read uses the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages that are not written yet cannot be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
