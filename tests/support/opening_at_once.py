"""Processes that open new stores at the same moments."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier

from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage


def open_stores(together: Barrier, tracking: Sequence[str], storages: Sequence[str], artifacts: Path) -> None:
    """Open each store when all processes are about to do so."""
    for uri in tracking:
        together.wait()
        Tracker(uri, artifacts)
    for uri in storages:
        together.wait()
        open_storage(uri)


def open_at_once(processes: int, tracking: Sequence[str], storages: Sequence[str], artifacts: Path) -> None:
    """Have several processes open the same stores at the same moments.

    Raises what the first of them raised.
    """
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        together = manager.Barrier(processes, timeout=120)
        for opened in [
            pool.submit(open_stores, together, tracking, storages, artifacts) for _ in range(processes)
        ]:
            opened.result()
