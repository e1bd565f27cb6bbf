"""Settings of other programs, warnings as errors and a missing home folder do not change the program."""

from __future__ import annotations

import getpass
import os
import pwd
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mlflow.environment_variables
import pytest
from support.commands import PROJECT
from support.tiny import Bench

from benchmark.errors import UsageError
from benchmark.system.surroundings import MLFLOW_KEPT, MLFLOW_KEPT_FOR_SERVERS, keep_mlflow_settings, settle
from benchmark.tracking.tracker import Tracker

OTHERS = {
    "MLFLOW_ACTIVE_MODEL_ID": "m-123",
    "_MLFLOW_ACTIVE_MODEL_ID": "m-123",
    "MLFLOW_RUN_ID": "0" * 32,
    "MLFLOW_EXPERIMENT_ID": "77",
    "MLFLOW_EXPERIMENT_NAME": "of another program",
    "MLFLOW_WORKSPACE": "team",
    "MLFLOW_ENABLE_WORKSPACES": "true",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    "MLFLOW_REGISTRY_URI": "http://127.0.0.1:9",
    "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
    "MLFLOW_ARTIFACT_LOCATION_MAX_LENGTH": "1",
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "AssertionPool",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI": "sqlite:////nowhere/x.db",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT": "/nowhere",
}
CONNECTIONS = {
    "MLFLOW_TRACKING_USERNAME": "me",
    "MLFLOW_TRACKING_PASSWORD": "mine",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "/certificate",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "7",
    "MLFLOW_S3_ENDPOINT_URL": "http://s3",
}


def test_a_call_runs_whatever_other_programs_set_for_mlflow(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, tmp_path: Path
) -> None:
    for name, value in {**OTHERS, **CONNECTIONS}.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "other"
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    other = Bench(tracker, folder, bench.data)
    result = other.run(other.call("train.epochs=1", methods="cjme", stages="1"))
    assert not result.failed
    (run,) = tracker.find(kind="job")
    assert run.metrics
    assert not set(OTHERS) & set(os.environ)
    assert {name: os.environ[name] for name in CONNECTIONS} == CONNECTIONS


def test_a_server_keeps_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0")
    keep_mlflow_settings(server=True)
    assert os.environ["MLFLOW_WORKSPACE"] == "team"
    assert "MLFLOW_RUN_ID" not in os.environ


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "abc", "a whole number"),
        ("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "abc", "a number"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "maybe", "true or false"),
    ],
)
def test_a_value_that_mlflow_cannot_read_is_refused_with_a_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, kind: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=rf"^{name}={value}: give {kind}, or unset the variable$"):
        Tracker(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)


def test_all_that_is_kept_is_known_to_mlflow() -> None:
    """A name that MLflow dropped need not be kept."""
    known = {*vars(mlflow.environment_variables), "MLFLOW_EXPERIMENTAL_S3_SIGNATURE_VERSION"}
    for name in (*MLFLOW_KEPT, *MLFLOW_KEPT_FOR_SERVERS):
        assert any(k == name or (name.endswith("_") and k.startswith(name)) for k in known), name


def test_without_a_home_libraries_get_a_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")  # restored after the test
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(FileNotFoundError("no place")))
        with pytest.raises(
            UsageError, match=r"no home folder, and no folder for temporary files .*: set HOME or TMPDIR"
        ):
            settle()
    settle()
    assert os.access(Path.home(), os.W_OK)
    assert getpass.getuser() == f"uid{os.getuid()}"
    home = Path.home()
    settle()
    assert Path.home() == home


def test_warnings_that_the_environment_makes_errors_are_warnings_here_and_in_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error,ignore::ResourceWarning")
    monkeypatch.setattr(sys, "warnoptions", ["error", "ignore::ResourceWarning", "err::UserWarning"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle()
        assert sys.warnoptions == ["ignore::ResourceWarning"]
        assert os.environ["PYTHONWARNINGS"] == "ignore::ResourceWarning"
        with pytest.warns(UserWarning, match="a word"):
            warnings.warn("a word", UserWarning, stacklevel=1)


@pytest.mark.slow
def test_a_process_with_all_warnings_as_errors_opens_its_stores(tmp_path: Path) -> None:
    """In a new process, since libraries warn while they are loaded."""
    words = [
        sys.executable,
        "-W",
        "error",
        str(PROJECT / "run_benchmark.py"),
        "ui",
        "--runs-dir",
        str(tmp_path / "runs"),
    ]
    env = {**os.environ, "PYTHONWARNINGS": "error"}
    ended = subprocess.run(words, env=env, check=False, capture_output=True, text=True)
    assert ended.stderr.startswith("error: no tracking store at"), ended.stderr
    open_both = (
        "from benchmark.system.surroundings import settle; settle(); from pathlib import Path\n"
        "from benchmark.tracking.tracker import Tracker; from benchmark.tuning.study import open_storage\n"
        f"Tracker('sqlite:///{tmp_path}/m.db', Path('{tmp_path}/a')); open_storage('sqlite:///{tmp_path}/o.db')"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", open_both], cwd=PROJECT, env=env, check=True)
