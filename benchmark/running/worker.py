"""Does a piece of a call's work, in this process or in one of many: a repetition of a method, or the search of its settings.

What is done is not done again, what was interrupted goes on, what fails is recorded. The record of all this is the tracking
store. Checkpoints live in ``runs/jobs/<key>`` until their job is finished.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import JobError, Terminated, Unavailable, UsageError, words_of
from benchmark.inspection import inspect
from benchmark.method import EpochRecord, Method
from benchmark.protocol.border import place_of
from benchmark.protocol.stages import StageOne, stage_one, stage_two
from benchmark.protocol.training import clear_checkpoints
from benchmark.running.descriptions import job_name, job_note
from benchmark.running.jobs import Job, Stages, Unit
from benchmark.running.memory import peak_memory_mb, restart_peak_memory
from benchmark.running.provenance import environment, processor, unit_tags
from benchmark.running.records import EpochLog, describe, log_map, log_stage_one, log_stage_two
from benchmark.running.studies import log_study, study_of, trial_job
from benchmark.running.tasks import (
    Display,
    Done,
    Ended,
    Outcome,
    Repetition,
    Search,
    Task,
    entry_of,
    failed_search,
    label_of,
    lock_of,
)
from benchmark.system.beside import Beside
from benchmark.system.locks import Locks
from benchmark.tracking.schema import Artifact, Kind, Metric, Tag
from benchmark.tracking.tracker import RunRecord, Tracker
from benchmark.tuning.locks import StudyLocks
from benchmark.tuning.trial import Pruned, Trial
from benchmark.weights.own import write_weights_record


@dataclass(frozen=True)
class Worker:
    """Does tasks of a call.

    Args:
        units: of the call.
        stages: of the call.
        tracker: the record of results.
        runs_dir: where checkpoints go.
        storage: address of the Optuna storage.
        display: what the user sees.
        stop: asked after each epoch, once its checkpoint is written; where it says yes, KeyboardInterrupt is raised.
        retry_failed: whether jobs that failed before are tried again.
    """

    units: Sequence[Unit]
    stages: Stages
    tracker: Tracker
    runs_dir: Path
    storage: str
    display: Display
    stop: Callable[[], bool] = lambda: False
    retry_failed: bool = False

    def do(self, task: Task) -> Done:
        """Do a task.

        Raises:
            KeyboardInterrupt: it was stopped.
        """
        return self._search(task) if isinstance(task, Search) else self._repetition(task)

    def done_before(self, task: Task) -> Done | None:
        """What a task gave that an earlier call did; None where something of it is left to do."""
        unit = self.units[task.unit]
        if isinstance(task, Search):
            return self._search(task) if study_of(unit, self.storage).is_over() else None
        found = [self._find_done(job, self._runs(job)) for job in task.jobs(unit, self.stages)]
        outcomes = [outcome for outcome in found if outcome is not None]
        if len(outcomes) < len(found):
            return None
        for outcome in outcomes:
            clear_checkpoints(self._folder(outcome.job))
            self._show_end(outcome, label_of(outcome.job, task.variant))
        return Done([entry_of(outcome, task.variant) for outcome in outcomes])

    def _repetition(self, task: Repetition) -> Done:
        unit, entries = self.units[task.unit], []
        tags = {Tag.TUNED: str(task.variant == "tuned").lower(), Tag.VARIANT: task.variant}
        second = task.final_job(unit)
        first = second.first_stage()
        found = self.run_job(first, task.parent, tags, only_find=self.stages == "2")
        if self.stages != "2" or found.state == "missing":
            entries.append(entry_of(found, task.variant))
        if self.stages != "1":
            outcome = (
                self.run_job(second, task.parent, tags, first=StageOne.from_dict(found.result))
                if found.result
                else Outcome(second, "missing", error=f"stage 1 is {found.state}; run it with --stages 1 or all")
            )
            entries.append(entry_of(outcome, task.variant))
        return Done(entries)

    def _search(self, task: Search) -> Done:
        unit = self.units[task.unit]
        study = study_of(unit, self.storage)
        turns = StudyLocks(self.locks, study.name)
        if task.lane == 0:
            finished = study.finished_trials()
            self.display.say(f"{unit.title}: tuning, {finished} trials done of {unit.tuning.budget}")
            self.display.passed(finished)

        def objective(trial: Trial, values: Mapping[str, Any]) -> float:
            label = f"{unit.title} · trial {trial.number}"
            try:
                job = trial_job(unit, values)
            except JobError as error:
                self.display.end(Ended(label, "failed", {}, str(error)))
                raise
            tags = {Tag.TUNED: "false", Tag.VARIANT: "trial", Tag.TRIAL: str(trial.number), Tag.STUDY: study.name}

            def report(record: EpochRecord) -> None:
                try:
                    trial.report(record.epoch, record.validation["hm"], record.seconds)
                except Pruned:
                    if record.epoch + 1 < job.settings.train.epochs:  # after its last epoch nothing is left to save
                        raise

            try:
                outcome = self.run_job(job, task.parent, tags, on_epoch=report, label=label)
            except Pruned:
                self.display.passed(1)
                raise
            if outcome.state == "failed":
                raise JobError(outcome.error)
            return float(outcome.result["validation"]["hm"])

        if task.lane > 0:
            study.help(objective, turns)
            return Done()
        if self.retry_failed:
            study.forgive()
        try:
            tuned = study.run(objective, turns)
        except JobError as error:
            self.display.say(f"{unit.title}: tuning failed: {error}")
            return Done([failed_search(unit, str(error))])
        beside = self._beside(unit.title)
        with beside("the record of the search"):
            log_study(self.tracker, task.parent, study, tuned, unit.title, unit.settings.train.epochs, beside)
        with beside("what is missing of the search"):
            self.tracker.tag(task.parent, beside.tags())
        return Done(tuning=tuned)

    @property
    def locks(self) -> Locks:
        """Who works on what."""
        return Locks(self.runs_dir, self.display.say, self.stop)

    def _beside(self, label: str) -> Beside:
        return Beside(lambda text: self.display.say(f"{label}: {text}"))

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
    ) -> Outcome:
        """Run a job, carry an interrupted one on, or find that it is done.

        Raises:
            Pruned: from ``on_epoch``.
        """
        folder, variant = self._folder(job), tags[Tag.VARIANT]
        with self.locks.alone(lock_of(job)):
            runs = self._runs(job)
            outcome = self._find_done(job, runs)
            failed = None if outcome or self.retry_failed else _failed_before(job, runs)
            if outcome is not None:
                clear_checkpoints(folder)
                if on_epoch is not None:
                    for record in outcome.result["history"]:
                        on_epoch(EpochRecord(**record))
            elif failed is not None:
                outcome = failed
            elif only_find:
                lost = bool(runs) and runs[0].status == "FAILED"
                outcome = Outcome(job, "missing", error=f"failed: {runs[0].tags.get(Tag.ERROR)}" if lost else "not run yet")
            else:
                beside = self._beside(label or label_of(job, variant))
                run_id = self._job_run(job, runs, parent, tags, beside)
                outcome = self._train(job, run_id, folder, first, on_epoch, label or label_of(job, variant), variant, beside)
        self._show_end(outcome, label or label_of(job, variant))
        return outcome

    def _folder(self, job: Job) -> Path:
        return self.runs_dir / "jobs" / job.key

    def _runs(self, job: Job) -> list[RunRecord]:
        """All runs of a job, newest first."""
        return self.tracker.find(kind=Kind.JOB, job_key=job.key)

    def _show_end(self, outcome: Outcome, label: str) -> None:
        self.display.end(Ended(label, outcome.state, outcome.result, outcome.error))

    def _find_done(self, job: Job, runs: Sequence[RunRecord]) -> Outcome | None:
        """The finished job among its runs, if its result can be read."""
        for run in (r for r in runs if r.status == "FINISHED"):
            try:
                return Outcome(job, "reused", self.tracker.read_json(run.run_id, Artifact.RESULT))
            except UsageError as error:
                self.display.say(f"{job.title}: done before, but its result is lost, so it is run again ({error})")
        return None

    def _job_run(self, job: Job, runs: Sequence[RunRecord], parent: str, tags: Mapping[str, str], beside: Beside) -> str:
        """A run for the job: the interrupted one of its runs, or a new one with all settings logged."""
        interrupted = [r for r in runs if r.status != "FINISHED" and not _pruned_before(r, tags)]
        if interrupted:
            self.tracker.reopen(interrupted[0].run_id)
            earlier = Beside(self.display.say).tags(interrupted[0].tags)
            self.tracker.tag(interrupted[0].run_id, {Tag.OUTCOME: "", Tag.ERROR: "", **earlier})
            if Tag.DESCRIBED not in interrupted[0].tags:
                describe(self.tracker, interrupted[0].run_id, job, beside)
            return interrupted[0].run_id
        identity = {**unit_tags(job.unit), Tag.KIND: Kind.JOB, Tag.JOB_KEY: job.key, Tag.STAGE: str(job.stage)}
        seeds = {Tag.SEED: str(job.seed), Tag.REPETITION: str(job.repetition), Tag.BASE_SEED: str(job.unit.base_seed)}
        about = {}
        with beside("the description"):
            about = {Tag.DESCRIPTION: job_note(job, tags[Tag.VARIANT])}
        name = job_name(job, tags[Tag.VARIANT], tags.get(Tag.TRIAL))
        run_id = self.tracker.start(name, {**identity, **seeds, **tags, **environment(), **about}, parent)
        describe(self.tracker, run_id, job, beside)
        return run_id

    def _train(
        self,
        job: Job,
        run_id: str,
        folder: Path,
        first: StageOne | None,
        on_epoch: Callable[[EpochRecord], None] | None,
        title: str,
        variant: str,
        beside: Beside,
    ) -> Outcome:
        def after_epoch(record: EpochRecord) -> None:
            if on_epoch is not None:
                on_epoch(record)
            if self.stop():
                raise KeyboardInterrupt

        listener = EpochLog(self.tracker, run_id, self.display, after_epoch)
        epochs = job.settings.train.epochs if first is None else first.best_epoch + 1
        self.display.start(title, epochs, job.settings.train.batches_per_epoch)
        restart_peak_memory()
        try:
            if first is None:
                found = stage_one(job.experiment(), folder, job.key, listener)
                listener.send(wait=True)
                result = {**found.as_dict(), "history": [asdict(r) for r in listener.history]}
                log_stage_one(self.tracker, run_id, found)
            else:
                tested = stage_two(job.experiment(), first, folder, job.key, listener)
                explained = inspect(tested, with_map=job.repetition == 0)
                listener.send(wait=True)
                result = log_stage_two(self.tracker, run_id, tested, explained, title, job.seed, beside)
            self.tracker.log_json(run_id, {**result, "processor": processor()}, Artifact.RESULT)
        except Pruned:
            self.tracker.tag(run_id, {Tag.OUTCOME: "pruned"})
            self.tracker.finish(run_id, "KILLED")
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except KeyboardInterrupt:
            self.tracker.finish(run_id, "KILLED")
            raise
        except (Unavailable, Terminated):  # no fault of the job: its run stays open, and it goes on from its checkpoint
            raise
        except (Exception, SystemExit) as error:  # any failure of a method is recorded, and the other jobs go on
            text = text_of(error, job.unit.method)
            self.tracker.tag(run_id, {Tag.OUTCOME: "failed", Tag.ERROR: text[:4000]})
            with beside(Artifact.TRACEBACK):
                self.tracker.log_text(run_id, traceback.format_exc(), Artifact.TRACEBACK)
            self.tracker.finish(run_id, "FAILED")
            return Outcome(job, "failed", error=text)
        with beside("duration and memory"):
            usage = {Metric.DURATION: sum(r.seconds for r in listener.history), Metric.PEAK_MEMORY: peak_memory_mb()}
            self.tracker.log_metrics(run_id, usage)
        if first is not None:
            with beside("the map of embeddings"):
                log_map(self.tracker, run_id, explained)
        with beside("config.json beside the weights"):
            write_weights_record(folder, job.identity(), job.key, result)
        about = {}
        with beside("the description"):
            about = {Tag.DESCRIPTION: job_note(job, variant, result)}
        weights = str(folder / ("best.pt" if first is None else "final.pt"))
        self.tracker.tag(run_id, {Tag.OUTCOME: "done", Tag.WEIGHTS: weights, **about, **beside.tags()})
        self.tracker.finish(run_id)
        clear_checkpoints(folder)
        return Outcome(job, "done", result)


def text_of(error: BaseException, method: type[Method]) -> str:
    """An error of a job in a line; one that arose in the method's own file is named with its place there."""
    if isinstance(error, JobError):
        return str(error)
    place = place_of(error, method)
    return f"{type(error).__name__}: {words_of(error)}" + (f" ({method.title}: {place})" if place else "")


def _failed_before(job: Job, runs: Sequence[RunRecord]) -> Outcome | None:
    """The job as it failed before, unless it was begun again since.

    Args:
        runs: of the job, newest first.
    """
    if not runs or runs[0].tags.get(Tag.OUTCOME) != "failed":
        return None
    return Outcome(job, "failed", error=f"{runs[0].tags.get(Tag.ERROR)} (in an earlier call; --retry-failed tries it again)")


def _pruned_before(run: RunRecord, tags: Mapping[str, str]) -> bool:
    """Whether a run is that of another trial with the same settings, which was pruned.

    Args:
        tags: of the job to do. A run of the same trial was interrupted before the study knew of its end.
    """
    return run.tags.get(Tag.OUTCOME) == "pruned" and any(run.tags.get(k) != tags.get(k) for k in (Tag.STUDY, Tag.TRIAL))
