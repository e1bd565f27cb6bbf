"""Reads a pickled list of lists or tuples of any size, holding two elements in memory at most.

The restricted unpickler hands an element over as soon as the next one begins, and forgets it. A pickle that
refers to an earlier element is refused. PyTorch tensors are read as arrays. Elements of other types, and
lists of one value, are handed over in batches of up to a thousand, as in the pickle.
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
"""Length up to which text and bytes may be referred to again, such as names that a pickle spells once."""
BATCH = 1000
"""Elements that a pickle appends to a list in one instruction."""


def read_list(path: Path, take: Callable[[Any], None]) -> None:
    """Pass the elements of a pickled list to a function, one by one.

    Args:
        path: the file.
        take: called with each element. Its errors are passed on.

    Raises:
        RefusedPickle: it asks for anything but plain data, arrays and tensors, or refers to an earlier
            element.
        UnreadableFile: it cannot be opened, is truncated or damaged, or holds no list.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 - a failure to open is reported differently from those of the block
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
        what = f"holds no list but {type(content).__name__}"
        raise UnreadableFile(
            path,
            what,
            "docs/reference/official-layout.md describes the content of each file",
            "wrong structure",
        )


class _Passed(BaseException):
    """Carries an error of ``take`` past the unpickler, which treats an ``Exception`` as damage."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Memo(dict[int, Any]):
    """What a pickle may refer to again; its length counts forgotten entries, since pickles number by it."""

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
        """Drop the entries since the last call, except short text, dtypes and names."""
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
        """Pass the first ``count`` elements of the stack to ``take`` and remove them."""
        for element in self.stack[:count]:
            try:
                self._take(element)
            except Exception as error:
                raise _Passed(error) from None
        del self.stack[:count]
        if count and isinstance(self.memo, _Memo):
            self.memo.forget()

    def mark(self) -> None:
        if self._in_outer_list():  # this mark may belong to the last element
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
    """Whether an element of the stack can no longer grow.

    Pickles fill a list in batches of ``BATCH``, and a batch of one has no mark. So a list that is empty or
    has only full batches may still get its last element.
    """
    return isinstance(element, tuple) or (
        isinstance(element, list) and len(element) > 1 and len(element) % BATCH != 0
    )
