"""Reads untrusted pickles without running them: numpy arrays, containers, bytes, strings and numbers.

The one exception is the stored arguments of a training run: a Namespace, read as a dict, with paths, read as
text.

A pickle is a program. This module interprets it with replacements for every instruction that could call
something:

- A global is only looked up in a table of this module, and only functions of that table are called.
- Only arrays, dtypes and the Namespace receive state.
- No instruction may claim more bytes than the file has.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UsageError
from benchmark.system.files import outside_reason
from benchmark.untrusted.kinds import (
    FETCH_AGAIN,
    FETCH_TRUSTED,
    START_BYTES,
    Foreign,
    known_kind,
    likely_kind,
)

ALLOCATED_PER_BYTE = 8
"""Bytes that a pickle may allocate per byte of the file, since a short pickle could copy one value many
times."""
_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:[biufSU?][0-9]{0,9}|O8?)")


class UnreadableFile(UsageError):
    """A file that cannot be read.

    Args:
        path: the file.
        what: what is wrong with it, without its path.
        fix: what to do about it.
        kind: category of the problem, such as damage, another kind of file, or a reason outside the file.
    """

    def __init__(self, path: Path, what: str, fix: str = FETCH_AGAIN, kind: str = "unreadable file") -> None:
        super().__init__(f"{path}: {what}; {fix}")
        self.path, self.what, self.fix, self.kind = path, what, fix, kind


class RefusedPickle(UnreadableFile):
    """A pickle that asks for something that no data file needs; ``name`` is the global or instruction."""

    def __init__(self, path: Path, name: str) -> None:
        what = f"refused: the pickle asks for {name}, which no such file needs; nothing was run"
        super().__init__(path, what, FETCH_TRUSTED, "refused pickle")
        self.what = name
        self.name = name


def another_kind(path: Path, kind: Foreign, fix: str | None = None) -> UnreadableFile:
    """The error for a file of another kind than the wanted one.

    Args:
        path: the file.
        kind: its kind.
        fix: what to do if something else than a class file is wanted. A packed file has to be unpacked first.
    """
    return UnreadableFile(path, kind.what, kind.fix_for(fix), "another kind of file")


def unreadable(path: Path, error: BaseException, damaged: str | None = None) -> UnreadableFile:
    """The error to raise in place of an error of a reader.

    Args:
        path: the file.
        error: raised by the reader.
        damaged: description of the file if its content can cause the error; None for unforeseen errors.
    """
    reason = outside_reason(error, path)
    if reason is not None:
        return UnreadableFile(path, reason.what, reason.fix, "unavailable file")
    if damaged is not None:
        return UnreadableFile(path, damaged)
    fix = "report it with this message: it is a fault of the program, or damage that it does not know"
    return UnreadableFile(path, f"unforeseen {type(error).__name__}: {error!s:.150}", fix, "unforeseen error")


def shown(value: object) -> str:
    """An untrusted value for a message: plain ones shortened, else the type, since a repr may be endless."""
    if isinstance(value, str | bytes):
        return repr(value[:60])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**64):
        return repr(value)
    if (
        isinstance(value, tuple)
        and len(value) <= 4
        and not any(isinstance(x, tuple | list | dict | set) for x in value)
    ):
        return f"({', '.join(map(shown, value))})"
    return str(value)[:40] if isinstance(value, np.dtype) else type(value).__name__


class Refusal(Exception):
    """Raised inside the interpreter with a description of what was refused."""


def _reconstruct(kind: object, shape: object, typecode: object) -> NDArray[Any]:
    """numpy's empty array before its state is set. A size given here would be allocated immediately."""
    if kind is not _NDARRAY or shape != (0,) or typecode not in (b"b", "b"):
        raise Refusal(f"numpy _reconstruct of {shown(kind)} with shape {shown(shape)}")
    return np.ndarray((0,), "b")


def _dtype(spec: object, align: object = False, copy: object = True) -> np.dtype[Any]:
    if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
        raise Refusal(f"numpy dtype {shown(spec)}")
    return np.dtype(spec, False, True)  # a copy: its state is set later


def _scalar(dtype: object, raw: object = b"") -> Any:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if (
        not isinstance(dtype, np.dtype)
        or dtype.hasobject
        or not isinstance(raw, bytes)
        or len(raw) != dtype.itemsize
    ):
        raise Refusal(f"numpy scalar of {shown(dtype)}")
    return np.frombuffer(raw, dtype)[0] if raw else dtype.type()


def _frombuffer(
    buffer: object, dtype: object, shape: object, order: object, axis_order: object = None
) -> NDArray[Any]:
    plain = isinstance(dtype, np.dtype) and not dtype.hasobject and isinstance(buffer, bytes | bytearray)
    if not plain or order not in ("C", "F") or axis_order is not None or not is_shape(shape):
        raise Refusal(f"numpy _frombuffer of {shown(dtype)} with shape {shown(shape)}")
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Bytes in the form of protocols 0 to 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refusal(f"_codecs.encode with encoding {shown(encoding)}")
    return text.encode("latin1")


def _bytes(*args: object) -> bytes:
    if args:
        raise Refusal("builtins.bytes with arguments")
    return b""


