"""Output that cannot end work: streams that are closed, full, or lack a character lose what is shown, and nothing else."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

PLAIN = {
    "✓": "+", "✗": "x", "·": "-", "×": "x", "±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "→": "->", "≥": ">=",
    "≤": "<=", "•": "*", "†": "+", "‡": "++", "§": "S", "‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " ", "\u202f": " ",
}  # fmt: skip
"""What stands for a sign that the terminal's encoding lacks; a question mark stands for all others."""


class Lasting:
    """A text stream that never fails: what cannot be written is lost, and the reason is kept.

    Args:
        stream: where texts go. All but ``write`` and ``flush`` is as of it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: Exception | None = None
        """Why nothing more is shown."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; signs that the encoding lacks are replaced."""
        if not isinstance(text, str):
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        if self.lost is None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(plain(text, self._stream.encoding or "ascii"))
            except Exception as error:  # no failure to show something may end what is shown
                self._failed(error)
        return len(text)

    def flush(self) -> None:
        """Send what was written."""
        if self.lost is None:
            try:
                self._stream.flush()
            except Exception as error:  # as above
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, RuntimeError):  # a signal came while this stream was written to, and its handler writes too
            return
        self.lost = error
        with suppress(Exception):  # what is left in buffers goes nowhere, so that nothing fails when the program ends
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def plain(text: str, encoding: str) -> str:
    """A text with other signs for those that an encoding lacks."""
    return "".join(c if _has(encoding, c) else PLAIN.get(c, "?") for c in text)


def _has(encoding: str, char: str) -> bool:
    try:
        char.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def open_missing_streams() -> None:
    """Open the standard streams that the program was started without, to nowhere.

    Without that the next file to be opened, for example a database, would be standard output to all that write to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace", closefd=False))  # noqa: SIM115


@contextmanager
def lasting_output() -> Iterator[Lasting]:
    """Within it nothing that is printed can raise, whoever prints it.

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
    """Whether nobody reads any more, as behind ``| head -1``: that is no fault."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ESHUTDOWN)
