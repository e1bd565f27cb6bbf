"""Confirmation of a search: which trial is kept, and that it is the right one more often."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest

from benchmark.settings.schema import TuningConfig
from benchmark.settings.search_space import Range
from benchmark.tuning import study as tuning
from benchmark.tuning.confirmation import Confirmation, Confirmed, confirm
from benchmark.tuning.results import TuningResult
from benchmark.tuning.study import Study
from benchmark.tuning.trial import Trial


def chosen(**hms: Sequence[float | None]) -> Confirmation | None:
    """What is kept of trials ``t0``, ``t3``, ... with these results by seed."""
    trials = [(int(name[1:]), values) for name, values in hms.items()]
    candidates = [Confirmed(n, {"lr": n} if n else {}, 0.5, values) for n, values in trials]
    return confirm(range(len(trials[0][1])), candidates)


def test_the_highest_mean_is_kept_if_its_gain_exceeds_a_standard_error() -> None:
    found = chosen(t0=[0.20, 0.30, 0.25], t3=[0.24, 0.33, 0.30], t7=[0.10, 0.40, 0.30])
    assert found is not None
    assert (found.number, found.values) == (3, {"lr": 3})
    assert found.hm == pytest.approx(0.29)
    assert found.gain == pytest.approx(0.04)
    assert found.gain_error == pytest.approx(0.01 / math.sqrt(3))
    assert found.sentence() == "trial 3 is kept, validation HM 29.00 over 3 seeds, 4.00 ± 0.58 above trial 0"


def test_trial_zero_stays_where_the_gain_is_noise() -> None:
    found = chosen(t0=[0.20, 0.30, 0.25], t7=[0.10, 0.50, 0.20])
    assert found is not None
    assert found.gain == pytest.approx(1 / 60)
    assert found.gain_error == pytest.approx(np.std([-0.1, 0.2, -0.05], ddof=1) / math.sqrt(3))
    assert (found.number, found.values, found.hm) == (0, {}, pytest.approx(0.25))
    assert found.sentence().endswith("the best other trial is 1.67 ± 9.28 above it, which may be noise")


def test_trial_zero_that_is_best_has_no_gain_to_name() -> None:
    found = chosen(t0=[0.3, 0.4], t1=[0.2, 0.3])
    assert found is not None
    assert (found.number, found.gain, found.gain_error) == (0, None, None)
    assert found.sentence() == "trial 0 is kept, validation HM 35.00 over 2 seeds"


def test_a_trial_with_a_failed_training_is_not_kept() -> None:
    found = chosen(t0=[0.2, 0.2], t1=[0.9, None], t2=[0.3, 0.4])
    assert found is not None
    assert found.number == 2
    assert math.isnan(found.candidates[1].mean)
    found = chosen(t0=[0.2, None], t1=[0.1, 0.1])
    assert found is not None
    assert (found.number, found.gain) == (1, None), "there is nothing to compare it with"
    assert chosen(t0=[None, 0.2], t1=[0.1, None]) is None


class Generated:
    """Samples of 10 classes around their means, of whose 16 dimensions the first 8 differ between classes.

    A nearest-mean classifier that keeps the first d dimensions is best with d = 8: fewer lose signal, more
    add noise.
    """

    BEST, LEVELS = 8, (2, 5, 8, 12, 16)

    def __init__(self) -> None:
        self.means = np.zeros((10, 16))
        self.means[:, : self.BEST] = np.random.default_rng(0).normal(size=(10, self.BEST))

    def score(self, kept: int, seed: int) -> float:
        """Accuracy with 3 training samples of each class, drawn with the seed, and 10 to validate."""
        random = np.random.default_rng((seed, kept))
        trained = self.means + random.normal(size=(3, 10, 16)).mean(axis=0)
        labels = np.repeat(np.arange(10), 10)
        samples = self.means[labels] + random.normal(size=(100, 16))
        distances = ((samples[:, None, :kept] - trained[None, :, :kept]) ** 2).sum(axis=2)
        return float((distances.argmin(axis=1) == labels).mean())


def search(data: Generated, number: int) -> TuningResult:
    """A search that starts from the worst setting and trains with one seed."""
    ranges = {"kept": Range(type="categorical", choices=list(data.LEVELS))}
    config = TuningConfig(trials=6, seed=number, pruner="none", startup_trials=6)

    def objective(trial: Trial, values: Mapping[str, Any]) -> float:
        return data.score(values["kept"], seed=10_000 + number)

    return Study(f"search {number}", "in memory", ranges, {"kept": 2}, config).run(objective)


def test_confirmed_searches_find_the_known_best_setting_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, data = optuna.storages.InMemoryStorage(), Generated()  # a database takes ten times as long
    monkeypatch.setattr(tuning, "open_storage", lambda uri: storage)
    searched = {level: np.mean([data.score(level, s) for s in range(200)]) for level in data.LEVELS}
    assert max(searched, key=lambda level: searched[level]) == data.BEST, "known by construction"
    single = confirmed = offered = 0
    optimism = []
    for number in range(60):
        found = search(data, number)
        seeds = [100 * number + i for i in range(8)]
        candidates = [
            Confirmed(c.number, c.values, c.hm, [data.score(c.values.get("kept", 2), s) for s in seeds])
            for c in found.candidates
        ]
        kept = confirm(seeds, candidates)
        assert kept is not None
        single += found.best_values.get("kept", 2) == data.BEST
        confirmed += kept.values.get("kept", 2) == data.BEST
        offered += any(c.values.get("kept") == data.BEST for c in found.candidates)
        optimism.append(found.best_hm - searched[found.best_values.get("kept", 2)])
    print(f"best among the candidates {offered}, best single trial {single}, confirmed {confirmed}, of 60")
    print(f"optimism of the search {np.mean(optimism):.3f}")
    assert confirmed >= single + 6
    assert np.mean(optimism) > 0.01, "the search's own number is too high"
