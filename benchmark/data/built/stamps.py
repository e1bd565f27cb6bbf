"""Build the shipped dataset ``stamps``: quantised features -> splits without leaks -> feature file.

This module reads ``datasets/stamps/stamps.npz`` and divides it into splits. ``locate.py`` decides when
datasets are built and where their feature files are stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from benchmark.data.cards import Card
from benchmark.data.store import SPLITS, Floats, Ints, ModalityContent, StoreContent, write_store
from benchmark.errors import UsageError
from benchmark.system.files import raise_outside
from benchmark.system.streams import Purpose, stream

ARRAYS = "stamps.npz"
BUILDER_VERSION = 1
"""Part of the provenance: increase it when the same source would give other contents."""
TEST_FRACTION = 0.2
"""Fraction of the samples of each class trained in stage 2 that test it."""
VALIDATION_FRACTION = 0.1
"""Fraction of the other samples of each seen class that validate in stage 1."""
SEEN, VALIDATION_UNSEEN, TEST_UNSEEN = 0, 1, 2
"""Values of ``class_split`` in the source."""

Splits = NDArray[np.uint8]


@dataclass(frozen=True)
class StampsSource:
    """The arrays of the source, dequantised; N samples (an image with one spoken description), P images."""

    views: Floats
    """``[P, 5, 512]`` float32: five views of each image."""
    audio: Floats
    """``[steps, 96]`` float32: the time steps of all samples, one after another."""
    audio_offsets: Ints
    """``[N + 1]``."""
    labels: Ints
    """``[N]`` rows of ``class_names``."""
    images: Ints
    """``[N]`` rows of ``views``."""
    groups: Ints
    """``[N]``: images that share a recording or are near duplicates have the same group."""
    languages: list[str]
    """``[N]`` language codes."""
    class_names: list[str]
    """``[C]``, sorted."""
    class_split: Ints
    """``[C]``: 0 seen, 1 validation-unseen, 2 test-unseen."""
    vectors: Floats
    """``[C, 384]`` float32, in the order of ``class_names``."""

    def sample_id(self, i: int) -> str:
        """Group, image, sample and language of the sample ``i``."""
        return f"g{self.groups[i]:04d}_i{self.images[i]:04d}_s{i:05d}_{self.languages[i]}"


def stamps_provenance(card: Card, source_dir: Path) -> dict[str, Any]:
    """All that determines the contents of the feature file: the source's sha256, the builder and its options.

    Raises:
        UsageError: the source is missing.
    """
    path = source_dir / ARRAYS
    if not path.is_file():
        raise UsageError(f"{path}: missing; it ships with the project, restore it from the repository")
    return {
        "builder": "stamps",
        "builder_version": BUILDER_VERSION,
        "options": dict(card.builder_options),
        "dataset": card.name,
        "features": card.default_features,
        "sources": {ARRAYS: hashlib.sha256(_content(path)).hexdigest()},
        "licence": card.licence,
    }


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise_outside(error, path)
        raise


def build_stamps(card: Card, source_dir: Path, target: Path) -> None:
    """Build the feature file of ``stamps`` from its shipped arrays, atomically.

    Args:
        card: names, and the counts that the result must have.
        source_dir: the folder with ``stamps.npz``.
        target: the file to write.

    Raises:
        UsageError: the source is missing or damaged, or the counts are not those of the dataset config.
    """
    provenance = stamps_provenance(card, source_dir)
    if card.builder_options:
        raise UsageError(f"dataset {card.name!r}: the builder 'stamps' has no builder_options; remove them")
    content = stamps_content(card, read_source(source_dir / ARRAYS), provenance)
    _check_counts(card, content)
    write_store(target, content)


def read_source(path: Path) -> StampsSource:
    """Read and dequantise the arrays, with classes in the order of their names. Pickles are never loaded.

    Raises:
        UsageError: the file cannot be read as ``.npz``, or arrays are missing.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            z = {name: arrays[name] for name in arrays.files}
        return _source(z)
    except (OSError, MemoryError, ValueError, KeyError, IndexError, BadZipFile) as error:
        raise_outside(error, path)
        raise UsageError(f"{path}: damaged ({error}); restore it from the project's repository") from None


