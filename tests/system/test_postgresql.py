"""Optuna and MLflow on a real PostgreSQL with an outage. Slow; needs Debian's postgresql."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import optuna
import pytest
from mlflow.store.db import utils as mlflow_tables
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from optuna.storages._rdb.storage import _VersionManager
from support.commands import PROJECT, free_port, tiny_arguments, trainers
from support.opening_at_once import open_at_once
from support.tiny import Bench, need, results

from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage

pytestmark = pytest.mark.slow


class Server:
    """A PostgreSQL server on loopback with its own folder; it refuses root, so user postgres runs it."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        self.before = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.port = free_port()
        self.run("initdb", "-D", folder / "data", "-U", "gzsl", "--auth=trust", "-E", "UTF8")
        self.start()
        for name in ("mlflow", "optuna"):
            self.create(name)

    def run(self, program: str, *arguments: object) -> None:
        command = [*self.before, str(self.programs / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def create(self, database: str) -> None:
        self.run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "gzsl", database)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self.run(
            "pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-w", "-o", options, "start"
        )

    def stop(self) -> None:
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w", "stop")

    def uri(self, database: str) -> str:
        return f"postgresql+psycopg://gzsl@127.0.0.1:{self.port}/{database}"


@pytest.fixture
def postgresql() -> Iterator[Server]:
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), shutil.which("initdb")]
    if found[0] is None:
        need("PostgreSQL is not installed; apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="gzsl-postgresql-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    server = Server(folder, Path(found[0]).parent)
    try:
        yield server
    finally:
        subprocess.run(
            [
                *server.before,
                str(server.programs / "pg_ctl"),
                "-D",
                str(folder / "data"),
                "-m",
                "immediate",
                "stop",
            ],
            check=False,
            capture_output=True,
        )
        shutil.rmtree(folder, ignore_errors=True)


def test_processes_that_open_new_databases_at_the_same_time_all_succeed(
    postgresql: Server, tmp_path: Path
) -> None:
    databases = {
        "tracking": ["mlflow", "mlflow2"],
        "storages": ["optuna", *(f"optuna{i}" for i in range(2, 6))],
    }
    for name in ("mlflow2", *databases["storages"][1:]):
        postgresql.create(name)
    tracking, storages = ([postgresql.uri(name) for name in names] for names in databases.values())
    open_at_once(3, tracking, storages, tmp_path)
    assert all(Tracker(uri, tmp_path).find() == [] for uri in tracking)
    assert all(optuna.storages.RDBStorage(uri).get_all_studies() == [] for uri in storages)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize(
    "step", ["_upgrade_db", "_create_default_experiment", "create_experiment", "_set_alembic_revision"]
)
def test_a_database_that_was_left_half_made_is_completed_by_the_next_command(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """PostgreSQL changes tables in transactions, so the steps of MLflow and Optuna can be repeated."""

    def kill(*_: object, **__: object) -> None:
        raise Killed

    owners = [owner for owner in (mlflow_tables, SqlAlchemyStore, _VersionManager) if hasattr(owner, step)]
    with monkeypatch.context() as patch:
        patch.setattr(owners[0], step, kill)
        with suppress(Killed):
            Tracker(postgresql.uri("mlflow"), tmp_path)
            open_storage(postgresql.uri("optuna"))
            pytest.fail(f"{step} is no step any more")
    assert Tracker(postgresql.uri("mlflow"), tmp_path).start("a run", {})
    assert open_storage(postgresql.uri("optuna")).get_all_studies() == []


@pytest.mark.slow(120)
def test_both_storages_on_postgresql_carry_a_study_with_four_workers_and_outlive_a_stop_of_twenty_seconds(
    postgresql: Server, bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ["train.epochs=8", "train.batches_per_epoch=12", "tuning.parallel=4"]
    bench.run(bench.call(*sets, methods="cjme", seeds=2, trials=10))
    monkeypatch.setenv("GZSL_TRACKING_URI", postgresql.uri("mlflow"))
    monkeypatch.setenv("GZSL_STORAGE", postgresql.uri("optuna"))
    options = [
        "--methods",
        "cjme",
        "--seeds",
        "2",
        "--trials",
        "10",
        "--jobs",
        "4",
        *(f"--set={x}" for x in sets),
    ]
    words = [sys.executable, str(PROJECT / "run_benchmark.py"), *tiny_arguments(other, *options)]
    child = subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    most = 0
    while len(list(other.runs.glob("jobs/*/best.pt"))) < 5:
        assert child.poll() is None
        most = max(most, len(trainers(child, other.runs)))
        time.sleep(0.05)
    assert most > 1, "the study's trials did not run in parallel"
    postgresql.stop()
    time.sleep(20)
    assert child.poll() is None, "the call did not outlive the stop"
    postgresql.start()
    _, message = child.communicate(timeout=600)
    assert child.returncode == 0, message
    assert "does not answer" in message
    assert results(Tracker(postgresql.uri("mlflow"), other.runs / "artifacts")) == results(bench.tracker)
    (study,) = optuna.study.get_all_study_summaries(postgresql.uri("optuna"))
    trials, undisturbed = (
        optuna.load_study(study_name=study.study_name, storage=storage).trials
        for storage in (postgresql.uri("optuna"), bench.stores.storage)
    )
    assert [(t.state, t.params, t.value) for t in trials] == [
        (t.state, t.params, t.value) for t in undisturbed
    ]
    assert len(trials) == 10
