"""Who works on which trial of a study."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmark.system.locks import Locks


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
