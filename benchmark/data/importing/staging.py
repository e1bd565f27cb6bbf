"""Keeps the features of an import on disk until the feature file is written: a killed import continues.

The sequences of a class are appended to ``audio.f32`` and ``video.f32``. They reach the disk before the line
of the journal that names them. What the journal does not name is cut off when the staging is opened again.
Files are not mapped, since mapped pages would count towards the memory of an import.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmark.data.importing.class_files import ClassContent
from benchmark.data.store import MODALITIES, Floats, Ints
from benchmark.system.files import SourceFile, replacing, to_disk, unchanged


@dataclass(frozen=True)
class StagedModality:
    """Rows of one class in a flat file."""

    start: int
    """First row."""
    lengths: list[int]
    peak: float

    @property
    def stop(self) -> int:
        return self.start + sum(self.lengths)


@dataclass(frozen=True)
class StagedClass:
    """One line of the journal: a class of a split, or a group of files, that is safely on the disk."""

    split: str
    name: str
    ids: list[str]
    sources: list[SourceFile]
    audio: StagedModality
    video: StagedModality

    def modality(self, name: str) -> StagedModality:
        return self.audio if name == "audio" else self.video


def _parse(line: bytes) -> StagedClass:
    fields = json.loads(line)
    audio, video = (StagedModality(**fields.pop(modality)) for modality in MODALITIES)
    sources = [SourceFile(**source) for source in fields.pop("sources")]
    split = fields.pop("split" if "split" in fields else "part")  # "part" in journals of earlier versions
    return StagedClass(split, sources=sources, audio=audio, video=video, **fields)


class Staging:
    """The staging of one import. A staging with another header is emptied.

    Args:
        folder: of the flat files; made if missing.
        header: everything that decides what is staged, such as feature set, form and version.
        dims: features per time step by modality.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], dims: Mapping[str, int]) -> None:
        self.folder = folder
        self.dims = dict(dims)
        self.classes: dict[tuple[str, str], StagedClass] = {}
        self._header = json.dumps({**header, "dims": self.dims}, sort_keys=True).encode() + b"\n"
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = folder / "journal.jsonl"
        self._open_journal()

    def path(self, modality: str) -> Path:
        return self.folder / f"{modality}.f32"

    def _open_journal(self) -> None:
        """Keep what both the journal and the files have; cut off the rest."""
        content = self._journal.read_bytes() if self._journal.is_file() else b""
        if not content.startswith(self._header):
            content = self._header
            for modality in MODALITIES:
                self.path(modality).write_bytes(b"")
            self._write_journal(content)
            return
        rows = {
            m: self.path(m).stat().st_size // (self.dims[m] * 4) if self.path(m).is_file() else 0
            for m in MODALITIES
        }
        good = len(self._header)
        for line in content[good:].splitlines(keepends=True):
            try:
                staged = _parse(line) if line.endswith(b"\n") else None
            except (ValueError, TypeError, KeyError):
                staged = None
            if staged is None or any(staged.modality(m).stop > rows[m] for m in MODALITIES):
                break
            self.classes[staged.split, staged.name] = staged
            good += len(line)
        self._write_journal(content[:good])
        for modality in MODALITIES:
            self.path(modality).touch()
            os.truncate(self.path(modality), self._end(modality) * self.dims[modality] * 4)

    def _write_journal(self, content: bytes) -> None:
        """Replace the journal atomically: a kill between truncating and writing would lose all of it."""
        with replacing(self._journal) as temporary:
            temporary.write_bytes(content)

    def _end(self, modality: str) -> int:
        return max((staged.modality(modality).stop for staged in self.classes.values()), default=0)

    def current(self, split: str, name: str, root: Path, paths: Sequence[Path]) -> StagedClass | None:
        """Return the staged class if it was read from these files as they are now."""
        staged = self.classes.get((split, name))
        if staged is None or [s.path for s in staged.sources] != [
            p.relative_to(root).as_posix() for p in paths
        ]:
            return None
        return staged if all(unchanged(source, root) for source in staged.sources) else None

    def append(
        self, split: str, name: str, sources: Sequence[SourceFile], content: ClassContent
    ) -> StagedClass:
        """Append the sequences of a class. On return they and their line of the journal are on the disk."""
        with self.appending() as appender:
            for i, sample in enumerate(content.ids):
                appender.add(sample, {m: content.sequences[m][i] for m in MODALITIES}, content.peaks)
            return appender.commit(split, name, sources)

    @contextmanager
    def appending(self) -> Iterator[Appender]:
        """Give an appender. What it has not committed is overwritten by the next one."""
        with ExitStack() as stack:
            files = {m: stack.enter_context(open(self.path(m), "r+b")) for m in MODALITIES}
            starts = {m: self._end(m) for m in MODALITIES}
            for modality, file in files.items():
                file.seek(starts[modality] * self.dims[modality] * 4)
            yield Appender(files, starts, self._commit)

    def _commit(self, staged: StagedClass) -> None:
        with open(self._journal, "ab") as f:
            f.write(json.dumps(asdict(staged)).encode() + b"\n")
            f.flush()
            to_disk(f.fileno())
        self.classes[staged.split, staged.name] = staged

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class Appender:
    """Appends samples to the flat files; made by ``Staging.appending``."""

    def __init__(
        self, files: Mapping[str, BinaryIO], starts: Mapping[str, int], journal: Callable[[StagedClass], None]
    ) -> None:
        self._files = files
        self._starts = starts
        self._journal = journal
        self._ids: list[str] = []
        self._lengths: dict[str, list[int]] = {m: [] for m in MODALITIES}
        self._peaks = dict.fromkeys(MODALITIES, 0.0)

    def add(self, sample: str, sequences: Mapping[str, Floats], peaks: Mapping[str, float]) -> None:
        """Add a sample: sequences ``[t, dim]`` by modality, and bounds of their absolute values."""
        self._ids.append(sample)
        for modality in MODALITIES:
            self._files[modality].write(np.ascontiguousarray(sequences[modality], "<f4").data)
            self._lengths[modality].append(len(sequences[modality]))
            self._peaks[modality] = max(self._peaks[modality], peaks[modality])

    def commit(self, split: str, name: str, sources: Sequence[SourceFile]) -> StagedClass:
        """Record what was added. On return it and its line of the journal are on the disk."""
        for file in self._files.values():
            file.truncate()
            file.flush()
            to_disk(file.fileno())
        places = {m: StagedModality(self._starts[m], self._lengths[m], self._peaks[m]) for m in MODALITIES}
        staged = StagedClass(split, name, self._ids, list(sources), places["audio"], places["video"])
        self._journal(staged)
        return staged


