"""A small store of a dataset of our own, made from samples that a test writes down, and its card."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.cards import Card
from benchmark.data.store import SPLITS, FeatureStore, ModalityContent, StoreContent, write_store

CLASS_SPLITS = dict(zip(SPLITS, ([0, 1], [0, 1], [2], [0, 1, 2], [3]), strict=True))
Samples = Sequence[tuple[str, str, int, Any, Any]]
"""Id, split, class id, audio frames ``[t, 2]`` and video frames ``[t, 2]`` of each sample, by split."""


def own_card(**changes: Any) -> Card:
    modality = {"extractor": "none", "dim": 2, "seconds": 0.5}
    features = {
        "native": {"description": "", "audio": modality, "video": {**modality, "seconds": 2}, "text_dim": 4}
    }
    fields = {"name": "own", "title": "Own", "kind": "real", "description": "", "default_features": "native"}
    return Card.model_validate({**fields, "features": features, **changes})


def default_samples() -> list[tuple[str, str, int, Any, Any]]:
    """Two samples of each class in each split, no two alike."""
    rng = np.random.default_rng(0)
    return [
        (f"{split}_{label}_{i}", split, label, rng.normal(size=(2 + i, 2)), rng.normal(size=(3, 2)))
        for split in SPLITS
        for label in CLASS_SPLITS[split]
        for i in range(2)
    ]


def make_store(
    path: Path, samples: Samples | None = None, means_only: bool = False, **changes: Any
) -> FeatureStore:
    samples = samples or default_samples()

    def modality(column: int) -> ModalityContent:
        frames = [np.asarray(sample[column], "f4").reshape(-1, 2) for sample in samples]
        if means_only:
            return ModalityContent(2, means=np.stack([x.mean(0) for x in frames]))
        return ModalityContent(2, np.concatenate(frames), np.cumsum([0, *map(len, frames)]))

    fields: dict[str, Any] = {
        "class_names": ["ant", "bee", "cat", "dog"],
        "class_splits": CLASS_SPLITS,
        "vector_names": ["ant", "bee", "cat", "dog"],
        "vectors": np.eye(4, dtype="f4"),
        "own_vector": [0, 1, 2, 3],
        "ids": [sample[0] for sample in samples],
        "labels": np.array([sample[2] for sample in samples], np.int64),
        "splits": np.array([SPLITS.index(sample[1]) for sample in samples], np.uint8),
        "audio": modality(3),
        "video": modality(4),
    }
    write_store(
        path, StoreContent(dataset="own", features="native", generated=False, **{**fields, **changes})
    )
    return FeatureStore(path)


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))
