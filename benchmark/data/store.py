"""The feature store: one HDF5 file per data set and feature set, read through memory maps.

Samples are ordered by split, so each split is a run of rows of every array. What training, tuning and validation receive maps
rows of their own splits and no byte beside them. The test splits are read from the file after training, and each such access is
counted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmark.data.hdf5 import new_hdf5, open_hdf5
from benchmark.data.mapping import map_rows
from benchmark.errors import Unavailable, UsageError
from benchmark.system.files import raise_outside
from benchmark.system.locks import is_locked
from benchmark.system.streams import Purpose, stream

FORMAT = "gzsl-bench feature store"
VERSION = 1
DEVELOPMENT_SPLITS = ("stage_1_train", "stage_1_val_seen", "stage_1_val_unseen")
TEST_SPLITS = ("stage_2_test_seen", "stage_2_test_unseen")
SPLITS = DEVELOPMENT_SPLITS + TEST_SPLITS
"""Splits in the order in which their samples stand in a store. ``stage_2_train`` is the union of the first three."""
BLOCK_BYTES = 64 * 2**20

Alignment = Literal["official", "corrected", "shuffled"]
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ModalityContent:
    """What is written of one modality: frames of all samples one after the other, or only temporal means."""

    dim: int
    frames: Floats | None = None
    """``[total steps, dim]``, any array or memory map; None where only means are known."""
    offsets: Ints | None = None
    """``[N + 1]``: sample i has the frames ``offsets[i]:offsets[i + 1]``."""
    means: Floats | None = None
    """``[N, dim]``; computed from the frames where those are given."""


@dataclass(frozen=True)
class StoreContent:
    """All that a store holds; samples sorted by split."""

    dataset: str
    features: str
    generated: bool
    class_names: Sequence[str]
    class_splits: Mapping[str, Sequence[int]]
    """Split -> class ids, for each of ``SPLITS``."""
    vector_names: Sequence[str]
    """Names of the word vectors, sorted: row k is what published code gives to class id k."""
    vectors: Floats
    """``[K, D_w]``, in the order of ``vector_names``."""
    own_vector: Sequence[int]
    """For each class id the row of its own word vector."""
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
        ValueError: splits out of order, lengths that do not fit, a class without a vector.
        Unavailable: another program has the file open for writing.
        OutsideError: a folder or a broken link is in its place.
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
    """See that no other program writes to a store: what it writes would be lost if the store were replaced.

    Raises:
        Unavailable: one has it open for writing.
    """
    with suppress(OSError):  # a missing file is not open, and a file system without locks cannot tell
        if is_locked(path):
            raise Unavailable(f"{path}: another program has it open for writing; close it there, then repeat the command")


def _check(content: StoreContent) -> None:
    n = len(content.ids)
    if not (len(content.labels) == len(content.splits) == n) or n == 0:
        raise ValueError(f"a store needs samples: {n} ids, {len(content.labels)} labels, {len(content.splits)} splits")
    if np.any(np.diff(content.splits.astype(int)) < 0):
        raise ValueError("samples must be sorted by split, in the order of SPLITS")
    if list(content.vector_names) != sorted(content.vector_names) or len(content.own_vector) != len(content.class_names):
        raise ValueError("word vectors must be sorted by name, with one row named for each class")
    if len(content.vectors) != len(content.vector_names) or not _within(content.own_vector, len(content.vectors)):
        raise ValueError("there must be a row of vectors for each vector name, and own_vector must name such rows")
    if set(content.class_splits) != set(SPLITS):
        raise ValueError(f"class lists must be given for {SPLITS}")
    for name, ids in {**content.class_splits, "labels": np.unique(content.labels)}.items():
        if not _within(ids, len(content.class_names)):
            raise ValueError(f"{name}: classes are named by their index in class_names")
    for modality in (content.audio, content.video):
        if modality.frames is not None:
            offsets = modality.offsets
            if offsets is None or len(offsets) != n + 1 or offsets[-1] != len(modality.frames) or np.any(np.diff(offsets) < 1):
                raise ValueError("offsets must bound at least one frame for each sample")
        elif modality.means is None or len(modality.means) != n:
            raise ValueError("a modality needs frames, or a mean for each sample")


def _within(values: Iterable[int], size: int) -> bool:
    return all(0 <= int(v) < size for v in values)


def _write_tables(f: h5py.File, content: StoreContent) -> None:
    f.attrs.update(
        format=FORMAT, version=VERSION, dataset=content.dataset, features=content.features, generated=content.generated
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
        f.create_dataset(f"classes/parts/{split}", data=np.asarray(sorted(content.class_splits[split]), "<i8"))


def _write_modality(
    group: h5py.Group, modality: ModalityContent, n: int, dtype: np.dtype[Any], check: Callable[[], None]
) -> None:
    means = group.create_dataset("means", (n, modality.dim), "<f4")
    if modality.frames is None or modality.offsets is None:
        assert modality.means is not None  # checked
        rows = max(1, BLOCK_BYTES // (modality.dim * 4))
        for i in range(0, n, rows):
            means[i : min(n, i + rows)] = np.asarray(modality.means[i : min(n, i + rows)])
            check()
        return
    offsets = np.asarray(modality.offsets, "<i8")
    group.create_dataset("offsets", data=offsets)
    frames = group.create_dataset("frames", (int(offsets[-1]), modality.dim), dtype.newbyteorder("<"))
    for start, stop in frame_blocks(offsets, modality.dim * 8):
        block = np.asarray(modality.frames[offsets[start] : offsets[stop]]).astype(dtype)  # means are of what is stored
        frames[offsets[start] : offsets[stop]] = block
        samples = np.split(block, offsets[start + 1 : stop] - offsets[start])  # reduceat is much slower
        means[start:stop] = np.stack([x.mean(0, dtype=np.float64) for x in samples])
        check()


def frame_blocks(offsets: Ints, bytes_per_frame: int) -> Iterator[tuple[int, int]]:
    """Ranges of samples whose frames fill about ``BLOCK_BYTES``."""
    frames_per_block = max(1, BLOCK_BYTES // bytes_per_frame)
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + frames_per_block, side="right")) - 1
        stop = max(start + 1, stop)
        yield start, stop
        start = stop


def content_digest(f: h5py.File, n: int, splits: Sequence[str]) -> str:
    """sha256 of everything that can change a number in the first ``n`` samples, independent of the file's layout."""
    sha = hashlib.sha256()
    ids = f["samples/ids"].asstr()[:n]
    classes = sorted({int(c) for split in splits for c in f[f"classes/parts/{split}"][:]})
    own = f["classes/own_vector"][:]
    vectors = f["classes/vectors"][:]
    header = {
        "version": VERSION,
        "dataset": f.attrs["dataset"],
        "features": f.attrs["features"],
        "ids": list(ids),
        "names": [str(f["classes/names"].asstr()[c]) for c in classes],
        "parts": {split: f[f"classes/parts/{split}"][:].tolist() for split in splits},
    }
    sha.update(json.dumps(header, sort_keys=True).encode())
    sha.update(f["samples/labels"][:n].tobytes() + f["samples/parts"][:n].tobytes())
    sha.update(vectors[own[classes]].tobytes())
    if len(vectors) > max(classes):
        sha.update(vectors[classes].tobytes())
    for name in ("audio", "video"):
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
        """Steps of each sample, ``[N]``.

        Raises:
            UsageError: the store holds temporal means only.
        """
        if self.offsets is None:
            raise UsageError(
                "this feature store holds temporal means only, but the method needs sequences; "
                "import the *_non_averaged features (data import ... --form sequences)"
            )
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Samples:
    """A contiguous run of samples of a store and nothing beyond it."""

    audio: ModalityData
    video: ModalityData
    labels: Ints
    """``[N]`` class ids."""
    splits: NDArray[np.uint8]
    """``[N]`` index into ``SPLITS``."""
    ids: Sequence[str]

    def rows(self, *splits: str) -> Ints:
        """Rows of the samples of the named splits."""
        return np.flatnonzero(np.isin(self.splits, [SPLITS.index(s) for s in splits]))


