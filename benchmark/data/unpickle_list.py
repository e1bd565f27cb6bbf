"""Reading a pickled list of lists or tuples one by one, so that a file of any size needs the memory of two of them.

The restricted unpickler reads it: an element is handed over as soon as the next one begins, and what was remembered of it for
later reference is forgotten, so a pickle that refers to it again is refused. Tensors of PyTorch are read as arrays. Elements of
other kinds, and lists of one, are handed over a thousand at a time, as pickles have them.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.data.unpickle import ALLOWED, Bounded, Call, Interpreter, Refusal, UnreadableFile, is_shape, run, shown

KEPT_TEXT = 256
"""Text and bytes up to this length may be referred to again, such as the names that a pickle spells once."""


BATCH = 1000
"""Elements of a list that a pickle appends at once."""


def read_list(path: Path, take: Callable[[Any], None]) -> None:
    """Hand over the elements of a pickled list, one by one.

    Args:
        path: the file.
        take: gets each element; what it raises is passed on.

    Raises:
        RefusedPickle: it asks for anything but plain data, arrays and tensors, or for an earlier element again.
        UnreadableFile: it cannot be opened, is truncated or damaged, or holds no list.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - a failure to open is told apart from those of the block
    except OSError as error:
        raise UnreadableFile(f"{path}: cannot be read ({error.strerror})") from None
    with file:
        try:
            content = run(path, _ListReader(Bounded(file, path.stat().st_size), take))
        except _Passed as passed:
            raise passed.error from None
    if type(content) is not list:
        raise UnreadableFile(f"{path}: holds no list but {type(content).__name__}")


class _Passed(BaseException):
    """Carries an error of ``take`` past the unpickler, which takes every ``Exception`` for damage of the file."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Memo(dict[int, Any]):
    """What a pickle may refer to again. Its length counts what was forgotten too, since pickles number entries by it."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._new: list[int] = []

    def __len__(self) -> int:
        return self._count

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self._count += 1
        self._new.append(key)

    def __missing__(self, key: int) -> Any:
        if key < self._count:
            raise Refusal("something of an earlier element again")
        raise KeyError(key)

    def forget(self) -> None:
        """Drop what was remembered since the last time, but for short text, dtypes and names."""
        for key in self._new:
            value = self.get(key)
            short = isinstance(value, str | bytes) and len(value) <= KEPT_TEXT
            if not short and not isinstance(value, np.dtype | Call):
                self.pop(key, None)
        self._new.clear()


class _ListReader(Interpreter):
    metastack: list[list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(Interpreter.dispatch)

    def __init__(self, file: Bounded, take: Callable[[Any], None]) -> None:
        super().__init__(file, allow_objects=False, table=_TABLE)
        self.memo: dict[int, Any] = _Memo()
        self._take = take

    def _in_outer_list(self) -> bool:
        """Whether the stack holds elements of the outermost list."""
        return len(self.metastack) == 1 and len(self.metastack[0]) == 1 and type(self.metastack[0][0]) is list

    def _hand_over(self, count: int) -> None:
        """Give the first elements of the stack, and take them off it."""
        for element in self.stack[:count]:
            try:
                self._take(element)
            except Exception as error:
                raise _Passed(error) from None
        del self.stack[:count]
        if count and isinstance(self.memo, _Memo):
            self.memo.forget()

    def mark(self) -> None:
        if self._in_outer_list():  # the last one may be what this mark belongs to
            self._hand_over(len(list(takewhile(_is_complete, self.stack[:-1]))))
        Interpreter.dispatch[pickle.MARK[0]](self)

    def append_many(self) -> None:
        if self._in_outer_list():
            self._hand_over(len(self.stack))
        Interpreter.dispatch[pickle.APPENDS[0]](self)

    def append_one(self) -> None:
        if not self.metastack and len(self.stack) == 2 and type(self.stack[0]) is list:
            outer = self.stack.pop(0)
            self._hand_over(1)
            self.stack.append(outer)
        else:
            Interpreter.dispatch[pickle.APPEND[0]](self)

    dispatch[pickle.MARK[0]] = mark
    dispatch[pickle.APPENDS[0]] = append_many
    dispatch[pickle.APPEND[0]] = append_one


def _is_complete(element: Any) -> bool:
    """Whether nothing more can come to what lies on the stack. Pickles give a list its elements in batches of ``BATCH``, and a
    batch of one without a mark, so a list that is empty or has full batches alone may still be waiting for its last one."""
    return isinstance(element, tuple) or (isinstance(element, list) and len(element) > 1 and len(element) % BATCH != 0)


def _storage(raw: object) -> NDArray[Any]:
    """The numbers of a tensor, which PyTorch pickles as a file of its own; ``torch.load`` runs nothing of it."""
    import torch

    if not isinstance(raw, bytes):
        raise Refusal(f"a tensor of {shown(raw)}")
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that storages with a type are deprecated
            storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
            return np.array(torch.tensor([], dtype=storage.dtype).set_(storage).numpy())  # a copy, whose size is counted
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise Refusal(named[1] if named else "a tensor that is none") from None


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> NDArray[Any]:
    """A tensor of a storage, where it is as large as the numbers that it takes from it."""
    if isinstance(storage, np.ndarray) and type(offset) is int and offset >= 0 and is_shape(size) and is_shape(stride):
        assert isinstance(size, tuple)  # is_shape
        assert isinstance(stride, tuple)
        dense = tuple(math.prod(size[i + 1 :]) for i in range(len(size)))
        count = math.prod(size)
        in_order = len(stride) == len(size) and all(n < 2 or a == b for n, a, b in zip(size, stride, dense, strict=True))
        if (in_order or not count) and offset + count <= storage.size:
            return storage[offset : offset + count].reshape(size)
    raise Refusal(f"a tensor of size {shown(size)} and stride {shown(stride)}, which its numbers do not fill")


_TABLE: Mapping[tuple[str, str], object] = {
    **ALLOWED,
    ("torch.storage", "_load_from_bytes"): Call(_storage),
    ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
}
