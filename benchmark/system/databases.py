"""Addresses of databases, SQLite files that several processes share, and whether a store is unavailable."""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlparse

from benchmark.errors import UsageError
from benchmark.system.files import check_replaceable
from benchmark.system.locks import held
from benchmark.system.patience import disk_is_full
from benchmark.system.redaction import hide, learn

LOCK_SECONDS = 60.0
"""Seconds to wait for a SQLite file that others have locked."""
ONE_OPENS = 0x677A736C
"""Number of the PostgreSQL advisory lock that a process holds while it opens a store. It is per database."""
LONGEST_PATH = 490
"""Bytes of a SQLite file's path. SQLite's own limit is 500, including the name of the journal."""
ESCAPED = re.compile(r"[%?#{}\x00-\x1f\x7f]")
"""Characters with a meaning in an address for SQLAlchemy, MLflow, or Optuna's templates."""
BOOKKEEPING = ("alembic_version", "version_info", "workspaces")
"""Tables that MLflow and Optuna fill when they create a store."""


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite address, as SQLAlchemy reads it; None for other addresses and one in memory."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if not uri.lower().startswith("sqlite"):
        return None
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        return None
    name = url.database or ""
    if url.query.get("uri") and name.startswith("file:"):  # SQLite's own form of address
        name = "" if url.query.get("mode") == "memory" else unquote(urlparse(name).path)
    return None if name in ("", ":memory:") else Path(name)


def sqlite_uri(path: Path) -> str:
    """The absolute address of a SQLite file; the inverse of ``sqlite_file``.

    Raises:
        UsageError: no address can name the file, or its link is broken.
    """
    check_replaceable(path)
    file = path.resolve()
    text = str(file)
    check_path(file)
    escaped = ESCAPED.sub(lambda sign: quote(sign[0], safe=""), text)
    # MLflow creates the folder of the path after "sqlite:///" undecoded, but not if a driver is named.
    uri = f"sqlite{'+pysqlite' if escaped != text else ''}:///{escaped}"
    if sqlite_file(uri) != file:
        raise UsageError(
            f"{text}: a path with {ESCAPED.findall(text)} cannot be written in an address; rename the folder"
        )
    return uri


def check_path(file: Path) -> None:
    """Refuse a path that SQLite cannot open or that cannot be part of an address.

    Raises:
        UsageError: the path is too long, or not UTF-8.
    """
    size = len(os.fsencode(file))
    if size > LONGEST_PATH:
        raise UsageError(
            f"{file}: the path has {size} bytes, and SQLite opens at most {LONGEST_PATH}; choose a shorter "
            "folder"
        )
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(file).decode(errors="backslashreplace")
        bad = os.fsencode(str(file)[error.start])
        raise UsageError(
            f"{shown}: the path has the byte {bad!r}, which is not UTF-8; rename the folder"
        ) from None


def without_password(uri: str) -> str:
    """An address without its secrets. From now on they are hidden in all other texts too."""
    learn(uri)
    return hide(uri)


def set_write_ahead_logging(file: Path) -> None:
    """Switch a SQLite file to write-ahead logging (if needed), so that several processes can write to it."""
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_SECONDS)) as connection:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")


def has_table(uri: str, name: str) -> bool:
    """Whether a database exists and has a table. Nothing is created to find out.

    True for an address that does not answer or is no database, so that opening it raises the error.
    """
    return _asked(uri, name, rows=False)


def has_rows(uri: str, name: str) -> bool:
    """Whether a database exists and has a table with at least one row. Otherwise like ``has_table``."""
    return _asked(uri, name, rows=True)


def _asked(uri: str, name: str, *, rows: bool) -> bool:
    from sqlalchemy import create_engine, inspect, literal, select, table
    from sqlalchemy.exc import SQLAlchemyError

    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        return False
    try:
        engine = create_engine(uri)
        try:
            if not inspect(engine).has_table(name) or not rows:
                return inspect(engine).has_table(name)
            with engine.connect() as connection:
                query = select(literal(1)).select_from(table(name)).limit(1)
                return connection.execute(query).first() is not None
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError):
        # no answer, no database, no driver, or the address of an MLflow server
        return True


