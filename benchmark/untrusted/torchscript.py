"""Reads the tensors of an untrusted TorchScript archive, the form of OpenAI's weights of CLIP.

``torch.jit.load`` would compile the code in the archive. Here only the pickle of the modules' attributes is
interpreted, by the restricted unpickler, and the code is not read.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.untrusted.kinds import FETCH_AGAIN
from benchmark.untrusted.pickle_tensors import WITH_TENSORS
from benchmark.untrusted.pickles import (
    Bounded,
    Call,
    Interpreter,
    Refusal,
    UnreadableFile,
    run,
    shown,
    unreadable,
)

_MODULE = "<TorchScript module>"
"""Stands for the class of a module, so that the pickle never gets one."""
_TYPES: Mapping[str, str] = {
    "HalfStorage": "<f2",
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
}
"""Names of storages -> numpy's types of their numbers."""


class _Module(dict[str, Any]):
    """The attributes of a module."""


def _listed(values: object) -> list[Any]:
    """A typed list, such as ``List[int]``."""
    if not isinstance(values, list):
        raise Refusal(f"a list of {shown(values)}")
    return values


_TABLE: Mapping[tuple[str, str], object] = {
    **WITH_TENSORS,
    **{("torch", name): f"<{dtype}>" for name, dtype in _TYPES.items()},
    **{
        ("torch.jit._pickle", f"build_{kind}list"): Call(_listed)
        for kind in ("int", "double", "bool", "tensor")
    },
}


class _Interpreter(Interpreter):
    """Reads modules as dicts of their attributes, and storages from the records of the archive."""

    dispatch: ClassVar = dict(Interpreter.dispatch)

    def __init__(self, content: bytes, archive: zipfile.ZipFile, folder: str) -> None:
        size = sum(record.compress_size for record in archive.infolist())
        super().__init__(Bounded(io.BytesIO(content), len(content)), allow_objects=False, table=_TABLE)
        self._left += 2 * size  # a storage, and the tensor that views it
        self._archive, self._folder = archive, folder
        self._storages: dict[str, NDArray[Any]] = {}

    def find_class(self, module: str, name: str) -> Any:
        return _MODULE if module.split(".")[0] == "__torch__" else super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """The numbers of the storage ``("storage", type, key, device, count)``."""
        known = {f"<{dtype}>": dtype for dtype in _TYPES.values()}
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and pid[1] in known):
            raise Refusal(f"persistent id {shown(pid)}")
        key = str(pid[2])
        if key not in self._storages:
            record = self._archive.getinfo(f"{self._folder}data/{key}")
            if record.compress_type != zipfile.ZIP_STORED:
                raise Refusal("a compressed tensor")
            self._spend(record.file_size)
            self._storages[key] = np.frombuffer(self._archive.read(record), known[pid[1]])
        return self._storages[key]

    def new_module(self) -> None:
        arguments, kind = self.stack.pop(), self.stack[-1]
        if kind != _MODULE or arguments != ():
            raise Refusal(f"an instance of {shown(kind)}")
        self.stack[-1] = _Module()

    def build(self) -> None:
        state, target = self.stack[-1], self.stack[-2]
        if type(target) is not _Module:
            super().build()
            return
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise Refusal(f"state for a module: {shown(state)}")
        self.stack.pop()
        target.update(state)

    dispatch[b"\x81"[0]] = new_module
    dispatch[b"b"[0]] = build


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of ``torch.jit.save``."""
    return zipfile.is_zipfile(path) and _folder_of(path) is not None


def _folder_of(path: Path) -> str | None:
    """The folder of a TorchScript archive inside its zip file; None if it is none."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    folders = [name.removesuffix("constants.pkl") for name in names if name.endswith("/constants.pkl")]
    return next((folder for folder in folders if f"{folder}data.pkl" in names), None)


def load_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors of all modules of a TorchScript archive, by name as in a state dict.

    Raises:
        RefusedPickle: it asks for anything but modules, tensors and plain values.
        UnreadableFile: it is truncated, damaged or no such archive.
    """
    try:
        folder = _folder_of(path)
        if folder is None:
            raise UnreadableFile(path, "no TorchScript archive: it lacks constants.pkl or data.pkl")
        with zipfile.ZipFile(path) as archive:
            record = archive.getinfo(f"{folder}data.pkl")
            if record.file_size > path.stat().st_size:
                raise UnreadableFile(path, f"refused: its pickle unpacks to {record.file_size:,} bytes")
            module = run(path, _Interpreter(archive.read(record), archive, folder))
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise unreadable(path, error, f"truncated or damaged archive ({error!s:.100})") from None
    if type(module) is not _Module:
        raise UnreadableFile(path, f"holds no module but {shown(module)}", FETCH_AGAIN)
    return dict(_tensors(module))


def _tensors(module: _Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors by name. A module that appears again is skipped, since one could hold itself."""
    left, seen = [("", module)], {id(module)}
    while left:
        prefix, module = left.pop()
        for name, value in module.items():
            if isinstance(value, np.ndarray):
                yield prefix + name, torch.from_numpy(np.array(value))
            elif type(value) is _Module and id(value) not in seen:
                seen.add(id(value))
                left.append((f"{prefix}{name}.", value))
