"""Fixtures that several tests share: a tracking store, small generated data, calls that take a second.

``conftest.py`` loads this file in the processes that run tests.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import hashlib
import inspect
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _VersionManager
from support.checkout import SHARED
from support.clipclap import make_clipclap_layout
from support.tiny import Bench, need

from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.data.importing.official_layout import import_official
from benchmark.data.locate import open_or_build, store_path
from benchmark.figures import embedding_layout
from benchmark.method import REGISTERED
from benchmark.report import parallel, write
from benchmark.report.sections import Image, ReportFigure
from benchmark.running import records, studies
from benchmark.system import reading
from benchmark.system.databases import sqlite_file, sqlite_uri
from benchmark.tracking import tracker as tracking
from benchmark.tracking.tracker import Tracker
from benchmark.tuning import study as tuning

torch.set_num_threads(1)  # two test processes with two threads each are many times slower
hypothesis.settings.register_profile(
    "shared machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared machine")
registry.load()  # ours are there in every test
_parsed = functools.cache(reading.parse_documents)  # parsing is a sixth of a tiny run's time
reading.parse_documents = lambda text, place: copy.deepcopy(_parsed(text, place))
# The collector would pass over a million objects of libraries again and again, for a sixth of all the time.
gc.set_threshold(50_000, 10, 10)
parallel.PROCESSES = 1  # another process imports matplotlib for a second, and draws for less

MAKE_TRACKING, OPENING = tracking._make, tuning.opening


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
def empty_tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQLite files with the tables of MLflow and of Optuna.

    Making them takes seconds, so pytest's cache keeps them.
    """
    tracking._load_mlflow(server=False)  # or it prints what it does
    import mlflow
    import optuna
    from mlflow.store.db import utils

    # MLflow reads seventy files for it whenever a store is opened.
    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    code = hashlib.sha256(inspect.getsource(tracking).encode()).hexdigest()[:16]
    cache = getattr(request.config, "cache", None)
    kept = cache.mkdir(f"tables-{mlflow.__version__}-{optuna.__version__}-{code}") if cache else None
    folder = tmp_path_factory.mktemp("tables")
    if kept is not None and (kept / "whole").is_dir():
        _copy_tables(kept / "whole", folder)
    else:
        _make_tables(folder)
        if kept is not None:
            new = Path(tempfile.mkdtemp(dir=kept))
            _copy_tables(folder, new)
            with contextlib.suppress(OSError):  # another process was faster
                new.rename(kept / "whole")
    # Optuna runs twelve files for it whenever a storage is opened.
    newest = (folder / "optuna-version").read_text()
    _VersionManager.get_head_version = lambda manager: newest
    return folder


def _copy_tables(source: Path, target: Path) -> None:
    for name in ("mlflow.db", "optuna.db", "optuna-version"):
        shutil.copy(source / name, target)


def _make_tables(folder: Path) -> None:
    MAKE_TRACKING(sqlite_uri(folder / "mlflow.db"), "none", folder.as_uri(), {})
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("DELETE FROM experiments WHERE name = 'none'")
        connection.commit()
    storage = RDBStorage(sqlite_uri(folder / "optuna.db"))
    storage.engine.dispose()
    (folder / "optuna-version").write_text(storage._version_manager.get_head_version())


@pytest.fixture(autouse=True)
def made_tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that a test makes in its own process gets a copy of the tables.

    The rest of making it stays as it is.
    """

    def copy(name: str, address: str) -> None:
        shutil.copy(request.getfixturevalue("empty_tables") / name, sqlite_file(address) or address)

    def make_tracking(address: str, *rest: Any) -> None:
        copy("mlflow.db", address)
        MAKE_TRACKING(address, *rest)

    def open_tuning(uri: str, last: str, make: Callable[[str], None]) -> AbstractContextManager[None]:
        return OPENING(uri, last, lambda address: copy("optuna.db", address))

    monkeypatch.setattr(tracking, "_make", make_tracking)
    monkeypatch.setattr(tuning, "opening", open_tuning)


@pytest.fixture(scope="session")
def templates(empty_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty databases and the synthetic data: making them takes seconds, copying them does not."""
    folder = tmp_path_factory.mktemp("templates")
    for name in ("mlflow.db", "optuna.db"):
        shutil.copy(empty_tables / name, folder)
    Tracker(sqlite_uri(folder / "mlflow.db"), folder / "artifacts")
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


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs and reports in the process of a test draw nothing: it takes longer than all the rest.

    Jobs lay out no map; the numbers of a report's figures are written. Marker ``figures`` leaves jobs as they
    are, marker ``painted`` reports.
    """

    def save(figure: ReportFigure, folder: Path) -> Image:
        figure.data.to_csv(folder / f"{figure.stem}.csv", index=False)
        return Image(b"<svg/>", 1, 1)

    if request.node.get_closest_marker("painted") is None:
        monkeypatch.setattr(write, "save_figure", save)
    if request.node.get_closest_marker("figures") is None:
        for module in (records, studies):
            monkeypatch.setattr(module, "log_drawn", lambda tracker, run_id, draw, file: None)
        monkeypatch.setattr(embedding_layout, "_tsne", lambda values: values[:, :2])


@pytest.fixture
def bench(tracker: Tracker, runs: Path, tmp_path: Path, templates: Path) -> Bench:
    return Bench(tracker, runs, Path(shutil.copytree(templates / "data", tmp_path / "data")))


@pytest.fixture
def clip_clap(bench: Bench, tmp_path: Path) -> Bench:
    """A bench with small features in ClipClap's layout as UCF's."""
    source = make_clipclap_layout(tmp_path / "source", "ucf", form="classes")
    import_official(load_cards()["ucf"], "clip_clap", source, store_path(bench.data, "ucf", "clip_clap"))
    return bench


@pytest.fixture
def other(bench: Bench, tmp_path: Path, templates: Path) -> Bench:
    """A bench with the same data and another record."""
    runs = runs_folder(templates, tmp_path / "other")
    return Bench(Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts"), runs, bench.data)
