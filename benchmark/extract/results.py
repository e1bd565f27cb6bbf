"""What was extracted of each video: a file of its own, written in one step, so that a killed extraction goes on.

A file holds the features of a video, or why there are none, and what it was made from. It counts as long as that is the same.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmark.data.hdf5 import new_hdf5, open_hdf5
from benchmark.data.importing.staging import SegmentedRows
from benchmark.data.store import MODALITIES, Floats
from benchmark.errors import UsageError
from benchmark.extract.media.segments import Span
from benchmark.system.files import OutsideError, SourceFile, outside_reason, partial_prefix, raise_outside, unchanged
from benchmark.system.locks import Locks

CHUNK_ROWS = 16


@dataclass(frozen=True)
class Outcome:
    """What became of one video."""

    sample: str
    source: SourceFile
    problem: str | None = None
    """Why there are no features."""
    notes: tuple[str, ...] = ()
    """What was odd and did not prevent them."""
    steps: Mapping[str, int] | None = None
    """Steps by modality; None where there are no features."""
    peaks: Mapping[str, float] | None = None
    """Largest absolute value by modality."""
    without_sound: str | None = None
    """For a video without sound: what was done about it."""
    span: Span | None = None
    """What the sample is of the video; None for all of it."""
    attempts: int = 0
    """Times that it failed in a way that may not last: it is tried again. 0 where this is what it stays at."""
    deaths: int = 0
    """Times that its process died."""


class NotFinite(ValueError):
    """Features of a video are not finite, as from sound that is not: it would be so again."""


class VideoFeatures:
    """The features of a video while they are computed: they go to the disk, batch by batch.

    Args:
        file: where they are written.
        step: is called after each batch.
    """

    def __init__(self, file: h5py.File, step: Callable[[], None]) -> None:
        self._file = file
        self._step = step
        self.peaks = dict.fromkeys(MODALITIES, 0.0)

    def append(self, modality: str, features: Floats) -> None:
        """Further steps ``[n, dim]``.

        Raises:
            NotFinite: they are not.
        """
        if not np.isfinite(features).all():
            raise NotFinite(f"{modality} features are not finite")
        if modality not in self._file:
            dim = features.shape[1]
            self._file.create_dataset(modality, (0, dim), "<f4", maxshape=(None, dim), chunks=(CHUNK_ROWS, dim))
        data = self._file[modality]
        data.resize(len(data) + len(features), 0)
        data[len(data) - len(features) :] = features
        self.peaks[modality] = max(self.peaks[modality], float(np.abs(features).max(initial=0)))
        self._step()

    def steps(self, modality: str) -> int:
        return len(self._file[modality]) if modality in self._file else 0

    def cut(self, steps: int) -> None:
        """Keep the first steps of both modalities."""
        for modality in MODALITIES:
            self._file[modality].resize(steps, 0)

    def clear(self) -> None:
        for modality in MODALITIES:
            if modality in self._file:
                del self._file[modality]


class ResultFolder:
    """The files of one extraction.

    Args:
        folder: where they lie.
        identity: all that decides features besides the video; a file of another identity does not count.
        without_sound: what is done about videos without sound; only their own files depend on it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], without_sound: str) -> None:
        self.folder = folder
        self.without_sound = without_sound
        self.identity = json.loads(json.dumps(identity))

    def path(self, sample: str) -> Path:
        return self.folder / f"{quote(sample, safe='')}.h5"

    def read(self, sample: str, video: Path, root: Path, span: Span | None = None) -> Outcome | None:
        """What became of a video, where that is known and still holds. That it failed holds whatever the video is now.

        Args:
            sample: its id.
            video: its file as it is now.
            root: the folder that paths are relative to.
            span: what the sample is of the video.

        Raises:
            OutsideError, Unavailable: the file is there and cannot be read, though it may be sound.
        """
        path = self.path(sample)
        try:
            with open_hdf5(path) as f:
                recorded = json.loads(f.attrs["outcome"])
        except OutsideError as error:
            if error.reason.kind != "missing":
                raise
            return None
        except (OSError, MemoryError, KeyError, ValueError, RuntimeError) as error:
            raise_outside(error, path)
            return None
        source = SourceFile(**recorded["outcome"].pop("source"))
        same = recorded["identity"] == self.identity and source.path == video.relative_to(root).as_posix()
        same = same and recorded["outcome"]["without_sound"] in (None, self.without_sound)
        recorded_span = recorded["outcome"].pop("span", None)  # results of earlier versions have none
        same = same and recorded_span == (list(span) if span else None)
        if not same or not (recorded["outcome"].get("attempts") or unchanged(source, root)):
            return None
        notes = tuple(recorded["outcome"].pop("notes"))
        return Outcome(source=source, notes=notes, span=span, **recorded["outcome"])

    @contextmanager
    def alone(self, number: int, of: int, samples: Collection[str]) -> Iterator[None]:
        """Hold a share of the videos, and remove what killed processes left of them.

        Args:
            number: of the share, from 1 on.
            of: how many shares there are.
            samples: of the share.

        Raises:
            UsageError: a living process holds it, or one of another number of shares; or the folder cannot be written.
        """
        locks, name = Locks(self.folder), f"extraction-{number}-of-{of}"
        try:
            held = locks.hold(name)
            others = [path.stem for path in self.folder.glob("extraction-*.lock") if not path.stem.endswith(f"-of-{of}")]
        except (OSError, NotImplementedError) as error:  # the latter: the file system has no locks
            raise self._not_written(error) from None
        if held is None:
            raise self._busy(name)
        holder = self._holder(name)
        with held:
            for other in others:
                if locks.is_held(other):
                    raise self._busy(other)
            try:
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                holder.write_text(f"process {os.getpid()} on {platform.node()}, since {since}", encoding="utf-8")
                self._remove_partials(samples)
            except OSError as error:
                raise self._not_written(error) from None
            yield
            self._remove_partials(samples)  # of processes that died meanwhile

    def _holder(self, name: str) -> Path:
        return self.folder / f"{name}.holder"

    def _busy(self, name: str) -> UsageError:
        holder = self._holder(name)
        who = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
        number, of = name.split("-")[1::2]
        what = f"shard {number}/{of} is" if of != "1" else "all videos are"
        return UsageError(f"{self.folder}: {what} being extracted already ({who}); wait for that to end, or stop it")

    def _remove_partials(self, samples: Collection[str]) -> None:
        prefixes = {partial_prefix(self.path(sample).name) for sample in samples}
        for left in self.folder.glob(".*.partial"):
            if f"{left.name.rsplit('.', 2)[0]}." in prefixes:
                left.unlink(missing_ok=True)

    def _not_written(self, error: Exception) -> UsageError:
        why = getattr(error, "strerror", None) or error
        reason = outside_reason(error, self.folder)
        fix = reason.fix if reason else "fix that, then repeat the command"
        return UsageError(f"{self.folder}: cannot be written ({why}); {fix}: it continues where it stopped")

    @contextmanager
    def writing(self, sample: str, alive: Callable[[], None] = lambda: None) -> Iterator[tuple[h5py.File, VideoFeatures]]:
        """A new file, which is there once the block has ended well.

        Args:
            sample: whose.
            alive: is called now and then, while features are computed.

        Raises:
            UsageError: it cannot be written; an ``OSError`` of the block means that too.
        """
        try:
            with new_hdf5(self.path(sample)) as (f, check):

                def step() -> None:
                    alive()
                    check()

                yield f, VideoFeatures(f, step)
        except OSError as error:
            raise self._not_written(error) from None

    def record(self, file: h5py.File, outcome: Outcome) -> None:
        file.attrs["outcome"] = json.dumps({"identity": self.identity, "outcome": asdict(outcome)}, sort_keys=True)


class ResultSequences(SegmentedRows):
    """Features of videos; a slice reads them from the files of their videos."""

    def __init__(self, results: ResultFolder, modality: str, outcomes: Sequence[Outcome], dim: int) -> None:
        self._paths = [results.path(outcome.sample) for outcome in outcomes]
        self._modality = modality
        super().__init__([(outcome.steps or {})[modality] for outcome in outcomes], dim)

    def _fill(self, blocks: Iterator[tuple[int, int, NDArray[np.float32]]]) -> None:
        for video, row, block in blocks:
            with open_hdf5(self._paths[video]) as f:
                block[:] = f[self._modality][row : row + len(block)]
