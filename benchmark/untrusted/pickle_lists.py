"""Reading a pickled list of lists or tuples one by one, so that a file of any size needs the memory of two of them.

The restricted unpickler reads it: an element is handed over as soon as the next one begins, and what was remembered of it for
later reference is forgotten, so a pickle that refers to it again is refused. Tensors of PyTorch are read as arrays. Elements of
other kinds, and lists of one, are handed over a thousand at a time, as pickles have them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmark.untrusted.kinds import START_BYTES
from benchmark.untrusted.pickle_tensors import WITH_TENSORS
from benchmark.untrusted.pickles import Bounded, Call, Interpreter, Refusal, UnreadableFile, run, unreadable

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
        size, start = path.stat().st_size, file.read(START_BYTES)
        file.seek(0)
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        try:
            content = run(path, _ListReader(Bounded(file, size), take), start)
        except _Passed as passed:
            raise passed.error from None
    if type(content) is not list:
        raise UnreadableFile(
            path, f"holds no list but {type(content).__name__}", "see the user guide for what a file holds", "wrong structure"
        )


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
        super().__init__(file, allow_objects=True, table=WITH_TENSORS)
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