@dataclass(frozen=True)
class ClassTable:
    """Class ids of the splits, names, and word vectors under one alignment, for those splits' classes only."""

    splits: Mapping[str, Ints]
    names: Mapping[int, str]
    vectors: Mapping[int, Floats]

    def text(self, class_ids: Ints) -> Floats:
        """Word vectors ``[C, D_w]`` float32 of class ids."""
        return np.stack([self.vectors[int(c)] for c in class_ids]).astype(np.float32)


@dataclass(frozen=True)
class Section:
    """Samples with the classes that go with them: what the development data and the test data each are."""

    samples: Samples
    classes: ClassTable


@dataclass(frozen=True)
class Tables:
    """All that a store holds besides features: of training, validation and test splits alike."""

    ids: Sequence[str]
    labels: Ints
    splits: NDArray[np.uint8]
    """``[N]`` index into ``SPLITS``, non-decreasing."""
    class_names: Sequence[str]
    class_splits: Mapping[str, Ints]
    """Split -> class ids."""
    vector_names: Sequence[str]
    vectors: Floats
    own_vector: Ints

    def vector_rows(self, alignment: Alignment, shuffle_seed: int = 0) -> Ints:
        """For each class id the row of ``vectors`` that it gets.

        ``official``: row k of the name-sorted vectors for class id k, as published code does. ``corrected``: each class its
        own. ``shuffled``: own vectors permuted at random, a control in which class names say nothing; development classes
        among themselves and the rest among themselves, so that no test class has a say in training.

        Raises:
            UsageError: there is no official order.
        """
        if alignment == "official":
            if len(self.vector_names) != len(self.class_names):
                raise UsageError(
                    f"{len(self.vector_names)} word vectors for {len(self.class_names)} classes have no official "
                    "order; use protocol.text_alignment=corrected"
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
        """Ids of the classes of some splits, ascending."""
        return np.unique(np.concatenate([self.class_splits[split] for split in splits]))

    def class_table(self, class_splits: Sequence[str], rows: Ints) -> ClassTable:
        """The classes of some splits, each with the vector of its row."""
        ids = self.classes_of(class_splits).tolist()
        return ClassTable(
            splits={split: self.class_splits[split] for split in class_splits},
            names={c: self.class_names[c] for c in ids},
            vectors={c: self.vectors[rows[c]].copy() for c in ids},
        )


class DamagedStore(UsageError):
    """A file that is no feature store, or a truncated, damaged or outdated one: it has to be built or imported again."""


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """A store's file, open for reading.

    Raises:
        DamagedStore: it is not a store, or what is read of it is damaged.
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
        raise DamagedStore(f"{path}: not a readable feature store ({why}); build or import it again") from None


class FeatureStore:
    """A feature store: where it lies and what its file says of it. Samples and classes are read when they are asked for.

    So a process that trains holds nothing of the test splits: they are read by ``open_test``, which counts itself
    (``counting_test_accesses``), or by ``tables``, which tools use that check or describe a store.

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
            raise DamagedStore(f"{self.path}: not a feature store of version {VERSION}; build or import it again")
        self.dataset, self.features = str(f.attrs["dataset"]), str(f.attrs["features"])
        self.generated = bool(f.attrs["generated"])
        self.digest, self.development_digest = str(f.attrs["digest"]), str(f.attrs["development_digest"])
        self.provenance: dict[str, Any] = json.loads(f.attrs["provenance"])
        splits = f["samples/parts"][:]
        self.counts: dict[str, int] = {split: int((splits == i).sum()) for i, split in enumerate(SPLITS)}
        """Samples of each split."""
        self.text_dim = int(f["classes/vectors"].shape[1])
        self.has_sequences = "frames" in f["audio"] and "frames" in f["video"]
        self.audio_dim, self.video_dim = (int(f[m]["means"].shape[1]) for m in ("audio", "video"))
        size = self.path.stat().st_size
        arrays = [f[m][a] for m in ("audio", "video") for a in ("means", "frames") if a in f[m]]
        if any(int(x.id.get_offset()) + x.size * x.dtype.itemsize > size for x in arrays):
            raise DamagedStore(f"{self.path}: the file is truncated; build or import it again")

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        """The file, once more.

        Raises:
            DamagedStore, OutsideError, Unavailable: it cannot be read any more.
            UsageError: another one is in its place.
        """
        with reading(self.path) as f:
            if str(f.attrs.get("digest")) != self.digest:
                raise UsageError(f"{self.path}: was replaced by another store while this one was in use; start again")
            yield f

    def tables(self) -> Tables:
        """Ids, labels, classes and word vectors of all splits, read now and not kept."""
        with self._opened() as f:
            return _tables(f)

    def require_sequences(self, method: str) -> None:
        """Refuse a store of means alone.

        Args:
            method: title of the method that reads sequences.

        Raises:
            UsageError: only means were imported.
        """
        if not self.has_sequences:
            raise UsageError(
                f"{method} needs sequences, but {self.path} holds temporal means only; import the *_non_averaged features "
                f"(data import {self.dataset} --features {self.features} --form sequences --from DIR)"
            )

    def development(
        self,
        alignment: Alignment,
        shuffle_seed: int = 0,
        *,
        splits: Sequence[str] = DEVELOPMENT_SPLITS,
        sequences: bool = True,
    ) -> Section:
        """Training and validation splits, or some of them.

        Args:
            alignment: which word vector each class gets.
            shuffle_seed: fixes the permutation of ``shuffled``.
            splits: which of ``DEVELOPMENT_SPLITS``, neighbours and in their order.
            sequences: whether frames are wanted; without them only means are read.

        Raises:
            ValueError: a test split, or splits that are no neighbours.
        """
        first = DEVELOPMENT_SPLITS.index(splits[0])
        if tuple(splits) != DEVELOPMENT_SPLITS[first : first + len(splits)]:
            raise ValueError(f"development splits in their order are wanted, not {', '.join(splits)}")
        return self._section(splits, splits, alignment, shuffle_seed, sequences)

    def open_test(self, alignment: Alignment, shuffle_seed: int = 0, *, sequences: bool = True) -> Section:
        """The test splits, with all classes; each call is counted. Only ``protocol/stages.py`` may call it."""
        for count in _counters:
            count()
        return self._section(TEST_SPLITS, SPLITS, alignment, shuffle_seed, sequences)

    def class_embeddings(self, split: str, alignment: Alignment, shuffle_seed: int = 0) -> Floats:
        """Word vectors ``[C, D_w]`` of a split's classes and nothing of its samples, for methods that declare this use."""
        tables = self.tables()
        rows = tables.vector_rows(alignment, shuffle_seed)
        return np.asarray(tables.vectors[rows[tables.class_splits[split]]], np.float32)

    def _section(
        self, splits: Sequence[str], class_splits: Sequence[str], alignment: Alignment, shuffle_seed: int, sequences: bool
    ) -> Section:
        before = SPLITS[: SPLITS.index(splits[0])]
        start = sum(self.counts[split] for split in before)
        stop = start + sum(self.counts[split] for split in splits)
        with self._opened() as f:
            tables = _tables(f)
            samples = Samples(
                audio=self._modality(f, "audio", start, stop, sequences),
                video=self._modality(f, "video", start, stop, sequences),
                labels=tables.labels[start:stop].copy(),  # a view would carry those of other splits
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
        """Rows ``start:stop`` of a contiguous array, mapped and nothing beside them."""
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
    """While entered, ``count`` is called before a test split is opened, whoever opens it."""
    _counters.append(count)
    try:
        yield
    finally:
        _counters.remove(count)


MODALITIES = ("audio", "video")
