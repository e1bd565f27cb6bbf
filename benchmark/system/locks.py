"""Who works on what: locks in the runs folder, which the system takes from a dead process at once.

They are file locks, so that two calls at once share work instead of doing it twice, also on several machines that share the
folder.
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
"""What file systems answer that cannot lock files: some FUSE and cluster ones, NFS 3 without its lock service."""
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
PAUSE_SECONDS = 0.2
"""Between two looks at what another process holds."""
QUIET_LOOKS = 3
"""After so many looks the user is told what is waited for."""


_told = False
"""Whether the user knows that files cannot be locked."""


def take(path: str | Path, timeout: float = -1) -> BaseFileLock:
    """Take a lock. Where files cannot be locked, a file that exists stands for the lock, and the user is told once.

    Args:
        path: the lock's file.
        timeout: seconds to wait for who has it; for ever if negative.

    Raises:
        Timeout: another process has it.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _tell(Path(path).parent)
        lock = SoftFileLock(f"{path}.held")  # the file of the other name is there already
        lock.acquire(timeout=timeout)
    return lock


@contextmanager
def held(path: str | Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock, as ``take``."""
    with _released(take(path, timeout)):
        yield


def _tell(folder: Path) -> None:
    global _told
    if not _told and multiprocessing.parent_process() is None:
        logger.warning(
            "%s: this file system cannot lock files (flock), so lock files stand for locks. After a crash of another machine "
            "that works on this folder, delete its *.held files by hand, or commands wait for it",
            folder,
        )
    _told = True


@dataclass(frozen=True)
class Locks:
    """The locks of a runs folder.

    Args:
        folder: the runs folder.
        say: tells the user a line.
        stop: whether the user asked to stop.
    """

    folder: Path
    say: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False

    def hold(self, name: str) -> AbstractContextManager[object] | None:
        """Something, held already and until the end of the context; None where another living process holds it."""
        path = self.folder / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _released(take(path, timeout=0))
        except Timeout:
            return None

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold something; wait for who holds it.

        Raises:
            KeyboardInterrupt: the user asked to stop meanwhile.
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
        """Whether a living process, this one too, holds something; no file is created to find out."""
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
        """Wait a little for another process.

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
