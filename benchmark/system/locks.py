"""File locks in the runs folder: two benchmark runs at the same time share work instead of doing it twice.

They also work between machines that share the folder. The system releases the locks of a dead process
immediately.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

logger = logging.getLogger(__name__)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of file systems that cannot lock files: some FUSE and cluster ones, NFS 3 without its lock
service."""
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
PAUSE_SECONDS = 0.2
"""Pause between two attempts to take a lock that another process holds."""
QUIET_LOOKS = 3
"""Failed attempts after which the user is shown what is waited for."""


_warned = False
"""Whether the user was warned that files cannot be locked."""


def take(path: str | Path, timeout: float = -1) -> BaseFileLock:
    """Take a lock; if files cannot be locked, the existence of a file is the lock, with one warning.

    Args:
        path: the lock's file.
        timeout: seconds to wait for its holder; no limit if negative.

    Raises:
        Timeout: another process holds it.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _warn(Path(path).parent)
        lock = SoftFileLock(f"{path}.held")  # ``path`` itself exists already
        lock.acquire(timeout=timeout)
    return lock


@contextmanager
def held(path: str | Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock within the block. Arguments and errors are those of ``take``."""
    with _released(take(path, timeout)):
        yield


def _warn(folder: Path) -> None:
    global _warned
    if not _warned and multiprocessing.parent_process() is None:
        logger.warning(
            "%s: this file system cannot lock files (flock), so existing files serve as locks. "
            "If another machine that works on this folder crashes, delete its *.held files by hand, "
            "or commands wait for it",
            folder,
        )
    _warned = True


@dataclass(frozen=True)
class Locks:
    """The locks of a runs folder.

    Args:
        folder: the runs folder.
        say: shows a line to the user.
        stop: whether the user asked to stop.
    """

    folder: Path
    say: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False

    def hold(self, name: str) -> AbstractContextManager[object] | None:
        """Take a lock for the time of the context; None if another living process holds it."""
        path = self.folder / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _released(take(path, timeout=0))
        except Timeout:
            return None

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold a lock within the block; wait for it if another process holds it.

        Raises:
            KeyboardInterrupt: the user asked to stop while waiting.
        """
        looks = 0
        while (own := self.hold(name)) is None:
            looks += 1
            if looks == QUIET_LOOKS:
                self.say(f"waiting for another process that works on {name}")
            self.pause()
        with own:
            yield

    def is_held(self, name: str) -> bool:
        """Whether a living process, possibly this one, holds a lock. No file is created to find out."""
        path = self.folder / f"{name}.lock"
        if not path.is_file():
            return False
        try:
            own = self.hold(name)
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            return is_locked(path)
        if own is None:
            return True
        with own:
            return False

    def pause(self) -> None:
        """Wait briefly for another process.

        Raises:
            KeyboardInterrupt: the user asked to stop.
        """
        if self.stop():
            raise KeyboardInterrupt
        time.sleep(PAUSE_SECONDS)


def is_locked(path: Path) -> bool:
    """Whether another process has an exclusive lock on a file, which is only read to find out.

    HDF5 locks a file like this while it may write to it.

    Raises:
        OSError: the file is missing or may not be read.
    """
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return Path(f"{path}.held").exists()
    return False


@contextmanager
def _released(lock: BaseFileLock) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()
