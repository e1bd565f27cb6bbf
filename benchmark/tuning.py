"""Optuna, and the only place that imports it: studies on the validation parts.

A study is resumed exactly: the sampler is seeded anew for each trial from the study's seed and the number of trials told so
far, and a trial that was interrupted is carried on as the same trial. Budgets are totals over all calls, so that they are equal
for methods of which one was interrupted and another was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import optuna
from optuna.trial import TrialState

from benchmark.config import Range, TuningConfig
from benchmark.errors import JobError, UsageError
from benchmark.patience import disk_is_full, patiently
from benchmark.tracking import LOCK_SECONDS, set_write_ahead_logging, sqlite_file, without_password

optuna.logging.set_verbosity(optuna.logging.WARNING)

T = TypeVar("T")
FAILURES_PER_TRIAL = 2
"""A study gives up after this many failed trials for each wanted one."""
SECONDS = "seconds"
"""User attribute of a trial: what its epochs took."""
FEWEST_TRIALS = 10
"""Finished trials that importances need at least, and twice as many as there are parameters."""
EVALUATOR = "fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014), 64 trees of depth 64 at most"


class Pruned(Exception):
    """Raised inside a trial that the pruner stops."""


class Trial(Protocol):
    """What the objective sees of a trial."""

    number: int

    def report(self, epoch: int, hm: float, seconds: float = 0.0) -> None:
        """Report the validation HM of an epoch, and what it took.

        Raises:
            Pruned: the trial is not worth going on with.
        """


@dataclass(frozen=True)
class TuningResult:
    """What a study found."""

    study: str
    best_values: Mapping[str, Any]
    """Searched settings of the best trial; empty if that is trial 0, the published or default settings."""
    best_number: int
    best_hm: float
    """Its validation HM, fraction."""
    complete: int
    pruned: int
    failed: int
    start_hm: float | None
    """Validation HM of the starting settings, trial 0, fraction; None where that was not finished."""
    trials: int
    """Budget: told trials wanted in all."""
    timeout: float | None
    """Budget: seconds of trials after which no further one started."""

    def as_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {**vars(self), "best_values": dict(self.best_values)}


@dataclass(frozen=True)
class PastTrial:
    """A trial that is over."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    hm: float | None
    """Highest validation HM, fraction; None where no epoch was reported."""
    seconds: float
    """What its epochs took, validation included."""
    epochs: int
    """Epochs reported."""
    values: Mapping[str, Any]
    """Searched settings."""
    start: bool
    """Whether these are the starting settings."""


@dataclass(frozen=True)
class Importances:
    """Which of the searched settings decide the validation HM, or why that cannot be said."""

    trials: int
    """Finished trials that they are made from; pruned ones tell too little."""
    values: Mapping[str, float]
    """Setting -> share of the variance that single settings explain; they sum to 1. Empty where there is a reason."""
    reason: str
    """Why there are none; empty where there are."""
    seed: int
    evaluator: str = EVALUATOR


