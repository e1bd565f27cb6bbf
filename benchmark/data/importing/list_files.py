"""Reads the text files of the official layout: lists with a name per line, and CSV tables, in UTF-8."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmark.data.importing.findings import FindingLog
from benchmark.data.importing.places import ListPlaces
from benchmark.data.names import composed
from benchmark.untrusted.kinds import START_BYTES, known_kind
from benchmark.untrusted.pickles import another_kind, unreadable


def read_lines(places: ListPlaces, path: Path, findings: FindingLog) -> list[str] | None:
    """Return the lines of a list that are not empty; None if it cannot be read."""
    if not path.is_file():
        findings.problem("missing class list", places.shown(path))
        return None
    text = _text(places, path, findings)
    return None if text is None else [line.strip() for line in text.splitlines() if line.strip()]


def read_table(
    places: ListPlaces, path: Path, columns: Sequence[str], findings: FindingLog
) -> list[tuple[str, ...]] | None:
    """Return the named columns of a CSV file row by row; None if it is broken. Names contain commas."""
    text = _text(places, path, findings)
    if text is None:
        return None
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        table.columns = table.columns.str.strip()
        if twice := [column for column in columns if (table.columns == column).sum() > 1]:
            raise ValueError(f"its first line has the column {twice[0]!r} twice")
        return list(zip(*(table[column].str.strip() for column in columns), strict=True))
    except KeyError as error:
        what = f"no column {error} in its first line {text.splitlines()[0][:60]!r}"
        findings.problem("broken list", f"{places.shown(path)}: {what}")
    except ValueError as error:  # pandas' parser errors are ValueErrors
        findings.problem("broken list", f"{places.shown(path)}: {error!s:.120}")
    return None


def _text(places: ListPlaces, path: Path, findings: FindingLog) -> str | None:
    """Return the text of a list in UTF-8, with or without a byte order mark; None if it is anything else."""
    try:
        raw = path.read_bytes()
    except (OSError, MemoryError) as error:
        findings.unreadable(unreadable(path, error), places.shown(path))
        return None
    foreign = known_kind(raw[:START_BYTES])
    if foreign is not None:
        findings.unreadable(
            another_kind(path, foreign, "save it as text, in a spreadsheet as CSV UTF-8"), places.shown(path)
        )
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"byte 0x{raw[error.start]:02x} in line {raw[: error.start].count(10) + 1:,}"
        findings.problem("list that is not UTF-8", f"{places.shown(path)}: {_encoding(raw, what)}")
        return None
    if "\0" in text:
        findings.problem("list that is not UTF-8", f"{places.shown(path)}: {_encoding(raw, 'zero bytes')}")
        return None
    return composed(text)


def _encoding(raw: bytes, found: str) -> str:
    """Guess the encoding of a text that is not UTF-8, for the message."""
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:START_BYTES]
    return "UTF-16 or UTF-32, as spreadsheets save it" if wide else f"{found}, as in Latin-1 or Windows-1252"
