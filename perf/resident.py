"""Peak memory of a function, in a process of its own. Linux only: read from ``/proc``."""

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
"""Seconds between two samples."""


@dataclass(frozen=True)
class Resident:
    """Memory of a process, in bytes, torch and all modules included."""

    whole: int
    """``VmHWM``: the highest resident size that the kernel saw, mapped pages of files included."""
    own: int
    """The highest sampled ``RssAnon``: resident pages that belong to no file, so without mapped features."""
    start: int
    """``RssAnon`` before the function began, its modules imported."""


def status(field: str, process: int | str = "self") -> int:
    """A size of a process from ``/proc/<process>/status``, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/{process}/status has no {field}: peak memory is measured on Linux only")
    return 1024 * int(found[1])


def watched(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Resident]:
    """Result and peak memory of a function that a fresh process runs while this one looks on; peaks of less than
    ``INTERVAL`` may pass unseen in ``own``, none in ``whole``.

    Args:
        function: of a module, not a lambda.
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
