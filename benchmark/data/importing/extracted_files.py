"""Reads one file of the published extraction scripts, sample by sample.

A file is a pickled list of ``[video, class index, audio, file name]``, or SeLaVi's
``[[video], [audio], [class index], [file name]]`` of one video. ``extracted_lists.py`` chooses the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.importing.class_files import check_sequences
from benchmark.data.importing.findings import FindingLog
from benchmark.data.names import composed
from benchmark.data.store import MODALITIES, Floats
from benchmark.untrusted.pickle_lists import read_list
from benchmark.untrusted.pickles import UnreadableFile, shown

UNLISTED = "samples that no list names, not read"

Samples = Mapping[str, tuple[str, int]]
"""Sample -> split and class id."""


def read_file(
    path: Path,
    place: str,
    samples: Samples,
    dims: Mapping[str, int],
    see: Callable[[str, str], bool],
    add: Callable[[str, Mapping[str, Floats], Mapping[str, float]], None],
    findings: FindingLog,
) -> None:
    """Read the listed samples of a file.

    Args:
        path: the file.
        place: name of the file in messages.
        samples: the listed samples.
        dims: features per time step by modality.
        see: called with each listed sample and the place; False if the sample is not wanted.
        add: called with each wanted sample without a problem: id, and by modality sequences ``[t, dim]`` and
            largest absolute values.
        findings: gets problems of the file, and samples that are not listed.
    """

    def take(name: str, found: Mapping[str, Any]) -> None:
        sample = _listed_as(name, samples)
        if sample is None:
            findings.note(UNLISTED, f"{name} in {place}")
        elif see(sample, place):
            sequences, peaks = _checked(sample, found, dims, place, findings)
            if len(sequences) == len(MODALITIES):
                add(sample, sequences, peaks)

    elements = _Elements(place, take, findings)
    try:
        read_list(path, elements.take)
    except UnreadableFile as error:
        findings.unreadable(error, place)
    else:
        elements.end()


class _Elements:
    """Turns the elements of one file into samples: file name, video and audio, unchecked."""

    def __init__(
        self, place: str, take: Callable[[str, Mapping[str, Any]], None], findings: FindingLog
    ) -> None:
        self._place, self._take, self._findings = place, take, findings
        self._count = 0
        self._columns: list[Sequence[Any]] = []
        """The elements of a SeLaVi pickle: only together are they samples."""

    def take(self, element: Any) -> None:
        self._count += 1
        several = isinstance(element, list | tuple)
        name = _file_name(element[3]) if several and len(element) == 4 else None
        if name is not None and isinstance(element[0], np.ndarray):
            self._take(name, {"video": element[0], "audio": element[2]})
        elif several and self._count <= 4 and len(self._columns) == self._count - 1:
            self._columns.append(element)
        else:
            self._wrong(
                f"element {self._count} is no [video, class index, audio, file name], but {shown(element)}"
            )

    def end(self) -> None:
        """Finish: all elements were taken."""
        if not self._columns and self._count:
            return
        names = [_file_name(name) for name in self._columns[3]] if len(self._columns) == 4 else []
        if self._count != 4 or None in names or {len(column) for column in self._columns} != {len(names)}:
            self._wrong(
                "neither a list of [video, class index, audio, file name] nor the lists [video], [audio], "
                f"[class index], [file name] of a video, but a list of {self._count}"
            )
            return
        for name, video, audio in zip(names, self._columns[0], self._columns[1], strict=True):
            assert name is not None  # checked
            self._take(name, {"video": video, "audio": audio})

    def _wrong(self, what: str) -> None:
        self._findings.problem("wrong structure", f"{self._place}: {what}")


def _file_name(value: Any) -> str | None:
    """Return a file name, which SeLaVi's loader wraps into a tuple; None for anything else."""
    if (isinstance(value, list | tuple) and len(value) == 1) or (
        isinstance(value, np.ndarray) and value.shape == (1,)
    ):
        value = value[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return composed(value) if isinstance(value, str) else None


def _listed_as(name: str, samples: Samples) -> str | None:
    """Find the listed sample of a file name.

    The name is tried unchanged, without folders, without its last suffix, and up to its first dot.
    """
    file = name.replace("\\", "/").rsplit("/", 1)[-1]
    return next(
        (s for s in (name, file, file.rsplit(".", 1)[0], file.split(".", 1)[0]) if s in samples), None
    )


def _checked(
    sample: str, found: Mapping[str, Any], dims: Mapping[str, int], place: str, findings: FindingLog
) -> tuple[dict[str, Floats], dict[str, float]]:
    """Return the sequences ``[t, dim]`` without a problem by modality, and their largest absolute values."""
    sequences: dict[str, Floats] = {}
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
        good, peaks[modality] = check_sequences(
            [f"{sample}: {modality}"], [x], dims[modality], "sequences", place, findings
        )
        if good:
            sequences[modality] = good[0]
    return sequences, peaks
