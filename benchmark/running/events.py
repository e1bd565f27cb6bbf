"""What happens while jobs run, as a stream of events. The terminal shows them; tests collect them.

A worker calls one function with each event, ``Show``. Processes send events over a channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmark.method import EpochRecord
from benchmark.running.tasks import JobLine


@dataclass(frozen=True)
class JobStarted:
    """A job starts to train."""

    title: str
    epochs: int
    batches: int
    """Batches of an epoch."""


@dataclass(frozen=True)
class BatchDone:
    """A batch was trained on."""

    epoch: int
    batch: int
    loss: float


@dataclass(frozen=True)
class EpochDone:
    """An epoch is finished and validated."""

    record: EpochRecord


@dataclass(frozen=True)
class JobEnded:
    """A job ended, or was found done."""

    line: JobLine


@dataclass(frozen=True)
class Skipped:
    """Jobs that need no line: pruned trials, and trials that an earlier run did."""

    jobs: int


@dataclass(frozen=True)
class Said:
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class Idle:
    """The task ended or was lost; nothing of it runs any more."""


Event = JobStarted | BatchDone | EpochDone | JobEnded | Skipped | Said | Idle
Show = Callable[[Event], None]
