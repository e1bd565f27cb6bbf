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
from benchmark.tuning.results import SECONDS

T = TypeVar("T")


class Pruned(Exception):
    """Raised inside a trial that the pruner stops."""


class Trial(Protocol):
    """A trial as the objective sees it."""

    number: int

    def report(self, epoch: int, hm: float, seconds: float = 0.0) -> None:
        """Report the validation HM (fraction) and the seconds of an epoch.

        Raises:
            Pruned: the pruner stops the trial.
        """


class _Handle:
    """A recorded trial. Epochs that were reported before an interruption are not reported again.

    ``Study`` makes it for each trial that it runs.

    Args:
        study: study that records the trial.
        number: number of the trial.
        view: study in memory with the trials before it, for the pruner.
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
        """Record the pruner's notes (rungs of successive halving), which later trials need."""
        for key, value in self._seen.storage.get_trial_system_attrs(self._seen._trial_id).items():
            self._trial.storage.set_trial_system_attr(self._trial._trial_id, key, value)

    def note_seconds(self) -> None:
        """Record the seconds that the epochs took."""
        self._trial.set_user_attr(SECONDS, self.seconds)


def _patiently(action: Callable[[], T]) -> T:
    """Access an existing study in the storage; wait if the storage does not answer.

    Raises:
        Unavailable: the storage still does not answer, or the study was deleted meanwhile.
    """
    try:
        return _waited(action)
    except KeyError as error:
        raise Unavailable(
            f"a study was deleted from the Optuna storage while this command worked on it ({error}); "
            "repeat the command: it starts the study again and reuses finished trials"
        ) from error


def _running(
    values: Mapping[str, Any], distributions: Mapping[str, optuna.distributions.BaseDistribution]
) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.RUNNING, params=dict(values), distributions=dict(distributions)
    )


def _distribution(r: Range) -> optuna.distributions.BaseDistribution:
    distributions = optuna.distributions
    if r.type == "categorical":
        return distributions.CategoricalDistribution(r.choices or [])
    if r.type == "int":
        return distributions.IntDistribution(int(r.low or 0), int(r.high or 0), r.log, int(r.step or 1))
    return distributions.FloatDistribution(float(r.low or 0), float(r.high or 0), r.log, r.step)


def _waited(action: Callable[[], T]) -> T:
    return patiently(action, is_unavailable, "the Optuna storage does not answer")
