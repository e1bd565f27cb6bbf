"""Waiting for what a job needs and cannot mend: a server that does not answer, a full disk."""

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
from benchmark.system.files import told_outside
from benchmark.system.redaction import hide

VARIABLE = "GZSL_PATIENCE"
DEFAULT_SECONDS = 600.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_DATABASE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
"""The same as SQLite says it; the second one of the file that processes share."""

logger = logging.getLogger(__name__)
T = TypeVar("T")


def patience() -> float:
    """How many seconds are waited: ``GZSL_PATIENCE``, or ten minutes.

    Raises:
        UsageError: the variable is no number of seconds.
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
    """Do an action, again and again while it fails for reasons that may pass.

    Args:
        action: safe to repeat after it failed.
        passing: whether an error may pass by itself or with help from outside.
        what: names the trouble, for the user.

    Raises:
        Unavailable: it did not pass in time.
    """
    started, pause = time.monotonic(), FIRST_PAUSE
    told = False
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
                    f"{what} ({reason}); waited {longest:.0f} s for it ({VARIABLE}). Nothing is lost: the same command goes on "
                    "from the last checkpoints"
                ) from error
            if not told:
                logger.warning("%s (%s); waiting up to %.0f s (%s)", what, reason, longest, VARIABLE)
                told = True
            time.sleep(min(pause, longest - waited))
            pause = min(2 * pause, LONGEST_PAUSE)
        else:
            if told:
                logger.warning("%s: over after %.0f s", what, time.monotonic() - started)
            return result


def first_line(error: Exception) -> str:
    """What the first cause of an error says, short."""
    cause: BaseException = error
    while (before := cause.__cause__ or cause.__context__) is not None:
        cause = before
    return hide(str(cause)).split("\n", 1)[0][:200]


def why_closed(error: Exception) -> str:
    """Why a store cannot be opened, without SQL and secrets."""
    if outside := told_outside(error):
        return hide(outside)
    text = re.split(r"\n\[SQL|\n\(Background on", hide(str(error)))[0]
    locked = "; another program holds it, or its file system has no locks, which SQLite needs: put it on a local disk"
    return f"{type(error).__name__}: {text}{locked if 'database is locked' in text else ''}"


def disk_is_full(error: Exception) -> bool:
    """Whether an error, or one that it came of, says that there is no space left."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return True
        if isinstance(cause, sqlite3.Error) and getattr(cause, "sqlite_errorcode", None) in FULL_DATABASE:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
