"""Intervals and tests equal SciPy's, and have the stated coverage."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betaincinv

from benchmark.uncertainty import (
    LEVEL,
    bootstrap_intervals,
    holm,
    mean_interval,
    p_value,
    p_value_of_one_more,
    same_samples,
    smallest_t,
    spearman,
    spread,
    welch_p,
)

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
    t = stats.ttest_1samp(ours, 49.0).statistic / np.sqrt(
        n + 1
    )  # the error of the mean grows from s/sqrt(n) to s*sqrt(1+1/n)
    assert p_value_of_one_more(ours - 49.0) == pytest.approx(2 * stats.t.sf(abs(t), n - 1))


@pytest.mark.parametrize("n", [2, 5, 10])
def test_a_published_training_like_ours_is_rejected_at_the_nominal_rate(
    random: np.random.Generator, n: int
) -> None:
    """The published number is drawn from our distribution, 3,000 times."""
    ours, published = random.normal(30, 4, (3000, n)), random.normal(30, 4, (3000, 1))

    rejected = np.mean([p_value_of_one_more(gaps) < LEVEL for gaps in ours - published])

    assert abs(rejected - LEVEL) < 0.015


@pytest.mark.parametrize(
    ("differences", "p"), [([], NAN), ([3.0], NAN), ([0.0, 0.0], 1.0), ([2.0, 2.0], NAN)]
)
def test_what_cannot_be_tested_has_no_p_value(differences: list[float], p: float) -> None:
    assert p_value(differences) == pytest.approx(p, nan_ok=True)
    assert p_value_of_one_more(differences) == pytest.approx(p, nan_ok=True)


def test_an_interval_needs_two_values() -> None:
    assert np.isnan(mean_interval([1.0])).all()


@pytest.mark.parametrize("n", [0, 1, 2, 4, 5, 9])
def test_a_mean_is_shown_with_its_range_below_five_seeds_and_with_its_interval_from_there_on(
    random: np.random.Generator, n: int
) -> None:
    values = random.normal(50, 2, n)
    if n < 2:
        assert np.isnan(spread(values)).all()
    elif n < 5:
        assert spread(values) == (values.min(), values.max())
    else:
        expected = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
        assert spread(values.tolist()) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "n_2"), [(5, 5), (5, 12), (2, 30)])
@pytest.mark.parametrize("deviation", [0.0, 0.3, 4.0])
def test_welchs_test_is_that_of_scipy(
    random: np.random.Generator, n: int, n_2: int, deviation: float
) -> None:
    """Of samples that scatter differently, one perhaps not at all."""
    ours, theirs = random.normal(50, 2, n), random.normal(49, deviation, n_2)
    facts = [f(values) for values in (ours, theirs) for f in (np.mean, lambda x: np.std(x, ddof=1), len)]
    expected = stats.ttest_ind_from_stats(*facts, equal_var=False).pvalue
    assert welch_p(*facts) == pytest.approx(expected)
    assert welch_p(*facts[3:], *facts[:3]) == pytest.approx(expected), "whichever comes first"


def test_welchs_test_of_values_without_scatter() -> None:
    assert welch_p(50.0, 0.0, 5, 50.0, 0.0, 5) == 1.0
    assert welch_p(50.0, 0.0, 5, 49.9, 0.0, 5) == 0.0
    assert welch_p(50.0, 1.0, 5, 50.0, 0.0, 5) == 1.0


def test_holm_on_an_example_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, NAN, 0.04]) == pytest.approx([0.04, NAN, 0.04], nan_ok=True)
    assert holm([]) == []


def test_the_smallest_t_of_a_mark_is_that_of_holm() -> None:
    """The 15 pairs of six methods in HM and ZSL: out of reach with two seeds."""
    for n, tests in ((2, 30), (5, 30), (5, 1)):
        t = smallest_t(n, tests)
        p = 2 * stats.t.sf([t * 1.001, t * 0.999], n - 1)
        others = [1.0] * (tests - 1)
        assert holm([p[0], *others])[0] < LEVEL < holm([p[1], *others])[0]
    assert smallest_t(2, 30) > 300


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
    """Six equal methods and five seeds with their own effects: 15 pairs, 1,500 times."""
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
    held = sum(
        low <= 0 <= high for low, high in (mean_interval(random.normal(0, 2, 4)) for _ in range(trials))
    )
    assert abs(held / trials - 0.95) < 4 * (0.05 * 0.95 / trials) ** 0.5


Groups = list[tuple[list[int], list[int]]]
"""Samples and correct predictions of the groups of each class."""


def training(seen: Groups, unseen: Groups) -> list[dict[str, Any]]:
    """What a training logs of its groups, with equal predictions within seen and unseen classes."""
    return [
        {"class": f"{kind} {i}", "group": kind, "samples": samples, "gzsl": right, "own_group": right}
        for kind, classes in (("seen", seen), ("unseen", unseen))
        for i, (samples, right) in enumerate(classes)
    ]


OTHER: Groups = [([5, 4, 6], [2, 4, 1]), ([3, 5], [3, 2])]


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_the_bootstrap_of_many_single_samples_is_that_of_scipy(random: np.random.Generator) -> None:
    """One class: S is a plain mean, for which SciPy draws the samples one by one."""
    right = random.random(200) < 0.7
    ours = bootstrap_intervals([training([([1] * 200, right.astype(int).tolist())], OTHER)])["seen"]
    theirs = stats.bootstrap(
        (right.astype(float),), np.mean, n_resamples=5000, method="percentile", rng=random
    )
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_the_bootstrap_of_groups_is_a_plain_resampling_of_whole_groups(random: np.random.Generator) -> None:
    """Drawn one by one here, with Student's t for the normal quantile, for two trainings and four classes."""
    groups = [random.integers(1, 9, 7) for _ in range(4)]
    right = [[random.binomial(samples, rate) for samples in groups] for rate in (0.4, 0.7)]
    seen = [[(g.tolist(), r.tolist()) for g, r in zip(groups, one, strict=True)] for one in right]

    low, high = bootstrap_intervals([training(classes, OTHER) for classes in seen])["seen"]

    draws = []
    for _ in range(4000):
        times = [random.integers(0, 7, 6) for _ in groups]  # 6 of 7 groups, so that the variance is right
        recalls = [
            np.mean([r[t].sum() / g[t].sum() for g, r, t in zip(groups, one, times, strict=True)])
            for one in right
        ]
        draws.append(np.mean(recalls))
    mean = np.mean([[r.sum() / g.sum() for g, r in zip(groups, one, strict=True)] for one in right])
    joint = [np.sum(rs, axis=0) / 2 for rs in zip(*right, strict=True)]
    scatter = [
        np.var((r - r.sum() / g.sum() * g) / g.mean(), ddof=1) for g, r in zip(groups, joint, strict=True)
    ]
    freedom = np.sum(scatter) ** 2 / (np.square(scatter) / 6).sum()  # Satterthwaite
    wider = stats.t.isf(0.025, freedom) / stats.norm.isf(0.025)
    ends = [mean + wider * (end - mean) for end in np.quantile(draws, [0.025, 0.975])]
    assert low < mean < high
    assert (low, high) == pytest.approx(ends, abs=0.01)
    assert high - low > 0.1, "ten times the tolerance"


