"""The tasks of a benchmark run, how they ended, and what a user is shown of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from benchmark.method import EpochRecord
from benchmark.running.jobs import Job, Stages, Unit
from benchmark.tuning.results import TuningResult

State = Literal["done", "reused", "failed", "missing"]


class Display(Protocol):
    """What a user sees while jobs run."""

    def start(self, title: str, epochs: int, batches: int) -> None:
        """A job starts to train."""

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        """A batch was trained on."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is finished and validated."""

    def end(self, ended: Ended) -> None:
        """A job ended, or was found done."""

    def passed(self, jobs: int) -> None:
        """Jobs that need no line: trials that were done before, or pruned."""

    def say(self, text: str) -> None:
        """A line for the user."""

    def clear(self) -> None:
        """Nothing runs any more."""


@dataclass(frozen=True)
class Ended:
    """How a job ended, for people."""

    label: str
    state: State
    result: Mapping[str, Any]
    error: str


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    state: State
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Entry:
    """A line of a call's list of jobs: what a run is for in this call."""

    dataset: str
    features: str
    mode: str
    method: str
    variant: str
    """``published``, ``default``, ``user-set`` or ``tuned``."""
    repetition: int
    stage: int
    job_key: str
    state: State
    error: str = ""
    ablation: str = ""
    """The switch that an ablation corrects alone, ``all`` for mode corrected beside it."""


@dataclass(frozen=True)
class Repetition:
    """Both stages of one seed of a method, or those that the call asks for."""

    unit: int
    """Place in the call's units."""
    parent: str
    """The method's run."""
    variant: str
    repetition: int
    values: Mapping[str, Any] | None = None
    """What tuning found."""

    def final_job(self, unit: Unit) -> Job:
        """Its stage 2, whose ``first_stage`` is its stage 1."""
        settings = unit.settings.with_values(unit.method, self.values) if self.values else unit.settings
        return unit.job(2, self.repetition, settings)

    def jobs(self, unit: Unit, stages: Stages) -> list[Job]:
        """Its jobs that a call of these stages asks for."""
        second = self.final_job(unit)
        return {"1": [second.first_stage()], "2": [second], "all": [second.first_stage(), second]}[stages]

    @property
    def order(self) -> tuple[int, int, int]:
        """Where it comes among the tasks of a call."""
        return (self.unit, 2 if self.variant == "tuned" else 0, self.repetition)


@dataclass(frozen=True)
class Search:
    """The study of a method: to its end, or as one more process that does trials of it."""

    unit: int
    parent: str
    lane: int = 0
    """0: to its end."""

    @property
    def order(self) -> tuple[int, int, int]:
        """Where it comes among the tasks of a call."""
        return (self.unit, 1, self.lane)


Task = Repetition | Search


@dataclass(frozen=True)
class Done:
    """What a task gave."""

    entries: Sequence[Entry] = ()
    tuning: TuningResult | None = None
    stopped: bool = False
    """Whether it was stopped at a checkpoint and is to be carried on by a later call."""


def lock_of(job: Job) -> str:
    """Name of the lock that a process holds while it works on a job."""
    return f"jobs/{job.key}"


def label_of(job: Job, variant: str) -> str:
    """A job on the terminal; the same seed and stage with tuned settings has another label."""
    return f"{job.title} · tuned" if variant == "tuned" else job.title


def entry_of(outcome: Outcome, variant: str) -> Entry:
    """The line of the call's list of jobs for an outcome."""
    job = outcome.job
    return Entry(
        **job.unit.identity(),
        variant=variant,
        repetition=job.repetition,
        stage=job.stage,
        job_key=job.key,
        state=outcome.state,
        error=outcome.error,
    )


def failed_search(unit: Unit, error: str) -> Entry:
    """The line of the call's list of jobs for a study that gave nothing."""
    return Entry(**unit.identity(), variant="tuned", repetition=0, stage=1, job_key="", state="failed", error=error)
