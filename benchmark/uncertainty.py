"""Statistics for few seeds: intervals of means, tests of differences, and intervals over test samples.

The results of a method over seeds are assumed to be independent and nearly normal (Student's t). Two methods
are compared in pairs, seed by seed, since a seed gives both the same batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit  # Student's t; scipy.stats would take seconds to import

from benchmark.system.streams import Purpose, stream

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
"""A difference is significant if its p-value, corrected for the number of tests, is below this."""
DRAWS = 2000
FEWEST_SEEDS = 5
"""Values of which an interval or a test is shown at least. With two, the 95 % interval reaches 9 standard
deviations to each side, and the standard deviation itself is wrong by a factor of four in a fifth of all
cases."""

Floats = NDArray[np.float64]
Counts = NDArray[np.uint8]


def mean_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's t interval of the mean of independent values; NaN with fewer than two."""
    x = np.asarray(values, float)
    if x.size < 2:
        return (float("nan"), float("nan"))
    half = stdtrit(x.size - 1, (1 + confidence) / 2) * x.std(ddof=1) / np.sqrt(x.size)
    return (float(x.mean() - half), float(x.mean() + half))


def spread(values: ArrayLike) -> tuple[float, float]:
    """What a mean over seeds is shown with: its 95 % interval, or below ``FEWEST_SEEDS`` the range.

    Returns:
        The ends of the interval, or the lowest and the highest value; NaN with fewer than two values.
    """
    x = np.asarray(values, float)
    if x.size >= FEWEST_SEEDS or x.size < 2:
        return mean_interval(x)
    return (float(x.min()), float(x.max()))


def p_value(differences: ArrayLike) -> float:
    """Two-sided p-value of the paired t-test, whose null hypothesis is that the mean difference is zero.

    Returns:
        1 if all differences are zero. NaN with fewer than two differences, if one is missing, or if all are
        equal and not zero.
    """
    x = np.asarray(differences, float)
    return _two_sided(x, 1 / x.size if x.size else 1.0)


def p_value_of_one_more(differences: ArrayLike) -> float:
    """Two-sided p-value of the test that another value comes from the same distribution as ours.

    The other value is a single training with its own scatter, so the variance of the mean difference is s^2
    (1 + 1/n). This test corresponds to the prediction interval of one further training.

    Args:
        differences: of each of our n values to the other value.

    Returns:
        As in ``p_value``.
    """
    x = np.asarray(differences, float)
    return _two_sided(x, 1 + 1 / x.size if x.size else 1.0)


def _two_sided(x: Floats, factor: float) -> float:
    """P-value of the mean of ``x`` against zero, with the variance of one value times ``factor``."""
    if x.size >= 2 and not np.any(x):
        return 1.0
    if x.size < 2 or np.ptp(x) == 0:
        return float("nan")
    t = x.mean() / (x.std(ddof=1) * np.sqrt(factor))
    return float(2 * stdtr(x.size - 1, -abs(t)))


def welch_p(mean: float, deviation: float, n: int, mean_2: float, deviation_2: float, n_2: int) -> float:
    """Two-sided p-value of Welch's t-test that two samples have one mean.

    Args:
        deviation, deviation_2: sample standard deviations.

    Returns:
        1 for equal means; 0 for different means of values without scatter.
    """
    a, b = deviation**2 / n, deviation_2**2 / n_2
    if mean == mean_2:
        return 1.0
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (n_2 - 1))
    return float(2 * stdtr(freedom, -abs(mean - mean_2) / np.sqrt(a + b)))


