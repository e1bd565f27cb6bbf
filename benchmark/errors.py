"""The exceptions that users see without a traceback: what is wrong, where, and how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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
    """``"did you mean 'a' or 'b'? (known: ...)"``, for messages about an unknown name."""
    known = sorted(known)
    by_folded = {k.casefold(): k for k in known}
    close = [by_folded[c] for c in difflib.get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    return f"{hint}(known: {', '.join(known)})"


def validation_message(error: ValidationError, place: str) -> str:
    """All errors of a validated mapping, one line each: place, field, what is wrong, and the given value."""
    lines = []
    for e in error.errors():
        name = ".".join(map(str, e["loc"])) or "(all)"
        lines.append(f"{place}: {name}: {e['msg']} (got {str(e['input'])[:80]!r})")
    return "\n".join(lines)
