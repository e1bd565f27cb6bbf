"""Hyperparameter searches with Optuna on the validation splits.

A study is reproducible, even if it is interrupted or several processes work on it. For each trial the sampler
is seeded again from the study's seed and the trial's number. Sampler and pruner see the results of the trials
before it, except the last ``parallel - 1``: these may still run, so only their hyperparameters count. An
interrupted trial continues as the same trial. Budgets are totals over all benchmark runs, so they are equal
for methods of which only one was interrupted.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from benchmark.errors import JobError, UsageError
from benchmark.settings.schema import TuningConfig
from benchmark.settings.search_space import Range
from benchmark.system.databases import LOCK_SECONDS, has_rows, opening, sqlite_file, without_password
from benchmark.system.patience import disk_is_full, patiently, why_closed
from benchmark.system.redaction import hide
from benchmark.tuning.confirmation import Candidate
from benchmark.tuning.results import (
    ERROR,
    FINISHED,
    STATES,
    Importances,
    PastTrial,
    StudyRecord,
    TuningResult,
    _count,
    _no_importances,
    _past,
    _spent,
)
from benchmark.tuning.trial import Pruned, Trial, _distribution, _Handle, _patiently, _running, _waited

optuna.logging.set_verbosity(optuna.logging.WARNING)

FAILURES_PER_TRIAL = 2
"""Failed trials per trial of its budget (per finished one without a budget) after which a study ends."""
FORGIVEN = "forgiven_failures"
"""User attribute of a study: failed trials that no longer count, because the user asked for a retry."""
LAST_TABLE = "alembic_version"
"""The table that gets its row after Optuna has created all tables of a database."""


class TrialLocks(Protocol):
    """Which process works on which trial of a study (``StudyLocks``)."""

    def alone(self) -> AbstractContextManager[object]:
        """Hold the study while the next trial is chosen."""

    def hold(self, trial: int) -> AbstractContextManager[object] | None:
        """Hold a trial until it ends; None if another living process holds it."""

    def pause(self) -> None:
        """Wait a little for the trials of other processes.

        Raises:
            KeyboardInterrupt: the user asked to stop.
        """


class NoOthers:
    """Locks of a study on which only this process works."""

    def alone(self) -> AbstractContextManager[object]:
        return nullcontext()

    def hold(self, trial: int) -> AbstractContextManager[object] | None:
        return nullcontext()

    def pause(self) -> None:
        raise AssertionError("there is no other process to wait for")


NO_OTHERS = NoOthers()
_Held = tuple[int, AbstractContextManager[object]]
_Next = _Held | Literal["blocked", "last", "over"]
"""A held trial, or why there is none: blocked by other trials, the last ones run, or all are over."""


@dataclass(frozen=True)
class Study:
    """A hyperparameter search: its name, ranges, starting point and budget.

    ``running.studies.study_of`` makes it. Each process that searches calls ``run`` or ``help``.
    """

    name: str
    storage: str
    ranges: Mapping[str, Range]
    start: Mapping[str, Any]
    """Published or default hyperparameters: trial 0."""
    config: TuningConfig

    def run(
        self, objective: Callable[[Trial, Mapping[str, Any]], float], locks: TrialLocks = NO_OTHERS
    ) -> TuningResult:
        """Run trials until the budget is used up, then wait for those of other processes.

        Args:
            objective: trains with these hyperparameters and returns the best validation HM, fraction.
            locks: which process works on which trial.

        Raises:
            UsageError: the storage cannot be opened.
            JobError: too many trials failed, or none completed.
        """
        self._run(objective, locks, to_the_end=True)
        return _patiently(lambda: self._result(self._load()))

    def help(self, objective: Callable[[Trial, Mapping[str, Any]], float], locks: TrialLocks) -> None:
        """Run trials of a study that another process runs to its end, until none is left to start.

        Raises:
            UsageError: the storage cannot be opened.
        """
        with suppress(JobError):  # the other process reports it
            self._run(objective, locks, to_the_end=False)

    def _run(
        self, objective: Callable[[Trial, Mapping[str, Any]], float], locks: TrialLocks, *, to_the_end: bool
    ) -> None:
        study = _patiently(self._open)
        while True:
            # Choose a trial while no other process does.
            with locks.alone():
                found = _patiently(lambda: self._next(study, locks))
            # No trial to run: return, or wait for trials of other processes.
            if found == "over" or (found == "last" and not to_the_end):
                return
            if isinstance(found, str):
                locks.pause()
                continue
            # Run it, while the lock shows other processes that this one lives.
            number, held = found
            with held:
                self._do(study, number, objective)

    def is_over(self) -> bool:
        """Whether the budget is used up and no trial runs."""
        try:
            study = self._load()
        except KeyError:
            return False
        return (
            self._used_up(study)
            and not _count(study, TrialState.RUNNING)
            and _count(study, TrialState.COMPLETE) > 0
        )

    def _used_up(self, study: optuna.Study) -> bool:
        """Whether no further trial starts if those that run succeed."""
        started = _count(study, *FINISHED, TrialState.RUNNING)
        wanted = math.inf if self.config.trials is None else self.config.trials
        return started >= wanted or _spent(study) >= (self.config.timeout or math.inf)

    def blame(self, reason: str, locks: TrialLocks) -> Mapping[str, Any] | None:
        """Mark an interrupted trial as failed, because the trial is what kills processes.

        Returns:
            Its hyperparameters; None if no trial was interrupted.
        """
        study = _patiently(self._open)
        with locks.alone():
            found = _patiently(lambda: _interrupted(study, locks))
            if found is None:
                return None
            number, held = found
            with held:
                _fail(study, number, reason)
            return dict(study.get_trials(deepcopy=False)[number].params)

    def forgive(self) -> None:
        """Let a study that gave up continue: its failed trials stay failed but no longer count."""
        study = _patiently(self._open)
        if self._gave_up(study):
            _patiently(lambda: study.set_user_attr(FORGIVEN, _count(study, TrialState.FAIL)))

    def _gave_up(self, study: optuna.Study) -> bool:
        failed = _count(study, TrialState.FAIL) - int(study.user_attrs.get(FORGIVEN, 0))
        wanted = self.config.trials
        if wanted is None:  # only seconds are limited, and trials that fail immediately take none
            wanted = max(_count(study, *FINISHED), self.config.startup_trials)
        return failed > FAILURES_PER_TRIAL * wanted

    def _check(self, study: optuna.Study) -> None:
        """Refuse to continue a study that gave up.

        Raises:
            JobError: too many trials failed.
        """
        if self._gave_up(study):
            failed = _count(study, TrialState.FAIL)
            raise JobError(
                f"study {self.name}: {failed} trials failed; see their runs (--retry-failed draws others)"
            )

    def finished_trials(self) -> int:
        """Number of finished trials (complete or pruned); 0 if the study does not exist."""
        try:
            return _count(self._load(), *FINISHED)
        except KeyError:
            return 0

    def past_trials(self) -> list[PastTrial]:
        """All trials that have ended, by number."""
        study = self._load()
        return [_past(t) for t in study.get_trials(deepcopy=False, states=tuple(STATES))]

    def look(self) -> StudyRecord | None:
        """The present state of the study; None if it was not started. Nothing is created.

        Raises:
            UsageError: the storage cannot be opened.
        """
        if not has_rows(self.storage, LAST_TABLE):
            return None
        try:
            study = self._load()
        except KeyError:
            return None
        past = [_past(t) for t in study.get_trials(deepcopy=False, states=tuple(STATES))]
        started = [t.number for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))]
        used_up, result, failure = self._used_up(study), None, ""
        try:
            self._check(study)
            result = self._result(study) if used_up and not started else None
        except JobError as error:
            failure = str(error)
        return StudyRecord(past, started, used_up, result, failure)

    def importances(self) -> Importances:
        """Importances of the hyperparameters, seeded by the study's seed."""
        study = self._load()
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        reason = _no_importances([t.value or 0.0 for t in finished], len(self.ranges))
        evaluator = optuna.importance.FanovaImportanceEvaluator(
            n_trees=64, max_depth=64, seed=self.config.seed
        )
        found: dict[str, float] = {}
        if not reason:
            found = optuna.importance.get_param_importances(
                study, evaluator=evaluator, params=list(self.ranges)
            )
        return Importances(len(finished), {k: float(v) for k, v in found.items()}, reason, self.config.seed)

    def _load(self) -> optuna.Study:
        """The recorded study.

        Raises:
            KeyError: it does not exist.
        """
        return _waited(lambda: optuna.load_study(study_name=self.name, storage=open_storage(self.storage)))

    def _open(self) -> optuna.Study:
        storage = open_storage(self.storage)
        return optuna.create_study(
            study_name=self.name, storage=storage, direction="maximize", load_if_exists=True
        )

    def _view(self, study: optuna.Study, number: int) -> optuna.Study:
        """A study in memory with what the sampler and the pruner of a trial may see."""
        view = optuna.create_study(
            study_name=self.name, direction="maximize", pruner=self._pruner(), sampler=self._sampler(number)
        )
        # Of trials that may still run, only the hyperparameters are visible: results would depend on timing.
        before = study.get_trials(deepcopy=False)[:number]
        known = max(0, number - self.config.parallel + 1)
        view.add_trials([*before[:known], *(_running(t.params, t.distributions) for t in before[known:])])
        return view

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(
            seed=(self.config.seed * 1_000_003 + number) % 2**31,
            n_startup_trials=self.config.startup_trials,
            multivariate=True,
            constant_liar=True,  # draws away from trials that still run
        )

    def _pruner(self) -> optuna.pruners.BasePruner:
        pruners = optuna.pruners
        if self.config.pruner == "median":
            return pruners.MedianPruner(self.config.startup_trials, self.config.warmup_epochs)
        if self.config.pruner == "hyperband":
            return pruners.HyperbandPruner(min_resource=max(1, self.config.warmup_epochs))
        return pruners.NopPruner()

    def _next(self, study: optuna.Study, locks: TrialLocks) -> _Next:
        """The trial to run next: an interrupted one, else a new one.

        Raises:
            JobError: too many trials failed.
        """
        # An interrupted trial comes first: later trials build on its result.
        interrupted = _interrupted(study, locks)
        if interrupted is not None:
            return interrupted
        self._check(study)
        # Start none beyond the budget.
        trials = study.get_trials(deepcopy=False)
        running = [t.number for t in trials if t.state == TrialState.RUNNING]
        if self._used_up(study):
            return "last" if running else "over"
        # Wait for trials whose results the next one is drawn from.
        number = len(trials)
        if any(other <= number - self.config.parallel for other in running):
            return "blocked"
        # Draw and record it.
        study.add_trial(self._draw(study, number))
        held = locks.hold(number)
        return "blocked" if held is None else (number, held)

    def _draw(self, study: optuna.Study, number: int) -> optuna.trial.FrozenTrial:
        distributions = {key: _distribution(r) for key, r in self.ranges.items()}
        values = dict(self.start) if number == 0 else self._view(study, number).ask(distributions).params
        return _running(values, distributions)

    def _do(
        self, study: optuna.Study, number: int, objective: Callable[[Trial, Mapping[str, Any]], float]
    ) -> None:
        handle = _patiently(lambda: _Handle(study, number, self._view(study, number)))
        try:
            try:
                value = objective(handle, handle.values)
            finally:
                _patiently(handle.note_seconds)
        except Pruned:
            _tell(study, number, state=TrialState.PRUNED)
        except JobError as error:
            _fail(study, number, str(error))
        else:
            _tell(study, number, value)

    def _result(self, study: optuna.Study) -> TuningResult:
        complete, pruned, failed = (_count(study, state) for state in STATES)
        if complete == 0:
            raise JobError(f"study {self.name}: no trial completed")
        best, start = study.best_trial, study.get_trials(deepcopy=False)[0]
        return TuningResult(
            study=self.name,
            best_values={} if best.number == start.number else dict(best.params),
            best_number=best.number,
            best_hm=float(best.value or 0.0),
            complete=complete,
            pruned=pruned,
            failed=failed,
            start_hm=start.value if start.state == TrialState.COMPLETE else None,
            trials=self.config.trials,
            timeout=self.config.timeout,
            candidates=self._candidates(study),
        )

    def _candidates(self, study: optuna.Study) -> list[Candidate]:
        """Trial 0 and the best other settings; none if there are no others, or nothing is confirmed."""
        start, *others = study.get_trials(deepcopy=False)
        complete = [t for t in others if t.state == TrialState.COMPLETE and t.params != start.params]
        found: list[Candidate] = []
        for trial in sorted(complete, key=lambda t: (-(t.value or 0.0), t.number)):
            if len(found) < self.config.confirm and all(trial.params != c.values for c in found):
                found.append(Candidate(trial.number, dict(trial.params), trial.value))
        value = start.value if start.state == TrialState.COMPLETE else None
        return [Candidate(0, {}, value), *found] if found else []


