"""Reads untrusted arrays: pickled class files, and ``.npy`` files of a dict of class embeddings."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.untrusted.kinds import FETCH_AGAIN, START_BYTES, likely_kind
from benchmark.untrusted.pickle_tensors import WITH_TENSORS
from benchmark.untrusted.pickles import (
    Bounded,
    Interpreter,
    UnreadableFile,
    _load,
    another_kind,
    run,
    shown,
    unreadable,
)


def load_pickle(path: Path) -> Any:
    """The content of a pickle file of plain data, arrays and tensors. Tensors are returned as arrays.

    Raises:
        RefusedPickle: it asks for a global outside the table, an instance, or more memory than its bytes
            fill.
        UnreadableFile: it cannot be opened, is truncated or damaged, or is another kind of file.
    """
    return _load(path, WITH_TENSORS, allow_objects=True)


def load_npy_dict(path: Path) -> dict[str, NDArray[np.float32]]:
    """The dict of class embeddings of a ``.npy`` file: for ``np.save`` a pickled 0-d object array.

    Embeddings may be arrays ``[D]`` or ``[1, D]``, tensors, or lists of numbers.

    Raises:
        RefusedPickle: as in ``load_pickle``.
        UnreadableFile: no ``.npy`` file, truncated, or its content is not a dict of names to vectors of
            numbers.
    """
    # The header: an object array without dimensions, else it holds no names.
    try:
        raw = path.read_bytes()
    except (OSError, MemoryError) as error:
        raise unreadable(path, error) from None
    file = io.BytesIO(raw)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            what = f"a .npy file of version {version[0]}.{version[1]}, read are 1.0 and 2.0"
            raise UnreadableFile(path, what, DICT_OF_VECTORS)
        read_header = readers[version]
        shape, _, dtype = read_header(file)
    except (ValueError, EOFError) as error:
        if not raw.startswith(np.lib.format.MAGIC_PREFIX) and (foreign := likely_kind(raw[:START_BYTES])):
            raise another_kind(path, foreign, DICT_OF_VECTORS) from None
        fix = DICT_OF_VECTORS if raw[:1] == pickle.PROTO else FETCH_AGAIN
        raise UnreadableFile(path, f"not a .npy file, or a truncated one ({error!s:.100})", fix) from None
    if not dtype.hasobject or shape != ():
        raise UnreadableFile(
            path, f"holds an array {list(shape)} without the names of its rows", DICT_OF_VECTORS
        )

    # The pickle behind the header.
    interpreter = Interpreter(Bounded(file, len(raw)), allow_objects=True, table=WITH_TENSORS)
    content = run(path, interpreter)
    if isinstance(content, np.ndarray) and content.shape == () and content.dtype.hasobject:
        content = content.item()

    # A dict of names to vectors.
    if not isinstance(content, dict):
        raise UnreadableFile(path, f"holds no dict of class names but {shown(content)}", DICT_OF_VECTORS)
    if others := [name for name in content if not isinstance(name, str)]:
        what = f"holds a dict whose keys are no class names, such as {shown(others[0])}"
        raise UnreadableFile(path, what, DICT_OF_VECTORS)
    return {name: _vector(path, name, value) for name, value in content.items()}


DICT_OF_VECTORS = "save a dict of class name to vector: np.save(file, {name: array of [D]})"


def _vector(path: Path, name: str, value: object) -> NDArray[np.float32]:
    """A class embedding ``[D]``. Numbers beyond float32 become infinite, which is reported later."""
    if isinstance(value, list | tuple) and all(
        type(x) in (int, float) or isinstance(x, np.number) for x in value
    ):
        value = np.array([float(x) for x in value])
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[0] == 1:
        value = value[0]
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "fiu":
        what = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else shown(value)
        what = f"the class embedding of {shown(name)} is no vector [D] of numbers but {what}"
        raise UnreadableFile(path, what, DICT_OF_VECTORS)
    with np.errstate(over="ignore"):
        return value.astype(np.float32)
