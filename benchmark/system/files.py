"""Files: replacing them atomically, and explaining why one cannot be read or written.

A reader fails for a reason outside the file (a lock, a permission, the disk) or because of the file's
content. ``outside_reason`` distinguishes the two, so that users are never asked to fetch or build a sound
file again.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import Timeout

from benchmark.errors import Unavailable, UsageError
from benchmark.system.locks import NO_LOCKS, held

_LONGEST_NAME = 200
"""Bytes of the longest file name that the name of its temporary file contains. That one is longer; the limit
is 255."""
_BLOCK = 2**20
PARTIAL = ".partial"
"""Suffix of temporary files."""

Kind = Literal[
    "locked", "no locks", "permission", "too many files", "disk", "memory", "stale", "full", "read-only",
    "folder", "missing", "link", "name",
]  # fmt: skip
_KINDS: dict[Kind, tuple[tuple[int, ...], str, str]] = {
    "locked": (
        (errno.EAGAIN, errno.EBUSY, errno.EDEADLK, errno.ETXTBSY),
        "another program has it open and locked",
        "close it there, then repeat the command",
    ),
    "no locks": (
        NO_LOCKS,
        "its file system does not support this operation, as network drives without file locks do",
        "mount the drive with locks, or move the file to a local disk",
    ),
    "permission": (
        (errno.EACCES, errno.EPERM),
        "this user is not permitted to use it",
        "grant the rights (chmod, chown), or run the command as its owner",
    ),
    "too many files": (
        (errno.EMFILE, errno.ENFILE),
        "too many files are open",
        "raise the limit (ulimit -n), or use fewer workers, then repeat the command",
    ),
    "disk": (
        (
            *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ENOTCONN),
            *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET),
            *(errno.ECONNREFUSED, errno.ESHUTDOWN),
        ),
        "the disk or network drive failed",
        "check the drive (dmesg, mount), then repeat the command",
    ),
    "memory": (
        (errno.ENOMEM,),
        "memory ran out",
        "free memory, or use fewer workers, then repeat the command",
    ),
    "stale": (
        (errno.ESTALE,),
        "the network drive was mounted again or the file replaced there",
        "mount the drive again if this stays, then repeat the command",
    ),
    "full": (
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "the disk is full, or a quota or limit is reached",
        "make room, then repeat the command",
    ),
    "read-only": (
        (errno.EROFS,),
        "its file system is read-only",
        "mount it for writing, or choose another folder",
    ),
    "folder": ((errno.EISDIR,), "a folder, where a file is expected", "name a file, or move the folder away"),
    "missing": (
        (errno.ENOENT, errno.ENOTDIR),
        "no such file",
        "check the path, and that its disk is mounted",
    ),
    "link": ((errno.ELOOP,), "a link that leads back to itself", "remove the link"),
    "name": ((errno.ENAMETOOLONG,), "its name is too long for the file system", "shorten the name"),
}  # fmt: skip
_KIND_OF = {code: kind for kind, (codes, _, _) in _KINDS.items() for code in codes}
_LASTING: tuple[Kind, ...] = ("folder", "missing", "link", "name")
"""Kinds that last until the user changes a path."""


@dataclass(frozen=True)
class OutsideReason:
    """Why a file cannot be used, although its content may be sound."""

    kind: Kind
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}; {self.fix}"


class OutsideError(UsageError):
    """A path that cannot be read or written as it is: missing, a folder, a broken link, too long a name."""

    def __init__(self, path: Path, reason: OutsideReason) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


def outside_reason(error: BaseException, path: Path) -> OutsideReason | None:
    """The reason outside a file why it cannot be read or written; None if the reason may be its content.

    Args:
        error: raised by the reader or writer. HDF5 and other libraries only name the system's error in their
            message.
        path: the file. If it is missing, links and files on its way are examined.
    """
    if isinstance(error, MemoryError):
        return _reason("memory")
    if not isinstance(error, OSError):
        return None
    named = re.search(r"\berrno = (\d+)", str(error))
    code = error.errno if error.errno is not None else int(named[1]) if named else None
    # HDF5: this process has the file open with other settings
    if code is None and "file locking" in str(error):
        return OutsideReason("locked", "this program has it open already, with locks", "close it first")
    kind = _KIND_OF.get(code) if code is not None else None
    if code in (errno.EEXIST, errno.ENOTDIR) and path.is_file():  # a folder was to be created or read
        return OutsideReason(
            "missing", "a file, where a folder is expected", "move it away, or name another folder"
        )
    if kind == "missing" or code == errno.EEXIST:
        return _missing(path)
    return _reason(kind) if kind else None


def _reason(kind: Kind) -> OutsideReason:
    _, what, fix = _KINDS[kind]
    return OutsideReason(kind, what, fix)


def _missing(path: Path) -> OutsideReason:
    """The path and reason of an error that names a file and has a reason outside of it; else None."""
    for place in (*reversed(path.parents), path):
        if place.is_symlink() and not place.exists():
            why = "a link" if place == path else f"{place} is a link"
            what = f"{why} to {os.readlink(place)}, which is not there"
            return OutsideReason("link", what, "mount its disk, or remove the link")
        if place != path and place.is_file():
            return OutsideReason("missing", f"{place} is a file, not a folder", "check the path")
    return _reason("missing")


def outside_message(error: Exception) -> str | None:
    """The path and reason of an error that names a file and has a reason outside of it; else None."""
    name = error.filename if isinstance(error, OSError) else None
    reason = outside_reason(error, Path(name)) if isinstance(name, str) and name else None
    return f"{name}: {reason}" if reason else None


def check_file(path: Path) -> None:
    """Refuse a device or pipe: reading it may never end.

    Raises:
        OutsideError: the path is one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OutsideError(
            path, OutsideReason("folder", "a device or pipe, where a file is expected", "name a file")
        )


