"""What a study found, in plain types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import optuna
from optuna.trial import TrialState

from benchmark.tuning.confirmation import Candidate, Confirmation

SECONDS = "seconds"
"""User attribute of a trial: seconds that its epochs took."""
ERROR = "error"
"""User attribute of a trial: why it failed."""
FEWEST_TRIALS = 5
"""Complete trials that importances need at least; also twice as many as there are parameters."""
EVALUATOR = "fANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014), 64 trees of depth 64 at most"


@dataclass(frozen=True)
class TuningResult:
    """The result of a study."""

    study: str
    best_values: Mapping[str, Any]
    """Hyperparameters of the best trial; empty for trial 0, which has the published or default ones."""
    best_number: int
    best_hm: float
    """Its validation HM, fraction: optimistic, as the highest of all trials."""
    complete: int
    pruned: int
    failed: int
    start_hm: float | None
    """Validation HM of trial 0, fraction; None if it did not complete."""
    trials: int | None
    """Budget: finished trials in total; None if only the seconds are limited."""
    timeout: float | None
    """Budget: seconds of trials after which no further trial started."""
    candidates: Sequence[Candidate] = ()
    """Trial 0 and the best others, which are trained again; none if the best trial wins as it is."""
    confirmation: Confirmation | None = None
    """What came of them; None before they are trained."""

    @property
    def chosen(self) -> Mapping[str, Any]:
        """Hyperparameters of the tuned trainings: the confirmed ones, else those of the best trial."""
        return self.best_values if self.confirmation is None else self.confirmation.values

    def as_dict(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


@dataclass(frozen=True)
class PastTrial:
    """A trial that has ended."""

    number: int
    state: Literal["complete", "pruned", "failed"]
    hm: float | None
    """Highest validation HM, fraction; None if no epoch was reported."""
    seconds: float
    """Seconds that its epochs took, including validation."""
    epochs: int
    """Epochs reported."""
    values: Mapping[str, Any]
    """Hyperparameters."""
    start: bool
    """Whether it is trial 0, which has the published or default hyperparameters."""
    error: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class StudyRecord:
    """The present state of a study."""

    past: Sequence[PastTrial]
    started: Sequence[int]
    """Trials that have not ended, whether a process works on them or not."""
    used_up: bool
    """Whether no further trial starts if the started ones succeed."""
    result: TuningResult | None
    """The result; None if the study is not over or failed."""
    failure: str
    """Why it has no result; empty if it has or may get one."""


@dataclass(frozen=True)
class Importances:
    """How much each hyperparameter decides the validation HM, or why that is unknown."""

    trials: int
    """Complete trials that they are from. Pruned ones are left out: their HM is of an early epoch."""
    values: Mapping[str, float]
    """Hyperparameter -> share of the explained variance (sum 1). Empty if there is a reason."""
    reason: str
    """Why there are none; empty if there are."""
    seed: int
    evaluator: str = EVALUATOR


STATES: Mapping[TrialState, Literal["complete", "pruned", "failed"]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of the trials that count for the budget."""


def _past(trial: optuna.trial.FrozenTrial) -> PastTrial:
    reported = trial.intermediate_values
    hm = trial.value if trial.state == TrialState.COMPLETE else max(reported.values(), default=None)
    return PastTrial(
        number=trial.number,
        state=STATES[trial.state],
        hm=hm,
        seconds=_seconds(trial),
        epochs=len(reported),
        values=dict(trial.params),
        start=trial.number == 0,
        error=str(trial.user_attrs.get(ERROR, "")),
    )


def _seconds(trial: optuna.trial.FrozenTrial) -> float:
    """Seconds that a trial took: those that it recorded, else the time from its start to its end."""
    recorded = float(trial.user_attrs.get(SECONDS, 0.0))
    # A trial whose process is gone may be marked as failed days later, so its duration says nothing.
    if recorded or trial.duration is None or trial.state == TrialState.FAIL:
        return recorded
    return trial.duration.total_seconds()


def _spent(study: optuna.Study) -> float:
    """Seconds of all trials that have ended, failed ones included."""
    return sum(_seconds(t) for t in study.get_trials(deepcopy=False, states=tuple(STATES)))


def _no_importances(hms: Sequence[float], parameters: int) -> str:
    """Why there are no importances from complete trials with these HMs; empty if there are."""
    fewest = max(FEWEST_TRIALS, 2 * parameters)
    if parameters < 2:
        return "a single setting is searched"
    if len(hms) < fewest:
        return f"{len(hms)} finished trials, at least {fewest} are needed"
    return "all finished trials have the same HM" if len(set(hms)) == 1 else ""


def _count(study: optuna.Study, *states: TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))
