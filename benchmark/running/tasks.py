"""The tasks of a benchmark run and their results, as small records that travel between processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmark.errors import JobError, UsageError
from benchmark.running.benchmark_run import Stages
from benchmark.running.jobs import Job, Plan, Unit
from benchmark.tracking.schema import ablation_words
from benchmark.tuning.results import TuningResult

MOST_SLOTS = 1000
"""Most processes that work on one search."""
MOST_TASKS = 100_000_000
"""More than the tasks of one search."""
JobState = Literal["done", "reused", "failed", "not run", "running", "interrupted"]
"""``reused``: done by an earlier run; ``running``: a living process works on it; ``interrupted``:
started, and no process works on it."""


@dataclass(frozen=True)
class JobLine:
    """How a job ended, as the terminal shows it."""

    label: str
    state: JobState
    result: Mapping[str, Any]
    error: str


@dataclass(frozen=True)
class JobResult:
    """How a job ended, for the worker."""

    job: Job
    state: JobState
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class JobEntry:
    """A line of ``jobs.json``, from which reports are made: what a job is for in this benchmark run."""

    dataset: str
    features: str
    mode: str
    method: str
    variant: str
    """``published``, ``default``, ``user-set`` or ``tuned``."""
    repetition: int
    stage: int
    job_key: str
    state: JobState
    error: str = ""
    ablation: str = ""
    """The protocol flag that an ablation corrects alone; ``all`` for mode corrected."""
    study: int = 0
    """Number of the search that a tuned job follows."""

    @property
    def failure(self) -> str:
        """A sentence on a job that failed or did not run: which job, and the reason."""
        flag = f"{ablation_words(self.ablation)}, " if self.ablation else ""
        which = f"{flag}{self.variant}, seed {self.repetition}, stage {self.stage}"
        return f"{self.state}: {self.method} on {self.dataset} ({which}): {self.error}"


@dataclass(frozen=True)
class Repetition:
    """A task: both stages of one seed of a method, or those that the benchmark run asks for."""

    unit: int
    """Index in the plan's units."""
    parent: str
    """MLflow run of the method."""
    variant: str
    repetition: int
    values: Mapping[str, Any] | None = None
    """Hyperparameters that the search found."""
    study: int = 0

    def final_job(self, unit: Unit) -> Job:
        """Its stage 2, whose ``first_stage`` is its stage 1."""
        settings = unit.settings.with_values(unit.method, self.values) if self.values else unit.settings
        return unit.job(2, self.repetition, settings)

    def jobs(self, unit: Unit, stages: Stages) -> list[Job]:
        """Its jobs of these stages."""
        second = self.final_job(unit)
        return {"1": [second.first_stage()], "2": [second], "all": [second.first_stage(), second]}[stages]

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place among the tasks; smaller ones start first."""
        return (self.unit, 2 if self.variant == "tuned" else 0, self.repetition)


@dataclass(frozen=True)
class Search:
    """A task: the hyperparameter search of a method to its end, or trials of it beside another process."""

    unit: int
    """Index in the plan's units."""
    parent: str
    """MLflow run of the method."""
    slot: int = 0
    """0: to the search's end; others only help."""
    study: int = 0

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place among the tasks; smaller ones start first."""
        return (self.unit, 1, self.study * MOST_TASKS + self.slot)


@dataclass(frozen=True)
class Confirm:
    """A task: stage 1 of a trial again, with a seed that took no part in the search."""

    unit: int
    """Index in the plan's units."""
    parent: str
    """MLflow run of the method."""
    place: int
    """Among the trainings that confirm the search."""
    number: int
    """The trial."""
    values: Mapping[str, Any]
    """Its hyperparameters; empty for trial 0."""
    repetition: int
    study: int = 0

    def job(self, unit: Unit) -> Job:
        """Its training."""
        return trial_job(unit, self.values, self.repetition)

    def label(self, job: Job) -> str:
        """Its training on the terminal."""
        return f"{job.unit.title} · trial {self.number} again · seed {self.repetition}"

    @property
    def order(self) -> tuple[int, int, int]:
        """Its place among the tasks; smaller ones start first."""
        return (self.unit, 1, self.study * MOST_TASKS + MOST_SLOTS + self.place)


Task = Repetition | Search | Confirm


@dataclass(frozen=True)
class TaskResult:
    """How a task ended."""

    entries: Sequence[JobEntry] = ()
    tuning: TuningResult | None = None
    """Of a search that is over."""
    hm: float | None = None
    """Validation HM of a ``Confirm``, fraction; None if it failed."""
    stopped: bool = False
    """Whether it stopped at a checkpoint, for a later run to continue."""


def unit_of(plan: Plan, task: Task) -> Unit:
    """The unit of a task, as the search of the task tunes and trains it."""
    return plan.units[task.unit].of_study(task.study)


def lock_of(job: Job) -> str:
    """Name of the lock that a process holds while it works on a job."""
    return f"jobs/{job.key}"


def trial_jobs(unit: Unit, values: Mapping[str, Any]) -> list[Job]:
    """The trainings of a trial, one for each seed of the search.

    Raises:
        JobError: the method does not accept the values together.
    """
    return [trial_job(unit, values, repetition) for repetition in unit.searching]


def trial_job(unit: Unit, values: Mapping[str, Any], repetition: int) -> Job:
    """Stage 1 with the hyperparameters of a trial and the seed of a repetition.

    Args:
        values: none for those of the unit.

    Raises:
        JobError: the method does not accept them together.
    """
    try:
        settings = unit.settings.with_values(unit.method, values) if values else unit.settings
    except UsageError as error:
        raise JobError(str(error)) from None
    return unit.job(1, repetition, settings)


def label_of(job: Job, variant: str) -> str:
    """A job on the terminal; the same seed and stage with tuned settings has another label."""
    return f"{job.title} · tuned" if variant == "tuned" else job.title


def entry_of(result: JobResult, variant: str) -> JobEntry:
    """The line of ``jobs.json`` for a job's result."""
    job = result.job
    return JobEntry(
        **job.unit.identity(),
        variant=variant,
        repetition=job.repetition,
        stage=job.stage,
        job_key=job.key,
        state=result.state,
        error=result.error,
        study=job.unit.study,
    )


def failed_search(unit: Unit, error: str) -> JobEntry:
    """The line of ``jobs.json`` for a search without a result."""
    return JobEntry(
        **unit.identity(),
        variant="tuned",
        repetition=0,
        stage=1,
        job_key="",
        state="failed",
        error=error,
        study=unit.study,
    )
