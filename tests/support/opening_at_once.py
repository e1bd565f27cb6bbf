"""Processes that open new stores at the same moments.

As a program, this file imports the libraries once, which takes seconds, and its processes are copies of it.
A copy of a test's own process would have its threads' locks.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Barrier

from support.checkout import PROJECT

from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage


def open_at_once(processes: int, tracking: Sequence[str], storages: Sequence[str], artifacts: Path) -> None:
    """Have several processes open the same stores at the same moments.

    Fails with what they print if one of them does.
    """
    words = ["-m", "support.opening_at_once", json.dumps([processes, tracking, storages, str(artifacts)])]
    env = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
    done = subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _open_stores(together: Barrier, tracking: Sequence[str], storages: Sequence[str], artifacts: str) -> None:
    """Open each store when all processes are about to do so."""
    for uri in tracking:
        together.wait()
        Tracker(uri, Path(artifacts))
    for uri in storages:
        together.wait()
        open_storage(uri)


def _main(processes: int, *stores: object) -> int:
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - before there are copies

    fork = multiprocessing.get_context("fork")
    together = fork.Barrier(processes, timeout=120)
    copies = [fork.Process(target=_open_stores, args=[together, *stores]) for _ in range(processes)]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()
    return sum(copy.exitcode != 0 for copy in copies)


if __name__ == "__main__":
    sys.exit(_main(*json.loads(sys.argv[1])))