@dataclass(frozen=True)
class Study:
    """A search: its name, ranges, starting point and budget."""

    name: str
    storage: str
    ranges: Mapping[str, Range]
    start: Mapping[str, Any]
    """Values of the published or default settings: trial 0."""
    config: TuningConfig

    def run(self, objective: Callable[[Trial, Mapping[str, Any]], float]) -> TuningResult:
        """Run trials until the budget is used up. ``objective`` trains with the values and returns the best validation HM.

        Raises:
            UsageError: the storage cannot be opened.
            JobError: too many trials failed, or none finished.
        """
        study = _patiently(self._open)
        while _patiently(lambda: self._goes_on(study)):
            if _failed(study) > FAILURES_PER_TRIAL * self.config.trials:
                raise JobError(f"study {self.name}: {_failed(study)} trials failed; see their runs")
            self._step(study, objective)
        return _patiently(lambda: self._result(study))

    def _goes_on(self, study: optuna.Study) -> bool:
        return _told(study) < self.config.trials and _spent(study) < (self.config.timeout or math.inf)

    def finished_trials(self) -> int:
        """Trials told so far (complete or pruned), 0 if the study does not exist."""
        try:
            return _told(self._load())
        except KeyError:
            return 0

    def past_trials(self) -> list[PastTrial]:
        """All trials that are over, by number."""
        study = self._load()
        return [_past(t, self._starts(t)) for t in study.get_trials(deepcopy=False, states=tuple(STATES))]

    def importances(self) -> Importances:
        """Importances of the searched settings, seeded by the study's seed."""
        study = self._load()
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        reason = _no_importances([t.value or 0.0 for t in finished], len(self.ranges))
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=64, max_depth=64, seed=self.config.seed)
        found: dict[str, float] = {}
        if not reason:
            found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=list(self.ranges))
        return Importances(len(finished), {k: float(v) for k, v in found.items()}, reason, self.config.seed)

    def _starts(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Whether a trial has the starting settings; trial 0, or a later one where that was lost while it was drawn."""
        return trial.params == dict(self.start)

    def _load(self) -> optuna.Study:
        """The study as it stands.

        Raises:
            KeyError: it does not exist.
        """
        return _patiently(lambda: optuna.load_study(study_name=self.name, storage=open_storage(self.storage)))

    def _open(self) -> optuna.Study:
        study = optuna.create_study(
            study_name=self.name,
            storage=open_storage(self.storage),
            direction="maximize",
            pruner=self._pruner(),
            sampler=self._sampler(0),
            load_if_exists=True,
        )
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(dict(self.start))
        return study

    def _sampler(self, index: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(
            seed=(self.config.seed * 1_000_003 + index) % 2**31,
            n_startup_trials=self.config.startup_trials,
            multivariate=True,
            constant_liar=False,
        )

    def _pruner(self) -> optuna.pruners.BasePruner:
        pruners = optuna.pruners
        if self.config.pruner == "median":
            return pruners.MedianPruner(self.config.startup_trials, self.config.warmup_epochs)
        if self.config.pruner == "hyperband":
            return pruners.HyperbandPruner(min_resource=max(1, self.config.warmup_epochs))
        return pruners.NopPruner()

    def _step(self, study: optuna.Study, objective: Callable[[Trial, Mapping[str, Any]], float]) -> None:
        trial = _patiently(lambda: self._next_trial(study))
        handle = _patiently(lambda: _Handle(trial))
        try:
            try:
                value = objective(handle, dict(trial.params))
            finally:
                _patiently(lambda: trial.set_user_attr(SECONDS, handle.seconds))
        except Pruned:
            _tell(study, trial.number, state=TrialState.PRUNED)
        except JobError as error:
            reason = str(error)
            _patiently(lambda: trial.set_user_attr("error", reason))
            _tell(study, trial.number, state=TrialState.FAIL)
        else:
            _tell(study, trial.number, value)

    def _next_trial(self, study: optuna.Study) -> optuna.Trial:
        for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if set(frozen.params) == set(self.ranges):
                return optuna.Trial(study, frozen._trial_id)  # interrupted: the same trial goes on
            study.tell(frozen.number, state=TrialState.FAIL)  # interrupted while its values were drawn: drawn again
            if "fixed_params" in frozen.system_attrs:
                study.enqueue_trial(frozen.system_attrs["fixed_params"])
        study.sampler = self._sampler(_told(study) + _errors(study))
        return study.ask({key: _distribution(r) for key, r in self.ranges.items()})

    def _result(self, study: optuna.Study) -> TuningResult:
        complete, pruned, failed = (len(study.get_trials(deepcopy=False, states=(s,))) for s in STATES)
        if complete == 0:
            raise JobError(f"study {self.name}: no trial finished")
        best, finished = study.best_trial, study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return TuningResult(
            study=self.name,
            best_values={} if self._starts(best) else dict(best.params),
            best_number=best.number,
            best_hm=float(best.value or 0.0),
            complete=complete,
            pruned=pruned,
            failed=failed,
            start_hm=next((t.value for t in finished if self._starts(t)), None),
            trials=self.config.trials,
            timeout=self.config.timeout,
        )


class _Handle:
    """A trial as the objective sees it; epochs reported before an interruption are not reported again."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self.number = trial.number
        self._reported = set(trial.study.trials[trial.number].intermediate_values)
        self.seconds = 0.0

    def report(self, epoch: int, hm: float, seconds: float = 0.0) -> None:
        self.seconds += seconds
        if epoch not in self._reported:
            _patiently(lambda: self._trial.report(hm, epoch))
            self._reported.add(epoch)
        if _patiently(self._trial.should_prune):
            raise Pruned


def open_storage(uri: str) -> optuna.storages.RDBStorage:
    """An Optuna storage; a SQLite file is created and set to write-ahead logging.

    Raises:
        UsageError: it cannot be opened.
    """
    file = sqlite_file(uri)
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            set_write_ahead_logging(file)
        options: dict[str, Any] = {"connect_args": {"timeout": LOCK_SECONDS}} if file is not None else {"pool_pre_ping": True}
        storage: optuna.storages.RDBStorage = optuna.storages.RDBStorage(uri, engine_kwargs=options)
    except Exception as error:
        raise UsageError(f"--storage {without_password(uri)}: cannot be opened ({type(error).__name__}: {error})") from error
    return storage


def _patiently(action: Callable[[], T]) -> T:
    return patiently(action, _is_away, "the Optuna storage does not answer")


def _is_away(error: Exception) -> bool:
    """Whether an error says that the storage does not answer for now: no connection, locked, full, restarting."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (InterfaceError, OperationalError)):
        cause = cause.__cause__ or cause.__context__
    return cause is not None or disk_is_full(error)


def _tell(study: optuna.Study, number: int, value: float | None = None, state: TrialState | None = None) -> None:
    """End a trial; an end that arrived although the connection broke is left as it is."""

    def tell() -> None:
        if not study.trials[number].state.is_finished():
            study.tell(number, value, state=state)

    _patiently(tell)


STATES: Mapping[TrialState, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def _past(trial: optuna.trial.FrozenTrial, start: bool) -> PastTrial:
    reported = trial.intermediate_values
    hm = trial.value if trial.state == TrialState.COMPLETE else max(reported.values(), default=None)
    return PastTrial(trial.number, STATES[trial.state], hm, _seconds(trial), len(reported), dict(trial.params), start)


def _seconds(trial: optuna.trial.FrozenTrial) -> float:
    """What a trial took; of one that ended and did not say, the time from its start to its end."""
    told = float(trial.user_attrs.get(SECONDS, 0.0))
    if told or trial.duration is None or trial.state == TrialState.FAIL:  # a lost trial may be told days later
        return told
    return trial.duration.total_seconds()


def _spent(study: optuna.Study) -> float:
    """Seconds of all trials that are over, failed ones included."""
    return sum(_seconds(t) for t in study.get_trials(deepcopy=False, states=tuple(STATES)))


def _no_importances(hms: Sequence[float], parameters: int) -> str:
    """Why importances cannot be told from finished trials with these HMs; empty where they can."""
    fewest = max(FEWEST_TRIALS, 2 * parameters)
    if parameters < 2:
        return "a single setting is searched"
    if len(hms) < fewest:
        return f"{len(hms)} finished trials, at least {fewest} are needed"
    return "all finished trials have the same HM" if len(set(hms)) == 1 else ""


def _told(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _failed(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.FAIL,)))


def _errors(study: optuna.Study) -> int:
    """Trials that failed by themselves, not by an interruption while their values were drawn."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    return sum("error" in t.user_attrs for t in failed)


def _distribution(r: Range) -> optuna.distributions.BaseDistribution:
    distributions = optuna.distributions
    if r.type == "categorical":
        return distributions.CategoricalDistribution(r.choices or [])
    if r.type == "int":
        return distributions.IntDistribution(int(r.low or 0), int(r.high or 0), r.log, int(r.step or 1))
    return distributions.FloatDistribution(float(r.low or 0), float(r.high or 0), r.log, r.step)
