"""HDF5 files: reading without locks, and writing so that a full disk raises an ordinary error."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from benchmark.system.files import check_file, raise_outside, replacing


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, without a lock, since feature stores are replaced atomically.

    Raises:
        OutsideError, Unavailable: it cannot be opened for a reason outside its content.
        OSError: it is no HDF5 file, truncated or damaged.
    """
    check_file(path)
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise_outside(error, path)
        raise


@contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """A new HDF5 file that replaces ``path`` if the block succeeds.

    Yields:
        The file, and a function that raises the error of an earlier write, since a failed write does not
        raise itself.

    Raises:
        OSError: something could not be written.
        OutsideError: the path cannot be replaced (``check_replaceable``).
    """
    with replacing(path) as temporary, _Sink(temporary, "w+b") as sink:
        try:
            with h5py.File(sink, "w") as file:
                yield file, sink.check
        finally:
            sink.check()


class _Sink(io.FileIO):
    """A file that pretends that every write succeeds, and keeps the first error.

    HDF5 cannot close a file that it cannot write to: it raises where nobody can catch it, or ends the
    process.
    """

    failed: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content)
        try:
            while left and self.failed is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.failed = error
        return len(content)

    def readinto(self, buffer: Any) -> int:
        """Read, with zeros for what could not be written. HDF5 would use random memory as its own data."""
        whole = memoryview(buffer).cast("B")
        read = super().readinto(whole) or 0
        if self.failed is not None:
            whole[read:] = bytes(len(whole) - read)
        return len(whole) if self.failed is not None else read

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failed = self.failed or error
            return size or 0

    def check(self) -> None:
        """Raise the error of the first write that failed."""
        if self.failed is not None:
            raise self.failed
