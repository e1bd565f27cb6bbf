"""Peak memory of a function in its own process, read from ``/proc`` (Linux only)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

INTERVAL = 0.005
"""Seconds between two readings."""


@dataclass(frozen=True)
class Resident:
    """Memory of a process in bytes, including torch and all modules."""

    whole: int
    """``VmHWM``: the highest resident size, including mapped pages of files."""
    own: int
    """The highest ``RssAnon`` that was read: resident pages that belong to no file, so without mapped
    features."""
    start: int
    """``RssAnon`` before the function started, with its modules imported."""


def status(field: str, process: int | str = "self") -> int:
    """A size of a process from ``/proc/<process>/status``, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/{process}/status has no {field}: peak memory is measured on Linux only")
    return 1024 * int(found[1])


def watched(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Resident]:
    """Run a function in a new process; its result and peak memory.

    ``own`` may miss peaks that are shorter than ``INTERVAL``; ``whole`` misses none.

    Args:
        function: a function of a module, not a lambda.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(_ready, function).result()
        process = pool.submit(os.getpid).result()
        start = own = status("RssAnon", process)
        future = pool.submit(function, *arguments)
        while not future.done():
            wait([future], INTERVAL)
            own = max(own, status("RssAnon", process))
        return future.result(), Resident(status("VmHWM", process), own, start)


def _ready(function: Callable[..., Any]) -> None:
    """Unpickling the argument has imported its module."""
