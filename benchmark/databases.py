"""Addresses of databases, SQLite files that several processes share, and whether a database or server is away for now."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from filelock import FileLock

from benchmark.patience import disk_is_full
from benchmark.redaction import hide, learn

LOCK_SECONDS = 60.0
"""How long a SQLite file may be locked by others."""
ONE_OPENS = 0x677A736C
"""Number of PostgreSQL's advisory lock that a process holds while it opens a store; each database has its own."""


def sqlite_file(uri: str) -> Path | None:
    """The file of a ``sqlite:///`` address, None for any other."""
    parsed = urlparse(uri)
    if parsed.scheme != "sqlite":
        return None
    return Path(unquote(parsed.path[1:] if parsed.path.startswith("//") else parsed.path))


def sqlite_uri(path: Path) -> str:
    """Address of a SQLite file, absolute."""
    return f"sqlite:///{path.resolve()}"


def without_password(uri: str) -> str:
    """An address that may be shown; its secrets are hidden from now on in other texts too."""
    learn(uri)
    return hide(uri)


def set_write_ahead_logging(file: Path) -> None:
    """Let several processes write to a SQLite file; it stays so. Nothing is locked where it is so already."""
    with contextlib.closing(sqlite3.connect(file, timeout=LOCK_SECONDS)) as connection:
        if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            connection.execute("PRAGMA journal_mode=WAL")


def has_table(uri: str, name: str) -> bool:
    """Whether a database is there and has a table; nothing is created to find out.

    True for what does not answer or is no database, so that opening it tells what is wrong.
    """
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import SQLAlchemyError

    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        return False
    try:
        engine = create_engine(uri)
        try:
            return inspect(engine).has_table(name)
        finally:
            engine.dispose()
    except (SQLAlchemyError, ImportError):  # no answer, no database, no driver, or the address of a server
        return True


@contextlib.contextmanager
def opening(uri: str) -> Iterator[None]:
    """Held while a store is opened, by one process at once: what makes tables in a new one fails where another does so too.

    A SQLite file has write-ahead logging afterwards. The lock is a file beside it, or PostgreSQL's own.

    Raises:
        OperationalError: a SQLite file that was there is gone, or the database does not answer (``is_away``).
    """
    file = sqlite_file(uri)
    if file is not None:
        watch_sqlite_files()
        if os.path.realpath(file) in _known:
            _identity(str(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{file}.lock"):
            yield
            set_write_ahead_logging(file)
    elif urlparse(uri).scheme.split("+")[0] == "postgresql":
        from sqlalchemy import NullPool, create_engine, func, select

        with create_engine(uri, poolclass=NullPool).begin() as connection:  # the lock ends with the transaction
            connection.execute(select(func.pg_advisory_xact_lock(ONE_OPENS)))
            yield
    else:
        yield


def is_away(error: Exception) -> bool:
    """Whether an error says that a store does not answer for now: no connection, one broken off, locked, full, restarting."""
    from requests.exceptions import ChunkedEncodingError, HTTPError, RetryError, Timeout
    from requests.exceptions import ConnectionError as NoConnection
    from sqlalchemy.exc import InterfaceError, OperationalError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (NoConnection, ChunkedEncodingError, Timeout, RetryError, OperationalError, InterfaceError)):
            return True
        if isinstance(cause, sqlite3.OperationalError):  # not by way of SQLAlchemy
            return True
        if isinstance(cause, HTTPError) and cause.response is not None and cause.response.status_code in (502, 503, 504):
            return True
        if getattr(cause, "error_code", None) == "TEMPORARILY_UNAVAILABLE":  # of MLflow
            return True
        cause = cause.__cause__ or cause.__context__
    return disk_is_full(error)


def watch_sqlite_files() -> None:
    """Notice SQLite files that are deleted or unmounted while SQLAlchemy has them open.

    SQLite goes on writing to a deleted file, and what it writes is lost. So a file that is gone counts as a store that does not
    answer (``is_away``): it is waited for, and no empty one is created in its place. One that was replaced is opened anew.
    """
    from sqlalchemy import Engine, event
    from sqlalchemy.pool import Pool

    if not event.contains(Pool, "checkout", _check):
        event.listen(Engine, "do_connect", _before_opening)
        event.listen(Pool, "connect", _opened)
        event.listen(Pool, "checkout", _check)


_known: set[str] = set()
"""SQLite files that this process has opened or expects, without symbolic links."""


def expect(uri: str) -> None:
    """Say that a store is there: where its SQLite file is not, that counts as away, and no new one is made."""
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
