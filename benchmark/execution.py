"""Runs the jobs of a call: what is done is not done again, what was interrupted goes on, what fails does not stop the rest.

The record of all this is the tracking store. Checkpoints live in ``runs/jobs/<key>`` until their job is finished.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from filelock import FileLock, Timeout

from benchmark.errors import JobError, UsageError
from benchmark.jobs import Call, Job, Unit
from benchmark.method import EpochRecord
from benchmark.protocol import StageOne, stage_one, stage_two
from benchmark.provenance import dump_call, environment, git_revision, peak_memory_mb, unit_tags
from benchmark.records import EpochLog, log_stage_one, log_stage_two, write_weights_record
from benchmark.tracking import RunRecord, Tracker
from benchmark.training import clear_checkpoints
from benchmark.tuning import Pruned, Study, Trial, TuningResult, open_storage

State = Literal["done", "reused", "failed", "missing"]


class Display(Protocol):
    """What a user sees while jobs run."""

    def start(self, title: str, epochs: int, batches: int) -> None:
        """A job starts to train."""

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        """A batch was trained on."""

    def epoch(self, record: EpochRecord) -> None:
        """An epoch is finished and validated."""

    def end(self, outcome: Outcome) -> None:
        """A job ended, or was found done."""

    def say(self, text: str) -> None:
        """A line for the user."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    job: Job
    state: State
    run_id: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    label: str = ""


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


