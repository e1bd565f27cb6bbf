"""The user's files of weights: what is needed, reading without trust, checking of names, shapes and values, their sha256."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UsageError, near
from benchmark.extract.extractor import Extractor, State, WeightsFile
from benchmark.system.files import raise_outside
from benchmark.untrusted.tensors import is_plain, load_tensors, state_problems

SHOWN = 6
MAX_BYTES = 2**26
"""Of the arrays in a ``.npz``."""
WRAPPER = "module."
"""What training on several devices puts before each name."""


@dataclass(frozen=True)
class ExtractorWeights:
    """Checked weights of an extractor, and what is recorded of them."""

    states: Mapping[str, State]
    record: Mapping[str, Mapping[str, Any]]
    """For each: file name, size and sha256; or that it was drawn at random."""
    generated: bool


def given_files(extractor: type[Extractor], given: Sequence[str]) -> dict[str, Path]:
    """Which file is which.

    Args:
        given: ``NAME=FILE``, or folders that have files under their usual names; later ones win, and all of them win over
            installed packages that have a file.

    Raises:
        UsageError: a name that the extractor does not know, or no such file or folder.
    """
    known = {needed.name: needed for needed in extractor.weights_files}
    packaged = {name: needed.package.find() for name, needed in known.items() if needed.package is not None}
    found = {name: path for name, path in packaged.items() if path is not None}
    for text in given:
        name, separator, path = text.partition("=")
        if separator and name in known:
            found[name] = Path(path)
            if not found[name].is_file():
                raise UsageError(f"--weights {text}: no such file")
        elif Path(text).is_dir():
            found.update({n: Path(text) / w.file for n, w in known.items() if (Path(text) / w.file).is_file()})
        elif separator:
            raise UsageError(f"--weights {text}: unknown weights {name!r}: {near(name, known)}")
        else:
            raise UsageError(f"--weights {text}: no such folder; give a folder, or NAME=FILE with NAME {' or '.join(known)}")
    return found


def load_weights(extractor: type[Extractor], given: Sequence[str], *, random: bool) -> ExtractorWeights:
    """The weights that the user says: of files, or drawn at random.

    Args:
        given: as ``given_files`` takes it.

    Raises:
        UsageError: both are asked for; or as ``given_files`` and ``read_weights``.
    """
    if random and given:
        raise UsageError("--random-weights and --weights: give one of them")
    return random_weights(extractor) if random else read_weights(extractor, given_files(extractor, given))


def read_weights(extractor: type[Extractor], files: Mapping[str, Path]) -> ExtractorWeights:
    """Read and check all files of an extractor.

    Raises:
        UsageError: one is missing or does not hold what is expected.
    """
    missing = [needed for needed in extractor.weights_files if needed.name not in files]
    if missing:
        listed = "\n".join(f"  {w.name}: {w.what}, usually {w.file}, from {_origin(w)}" for w in missing)
        raise UsageError(
            f"extraction of {extractor.name!r} needs weights that were not given:\n{listed}\n"
            "give a folder that has them under these names (--weights DIR) or name them (--weights NAME=FILE); "
            f"what exactly they hold: extract weights {extractor.name}; --random-weights is for trials"
        )
    states, record = {}, {}
    for needed in extractor.weights_files:
        states[needed.name], record[needed.name] = read_file(extractor, needed, files[needed.name])
    return ExtractorWeights(states, record, generated=False)


def _origin(needed: WeightsFile) -> str:
    return f"{needed.published} ({needed.package.install})" if needed.package else needed.published


def random_weights(extractor: type[Extractor]) -> ExtractorWeights:
    """ExtractorWeights for trials; whatever is made with them is generated data."""
    names = [needed.name for needed in extractor.weights_files]
    return ExtractorWeights(
        {n: extractor.random(n) for n in names}, {n: {"file": "drawn at random"} for n in names}, generated=True
    )


def read_file(extractor: type[Extractor], needed: WeightsFile, path: Path) -> tuple[State, dict[str, Any]]:
    """The tensors of one file, and its name, size and sha256.

    Raises:
        UsageError: it cannot be read, or does not hold the tensors that are expected.
    """
    try:
        with open(path, "rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise_outside(error, path)
        raise
    if needed.package is not None:
        needed.package.check(path, sha)
    state = extractor.read(needed.name, path)
    if state is None:
        state = _read_npz(path) if zipfile.is_zipfile(path) and _holds_arrays(path) else _read_state(path, needed)
    wanted = extractor.expected(needed.name)
    state = {name: x for name, x in state.items() if name in wanted or not name.startswith(needed.ignored or ("\0",))}
    problems = list(state_problems(state, wanted))
    if problems:
        listed = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        raise UsageError(
            f"{path}: does not hold {needed.what} ({listed}); fetch it from {needed.published}, "
            f"or see what it must hold: extract weights {extractor.name}"
        )
    record: dict[str, Any] = {"file": path.name, "size": path.stat().st_size, "sha256": sha}
    if needed.package is not None:
        record["package"] = f"{needed.package.name} {needed.package.version}"
    return {name: x.to(wanted[name].dtype) for name, x in state.items()}, record


def _holds_arrays(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(record.file_size for record in archive.infolist())
        if size > MAX_BYTES:
            raise UsageError(f"{path}: refused: its arrays unpack to {size:,} bytes, where {MAX_BYTES:,} are plenty")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
    except (OSError, MemoryError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise_outside(error, path)
        raise UsageError(f"{path}: cannot be read as a .npz file of numbers ({error!s:.100}); fetch it again") from None


def _read_state(path: Path, needed: WeightsFile) -> dict[str, Tensor]:
    content = load_tensors(path)
    if needed.key is not None and isinstance(content, dict) and isinstance(content.get(needed.key), dict):
        content = content[needed.key]
    if not isinstance(content, dict) or not all(isinstance(n, str) and is_plain(x) for n, x in content.items()):
        where = f" under the key {needed.key!r}" if needed.key else ""
        raise UsageError(f"{path}: holds no state dict of plain tensors{where}; fetch it from {needed.published}")
    return {name.removeprefix(WRAPPER): x for name, x in content.items()}
