"""Addresses of stores: from paths and back, and the messages about wrong ones."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

from benchmark.errors import UsageError
from benchmark.system.addresses import storage_address, tracking_address
from benchmark.system.databases import LONGEST_PATH, sqlite_file, sqlite_uri
from benchmark.system.patience import why_closed
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage

NAME = "My%20P #2 {a} {0}?x=1&y;z:t'\"@~$*[]\\+é\n%"

names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)


@given(st.lists(names, min_size=1, max_size=3))
@example(["My%20Project", "proj#2", "a?b=c", "{0}", "é", "a\nb"])
@example([NAME])
def test_the_address_of_a_file_names_that_file_to_all_who_read_it(parts: list[str]) -> None:
    path = Path("/nowhere", *parts, "store.db")
    uri = sqlite_uri(path)
    assert sqlite_file(uri) == path
    assert uri.format() == uri, "Optuna fills in templates"
    engine = create_engine(uri)
    assert engine.dialect.create_connect_args(engine.url)[0] == [str(path)]
    assert storage_address(uri) == uri == tracking_address(uri)


def test_stores_lie_in_a_folder_of_any_name_and_nowhere_else(tmp_path: Path) -> None:
    """With MLflow and Optuna, since only they show how they read an address."""
    runs = tmp_path / NAME / "runs"
    tracker = Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts")
    run = tracker.start("a run", {"kind": "job"})
    tracker.log_text(run, "text", "folder/a.txt")
    open_storage(sqlite_uri(runs / "optuna.db"))
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    assert {"mlflow.db", "optuna.db", "artifacts"} <= {p.name for p in runs.iterdir()}
    assert tracker.read_text(run, "folder/a.txt") == "text"
    downloaded = MlflowClient(tracker.uri).download_artifacts(run, "folder/a.txt", str(tmp_path))
    assert Path(downloaded).read_text() == "text", "MLflow's own pages find it too"


def test_addresses_that_users_give_keep_their_meaning() -> None:
    assert sqlite_file("sqlite:///runs/mlflow.db") == Path("runs/mlflow.db")
    assert sqlite_file("sqlite:////runs/My%20P/mlflow.db") == Path("/runs/My P/mlflow.db")
    assert sqlite_file("sqlite+pysqlite:////a.db") == Path("/a.db")
    assert sqlite_file("sqlite:///file:/a%2520b.db?mode=ro&uri=true") == Path("/a b.db")
    for other in (
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql://h/d",
        "http://h",
        "sqlite",
        "sqlite:///file:x?mode=memory&uri=1",
    ):
        assert sqlite_file(other) is None


def test_a_path_that_no_address_can_name_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rb"the byte b'\\xff', which is not UTF-8; rename".decode()):
        sqlite_uri(tmp_path / os.fsdecode(b"a\xff") / "mlflow.db")
    long = tmp_path.joinpath(*["d" * 100] * 6, "mlflow.db")
    with pytest.raises(UsageError, match=f"SQLite opens at most {LONGEST_PATH}; choose a shorter folder"):
        sqlite_uri(long)
    with pytest.raises(UsageError, match="choose a shorter folder"):
        tracking_address(f"sqlite:///{long}")
    folder = tmp_path / ("d" * 100)
    while len(str(folder)) < LONGEST_PATH - 112:
        folder /= "d" * 100
    file = folder / ("f" * (LONGEST_PATH - len(str(folder)) - 1))
    folder.mkdir(parents=True)
    assert sqlite_file(sqlite_uri(file)) == file
    with closing(sqlite3.connect(f"{file}.new")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (a)")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("127.0.0.1:5871/ml", "begin it with http://: http://127.0.0.1:5871/ml"),
        ("localhost:5000", "begin it with http://: http://localhost:5000"),
        ("[::1]:5000", "begin it with http://"),
        ("mlflow.example.org", "http://mlflow.example.org for a server"),
        ("x/store.db", "write sqlite:////.*/x/store.db for a file"),
        ("/", "this is a folder; give a file in it: sqlite:////store.db"),
        ("file:///tmp/mlruns", "this is a folder; give a file in it: sqlite:////tmp/mlruns/store.db"),
        ("htpp://h:5", "unknown kind of address 'htpp': did you mean 'http'"),
        ("http:/h:5", "two slashes are missing; write http://h:5"),
        ("http://", "it names no host"),
        ("http://h:port", "write http://HOST:PORT"),
        (
            "http://h:5000/#/experiments/1/runs",
            "this is the address of a page; give that of the server: http://h:5000$",
        ),
        (
            "https://h/ml/?o=1#/models",
            "this is the address of a page; give that of the server: https://h/ml$",
        ),
        ("http//h:5000", "or http://h:5000 for a server"),
        ("~/x.db", f"write sqlite:///{Path.home()}/x.db for a file$"),
        ("$PWD/x.db", "write sqlite:////[^$]*/x.db for a file$"),
        (r"C:\runs\mlflow.db", "mlflow.db for a file$"),
        ("sqlite://x.db", "a third slash is missing; write sqlite:////.*/x.db"),
        ("sqlite:x.db", "three slashes are missing; write sqlite:////.*/x.db"),
        ("sqlite://", "lost at the end; name a file"),
        ("sqlite:///:memory:", "lost at the end; name a file"),
        ("sqlite:////", "this is a folder"),
        ("postgres://u:secret@h/d", "calls it postgresql; write postgresql"),
        ("postgresql+psycopg2://u:secret@h/d", "driver psycopg2 is not installed; .*pip install psycopg"),
        ("postgresql+nothing://u:secret@h/d", "not an address of a database"),
        ("postgresql://u:secret@h:port/d", "not an address of a database"),
    ],
)
def test_a_wrong_address_is_explained_in_one_sentence_with_the_right_one(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        tracking_address(given)
    assert str(caught.value).startswith("--tracking-uri ")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("localhost:5432/optuna", r"begin it with postgresql\+psycopg://"),
        ("http://h:1", "give a database"),
        ("redis://h", "unknown kind of address 'redis'"),
        ("optuna.db", "write sqlite:////.*/optuna.db for a file"),
        ("databricks", "for a file"),
    ],
)
def test_a_wrong_storage_is_explained_likewise(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"--storage .*{message}"):
        storage_address(given)


def test_good_addresses_are_kept_except_for_the_case_of_the_scheme() -> None:
    for good in (
        "http://h:5000/ml",
        "https://h",
        "databricks",
        "databricks://profile",
        "sqlite:///runs/x.db",
    ):
        assert tracking_address(good) == good
    assert tracking_address(" HTTP://Host:5\n") == "http://Host:5"
    assert storage_address("PostgreSQL+psycopg://U:P@h/D") == "postgresql+psycopg://U:P@h/D"


@pytest.mark.parametrize("place", ["runs", "runs/mlflow.db", "runs/artifacts"])
def test_a_link_to_a_disk_that_is_not_mounted_gets_no_new_store_behind_it(tmp_path: Path, place: str) -> None:
    link, disk = tmp_path / place, tmp_path / "disk"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(disk / "there")
    with pytest.raises(UsageError, match="there, which is not there; mount its disk, or remove the link"):
        Tracker(sqlite_uri(tmp_path / "runs" / "mlflow.db"), tmp_path / "runs" / "artifacts")
    assert not disk.exists()


def test_a_folder_or_a_link_to_itself_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder, where a file is expected"):
        sqlite_uri(tmp_path)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError, match="a link that leads back to itself"):
        sqlite_uri(tmp_path / "loop")


def test_a_store_that_cannot_be_locked_is_reported_without_sql(tmp_path: Path) -> None:
    error = OperationalError("SELECT name", None, sqlite3.OperationalError("database is locked"))
    message = why_closed(error)
    assert "SELECT" not in message
    assert "sqlalche.me" not in message
    assert message.endswith("its file system has no locks, which SQLite needs: put it on a local disk")
    file = tmp_path / "x.db"
    file.write_text("no database, but a text of some length" * 9)
    with pytest.raises(UsageError, match=r"cannot be opened \(DatabaseError: file is not a database\)$"):
        Tracker(sqlite_uri(file), tmp_path / "artifacts")