def smallest_t(n: int, tests: int) -> float:
    """The |t| that the most significant of ``tests`` tests over n values must exceed (Holm's correction)."""
    return float(stdtrit(n - 1, 1 - LEVEL / (2 * tests)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, which bounds the chance of any false positive (Holm, 1979).

    NaN stays NaN and does not count.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)  # NaN last
    count = int(np.isfinite(p).sum())
    corrected = np.full(len(p), np.nan)
    factors = count - np.arange(count)
    corrected[order[:count]] = np.minimum(1.0, np.maximum.accumulate(factors * p[order[:count]]))
    return [float(value) for value in corrected]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation; tied values get the mean of their ranks.

    Returns:
        NaN with fewer than three pairs, or if all values of one variable are equal.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(means[index], np.float64)


Classes = Sequence[Mapping[str, Any]]
"""Correct predictions of one training, one mapping for each class: ``class`` (its name) and ``group`` (seen
or unseen).

The other keys have one number for each group of test samples from the same source: ``samples`` in the group,
and how many are correct among all classes (``gzsl``) and within seen or unseen classes (``own_group``).
"""


def same_samples(trainings: Sequence[Classes]) -> bool:
    """Whether all trainings were tested on the same classes and groups of samples."""
    tested = [[(c["class"], c["group"], list(c["samples"])) for c in classes] for classes in trainings]
    return all(one == tested[0] for one in tested)


def bootstrap_intervals(trainings: Sequence[Classes], *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals over test samples of ``seen``, ``unseen``, ``hm`` and ``zsl``, means over trainings.

    Cluster bootstrap: each draw resamples the groups of samples within each class, equally for all trainings,
    and takes the mean over trainings. Models, betas and classes are fixed. G - 1 of G groups are drawn, so
    the variance is right with few groups too (Rao and Wu, JASA 1988). The percentile interval is widened
    about the estimate by the ratio of the quantiles of Student's t and the normal, with Satterthwaite's
    degrees of freedom. ``_Resampled.of`` describes how classes are treated whose groups show no scatter.

    Args:
        trainings: at least one.

    Returns:
        An empty dict if no seen or no unseen class was tested.

    Raises:
        ValueError: the trainings were not tested on the same samples.
    """
    if not same_samples(trainings):
        raise ValueError(
            "the trainings were tested on different samples, so that no group can be drawn for all of them"
        )

    # Draw groups for all classes, so that the draws do not depend on which metric is asked for.
    classes = list(zip(*trainings, strict=True))
    classes.sort(key=lambda one: str(one[0]["group"]))  # seen ones first; otherwise as they come
    drawn = _draws(tuple(len(one[0]["samples"]) for one in classes), seed)
    count = sum(one[0]["group"] == "seen" for one in classes)
    if not 0 < count < len(classes):
        return {}

    random = stream(Purpose.BOOTSTRAP, seed, 1)
    seen = _Resampled.of(classes[:count], drawn[:count], "gzsl", random)
    unseen = _Resampled.of(classes[count:], drawn[count:], "gzsl", random)
    zsl = _Resampled.of(classes[count:], drawn[count:], "own_group", random)
    found = {"seen": seen, "unseen": unseen, "hm": _harmonic(seen, unseen), "zsl": zsl}
    return {name: resampled.interval() for name, resampled in found.items()}


@lru_cache(maxsize=2)
def _draws(groups: tuple[int, ...], seed: int) -> list[Counts]:
    """How often each of the G groups of a class is drawn, ``[DRAWS, G]`` for each class, G - 1 in a draw.

    The last results are cached, since the next method is usually tested on the same samples.
    """
    random, found = stream(Purpose.BOOTSTRAP, seed, 0), []
    for size in groups:
        cells = random.integers(0, size, (DRAWS, size - 1)) + size * np.arange(DRAWS)[:, None]
        found.append(np.bincount(cells.ravel(), minlength=size * DRAWS).reshape(DRAWS, size).astype(np.uint8))
    return found


@dataclass(frozen=True)
class _Resampled:
    """A metric of T trainings over bootstrap draws."""

    estimate: Floats
    """``[T]``"""
    draws: Floats
    """``[DRAWS, T]``"""
    variance: Floats
    """``[C]``: contribution of each class to the variance of the mean over trainings."""
    freedom: Floats
    """``[C]``: degrees of freedom of each class; infinite for classes that borrow their scatter."""

    @classmethod
    def of(
        cls,
        classes: Sequence[Sequence[Mapping[str, Any]]],
        drawn: Sequence[Counts],
        answers: str,
        random: np.random.Generator,
    ) -> _Resampled:
        """The mean of the recall over classes.

        A class with one group, or with equal recall in all groups, shows no scatter. It is drawn from a
        binomial of n independent samples about its recall, with one correct and one wrong sample added
        (Laplace). n = G / phi, where phi is the variance between groups relative to recall * (1 - recall),
        estimated from the other classes. If no class shows scatter, phi is 1: each group counts as one
        sample.

        Args:
            classes: each class as all T trainings logged it.
            drawn: ``_draws`` of these classes.
            answers: ``gzsl`` or ``own_group``.
        """
        # Recall of each class, and the variance between its groups.
        samples = [np.asarray(one[0]["samples"], float) for one in classes]
        right = [
            np.stack([np.asarray(training[answers], float) for training in one], axis=1) for one in classes
        ]
        groups = np.array([len(n) for n in samples])
        recall = np.stack([r.sum(axis=0) / n.sum() for n, r in zip(samples, right, strict=True)])  # [C, T]
        mean = recall.mean(axis=1)
        scatter = np.array(
            [_scatter(n, r.mean(axis=1), m) for n, r, m in zip(samples, right, mean, strict=True)]
        )

        # How many independent samples the groups of a class are worth.
        own = scatter > 1e-12
        most = (mean * (1 - mean) + scatter / groups)[own].sum()  # without the bias of recall * (1 - recall)
        worth = groups / (min(1.0, scatter[own].sum() / most) if own.any() else 1.0)
        smooth = (worth * mean + 1) / (worth + 2)

        # The draws of each class: of its groups, or of a binomial if the groups show no scatter.
        total = np.zeros((DRAWS, recall.shape[1]))
        for c, (n, r, times) in enumerate(zip(samples, right, drawn, strict=True)):
            if own[c]:
                # whole numbers: exact
                sums = times.astype(np.float32) @ np.column_stack([n, r]).astype(np.float32)
                total += sums[:, 1:] / sums[:, :1]
            else:
                whole = int(worth[c])
                off = random.binomial(whole, smooth[c], DRAWS) / whole - smooth[c]
                total += recall[c] + (off * np.sqrt(whole / worth[c]))[:, None]
        variance = np.where(own, scatter / groups, smooth * (1 - smooth) / worth) / len(classes) ** 2
        return cls(recall.mean(axis=0), total / len(classes), variance, np.where(own, groups - 1.0, np.inf))

    def interval(self) -> tuple[float, float]:
        """The widened percentile interval of the mean over trainings, within 0 and 1."""
        middle, outside = float(self.estimate.mean()), (1 - CONFIDENCE) / 2
        low, high = np.clip(np.quantile(self.draws.mean(axis=1), [outside, 1 - outside]), 0, 1).tolist()
        wider = float(stdtrit(self._freedom(), 1 - outside) / ndtri(1 - outside))
        return max(0.0, middle - wider * (middle - low)), min(1.0, middle + wider * (high - middle))

    def _freedom(self) -> float:
        """Satterthwaite's degrees of freedom; classes that borrow their scatter have the others' sum."""
        own = np.isfinite(self.freedom)
        borrowed = self.variance[~own].sum() ** 2 / max(1.0, self.freedom[own].sum())
        spread = (self.variance[own] ** 2 / self.freedom[own]).sum() + (borrowed if own.any() else 0.0)
        return min(1e6, float(self.variance.sum() ** 2 / spread)) if spread > 0 else 1e6


def _scatter(samples: Floats, right: Floats, recall: float) -> float:
    """Variance of the groups of a class about its recall; 0 with one group."""
    if len(samples) < 2:
        return 0.0
    return float(np.var((right - recall * samples) / samples.mean(), ddof=1))


def _harmonic(seen: _Resampled, unseen: _Resampled) -> _Resampled:
    """The harmonic mean of each training, with variances propagated by its derivatives."""

    def mean(s: Floats, u: Floats) -> Floats:
        total = s + u
        return np.divide(2 * s * u, total, out=np.zeros_like(total), where=total > 0)

    s, u = seen.estimate, unseen.estimate
    squared = np.maximum((s + u) ** 2, 1e-12)
    by_seen, by_unseen = (2 * u**2 / squared).mean(), (2 * s**2 / squared).mean()
    return _Resampled(
        mean(s, u),
        mean(np.clip(seen.draws, 0, 1), np.clip(unseen.draws, 0, 1)),
        np.concatenate([by_seen**2 * seen.variance, by_unseen**2 * unseen.variance]),
        np.concatenate([seen.freedom, unseen.freedom]),
    )
