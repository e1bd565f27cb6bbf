"""What a study found, in plain types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

SECONDS = "seconds"
"""User attribute of a trial: what its epochs took."""
ERROR = "error"
"""User attribute of a trial: why it failed."""
FEWEST_TRIALS = 5
"""Finished trials that importances need at least, and twice as many as there are parameters."""
EVALUATOR = "fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014), 64 trees of depth 64 at most"


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
    trials: int | None
    """Budget: told trials wanted in all; None where the seconds alone bound them."""
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
    """Whether it is trial 0, which has the starting settings."""
    error: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class StudyRecord:
    """A study as it stands."""

    past: Sequence[PastTrial]
    begun: Sequence[int]
    """Trials that are not over, whether somebody works on them or not."""
    used_up: bool
    """Whether no further trial is to be started, provided that those that are begun succeed."""
    result: TuningResult | None
    """What it found; None where it is not over, or gave nothing."""
    failure: str
    """Why it gives nothing; empty where it does or may."""


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


STATES: Mapping[TrialState, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


TOLD = (TrialState.COMPLETE, TrialState.PRUNED)
"""What counts for the budget."""


def _past(trial: optuna.trial.FrozenTrial) -> PastTrial:
    reported = trial.intermediate_values
    hm = trial.value if trial.state == TrialState.COMPLETE else max(reported.values(), default=None)
    state, number = STATES[trial.state], trial.number
    error = str(trial.user_attrs.get(ERROR, ""))
    return PastTrial(number, state, hm, _seconds(trial), len(reported), dict(trial.params), number == 0, error)


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


def _count(study: optuna.Study, *states: TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))
