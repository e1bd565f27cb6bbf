"""What is written beside a result can fail without failing the result: one place that catches, tells and keeps why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from benchmark.errors import Unavailable, words_of
from benchmark.system.redaction import hide

NOT_WRITTEN = "not_written"
"""Tag of a run: what is missing beside its result, ``name: reason`` in a line each. Reports show it."""
LONGEST = 4_000
"""Characters of the tag."""

Guard = Callable[[str], AbstractContextManager[None]]
"""Around something that has a name: ``Beside``, or ``unguarded``."""


def unguarded(what: str) -> AbstractContextManager[None]:
    """Let every error pass."""
    return nullcontext()


def reason_of(error: BaseException) -> str:
    """The kind and the first line of an error, short."""
    lines = words_of(error).strip().splitlines()
    return f"{type(error).__name__}: {hide(lines[0])[:300]}" if lines else type(error).__name__


class Beside:
    """Catches what goes wrong beside a result, such as a figure, a map, a count of operations or a note.

    Its user is told, the reason is kept, and the work goes on. Ctrl-C ends the work as ever, and a store that does not
    answer (``Unavailable``) is not caught: the result could not be recorded either.

    Args:
        say: tells the user, a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.failed: dict[str, str] = {}

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Try something.

        Args:
            what: names it, such as ``curve.png``.
        """
        try:
            yield
        except Unavailable:
            raise
        except Exception as error:  # any failure here is less than the loss of the result
            self.note({what: reason_of(error)})

    def note(self, failed: Mapping[str, str]) -> None:
        """Take down and tell what failed elsewhere.

        Args:
            failed: reasons by what failed.
        """
        self.failed |= failed
        for what, reason in failed.items():
            self.say(f"warning: {what} could not be written ({reason}); the result stays, reports lack it")

    def lines(self) -> list[str]:
        """What failed, ``name: reason`` each."""
        return [f"{what}: {reason}" for what, reason in self.failed.items()]

    def tags(self, before: Mapping[str, str] | None = None) -> dict[str, str]:
        """The tag that says what is missing; none where nothing is.

        Args:
            before: tags that the run has of an earlier attempt.
        """
        text = "\n".join(self.lines())[:LONGEST]
        return {NOT_WRITTEN: text} if text or (before or {}).get(NOT_WRITTEN) else {}


def not_written(tags: Mapping[str, str]) -> list[str]:
    """What a run's tags say is missing beside its result: ``name: reason`` each."""
    return [line for line in tags.get(NOT_WRITTEN, "").splitlines() if line]
