"""Processes that are copies of one that has imported torch, MLflow and Optuna, which takes seconds.

Each can be killed at any moment. (A copy of a test's own process would have its threads' locks.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import psutil
import torch
from support.checkout import PROJECT
from support.tiny import Bench

from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage


def open_stores(runs: str) -> None:
    """Open both stores of a folder, which creates what is not there."""
    Tracker(sqlite_uri(Path(runs, "mlflow.db")), Path(runs, "artifacts"))
    open_storage(sqlite_uri(Path(runs, "optuna.db")))


def run_tiny(runs: str, data: str, sets: list[str], options: dict[str, Any]) -> None:
    """Do a tiny call on the synthetic data."""
    tracker = Tracker(sqlite_uri(Path(runs, "mlflow.db")), Path(runs, "artifacts"))
    bench = Bench(tracker, Path(runs), Path(data))
    bench.run(bench.call(*sets, **options))


TASKS = {task.__name__: task for task in (open_stores, run_tiny)}


class Copies:
    """Starts copies, each of which does a task of ``TASKS`` and ends."""

    def __enter__(self) -> Self:
        env = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
        words = [sys.executable, "-m", "support.copies"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.original = subprocess.Popen(words, env=env, text=True, **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self.original.communicate()

    def start(self, task: str, *arguments: Any) -> int:
        """The id of a new copy."""
        return self._ask(task, *arguments)

    def running(self, copy: int) -> bool:
        """Whether a copy has not ended. It must not have been waited for."""
        return psutil.Process(copy).status() != psutil.STATUS_ZOMBIE

    def wait(self, copy: int) -> int:
        """The exit code of a copy; of a killed one the negative number of the signal."""
        return self._ask("wait", copy)

    def _ask(self, *words: Any) -> int:
        assert self.original.stdin is not None
        assert self.original.stdout is not None
        print(json.dumps(words), file=self.original.stdin, flush=True)
        return int(self.original.stdout.readline())


def _main() -> None:
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - before there are copies
    import optuna.importance  # noqa: F401

    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first one imports torch's compiler
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what copies print is no answer
    for line in sys.stdin:
        task, *arguments = json.loads(line)
        if task == "wait":
            answer = os.waitstatus_to_exitcode(os.waitpid(arguments[0], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                return TASKS[task](*arguments)
        print(answer, file=answers, flush=True)
    return None


if __name__ == "__main__":
    _main()
