"""Runs a plan: in what order tasks are done, by which engine, and what is recorded of the whole.

``worker.py`` does a single task. A failed or stopped task is recorded and does not stop the others. A
repeated command does what is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Protocol

from benchmark.errors import Unavailable
from benchmark.protocol.device import overlooked_gpu
from benchmark.running.descriptions import Means, method_metrics, method_note, run_name, run_note
from benchmark.running.events import Said, Show, Skipped
from benchmark.running.jobs import Job, Plan, Unit, trainings_that_confirm
from benchmark.running.provenance import git_revision, unit_tags
from benchmark.running.stores import Stores
from benchmark.running.studies import log_confirmation, study_of
from benchmark.running.tasks import (
    Confirm,
    JobEntry,
    JobResult,
    Repetition,
    Search,
    Task,
    TaskResult,
    entry_of,
    failed_search,
    trial_jobs,
    unit_of,
)
from benchmark.running.worker import Worker
from benchmark.system.beside import Beside
from benchmark.system.locks import Locks
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Artifact, Kind, Metric, Tag
from benchmark.tuning.confirmation import confirm_candidates
from benchmark.tuning.locks import StudyLocks
from benchmark.tuning.results import TuningResult
from benchmark.tuning.study import open_storage

LOG_SECONDS = 5.0
"""Shortest time between two writings of the list of jobs while work is going on."""


class Engine(Protocol):
    """Has tasks done: in this process, in several, or on a cluster."""

    def run(self, tasks: Sequence[Task], then: Callable[[Task, TaskResult], Sequence[Task]]) -> None:
        """Do the tasks, and those that ``then`` returns for each finished one.

        Raises:
            KeyboardInterrupt: the work was stopped.
        """


@dataclass(frozen=True)
class Inline:
    """Does one task after the other in this process."""

    worker: Worker

    def run(self, tasks: Sequence[Task], then: Callable[[Task, TaskResult], Sequence[Task]]) -> None:
        waiting = list(tasks)
        while waiting:
            task = min(waiting, key=lambda t: t.order)
            waiting.remove(task)
            waiting += then(task, self.worker.do(task))


@dataclass
class BenchmarkRunResult:
    """What a benchmark run did."""

    run_id: str
    """Its MLflow run."""
    by_task: dict[tuple[int, int, int], Sequence[JobEntry]] = field(default_factory=dict)
    studies: list[TuningResult] = field(default_factory=list)

    @property
    def entries(self) -> list[JobEntry]:
        """All jobs: unit by unit, untuned before tuned, by repetition, in whatever order they were done."""
        return [entry for _, entries in sorted(self.by_task.items()) for entry in entries]

    @property
    def failed(self) -> list[JobEntry]:
        """Jobs that failed, and those that did not run because of it."""
        return [e for e in self.entries if e.state in ("failed", "not run")]


@dataclass(frozen=True)
class Runner:
    """Runs plans against a tracking store. The commands ``run`` and ``tune`` make one.

    Args:
        stores: where results, studies and checkpoints are.
        show: takes what happens.
        command: the command line, for the record.
        stop: asked after each epoch; if true, the work stops at that checkpoint.
        retry_failed: whether jobs that failed in an earlier run are tried again.
    """

    stores: Stores
    show: Show
    command: str
    stop: Callable[[], bool] = lambda: False
    retry_failed: bool = False

    def run(self, plan: Plan, engine: Engine | None = None) -> BenchmarkRunResult:
        """Run all jobs of a plan and record what each is for. A repeated run continues its own record.

        Args:
            engine: does the tasks; this process if None.
        """
        if any(unit.tuning.searches for unit in plan.units):
            open_storage(self.stores.storage)  # a wrong address is reported before hours of training
        worker = self.worker(plan)
        progress = _Progress(self, plan)

        def left(tasks: list[Task]) -> list[Task]:
            """The tasks that are not done yet; those done before are recorded here, without an engine."""
            open_tasks = []
            for task in tasks:
                done = worker.done_before(task)
                open_tasks += [task] if done is None else left(progress.then(task, done))
            return open_tasks

        try:
            tasks = left(progress.first_tasks())
            if tasks:
                notes = (overlooked_gpu(unit.settings.train) for unit in plan.units)
                for note in dict.fromkeys(filter(None, notes)):
                    self.show(Said(note))
                (engine or Inline(worker)).run(tasks, lambda task, done: left(progress.then(task, done)))
        except Unavailable:  # the record stays open: perhaps its store is what is unavailable
            raise
        except BaseException:
            progress.close("KILLED")
            raise
        progress.close()
        return progress.result

    def say(self, text: str) -> None:
        """Show a line to the user."""
        self.show(Said(text))

    @property
    def locks(self) -> Locks:
        """The locks of jobs and trials."""
        return self.stores.locks(self.say, self.stop)

    def worker(self, plan: Plan) -> Worker:
        """A worker in this process."""
        return Worker(plan, self.stores, self.show, self.stop, self.retry_failed)

    def lost(self, plan: Plan, task: Task, error: str) -> TaskResult | None:
        """The result of a task that could not be done at all: its jobs are recorded as failed.

        Returns:
            None for a search that continues: one trial was to blame.
        """
        if isinstance(task, Search):
            return self._lost_search(unit_of(plan, task), task, error)
        if isinstance(task, Confirm):
            self._record_lost(task.job(unit_of(plan, task)), error)
            return TaskResult()
        jobs = task.jobs(unit_of(plan, task), plan.run.stages)
        unfinished = [job for job in jobs if not self.stores.tracker.by_job_key([job.key])]
        for job in unfinished:
            self._record_lost(job, error)
        return TaskResult(
            [entry_of(JobResult(job, "failed", error=error), task.variant) for job in unfinished]
        )

    def _lost_search(self, unit: Unit, task: Search, error: str) -> TaskResult | None:
        study = study_of(unit, self.stores.storage)
        values = study.blame(error, StudyLocks(self.locks, study.name))
        if values is None:
            return TaskResult() if task.slot > 0 else TaskResult([failed_search(unit, error)])
        for job in trial_jobs(unit, values):
            self._record_lost(job, error)
        return None

    def _record_lost(self, job: Job, error: str) -> None:
        """Close the runs of a job whose process is gone; the next benchmark run tries it again."""
        for run in self.stores.tracker.find(status="RUNNING", kind=Kind.JOB, job_key=job.key):
            self.stores.tracker.tag(run.run_id, {Tag.OUTCOME: "lost", Tag.ERROR: error})
            self.stores.tracker.finish(run.run_id, "FAILED")

    def open_run(
        self, identity: Mapping[str, str], name: str, tags: Mapping[str, str], parent: str | None = None
    ) -> str:
        """The MLflow run with this identity, opened again or new; one for two simultaneous commands."""
        tracker = self.stores.tracker
        with self.locks.alone("calls"):
            found = tracker.find(parent=parent, **identity)
            if not found:
                return tracker.start(name, {**identity, **tags}, parent)
            tracker.reopen(found[0].run_id)
            return found[0].run_id


class _Progress:
    """What of a plan is done, and which tasks that makes possible; keeps the record of the benchmark run."""

    def __init__(self, runner: Runner, plan: Plan) -> None:
        self.runner, self.plan, self.tracker, self.units = runner, plan, runner.stores.tracker, plan.units
        self.beside = Beside(runner.say)
        about = {Tag.COMMAND: runner.command, Tag.REVISION: git_revision()}
        about |= {Tag.DATASET: plan.run.dataset, Tag.MODE: plan.mode}
        identity = {Tag.KIND: Kind.BENCHMARK_RUN, Tag.RUN_KEY: plan.key}
        run_id = runner.open_run(identity, run_name(plan), about)
        with self.beside(Artifact.CONFIG):
            self.tracker.log_text(run_id, plan.run.as_yaml(), Artifact.CONFIG)
        self.result = BenchmarkRunResult(run_id)
        self.means: dict[tuple[int, str], Means] = {}
        self.parents = [self._open_method(index) for index in range(len(plan.units))]
        self._describe()
        self.open_tasks = [0] * len(plan.units)
        self.confirming: dict[tuple[int, int], tuple[TuningResult, dict[tuple[int, int], float | None]]] = {}
        """By unit and study a search that is over, and what confirms it: validation HMs by trial and
        repetition."""
        self.logged = time.monotonic()

    def _describe(self) -> None:
        with self.beside("the benchmark run's description"):
            note = run_note(
                self.plan, self.runner.command, self.parents, self.tracker.experiment_id, self.means
            )
            self.tracker.tag(self.result.run_id, {Tag.DESCRIPTION: note})

    def _open_method(self, index: int) -> str:
        unit = self.units[index]
        identity = {**unit.identity(), Tag.KIND: Kind.METHOD, Tag.PRESET: unit.preset or ""}
        tags = {**unit_tags(unit), Tag.KIND: Kind.METHOD}
        with self.beside(f"the description of {unit.title}"):
            tags[Tag.DESCRIPTION] = method_note(unit, self.plan.run, {}, index)
        return self.runner.open_run(identity, unit.title, tags, self.result.run_id)

    def first_tasks(self) -> list[Task]:
        """The tasks that need no result of others."""
        tasks: list[Task] = []
        for index, unit in enumerate(self.units):
            if not self.plan.tune_only:
                tasks += self._repetitions(index, unit.variant, None)
            if unit.tuning.searches:
                tasks += self._searches(index)
        return self._opened(tasks)

    def _repetitions(
        self, index: int, variant: str, values: Mapping[str, object] | None, study: int = 0
    ) -> list[Task]:
        repetitions = self.units[index].of_study(study).repetitions
        return [Repetition(index, self.parents[index], variant, r, values, study) for r in repetitions]

    def _searches(self, index: int) -> list[Task]:
        unit = self.units[index]
        slots = min(unit.tuning.parallel, unit.tuning.trials or unit.tuning.parallel)
        return [
            Search(index, self.parents[index], slot, study)
            for study in range(unit.studies)
            for slot in range(slots)
        ]

    def _confirmations(self, task: Search, tuning: TuningResult) -> list[Task]:
        """The trainings that confirm a search."""
        unit = unit_of(self.plan, task)
        self.confirming[task.unit, task.study] = tuning, {}
        trainings = [(c, r) for c in tuning.candidates for r in unit.confirming]
        self.runner.show(Skipped(trainings_that_confirm(unit) - len(trainings)))  # too few trials succeeded
        return [
            Confirm(task.unit, task.parent, place, c.number, c.values, repetition, task.study)
            for place, (c, repetition) in enumerate(trainings)
        ]

    def _confirmed(self, task: Confirm, done: TaskResult) -> list[Task]:
        """Take the result of a training that confirms a search; after the last one, choose."""
        unit, (tuning, hms) = unit_of(self.plan, task), self.confirming[task.unit, task.study]
        hms[task.number, task.repetition] = done.hm
        if len(hms) < len(tuning.candidates) * len(unit.confirming):
            return []
        found = confirm_candidates(unit.confirming, tuning.candidates, lambda c, r: hms[c.number, r])
        if found is None:
            error = "every trial that was to confirm the search failed"
            self.result.by_task[task.order] = [failed_search(unit, error)]
            return []
        return self._tuned(task, replace(tuning, confirmation=found))

    def _tuned(self, task: Search | Confirm, tuning: TuningResult) -> list[Task]:
        """Record what a search came to; returns the repetitions with its hyperparameters."""
        title = unit_of(self.plan, task).title
        self.result.studies.append(tuning)
        if tuning.confirmation is not None:
            self.runner.say(f"{title}: {tuning.confirmation.sentence()}")
        with self.beside(f"what confirms the search of {title}"):
            log_confirmation(self.tracker, task.parent, tuning, task.study)
        if self.plan.tune_only:
            return []
        return self._repetitions(task.unit, "tuned", tuning.chosen, task.study)

    def then(self, task: Task, done: TaskResult) -> list[Task]:
        """Record the result of a task; returns the tasks that it makes possible."""
        unit, tasks = self.units[task.unit], list[Task]()
        self.result.by_task[task.order] = done.entries

        # A search is followed by the trainings that confirm it, and these by the tuned repetitions.
        if isinstance(task, Confirm):
            tasks = self._confirmed(task, done)
        elif isinstance(task, Search) and done.tuning is not None:
            if unit.tuning.confirm:
                tasks = self._confirmations(task, done.tuning)
            if not tasks:
                tasks = self._tuned(task, done.tuning)
        self._opened(tasks)
        self.open_tasks[task.unit] -= 1

        # A method without open tasks gets its means and is closed.
        if self.open_tasks[task.unit] == 0:
            with self.beside(f"the means of {unit.title}"):
                self._summarise(task.unit)
            failed = any(_is_of(e, unit) for e in self.result.failed)
            self.tracker.finish(task.parent, "FAILED" if failed else "FINISHED")
        if self.open_tasks[task.unit] == 0 or time.monotonic() > self.logged + LOG_SECONDS:
            with self.beside(Artifact.JOBS):
                self._log_entries()
        return tasks

    def _opened(self, tasks: list[Task]) -> list[Task]:
        for task in tasks:
            self.open_tasks[task.unit] += 1
        return tasks

    def close(self, status: Literal["KILLED"] | None = None) -> None:
        """End the record of the benchmark run; ``KILLED`` if it was stopped."""
        with self.beside(Artifact.JOBS) if status else nullcontext():  # without the list there is no report
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
        """Log means over seeds as metrics of the method's run, for MLflow's comparison of methods."""
        unit, parent = self.units[index], self.parents[index]
        mine = [e for e in self.result.entries if e.job_key and _is_of(e, unit)]
        stage = max((e.stage for e in mine), default=1)
        entries, prefix = [e for e in mine if e.stage == stage], Metric.TEST if stage == 2 else Metric.BEST
        runs = self.tracker.by_job_key(e.job_key for e in entries)
        found: dict[bool, Means] = {}
        for variant in dict.fromkeys(e.variant for e in entries):
            done = [(e, runs[e.job_key]) for e in entries if e.variant == variant and e.job_key in runs]
            if done:
                found[variant == "tuned"] = means = _means(done)
                if stage == 2:
                    self.means[index, variant] = means
        metrics = method_metrics(found.get(False), found.get(True), prefix)
        for tuned, means in found.items() if stage == 2 else ():
            shown = {n: v for n, v in means.mean.items() if n.startswith((Metric.TEST, Metric.CALIBRATION))}
            metrics |= {(Metric.TUNED if tuned else "") + name: value for name, value in shown.items()}
        if metrics:
            self.tracker.log_metrics(parent, metrics)
            self.tracker.tag(parent, {Tag.DESCRIPTION: method_note(unit, self.plan.run, self.means, index)})


def _means(done: Sequence[tuple[JobEntry, RunRecord]]) -> Means:
    """Over jobs or, if these follow several searches, over the searches."""
    by_study: dict[int, list[Mapping[str, float]]] = {}
    for entry, run in done:
        by_study.setdefault(entry.study, []).append(run.metrics)
    if len(by_study) == 1:
        return Means.of(next(iter(by_study.values())))
    return Means.of([Means.of(metrics).mean for metrics in by_study.values()])


def _is_of(entry: JobEntry, unit: Unit) -> bool:
    return all(getattr(entry, key) == value for key, value in unit.identity().items())
