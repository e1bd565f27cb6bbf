"""Maps rows of a file into memory and nothing beside them.

The system maps whole pages, so that a plain map also shows what stands in the file before its first and after its last byte.
Here the map is private and those bytes are overwritten with zeros in it. The file stays as it is.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

READ, READ_WRITE = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE


def map_rows(file: int, dtype: np.dtype[Any], shape: tuple[int, int], offset: int) -> NDArray[Any]:
    """A read-only array over a part of a file, which is read from the disk as it is used.

    Unlike ``numpy.memmap`` it does not name the file, and its pages hold zeros before and after the array.

    Args:
        file: descriptor of the open file, which may be closed afterwards.
        dtype: type of the values.
        shape: rows and columns.
        offset: byte at which the first row starts.

    Raises:
        OSError: the file cannot be mapped.
    """
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    before = offset % mmap.PAGESIZE
    mapped = mmap.mmap(file, before + size, flags=mmap.MAP_PRIVATE, prot=READ, offset=offset - before)
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    _blank(address, address + before)
    end = address + before + size
    _blank(end, end + -end % mmap.PAGESIZE)
    return np.frombuffer(mapped, dtype, math.prod(shape), before).reshape(shape)


def _blank(start: int, stop: int) -> None:
    """Write zeros to addresses of one page of a private map, which is copied by that."""
    if start == stop:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    page = ctypes.c_void_p(start - start % mmap.PAGESIZE)
    for protection in (READ_WRITE, READ):
        if protection == READ:
            ctypes.memset(start, 0, stop - start)
        if libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), protection):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
