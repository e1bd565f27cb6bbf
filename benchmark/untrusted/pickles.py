"""Reading strangers' pickles without running them: numpy arrays, containers, bytes, strings, numbers, nothing else.

The one exception is the stored arguments of a training run: a Namespace, read as a dict, with paths, read as text. A pickle is
a program. This module interprets it with every instruction that could call something replaced: a global
is looked up in a table of this module and nowhere else, only the functions of that table are called, only arrays, dtypes and
that Namespace receive state, and no instruction may claim more bytes than the file has. What the content means belongs to the
callers.
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
from benchmark.untrusted.kinds import FETCH_AGAIN, FETCH_TRUSTED, START_BYTES, Foreign, known_kind, likely_kind

ALLOCATED_PER_BYTE = 8
"""Bytes that a pickle may have allocated for each byte of the file: the same small value may be copied again and again."""
_PLAIN_DTYPE = re.compile(r"[<>=|]?(?:[biufSU?][0-9]{0,9}|O8?)")


class UnreadableFile(UsageError):
    """A file that cannot be read.

    Args:
        path: the file.
        what: what is wrong with it, without its path.
        fix: what to do about it.
        kind: what this is a kind of: damage, another kind of file, a reason outside the file, or nothing foreseen.
    """

    def __init__(self, path: Path, what: str, fix: str = FETCH_AGAIN, kind: str = "unreadable file") -> None:
        super().__init__(f"{path}: {what}; {fix}")
        self.path, self.what, self.fix, self.kind = path, what, fix, kind


class RefusedPickle(UnreadableFile):
    """A pickle that asks for something a data file has no need of. ``name`` is the refused global or instruction."""

    def __init__(self, path: Path, name: str) -> None:
        super().__init__(
            path,
            f"refused: the pickle asks for {name}, which no such file needs; nothing was run",
            FETCH_TRUSTED,
            "refused pickle",
        )
        self.what = name
        self.name = name


def another_kind(path: Path, kind: Foreign, fix: str | None = None) -> UnreadableFile:
    """A file of another kind than the one that is wanted.

    Args:
        path: the file.
        kind: what it is.
        fix: what is wanted in its place, where that is no class file; a packed file is to be unpacked first.
    """
    return UnreadableFile(path, kind.what, kind.fix_for(fix), "another kind of file")


def unreadable(path: Path, error: BaseException, damaged: str | None = None) -> UnreadableFile:
    """What stands for an error of a reader.

    Args:
        path: the file.
        error: as the reader raised it.
        damaged: what the file is if the error is one that its content can cause; None for errors that nobody foresaw.
    """
    reason = outside_reason(error, path)
    if reason is not None:
        return UnreadableFile(path, reason.what, reason.fix, "unavailable file")
    if damaged is not None:
        return UnreadableFile(path, damaged)
    fix = "report it with this message: it is a fault of the program, or damage that it does not know"
    return UnreadableFile(path, f"unforeseen {type(error).__name__}: {error!s:.150}", fix, "unforeseen error")


def shown(value: object) -> str:
    """A stranger's value for a message: plain ones in short, of all others the kind, since their repr may have no end."""
    if isinstance(value, str | bytes):
        return repr(value[:60])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**64):
        return repr(value)
    if isinstance(value, tuple) and len(value) <= 4 and not any(isinstance(x, tuple | list | dict | set) for x in value):
        return f"({', '.join(map(shown, value))})"
    return str(value)[:40] if isinstance(value, np.dtype) else type(value).__name__


class Refusal(Exception):
    """Raised inside the interpreter; carries what was refused."""


def _reconstruct(kind: object, shape: object, typecode: object) -> NDArray[Any]:
    """numpy's empty array before its state arrives; a size claimed here would be allocated at once."""
    if kind is not _NDARRAY or shape != (0,) or typecode not in (b"b", "b"):
        raise Refusal(f"numpy _reconstruct of {shown(kind)} with shape {shown(shape)}")
    return np.ndarray((0,), "b")


def _dtype(spec: object, align: object = False, copy: object = True) -> np.dtype[Any]:
    if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
        raise Refusal(f"numpy dtype {shown(spec)}")
    return np.dtype(spec, False, True)  # a copy: its state is set later


