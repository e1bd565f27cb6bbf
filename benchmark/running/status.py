"""The state of a plan's jobs and studies, as the stores have it. Reads them and creates nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmark.running.jobs import Job, Plan, Unit, trainings_that_confirm
from benchmark.running.studies import study_of
from benchmark.running.tasks import JobState, Repetition, label_of, lock_of, trial_job
from benchmark.system.locks import Locks
from benchmark.tracking.schema import Kind, Metric, Tag
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.confirmation import Candidate, confirm_candidates
from benchmark.tuning.locks import StudyLocks
from benchmark.tuning.results import TuningResult

STATES: Mapping[str, JobState] = {
    "FINISHED": "done",
    "RUNNING": "interrupted",
    "KILLED": "interrupted",
    "FAILED": "failed",
}
"""State of a job by the status of its MLflow run, if no living process works on it."""


@dataclass(frozen=True)
class Existing:
    """Stores that need not exist yet.

    Args:
        tracker: MLflow's store of results; None if there is none yet.
        storage: address of Optuna's storage.
        runs_dir: the runs folder with the locks.
    """

    tracker: Tracker | None
    storage: str
    runs_dir: Path


@dataclass(frozen=True)
class JobStatus:
    """A job and its state."""

    job: str
    """Its title, with tuned settings ``· tuned``."""
    key: str
    state: JobState
    reason: str
    """Why it failed."""


@dataclass(frozen=True)
class StudyState:
    """A study and its state."""

    study: str
    unit: str
    """Title of the method, data and mode that it tunes."""
    state: JobState
    reason: str
    """Why it has no result."""
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
    left: int | None
    """Trials that are not started yet; None if only seconds bound them."""
    failures: Mapping[int, str]
    """Why trials failed, by number."""
    confirming: int
    """Trainings at most that repeat the best trials on other seeds; 0 with ``tuning.confirm=0``."""
    best_trial: int | None
    """None while the study is not over."""
    best_hm: float | None
    """Its validation HM, fraction."""
    best_values: Mapping[str, Any]
    """Its hyperparameters; empty if they are the defaults."""
    chosen_trial: int | None
    """The trial that is kept, after the best ones were trained again if they are; None before that."""
    chosen_values: Mapping[str, Any]
    """Its hyperparameters; empty if they are the defaults, so that no further job follows."""


def plan_states(plan: Plan, stores: Existing) -> list[JobStatus | StudyState]:
    """All work of a plan in its order."""
    return [state for unit in plan.units for state in unit_states(plan, unit, stores)]


def unit_states(plan: Plan, unit: Unit, stores: Existing) -> list[JobStatus | StudyState]:
    """All work of a unit: jobs, the study, and the tuned jobs once the study is over."""
    found: list[JobStatus | StudyState] = list(_jobs(plan, unit, stores, unit.variant))
    for number in range(unit.studies if unit.tuning.searches else 0):
        one = unit.of_study(number)
        result, study = study_state(one, stores)
        confirming = [
            job_status(trial_job(one, c.values, r), stores, "", f"trial {c.number} again")
            for c in (result.candidates if result else ())
            for r in one.confirming
        ]
        if result and all(job.state in ("done", "failed") for job in confirming):
            study = _chosen(one, stores, result, study)
        listed = {state.key for state in found if isinstance(state, JobStatus)}  # trial 0 is the untuned one
        found += [study, *(job for job in confirming if job.key not in listed)]

        # A first search that keeps the defaults has the untuned jobs; a further one has its own seeds.
        if study.chosen_values or (number and study.chosen_trial is not None):
            found += _jobs(plan, one, stores, "tuned", study.chosen_values)
    return found


def _chosen(unit: Unit, stores: Existing, result: TuningResult, study: StudyState) -> StudyState:
    """A study that is over, with what is kept of it."""
    if not result.candidates:
        return replace(study, chosen_trial=result.best_number, chosen_values=result.best_values)

    keys = {
        (c.number, r): trial_job(unit, c.values, r).key for c in result.candidates for r in unit.confirming
    }
    runs = stores.tracker.by_job_key(keys.values()) if stores.tracker is not None else {}

    def hm(candidate: Candidate, repetition: int) -> float | None:
        run = runs.get(keys[candidate.number, repetition])
        return run.metrics[Metric.BEST + "hm"] if run else None

    found = confirm_candidates(unit.confirming, result.candidates, hm)
    return replace(study, chosen_trial=found.number, chosen_values=found.values) if found else study


def _jobs(
    plan: Plan, unit: Unit, stores: Existing, variant: str, values: Mapping[str, Any] | None = None
) -> list[JobStatus]:
    repetitions = [Repetition(0, "", variant, repetition, values) for repetition in unit.repetitions]
    jobs = [job for repetition in repetitions for job in repetition.jobs(unit, plan.run.stages)]
    return [job_status(job, stores, variant) for job in jobs]


def job_status(job: Job, stores: Existing, variant: str, what: str = "") -> JobStatus:
    """The state of a job.

    Args:
        variant: of its settings; ``tuned`` or another one.
        what: is added to its title.
    """
    runs = stores.tracker.find(kind=Kind.JOB, job_key=job.key) if stores.tracker is not None else []
    runs = [r for r in runs if r.tags.get(Tag.OUTCOME) != "pruned"]
    run = next((r for r in runs if r.status == "FINISHED"), runs[0] if runs else None)
    state = STATES.get(run.status, "interrupted") if run else "not run"
    if state != "done" and Locks(stores.runs_dir).is_held(lock_of(job)):
        state = "running"
    reason = run.tags.get(Tag.ERROR, "") if run and state != "done" else ""
    title = label_of(job, variant) + (f" · {what}" if what else "")
    return JobStatus(title, job.key, state, reason)


def study_state(unit: Unit, stores: Existing) -> tuple[TuningResult | None, StudyState]:
    """The result of a unit's study if it is over, and its state."""
    study = study_of(unit, stores.storage)
    record, locks = study.look(), StudyLocks(Locks(stores.runs_dir), study.name)

    # Trials: those that ended, and those that were started and may still run.
    past = record.past if record else ()
    started = {number: locks.is_held(number) for number in (record.started if record else ())}
    count = Counter(trial.state for trial in past)
    running = sum(started.values())
    trials = unit.tuning.trials
    left = None if trials is None else trials - count["complete"] - count["pruned"] - len(started)

    # The study as a whole.
    result = record.result if record else None
    state: JobState = "interrupted" if past or started else "not run"
    if running:
        state = "running"
    elif record and record.failure:
        state = "failed"
    elif result:
        state = "done"
    return result, StudyState(
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
        interrupted=len(started) - running,
        failed=count["failed"],
        left=0 if record and record.used_up else left,
        failures={trial.number: trial.error for trial in past if trial.state == "failed"},
        confirming=trainings_that_confirm(unit),
        best_trial=result.best_number if result else None,
        best_hm=result.best_hm if result else None,
        best_values=result.best_values if result else {},
        chosen_trial=None,
        chosen_values={},
    )
