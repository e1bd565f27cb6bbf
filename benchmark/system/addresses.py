"""What is wrong with an address that a user gives for a store, and what it should be."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlparse

from benchmark.errors import UsageError, near
from benchmark.system.databases import check_path, sqlite_file, sqlite_uri, without_password

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks")
HOST_AND_PORT = re.compile(r"(\[[\da-f:]+\]|[\w.-]+):\d+(/.*)?", re.IGNORECASE)
DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql"}
"""Drivers that are known to work."""
POSTGRESQL = "postgresql+psycopg://USER@HOST/DATABASE"


def tracking_address(text: str) -> str:
    """An address of a tracking store as MLflow takes it.

    Raises:
        UsageError: it is none.
    """
    if text.strip() == "databricks":
        return "databricks"
    return _address("--tracking-uri", text.strip(), (*DATABASES, *SERVERS), "mlflow.tracking_store", "http://")


def storage_address(text: str) -> str:
    """An address of an Optuna storage: a database as SQLAlchemy takes it.

    Raises:
        UsageError: it is none.
    """
    kinds = (*DATABASES, "mariadb", "oracle")
    return _address("--storage", text.strip(), kinds, "sqlalchemy.dialects", "postgresql+psycopg://")


def _address(option: str, text: str, kinds: Sequence[str], plugins: str, host: str) -> str:
    """The address, its scheme in lower case.

    Args:
        kinds: of addresses that the store takes.
        plugins: group of entry points whose names are further kinds; what those take is left to them.
        host: the beginning that a bare host gets.
    """
    place = f"{option} {without_password(text)}"
    scheme, colon, rest = text.partition(":")
    kind = scheme.lower().partition("+")[0]
    if colon and kind not in kinds and {scheme, kind} & entry_points(group=plugins).names:
        return text
    if kind == "file" or (not colon and Path(text).is_dir()):
        folder = Path(urlparse(text).path if colon else text)
        raise UsageError(f"{place}: a folder is no store; give a file in it: {sqlite_uri(folder / 'store.db')}")
    if HOST_AND_PORT.fullmatch(text) and kind not in kinds:
        raise UsageError(f"{place}: no address without its kind; begin it with {host}: {without_password(host + text)}")
    if not rest.startswith("//") or not colon:
        raise UsageError(f"{place}: {_without_kind(text, kind, kinds, rest, host)}")
    if kind == "postgres":
        raise UsageError(f"{place}: SQLAlchemy calls it postgresql; write {POSTGRESQL}")
    if kind not in kinds:
        reason = f"unknown kind of address {scheme!r}: {near(kind, kinds)}"
        raise UsageError(f"{place}: {reason}" if kind not in SERVERS else f"{place}: give a database, such as {POSTGRESQL}")
    address = f"{scheme.lower()}:{rest}"
    if kind in SERVERS:
        _check_server(place, address)
    elif kind == "sqlite":
        _check_sqlite(place, rest, sqlite_file(address))
    else:
        _check_database(place, address, kind)
    return address


def _without_kind(text: str, kind: str, kinds: Sequence[str], rest: str, host: str) -> str:
    """What is wrong with an address that has no ``://``."""
    if kind == "sqlite":
        return f"three slashes are missing; write {sqlite_uri(Path(rest))}"
    if kind in kinds:
        return f"two slashes are missing; write {without_password(f'{kind}://' + rest.lstrip('/'))}"
    file = Path(os.path.expandvars(text)).expanduser()
    bare = re.sub(r"^https?\W+", "", text)
    server = "" if text[0] in "/.~$" or "\\" in text else f", or {host}{without_password(bare)} for a server"
    return f"no address; write {sqlite_uri(file)} for a file{server}"


def _check_server(place: str, address: str) -> None:
    try:
        parsed = urlparse(address)
        named = bool(parsed.hostname) or parsed.scheme == "databricks"
        _ = parsed.port
    except ValueError as error:
        raise UsageError(f"{place}: {error}; write http://HOST:PORT") from None
    if not named:
        raise UsageError(f"{place}: it names no host; write http://HOST:PORT")
    if "#" in address or "?" in address:
        server = without_password(re.split("/?[#?]", address)[0])
        raise UsageError(f"{place}: the address of a page; give the server's own: {server}")


def _check_sqlite(place: str, rest: str, file: Path | None) -> None:
    if not rest.startswith("///") and rest != "//":
        raise UsageError(f"{place}: a third slash is missing; write {sqlite_uri(Path(rest[2:]))}")
    if file is None:
        raise UsageError(f"{place}: what is kept in memory is lost at the end; name a file: {sqlite_uri(Path('store.db'))}")
    check_path(file.absolute())
    if file.is_dir():
        raise UsageError(f"{place}: a folder is no store; give a file in it: {sqlite_uri(file / 'store.db')}")


def _check_database(place: str, address: str, kind: str) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    driver = DRIVERS.get(kind)
    mend = f"name one that is, such as {kind}+{driver}:// (pip install {driver})" if driver else "install it with pip"
    try:
        make_url(address).get_dialect().import_dbapi()
    except ImportError as error:
        raise UsageError(f"{place}: the driver {error.name} is not installed; {mend}") from None
    except (ArgumentError, ValueError) as error:  # no dialect, no number as port
        raise UsageError(f"{place}: no address of a database ({error}); write {POSTGRESQL}") from None
