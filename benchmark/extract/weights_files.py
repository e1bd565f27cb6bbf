"""Read the user's files of weights safely, and check their names, shapes, values and sha256."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from benchmark.errors import UsageError, near
from benchmark.extract.extractor import Extractor, State, WeightsFile
from benchmark.system.files import fingerprint, raise_outside, raise_unreadable
from benchmark.untrusted.tensors import is_plain, load_tensors, state_fault
from benchmark.untrusted.torchscript import is_torchscript, load_torchscript

MAX_BYTES = 2**26
"""Largest size of the arrays in a ``.npz``."""
WRAPPER = "module."
"""Prefix of each name after training on several devices."""


@dataclass(frozen=True)
class ExtractorWeights:
    """The checked weights of an extractor, and what is recorded of them."""

    states: Mapping[str, State]
    record: Mapping[str, Mapping[str, Any]]
    """For each: file name, size and sha256; or that they are random."""
    generated: bool


def given_files(extractor: type[Extractor], given: Sequence[str]) -> dict[str, Path]:
    """The given files by name.

    Args:
        extractor: what needs them.
        given: ``NAME=FILE``, or folders with files under their usual names. Later ones have priority, and all
            of them have priority over installed packages.

    Raises:
        UsageError: the extractor has no weights of a name, or a file or folder is missing.
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
            usual = {n: Path(text) / needed.file for n, needed in known.items()}
            found.update({n: path for n, path in usual.items() if path.is_file()})
        elif separator:
            raise UsageError(f"--weights {text}: unknown weights {name!r}: {near(name, known)}")
        else:
            form = f"NAME=FILE with NAME {' or '.join(known)}"
            raise UsageError(f"--weights {text}: no such folder; give a folder, or {form}")
    return found


def load_weights(extractor: type[Extractor], given: Sequence[str], *, random: bool) -> ExtractorWeights:
    """The weights that the user chose: of files, or random.

    Args:
        extractor: what needs them.
        given: as for ``given_files``.
        random: whether random weights are chosen.

    Raises:
        UsageError: both are chosen; or as for ``given_files`` and ``read_weights``.
    """
    if random and given:
        raise UsageError("--random-weights and --weights: give only one of them")
    return random_weights(extractor) if random else read_weights(extractor, given_files(extractor, given))


def read_weights(extractor: type[Extractor], files: Mapping[str, Path]) -> ExtractorWeights:
    """Read and check all files of an extractor.

    Raises:
        UsageError: one is missing, or does not hold what is expected.
    """
    missing = [needed for needed in extractor.weights_files if needed.name not in files]
    if missing:
        listed = "\n".join(f"  {w.name}: {w.what}, usually {w.file}, from {_origin(w)}" for w in missing)
        raise UsageError(
            f"extraction of {extractor.name!r} needs weights that were not given:\n{listed}\n"
            "give a folder with these files (--weights DIR), or each file (--weights NAME=FILE); "
            f"what they must hold: extract weights {extractor.name}; --random-weights is for dry runs"
        )
    states, record = {}, {}
    for needed in extractor.weights_files:
        states[needed.name], record[needed.name] = read_file(extractor, needed, files[needed.name])
    return ExtractorWeights(states, record, generated=False)


def _origin(needed: WeightsFile) -> str:
    return f"{needed.published} ({needed.package.install})" if needed.package else needed.published


def random_weights(extractor: type[Extractor]) -> ExtractorWeights:
    """Random weights for dry runs; what is made with them is marked as synthetic."""
    names = [needed.name for needed in extractor.weights_files]
    record = {name: {"file": "drawn at random"} for name in names}
    return ExtractorWeights({name: extractor.random(name) for name in names}, record, generated=True)


def read_file(extractor: type[Extractor], needed: WeightsFile, path: Path) -> tuple[State, dict[str, Any]]:
    """The tensors of one file, and the record of its name, size and sha256.

    Raises:
        UsageError: it cannot be read, or does not hold the expected tensors.
    """
    try:
        source = fingerprint(path, path.parent)
    except OSError as error:
        raise_outside(error, path)
        raise
    if needed.package is not None:
        needed.package.check(path, source.sha256)
    state = extractor.read(needed.name, path)
    if state is None:
        state = extractor.renamed(needed.name, _read_tensors(path, needed))
    wanted = extractor.expected(needed.name)
    unused = [n for n in state if n.startswith(needed.ignored) or n.endswith(needed.ignored_ends)]
    state = {name: x for name, x in state.items() if name in wanted or name not in unused}
    if fault := state_fault(state, wanted):
        raise UsageError(
            f"{path}: does not hold {needed.what} ({fault}); download it from {needed.published}, "
            f"or list what it must hold: extract weights {extractor.name}"
        )
    record: dict[str, Any] = {"file": path.name, "size": source.size, "sha256": source.sha256}
    if needed.package is not None:
        record["package"] = f"{needed.package.name} {needed.package.version}"
    return {name: x.to(wanted[name].dtype) for name, x in state.items()}, record


def _read_tensors(path: Path, needed: WeightsFile) -> dict[str, Tensor]:
    """The tensors of a file: ``.npz``, safetensors, a TorchScript archive or one of ``torch.save``."""
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if zipfile.is_zipfile(path) and _holds_arrays(path):
        return _read_npz(path)
    return load_torchscript(path) if is_torchscript(path) else _read_state(path, needed)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, MemoryError, SafetensorError) as error:
        raise_outside(error, path)
        raise_unreadable(path)
        raise UsageError(
            f"{path}: cannot be read as safetensors, truncated or damaged ({error!s:.100}); download it again"
        ) from None


def _holds_arrays(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(record.file_size for record in archive.infolist())
        if size > MAX_BYTES:
            raise UsageError(
                f"{path}: refused: its arrays unpack to {size:,} bytes, of at most {MAX_BYTES:,}"
            )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
    except (OSError, MemoryError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise_outside(error, path)
        raise UsageError(
            f"{path}: cannot be read as a .npz file of numbers ({error!s:.100}); download it again"
        ) from None


def _read_state(path: Path, needed: WeightsFile) -> dict[str, Tensor]:
    content = load_tensors(path)
    if needed.key is not None and isinstance(content, dict) and isinstance(content.get(needed.key), dict):
        content = content[needed.key]
    if not isinstance(content, dict) or not all(
        isinstance(n, str) and is_plain(x) for n, x in content.items()
    ):
        where = f" under the key {needed.key!r}" if needed.key else ""
        raise UsageError(
            f"{path}: holds no state dict of plain tensors{where}; download it from {needed.published}"
        )
    return {name.removeprefix(WRAPPER): x for name, x in content.items()}