def _source(z: Mapping[str, NDArray[Any]]) -> StampsSource:
    order = np.argsort(z["class_names"], kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    images = z["sample_image"].astype(np.int64)
    return StampsSource(
        views=dequantised(z, "visual"),
        audio=dequantised(z, "audio"),
        audio_offsets=z["audio_offset"].astype(np.int64),
        labels=rank[z["sample_class"]],
        images=images,
        groups=z["image_group"][images].astype(np.int64),
        languages=[str(name) for name in z["languages"][z["sample_lang"]]],
        class_names=[str(name) for name in z["class_names"][order]],
        class_split=z["class_split"][order].astype(np.int64),
        vectors=z["text_minilm"][order].astype(np.float32),
    )


def dequantised(z: Mapping[str, NDArray[Any]], name: str) -> Floats:
    """The array ``name`` of the source as float32: ``min + value / 255 * range``, by dimension."""
    low, span = z[f"{name}_min"].astype(np.float32), z[f"{name}_range"].astype(np.float32)
    return low + z[name].astype(np.float32) * (span / np.float32(255))


def divide(source: StampsSource) -> Splits:
    """The split of each sample, ``[N]`` rows of ``SPLITS``. Each class is divided by group, not by sample.

    Seen classes are divided into stage 1 training, stage 1 validation (seen) and stage 2 test (seen).
    Validation-unseen classes go to stage 1 validation (unseen) and, since stage 2 trains on them, to stage 2
    test (seen). Test-unseen classes go to stage 2 test (unseen). A group with two classes is divided in each
    class separately.

    Raises:
        ValueError: a class has fewer groups than splits.
    """
    splits = np.empty(len(source.labels), dtype=np.uint8)
    for c, kind in enumerate(source.class_split):
        rows = np.flatnonzero(source.labels == c)
        if kind == TEST_UNSEEN:
            splits[rows] = SPLITS.index("stage_2_test_unseen")
            continue
        kept = "stage_1_train" if kind == SEEN else "stage_1_val_unseen"
        wanted = {"stage_2_test_seen": TEST_FRACTION}
        if kind == SEEN:
            wanted["stage_1_val_seen"] = VALIDATION_FRACTION * (1 - TEST_FRACTION)
        splits[rows] = _divide_class(source.groups[rows], kept, wanted, stream(Purpose.STAMPS_DIVISION, c))
    return splits


def _divide_class(groups: Ints, kept: str, wanted: Mapping[str, float], rng: np.random.Generator) -> Splits:
    """The split of each sample of a class, ``[n]``: about the wanted fractions, the rest in ``kept``."""
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) <= len(wanted):
        raise ValueError(f"a class of {len(names)} groups cannot be divided into {len(wanted) + 1} splits")
    left = [int(i) for i in rng.permutation(len(names))]
    splits = np.full(len(groups), SPLITS.index(kept), dtype=np.uint8)
    for position, (split, fraction) in enumerate(wanted.items()):
        reserve = len(wanted) - position
        taken = _take(left, sizes, fraction * len(groups), most=len(left) - reserve)
        splits[np.isin(groups, names[taken])] = SPLITS.index(split)
        left = [i for i in left if i not in taken]
    return splits


def _take(left: list[int], sizes: Ints, target: float, most: int) -> list[int]:
    """The first groups with about ``target`` samples in total: at least one group, at most ``most``."""
    taken = [left[0]]
    total = int(sizes[left[0]])
    for i in left[1:]:
        if len(taken) < most and abs(total + sizes[i] - target) < abs(total - target):
            taken.append(i)
            total += int(sizes[i])
    return taken


def stamps_content(card: Card, source: StampsSource, provenance: Mapping[str, Any]) -> StoreContent:
    """The contents of the feature file: samples by split, and within a split in the order of the source."""
    # Samples by split, each with the rows of its time steps in the source.
    splits = divide(source)
    order = np.argsort(splits, kind="stable")
    labels = source.labels[order]
    images = source.images[order]
    lengths = np.diff(source.audio_offsets)[order]
    audio_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    starts = source.audio_offsets[:-1][order]
    audio_rows = np.repeat(starts - audio_offsets[:-1], lengths) + np.arange(audio_offsets[-1])
    n_views, dim = source.views.shape[1:]
    return StoreContent(
        dataset=card.name,
        features=card.default_features,
        generated=card.kind == "generated",
        class_names=source.class_names,
        class_splits={name: np.unique(labels[splits[order] == p]).tolist() for p, name in enumerate(SPLITS)},
        vector_names=source.class_names,
        vectors=source.vectors,
        own_vector=range(len(source.class_names)),
        ids=[source.sample_id(i) for i in order],
        labels=labels,
        splits=splits[order],
        audio=ModalityContent(source.audio.shape[1], source.audio[audio_rows], audio_offsets),
        video=ModalityContent(
            dim, source.views[images].reshape(-1, dim), np.arange(len(labels) + 1, dtype=np.int64) * n_views
        ),
        provenance=provenance,
    )


def _check_counts(card: Card, content: StoreContent) -> None:
    _, expected = card.feature_set(None)
    samples = np.bincount(content.splits, minlength=len(SPLITS))
    wrong = [
        f"{split}: {kind} {found}, config {wanted[split]}"
        for p, split in enumerate(SPLITS)
        for kind, wanted, found in (
            ("samples", expected.samples, int(samples[p])),
            ("classes", expected.classes, len(content.class_splits[split])),
        )
        if split in wanted and wanted[split] != found
    ]
    dims = (content.audio.dim, content.video.dim, content.vectors.shape[1])
    if dims != (expected.audio.dim, expected.video.dim, expected.text_dim):
        wrong.append(f"audio, video and text dimensions: {dims}")
    if wrong:
        raise UsageError(
            f"dataset {card.name!r}: source and config differ; correct datasets/{card.name}.yaml\n"
            + "\n".join(wrong)
        )
