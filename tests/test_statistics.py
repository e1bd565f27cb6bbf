"""Intervals and tests equal SciPy's, and are right as often as they say."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmark.statistics import LEVEL, bootstrap_intervals, holm, mean_interval, p_value, spearman

NAN = float("nan")


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("n", [2, 3, 5, 20])
def test_intervals_and_p_values_are_those_of_scipy(random: np.random.Generator, n: int) -> None:
    ours, theirs = random.normal(50, 2, n), random.normal(48, 2, n)
    expected = stats.ttest_rel(ours, theirs)
    assert p_value(ours - theirs) == pytest.approx(expected.pvalue)
    assert mean_interval(ours - theirs) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert p_value(ours - 49.0) == pytest.approx(stats.ttest_1samp(ours, 49.0).pvalue)


@pytest.mark.parametrize(("differences", "p"), [([], NAN), ([3.0], NAN), ([0.0, 0.0], 1.0), ([2.0, 2.0], NAN)])
def test_what_cannot_be_tested_has_no_p_value(differences: list[float], p: float) -> None:
    assert p_value(differences) == pytest.approx(p, nan_ok=True)


def test_an_interval_needs_two_values() -> None:
    assert np.isnan(mean_interval([1.0])).all()


def test_holm_on_an_example_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, NAN, 0.04]) == pytest.approx([0.04, NAN, 0.04], nan_ok=True)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_stepwise_definition_rejects(p: list[float]) -> None:
    rejected = set()
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] > LEVEL / (len(p) - rank) + 1e-12:
            break
        rejected.add(i)
    corrected = holm(p)
    clear = [i for i in range(len(p)) if abs(corrected[i] - LEVEL) > 1e-9]
    assert all((corrected[i] < LEVEL) == (i in rejected) for i in clear)


def test_false_positives_come_at_the_nominal_rate(random: np.random.Generator) -> None:
    """Six methods that differ in nothing, five seeds with effects of their own: 15 pairs, 1,500 times."""
    trials, single, family = 1500, 0, 0
    pairs = list(combinations(range(6), 2))
    for _ in range(trials):
        scores = random.normal(0, 1, (6, 5)) + random.normal(0, 3, 5)
        p = [p_value(scores[i] - scores[j]) for i, j in pairs]
        single += p[0] < LEVEL
        family += min(holm(p)) < LEVEL
    error = (LEVEL * (1 - LEVEL) / trials) ** 0.5
    assert abs(single / trials - LEVEL) < 4 * error
    assert family / trials < LEVEL + 4 * error


def test_real_differences_are_found(random: np.random.Generator) -> None:
    found = sum(p_value(random.normal(3, 1, 5)) < LEVEL for _ in range(200))
    assert found > 190


def test_intervals_hold_the_truth_as_often_as_they_say(random: np.random.Generator) -> None:
    trials = 2000
    held = sum(low <= 0 <= high for low, high in (mean_interval(random.normal(0, 2, 4)) for _ in range(trials)))
    assert abs(held / trials - 0.95) < 4 * (0.05 * 0.95 / trials) ** 0.5


def test_the_bootstrap_is_that_of_scipy(random: np.random.Generator) -> None:
    """One seen and one unseen class: S and U are plain means, for which SciPy draws the samples one by one."""
    right = random.random(60) < 0.7
    ours = bootstrap_intervals(([right.mean()], [60]), ([0.4], [50]), [0.6], draws=20_000)
    theirs = stats.bootstrap((right.astype(float),), np.mean, n_resamples=20_000, method="percentile", rng=random)
    assert ours["seen"] == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_bootstrap_intervals_hold_the_truth(random: np.random.Generator) -> None:
    truth = {"s": np.array([0.8, 0.6, 0.9, 0.3]), "u": np.array([0.5, 0.2, 0.4]), "z": np.array([0.6, 0.5, 0.7])}
    seen, unseen = truth["s"].mean(), truth["u"].mean()
    expected = {"seen": seen, "unseen": unseen, "hm": 2 * seen * unseen / (seen + unseen), "zsl": truth["z"].mean()}
    trials, n = 400, 80
    held = dict.fromkeys(expected, 0)
    for trial in range(trials):
        recall = {name: random.binomial(n, p) / n for name, p in truth.items()}
        found = bootstrap_intervals((recall["s"], [n] * 4), (recall["u"], [n] * 3), recall["z"], seed=trial, draws=500)
        for name, value in expected.items():
            held[name] += found[name][0] <= value <= found[name][1]
    assert all(0.91 < count / trials < 0.985 for count in held.values()), held


@pytest.mark.parametrize("n", [3, 10, 69])
def test_rank_correlations_are_those_of_scipy_ties_included(n: int) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(n)
    x, y = rng.integers(0, 6, n).astype(float), rng.normal(size=n)
    x[0], x[1] = 0, 1  # not all the same

    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_a_rank_correlation_needs_three_pairs_and_values_that_differ() -> None:
    assert np.isnan(spearman([1, 2], [2, 1]))
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_no_recall_at_all_has_no_harmonic_mean() -> None:
    assert bootstrap_intervals(([0.0], [5]), ([0.0], [5]), [0.0])["hm"] == (0.0, 0.0)
