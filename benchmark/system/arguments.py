"""Checks of arguments of the Python API. Each error names the argument (``what``), the fix and the value."""

from __future__ import annotations

import math
import operator
import os
import unicodedata
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from benchmark.errors import UsageError

LONGEST_SHOWN = 80
"""Characters of a value in a message."""


def refuse(what: str, wanted: str, given: object) -> UsageError:
    """The error for a value that an argument cannot have."""
    return UsageError(f"{what} must be {wanted} (got {_shown(given)})")


def _shown(given: object) -> str:
    """A value on one line, shortened."""
    shown = " ".join(repr(given).split())
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}..."


def text(what: str, given: object, wanted: str = "a text that is not empty") -> str:
    """A text that can be shown and written to files.

    Raises:
        UsageError: it is no text, is blank, or has a control character or half of a surrogate pair.
    """
    if not isinstance(given, str) or not given.strip():
        raise refuse(what, wanted, given)
    if wrong := [sign for sign in given if unicodedata.category(sign) in ("Cc", "Cs")]:
        raise UsageError(f"{what}: the character U+{ord(wrong[0]):04X} is not allowed (got {_shown(given)})")
    return str(given)


def flag(what: str, given: object) -> bool:
    """True or false.

    Raises:
        UsageError: it is neither.
    """
    if not isinstance(given, bool):
        raise refuse(what, "True or False", given)
    return given


def whole_number(what: str, given: Any, least: int) -> int:
    """A whole number.

    Raises:
        UsageError: it is none, or below ``least``.
    """
    try:
        number = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = None
    if number is None or number < least:
        raise refuse(what, f"a whole number of at least {least}", given)
    return number


def number(what: str, given: Any) -> float:
    """A finite number; that of an array or tensor without dimensions too.

    Raises:
        UsageError: it is none.
    """
    value = given.item() if getattr(given, "ndim", None) == 0 and hasattr(given, "item") else given
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise refuse(what, "a finite number", given)
    return float(value)


def path(what: str, given: object, wanted: str = "a path") -> Path:
    """A path.

    Raises:
        UsageError: it is none, or is empty, an address, or has a control character.
    """
    found = os.fspath(given) if isinstance(given, os.PathLike) else given
    found = text(what, found, wanted)
    if "://" in found:
        raise UsageError(
            f"{what}: is an address; name a folder or file of this machine (got {_shown(given)})"
        )
    return Path(found)


def paths(what: str, given: object) -> list[Path]:
    """One path, or several; possibly none.

    Raises:
        UsageError: it is neither.
    """
    wanted = "a path or a list of paths"
    if isinstance(given, (str, os.PathLike)):
        return [path(what, given, wanted)]
    return [path(what, one, wanted) for one in _items(what, given, wanted)]


def several(what: str, given: Any, kinds: type | tuple[type, ...], wanted: str) -> list[Any]:
    """The items of a collection, or the one item that is given; at least one.

    Args:
        kinds: what an item is.
        wanted: says so in messages.

    Raises:
        UsageError: it is neither, is empty, or an item is of another kind.
    """
    found = [given] if isinstance(given, kinds) else _items(what, given, wanted)
    if not found:
        raise refuse(what, wanted, given)
    for one in found:
        if not isinstance(one, kinds) or one == "":
            raise refuse(what, wanted, one)
    return found


def mapping(what: str, given: object, wanted: str) -> dict[Any, Any]:
    """A mapping as a dictionary; an empty one for None.

    Raises:
        UsageError: it is none.
    """
    if given is not None and not isinstance(given, Mapping):
        raise refuse(what, wanted, given)
    return dict(given or {})


def _items(what: str, given: object, wanted: str) -> list[Any]:
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise refuse(what, wanted, given)
    return list(given)
