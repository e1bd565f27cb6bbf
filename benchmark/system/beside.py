"""Lets figures, maps and notes beside a result fail without failing the result, and records the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from benchmark.errors import Unavailable, words_of
from benchmark.system.redaction import hide

NOT_WRITTEN = "not_written"
"""Tag of a run that lists what is missing beside its result, one ``name: reason`` per line. Reports show
it."""
LONGEST = 4_000
"""Characters that the tag may have."""

Guard = Callable[[str], AbstractContextManager[None]]
"""Context manager for one named piece of work: ``Beside``, or ``unguarded``."""


def unguarded(what: str) -> AbstractContextManager[None]:
    """Let every error pass."""
    return nullcontext()


def reason_of(error: BaseException) -> str:
    """The type and the first line of an error, shortened."""
    lines = words_of(error).strip().splitlines()
    return f"{type(error).__name__}: {hide(lines[0])[:300]}" if lines else type(error).__name__


class Beside:
    """Catches errors of work beside a result, such as a figure, a map, a count of operations or a note.

    The error is reported and recorded, and the job continues. Ctrl-C still ends the job. A store that does
    not answer (``Unavailable``) is not caught, since the result could not be recorded either.

    Args:
        say: shows a line to the user.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.failed: dict[str, str] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Catch errors of the block.

        Args:
            what: name of its result, such as ``curve.png``.
        """
        try:
            yield
        except Unavailable:
            raise
        except Exception as error:  # no failure here is worth losing the result
            self.note({what: reason_of(error)})

    def note(self, failed: Mapping[str, str]) -> None:
        """Record and report what failed elsewhere.

        Args:
            failed: the reason of each failure by its name.
        """
        self.failed |= failed
        for what, reason in failed.items():
            self.say(f"warning: {what} could not be written ({reason}); the result stays, reports lack it")

    def lines(self) -> list[str]:
        """What failed, ``name: reason`` each."""
        return [f"{what}: {reason}" for what, reason in self.failed.items()]

    def tags(self, before: Mapping[str, str] | None = None) -> dict[str, str]:
        """The tag ``NOT_WRITTEN``, empty if only an earlier attempt failed; no tag if nothing failed.

        Args:
            before: tags that the run has from an earlier attempt.
        """
        text = "\n".join(self.lines())[:LONGEST]
        return {NOT_WRITTEN: text} if text or (before or {}).get(NOT_WRITTEN) else {}


def not_written(tags: Mapping[str, str]) -> list[str]:
    """What is missing beside a run's result according to its tags: one ``name: reason`` each."""
    return [line for line in tags.get(NOT_WRITTEN, "").splitlines() if line]