def _bytearray(*args: object) -> bytearray:
    if not args:
        return bytearray()
    return bytearray(args[0]) if len(args) == 1 and isinstance(args[0], bytes) else bytearray(_encode(*args))


def _container(kind: Callable[..., Any]) -> Callable[..., Any]:
    def build(*args: object) -> Any:
        if len(args) > 1 or (args and not isinstance(args[0], list)):
            raise Refusal(f"{kind.__name__} of {shown(args)}")
        return kind(*args)

    return build


@dataclass(frozen=True)
class Call:
    """A function that a pickle may call, wrapped so that the pickle cannot reach the function itself."""

    function: Callable[..., Any]


_NDARRAY = "<numpy.ndarray>"
"""Stands for ``numpy.ndarray``, so that a pickle never gets the class."""
ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): Call(_dtype),
    ("_codecs", "encode"): Call(_encode),
    ("collections", "OrderedDict"): Call(_container(dict)),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): Call(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): Call(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): Call(_frombuffer) for core in ("core", "_core")},
    **{(builtins, "bytes"): Call(_bytes) for builtins in ("builtins", "__builtin__")},
    **{(builtins, "bytearray"): Call(_bytearray) for builtins in ("builtins", "__builtin__")},
    **{(builtins, "set"): Call(_container(set)) for builtins in ("builtins", "__builtin__")},
    **{(builtins, "frozenset"): Call(_container(frozenset)) for builtins in ("builtins", "__builtin__")},
}


class _Namespace(dict[str, Any]):
    """The content of an ``argparse.Namespace``."""


_NAMESPACE = "<argparse.Namespace>"
"""Stands for the class of stored arguments, so that a pickle never gets the class."""


def _path(*parts: object) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise Refusal(f"a path of {shown(parts)}")
    if sum(len(str(part)) for part in parts) > MAX_PATH:
        raise Refusal(f"a path of more than {MAX_PATH:,} characters")
    first, *rest = (str(part) for part in parts or (".",))
    return "/".join([first.rstrip("/") if rest else first, *rest])


def _reconstructor(kind: object, base: object, state: object) -> _Namespace:
    """Create an object as protocols 0 and 1 do, without calling its class."""
    if kind != _NAMESPACE or base != "<object>" or state is not None:
        raise Refusal(f"copyreg._reconstructor of {shown(kind)}")
    return _Namespace()


MAX_PATH = 4096
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_ARGUMENTS: dict[tuple[str, str], object] = {
    **ALLOWED,
    **{(module, "Namespace"): _NAMESPACE for module in ("argparse", "configargparse")},
    **{(module, name): Call(_path) for module in ("pathlib", "pathlib._local") for name in _PATHS},
    **{(module, "_reconstructor"): Call(_reconstructor) for module in ("copyreg", "copy_reg")},
    **{(module, "object"): "<object>" for module in ("builtins", "__builtin__")},
}
"""Globals that the stored arguments of a training run may name."""


class CheckedDtype:
    """A dtype of plain numbers in a checkpoint. Its state may only set the byte order."""

    def __init__(self, spec: object, align: object = False, copy: object = True) -> None:
        if not isinstance(spec, str) or not re.fullmatch(r"[<>=|]?[biuf][1-8]|\?", spec):
            raise ValueError(f"dtype {shown(spec)}")
        self.dtype = np.dtype(spec)

    def __setstate__(self, state: object) -> None:
        _set_dtype(self.dtype, state)


def checked_scalar(dtype: object, raw: object = b"") -> Any:
    """A numpy scalar in a checkpoint."""
    return _scalar(dtype.dtype if isinstance(dtype, CheckedDtype) else dtype, raw)


def is_shape(shape: object) -> bool:
    return isinstance(shape, tuple) and len(shape) <= 32 and all(type(n) is int and n >= 0 for n in shape)


