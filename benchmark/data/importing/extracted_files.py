"""The samples of one file of the published extraction scripts, checked and handed over one by one.

A file is a pickled list of ``[video, class index, audio, file name]``, or SeLaVi's ``[[video], [audio], [class index],
[file name]]`` of a video. Which files there are, and what becomes of the samples, is in ``extracted_lists.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.importing.class_files import check_frames
from benchmark.data.importing.findings import FindingLog
from benchmark.data.names import composed
from benchmark.data.store import MODALITIES, Floats
from benchmark.untrusted.pickle_lists import read_list
from benchmark.untrusted.pickles import UnreadableFile, shown

UNLISTED = "samples that no list names, not read"

Samples = Mapping[str, tuple[str, int]]
"""Sample -> its split and class id."""


def read_file(
    path: Path,
    place: str,
    samples: Samples,
    dims: Mapping[str, int],
    see: Callable[[str, str], bool],
    add: Callable[[str, Mapping[str, Floats], Mapping[str, float]], None],
    findings: FindingLog,
) -> None:
    """Hand over the listed samples of a file.

    Args:
        path: the file.
        place: the file in messages.
        samples: the listed ones.
        dims: features per step by modality.
        see: told of each listed sample that is met; False where it is not wanted.
        add: gets each wanted sample without fault: its id, frames ``[t, dim]`` and largest absolute values by modality.
        findings: gets what is wrong with the file, and samples that are not listed.
    """

    def take(name: str, found: Mapping[str, Any]) -> None:
        sample = _listed_as(name, samples)
        if sample is None:
            findings.note(UNLISTED, f"{name} in {place}")
        elif see(sample, place):
            frames, peaks = _checked(sample, found, dims, place, findings)
            if len(frames) == len(MODALITIES):
                add(sample, frames, peaks)

    elements = _Elements(place, take, findings)
    try:
        read_list(path, elements.take)
    except UnreadableFile as error:
        findings.unreadable(error, place)
    else:
        elements.end()


class _Elements:
    """Turns the elements of one file into samples: (file name, video and audio as they were found)."""

    def __init__(self, place: str, take: Callable[[str, Mapping[str, Any]], None], findings: FindingLog) -> None:
        self._place, self._take, self._findings = place, take, findings
        self._count = 0
        self._columns: list[Sequence[Any]] = []
        """The elements of a pickle of SeLaVi, which are samples together only."""

    def take(self, element: Any) -> None:
        self._count += 1
        several = isinstance(element, list | tuple)
        name = _file_name(element[3]) if several and len(element) == 4 else None
        if name is not None and isinstance(element[0], np.ndarray):
            self._take(name, {"video": element[0], "audio": element[2]})
        elif several and self._count <= 4 and len(self._columns) == self._count - 1:
            self._columns.append(element)
        else:
            self._wrong(f"element {self._count} is no [video, class index, audio, file name], but {shown(element)}")

    def end(self) -> None:
        """All elements were taken."""
        if not self._columns and self._count:
            return
        names = [_file_name(name) for name in self._columns[3]] if len(self._columns) == 4 else []
        if self._count != 4 or None in names or {len(column) for column in self._columns} != {len(names)}:
            self._wrong(
                "neither a list of [video, class index, audio, file name] nor the lists [video], [audio], [class index], "
                f"[file name] of a video, but a list of {self._count}"
            )
            return
        for name, video, audio in zip(names, self._columns[0], self._columns[1], strict=True):
            assert name is not None  # checked
            self._take(name, {"video": video, "audio": audio})

    def _wrong(self, what: str) -> None:
        self._findings.problem("wrong structure", f"{self._place}: {what}")


def _file_name(value: Any) -> str | None:
    """A file name, which SeLaVi's loader wraps into a tuple; None for anything else."""
    if (isinstance(value, list | tuple) and len(value) == 1) or (isinstance(value, np.ndarray) and value.shape == (1,)):
        value = value[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return composed(value) if isinstance(value, str) else None


def _listed_as(name: str, samples: Samples) -> str | None:
    """The listed sample that a file name names: as it is, without folders, without what follows the last or first dot."""
    file = name.replace("\\", "/").rsplit("/", 1)[-1]
    return next((s for s in (name, file, file.rsplit(".", 1)[0], file.split(".", 1)[0]) if s in samples), None)


def _checked(
    sample: str, found: Mapping[str, Any], dims: Mapping[str, int], place: str, findings: FindingLog
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Frames ``[t, dim]`` of the modalities without fault, and their largest absolute values."""
    frames: dict[str, Floats] = {}
    peaks: dict[str, float] = {}
    for modality in MODALITIES:
        x = found[modality]
        if isinstance(x, np.ndarray) and x.dtype == np.uint8:  # VGGish after its post-processing
            x = x.astype(np.float32)
        if isinstance(x, np.ndarray) and x.ndim == 3 and x.shape[1] == 1:  # SeLaVi in batches of one video
            x = x[:, 0]
        if isinstance(x, np.ndarray) and x.shape == (dims[modality],):
            findings.problem("averaged features", f"{place}: {sample}: {modality}")
            continue
        if isinstance(x, np.ndarray) and x.shape == (0,):  # of no clips
            x = np.zeros((0, dims[modality]), np.float32)
        good, peaks[modality] = check_frames([f"{sample}: {modality}"], [x], dims[modality], "sequences", place, findings)
        if good:
            frames[modality] = good[0]
    return frames, peaks