@dataclass
class CallResult:
    """What a call did."""

    run_id: str
    entries: list[Entry] = field(default_factory=list)
    studies: list[TuningResult] = field(default_factory=list)

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
    """

    tracker: Tracker
    runs_dir: Path
    storage: str
    display: Display
    command: str

    def run(self, call: Call, units: list[Unit], *, tune_only: bool = False) -> CallResult:
        """Run all jobs of a call and record what each is for. A repeated or resumed call continues its own record."""
        key = call_key(call, units, tune_only)
        if any(unit.tuning.trials for unit in units):
            open_storage(self.storage)  # a wrong address is told before hours of training
        run_id = self._open_run(
            {"kind": "call", "call_key": key},
            f"benchmark {time.strftime('%Y-%m-%d %H:%M')} · {call.dataset}",
            {"command": self.command, "git_revision": git_revision(), "dataset": call.dataset, "mode": call.mode},
        )
        self.tracker.tag(run_id, **{"mlflow.note.content": f"```\n{self.command}\n```"})
        self.tracker.log_text(run_id, dump_call(call), "call.yaml")
        result = CallResult(run_id)
        try:
            for unit in units:
                self._run_unit(unit, call, result, tune_only)
                self._log_entries(result)
        except BaseException:
            self._log_entries(result)
            self.tracker.finish(run_id, "KILLED")
            raise
        self.tracker.finish(run_id, "FAILED" if result.failed else "FINISHED")
        return result

    def _log_entries(self, result: CallResult) -> None:
        self.tracker.log_json(result.run_id, [asdict(e) for e in result.entries], "jobs.json")

    def _open_run(self, identity: Mapping[str, str], name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        """The run with this identity, opened again, or a new one."""
        found = self.tracker.find(parent=parent, **identity)
        if not found:
            return self.tracker.start(name, {**identity, **tags}, parent)
        self.tracker.reopen(found[0].run_id)
        return found[0].run_id

    def _run_unit(self, unit: Unit, call: Call, result: CallResult, tune_only: bool) -> None:
        tags = {**unit_tags(unit), "kind": "method"}
        identity = {**unit.identity(), "kind": "method", "alias": unit.alias or ""}
        parent = self._open_run(identity, unit.title, tags, result.run_id)
        try:
            if not tune_only:
                self._repetitions(unit, call, result, parent, unit.variant, None)
            if unit.tuning.trials > 0:
                self._tuned(unit, call, result, parent, tune_only)
            self._summarise(parent, result, unit)
        except BaseException:
            self.tracker.finish(parent, "KILLED")
            raise
        mine = [e for e in result.failed if _same_unit(e, unit)]
        self.tracker.finish(parent, "FAILED" if mine else "FINISHED")

    def _repetitions(
        self, unit: Unit, call: Call, result: CallResult, parent: str, variant: str, values: Mapping[str, Any] | None
    ) -> None:
        settings = unit.settings.with_values(values) if values else unit.settings
        tags = {"tuned": str(variant == "tuned").lower(), "variant": variant}
        for repetition in unit.repetitions:
            second = unit.job(2, repetition, settings)
            first = second.first_stage()
            found = self.run_job(first, parent, tags, only_find=call.stages == "2")
            if call.stages != "2" or found.state == "missing":
                result.entries.append(_entry(found, variant))
            if call.stages != "1":
                outcome = (
                    self.run_job(second, parent, tags, first=StageOne.from_dict(found.result))
                    if found.result
                    else Outcome(second, "missing", error=f"stage 1 is {found.state}; run it with --stages 1 or all")
                )
                result.entries.append(_entry(outcome, variant))

    def _tuned(self, unit: Unit, call: Call, result: CallResult, parent: str, tune_only: bool) -> None:
        study = study_of(unit, self.storage)
        self.display.say(f"{unit.title}: tuning, {study.finished_trials()} of {unit.tuning.trials} trials done")

        def objective(trial: Trial, values: Mapping[str, Any]) -> float:
            job = unit.job(1, unit.repetitions[0], unit.settings.with_values(values))
            tags = {"variant": "trial", "trial": str(trial.number), "study": study.name}

            def report(record: EpochRecord) -> None:
                trial.report(record.epoch, record.validation["hm"])

            outcome = self.run_job(job, parent, tags, on_epoch=report, label=f"{unit.title} · trial {trial.number}")
            if outcome.state == "failed":
                raise JobError(outcome.error)
            return float(outcome.result["validation"]["hm"])

        try:
            with self._alone(f"studies/{hashlib.sha256(study.name.encode()).hexdigest()[:16]}"):
                tuned = study.run(objective)
        except JobError as error:
            self.display.say(f"{unit.title}: tuning failed: {error}")
            result.entries.append(Entry(**unit.identity(), variant="tuned", repetition=0, stage=1, job_key="", state="failed", error=str(error)))  # fmt: skip # noqa: E501
            return
        result.studies.append(tuned)
        self.tracker.log_json(parent, tuned.as_dict(), "tuning.json")
        self.tracker.tag(parent, **{"tuning.trials": str(tuned.complete + tuned.pruned), "tuning.pruned": str(tuned.pruned)})
        if not tune_only:
            self._repetitions(unit, call, result, parent, "tuned", tuned.best_values)

    def _summarise(self, parent: str, result: CallResult, unit: Unit) -> None:
        """Means over seeds as metrics of the method's run, so that the UI's compare view of methods is of use."""
        entries = [e for e in result.entries if e.stage == 2 and e.job_key and _same_unit(e, unit)]
        runs = self.tracker.by_job_key(e.job_key for e in entries)
        for variant in {e.variant for e in entries}:
            mine = [runs[e.job_key].metrics for e in entries if e.variant == variant and e.job_key in runs]
            names = {m for metrics in mine for m in metrics if m.startswith(("test/", "calibration/"))}
            prefix = "tuned/" if variant == "tuned" else ""
            means = {prefix + n: statistics.fmean(metrics[n] for metrics in mine) for n in names}
            if means:
                self.tracker.log_metrics(parent, means)

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
        folder = self.runs_dir / "jobs" / job.key
        with self._alone(f"jobs/{job.key}"):
            outcome = self._find_done(job)
            if outcome is not None:
                clear_checkpoints(folder)
                if on_epoch is not None:
                    for record in outcome.result["history"]:
                        on_epoch(EpochRecord(**record))
            elif only_find:
                failed = self.tracker.find(status="FAILED", kind="job", job_key=job.key)
                error = f"failed: {failed[0].tags.get('error')}" if failed else "not run yet"
                outcome = Outcome(job, "missing", error=error)
            else:
                run_id = self._job_run(job, parent, tags, label or job.title)
                outcome = self._train(job, run_id, folder, first, on_epoch, label or job.title)
        self.display.end(replace(outcome, label=label or job.title))
        return outcome

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Hold a lock of the runs folder, so that two calls at once share work instead of doing it twice."""
        path = self.runs_dir / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.display.say(f"waiting for another process that works on {name}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _find_done(self, job: Job) -> Outcome | None:
        """The finished job, if its result can be read."""
        for run in self.tracker.find(status="FINISHED", kind="job", job_key=job.key):
            try:
                return Outcome(job, "reused", run.run_id, self.tracker.read_json(run.run_id, "result.json"))
            except UsageError as error:
                self.display.say(f"{job.title}: done before, but its result is lost, so it is run again ({error})")
        return None

    def _job_run(self, job: Job, parent: str, tags: Mapping[str, str], title: str) -> str:
        """A run for the job: the interrupted one, or a new one with all settings logged."""
        found = self.tracker.find(kind="job", job_key=job.key)
        interrupted = [r for r in found if r.status != "FINISHED" and r.tags.get("outcome") != "pruned"]
        if interrupted:
            self.tracker.reopen(interrupted[0].run_id)
            self.tracker.tag(interrupted[0].run_id, outcome="", error="")
            if "described" not in interrupted[0].tags:
                self._describe(interrupted[0].run_id, job)
            return interrupted[0].run_id
        identity = {**unit_tags(job.unit), "kind": "job", "job_key": job.key, "stage": str(job.stage)}
        seeds = {"seed": str(job.seed), "repetition": str(job.repetition), "base_seed": str(job.unit.base_seed)}
        run_id = self.tracker.start(title, {**identity, **seeds, **tags, **environment()}, parent)
        self._describe(run_id, job)
        return run_id

    def _describe(self, run_id: str, job: Job) -> None:
        """Log what the job is: settings, how to repeat it, data."""
        self.tracker.log_params(run_id, job.settings.flat())
        self.tracker.log_text(run_id, dump_call(job.call()), "config.yaml")
        self.tracker.log_json(run_id, job.identity(), "identity.json")
        store = job.unit.store
        self.tracker.log_dataset(
            run_id,
            name=f"{job.unit.card.name}-{job.unit.features}",
            digest=store.development_digest if job.stage == 1 else store.digest,
            source=f"{job.unit.card.title}, feature set {job.unit.features}",
            context="train+validation" if job.stage == 1 else "train+validation+test",
        )
        self.tracker.tag(run_id, described="true")

    def _train(
        self,
        job: Job,
        run_id: str,
        folder: Path,
        first: StageOne | None,
        on_epoch: Callable[[EpochRecord], None] | None,
        title: str,
    ) -> Outcome:
        listener = EpochLog(self.tracker, run_id, self.display, on_epoch)
        epochs = job.settings.train.epochs if first is None else first.best_epoch + 1
        self.display.start(title, epochs, job.settings.train.batches_per_epoch)
        try:
            if first is None:
                found = stage_one(job.task(), folder, job.key, listener)
                result = {**found.as_dict(), "history": [asdict(r) for r in listener.history]}
                log_stage_one(self.tracker, run_id, found)
            else:
                result = log_stage_two(self.tracker, run_id, stage_two(job.task(), first, folder, job.key, listener), title)
        except Pruned:
            self.tracker.tag(run_id, outcome="pruned")
            self.tracker.finish(run_id, "KILLED")
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except KeyboardInterrupt:
            self.tracker.finish(run_id, "KILLED")
            raise
        except Exception as error:  # any failure of a method is recorded, and the other jobs go on
            text = str(error) if isinstance(error, JobError) else f"{type(error).__name__}: {error}"
            self.tracker.tag(run_id, outcome="failed", error=text[:4000])
            self.tracker.log_text(run_id, traceback.format_exc(), "traceback.txt")
            self.tracker.finish(run_id, "FAILED")
            return Outcome(job, "failed", run_id, error=text)
        usage = {"duration_seconds": sum(r.seconds for r in listener.history), "peak_memory_mb": peak_memory_mb()}
        self.tracker.log_metrics(run_id, usage)
        self.tracker.log_json(run_id, result, "result.json")
        write_weights_record(folder, job, result)
        self.tracker.tag(run_id, outcome="done", weights=str(folder / ("best.pt" if first is None else "final.pt")))
        self.tracker.finish(run_id)
        clear_checkpoints(folder)
        return Outcome(job, "done", run_id, result)


def study_of(unit: Unit, storage: str) -> Study:
    """The study of a unit; its name changes with everything that changes a trial, and with nothing of the test parts."""
    ranges = unit.ranges
    start = unit.settings.searchable()
    identity = unit.job(1, unit.repetitions[0]).identity()
    identity["tuning"] = unit.tuning.model_dump(exclude={"trials", "timeout"})
    identity["ranges"] = {k: r.model_dump() for k, r in ranges.items()}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{unit.method.name} {unit.card.name}-{unit.features} {unit.mode} {digest}"
    return Study(name, storage, ranges, {key: start[key] for key in ranges}, unit.tuning)


def call_key(call: Call, units: list[Unit], tune_only: bool) -> str:
    """Names a call by the work it asks for: the same work continues the same record."""
    work = [
        [unit.job(2, repetition).key for repetition in unit.repetitions]
        + [unit.mode, unit.tuning.model_dump(), unit.alias]
        + ([{k: r.model_dump() for k, r in unit.ranges.items()}] if unit.tuning.trials else [])
        for unit in units
    ]
    text = json.dumps([work, call.stages, tune_only, call.dataset], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entry(outcome: Outcome, variant: str) -> Entry:
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


def _same_unit(entry: Entry, unit: Unit) -> bool:
    return all(getattr(entry, key) == value for key, value in unit.identity().items())


def job_states(tracker: Tracker, units: list[Unit], stages: str) -> list[tuple[Job, str, RunRecord | None]]:
    """The untuned jobs of a call with their state in the store: done, running, failed or missing."""
    wanted: list[Literal[1, 2]] = [1, 2] if stages == "all" else [1] if stages == "1" else [2]
    rows: list[tuple[Job, str, RunRecord | None]] = []
    names = {"FINISHED": "done", "RUNNING": "running or interrupted", "KILLED": "interrupted", "FAILED": "failed"}
    for unit in units:
        for repetition in unit.repetitions:
            for stage in wanted:
                job = unit.job(stage, repetition)
                runs = tracker.find(kind="job", job_key=job.key)
                done = [r for r in runs if r.status == "FINISHED"]
                run = done[0] if done else runs[0] if runs else None
                rows.append((job, names.get(run.status, run.status) if run else "missing", run))
    return rows