class Bounded:
    """A file that refuses to read beyond its end before memory for it is allocated."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size

    def read(self, n: int) -> bytes:
        if n < 0 or n > self.size - self._file.tell():
            raise EOFError(f"{n} bytes wanted where {self.size - self._file.tell()} are left")
        return self._file.read(n)

    def readline(self) -> bytes:
        return self._file.readline()


class Interpreter(pickle._Unpickler):
    """The standard library's unpickler in Python, with instructions that call or allocate replaced."""

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, file: Bounded, *, allow_objects: bool, table: Mapping[tuple[str, str], object]
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._size = file.size
        self._left = ALLOCATED_PER_BYTE * file.size + 2**20
        self._allow_objects = allow_objects
        self._table = table

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._table[module, name]
        except KeyError:
            raise Refusal(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> NoReturn:
        raise Refusal(f"persistent id {shown(pid)}")

    def get_extension(self, code: int) -> NoReturn:
        raise Refusal(f"extension code {code}")

    def call(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(function) is not Call or type(arguments) is not tuple:
            raise Refusal(f"a call of {shown(function)}")
        self.stack[-1] = function.function(*arguments)
        self._spend(sys.getsizeof(self.stack[-1]))

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Refusal(f"more than {ALLOCATED_PER_BYTE} times the memory of the file")

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is np.ndarray:
            self._set_array(target, state)
        elif isinstance(target, np.dtype):
            _set_dtype(target, state)
        elif type(target) is _Namespace and type(state) is dict and all(type(name) is str for name in state):
            target.update(state)
        else:
            raise Refusal(f"state for {shown(target)}")

    def _set_array(self, array: NDArray[Any], state: Any) -> None:
        _, shape, dtype, fortran, raw = state if len(state) == 5 else (1, *state)
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not is_shape(shape) or not isinstance(dtype, np.dtype):
            raise Refusal(f"numpy array state of shape {shown(shape)}")
        count = math.prod(shape)
        if dtype.hasobject:
            fits = self._allow_objects and type(raw) is list and len(raw) == count
        else:
            fits = dtype.itemsize > 0 and type(raw) is bytes and len(raw) == count * dtype.itemsize
        if not fits:
            raise Refusal(
                f"numpy array of shape {shown(shape)} and dtype {dtype!s:.20}, which its bytes do not fill"
            )
        self._spend(count * dtype.itemsize)
        array.__setstate__((1, shape, dtype, bool(fortran), raw))  # type: ignore[arg-type]

    def instantiate(self) -> NoReturn:
        raise Refusal("an instance of a class")

    def new_object(self) -> None:
        arguments, kind = self.stack.pop(), self.stack[-1]
        if kind != _NAMESPACE or arguments != ():
            raise Refusal(f"an instance of {shown(kind)}")
        self.stack[-1] = _Namespace()

    def byte_array(self) -> None:
        n = int.from_bytes(self.read(8), "little")
        if n > self._size:
            raise Refusal(f"an allocation of {n:,} bytes by a file of {self._size:,}")
        self.append(bytearray(self.read(n)))

    for _op in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX):
        dispatch[_op[0]] = instantiate
    dispatch[pickle.NEWOBJ[0]] = new_object
    dispatch[pickle.REDUCE[0]] = call
    dispatch[pickle.BUILD[0]] = build
    dispatch[pickle.BYTEARRAY8[0]] = byte_array


def _set_dtype(dtype: np.dtype[Any], state: Any) -> None:
    """Set the byte order; all else (fields, sizes, flags) is refused, since numpy does not check it."""
    plain = type(state) is tuple and len(state) in (7, 8) and state[2:5] == (None, None, None)
    same = (
        plain
        and state[5] in (-1, dtype.itemsize)
        and state[6] in (-1, dtype.alignment)
        and state[7:] in ((), (dtype.flags,))
    )
    if not same or state[1] not in ("<", ">", "=", "|"):
        raise Refusal(f"numpy dtype state {shown(state)}")
    dtype.__setstate__(state)  # type: ignore[attr-defined]


def run(path: Path, interpreter: Interpreter, start: bytes | None = None) -> Any:
    """The object that a pickle builds.

    Args:
        path: the file, for messages.
        interpreter: an interpreter that has read nothing yet.
        start: the first bytes of the file, to recognise other kinds of file; None if it is known to be a
            pickle.

    Raises:
        RefusedPickle, UnreadableFile: as in ``arrays.load_pickle``.
    """
    if start is not None and (foreign := known_kind(start)):
        raise another_kind(path, foreign)
    try:
        return interpreter.load()
    except Refusal as refusal:
        raise RefusedPickle(path, str(refusal)) from None
    except DAMAGE as error:
        if start is not None and (foreign := likely_kind(start)):
            raise another_kind(path, foreign) from None
        why = (
            f"unknown instruction or memo {error}"
            if type(error) is KeyError
            else f"{type(error).__name__}: {error!s:.100}"
        )
        raise unreadable(path, error, f"truncated or damaged pickle ({why})") from None
    except RecursionError:
        raise RefusedPickle(path, "content that is nested without end") from None
    except Exception as error:
        raise unreadable(path, error) from None


DAMAGE = (
    *(EOFError, IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, AssertionError),
    *(pickle.UnpicklingError, struct.error),
)
"""Errors that instructions of a damaged pickle raise."""


def load_arguments(path: Path) -> dict[str, Any]:
    """The stored arguments of a training run: a pickled ``argparse`` or ``configargparse`` Namespace.

    Paths are returned as text.

    Raises:
        RefusedPickle: it asks for anything but plain data, arrays, paths and the Namespace itself.
        UnreadableFile: it cannot be opened, is truncated or damaged, or holds no Namespace.
    """
    content = _load(path, _ARGUMENTS, allow_objects=False)
    if type(content) is not _Namespace:
        raise UnreadableFile(
            path, f"holds no argparse Namespace but {type(content).__name__}", "give the args.pkl of the run"
        )
    return dict(content)


def _load(path: Path, table: Mapping[tuple[str, str], object], *, allow_objects: bool) -> Any:
    try:
        with open(path, "rb") as file:
            start = file.read(START_BYTES)
            file.seek(0)
            bounded = Bounded(file, path.stat().st_size)
            return run(path, Interpreter(bounded, allow_objects=allow_objects, table=table), start)
    except OSError as error:
        raise unreadable(path, error) from None
