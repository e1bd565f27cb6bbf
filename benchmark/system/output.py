"""Output streams that never fail: if one is closed or full or lacks a character, only output is lost."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

PLAIN = {
    "✓": "+", "✗": "x", "·": "-", "×": "x", "±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "→": "->",
    "≥": ">=", "≤": "<=", "•": "*", "†": "+", "‡": "++", "§": "S", "‘": "'", "’": "'", "“": '"', "”": '"',
    "\u00a0": " ", "\u202f": " ",
}  # fmt: skip
"""Replacements of characters that the terminal's encoding lacks; all others become a question mark."""


class Lasting:
    """A text stream that never fails: text that cannot be written is lost, and the reason is recorded.

    Args:
        stream: the stream to write to. Attributes except ``write`` and ``flush`` are its own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: Exception | None = None
        """The error after which nothing more is shown."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; characters that the encoding lacks are replaced."""
        if not isinstance(text, str):
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        if self.lost is None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(plain(text, self._stream.encoding or "ascii"))
            except Exception as error:  # work must not end because its output cannot be shown
                self._failed(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        if self.lost is None:
            try:
                self._stream.flush()
            except Exception as error:  # as above
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, RuntimeError):  # a signal handler wrote to this stream during another write
            return
        self.lost = error
        # discards what is left in buffers, so that nothing fails when the program ends
        with suppress(Exception):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def plain(text: str, encoding: str) -> str:
    """Replace the characters of a text that an encoding lacks."""
    return "".join(c if _has(encoding, c) else PLAIN.get(c, "?") for c in text)


def _has(encoding: str, char: str) -> bool:
    try:
        char.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def open_missing_streams() -> None:
    """Open standard streams that are missing to ``os.devnull``.

    Otherwise the next file that is opened, such as a database, would get the number of standard output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # gets the lowest free number, which is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115


@contextmanager
def lasting_output() -> Iterator[Lasting]:
    """Replace the standard streams by ones on which printing never raises, in libraries too.

    Yields:
        Standard output.
    """
    before = sys.stdout, sys.stderr
    out, err = (s if isinstance(s, Lasting) else Lasting(s) for s in before)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def is_broken_pipe(error: Exception) -> bool:
    """Whether an error means that nobody reads the output any more, as with ``| head -1``: no failure."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ESHUTDOWN)
