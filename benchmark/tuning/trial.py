"""A trial of a study, as its objective sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import optuna
from optuna.trial import TrialState

from benchmark.errors import Unavailable
from benchmark.settings.search_space import Range
from benchmark.system.databases import is_unavailable
from benchmark.system.patience import patiently
from benchmark.tuning.results import (
    SECONDS,
)

T = TypeVar("T")


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


class _Handle:
    """A trial as the objective sees it; epochs reported before an interruption are not reported again.

    Args:
        study: where it is recorded.
        number: of the trial.
        view: the trials before it, for the pruner.
    """

    def __init__(self, study: optuna.Study, number: int, view: optuna.Study) -> None:
        recorded = study.get_trials(deepcopy=False)[number]
        view.add_trial(recorded)
        self._trial = optuna.Trial(study, recorded._trial_id)
        self._seen = optuna.Trial(view, view.get_trials(deepcopy=False)[number]._trial_id)
        self._reported = set(recorded.intermediate_values)
        self.number = number
        self.values = dict(recorded.params)
        self.seconds = 0.0

    def report(self, epoch: int, hm: float, seconds: float = 0.0) -> None:
        self.seconds += seconds
        if epoch not in self._reported:
            _patiently(lambda: self._trial.report(hm, epoch))
            self._seen.report(hm, epoch)
            self._reported.add(epoch)
        pruned = self._seen.should_prune()
        _patiently(self._keep_notes)
        if pruned:
            raise Pruned

    def _keep_notes(self) -> None:
        """Record what the pruner noted about the trial (rungs of successive halving), for the trials after it."""
        for key, value in self._seen.storage.get_trial_system_attrs(self._seen._trial_id).items():
            self._trial.storage.set_trial_system_attr(self._trial._trial_id, key, value)

    def note_seconds(self) -> None:
        """Record what the epochs took."""
        self._trial.set_user_attr(SECONDS, self.seconds)


def _patiently(action: Callable[[], T]) -> T:
    """Ask the storage for something of a study that is there.

    Raises:
        Unavailable: it does not answer, or the study was deleted meanwhile.
    """
    try:
        return _waited(action)
    except KeyError as error:
        raise Unavailable(
            f"a study was deleted from the Optuna storage while this command worked on it ({error}); repeat the command, which "
            "begins the study again and finds finished trials done"
        ) from error


def _running(
    values: Mapping[str, Any], distributions: Mapping[str, optuna.distributions.BaseDistribution]
) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(state=TrialState.RUNNING, params=dict(values), distributions=dict(distributions))


def _distribution(r: Range) -> optuna.distributions.BaseDistribution:
    distributions = optuna.distributions
    if r.type == "categorical":
        return distributions.CategoricalDistribution(r.choices or [])
    if r.type == "int":
        return distributions.IntDistribution(int(r.low or 0), int(r.high or 0), r.log, int(r.step or 1))
    return distributions.FloatDistribution(float(r.low or 0), float(r.high or 0), r.log, r.step)


def _waited(action: Callable[[], T]) -> T:
    return patiently(action, is_unavailable, "the Optuna storage does not answer")