def _scalar(dtype: object, raw: object = b"") -> Any:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(raw, bytes) or len(raw) != dtype.itemsize:
        raise Refusal(f"numpy scalar of {shown(dtype)}")
    return np.frombuffer(raw, dtype)[0] if raw else dtype.type()


def _frombuffer(buffer: object, dtype: object, shape: object, order: object, axis_order: object = None) -> NDArray[Any]:
    plain = isinstance(dtype, np.dtype) and not dtype.hasobject and isinstance(buffer, bytes | bytearray)
    if not plain or order not in ("C", "F") or axis_order is not None or not is_shape(shape):
        raise Refusal(f"numpy _frombuffer of {shown(dtype)} with shape {shown(shape)}")
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Bytes as protocols 0 to 2 write them."""
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
    """A function that a pickle may call. The wrapper keeps the function itself out of the pickle's reach."""

    function: Callable[..., Any]


_NDARRAY = "<numpy.ndarray>"
"""What ``numpy.ndarray`` becomes: a word that ``_reconstruct`` knows, not the class."""
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
    """What an ``argparse.Namespace`` becomes."""


_NAMESPACE = "<argparse.Namespace>"
"""What the class of stored arguments becomes: a word that ``Interpreter`` knows, not the class."""


def _path(*parts: object) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise Refusal(f"a path of {shown(parts)}")
    if sum(len(str(part)) for part in parts) > MAX_PATH:
        raise Refusal(f"a path of more than {MAX_PATH:,} characters")
    first, *rest = (str(part) for part in parts or (".",))
    return "/".join([first.rstrip("/") if rest else first, *rest])


def _reconstructor(kind: object, base: object, state: object) -> _Namespace:
    """How protocols 0 and 1 make an object without calling its class."""
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
"""What the stored arguments of a training run may name."""


class CheckedDtype:
    """A dtype in a checkpoint: of plain numbers, whose state may set the byte order and nothing else."""

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
    """A file that refuses to read beyond its end before anything is allocated for it."""

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
    """The pure Python unpickler of the standard library with the instructions that call or allocate replaced."""

    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Bounded, *, allow_objects: bool, table: Mapping[tuple[str, str], object]) -> None:
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
            raise Refusal(f"numpy array of shape {shown(shape)} and dtype {dtype!s:.20}, which its bytes do not fill")
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
    """Byte order only: fields, sub-arrays, metadata, other sizes and other flags are refused (numpy believes them blindly)."""
    plain = type(state) is tuple and len(state) in (7, 8) and state[2:5] == (None, None, None)
    same = (
        plain and state[5] in (-1, dtype.itemsize) and state[6] in (-1, dtype.alignment) and state[7:] in ((), (dtype.flags,))
    )
    if not same or state[1] not in ("<", ">", "=", "|"):
        raise Refusal(f"numpy dtype state {shown(state)}")
    dtype.__setstate__(state)  # type: ignore[attr-defined]


def run(path: Path, interpreter: Interpreter, start: bytes | None = None) -> Any:
    """What a pickle makes, its faults told as ``load_pickle`` does.

    Args:
        path: its file.
        interpreter: has read nothing yet.
        start: the first bytes of the file, to name what is no pickle; None if it is known to be one.
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
        why = f"unknown instruction or memo {error}" if type(error) is KeyError else f"{type(error).__name__}: {error!s:.100}"
        raise unreadable(path, error, f"truncated or damaged pickle ({why})") from None
    except RecursionError:
        raise RefusedPickle(path, "content that is nested without end") from None
    except Exception as error:
        raise unreadable(path, error) from None


DAMAGE = (
    *(EOFError, IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, AssertionError),
    *(pickle.UnpicklingError, struct.error),
)
"""What instructions of a damaged pickle raise."""


def load_arguments(path: Path) -> dict[str, Any]:
    """The arguments that a training run stored: a pickled ``argparse`` or ``configargparse`` Namespace, as a dict.

    Paths come as text.

    Raises:
        RefusedPickle: it asks for anything but plain data, arrays, paths and the Namespace itself.
        UnreadableFile: it cannot be opened, is truncated or damaged, or holds no Namespace.
    """
    content = _load(path, _ARGUMENTS, allow_objects=False)
    if type(content) is not _Namespace:
        raise UnreadableFile(path, f"holds no argparse Namespace but {type(content).__name__}", "give the args.pkl of the run")
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