@contextlib.contextmanager
def opening(uri: str, last: str, make: Callable[[str], None]) -> Iterator[None]:
    """Let one process at a time open a store, since two that create its tables make each other fail.

    A SQLite file exists within the block, complete and with write-ahead logging. The lock is a file beside
    it, or PostgreSQL's own.

    Args:
        uri: address of the store.
        last: the table that gets its first row when a store is complete.
        make: creates a store in a SQLite file, given its address.

    Raises:
        UsageError: the file may only be read, or holds something else.
        OperationalError: a SQLite file of this process was deleted, or the database does not answer
            (``is_unavailable``).
    """
    file = sqlite_file(uri)
    if file is not None:
        file = Path(os.path.realpath(file))
        watch_sqlite_files()
        if str(file) in _known:
            _identity(str(file))
        if file.is_file() and (closed := not_writable(file)):
            raise UsageError(
                f"{file}: you may read this store, but not write to it ({', '.join(map(str, closed))}); "
                "grant the rights (chmod g+w), or give new runs their own folder (--runs-dir). "
                "report, status, ui and export can read it"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        with held(f"{file}.lock"):
            _complete(file, last, make)
            set_write_ahead_logging(file)
            yield
    elif urlparse(uri).scheme.split("+")[0] == "postgresql":
        from sqlalchemy import NullPool, create_engine, func, select

        # the lock ends with the transaction
        with create_engine(uri, poolclass=NullPool).begin() as connection:
            connection.execute(select(func.pg_advisory_xact_lock(ONE_OPENS)))
            yield
    else:
        yield


def _complete(file: Path, last: str, make: Callable[[str], None]) -> None:
    """Ensure that a file is a complete store: a missing or half-made one is replaced by a new one.

    Raises:
        UsageError: the file has rows, or tables of another program.
    """
    found = _filled(file)
    if found.get(last):
        return
    if kept := sorted(name for name, rows in found.items() if rows and name not in BOOKKEEPING):
        raise UsageError(
            f"{file}: not a complete store, although it has rows (in {', '.join(kept)}); move the file, or "
            "give another store"
        )
    if found and not any(name in (last, *BOOKKEEPING) or name.startswith("_alembic") for name in found):
        raise UsageError(
            f"{file}: another program's database (with {', '.join(sorted(found))}); give another store"
        )

    temporary = Path(f"{file}.new")
    _remove(temporary)
    try:
        make(sqlite_uri(temporary))
        set_write_ahead_logging(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        _remove(file)  # with its log, which SQLite would apply to the new file
        os.replace(temporary, file)
    finally:
        _known.discard(str(temporary))
        _remove(temporary)


def _filled(file: Path) -> dict[str, bool]:
    """The tables of a SQLite file and whether they have rows; no tables if the file is missing or empty."""
    if not file.exists() or (file.is_file() and file.stat().st_size == 0):
        return {}
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_SECONDS)) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            name: connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() is not None
            for name in names
            if not name.startswith("sqlite_")
        }


def _remove(file: Path) -> None:
    for rest in ("", "-wal", "-shm", "-journal"):
        Path(f"{file}{rest}").unlink(missing_ok=True)


def not_writable(file: Path) -> list[Path]:
    """The paths that this process may not write to: of a SQLite file, the folder of its log, and its lock."""
    lock = Path(f"{file}.lock")
    places = (file, file.parent, *[lock] * lock.exists())
    return [place for place in places if not os.access(place, os.W_OK, effective_ids=True)]


