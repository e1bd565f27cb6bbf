"""The exceptions that are shown to a user without a traceback: they say what is wrong, where, and what mends it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pydantic import ValidationError


class UsageError(Exception):
    """Wrong usage or wrong data (exit code 2). The message names the thing, the place and the mend."""


class Unavailable(Exception):
    """Something outside the program is away or full (exit code 2). No fault of a job: it goes on from its checkpoint with the
    next call. Not a ``UsageError``, so that nobody takes a store that does not answer for one without an artifact."""


class JobError(Exception):
    """A job that cannot go on (not-a-number loss, out of memory): recorded as failed, the other jobs go on."""


class Terminated(SystemExit):
    """This process was told to end (SIGTERM). No fault of a job, unlike a ``SystemExit`` of a method: it goes on elsewhere."""


def words_of(error: BaseException) -> str:
    """The text of an error, whose own code may fail to give one."""
    try:
        return str(error)
    except Exception as other:  # the class of the error may be a stranger's
        return f"its text cannot be shown, {type(other).__name__}"


def near(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'a' or 'b'? (known: ...)"``, for messages about an unknown name."""
    known = sorted(known)
    by_folded = {k.casefold(): k for k in known}
    close = [by_folded[c] for c in difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{hint}(known: {', '.join(known)})"


def validation_message(error: ValidationError, place: str) -> str:
    """All errors of a validated mapping, a line each: place, field, what is wrong, what was given."""
    lines = []
    for e in error.errors():
        name = ".".join(map(str, e["loc"])) or "(all)"
        lines.append(f"{place}: {name}: {e['msg']} (got {str(e['input'])[:80]!r})")
    return "\n".join(lines)
