"""Fixtures that several tests share: a tracking store, small generated data, calls that take a second."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from tiny import Bench, need

from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
torch.set_num_threads(1)  # two test processes with two threads each are many times slower
hypothesis.settings.register_profile("shared machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared machine")
SHARED = Path(os.environ.get("GZSL_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        need(f"no reference data at {SHARED} (set GZSL_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking database; creating one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("mlflow")
    Tracker(sqlite_uri(folder / "mlflow.db"), folder / "artifacts")
    return folder / "mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, mlflow_template: Path) -> Path:
    """A runs folder with an empty tracking database."""
    folder = tmp_path / "runs"
    folder.mkdir()
    shutil.copy(mlflow_template, folder / "mlflow.db")
    return folder


@pytest.fixture
def tracker(runs: Path) -> Tracker:
    return Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts")


@pytest.fixture
def bench(tracker: Tracker, runs: Path, tmp_path: Path) -> Iterator[Bench]:
    return Bench(tracker, runs, tmp_path / "data")


@pytest.fixture
def other(bench: Bench, tmp_path: Path) -> Bench:
    """A bench with the same data and another record."""
    runs = tmp_path / "other"
    return Bench(Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts"), runs, bench.data)
