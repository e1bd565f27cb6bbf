"""Where a benchmark run keeps its results, its studies and its checkpoints, and who works on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark.running.jobs import Job
from benchmark.system.locks import Locks
from benchmark.tracking.tracker import Tracker


@dataclass(frozen=True)
class Stores:
    """The places of a benchmark run's results.

    Args:
        tracker: MLflow's store of results.
        storage: address of Optuna's storage.
        runs_dir: folder of checkpoints, weights and locks.
    """

    tracker: Tracker
    storage: str
    runs_dir: Path

    def locks(self, say: Callable[[str], None], stop: Callable[[], bool]) -> Locks:
        """The locks that processes hold while they work.

        Args:
            say: shows what is waited for.
            stop: ends the waiting.
        """
        return Locks(self.runs_dir, say, stop)

    def folder(self, job: Job) -> Path:
        """Checkpoints and weights of a job."""
        return self.runs_dir / "jobs" / job.key
