"""Computes statistics of the features of each split: range, zeros, NaN, infinite values, duplicates, lengths.

Features are read in blocks of about ``BLOCK_BYTES``. Besides a block, memory holds 16 bytes per sample.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import h5py
import numpy as np

from benchmark.data.cards import FeatureSetConfig
from benchmark.data.hdf5 import open_hdf5
from benchmark.data.importing.importing import Progress
from benchmark.data.importing.oddities import UNIT_TOLERANCE
from benchmark.data.store import SPLITS, DamagedStore, FeatureStore, Floats, Ints, Tables
from benchmark.data.store import frame_blocks as blocks
from benchmark.system.files import raise_outside

MODALITIES = ("audio", "video")
EXAMPLES = 3
LENGTH_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
"""The reported lengths: shortest, 5 %, median, 95 %, longest."""


@dataclass(frozen=True)
class SplitStatistics:
    """Values of one modality in one split. Shares are fractions; ranges and means are of finite values."""

    split: str
    modality: str
    samples: int
    steps: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    zeros: float | None
    """Share of values that are exactly zero; None, like the three above, if there are no values."""
    nan: int
    """Number of NaN values."""
    infinite: int
    zero_steps: int
    """Time steps that are zero in all dimensions."""
    zero_samples: int
    """Samples that are zero in all time steps."""
    bad_samples: int
    """Samples with a value that is not finite."""
    examples: Sequence[str]
    """The first few of those, or, if there are none, of the samples of zeros."""
    lengths: Sequence[float] | None
    """Time steps of a sample at ``LENGTH_QUANTILES``; None for means."""
    seconds: Sequence[float] | None
    """The same in seconds, by the seconds between two time steps in the dataset config."""
    duplicates_within: int
    """Samples with the content of another sample of the split."""
    duplicates_across: int
    """Samples with the content of a sample of another split."""
    not_unit: int | None = None
    """Time steps that are not of length 1; None if those of the feature set need not be."""


@dataclass(frozen=True)
class Duplicates:
    """Samples of identical content."""

    modality: str
    """``audio``, ``video``, or ``both`` where both are identical."""
    samples: Sequence[str]
    splits: Sequence[str]
    """The split of each sample."""
    classes: Sequence[str]
    """The class of each sample."""
    zero: bool
    """Whether the content is all zeros."""


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of all splits, and all groups of samples of identical content."""

    form: str
    """What the statistics are of: ``sequences`` or ``means``."""
    splits: Sequence[SplitStatistics]
    duplicates: Sequence[Duplicates]


@dataclass
class _Tally:
    """Sums over the blocks of one split and modality."""

    unit: bool
    """Whether time steps should be of length 1."""
    steps: int = 0
    values: int = 0
    finite: int = 0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    total: float = 0.0
    zeros: int = 0
    nan: int = 0
    infinite: int = 0
    zero_steps: int = 0
    not_unit: int = 0
    zero_samples: list[int] = field(default_factory=list)
    bad_samples: list[int] = field(default_factory=list)

    def add(self, block: Floats, starts: Ints, first: int) -> None:
        """Add time steps ``[t, D]`` of samples that start at ``starts``; ``first`` is the first sample."""
        nonzero = block != 0
        some = nonzero.any(axis=1)
        self.steps += len(block)
        self.values += block.size
        self.zeros += block.size - int(np.count_nonzero(nonzero))
        self.zero_steps += len(block) - int(np.count_nonzero(some))
        self.zero_samples += (first + np.flatnonzero(~np.logical_or.reduceat(some, starts))).tolist()
        if self.unit:
            lengths = np.sqrt(np.einsum("td,td->t", block, block, dtype=np.float64))
            self.not_unit += int(np.count_nonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE)))
        finite = np.isfinite(block)
        if not finite.all():
            bad = ~np.logical_and.reduceat(finite.all(axis=1), starts)
            self.bad_samples += (first + np.flatnonzero(bad)).tolist()
            nan, outside = int(np.isnan(block).sum()), block.size - int(np.count_nonzero(finite))
            self.nan += nan
            self.infinite += outside - nan
            block = block[finite]
        self.finite += block.size
        if block.size:
            self.minimum = min(self.minimum, float(block.min()))
            self.maximum = max(self.maximum, float(block.max()))
            self.total += float(block.sum(dtype=np.float64))


@dataclass
class _Reading:
    """What one pass over a modality collects."""

    lengths: Ints | None
    """``[N]`` time steps of each sample; None for means."""
    tallies: dict[str, _Tally]
    """By split."""
    digests: list[bytes]
    """Hash of the content of each sample."""


