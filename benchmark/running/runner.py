"""Runs the work of a call: in what order, by whom, and what is recorded of it. One job is done in ``worker.py``.

A lost, stopped or failed piece of work is recorded and does not stop the others; a repeated call does what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from benchmark.errors import Unavailable
from benchmark.running.descriptions import Means, call_name, call_note, method_metrics, method_note
from benchmark.running.jobs import Call, Job, Stages, Unit, call_key, dump_call
from benchmark.running.provenance import git_revision, unit_tags
from benchmark.running.studies import study_of, trial_job
from benchmark.running.tasks import Display, Done, Entry, Outcome, Repetition, Search, Task, entry_of, failed_search
from benchmark.running.worker import Worker
from benchmark.system.beside import Beside
from benchmark.system.locks import Locks
from benchmark.tracking.schema import Artifact, Kind, Metric, Tag
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.locks import StudyLocks
from benchmark.tuning.results import TuningResult
from benchmark.tuning.study import open_storage

LOG_SECONDS = 5.0
"""How often the list of jobs is written at most while work is going on."""


class Engine(Protocol):
    """Who does the tasks."""

    def run(self, tasks: Sequence[Task], then: Callable[[Task, Done], Sequence[Task]]) -> None:
        """Do the tasks and those that ``then`` returns of each that is done.

        Raises:
            KeyboardInterrupt: the work was stopped.
        """


@dataclass(frozen=True)
class Inline:
    """Does one task after the other in this process."""

    worker: Worker

    def run(self, tasks: Sequence[Task], then: Callable[[Task, Done], Sequence[Task]]) -> None:
        waiting = list(tasks)
        while waiting:
            task = min(waiting, key=lambda t: t.order)
            waiting.remove(task)
            waiting += then(task, self.worker.do(task))


@dataclass
class CallResult:
    """What a call did."""

    run_id: str
    by_task: dict[tuple[int, int, int], Sequence[Entry]] = field(default_factory=dict)
    studies: list[TuningResult] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        """All jobs: unit by unit, untuned before tuned, by repetition, in whatever order they were done."""
        return [entry for _, entries in sorted(self.by_task.items()) for entry in entries]

    @property
    def failed(self) -> list[Entry]:
        """Jobs that failed, and those that could not run because of it."""
        return [e for e in self.entries if e.state in ("failed", "missing")]


@dataclass(frozen=True)
class Runner:
    """Runs calls against a tracking store.

    Args:
        tracker: the record of results.
        runs_dir: where checkpoints go.
        storage: address of the Optuna storage.
        display: what the user sees.
        command: the command line, for the record.
        stop: asked after each epoch; where it says yes, the work stops at that checkpoint.
        retry_failed: whether jobs that failed in an earlier call are tried again.
    """

    tracker: Tracker
    runs_dir: Path
    storage: str
    display: Display
    command: str
    stop: Callable[[], bool] = lambda: False
    retry_failed: bool = False

    def run(self, call: Call, units: list[Unit], *, tune_only: bool = False, engine: Engine | None = None) -> CallResult:
        """Run all jobs of a call and record what each is for. A repeated or resumed call continues its own record.

        Args:
            engine: who does the work; this process if None.
        """
        if any(unit.tuning.searches for unit in units):
            open_storage(self.storage)  # a wrong address is told before hours of training
        worker = self.worker(units, call.stages)
        progress = _Progress(self, call, units, tune_only)

        def left(tasks: list[Task]) -> list[Task]:
            """The tasks that are not done yet; those done before are taken down here, without an engine."""
            open_tasks = []
            for task in tasks:
                done = worker.done_before(task)
                open_tasks += [task] if done is None else left(progress.then(task, done))
            return open_tasks

        try:
            tasks = left(progress.first_tasks())
            if tasks:
                (engine or Inline(worker)).run(tasks, lambda task, done: left(progress.then(task, done)))
        except Unavailable:  # the call's run stays open: the store may be what is away
            raise
        except BaseException:
            progress.close("KILLED")
            raise
        progress.close()
        return progress.result

    @property
    def locks(self) -> Locks:
        """Who works on what."""
        return Locks(self.runs_dir, self.display.say, self.stop)

    def worker(self, units: Sequence[Unit], stages: Stages) -> Worker:
        """A worker in this process."""
        return Worker(units, stages, self.tracker, self.runs_dir, self.storage, self.display, self.stop, self.retry_failed)

    def lost(self, call: Call, units: Sequence[Unit], task: Task, error: str) -> Done | None:
        """What a task gave that could not be done at all: its jobs are recorded as failed, with the reason.

        Returns:
            None where it is a search that goes on: a trial was to blame.
        """
        unit = units[task.unit]
        if isinstance(task, Search):
            return self._lost_search(units, task, error)
        jobs = task.jobs(unit, call.stages)
        outcomes = [Outcome(job, "failed", error=error) for job in jobs if not self.tracker.by_job_key([job.key])]
        for outcome in outcomes:
            self._record_lost(outcome.job, error)
        return Done([entry_of(outcome, task.variant) for outcome in outcomes])

    def _lost_search(self, units: Sequence[Unit], task: Search, error: str) -> Done | None:
        unit = units[task.unit]
        study = study_of(unit, self.storage)
        values = study.blame(error, StudyLocks(self.locks, study.name))
        if values is None:
            return Done() if task.lane > 0 else Done([failed_search(unit, error)])
        self._record_lost(trial_job(unit, values), error)
        return None

    def _record_lost(self, job: Job, error: str) -> None:
        """Close the runs of a job whose process is gone; the next call tries it again."""
        for run in self.tracker.find(status="RUNNING", kind=Kind.JOB, job_key=job.key):
            self.tracker.tag(run.run_id, {Tag.OUTCOME: "lost", Tag.ERROR: error})
            self.tracker.finish(run.run_id, "FAILED")

    def open_run(self, identity: Mapping[str, str], name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        """The run with this identity, opened again, or a new one; the same for two calls at once."""
        with self.locks.alone("calls"):
            found = self.tracker.find(parent=parent, **identity)
            if not found:
                return self.tracker.start(name, {**identity, **tags}, parent)
            self.tracker.reopen(found[0].run_id)
            return found[0].run_id


class _Progress:
    """What of a call is done, and what that makes possible."""

    def __init__(self, runner: Runner, call: Call, units: list[Unit], tune_only: bool) -> None:
        self.runner, self.tracker, self.units, self.tune_only = runner, runner.tracker, units, tune_only
        self.beside = Beside(runner.display.say)
        run_id = runner.open_run(
            {Tag.KIND: Kind.BENCHMARK_RUN, Tag.RUN_KEY: call_key(call, units, tune_only)},
            call_name(call, len({unit.method.name for unit in units}), tune_only=tune_only),
            {Tag.COMMAND: runner.command, Tag.REVISION: git_revision(), Tag.DATASET: call.dataset, Tag.MODE: call.mode},
        )
        with self.beside(Artifact.OPTIONS):
            self.tracker.log_text(run_id, dump_call(call), Artifact.OPTIONS)
        self.call, self.result = call, CallResult(run_id)
        self.means: dict[tuple[int, str], Means] = {}
        self.parents = [self._open_method(index) for index in range(len(units))]
        self._describe()
        self.open_tasks = [0] * len(units)
        self.logged = time.monotonic()

    def _describe(self) -> None:
        places = (self.runner.command, self.parents, self.tracker.experiment_id)
        with self.beside("the call's description"):
            self.tracker.tag(self.result.run_id, {Tag.DESCRIPTION: call_note(self.call, self.units, *places, self.means)})

    def _open_method(self, index: int) -> str:
        unit = self.units[index]
        identity = {**unit.identity(), Tag.KIND: Kind.METHOD, Tag.PRESET: unit.preset or ""}
        tags = {**unit_tags(unit), Tag.KIND: Kind.METHOD}
        with self.beside(f"the description of {unit.title}"):
            tags[Tag.DESCRIPTION] = method_note(unit, self.call, {}, index)
        return self.runner.open_run(identity, unit.title, tags, self.result.run_id)

    def first_tasks(self) -> list[Task]:
        """What can be done at once."""
        tasks: list[Task] = []
        for index, unit in enumerate(self.units):
            tasks += self._searches(index) if self.tune_only else self._repetitions(index, unit.variant, None)
        return self._opened(tasks)

    def _repetitions(self, index: int, variant: str, values: Mapping[str, object] | None) -> list[Task]:
        return [Repetition(index, self.parents[index], variant, r, values) for r in self.units[index].repetitions]

    def _searches(self, index: int) -> list[Task]:
        tuning = self.units[index].tuning
        lanes = min(tuning.parallel, tuning.trials or tuning.parallel)
        return [Search(index, self.parents[index], lane) for lane in range(lanes)]

    def then(self, task: Task, done: Done) -> list[Task]:
        """Take down what a task gave; returns what can be done now."""
        unit, tasks = self.units[task.unit], list[Task]()
        self.result.by_task[task.order] = done.entries
        if isinstance(task, Search):
            if done.tuning is not None:
                self.result.studies.append(done.tuning)
                tasks = [] if self.tune_only else self._repetitions(task.unit, "tuned", done.tuning.best_values)
        elif unit.tuning.searches and task.variant != "tuned" and task.repetition == unit.repetitions[0]:
            tasks = self._searches(task.unit)  # its trial 0 is stage 1 of this repetition
        self._opened(tasks)
        self.open_tasks[task.unit] -= 1
        if self.open_tasks[task.unit] == 0:
            with self.beside(f"the means of {unit.title}"):
                self._summarise(task.unit)
            self.tracker.finish(task.parent, "FAILED" if any(_is_of(e, unit) for e in self.result.failed) else "FINISHED")
        if self.open_tasks[task.unit] == 0 or time.monotonic() > self.logged + LOG_SECONDS:
            with self.beside(Artifact.JOBS):
                self._log_entries()
        return tasks

    def _opened(self, tasks: list[Task]) -> list[Task]:
        for task in tasks:
            self.open_tasks[task.unit] += 1
        return tasks

    def close(self, status: Literal["KILLED"] | None = None) -> None:
        """End the record of the call; ``KILLED`` where it was stopped."""
        with self.beside(Artifact.JOBS) if status else nullcontext():  # without the list there would be no report of the jobs
            self._log_entries()
        self._describe()
        if missing := self.beside.tags(self.tracker.get(self.result.run_id).tags):
            self.tracker.tag(self.result.run_id, missing)
        if status is not None:
            for parent, left in zip(self.parents, self.open_tasks, strict=True):
                if left:
                    self.tracker.finish(parent, status)
        self.tracker.finish(self.result.run_id, status or ("FAILED" if self.result.failed else "FINISHED"))

    def _log_entries(self) -> None:
        self.tracker.log_json(self.result.run_id, [asdict(e) for e in self.result.entries], Artifact.JOBS)
        self.logged = time.monotonic()

    def _summarise(self, index: int) -> None:
        """Means over seeds as metrics of the method's run, so that the UI's compare view of methods is of use."""
        unit, parent = self.units[index], self.parents[index]
        mine = [e for e in self.result.entries if e.job_key and _is_of(e, unit)]
        stage = max((e.stage for e in mine), default=1)
        entries, prefix = [e for e in mine if e.stage == stage], Metric.TEST if stage == 2 else Metric.BEST
        runs = self.tracker.by_job_key(e.job_key for e in entries)
        found: dict[bool, Means] = {}
        for variant in dict.fromkeys(e.variant for e in entries):
            done = [runs[e.job_key].metrics for e in entries if e.variant == variant and e.job_key in runs]
            if done:
                found[variant == "tuned"] = means = Means.of(done)
                if stage == 2:
                    self.means[index, variant] = means
        metrics = method_metrics(found.get(False), found.get(True), prefix)
        for tuned, means in found.items() if stage == 2 else ():
            shown = {n: v for n, v in means.mean.items() if n.startswith((Metric.TEST, Metric.CALIBRATION))}
            metrics |= {(Metric.TUNED if tuned else "") + name: value for name, value in shown.items()}
        if metrics:
            self.tracker.log_metrics(parent, metrics)
            self.tracker.tag(parent, {Tag.DESCRIPTION: method_note(unit, self.call, self.means, index)})


def count_jobs(units: Sequence[Unit], stages: Stages, *, tune_only: bool) -> int | None:
    """How many jobs a call has, trials included; all that were done before too. None where seconds alone bound a search."""
    each, jobs = 2 if stages == "all" else 1, 0
    for unit in units:
        if unit.tuning.trials is None:
            return None
        jobs += unit.tuning.trials + (0 if tune_only else each * len(unit.repetitions) * (2 if unit.tuning.searches else 1))
    return jobs


def _is_of(entry: Entry, unit: Unit) -> bool:
    return all(getattr(entry, key) == value for key, value in unit.identity().items())
