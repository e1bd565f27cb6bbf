"""What of a call is done, running, interrupted, failed or missing, as the stores tell it. Reads them and creates nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark.running.jobs import Job, Stages, Unit
from benchmark.running.studies import study_of
from benchmark.running.tasks import Repetition, label_of, lock_of
from benchmark.system.locks import Locks
from benchmark.tracking.schema import Kind, Tag
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.locks import StudyLocks

State = Literal["done", "running", "interrupted", "failed", "missing"]
"""``running``: a living process works on it; ``interrupted``: begun, and nobody works on it."""
STATES: Mapping[str, State] = {"FINISHED": "done", "RUNNING": "interrupted", "KILLED": "interrupted", "FAILED": "failed"}
"""State of a job by the status of its run, where no living process works on it."""


@dataclass(frozen=True)
class Stores:
    """Where the facts are.

    Args:
        tracker: the record of results; None where there is none yet.
        storage: address of the Optuna storage, which need not be there.
        runs_dir: the runs folder with the locks.
    """

    tracker: Tracker | None
    storage: str
    runs_dir: Path


@dataclass(frozen=True)
class JobState:
    """A job of a call."""

    job: str
    """Its title, with tuned settings ``· tuned``."""
    key: str
    state: State
    reason: str
    """Why it failed."""


@dataclass(frozen=True)
class StudyState:
    """A study of a call."""

    study: str
    unit: str
    """Title of the method, data and mode that it tunes."""
    state: State
    reason: str
    """Why it gave nothing."""
    budget: str
    """As captions name it; failed trials do not count."""
    trials: int | None
    """None: bounded by seconds alone."""
    timeout: float | None
    """Budget in seconds."""
    finished: int
    pruned: int
    running: int
    interrupted: int
    failed: int
    missing: int | None
    """Trials that are still to be begun; None where only seconds bound them."""
    failures: Mapping[int, str]
    """Why trials failed, by number."""
    best_trial: int | None
    """None while the study goes on."""
    best_hm: float | None
    """Its validation HM, fraction."""
    best_values: Mapping[str, Any]
    """Its settings; empty where they are the starting ones, so that no further job follows."""


def call_states(units: Sequence[Unit], stages: Stages, stores: Stores) -> list[JobState | StudyState]:
    """All that a call does, in its order: jobs of a method, its study, and the jobs with what that found once it is over."""
    found: list[JobState | StudyState] = []
    for unit in units:
        found += _jobs(unit, stages, stores, unit.variant)
        if unit.tuning.searches:
            study = study_state(unit, stores)
            found.append(study)
            if study.best_values:
                found += _jobs(unit, stages, stores, "tuned", study.best_values)
    return found


def _jobs(unit: Unit, stages: Stages, stores: Stores, variant: str, values: Mapping[str, Any] | None = None) -> list[JobState]:
    repetitions = [Repetition(0, "", variant, repetition, values) for repetition in unit.repetitions]
    return [job_state(job, stores, variant) for repetition in repetitions for job in repetition.jobs(unit, stages)]


def job_state(job: Job, stores: Stores, variant: str) -> JobState:
    """What of a job is done.

    Args:
        variant: of its settings; ``tuned`` or another one.
    """
    runs = stores.tracker.find(kind=Kind.JOB, job_key=job.key) if stores.tracker is not None else []
    runs = [r for r in runs if r.tags.get(Tag.OUTCOME) != "pruned"]
    run = next((r for r in runs if r.status == "FINISHED"), runs[0] if runs else None)
    state = STATES.get(run.status, "interrupted") if run else "missing"
    if state != "done" and Locks(stores.runs_dir).is_held(lock_of(job)):
        state = "running"
    return JobState(label_of(job, variant), job.key, state, run.tags.get(Tag.ERROR, "") if run and state != "done" else "")


def study_state(unit: Unit, stores: Stores) -> StudyState:
    """What of a unit's study is done."""
    study = study_of(unit, stores.storage)
    record, locks = study.look(), StudyLocks(Locks(stores.runs_dir), study.name)
    past = record.past if record else ()
    begun = {number: locks.is_held(number) for number in (record.begun if record else ())}
    count = Counter(trial.state for trial in past)
    running = sum(begun.values())
    trials = unit.tuning.trials
    left = None if trials is None else trials - count["complete"] - count["pruned"] - len(begun)
    result = record.result if record else None
    state: State = "interrupted" if past or begun else "missing"
    if running:
        state = "running"
    elif record and record.failure:
        state = "failed"
    elif result:
        state = "done"
    return StudyState(
        study=study.name,
        unit=unit.title,
        state=state,
        reason=record.failure if record else "",
        budget=str(unit.tuning.budget),
        trials=trials,
        timeout=unit.tuning.timeout,
        finished=count["complete"],
        pruned=count["pruned"],
        running=running,
        interrupted=len(begun) - running,
        failed=count["failed"],
        missing=0 if record and record.used_up else left,
        failures={trial.number: trial.error for trial in past if trial.state == "failed"},
        best_trial=result.best_number if result else None,
        best_hm=result.best_hm if result else None,
        best_values=result.best_values if result else {},
    )