def feature_statistics(
    store: FeatureStore, feature_set: FeatureSetConfig, progress: Progress
) -> FeatureStatistics:
    """Compute statistics in one pass over all features.

    Args:
        store: of sequences or of means.
        feature_set: feature-set config, for the seconds between two time steps, and for their length.
        progress: called with (what, samples done, samples in all).

    Raises:
        Unavailable: the feature file cannot be read for a reason outside its content.
    """
    tables = store.tables()
    try:
        with open_hdf5(store.path) as f:
            readings = {
                modality: _read(f[modality], modality, tables, progress, unit=feature_set.unit_length)
                for modality in MODALITIES
            }
    except (OSError, MemoryError) as error:
        raise_outside(error, store.path)
        raise DamagedStore(f"{store.path}: damaged ({error!s:.150}); build or import it again") from None
    seconds = {"audio": feature_set.audio.seconds, "video": feature_set.video.seconds}
    copies = {modality: _copies(tables, readings[modality].digests) for modality in MODALITIES}
    splits = [
        _summary(tables, split, modality, readings[modality], seconds[modality], copies[modality])
        for split in SPLITS
        for modality in MODALITIES
    ]
    form = "sequences" if all(reading.lengths is not None for reading in readings.values()) else "means"
    return FeatureStatistics(form, splits, _duplicates(tables, readings))


def _read(group: h5py.Group, modality: str, tables: Tables, progress: Progress, *, unit: bool) -> _Reading:
    n, dim = group["means"].shape
    has_frames = "frames" in group
    data = group["frames" if has_frames else "means"]
    offsets: Ints = group["offsets"][:] if has_frames else np.arange(n + 1, dtype=np.int64)
    reading = _Reading(
        np.diff(offsets) if has_frames else None, {split: _Tally(unit) for split in SPLITS}, []
    )
    for index, split in enumerate(SPLITS):  # samples are sorted by split
        first, last = np.searchsorted(tables.splits, [index, index + 1]).tolist()
        for start, stop in blocks(offsets[first : last + 1], dim * data.dtype.itemsize):
            bounds = offsets[first + start : first + stop + 1]
            block = data[bounds[0] : bounds[-1]]
            reading.tallies[split].add(block, bounds[:-1] - bounds[0], first + start)
            for a, b in itertools.pairwise((bounds - bounds[0]).tolist()):
                reading.digests.append(hashlib.sha256(block[a:b]).digest()[:16])
            progress(f"reading {modality}", first + stop, n)
    return reading


def _summary(
    tables: Tables, split: str, modality: str, reading: _Reading, seconds: float, copies: tuple[Ints, Ints]
) -> SplitStatistics:
    rows = np.flatnonzero(tables.splits == SPLITS.index(split))
    tally, lengths = reading.tallies[split], None
    if reading.lengths is not None and len(rows):
        lengths = [float(x) for x in np.quantile(reading.lengths[rows], LENGTH_QUANTILES)]
    within, across = copies
    return SplitStatistics(
        split=split,
        modality=modality,
        samples=len(rows),
        steps=tally.steps,
        minimum=tally.minimum if tally.finite else None,
        maximum=tally.maximum if tally.finite else None,
        mean=tally.total / tally.finite if tally.finite else None,
        zeros=tally.zeros / tally.values if tally.values else None,
        nan=tally.nan,
        infinite=tally.infinite,
        zero_steps=tally.zero_steps,
        zero_samples=len(tally.zero_samples),
        bad_samples=len(tally.bad_samples),
        examples=[tables.ids[row] for row in (tally.bad_samples or tally.zero_samples)[:EXAMPLES]],
        lengths=lengths,
        seconds=None if lengths is None else [seconds * x for x in lengths],
        duplicates_within=int(within[rows].sum()),
        duplicates_across=int(across[rows].sum()),
        not_unit=tally.not_unit if tally.unit else None,
    )


def _equal_samples(digests: Sequence[Hashable]) -> list[list[int]]:
    """Group the rows of samples of equal content; groups of one are omitted."""
    rows: dict[Hashable, list[int]] = {}
    for row, digest in enumerate(digests):
        rows.setdefault(digest, []).append(row)
    return [group for group in rows.values() if len(group) > 1]


def _copies(tables: Tables, digests: Sequence[bytes]) -> tuple[Ints, Ints]:
    """Return for each sample whether another one of its split, and one of another split, has its content."""
    within, across = np.zeros(len(tables.ids), np.int64), np.zeros(len(tables.ids), np.int64)
    for group in _equal_samples(digests):
        splits = tables.splits[group]
        counts = np.bincount(splits, minlength=len(SPLITS))
        within[group] = counts[splits] > 1
        across[group] = counts[splits] < len(group)
    return within, across


def _duplicates(tables: Tables, readings: Mapping[str, _Reading]) -> list[Duplicates]:
    zero = {row for tally in readings["audio"].tallies.values() for row in tally.zero_samples}
    zero_video = {row for tally in readings["video"].tallies.values() for row in tally.zero_samples}
    both: list[Hashable] = list(zip(*(readings[modality].digests for modality in MODALITIES), strict=True))
    found = []
    for name, digests, empty in (
        ("both", both, zero & zero_video),
        ("audio", readings["audio"].digests, zero),
        ("video", readings["video"].digests, zero_video),
    ):
        for group in _equal_samples(digests):
            splits = [SPLITS[tables.splits[row]] for row in group]
            classes = [tables.class_names[tables.labels[row]] for row in group]
            found.append(
                Duplicates(name, [tables.ids[row] for row in group], splits, classes, group[0] in empty)
            )
    return found
