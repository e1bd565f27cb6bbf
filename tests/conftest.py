"""Fixtures that several tests share: a tracking store, small generated data, calls that take a second."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from support.checkout import SHARED
from support.tiny import Bench, need

from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.data.locate import open_or_build
from benchmark.method import REGISTERED
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
torch.set_num_threads(1)  # two test processes with two threads each are many times slower
hypothesis.settings.register_profile("shared machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared machine")
registry.load()  # ours are there in every test


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        need(f"no reference data at {SHARED} (set GZSL_SHARED)")
    return SHARED


@pytest.fixture(autouse=True)
def _same_methods() -> Iterator[None]:
    """Methods that a test registers are gone after it."""
    before = dict(REGISTERED)
    yield
    REGISTERED.clear()
    REGISTERED.update(before)


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty databases and the generated data: making them takes seconds, copying them does not."""
    folder = tmp_path_factory.mktemp("templates")
    Tracker(sqlite_uri(folder / "mlflow.db"), folder / "artifacts")
    open_storage(sqlite_uri(folder / "optuna.db"))
    open_or_build(load_cards()["synthetic"], None, folder / "data")
    return folder


@pytest.fixture(scope="session")
def mlflow_template(templates: Path) -> Path:
    """An empty tracking database."""
    return templates / "mlflow.db"


def runs_folder(templates: Path, folder: Path) -> Path:
    """A runs folder with empty databases."""
    folder.mkdir()
    for name in ("mlflow.db", "optuna.db"):
        shutil.copy(templates / name, folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path, templates: Path) -> Path:
    """A runs folder with empty databases."""
    return runs_folder(templates, tmp_path / "runs")


@pytest.fixture
def tracker(runs: Path) -> Tracker:
    return Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts")


@pytest.fixture
def bench(tracker: Tracker, runs: Path, tmp_path: Path, templates: Path) -> Bench:
    return Bench(tracker, runs, Path(shutil.copytree(templates / "data", tmp_path / "data")))


@pytest.fixture
def other(bench: Bench, tmp_path: Path, templates: Path) -> Bench:
    """A bench with the same data and another record."""
    runs = runs_folder(templates, tmp_path / "other")
    return Bench(Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts"), runs, bench.data)
