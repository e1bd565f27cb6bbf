"""Locks on file systems that cannot lock files or are read-only."""

from __future__ import annotations

import errno
import fcntl
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
from filelock import Timeout

from benchmark.system import locks
from benchmark.system.databases import sqlite_uri
from benchmark.system.locks import Locks, held, take
from benchmark.tuning.study import open_storage


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot lock files."""

    def refuse(*_: Any) -> None:
        raise OSError(request.param, "not here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", False)


def test_if_files_cannot_be_locked_existing_files_serve_as_locks_with_one_warning(
    tmp_path: Path, without_locks: None, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mine = Locks(tmp_path)
        assert not mine.is_held("jobs/a")
        with mine.hold("jobs/a") or pytest.fail("nobody holds it"):
            assert mine.is_held("jobs/a")
            assert mine.hold("jobs/a") is None
            with pytest.raises(Timeout):
                take(tmp_path / "jobs" / "a.lock", timeout=0)
        assert not mine.is_held("jobs/a")
        for _ in range(2):
            with held(tmp_path / "b.lock", timeout=0):
                pass
        assert open_storage(sqlite_uri(tmp_path / "optuna.db")).get_all_studies() == []
    (line,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "this file system cannot lock files (flock), so existing files serve as locks" in line
    assert "delete its *.held files by hand" in line


def test_no_warning_if_locks_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with held(tmp_path / "a.lock"):
        pass
    assert not caplog.records


def test_other_errors_of_a_lock_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="the disk is broken"):
        take(tmp_path / "a.lock")
