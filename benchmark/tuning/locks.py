"""Locks of a study: which process works on which trial."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmark.system.locks import Locks


@dataclass(frozen=True)
class StudyLocks:
    """The locks of a study, which say which process works on which trial.

    A task of a hyperparameter search makes them and passes them to ``Study.run`` or ``Study.help``.

    Args:
        locks: locks of the runs folder.
        study: name of the study.
    """

    locks: Locks
    study: str

    @property
    def _name(self) -> str:
        return f"studies/{hashlib.sha256(self.study.encode()).hexdigest()[:16]}"

    def alone(self) -> AbstractContextManager[object]:
        """Hold the study while a trial is chosen."""
        return self.locks.alone(self._name)

    def hold(self, trial: int) -> AbstractContextManager[object] | None:
        """Hold a trial until it ends; None if another living process holds it."""
        return self.locks.hold(f"{self._name}-{trial}")

    def is_held(self, trial: int) -> bool:
        """Whether a living process works on a trial."""
        return self.locks.is_held(f"{self._name}-{trial}")

    def pause(self) -> None:
        """Wait a little for the trials of other processes."""
        self.locks.pause()