def open_storage(uri: str) -> optuna.storages.RDBStorage:
    """Open an Optuna storage. A SQLite file and tables are created, also safely by several processes.

    Raises:
        UsageError: it cannot be opened.
    """
    shown = without_password(uri)
    failures = (OptunaError, SQLAlchemyError, sqlite3.Error, OSError, ImportError, RuntimeError)
    try:
        return patiently(lambda: _opened(uri), disk_is_full, f"Optuna storage {shown} cannot be written")
    except failures as error:
        raise UsageError(f"--storage {shown}: cannot be opened ({why_closed(error)})") from error


def _opened(uri: str) -> optuna.storages.RDBStorage:
    is_file = sqlite_file(uri) is not None
    options: dict[str, Any] = (
        {"connect_args": {"timeout": LOCK_SECONDS}} if is_file else {"pool_pre_ping": True}
    )

    def make(address: str) -> None:
        optuna.storages.RDBStorage(address, engine_kwargs=options).engine.dispose()

    with opening(uri, LAST_TABLE, make):
        return optuna.storages.RDBStorage(uri, engine_kwargs=options)


def _interrupted(study: optuna.Study, locks: TrialLocks) -> _Held | None:
    """A trial that is recorded as running but held by no process; it is held now."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        held = locks.hold(trial.number)
        if held is None:
            continue
        if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
            return trial.number, held
        with held:  # it ended between the two queries
            pass
    return None


def _fail(study: optuna.Study, number: int, reason: str) -> None:
    trial = study.get_trials(deepcopy=False)[number]
    _patiently(lambda: optuna.Trial(study, trial._trial_id).set_user_attr(ERROR, hide(reason)))
    _tell(study, number, state=TrialState.FAIL)


def _tell(
    study: optuna.Study, number: int, value: float | None = None, state: TrialState | None = None
) -> None:
    """Record the end of a trial, unless a broken connection delivered it before."""

    def tell() -> None:
        if not study.trials[number].state.is_finished():
            study.tell(number, value, state=state)

    _patiently(tell)
