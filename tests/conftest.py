"""What pytest does before and after it collects tests; shared fixtures are in ``support/fixtures.py``."""

from __future__ import annotations

import gc
import os
import shutil
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


def pytest_collection_finish() -> None:
    """Leave what is imported by now out of the garbage collector's passes."""
    gc.freeze()
