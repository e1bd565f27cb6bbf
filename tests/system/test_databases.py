"""SQLite files of stores: created atomically, found half made, moved, copied, read without write access."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.store.db import utils as mlflow_tables
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from support.copies import Copies
from support.tiny import Bench, need

from benchmark.cli.app import main
from benchmark.errors import Unavailable, UsageError
from benchmark.running.jobs import Plan
from benchmark.running.status import Existing, plan_states
from benchmark.running.studies import study_of
from benchmark.system import databases, patience
from benchmark.system.databases import readable, sqlite_uri
from benchmark.tracking import tracker as tracking
from benchmark.tracking.benchmark_runs import find_benchmark_runs
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage


@pytest.fixture(autouse=True)
def made_tables() -> None:
    """Here tables are made and not copied, since the steps of making them are looked at."""


class Killed(BaseException):
    """The process ends here."""


def open_tracker(runs: Path) -> Tracker:
    return Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts")


def fail(error: BaseException) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> None:
        raise error

    return failing


def copying(template: Path) -> Callable[..., None]:
    """Create a store as a copy of another one."""

    def make(address: str, *_: object) -> None:
        shutil.copy(template, databases.sqlite_file(address) or pytest.fail(address))

    return make


STEPS = [
    (mlflow_tables, "_upgrade_db", False),
    (SqlAlchemyStore, "create_experiment", False),
    (databases, "set_write_ahead_logging", True),
    (os, "replace", True),
]


@pytest.mark.parametrize(("owner", "step", "made"), STEPS)
def test_a_kill_while_a_tracking_store_is_made_leaves_nothing_that_a_later_command_cannot_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, made: bool, mlflow_template: Path
) -> None:
    """Create a store (or copy one, if that is enough), and leave the files beside it as after a kill."""
    with monkeypatch.context() as patch:
        if made:
            patch.setattr(tracking, "_make", copying(mlflow_template))
        patch.setattr(owner, step, fail(Killed()))
        patch.setattr(databases, "_remove", lambda file: None)
        with pytest.raises(Killed):
            open_tracker(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    (tmp_path / "mlflow.db.new").touch()
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_make", copying(mlflow_template))
        assert open_tracker(tmp_path).find() == []
    assert not list(tmp_path.glob("*.new*"))


@pytest.mark.parametrize("step", ["_init_version_info_model", "_init_alembic", "_set_alembic_revision"])
def test_a_kill_while_an_optuna_storage_is_made_leaves_nothing_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    uri = sqlite_uri(tmp_path / "optuna.db")
    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages._rdb.storage._VersionManager, step, fail(Killed()))
        patch.setattr(databases, "_remove", lambda file: None)
        with pytest.raises(Killed):
            open_storage(uri)
    assert not (tmp_path / "optuna.db").exists()
    assert open_storage(uri).get_all_studies() == []
    assert sorted(p.name for p in tmp_path.iterdir() if "-" not in p.name) == ["optuna.db", "optuna.db.lock"]


def statements(file: Path) -> list[str]:
    """The functions that create the tables of a SQLite file."""
    with closing(sqlite3.connect(file)) as connection:
        return [
            sql
            for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT LIKE '%sqlite_%'")
            if sql
        ]


@pytest.mark.parametrize("tables", [0, 5, 1000])
def test_a_store_that_an_older_version_left_half_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_template: Path, tables: int
) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements(mlflow_template)[:tables]:
            connection.execute(statement)
        connection.execute("CREATE TABLE _alembic_tmp_jobs (a)")
        connection.commit()
    Path(f"{file}-wal").write_bytes(b"what the killed process left")
    monkeypatch.setattr(tracking, "_make", copying(mlflow_template))
    tracker = open_tracker(tmp_path)
    assert tracker.find(kind="benchmark_run") == []
    assert tracker.start("a run", {})


def test_a_half_made_store_that_holds_something_is_kept_and_named(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE letters (a)")
        connection.execute("INSERT INTO letters VALUES ('dear')")
        connection.commit()
    before = file.read_bytes()
    for opened in (lambda: open_tracker(tmp_path), lambda: open_storage(sqlite_uri(file))):
        with pytest.raises(
            UsageError, match=r"mlflow\.db: not a complete store, although it has rows \(in letters\); move"
        ):
            opened()
    assert file.read_bytes() == before


def test_an_empty_database_of_another_program_is_kept_and_named(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE people (name)")
        connection.commit()
    before = file.read_bytes()
    for opened in (lambda: open_tracker(tmp_path), lambda: open_storage(sqlite_uri(file))):
        with pytest.raises(UsageError, match=r"mlflow\.db: another program's database \(with people\)"):
            opened()
    assert file.read_bytes() == before


def test_a_file_that_is_no_database_is_reported_and_kept(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database")
    with pytest.raises(UsageError, match=r"cannot be opened \(DatabaseError: file is not a database"):
        open_tracker(tmp_path)
    assert (tmp_path / "mlflow.db").read_text() == "this is no database"


def test_a_symbolic_link_to_a_store_on_another_disk_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "optuna.db"
    link.symlink_to(tmp_path / "disk" / "real.db")
    open_storage(f"sqlite:///{link}")
    assert link.is_symlink()
    assert (tmp_path / "disk" / "real.db").is_file()


@pytest.mark.parametrize("full", [sqlite3.SQLITE_FULL, errno.ENOSPC])
def test_a_disk_that_is_full_when_a_store_is_made_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int
) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv(patience.VARIABLE, "0.1")
    create, tries = optuna.storages.RDBStorage, list[str]()

    def making(url: str, **options: Any) -> Any:
        tries.append(url)
        if len(tries) < 3:
            if full == errno.ENOSPC:
                raise OSError(full, "No space left on device")
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = full
            raise optuna.exceptions.StorageInternalError("commit") from error
        return create(url, **options)

    monkeypatch.setattr(optuna.storages, "RDBStorage", making)
    assert open_storage(sqlite_uri(tmp_path / "optuna.db")).get_all_studies() == []
    assert len(tries) == 4
    monkeypatch.setattr(optuna.storages, "RDBStorage", fail(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(Unavailable, match="No space left"):
        open_storage(sqlite_uri(tmp_path / "other.db"))


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 100_000, 1_100_000])
def test_the_first_command_on_a_full_disk_continues_once_there_is_room(tmp_path: Path, room: int) -> None:
    """With a real file system, since only that shows how SQLite, MLflow and Optuna report a full one."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", small], check=False, capture_output=True
    ).returncode:
        need("no right to mount a small file system")
    try:
        ballast = small / "ballast"
        ballast.write_bytes(bytes(5 * 2**20 - 2**14 - room))
        timer = threading.Timer(6, ballast.unlink)
        timer.start()
        open_tracker(small)
        open_storage(sqlite_uri(small / "optuna.db"))
        timer.join()
        assert sorted(
            p.name for p in small.glob("*.db*") if not p.name.endswith(("-wal", "-shm", ".lock"))
        ) == [
            "mlflow.db",
            "optuna.db",
        ]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_real_signals_in_the_first_second_leave_a_folder_in_which_the_next_command_works(
    tmp_path: Path, stop: int
) -> None:
    """With processes that end at any moment, since only these show that no moment was forgotten."""
    with Copies() as copies:
        for i in range(3):
            runs = tmp_path / str(i)
            copy = copies.start("open_stores", str(runs))
            while copies.running(copy) and not list(runs.glob("*.new")):
                time.sleep(0.005)
            time.sleep(0.4 * i)
            os.kill(copy, stop)
            copies.wait(copy)
            assert copies.wait(copies.start("open_stores", str(runs))) == 0
            assert not list(runs.glob("*.new*"))


