"""Checks the addresses that users give for a tracking store or an Optuna storage."""

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
    """The address of a tracking store in MLflow's form.

    Raises:
        UsageError: it is not such an address.
    """
    if text.strip() == "databricks":
        return "databricks"
    return _address(
        "--tracking-uri", text.strip(), (*DATABASES, *SERVERS), "mlflow.tracking_store", "http://"
    )


def storage_address(text: str) -> str:
    """The address of an Optuna storage, which is a database, in SQLAlchemy's form.

    Raises:
        UsageError: it is not such an address.
    """
    kinds = (*DATABASES, "mariadb", "oracle")
    return _address("--storage", text.strip(), kinds, "sqlalchemy.dialects", "postgresql+psycopg://")


def _address(option: str, text: str, kinds: Sequence[str], plugins: str, host: str) -> str:
    """Check an address and write its scheme in lower case.

    Args:
        kinds: schemes that the store takes.
        plugins: group of entry points whose names are further schemes. Addresses of these are not checked.
        host: start of the address to suggest for a bare host.
    """
    # Schemes of plug-ins are passed on as they are.
    place = f"{option} {without_password(text)}"
    scheme, colon, rest = text.partition(":")
    kind = scheme.lower().partition("+")[0]
    if colon and kind not in kinds and {scheme, kind} & entry_points(group=plugins).names:
        return text

    # Frequent mistakes get a message of their own.
    if kind == "file" or (not colon and Path(text).is_dir()):
        folder = Path(urlparse(text).path if colon else text)
        raise UsageError(f"{place}: this is a folder; give a file in it: {sqlite_uri(folder / 'store.db')}")
    if HOST_AND_PORT.fullmatch(text) and kind not in kinds:
        raise UsageError(
            f"{place}: the address has no scheme; begin it with {host}: {without_password(host + text)}"
        )
    if not rest.startswith("//") or not colon:
        raise UsageError(f"{place}: {_without_kind(text, kind, kinds, rest, host)}")
    if kind == "postgres":
        raise UsageError(f"{place}: SQLAlchemy calls it postgresql; write {POSTGRESQL}")
    if kind not in kinds:
        reason = f"unknown kind of address {scheme!r}: {near(kind, kinds)}"
        raise UsageError(
            f"{place}: {reason}" if kind not in SERVERS else f"{place}: give a database, such as {POSTGRESQL}"
        )

    # The rest of the address depends on its kind.
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
    return f"not an address; write {sqlite_uri(file)} for a file{server}"


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
        raise UsageError(f"{place}: this is the address of a page; give that of the server: {server}")


def _check_sqlite(place: str, rest: str, file: Path | None) -> None:
    if not rest.startswith("///") and rest != "//":
        raise UsageError(f"{place}: a third slash is missing; write {sqlite_uri(Path(rest[2:]))}")
    if file is None:
        raise UsageError(
            f"{place}: a store in memory is lost at the end; name a file: {sqlite_uri(Path('store.db'))}"
        )
    check_path(file.absolute())
    if file.is_dir():
        raise UsageError(f"{place}: this is a folder; give a file in it: {sqlite_uri(file / 'store.db')}")


def _check_database(place: str, address: str, kind: str) -> None:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    driver = DRIVERS.get(kind)
    other = f"name one that is, such as {kind}+{driver}:// (pip install {driver})"
    fix = other if driver else "install it with pip"
    try:
        make_url(address).get_dialect().import_dbapi()
    except ImportError as error:
        raise UsageError(f"{place}: the driver {error.name} is not installed; {fix}") from None
    except (ArgumentError, ValueError) as error:  # an unknown dialect, or a port that is no number
        raise UsageError(f"{place}: not an address of a database ({error}); write {POSTGRESQL}") from None
