"""Waiting for trouble outside a job to pass: a server that does not answer, a full disk."""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from benchmark.errors import Unavailable, UsageError
from benchmark.system.files import outside_message
from benchmark.system.redaction import hide

VARIABLE = "GZSL_PATIENCE"
DEFAULT_SECONDS = 600.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_DATABASE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""SQLite's codes for a full disk; the second one is about the file that its processes share."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


def patience() -> float:
    """Seconds to wait at most: ``GZSL_PATIENCE``, or ten minutes.

    Raises:
        UsageError: the variable is not a number of seconds.
    """
    text = os.environ.get(VARIABLE)
    try:
        seconds = DEFAULT_SECONDS if text is None else float(text)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise UsageError(f"{VARIABLE}={text}: give seconds, 0 or more")
    return seconds


def patiently(action: Callable[[], T], passing: Callable[[Exception], bool], what: str) -> T:
    """Run an action, and repeat it while it fails for reasons that may pass.

    Args:
        action: safe to repeat after it failed.
        passing: whether an error may pass, by itself or with help from outside.
        what: description of the trouble for the user.

    Raises:
        Unavailable: the trouble did not pass in time.
    """
    started, pause = time.monotonic(), FIRST_PAUSE
    reported = False
    while True:
        try:
            result = action()
        except Exception as error:
            if not passing(error):
                raise
            waited, longest = time.monotonic() - started, patience()
            reason = first_line(error)
            if waited >= longest:
                raise Unavailable(
                    f"{what} ({reason}); waited {longest:.0f} s for it ({VARIABLE}). Nothing is lost: "
                    "the same command continues from the last checkpoints"
                ) from error
            if not reported:
                logger.warning("%s (%s); waiting up to %.0f s (%s)", what, reason, longest, VARIABLE)
                reported = True
            time.sleep(min(pause, longest - waited))
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if reported:
                logger.warning("%s: over after %.0f s", what, time.monotonic() - started)
            return result


def first_line(error: Exception) -> str:
    """The first line of the message of an error's first cause, shortened."""
    cause: BaseException = error
    while (before := cause.__cause__ or cause.__context__) is not None:
        cause = before
    return hide(str(cause)).split("\n", 1)[0][:200]


def why_closed(error: Exception) -> str:
    """Why a store cannot be opened, without SQL and secrets."""
    if outside := outside_message(error):
        return hide(outside)
    text = re.split(r"\n\[SQL|\n\(Background on", hide(str(error)))[0]
    needed = "; another program holds it, or its file system has no locks, which SQLite needs"
    locked = f"{needed}: put it on a local disk"
    return f"{type(error).__name__}: {text}{locked if 'database is locked' in text else ''}"


def disk_is_full(error: Exception) -> bool:
    """Whether an error, or one of its causes, means that no space is left."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return True
        if isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", None) in FULL_DATABASE:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