def filled(runs: Path) -> tuple[Tracker, str]:
    tracker = open_tracker(runs)
    run = tracker.start("a job", {"kind": "job", "job_key": "k"})
    tracker.log_json(run, {"a": 1}, "result.json")
    tracker.finish(run)
    return tracker, run


def content(folder: Path) -> dict[str, bytes]:
    """All files except SQLite's shared memory, which also counts readers of this process."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith("-shm"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize("place", ["moved", "copied"])
def test_a_runs_folder_that_is_moved_or_copied_works_where_it_is_and_touches_nothing_elsewhere(
    runs: Path, tmp_path: Path, place: str
) -> None:
    filled(runs)
    new = tmp_path / place / "of a friend" / "runs"
    new.parent.mkdir(parents=True)
    if place == "moved":
        runs.rename(new)
    else:
        shutil.copytree(runs, new)
    before = content(runs) if place == "copied" else {}
    tracker = open_tracker(new)
    run = tracker.by_job_key(["k"])["k"].run_id
    assert tracker.read_json(run, "result.json") == {"a": 1}
    other = tracker.start("another job", {"kind": "job"})
    for each in (run, other):
        tracker.log_text(each, "new", "folder/new.txt")
        assert tracker.read_text(each, "folder/new.txt") == "new"
        uri = MlflowClient(tracker.uri).get_run(each).info.artifact_uri
        assert uri == (new / "artifacts" / each / "artifacts").as_uri(), "MLflow's own pages look there"
    assert (content(runs) if place == "copied" else {}) == before
    assert runs.exists() == (place == "copied")


def test_a_moved_store_of_an_older_version_is_found_too_and_artifacts_elsewhere_on_purpose_are_left(
    runs: Path, tmp_path: Path
) -> None:
    def forget(file: Path) -> None:
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("DELETE FROM experiment_tags WHERE key = 'artifacts'")
            connection.commit()

    _, run = filled(runs)
    forget(runs / "mlflow.db")
    shutil.copytree(runs, tmp_path / "new")
    shutil.copytree(runs / "artifacts", tmp_path / "scratch")
    shutil.rmtree(runs)
    assert open_tracker(tmp_path / "new").read_json(run, "result.json") == {"a": 1}

    for older in (False, True):
        folder = tmp_path / f"apart {older}"
        folder.mkdir()
        shutil.copy(tmp_path / "new" / "mlflow.db", folder / "mlflow.db")
        scratch = (tmp_path / "scratch").as_uri()
        with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
            connection.execute("UPDATE experiments SET artifact_location = ?", [scratch])
            connection.execute(
                "UPDATE experiment_tags SET value = ? WHERE key = 'artifacts'", [str(tmp_path / "scratch")]
            )
            connection.commit()
        if older:
            forget(folder / "mlflow.db")
            (folder / "artifacts").mkdir()  # of another program
            (tmp_path / "scratch").rename(tmp_path / "not mounted")
            with pytest.raises(
                Unavailable, match=r"artifacts of its runs are neither in .*scratch nor in .*artifacts; mount"
            ):
                open_tracker(folder)
            (tmp_path / "not mounted").rename(tmp_path / "scratch")
        assert open_tracker(folder).read_json(run, "result.json") == {"a": 1}


def test_a_result_that_cannot_be_read_for_now_is_not_lost_and_a_damaged_one_is(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker, run = filled(runs)

    def fails(self: Path, **_: object) -> str:
        raise OSError(errno.EIO, "Input/output error", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fails)
        with pytest.raises(Unavailable, match=r"result\.json: the disk or network drive failed"):
            tracker.read_json(run, "result.json")
    with pytest.raises(UsageError, match=r"artifact none\.json cannot be read"):
        tracker.read_json(run, "none.json")
    tracker.log_text(run, '{"a": ', "cut.json")
    with pytest.raises(UsageError, match=r"artifact cut\.json is not JSON"):
        tracker.read_json(run, "cut.json")


def test_a_call_in_a_moved_folder_finds_its_jobs_done(bench: Bench, tmp_path: Path) -> None:
    call = bench.call("train.epochs=1", methods="cjme")
    bench.run(call)
    new = tmp_path / "new"
    bench.runs.rename(new)
    again = Bench(open_tracker(new), new, bench.data)
    assert {e.state for e in again.run(call).entries} == {"reused"}
    assert not bench.runs.exists()


@contextmanager
def only_reading(folder: Path) -> Iterator[None]:
    """Rights to read the folder only; root temporarily becomes such a user."""
    files = [folder, *folder.rglob("*")]
    modes = [file.stat().st_mode for file in files]
    for parent in [folder, *folder.parents]:
        if os.geteuid() == 0 and parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o055)
    for file in files:
        file.chmod(0o555 if file.is_dir() else 0o444)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        if user == 0:
            os.seteuid(user)
        for file, mode in zip(files, modes, strict=True):
            if file.exists():
                file.chmod(mode)


@pytest.mark.parametrize("state", ["at rest", "killed", "working"])
def test_a_store_that_may_only_be_read_is_read_and_nothing_is_written_into_its_folder(
    runs: Path, tmp_path: Path, state: str
) -> None:
    tracker, run = filled(runs)
    uri, moved = tracker.uri, runs
    if state == "killed":  # the log is left, with what nobody wrote into the file
        moved = tmp_path / "killed"
        shutil.copytree(runs, moved, ignore=lambda folder, names: [n for n in names if n.endswith("-shm")])
        assert (moved / "mlflow.db-wal").stat().st_size > 0
        uri = sqlite_uri(moved / "mlflow.db")
    elif state == "at rest":
        tracker.client._tracking_client.store.engine.dispose()
        assert not (runs / "mlflow.db-wal").exists()
    before = content(moved)
    with only_reading(moved):
        if os.access(moved, os.W_OK, effective_ids=True):
            need("this user may write everywhere")
        found = Tracker.existing(uri, moved / "artifacts")
        assert found is not None
        assert found.address != uri
        assert [r.run_id for r in found.find(kind="job")] == [run]
        assert found.read_json(run, "result.json") == {"a": 1}
        with pytest.raises(
            UsageError,
            match=r"you may read this store, but not write to it \(.*mlflow\.db.*\); grant the rights",
        ):
            Tracker(uri, moved / "artifacts")
    assert content(moved) == before


def test_status_of_a_folder_that_may_only_be_read_tells_what_runs(bench: Bench) -> None:
    call = bench.call("train.epochs=1", methods="cjme", trials=1)
    bench.run(call)
    units = bench.units(call)
    key = units[0].job(1, 0).key
    tag = bench.tracker.by_job_key([key])[key].run_id
    bench.tracker.reopen(tag)
    lock = bench.runner.locks.hold(f"jobs/{key}") or pytest.fail("somebody holds it")
    with lock, only_reading(bench.runs):
        tracker = Tracker.existing(bench.tracker.uri, bench.tracker.artifacts)
        states = plan_states(Plan(call, units), Existing(tracker, readable(bench.stores.storage), bench.runs))
    assert [s.state for s in states] == ["running", "done", "done"]


def test_without_a_store_nothing_is_made_for_reading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert Tracker.existing(sqlite_uri(runs / "mlflow.db"), runs / "artifacts") is None
    with pytest.raises(SystemExit):
        main(["report", "--runs-dir", str(runs)])
    assert "no tracking store at" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_deleted_experiment_is_named_with_what_restores_it(tracker: Tracker) -> None:
    tracker.client.delete_experiment(tracker.experiment_id)
    restore = f"MLFLOW_TRACKING_URI={tracker.uri} mlflow experiments restore -x {tracker.experiment_id}"
    for opened in (Tracker, Tracker.existing):
        with pytest.raises(
            UsageError, match=r"experiment 'gzsl-bench' of .* was deleted; restore it"
        ) as caught:
            opened(tracker.uri, tracker.artifacts)
        assert str(caught.value).endswith(restore)
    tracker.client.restore_experiment(tracker.experiment_id)
    assert Tracker(tracker.uri, tracker.artifacts).find() == []


def test_an_action_on_a_deleted_run_is_reported_in_a_sentence(tracker: Tracker) -> None:
    run = tracker.start("a run", {"kind": "job"})
    tracker.client.delete_run(run)
    assert tracker.find() == []
    purged = "0" * 32
    for action in (
        lambda: tracker.tag(run, {"a": "b"}), lambda: tracker.log_metrics(run, {"a": 1.0}),
        lambda: tracker.finish(run),
        lambda: tracker.log_params(run, {"a": 1}), lambda: tracker.reopen(purged),
        lambda: tracker.get(purged),
        lambda: tracker.log_dataset(run, name="a", digest="b", source="c", context="d"),
    ):  # fmt: skip
        with pytest.raises(
            UsageError, match=r"a run was deleted while this command used it .*; rerun the command"
        ):
            action()


@pytest.mark.parametrize("deleted", ["benchmark_run", "method", "job", "artifacts"])
def test_a_call_whose_runs_or_files_were_deleted_does_again_what_is_missing(
    bench: Bench, deleted: str
) -> None:
    call = bench.call("train.epochs=1", methods="cjme", stages="1")
    first = bench.run(call)
    if deleted == "artifacts":
        shutil.rmtree(bench.runs / "artifacts" / bench.tracker.find(kind="job")[0].run_id)
    else:
        bench.tracker.client.delete_run(bench.tracker.find(kind=deleted)[0].run_id)
    if deleted == "benchmark_run":
        with pytest.raises(
            UsageError, match="their benchmark runs were deleted: restore one in MLflow's page"
        ):
            find_benchmark_runs(bench.tracker, None)
    again = bench.run(call)
    assert not again.failed
    assert [e.state for e in again.entries] == [
        "reused" if deleted in ("benchmark_run", "method") else "done"
    ]
    assert (again.run_id == first.run_id) == (deleted != "benchmark_run")


def test_a_study_that_is_deleted_while_it_runs_is_reported_and_restarted_by_the_same_command(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = bench.call("train.epochs=1", methods="cjme", trials=3)
    study = study_of(bench.units(call)[0], bench.stores.storage)

    def delete(title: str, epochs: int, batches: int) -> None:
        if "trial 1" in title:
            optuna.delete_study(study_name=study.name, storage=bench.stores.storage)

    with monkeypatch.context() as patch:
        patch.setattr(bench.display, "start", delete)
        with pytest.raises(
            Unavailable, match="a study was deleted from the Optuna storage while this command worked on it"
        ):
            bench.run(call)
    result = bench.run(call)
    assert not result.failed
    assert result.studies[0].complete + result.studies[0].pruned == 3
    optuna.delete_study(study_name=study.name, storage=bench.stores.storage)
    assert study.look() is None
    assert not bench.run(call).failed


def test_a_plugin_below_the_working_folder_is_recorded_as_seen_from_there(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a config.yaml stays usable after its project was moved."""
    (unit, *_) = bench.units(bench.call(methods="cjme"))
    monkeypatch.chdir(tmp_path)
    inside, outside = tmp_path / "methods" / "mine.py", Path("/elsewhere/mine.py")
    assert replace(unit, plugins=[inside, outside]).job(1, 0).alone().plugins == [
        Path("methods/mine.py"),
        outside,
    ]
