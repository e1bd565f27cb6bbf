"""Stores of any size with UCF's dimensions, lengths, classes and shares of the splits, written in bounded memory.

Their features are numbers that are drawn once and repeated: there is nothing in them to learn.
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
from perf.training_step import SIZES

POOL = 4096
"""Frames that are drawn."""


@dataclass(frozen=True)
class Repeated:
    """Frames ``[rows, dim]`` of which a slice is made when it is read."""

    rows: int
    pool: np.ndarray

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.pool[np.arange(part.start, part.stop) % len(self.pool)]


def samples_of(gigabytes: float, features: str) -> int:
    """How many samples fill a store of so many GB (1e9 bytes), means included, in float32."""
    sizes: dict[str, Any] = SIZES[features]
    numbers = sum(sizes[f"{m}_dim"] * (1 + np.mean(sizes[f"{m}_steps"])) for m in ("audio", "video"))
    return int(gigabytes * 1e9 / (4 * numbers))


def generate(path: Path, features: str, samples: int, dtype: Literal["float32", "float16"] = "float32") -> FeatureStore:
    """Write a store of about so many samples."""
    random, card, sizes = np.random.default_rng(0), load_cards()["ucf"].features[features], SIZES[features]
    groups = np.split(np.arange(48), [30, 42])
    classes = (groups[0], groups[0], groups[1], np.arange(42), groups[2])
    total = sum(card.samples[split] for split in SPLITS)
    counts = [max(len(ids), round(samples * card.samples[split] / total)) for split, ids in zip(SPLITS, classes, strict=True)]
    labels = [np.sort(np.resize(ids, n)) for ids, n in zip(classes, counts, strict=True)]
    names = [f"class {i:02d}" for i in range(48)]
    content = StoreContent(
        dataset="ucf",
        features=features,
        generated=True,
        class_names=names,
        class_splits={split: ids.tolist() for split, ids in zip(SPLITS, classes, strict=True)},
        vector_names=names,
        vectors=random.standard_normal((48, card.text_dim), np.float32),
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
    """Frames of one modality."""
    shortest, longest = sizes[f"{name}_steps"]
    offsets = np.concatenate([[0], np.cumsum(random.integers(shortest, longest + 1, samples))])
    pool = np.abs(random.standard_normal((POOL, sizes[f"{name}_dim"]), np.float32))
    return ModalityContent(sizes[f"{name}_dim"], Repeated(int(offsets[-1]), pool), offsets)  # type: ignore[arg-type]


def experiment_on(store: FeatureStore, method: str, **train: Any) -> Experiment:
    """A method with its published settings for UCF in mode ``corrected``, on a generated store.

    Args:
        train: settings of training that replace the published ones.
    """
    found, card = registry.load(), load_cards()["ucf"]
    chosen = found.get(method)
    changed = {"protocol": {"text_alignment": "corrected"}, "train": train}
    settings = resolve(chosen, found.search_space(chosen), card, store.features, "corrected", changed)
    return Experiment(chosen, settings, card.features[store.features], store, seed=0, dataset=card)


def forget(path: Path) -> None:
    """Ask the system to drop its cached pages of a file that nobody has mapped, so that the next read is the disk's."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages that are not written yet stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
