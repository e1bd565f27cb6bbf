"""Does one task, in this process or in one of many: a repetition of a method, its hyperparameter search, or a
training that confirms the search.

A finished job is not done again, an interrupted one continues, and a failure is recorded. The tracking store
holds all of this. Checkpoints are in ``runs/jobs/<key>`` until their job is finished.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmark.errors import JobError, Terminated, Unavailable, UsageError, words_of
from benchmark.inspection import inspect
from benchmark.method import EpochRecord, Method
from benchmark.protocol.border import place_of
from benchmark.protocol.stages import StageOne, stage_one, stage_two
from benchmark.protocol.training import clear_checkpoints
from benchmark.running.descriptions import job_name, job_note
from benchmark.running.events import JobEnded, JobStarted, Said, Show, Skipped
from benchmark.running.jobs import Job, Plan
from benchmark.running.memory import peak_memory_mb, restart_peak_memory
from benchmark.running.provenance import environment, processor, unit_tags
from benchmark.running.records import EpochLog, describe, log_map, log_stage_one, log_stage_two
from benchmark.running.stores import Stores
from benchmark.running.studies import log_study, study_of
from benchmark.running.tasks import (
    Confirm,
    JobLine,
    JobResult,
    Repetition,
    Search,
    Task,
    TaskResult,
    entry_of,
    failed_search,
    label_of,
    lock_of,
    trial_jobs,
    unit_of,
)
from benchmark.system.beside import Beside
from benchmark.system.locks import Locks
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Artifact, Kind, Metric, Tag
from benchmark.tuning.locks import StudyLocks
from benchmark.tuning.trial import Pruned, Trial
from benchmark.weights.own import write_weights_record


@dataclass(frozen=True)
class Worker:
    """Does tasks of a plan. The runner has one for its own process; each further process has its own.

    Args:
        plan: the work.
        stores: where results, studies and checkpoints are.
        show: takes what happens.
        stop: asked after each epoch, once its checkpoint is written; if true, KeyboardInterrupt is raised.
        retry_failed: whether jobs that failed before are tried again.
    """

    plan: Plan
    stores: Stores
    show: Show
    stop: Callable[[], bool] = lambda: False
    retry_failed: bool = False

    def do(self, task: Task) -> TaskResult:
        """Do a task.

        Raises:
            KeyboardInterrupt: it was stopped.
        """
        if isinstance(task, Search):
            return self._search(task)
        return self._confirm(task) if isinstance(task, Confirm) else self._repetition(task)

    def done_before(self, task: Task) -> TaskResult | None:
        """The result of a task that an earlier run finished; None if something of it is left to do."""
        unit = unit_of(self.plan, task)
        if isinstance(task, Search):
            return self._search(task) if study_of(unit, self.stores.storage).is_over() else None
        if isinstance(task, Confirm):
            job = task.job(unit)
            done = self._find_done(job, self._runs(job))
            if done is None:
                return None
            self._show_end(done, task.label(job))
            return _confirmed(done)
        jobs = task.jobs(unit, self.plan.run.stages)
        found = [self._find_done(job, self._runs(job)) for job in jobs]
        results = [result for result in found if result is not None]
        if len(results) < len(found):
            return None
        for result in results:
            clear_checkpoints(self.stores.folder(result.job))
            self._show_end(result, label_of(result.job, task.variant))
        return TaskResult([entry_of(result, task.variant) for result in results])

    def _repetition(self, task: Repetition) -> TaskResult:
        unit, stages, entries = unit_of(self.plan, task), self.plan.run.stages, []
        tags = {Tag.TUNED: str(task.variant == "tuned").lower(), Tag.VARIANT: task.variant}
        second = task.final_job(unit)
        first = second.first_stage()

        # Stage 1 is found or trained; with --stages 2 it is only found.
        found = self.run_job(first, task.parent, tags, only_find=stages == "2")
        if stages != "2" or found.state == "not run":
            entries.append(entry_of(found, task.variant))

        # Stage 2 uses the epoch and the beta of stage 1.
        if stages != "1":
            if found.result:
                result = self.run_job(second, task.parent, tags, first=StageOne.from_dict(found.result))
            else:
                why = f"stage 1 is {found.state}; run it with --stages 1 or all"
                result = JobResult(second, "not run", error=why)
            entries.append(entry_of(result, task.variant))
        return TaskResult(entries)

    def _confirm(self, task: Confirm) -> TaskResult:
        """Train a trial again with another seed, unless a repetition has the same training."""
        job = task.job(unit_of(self.plan, task))
        tags = {Tag.TUNED: "false", Tag.VARIANT: "confirmation", Tag.CONFIRMS: str(task.number)}
        return _confirmed(self.run_job(job, task.parent, tags, label=task.label(job)))

    def _search(self, task: Search) -> TaskResult:
        unit = unit_of(self.plan, task)
        study = study_of(unit, self.stores.storage)
        locks = StudyLocks(self.locks, study.name)
        if task.slot == 0:
            finished = study.finished_trials()
            self.say(f"{unit.title}: tuning, {finished} trials done of {unit.tuning.budget}")
            self.show(Skipped(finished * unit.tuning.seeds))

        def objective(trial: Trial, values: Mapping[str, Any]) -> float:
            return self._trial(task, study.name, trial, values)

        # Further processes only help; the first one finishes the study and records it.
        if task.slot > 0:
            study.help(objective, locks)
            return TaskResult()
        if self.retry_failed:
            study.forgive()
        try:
            tuned = study.run(objective, locks)
        except JobError as error:
            self.say(f"{unit.title}: tuning failed: {error}")
            return TaskResult([failed_search(unit, str(error))])
        beside = self._beside(unit.title)
        with beside("the record of the search"):
            epochs = unit.settings.train.epochs
            log_study(self.stores.tracker, task.parent, study, tuned, unit, epochs, beside)
        with beside("what is missing of the search"):
            self.stores.tracker.tag(task.parent, beside.tags())
        return TaskResult(tuning=tuned)

    def _trial(self, task: Search, study: str, trial: Trial, values: Mapping[str, Any]) -> float:
        """Train stage 1 with searched hyperparameters; returns the mean validation HM over seeds, a fraction.

        Raises:
            Pruned: the study has no hope for the trial.
            JobError: the job failed, or the method refuses the values.
        """
        unit = unit_of(self.plan, task)
        label = f"{unit.title} · trial {trial.number}"
        try:
            jobs = trial_jobs(unit, values)
        except JobError as error:
            self.show(JobEnded(JobLine(label, "failed", {}, str(error))))
            raise

        # The study hears of the epochs of all seeds one after the other, with the mean of the seeds so far.
        hms: list[float] = []
        epochs = jobs[0].settings.train.epochs

        def report(record: EpochRecord) -> None:
            step = len(hms) * epochs + record.epoch
            try:
                hm = (sum(hms) + record.validation["hm"]) / (len(hms) + 1)
                trial.report(step, hm, record.seconds)
            except Pruned:
                # after its last epoch nothing is left to save
                if step + 1 < len(jobs) * epochs:
                    raise

        tags = {Tag.TUNED: "false", Tag.VARIANT: "trial", Tag.TRIAL: str(trial.number), Tag.STUDY: study}
        for job in jobs:
            name = f"{label} · seed {len(hms)}" if len(jobs) > 1 else label
            try:
                result = self.run_job(job, task.parent, tags, on_epoch=report, label=name)
            except Pruned:
                self.show(Skipped(len(jobs) - len(hms)))
                raise
            if result.state == "failed":
                raise JobError(result.error)
            hms.append(float(result.result["validation"]["hm"]))
        return sum(hms) / len(hms)

    def say(self, text: str) -> None:
        """Show a line to the user."""
        self.show(Said(text))

    @property
    def locks(self) -> Locks:
        """The locks of jobs and trials."""
        return self.stores.locks(self.say, self.stop)

    def _beside(self, label: str) -> Beside:
        return Beside(lambda text: self.say(f"{label}: {text}"))

    def run_job(
        self,
        job: Job,
        parent: str,
        tags: Mapping[str, str],
        *,
        first: StageOne | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
        only_find: bool = False,
        label: str = "",
    ) -> JobResult:
        """Run a job, continue an interrupted one, or find that it is done.

        Raises:
            Pruned: from ``on_epoch``.
        """
        folder, variant = self.stores.folder(job), tags[Tag.VARIANT]
        label = label or label_of(job, variant)
        with self.locks.alone(lock_of(job)):
            runs = self._runs(job)
            result = self._find_done(job, runs)
            failed = None if result or self.retry_failed else _failed_before(job, runs)
            if result is not None:
                clear_checkpoints(folder)
                if on_epoch is not None:
                    for record in result.result["history"]:
                        on_epoch(EpochRecord(**record))
            elif failed is not None:
                result = failed
            elif only_find:
                lost = bool(runs) and runs[0].status == "FAILED"
                why = f"failed: {runs[0].tags.get(Tag.ERROR)}" if lost else "not run yet"
                result = JobResult(job, "not run", error=why)
            else:
                beside = self._beside(label)
                run_id = self._job_run(job, runs, parent, tags, beside)
                result = self._train(job, run_id, first, on_epoch, label, variant, beside)
        self._show_end(result, label)
        return result

    def _runs(self, job: Job) -> list[RunRecord]:
        """All runs of a job, newest first."""
        return self.stores.tracker.find(kind=Kind.JOB, job_key=job.key)

    def _show_end(self, result: JobResult, label: str) -> None:
        self.show(JobEnded(JobLine(label, result.state, result.result, result.error)))

    def _find_done(self, job: Job, runs: Sequence[RunRecord]) -> JobResult | None:
        """The finished job among its runs, if its result can be read."""
        for run in (r for r in runs if r.status == "FINISHED"):
            try:
                return JobResult(job, "reused", self.stores.tracker.read_json(run.run_id, Artifact.RESULT))
            except UsageError as error:
                self.say(
                    f"{job.title}: done before, but its result cannot be read, so it runs again ({error})"
                )
        return None

    def _job_run(
        self, job: Job, runs: Sequence[RunRecord], parent: str, tags: Mapping[str, str], beside: Beside
    ) -> str:
        """A run for the job: the interrupted one of its runs, or a new one with all settings logged."""
        interrupted = [r for r in runs if r.status != "FINISHED" and not _pruned_before(r, tags)]
        if interrupted:
            self.stores.tracker.reopen(interrupted[0].run_id)
            earlier = Beside(self.say).tags(interrupted[0].tags)
            self.stores.tracker.tag(interrupted[0].run_id, {Tag.OUTCOME: "", Tag.ERROR: "", **earlier})
            if Tag.DESCRIBED not in interrupted[0].tags:
                describe(self.stores.tracker, interrupted[0].run_id, job, beside)
            return interrupted[0].run_id
        identity = {**unit_tags(job.unit), Tag.KIND: Kind.JOB, Tag.JOB_KEY: job.key}
        identity |= {Tag.STAGE: str(job.stage), Tag.SEED: str(job.seed)}
        identity |= {Tag.REPETITION: str(job.repetition), Tag.BASE_SEED: str(job.unit.base_seed)}
        about = {}
        with beside("the description"):
            about = {Tag.DESCRIPTION: job_note(job, tags[Tag.VARIANT])}
        name = job_name(job, tags[Tag.VARIANT], tags.get(Tag.TRIAL), tags.get(Tag.CONFIRMS))
        run_id = self.stores.tracker.start(name, {**identity, **tags, **environment(), **about}, parent)
        describe(self.stores.tracker, run_id, job, beside)
        return run_id

    def _train(
        self,
        job: Job,
        run_id: str,
        first: StageOne | None,
        on_epoch: Callable[[EpochRecord], None] | None,
        title: str,
        variant: str,
        beside: Beside,
    ) -> JobResult:
        """Train and record a job.

        Args:
            first: the result of stage 1 for a job of stage 2; None for a job of stage 1.
            on_epoch: hears of each epoch and may raise Pruned.
        """
        tracker, folder = self.stores.tracker, self.stores.folder(job)
        listener = EpochLog(tracker, run_id, self.show, *([on_epoch] if on_epoch else []), self._stop_after)
        epochs = job.settings.train.epochs if first is None else first.best_epoch + 1
        self.show(JobStarted(title, epochs, job.settings.train.batches_per_epoch))
        restart_peak_memory()

        # The job itself: an error here is the job's, unless something outside it ended it.
        try:
            if first is None:
                found = stage_one(job.experiment(), folder, job.key, listener)
                listener.send(wait=True)
                result = {**found.as_dict(), "history": [asdict(r) for r in listener.history]}
                log_stage_one(tracker, run_id, found)
            else:
                tested = stage_two(job.experiment(), first, folder, job.key, listener)
                explained = inspect(tested, with_map=job.repetition == 0)
                listener.send(wait=True)
                result = log_stage_two(tracker, run_id, tested, explained, title, job.seed, beside)
            tracker.log_json(run_id, {**result, "processor": processor()}, Artifact.RESULT)
        except Pruned:
            tracker.tag(run_id, {Tag.OUTCOME: "pruned"})
            tracker.finish(run_id, "KILLED")
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except KeyboardInterrupt:
            tracker.finish(run_id, "KILLED")
            raise
        except (Unavailable, Terminated):  # not the job's fault: its run stays open for the next command
            raise
        except (Exception, SystemExit) as error:  # a failure of a method is recorded, and the other jobs run
            text = text_of(error, job.unit.method)
            tracker.tag(run_id, {Tag.OUTCOME: "failed", Tag.ERROR: text[:4000]})
            with beside(Artifact.TRACEBACK):
                tracker.log_text(run_id, traceback.format_exc(), Artifact.TRACEBACK)
            tracker.finish(run_id, "FAILED")
            return JobResult(job, "failed", error=text)

        # What is written beside the result: a failure here is recorded, and the result stays.
        with beside("duration and memory"):
            seconds = sum(r.seconds for r in listener.history)
            tracker.log_metrics(run_id, {Metric.DURATION: seconds, Metric.PEAK_MEMORY: peak_memory_mb()})
        if first is not None:
            with beside("the map of embeddings"):
                log_map(tracker, run_id, explained)
        with beside("config.json next to the weights"):
            write_weights_record(folder, job.identity(), job.key, result)
        about = {}
        with beside("the description"):
            about = {Tag.DESCRIPTION: job_note(job, variant, result)}

        # Only now is the job done.
        weights = str(folder / ("best.pt" if first is None else "final.pt"))
        tracker.tag(run_id, {Tag.OUTCOME: "done", Tag.WEIGHTS: weights, **about, **beside.tags()})
        tracker.finish(run_id)
        clear_checkpoints(folder)
        return JobResult(job, "done", result)

    def _stop_after(self, record: EpochRecord) -> None:
        """Stop after an epoch if the user asked for it."""
        if self.stop():
            raise KeyboardInterrupt


def _confirmed(done: JobResult) -> TaskResult:
    return TaskResult(hm=float(done.result["validation"]["hm"]) if done.result else None)


def text_of(error: BaseException, method: type[Method]) -> str:
    """An error of a job in one line, with the place in the method's own file if it arose there."""
    if isinstance(error, JobError):
        return str(error)
    place = place_of(error, method)
    return f"{type(error).__name__}: {words_of(error)}" + (f" ({method.title}: {place})" if place else "")


def _failed_before(job: Job, runs: Sequence[RunRecord]) -> JobResult | None:
    """The job as it failed before, unless it was started again since.

    Args:
        runs: of the job, newest first.
    """
    if not runs or runs[0].tags.get(Tag.OUTCOME) != "failed":
        return None
    error = f"{runs[0].tags.get(Tag.ERROR)} (in an earlier run; --retry-failed tries it again)"
    return JobResult(job, "failed", error=error)


def _pruned_before(run: RunRecord, tags: Mapping[str, str]) -> bool:
    """Whether a run is that of another trial with the same settings that was pruned.

    Args:
        tags: of the job to do. A run of the same trial was interrupted before the study knew of its end.
    """
    return run.tags.get(Tag.OUTCOME) == "pruned" and any(
        run.tags.get(k) != tags.get(k) for k in (Tag.STUDY, Tag.TRIAL)
    )