def clustered(
    random: np.random.Generator, classes: list[tuple[float, int]], shifts: list[float]
) -> tuple[list[Groups], float]:
    """Groups of about five samples whose recalls scatter about their class's, and the true mean over
    trainings.

    Args:
        classes: recall and number of groups of each.
        shifts: of the recall of each training; its answers are those of the same samples.
    """
    found: list[Groups] = [[] for _ in shifts]
    for recall, count in classes:
        samples, rank = random.integers(2, 9, count), random.random(count)
        for groups, shift in zip(found, shifts, strict=True):
            p = recall + shift if 0 < recall < 1 else recall
            rates = np.full(count, p) if p in (0, 1) else betaincinv(1.5 * p, 1.5 * (1 - p), rank)
            groups.append((samples.tolist(), random.binomial(samples, rates).tolist()))
    return found, float(np.mean([[r + s if 0 < r < 1 else r for r, _ in classes] for s in shifts]))


FEW = ([(p, 4) for p in (0.2, 0.4, 0.5, 0.6, 0.8)], [(0.3, 4), (0.5, 2), (0.6, 3), (0.2, 4)])
MIXED = (
    [(0.0, 6), (1.0, 5), (0.4, 6), (0.7, 4), (0.6, 1)],
    [(0.0, 5), (0.2, 8), (0.5, 6), (0.3, 1), (0.6, 7), (0.4, 3)],
)


