"""Who works on what: locks in the runs folder, which the system takes from a dead process at once.

They are file locks, so that two calls at once share work instead of doing it twice, also on several machines that share the
folder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

PAUSE_SECONDS = 0.2
"""Between two looks at what another process holds."""
QUIET_LOOKS = 3
"""After so many looks the user is told what is waited for."""


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
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return _released(lock)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Hold something; wait for who holds it.

        Raises:
            KeyboardInterrupt: the user asked to stop meanwhile.
        """
        looks = 0
        while (held := self.hold(name)) is None:
            looks += 1
            if looks == QUIET_LOOKS:
                self.say(f"waiting for another process that works on {name}")
            self.pause()
        with held:
            yield

    def is_held(self, name: str) -> bool:
        """Whether a living process, this one too, holds something; no file is created to find out."""
        if not (self.folder / f"{name}.lock").is_file():
            return False
        held = self.hold(name)
        if held is None:
            return True
        with held:
            return False

    def pause(self) -> None:
        """Wait a little for another process.

        Raises:
            KeyboardInterrupt: the user asked to stop.
        """
        if self.stop():
            raise KeyboardInterrupt
        time.sleep(PAUSE_SECONDS)


@dataclass(frozen=True)
class StudyLocks:
    """Who works on which trial of a study.

    Args:
        locks: of the runs folder.
        study: its name.
    """

    locks: Locks
    study: str

    @property
    def _name(self) -> str:
        return f"studies/{hashlib.sha256(self.study.encode()).hexdigest()[:16]}"

    def alone(self) -> AbstractContextManager[object]:
        """Hold the study, for as long as it takes to choose a trial."""
        return self.locks.alone(self._name)

    def hold(self, trial: int) -> AbstractContextManager[object] | None:
        """A trial, held already and until its end; None where another living process holds it."""
        return self.locks.hold(f"{self._name}-{trial}")

    def is_held(self, trial: int) -> bool:
        """Whether a living process works on a trial."""
        return self.locks.is_held(f"{self._name}-{trial}")

    def pause(self) -> None:
        """Wait a little for the trials of others."""
        self.locks.pause()


@contextmanager
def _released(lock: FileLock) -> Iterator[None]:
    try:
        yield
    finally:
        lock.release()
