"""Maps rows of a file into memory, and no other bytes of the file.

The system maps whole pages, so an ordinary map also shows the bytes before its start and after its end. Here
only pages that the rows fill are mapped. Their bytes of a first and a last page are read into memory and
surrounded by zeros.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

READ, READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
FIXED = 0x10
"""``MAP_FIXED`` of Linux and macOS, which the module ``mmap`` lacks."""


def map_rows(file: int, dtype: np.dtype[Any], shape: tuple[int, int], offset: int) -> NDArray[Any]:
    """A read-only array over rows of a file, which are read from the disk when they are used.

    Unlike ``numpy.memmap``, it names no file and keeps none open. It has no ``mmap`` object, whose
    ``madvise`` would restore the bytes of the file around the rows, and whose ``resize`` could show the bytes
    after them.

    Args:
        file: descriptor of the open file. It may be closed afterwards.
        dtype: type of the values.
        shape: rows and columns.
        offset: byte at which the first row starts.

    Raises:
        OSError: the file cannot be mapped or read.
    """
    size, page = math.prod(shape) * dtype.itemsize, mmap.PAGESIZE
    if size == 0:
        return np.empty(shape, dtype)

    # Whole pages between ``first`` and ``last`` hold only rows.
    before, end = offset % page, offset + size
    first, last = min(offset + -offset % page, end), end - end % page

    # Reserve empty pages for all rows; they are released with the last array that uses them.
    libc = _libc()
    start = _map(libc, None, before + size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    pages = (ctypes.c_char * (before + size)).from_address(start)
    weakref.finalize(
        pages, libc.munmap, start, before + size
    ).atexit = False  # threads may still read at exit

    # Map the whole pages, and copy the rest.
    at = start + before - offset  # address of the file's byte 0
    if first < last:
        _map(libc, at + first, last - first, mmap.MAP_PRIVATE | FIXED, file, first)
    for begin, stop in ((offset, first), (max(first, last), end)):
        _write(libc, at + begin, os.pread(file, stop - begin, begin))
    return np.frombuffer(memoryview(pages).toreadonly(), dtype, math.prod(shape), before).reshape(shape)


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mprotect.argtypes = [*libc.munmap.argtypes, ctypes.c_int]
    return libc


def _map(libc: ctypes.CDLL, address: int | None, size: int, flags: int, file: int, offset: int) -> int:
    mapped = libc.mmap(address, size, READ, flags, file, offset)
    if mapped is None or mapped == ctypes.c_void_p(-1).value:
        raise _error()
    return int(mapped)


def _write(libc: ctypes.CDLL, address: int, content: bytes) -> None:
    """Write to one page of a map that is otherwise read-only."""
    start = address - address % mmap.PAGESIZE
    for protection in (READ_WRITE, READ) if content else ():
        if protection == READ:
            ctypes.memmove(address, content, len(content))
        if libc.mprotect(start, mmap.PAGESIZE, protection):
            raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