@pytest.mark.parametrize("classes", [FEW, MIXED], ids=["few groups", "one group, all right, all wrong"])
def test_intervals_over_groups_hold_the_truth_of_the_mean_over_trainings(
    random: np.random.Generator, classes: tuple[list[tuple[float, int]], list[tuple[float, int]]]
) -> None:
    """300 test sets for two trainings: only a simulation shows the coverage of the whole procedure."""
    trials, shifts = 300, [-0.05, 0.05]
    held = dict.fromkeys(("seen", "unseen", "hm", "zsl"), 0)
    for _ in range(trials):
        (seen, s), (unseen, u) = (clustered(random, some, shifts) for some in classes)
        found = bootstrap_intervals([training(*one) for one in zip(seen, unseen, strict=True)])
        by_training = [
            [np.mean([p + x if 0 < p < 1 else p for p, _ in some]) for some in classes] for x in shifts
        ]
        truth = {
            "seen": s,
            "unseen": u,
            "zsl": u,
            "hm": np.mean([2 * a * b / (a + b) for a, b in by_training]),
        }
        for name, value in truth.items():
            held[name] += found[name][0] <= value <= found[name][1]
    assert all(0.92 <= count / trials <= 0.98 for count in held.values()), held


def test_samples_of_one_source_say_less_than_as_many_single_ones() -> None:
    """Ten images, each described eight times and always or never correct: ten observations, not eighty."""
    right = [8, 0] * 5
    together = bootstrap_intervals([training([([8] * 10, right)], OTHER)])["seen"]
    apart = bootstrap_intervals([training([([1] * 80, [1] * 40 + [0] * 40)], OTHER)])["seen"]
    assert width(together) > 2.5 * width(apart)


def test_the_same_groups_are_drawn_for_all_trainings() -> None:
    """Two trainings that are correct on equal groups are as certain as one; opposite ones fix the mean."""
    same, opposite = [5, 0, 4, 1, 5, 0], [0, 5, 1, 4, 0, 5]
    one = training([([5] * 6, same)], OTHER)
    twice = bootstrap_intervals([one, one])
    against = bootstrap_intervals([one, training([([5] * 6, opposite)], OTHER)])["seen"]
    for name, interval in bootstrap_intervals([one]).items():
        assert twice[name] == pytest.approx(interval), name
    assert width(against) < width(twice["seen"])
    assert against[0] <= 0.5 <= against[1]


@pytest.mark.parametrize("right", [0, 5])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_class_that_is_all_right_or_all_wrong_is_not_sure(right: int, groups: int) -> None:
    low, high = bootstrap_intervals([training([([5] * groups, [right] * groups)], OTHER)])["seen"]
    assert (low, high)[right == 5] == right / 5
    assert 0.02 < high - low < 0.9


def test_no_right_answer_at_all_has_no_harmonic_mean_but_may_have_one() -> None:
    none: Groups = [([5, 5, 5], [0, 0, 0])]
    found = bootstrap_intervals([training(none, none)])
    assert all(low == 0 < high < 0.7 for low, high in found.values())


def test_trainings_on_other_samples_have_no_interval() -> None:
    one, other = training([([5, 5], [1, 2])], OTHER), training([([5, 4], [1, 2])], OTHER)
    assert not same_samples([one, other])
    with pytest.raises(ValueError, match="different samples"):
        bootstrap_intervals([one, other])
    assert bootstrap_intervals([training([], OTHER)]) == {}


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
