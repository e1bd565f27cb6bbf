"""What pytest does before and after it collects tests; shared fixtures are in ``support/fixtures.py``."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from _pytest.unraisableexception import gc_collect_iterations_key

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
MEMORY = Path("/dev/shm")
ROOM = 8 * 2**30
"""Free bytes with which the tests' folders are put into memory, where writes need not wait for a disk."""


def pytest_configure(config: pytest.Config) -> None:
    """Load the shared fixtures; put the folders of fast tests into memory, unless the user chose a place."""
    # The process that gives tests to others needs no fixtures: without torch and MLflow it starts in no time.
    if config.getoption("dist", "no") == "no":
        config.pluginmanager.import_plugin("support.fixtures")
    config.stash[gc_collect_iterations_key] = 1  # of five, which take seconds at the end
    if "not slow" in config.option.markexpr and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # --basetemp wins over it


@pytest.hookimpl(trylast=True)  # after -m and -k have left out theirs
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Have each of several processes begin with long tests: one that begins last has all wait for it."""
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    if processes > 1:
        items[:] = _dealt(items, processes)


def _dealt(items: Sequence[pytest.Item], processes: int) -> list[pytest.Item]:
    """Order tests so that equal shares of them take equal times; ``worksteal`` cuts the list like that.

    ``slow(seconds)`` says how long a test takes. Tests of an ``xdist_group`` stay together, since they share
    what takes long to make. Tests without a time follow in the usual order.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        marker = item.get_closest_marker("xdist_group")
        groups.setdefault(f"group {marker.args[0]}" if marker else item.nodeid, []).append(item)
    times = {name: sum(map(_seconds, group)) for name, group in groups.items()}
    shares, seconds = [list[pytest.Item]() for _ in range(processes)], [0] * processes
    for name in sorted((name for name in groups if times[name]), key=lambda name: -times[name]):
        least = seconds.index(min(seconds))
        shares[least] += groups[name]
        seconds[least] += times[name]
    rest = [item for name, group in groups.items() if not times[name] for item in group]
    for i, share in enumerate(shares):
        left = len(items) - sum(map(len, shares[:i]))
        count = max(0, left // (processes - i) - len(share))
        share += rest[:count]
        del rest[:count]
    return [item for share in shares for item in share] + rest


def _seconds(item: pytest.Item) -> int:
    marker = item.get_closest_marker("slow")
    return marker.args[0] if marker and marker.args else 0


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of the garbage collector's passes."""
    gc.freeze()