def pieces(bounds: Ints, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Split rows ``start`` to ``stop`` by segment: number of the segment, first row, row after the last.

    Args:
        bounds: first row of each segment, and the one after the last.
    """
    segment = int(np.searchsorted(bounds, start, side="right")) - 1
    while start < stop:
        end = min(stop, int(bounds[segment + 1]))
        yield segment, start, end
        start, segment = end, segment + 1


class SegmentedRows(ABC):
    """Rows of several segments as one array. A slice reads only what it needs.

    Args:
        lengths: rows of each segment.
        dim: columns.
    """

    def __init__(self, lengths: Sequence[int] | Ints, dim: int) -> None:
        self.offsets: Ints = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._dim = dim

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self._dim

    def __getitem__(self, rows: slice) -> Floats:
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("rows of segments are read in order")
        out: NDArray[np.float32] = np.empty((max(0, stop - start), self._dim), "<f4")
        self._fill(
            (segment, first - int(self.offsets[segment]), out[first - start : end - start])
            for segment, first, end in pieces(self.offsets, start, stop)
        )
        return out

    @abstractmethod
    def _fill(self, blocks: Iterator[tuple[int, int, NDArray[np.float32]]]) -> None:
        """Fill blocks of rows: (number of the segment, first row in it, block)."""


class StagedSequences(SegmentedRows):
    """Ranges of rows of a flat file. Ranges that follow each other in the file are read as one.

    Args:
        staging: has the file.
        modality: whose file.
        starts: first row of each range.
        lengths: rows of each range.
    """

    def __init__(self, staging: Staging, modality: str, starts: Ints, lengths: Ints) -> None:
        self._path = staging.path(modality)
        first = np.flatnonzero(np.append(-1, starts + lengths)[:-1] != starts)
        self._starts = starts[first]
        super().__init__(np.add.reduceat(lengths, first), staging.dims[modality])

    def _fill(self, blocks: Iterator[tuple[int, int, NDArray[np.float32]]]) -> None:
        with open(self._path, "rb", buffering=0) as f:
            for segment, row, block in blocks:
                f.seek((int(self._starts[segment]) + row) * self._dim * 4)
                _read_into(f, block)


def _read_into(file: io.FileIO, block: NDArray[np.float32]) -> None:
    view = block.reshape(-1).data.cast("B")
    while len(view):
        n = file.readinto(view)
        if not n:
            raise OSError("a staging file was shortened while it was read; import again")
        view = view[n:]
