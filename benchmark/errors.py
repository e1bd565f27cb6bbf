"""The exceptions that users see without a traceback: what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError


class UsageError(Exception):
    """Wrong usage or wrong data (exit code 2). The message names the problem, the place and the fix."""


class Unavailable(Exception):
    """Something outside the program is unavailable or full (exit code 2).

    The job did not fail: it continues from its checkpoint in the next benchmark run. This is no
    ``UsageError``, so that a store that does not answer is not mistaken for one that lacks something.
    """


class JobError(Exception):
    """A job cannot continue (NaN loss, out of memory): it is recorded as failed, and other jobs continue."""


class Terminated(SystemExit):
    """This process received SIGTERM. Unlike a ``SystemExit`` of a method, this does not fail the job."""


def words_of(error: BaseException) -> str:
    """The text of an error, even if its ``__str__`` fails."""
    try:
        return str(error)
    except Exception as other:  # the error's class may come from a plug-in
        return f"its text cannot be shown, {type(other).__name__}"


def near(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'a' or 'b'? (known: ...)"``, for messages about an unknown name; without close names
    ``"choose from ..."``."""
    known = sorted(known)
    by_folded = {k.casefold(): k for k in known}
    close = [by_folded[c] for c in difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)]
    if not close:
        return f"choose from {', '.join(known)}" if known else "there is none"
    return f"did you mean {' or '.join(repr(c) for c in close)}? (known: {', '.join(known)})"


WORDS = {
    "missing": "is required",
    "extra_forbidden": "there is no such field",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be {expected}",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
}
"""Our words for pydantic's kinds of errors; other kinds have pydantic's words."""


def validation_message(error: ValidationError, place: str, before: str = "") -> str:
    """All errors of a validated mapping, one line each: place, field, what is wrong, and the given value.

    Args:
        place: where the mapping comes from; may be empty.
        before: what precedes the name of a field, such as ``--``.
    """
    lines = []
    for e in error.errors():
        name = before + ".".join(map(str, e["loc"])) if e["loc"] else "(all)"
        lines.append(f"{place}: {name}: {wrong_value(e)}" if place else f"{name}: {wrong_value(e)}")
    return "\n".join(lines)


def wrong_value(error: Any) -> str:
    """What is wrong with a value and the value itself, from an item of ``ValidationError.errors``."""
    words = WORDS.get(error["type"])
    bounds = {k: f"{v:g}" if isinstance(v, float) else v for k, v in error.get("ctx", {}).items()}
    what = words.format(**bounds) if words else error["msg"].removeprefix("Value error, ")
    whole = not error["loc"] and isinstance(error["input"], Mapping)  # too long to show
    return what if whole or error["type"] == "missing" else f"{what} (got {_shown(error['input'])})"


def _shown(value: object) -> str:
    """A value for a message: numbers as they are, anything else in quotes; shortened."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if number else repr(str(value)[:80])
