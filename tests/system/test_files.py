"""Replacing files, and reasons outside a file: links, permissions, long names, locks, failing disks."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from filelock import FileLock, Timeout

from benchmark.cli import app
from benchmark.errors import Unavailable, UsageError
from benchmark.system.files import (
    OutsideError,
    file_lock,
    outside_message,
    outside_reason,
    raise_outside,
    raise_unreadable,
    replacing,
)
from benchmark.system.locks import is_locked


def write(path: Path, text: str = "new") -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


@pytest.fixture
def other_disk(tmp_path: Path) -> Path:
    place = tmp_path / "other disk"
    place.mkdir()
    return place


# Replacing


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced_beside_itself(
    tmp_path: Path, other_disk: Path
) -> None:
    (other_disk / "store.h5").write_text("old")
    (tmp_path / "first").symlink_to(other_disk / "store.h5")
    link = tmp_path / "second"
    link.symlink_to("first")
    with replacing(link) as temporary:
        assert temporary.parent == other_disk
        temporary.write_text("new")
    assert (link.is_symlink(), (tmp_path / "first").is_symlink()) == (True, True)
    assert (other_disk / "store.h5").read_text() == "new"
    assert sorted(p.name for p in other_disk.iterdir()) == ["store.h5"]


def test_a_dangling_link_is_written_through_where_its_folder_is_there(
    tmp_path: Path, other_disk: Path
) -> None:
    (tmp_path / "link").symlink_to(other_disk / "new.h5")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (other_disk / "new.h5").read_text() == "new"


def test_a_link_to_a_disk_that_is_not_mounted_is_named_and_no_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "new.h5")
    with pytest.raises(
        OutsideError, match=r"link: a link to .*unmounted/new\.h5, which is not there; mount its disk"
    ):
        write(tmp_path / "link")
    assert not (tmp_path / "unmounted").exists()
    (tmp_path / "data").symlink_to(tmp_path / "unmounted")
    for path in (tmp_path / "data" / "new.h5", tmp_path / "data" / "further" / "new.h5"):
        with pytest.raises(OutsideError, match=r"data is a link to .*unmounted, which is not there"):
            write(path)
    assert not (tmp_path / "unmounted").exists()


@pytest.mark.parametrize("way", ["folder", "link to a folder", "link to itself", "pipe", "link to a pipe"])
def test_what_is_no_file_is_refused_before_anything_is_written(tmp_path: Path, way: str) -> None:
    path = tmp_path / "store.h5"
    if way == "link to itself":
        path.symlink_to("store.h5")
    elif "pipe" in way:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe") if "link" in way else os.rename(tmp_path / "pipe", path)
    else:
        (tmp_path / "folder").mkdir()
        path.symlink_to("folder") if way == "link to a folder" else path.mkdir()
    with (
        pytest.raises(
            OutsideError, match=f"{path}: (a folder, where|a link that leads back|a device or pipe)"
        ),
        replacing(path),
    ):
        pytest.fail("the block was run")


@pytest.mark.parametrize(
    ("mode", "umask", "expected"), [(None, 0o027, 0o640), (0o604, 0o077, 0o604), (0o444, 0o022, 0o444)]
)
def test_permissions_of_a_replaced_file_stay_and_new_files_obey_the_umask(
    tmp_path: Path, mode: int | None, umask: int, expected: int
) -> None:
    path = tmp_path / "file"
    if mode is not None:
        path.write_text("old")
        path.chmod(mode)
    before = os.umask(umask)
    try:
        write(path)
    finally:
        os.umask(before)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", expected)


@pytest.mark.parametrize("name", ["x" * 252 + ".h5", "ä" * 126 + ".h5", "x" * 200, "x" * 201])
def test_names_up_to_the_limit_can_be_replaced(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    write(tmp_path / name, "newer")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "newer"


def test_writers_with_one_process_number_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as first, replacing(tmp_path / "file") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "file").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def _failing_fsync(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_fsync_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    _failing_fsync(monkeypatch, code)
    write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "file").write_text("old")
    _failing_fsync(monkeypatch, code)
    with pytest.raises(OSError, match=os.strerror(code)):
        write(tmp_path / "file")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "old")]


# Reasons


@pytest.mark.parametrize(
    ("code", "reported"),
    [
        (errno.EAGAIN, "another program has it open and locked; close it there"),
        (errno.ENOLCK, "without file locks do; mount the drive with locks"),
        (errno.ENOSYS, "without file locks do; mount the drive with locks"),
        (errno.EACCES, "not permitted to use it; grant the rights"),
        (errno.EPERM, "not permitted to use it; grant the rights"),
        (errno.EMFILE, r"too many files are open; raise the limit \(ulimit -n\)"),
        (errno.ENFILE, r"too many files are open; raise the limit \(ulimit -n\)"),
        (errno.EIO, "disk or network drive failed; check the drive"),
        (errno.ENOMEM, "memory ran out; free memory"),
        (errno.ESTALE, "mounted again or the file replaced there; mount"),
        (errno.ENOSPC, "disk is full.*; make room"),
        (errno.EROFS, "read-only; mount it for writing"),
    ],
)
def test_a_reason_that_may_pass_has_its_own_sentence_and_fix(
    tmp_path: Path, code: int, reported: str
) -> None:
    error = OSError(code, os.strerror(code))
    with pytest.raises(Unavailable, match=f"^{tmp_path / 'x'}: .*{reported}"):
        raise_outside(error, tmp_path / "x")
    hidden = OSError(f"Unable to open file (file read failed, errno = {code}, error message = ...)")
    assert outside_reason(hidden, tmp_path / "x") == outside_reason(error, tmp_path / "x")


def test_memory_that_runs_out_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="memory ran out"):
        raise_outside(MemoryError(), tmp_path)


def test_errors_of_the_content_are_none_of_these(tmp_path: Path) -> None:
    raise_outside(OSError("Unable to open file (file signature not found)"), tmp_path)
    raise_outside(KeyError("errno = 5"), tmp_path)


@pytest.mark.parametrize("way", ["missing", "below a file", "folder", "long"])
def test_a_path_that_is_wrong_is_a_mistake_of_the_user(tmp_path: Path, way: str) -> None:
    (tmp_path / "file").write_text("")
    path, reported = {
        "missing": (tmp_path / "no" / "x", "no such file; check the path"),
        "below a file": (tmp_path / "file" / "x", f"{tmp_path / 'file'} is a file, not a folder"),
        "folder": (tmp_path, "a folder, where a file is expected; name a file"),
        "long": (tmp_path / ("x" * 300), "its name is too long"),
    }[way]
    with pytest.raises(UsageError, match=reported):
        raise_unreadable(path)
    with pytest.raises(OSError, match="Unable to") as caught:
        h5py.File(path, "r", locking=False)
    with pytest.raises(UsageError, match=reported):
        raise_outside(caught.value, path)


def test_a_readable_file_is_not_to_blame(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * 2**20))
    raise_unreadable(tmp_path / "file")


# Locks


def test_a_file_that_another_program_writes_to_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "store.h5"
    with pytest.raises(FileNotFoundError):
        is_locked(path)
    with h5py.File(path, "w"):
        assert is_locked(path)
    assert not is_locked(path)
    with h5py.File(path, "r"):
        assert not is_locked(path)


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def flock(file: object, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    return None


@pytest.mark.usefixtures("no_locks")
def test_work_continues_without_locks(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "store.h5").write_text("")
    assert not is_locked(tmp_path / "store.h5")
    with file_lock(tmp_path / "lock"):
        (tmp_path / "done").touch()
    assert (tmp_path / "done").exists()
    assert not recwarn.list
    assert len(caplog.records) <= 1


def test_a_lock_is_held_and_given_back(tmp_path: Path) -> None:
    with (
        file_lock(tmp_path / "new" / "lock", timeout=0),
        pytest.raises(Timeout),
        file_lock(tmp_path / "new" / "lock", timeout=0),
    ):
        pytest.fail("both held it")
    with FileLock(tmp_path / "new" / "lock", timeout=0):
        pass


def test_an_error_that_names_a_file_is_reported_with_path_and_fix(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere" / "disk")
    long = "z" * 300
    for path, reported in (
        (tmp_path / long, f"{tmp_path / long}: its name is too long for the file system; shorten the name"),
        (
            tmp_path / "x",
            f"{tmp_path / 'x'}: a file, where a folder is expected; move it away, or name another folder",
        ),
        (
            tmp_path / "x" / "y",
            f"{tmp_path / 'x' / 'y'}: {tmp_path / 'x'} is a file, not a folder; check the path",
        ),
        (
            tmp_path / "gone",
            f"{tmp_path / 'gone'}: a link to {tmp_path / 'nowhere' / 'disk'}, which is not there; mount",
        ),
    ):
        with pytest.raises(OSError, match="Errno") as caught:
            path.mkdir(exist_ok=True)
        assert str(outside_message(caught.value)).startswith(reported)
    for other in (ValueError("x"), OSError(errno.EINVAL, "Invalid", "file"), OSError("no number")):
        assert outside_message(other) is None


def test_a_command_reports_it_like_this(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(
            ["status", "--methods", "cjme", "--runs-dir", str(tmp_path / ("z" * 300))]
        )  # other tests register plug-ins
    assert ended.value.code == 2
    reported = "".join(capsys.readouterr().err.split("\n"))
    assert reported.endswith("zzz/mlflow.db: its name is too long for the file system; shorten the name")