def check_links(path: Path) -> None:
    """Refuse a path with a broken link on its way, such as one to a disk that is not mounted.

    Raises:
        OutsideError: there is one.
    """
    reason = _missing(path)
    if reason.kind == "link":
        raise OutsideError(path, reason)


def raise_outside(error: BaseException, path: Path) -> None:
    """Raise our own error for an error with a reason outside a file; do nothing for other errors.

    Args:
        error: raised by the reader or writer.
        path: the file.

    Raises:
        OutsideError: the path has to be changed.
        Unavailable: the reason may pass, or has to be fixed outside the program.
    """
    reason = outside_reason(error, path)
    if reason is not None and reason.kind in _LASTING:
        raise OutsideError(path, reason) from None
    if reason is not None:
        raise Unavailable(f"{path}: {reason}") from None


def raise_unreadable(path: Path) -> None:
    """Read a file to its end to raise the system's error, which some libraries hide.

    Raises:
        OutsideError, Unavailable: the system cannot read it (``raise_outside``).
    """
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass
    except OSError as error:
        raise_outside(error, path)


@contextmanager
def file_lock(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file (``locks.held``) within the block; its folder is created if it is missing.

    Args:
        path: the lock file.
        timeout: seconds to wait for another process; no limit if -1.

    Raises:
        filelock.Timeout: another process still holds it.
        OutsideError, Unavailable: the lock file cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(path, timeout))
        except Timeout:
            raise
        except OSError as error:
            raise_outside(error, path)
            raise
        yield


def check_replaceable(path: Path) -> Path:
    """The file that writing to a path replaces: the path itself, or the target of a link.

    Raises:
        OutsideError: the path is a folder or device, a link into a missing folder, or a link to itself.
    """
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    if target.is_symlink():
        raise OutsideError(path, _reason("link"))
    if target.is_dir():
        raise OutsideError(path, _reason("folder"))
    check_file(path)
    if not target.parent.is_dir() and (reason := _missing(path)).kind == "link":
        raise OutsideError(path, reason)
    return target


def partial_prefix(name: str) -> str:
    """Prefix of the temporary files that are to replace a file of this name."""
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}."


def remove_partials(path: Path) -> None:
    """Remove the temporary files that killed processes left. Nobody else may write the file meanwhile."""
    target = check_replaceable(path)
    for left in target.parent.glob(f"{glob.escape(partial_prefix(target.name))}*{PARTIAL}"):
        left.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces ``path`` if the block succeeds, and is deleted otherwise.

    A link is kept, and the file that it points to is replaced on its own disk. The new file gets the
    permissions of the old one.

    Raises:
        OutsideError: the path cannot be replaced (``check_replaceable``).
    """
    target = check_replaceable(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{partial_prefix(target.name)}{secrets.token_hex(8)}{PARTIAL}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            to_disk(file.fileno())
        with suppress(OSError):  # the target is new, or its file system has no permissions
            os.chmod(temporary, stat.S_IMODE(target.stat().st_mode) & 0o777)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def to_disk(descriptor: int) -> None:
    """Call ``fsync``; do nothing on file systems without it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, *NO_LOCKS):
            raise


@dataclass(frozen=True)
class SourceFile:
    """A file that was read: its path relative to the dataset's folder, and what shows a change of it."""

    path: str
    size: int
    mtime_ns: int
    sha256: str


def fingerprint(path: Path, root: Path) -> SourceFile:
    """The current size, time and sha256 of a file."""
    with open(path, "rb") as f:
        stat = os.fstat(f.fileno())
        sha = hashlib.file_digest(f, "sha256")
    return SourceFile(path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns, sha.hexdigest())


def unchanged(recorded: SourceFile, root: Path) -> bool:
    """Whether a file is as recorded. Its content is hashed only if its time differs."""
    path = root / recorded.path
    if not path.is_file() or path.stat().st_size != recorded.size:
        return False
    return path.stat().st_mtime_ns == recorded.mtime_ns or fingerprint(path, root).sha256 == recorded.sha256
