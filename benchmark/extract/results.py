"""The result of each video: a file written atomically, so that a killed extraction can resume.

A file holds the features of a video, or why there are none, and what they were made from. It is used for as
long as that is unchanged.
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
from benchmark.system.files import (
    OutsideError,
    SourceFile,
    outside_reason,
    partial_prefix,
    raise_outside,
    unchanged,
)
from benchmark.system.locks import Locks

CHUNK_ROWS = 16


@dataclass(frozen=True)
class Outcome:
    """How the extraction of one video ended. The field names are those of the file."""

    sample: str
    source: SourceFile
    problem: str | None = None
    """Why there are no features."""
    notes: tuple[str, ...] = ()
    """Faults that did not prevent them."""
    steps: Mapping[str, int] | None = None
    """Time steps by modality; None if there are no features."""
    peaks: Mapping[str, float] | None = None
    """Largest absolute value by modality."""
    without_sound: str | None = None
    """For a video without audio: how it was treated, ``skip`` or ``zeros``."""
    span: Span | None = None
    """The seconds of the video that are the sample; None for the whole video."""
    attempts: int = 0
    """How often it failed for a reason that may pass, so that it is tried again; 0 if this is final."""
    deaths: int = 0
    """How often its process died."""


class NotFinite(ValueError):
    """Features of a video are not finite, for example because its audio is not; they would be so again."""


class VideoFeatures:
    """Writes the features of a video to the disk, batch by batch, while they are computed.

    Args:
        file: where they are written.
        step: called after each batch.
    """

    def __init__(self, file: h5py.File, step: Callable[[], None]) -> None:
        self._file = file
        self._step = step
        self.peaks = dict.fromkeys(MODALITIES, 0.0)

    def append(self, modality: str, features: Floats) -> None:
        """Add time steps ``[n, dim]``.

        Raises:
            NotFinite: they are not finite.
        """
        if not np.isfinite(features).all():
            raise NotFinite(f"{modality} features are not finite")
        if modality not in self._file:
            dim = features.shape[1]
            self._file.create_dataset(
                modality, (0, dim), "<f4", maxshape=(None, dim), chunks=(CHUNK_ROWS, dim)
            )
        data = self._file[modality]
        data.resize(len(data) + len(features), 0)
        data[len(data) - len(features) :] = features
        self.peaks[modality] = max(self.peaks[modality], float(np.abs(features).max(initial=0)))
        self._step()

    def steps(self, modality: str) -> int:
        return len(self._file[modality]) if modality in self._file else 0

    def cut(self, steps: int) -> None:
        """Keep the first time steps of both modalities."""
        for modality in MODALITIES:
            self._file[modality].resize(steps, 0)

    def clear(self) -> None:
        for modality in MODALITIES:
            if modality in self._file:
                del self._file[modality]


class ResultFolder:
    """The result files of one extraction.

    Args:
        folder: where they are stored.
        identity: all that determines the features, except the video. A file with another identity is not
            used.
        without_sound: how videos without audio are treated; only their own files depend on it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], without_sound: str) -> None:
        self.folder = folder
        self.without_sound = without_sound
        self.identity = json.loads(json.dumps(identity))

    def path(self, sample: str) -> Path:
        return self.folder / f"{quote(sample, safe='')}.h5"

    def read(self, sample: str, video: Path, root: Path, span: Span | None = None) -> Outcome | None:
        """The recorded outcome of a video, or None if there is none for the video as it is now.

        Failures that are tried again are returned even if the video has changed.

        Args:
            sample: its id.
            video: its file as it is now.
            root: the folder that paths are relative to.
            span: the seconds of the video that are the sample.

        Raises:
            OutsideError, Unavailable: the result file exists and cannot be read, though it may be intact.
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

        # It holds for the same identity, video, span and, if the video has no audio, the same treatment of
        # that.
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
        """Lock a shard, so that no other process extracts it, and remove what killed processes left of it.

        Args:
            number: of the shard, from 1.
            of: how many shards there are.
            samples: of the shard.

        Raises:
            UsageError: a process extracts it, or a shard of another count; or the folder cannot be written.
        """
        locks, name = Locks(self.folder), f"extraction-{number}-of-{of}"
        try:
            held = locks.hold(name)
            locked = (path.stem for path in self.folder.glob("extraction-*.lock"))
            others = [stem for stem in locked if not stem.endswith(f"-of-{of}")]
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
                holder.write_text(
                    f"process {os.getpid()} on {platform.node()}, since {since}", encoding="utf-8"
                )
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
        return UsageError(
            f"{self.folder}: {what} already being extracted ({who}); wait for it to end, or stop it"
        )

    def _remove_partials(self, samples: Collection[str]) -> None:
        prefixes = {partial_prefix(self.path(sample).name) for sample in samples}
        for left in self.folder.glob(".*.partial"):
            if f"{left.name.rsplit('.', 2)[0]}." in prefixes:
                left.unlink(missing_ok=True)

    def _not_written(self, error: Exception) -> UsageError:
        why = getattr(error, "strerror", None) or error
        reason = outside_reason(error, self.folder)
        fix = reason.fix if reason else "fix this, then repeat the command"
        return UsageError(f"{self.folder}: cannot be written ({why}); {fix}: it resumes where it stopped")

    @contextmanager
    def writing(
        self, sample: str, alive: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[h5py.File, VideoFeatures]]:
        """A new result file, which appears once the block has ended without an error.

        Args:
            sample: its id.
            alive: called now and then while features are computed.

        Raises:
            UsageError: it cannot be written, which is also how an ``OSError`` of the block is read.
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
        file.attrs["outcome"] = json.dumps(
            {"identity": self.identity, "outcome": asdict(outcome)}, sort_keys=True
        )


class ResultSequences(SegmentedRows):
    """The feature sequences of videos, one after another; a slice is read from the result files."""

    def __init__(self, results: ResultFolder, modality: str, outcomes: Sequence[Outcome], dim: int) -> None:
        self._paths = [results.path(outcome.sample) for outcome in outcomes]
        self._modality = modality
        super().__init__([(outcome.steps or {})[modality] for outcome in outcomes], dim)

    def _fill(self, blocks: Iterator[tuple[int, int, NDArray[np.float32]]]) -> None:
        for video, row, block in blocks:
            with open_hdf5(self._paths[video]) as f:
                block[:] = f[self._modality][row : row + len(block)]
