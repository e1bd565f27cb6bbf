"""What ``FeatureStore`` returns: samples of neighbouring splits, and their classes with class embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UsageError
from benchmark.system.streams import Purpose, stream

MODALITIES = ("audio", "video")
DEVELOPMENT_SPLITS = ("stage_1_train", "stage_1_val_seen", "stage_1_val_unseen")
TEST_SPLITS = ("stage_2_test_seen", "stage_2_test_unseen")
SPLITS = DEVELOPMENT_SPLITS + TEST_SPLITS
"""Splits in the order of their samples in a store. ``stage_2_train`` is the union of the first three."""

Alignment = Literal["official", "by_name", "shuffled"]
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ModalityData:
    """One modality of a run of samples, read on demand."""

    dim: int
    means: Floats
    """``[N, dim]`` float32."""
    frames: Floats | None
    offsets: Ints | None

    @cached_property
    def lengths(self) -> Ints:
        """Number of time steps of each sample, ``[N]``.

        Raises:
            UsageError: the store holds temporal means only.
        """
        if self.offsets is None:
            raise UsageError(
                "this feature file holds temporal means only, but the method needs sequences; "
                "import the *_non_averaged features (data import ... --form sequences)"
            )
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Samples:
    """Consecutive samples of a store, and nothing beyond them."""

    audio: ModalityData
    video: ModalityData
    labels: Ints
    """``[N]`` class ids."""
    splits: NDArray[np.uint8]
    """``[N]`` index into ``SPLITS``."""
    ids: Sequence[str]

    def rows(self, *splits: str) -> Ints:
        """Rows of the samples of some splits."""
        return np.flatnonzero(np.isin(self.splits, [SPLITS.index(s) for s in splits]))


@dataclass(frozen=True)
class ClassTable:
    """Ids, names and embeddings (under one alignment) of the classes of some splits."""

    splits: Mapping[str, Ints]
    names: Mapping[int, str]
    vectors: Mapping[int, Floats]

    def text(self, class_ids: Ints) -> Floats:
        """Embeddings ``[C, D_w]`` float32 of class ids."""
        return np.stack([self.vectors[int(c)] for c in class_ids]).astype(np.float32)


@dataclass(frozen=True)
class Section:
    """Samples with their classes: the development data, or the test data."""

    samples: Samples
    classes: ClassTable


@dataclass(frozen=True)
class Tables:
    """Everything in a store except features, for all splits."""

    ids: Sequence[str]
    labels: Ints
    splits: NDArray[np.uint8]
    """``[N]`` index into ``SPLITS``, non-decreasing."""
    class_names: Sequence[str]
    class_splits: Mapping[str, Ints]
    """Class ids of each split."""
    vector_names: Sequence[str]
    vectors: Floats
    own_vector: Ints

    def vector_rows(self, alignment: Alignment, shuffle_seed: int = 0) -> Ints:
        """For each class id the row of ``vectors`` that it gets.

        - ``official``: row k of the vectors sorted by name for class id k, as in the published code.
        - ``by_name``: each class its own vector.
        - ``shuffled``: a negative control, in which class names carry no information: own vectors are
          permuted at random. Development classes and the others are permuted separately, so no test class
          influences training.

        Raises:
            UsageError: there is no official order.
        """
        if alignment == "official":
            if len(self.vector_names) != len(self.class_names):
                raise UsageError(
                    f"{len(self.vector_names)} class embeddings for {len(self.class_names)} classes "
                    "have no official order; use protocol.text_alignment=by_name"
                )
            return np.arange(len(self.class_names), dtype=np.int64)
        if alignment == "shuffled":
            rng, rows = stream(Purpose.SHUFFLED_CLASSES, shuffle_seed), self.own_vector.copy()
            development = self.classes_of(DEVELOPMENT_SPLITS)
            for group in (development, np.setdiff1d(np.arange(len(rows)), development)):
                rows[group] = rng.permutation(self.own_vector[group])
            return rows
        return self.own_vector

    def classes_of(self, splits: Sequence[str]) -> Ints:
        """Class ids of some splits, ascending."""
        return np.unique(np.concatenate([self.class_splits[split] for split in splits]))

    def class_table(self, class_splits: Sequence[str], rows: Ints) -> ClassTable:
        """The classes of some splits, each with the embedding of its row.

        Args:
            class_splits: the splits.
            rows: for each class id its row of ``vectors`` (``vector_rows``).
        """
        ids = self.classes_of(class_splits).tolist()
        return ClassTable(
            splits={split: self.class_splits[split] for split in class_splits},
            names={c: self.class_names[c] for c in ids},
            vectors={c: self.vectors[rows[c]].copy() for c in ids},
        )
