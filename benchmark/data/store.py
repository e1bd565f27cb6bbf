"""The feature store: one HDF5 file per dataset and feature set, read through memory maps.

Samples are sorted by split, so each split is a run of rows of every array. Training, tuning and validation
receive maps of the rows of their own splits, and of no other byte. Test splits are read after training, and
each access is counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmark.data.hdf5 import new_hdf5, open_hdf5
from benchmark.data.mapping import map_rows
from benchmark.data.samples import (
    DEVELOPMENT_SPLITS,
    MODALITIES,
    SPLITS,
    TEST_SPLITS,
    Alignment,
    ClassTable,
    Floats,
    Ints,
    ModalityData,
    Samples,
    Section,
    Tables,
)
from benchmark.errors import Unavailable, UsageError
from benchmark.system.files import raise_outside
from benchmark.system.locks import is_locked

__all__ = [
    "BLOCK_BYTES", "DEVELOPMENT_SPLITS", "MODALITIES", "SPLITS", "TEST_SPLITS", "Alignment", "ClassTable",
    "DamagedStore", "FeatureStore", "Floats", "Ints", "ModalityContent", "ModalityData", "Samples", "Section",
    "StoreContent", "Tables", "content_digest", "counting_test_accesses", "frame_blocks", "reading",
    "refuse_open_store", "write_store",
]  # fmt: skip

FORMAT = "gzsl-bench feature store"
VERSION = 1
BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ModalityContent:
    """One modality to write: the feature sequences of all samples, or only their temporal means."""

    dim: int
    frames: Floats | None = None
    """``[total steps, dim]``, all sequences one after the other, in an array or memory map; None if only
    means are known."""
    offsets: Ints | None = None
    """``[N + 1]``: sample i has the time steps ``offsets[i]:offsets[i + 1]``."""
    means: Floats | None = None
    """``[N, dim]``; computed from the sequences if these are given."""


@dataclass(frozen=True)
class StoreContent:
    """Everything that ``write_store`` writes, with samples sorted by split."""

    dataset: str
    features: str
    generated: bool
    class_names: Sequence[str]
    class_splits: Mapping[str, Sequence[int]]
    """Class ids of each of ``SPLITS``."""
    vector_names: Sequence[str]
    """Names of the class embeddings, sorted. The published code gives row k to class id k."""
    vectors: Floats
    """``[K, D_w]``, in the order of ``vector_names``."""
    own_vector: Sequence[int]
    """For each class id the row of its own embedding."""
    ids: Sequence[str]
    labels: Ints
    splits: NDArray[np.uint8]
    """Index into ``SPLITS`` for each sample, non-decreasing."""
    audio: ModalityContent
    video: ModalityContent
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_store(path: Path, content: StoreContent, dtype: Literal["float32", "float16"] = "float32") -> None:
    """Write a store atomically, a block of samples at a time.

    Raises:
        ValueError: splits are out of order, lengths do not fit, or a class has no embedding.
        Unavailable: another program has the file open for writing.
        OutsideError: the path is a folder or a broken link.
    """
    _check(content)
    refuse_open_store(path)
    with new_hdf5(path) as (f, check):
        _write_tables(f, content)
        for name, modality in (("audio", content.audio), ("video", content.video)):
            _write_modality(f.create_group(name), modality, len(content.ids), np.dtype(dtype), check)
        f.flush()
        check()
        n_dev = int(np.searchsorted(content.splits, len(DEVELOPMENT_SPLITS)))
        f.attrs["digest"] = content_digest(f, len(content.ids), SPLITS)
        f.attrs["development_digest"] = content_digest(f, n_dev, DEVELOPMENT_SPLITS)
        refuse_open_store(path)  # it may have been opened meanwhile


def refuse_open_store(path: Path) -> None:
    """Refuse to replace a store that another program is writing to, whose changes would be lost.

    Raises:
        Unavailable: another program has it open for writing.
    """
    with suppress(OSError):  # a missing file is not open, and a file system without locks cannot tell
        if is_locked(path):
            raise Unavailable(
                f"{path}: another program has it open for writing; close it there, then repeat the command"
            )


def _check(content: StoreContent) -> None:
    # Samples.
    n = len(content.ids)
    if not (len(content.labels) == len(content.splits) == n) or n == 0:
        raise ValueError(
            f"a file needs samples: {n} ids, {len(content.labels)} labels, {len(content.splits)} splits"
        )
    if np.any(np.diff(content.splits.astype(int)) < 0):
        raise ValueError("samples must be sorted by split, in the order of SPLITS")

    # Classes and their embeddings.
    if list(content.vector_names) != sorted(content.vector_names) or len(content.own_vector) != len(
        content.class_names
    ):
        raise ValueError("class embeddings must be sorted by name, with one row named for each class")
    if len(content.vectors) != len(content.vector_names) or not _within(
        content.own_vector, len(content.vectors)
    ):
        raise ValueError(
            "there must be a row of vectors for each vector name, and own_vector must name such rows"
        )
    if set(content.class_splits) != set(SPLITS):
        raise ValueError(f"class lists must be given for {SPLITS}")
    for name, ids in {**content.class_splits, "labels": np.unique(content.labels)}.items():
        if not _within(ids, len(content.class_names)):
            raise ValueError(f"{name}: classes are named by their index in class_names")

    # Features.
    for modality in (content.audio, content.video):
        if modality.frames is not None:
            offsets = modality.offsets
            if (
                offsets is None
                or len(offsets) != n + 1
                or offsets[-1] != len(modality.frames)
                or np.any(np.diff(offsets) < 1)
            ):
                raise ValueError("offsets must bound at least one time step for each sample")
        elif modality.means is None or len(modality.means) != n:
            raise ValueError("a modality needs sequences, or a mean for each sample")


def _within(values: Iterable[int], size: int) -> bool:
    return all(0 <= int(v) < size for v in values)


def _write_tables(f: h5py.File, content: StoreContent) -> None:
    f.attrs.update(
        format=FORMAT,
        version=VERSION,
        dataset=content.dataset,
        features=content.features,
        generated=content.generated,
    )
    f.attrs["provenance"] = json.dumps(dict(content.provenance), sort_keys=True)
    strings = h5py.string_dtype("utf-8")
    f.create_dataset("samples/ids", data=list(content.ids), dtype=strings)
    f.create_dataset("samples/labels", data=content.labels.astype("<i8"))
    f.create_dataset("samples/parts", data=content.splits.astype("u1"))
    f.create_dataset("classes/names", data=list(content.class_names), dtype=strings)
    f.create_dataset("classes/vector_names", data=list(content.vector_names), dtype=strings)
    f.create_dataset("classes/vectors", data=np.asarray(content.vectors, "<f4"))
    f.create_dataset("classes/own_vector", data=np.asarray(content.own_vector, "<i8"))
    for split in SPLITS:
        f.create_dataset(
            f"classes/parts/{split}", data=np.asarray(sorted(content.class_splits[split]), "<i8")
        )


def _write_modality(
    group: h5py.Group, modality: ModalityContent, n: int, dtype: np.dtype[Any], check: Callable[[], None]
) -> None:
    means = group.create_dataset("means", (n, modality.dim), "<f4")

    # Only means are known.
    if modality.frames is None or modality.offsets is None:
        assert modality.means is not None  # checked
        rows = max(1, BLOCK_BYTES // (modality.dim * 4))
        for i in range(0, n, rows):
            means[i : min(n, i + rows)] = np.asarray(modality.means[i : min(n, i + rows)])
            check()
        return

    # Sequences and their means, which are computed from the values as stored.
    offsets = np.asarray(modality.offsets, "<i8")
    group.create_dataset("offsets", data=offsets)
    frames = group.create_dataset("frames", (int(offsets[-1]), modality.dim), dtype.newbyteorder("<"))
    for start, stop in frame_blocks(offsets, modality.dim * 8):
        block = np.asarray(modality.frames[offsets[start] : offsets[stop]]).astype(dtype)
        frames[offsets[start] : offsets[stop]] = block
        samples = np.split(block, offsets[start + 1 : stop] - offsets[start])  # reduceat is much slower
        means[start:stop] = np.stack([x.mean(0, dtype=np.float64) for x in samples])
        check()


def frame_blocks(offsets: Ints, bytes_per_frame: int) -> Iterator[tuple[int, int]]:
    """Ranges of samples whose sequences fill about ``BLOCK_BYTES`` each."""
    frames_per_block = max(1, BLOCK_BYTES // bytes_per_frame)
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + frames_per_block, side="right")) - 1
        stop = max(start + 1, stop)
        yield start, stop
        start = stop


def content_digest(f: h5py.File, n: int, splits: Sequence[str]) -> str:
    """sha256 of everything in a store that can change a result, independent of the layout of the file.

    Args:
        f: the store's file.
        n: number of samples, from the first one, to include.
        splits: the splits of these samples.
    """
    # Names and splits. The keys are those of earlier versions, so that digests stay.
    sha = hashlib.sha256()
    ids, names = f["samples/ids"].asstr()[:n], f["classes/names"].asstr()[:]
    classes = sorted({int(c) for split in splits for c in f[f"classes/parts/{split}"][:]})
    own = f["classes/own_vector"][:]
    vectors = f["classes/vectors"][:]
    header = {
        "version": VERSION,
        "dataset": f.attrs["dataset"],
        "features": f.attrs["features"],
        "ids": list(ids),
        "names": [str(names[c]) for c in classes],
        "parts": {split: f[f"classes/parts/{split}"][:].tolist() for split in splits},
    }
    sha.update(json.dumps(header, sort_keys=True).encode())

    # Labels, and the embeddings that classes get as their own and in the official order.
    sha.update(f["samples/labels"][:n].tobytes() + f["samples/parts"][:n].tobytes())
    sha.update(vectors[own[classes]].tobytes())
    if len(vectors) > max(classes):
        sha.update(vectors[classes].tobytes())

    # Sequences, or means if there are no sequences.
    for name in MODALITIES:
        group = f[name]
        arrays = [(group["means"], n)]
        if "frames" in group:
            offsets = group["offsets"][: n + 1]
            sha.update(offsets.tobytes())
            arrays = [(group["frames"], int(offsets[-1]))]
        for data, rows in arrays:
            sha.update(f"{name} {data.dtype.str} {data.shape[1]} {rows}".encode())
            step = max(1, BLOCK_BYTES // (data.shape[1] * data.dtype.itemsize))
            for i in range(0, rows, step):
                sha.update(np.ascontiguousarray(data[i : min(rows, i + step)]).data)
    return sha.hexdigest()


class DamagedStore(UsageError):
    """A file that is no feature store, or a damaged or outdated one. It must be built or imported again."""


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """The open file of a store.

    Raises:
        DamagedStore: it is not a store, or the data that the block reads are damaged.
        OutsideError: there is no such file, or it is a folder.
        Unavailable: it cannot be read for another reason, which may pass.
    """
    try:
        with open_hdf5(path) as f:
            yield f
    except (
        OSError,
        MemoryError,
        LookupError,
        ValueError,
        TypeError,
        RuntimeError,
        AttributeError,
    ) as error:  # HDF5 fails in many ways
        raise_outside(error, path)
        refuse_open_store(path)
        why = f"{type(error).__name__}: {error!s:.150}"
        raise DamagedStore(f"{path}: not a readable feature file ({why}); build or import it again") from None


class FeatureStore:
    """A feature store: its path and header. Samples and classes are only read on request.

    ``data.locate.open_or_build`` returns it. A process that trains holds no test data: only ``open_test``,
    whose calls are counted (``counting_test_accesses``), and ``tables``, which tools use to check a store,
    read them.

    Args:
        path: the HDF5 file.
        in_memory: read the arrays instead of mapping them.

    Raises:
        DamagedStore: it is not a store, or it is truncated or damaged.
        OutsideError: there is no such file, or it is a folder.
        Unavailable: it cannot be read for another reason, which may pass.
    """

    def __init__(self, path: Path, *, in_memory: bool = False) -> None:
        self.path = path
        self.in_memory = in_memory
        with reading(path) as f:
            self._read_header(f)

    def _read_header(self, f: h5py.File) -> None:
        if f.attrs.get("format") != FORMAT or f.attrs.get("version") != VERSION:
            raise DamagedStore(
                f"{self.path}: not a feature file of version {VERSION}; build or import it again"
            )
        self.dataset, self.features = str(f.attrs["dataset"]), str(f.attrs["features"])
        self.generated = bool(f.attrs["generated"])
        self.digest, self.development_digest = str(f.attrs["digest"]), str(f.attrs["development_digest"])
        self.provenance: dict[str, Any] = json.loads(f.attrs["provenance"])
        self.unusable_names: list[dict[str, Any]] = self.provenance.get("unusable_names", [])
        """``split``, ``class`` and number of ``samples`` of the class files whose sample names are unusable.

        The ids of these samples are made up, and their source videos are unknown."""
        splits = f["samples/parts"][:]
        self.counts: dict[str, int] = {split: int((splits == i).sum()) for i, split in enumerate(SPLITS)}
        """Number of samples of each split."""
        self.text_dim = int(f["classes/vectors"].shape[1])
        self.has_sequences = "frames" in f["audio"] and "frames" in f["video"]
        self.one_time_step = self.has_sequences and all(
            len(f[m]["frames"]) == len(splits) for m in MODALITIES
        )
        """Whether every sequence has one time step, as of features with one vector per clip."""
        self.audio_dim, self.video_dim = (int(f[m]["means"].shape[1]) for m in MODALITIES)
        size = self.path.stat().st_size
        arrays = [f[m][a] for m in MODALITIES for a in ("means", "frames") if a in f[m]]
        if any(int(x.id.get_offset()) + x.size * x.dtype.itemsize > size for x in arrays):
            raise DamagedStore(f"{self.path}: the file is truncated; build or import it again")

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        """Open the file again.

        Raises:
            DamagedStore, OutsideError, Unavailable: it can no longer be read.
            UsageError: it was replaced by another store.
        """
        with reading(self.path) as f:
            if str(f.attrs.get("digest")) != self.digest:
                raise UsageError(
                    f"{self.path}: was replaced by another file while it was in use; rerun the command"
                )
            yield f

    @property
    def unusable_samples(self) -> int:
        """Number of samples whose ids are made up."""
        return sum(int(entry["samples"]) for entry in self.unusable_names)

    def tables(self) -> Tables:
        """Ids, labels, classes and class embeddings of all splits, read again at each call."""
        with self._opened() as f:
            return _tables(f)

    def require_sequences(self, method: str) -> None:
        """Refuse a store that only has temporal means.

        Args:
            method: title of the method that needs sequences.

        Raises:
            UsageError: the store has no sequences.
        """
        if reason := self.without_sequences():
            raise UsageError(f"{method} {reason}")

    def without_sequences(self) -> str:
        """Why no sequence method can use it, and what to do; empty if they can."""
        if self.has_sequences:
            return ""
        return (
            f"needs sequences, but {self.path} holds temporal means only; "
            f"import the *_non_averaged features (data import {self.dataset} --features {self.features} "
            "--form sequences --from DIR)"
        )

    def development(
        self,
        alignment: Alignment,
        shuffle_seed: int = 0,
        *,
        splits: Sequence[str] = DEVELOPMENT_SPLITS,
        sequences: bool = True,
    ) -> Section:
        """The training and validation splits, or some of them.

        Args:
            alignment: which embedding each class gets.
            shuffle_seed: seed of the permutation of ``shuffled``.
            splits: neighbours among ``DEVELOPMENT_SPLITS``, in their order.
            sequences: whether to read sequences; otherwise only means are read.

        Raises:
            ValueError: a test split, or splits that are no neighbours.
        """
        first = DEVELOPMENT_SPLITS.index(splits[0])
        if tuple(splits) != DEVELOPMENT_SPLITS[first : first + len(splits)]:
            raise ValueError(f"development splits in their order are wanted, not {', '.join(splits)}")
        return self._section(splits, splits, alignment, shuffle_seed, sequences)

    def open_test(self, alignment: Alignment, shuffle_seed: int = 0, *, sequences: bool = True) -> Section:
        """The test splits with all classes. Calls are counted; only ``protocol/stages.py`` may call it."""
        for count in _counters:
            count()
        return self._section(TEST_SPLITS, SPLITS, alignment, shuffle_seed, sequences)

    def class_embeddings(self, split: str, alignment: Alignment, shuffle_seed: int = 0) -> Floats:
        """Embeddings ``[C, D_w]`` of a split's classes without samples, for methods that declare this use."""
        tables = self.tables()
        rows = tables.vector_rows(alignment, shuffle_seed)
        return np.asarray(tables.vectors[rows[tables.class_splits[split]]], np.float32)

    def _section(
        self,
        splits: Sequence[str],
        class_splits: Sequence[str],
        alignment: Alignment,
        shuffle_seed: int,
        sequences: bool,
    ) -> Section:
        before = SPLITS[: SPLITS.index(splits[0])]
        start = sum(self.counts[split] for split in before)
        stop = start + sum(self.counts[split] for split in splits)
        with self._opened() as f:
            tables = _tables(f)
            samples = Samples(
                audio=self._modality(f, "audio", start, stop, sequences),
                video=self._modality(f, "video", start, stop, sequences),
                labels=tables.labels[start:stop].copy(),  # a view would keep those of other splits
                splits=tables.splits[start:stop].copy(),
                ids=tables.ids[start:stop],
            )
        return Section(samples, tables.class_table(class_splits, tables.vector_rows(alignment, shuffle_seed)))

    def _modality(self, f: h5py.File, name: str, start: int, stop: int, sequences: bool) -> ModalityData:
        means = self._map(f, f"{name}/means", start, stop)
        if "offsets" not in f[name] or not sequences:
            return ModalityData(means.shape[1], means, None, None)
        offsets = f[name]["offsets"][start : stop + 1]
        frames = self._map(f, f"{name}/frames", int(offsets[0]), int(offsets[-1]))
        return ModalityData(means.shape[1], means, frames, offsets - offsets[0])

    def _map(self, f: h5py.File, key: str, start: int, stop: int) -> Floats:
        """A map of rows ``start:stop`` of a contiguous array, and of nothing else."""
        array = f[key]
        columns, dtype = int(array.shape[1]), array.dtype
        first = int(array.id.get_offset()) + start * columns * dtype.itemsize
        mapped = map_rows(f.id.get_vfd_handle(), dtype, (stop - start, columns), first)
        return np.array(mapped) if self.in_memory else mapped


def _tables(f: h5py.File) -> Tables:
    return Tables(
        ids=list(f["samples/ids"].asstr()[:]),
        labels=f["samples/labels"][:],
        splits=f["samples/parts"][:],
        class_names=list(f["classes/names"].asstr()[:]),
        class_splits={split: f[f"classes/parts/{split}"][:] for split in SPLITS},
        vector_names=list(f["classes/vector_names"].asstr()[:]),
        vectors=f["classes/vectors"][:],
        own_vector=f["classes/own_vector"][:],
    )


_counters: list[Callable[[], None]] = []
"""Called by each ``FeatureStore.open_test`` of this process."""


@contextmanager
def counting_test_accesses(count: Callable[[], None]) -> Iterator[None]:
    """Within the block, call ``count`` before each opening of a test split in this process."""
    _counters.append(count)
    try:
        yield
    finally:
        _counters.remove(count)