def readable(uri: str) -> str:
    """The address of a store to read: the store itself, or a copy of a SQLite file that may not be written.

    SQLite can read a file with a write-ahead log only if it may create files beside it. The copy shows the
    store as it is now, and is deleted when this process ends.

    Raises:
        UsageError: the file may not be read.
    """
    file = sqlite_file(uri)
    if file is None or not os.path.exists(file) or not not_writable(Path(file)):
        return uri
    folder = Path(tempfile.mkdtemp(prefix="gzsl-store-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / file.name
    try:
        try:
            with (
                contextlib.closing(
                    sqlite3.connect(f"file:{quote(os.path.abspath(file))}?mode=ro", uri=True)
                ) as source,
                contextlib.closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
        except sqlite3.OperationalError:
            # the files that reading needs are missing, so nobody writes: copying is safe
            for rest in ("", "-wal", "-journal"):
                Path(f"{copy}{rest}").unlink(missing_ok=True)
                if os.path.exists(f"{file}{rest}"):
                    shutil.copyfile(f"{file}{rest}", f"{copy}{rest}")
    except PermissionError as error:
        raise UsageError(
            f"{file}: may not be read ({error}); its owner can allow it: chmod -R g+rX {file.parent}"
        ) from None
    return sqlite_uri(copy)


def is_unavailable(error: Exception) -> bool:
    """Whether an error means that a store is unavailable for now: no connection, locked, full, restarting."""
    from requests.exceptions import ChunkedEncodingError, HTTPError, RetryError, Timeout
    from requests.exceptions import ConnectionError as NoConnection
    from sqlalchemy.exc import InterfaceError, OperationalError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(
            cause, (NoConnection, ChunkedEncodingError, Timeout, RetryError, OperationalError, InterfaceError)
        ):
            return True
        if isinstance(cause, sqlite3.OperationalError):  # raised without SQLAlchemy
            return True
        if (
            isinstance(cause, HTTPError)
            and cause.response is not None
            and cause.response.status_code in (502, 503, 504)
        ):
            return True
        if getattr(cause, "error_code", None) == "TEMPORARILY_UNAVAILABLE":  # of MLflow
            return True
        cause = cause.__cause__ or cause.__context__
    return disk_is_full(error)


def watch_sqlite_files() -> None:
    """Detect SQLite files that are deleted or unmounted while SQLAlchemy has them open.

    SQLite continues to write to a deleted file, and these writes are lost. So a missing file counts as
    unavailable (``is_unavailable``): callers wait for it, and no empty one is created in its place. A
    replaced file is opened again.
    """
    from sqlalchemy import Engine, event
    from sqlalchemy.pool import Pool

    if not event.contains(Pool, "checkout", _check):
        event.listen(Engine, "do_connect", _before_opening)
        event.listen(Pool, "connect", _opened)
        event.listen(Pool, "checkout", _check)


_known: set[str] = set()
"""Real paths of the SQLite files that this process has opened or expects."""


def expect(uri: str) -> None:
    """Declare that a store exists: a missing SQLite file counts as unavailable, and none is created."""
    file = sqlite_file(uri)
    if file is not None:
        _known.add(os.path.realpath(file))


def _before_opening(dialect: Any, record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
    if dialect.name == "sqlite" and arguments and os.path.realpath(arguments[0]) in _known:
        _identity(arguments[0])


def _opened(connection: Any, record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        file = connection.execute("PRAGMA database_list").fetchone()[2]
        if file:
            record.info["file"] = (file, _identity(file))
            _known.add(os.path.realpath(file))


def _check(connection: Any, record: Any, proxy: Any) -> None:
    from sqlalchemy.exc import DisconnectionError

    if "file" in record.info:
        file, identity = record.info["file"]
        if _identity(file) != identity:
            raise DisconnectionError(f"{file} was replaced")  # SQLAlchemy connects again


def _identity(file: str) -> tuple[int, int]:
    from sqlalchemy.exc import OperationalError

    try:
        found = os.stat(file)
    except OSError as error:
        raise OperationalError(f"open {file}", None, error) from error
    return found.st_dev, found.st_ino
