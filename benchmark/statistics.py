"""What can be said from few seeds: intervals of means, tests of differences, and how far the choice of test samples matters.

Numbers of a method over seeds are taken as independent and nearly normal (Student's t). Seeds of two methods are pairs: a seed
gives both the same batches, so that differences are taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats would take seconds to import

from benchmark.streams import Purpose, stream

CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
"""A difference is called significant where its p-value, corrected for the number of tests, is below this."""
DRAWS = 2000

Floats = NDArray[np.float64]


def mean_interval(values: ArrayLike, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's t interval of the mean of independent values; NaN with fewer than two."""
    x = np.asarray(values, float)
    if x.size < 2:
        return (float("nan"), float("nan"))
    half = stdtrit(x.size - 1, (1 + confidence) / 2) * x.std(ddof=1) / np.sqrt(x.size)
    return (float(x.mean() - half), float(x.mean() + half))


def p_value(differences: ArrayLike) -> float:
    """Two-sided p-value of the t-test that the mean difference is zero.

    Args:
        differences: of pairs (the paired test), or to a published value (the one-sample test).

    Returns:
        1 where all differences are zero; NaN with fewer than two differences, where one is missing, or where all are the same
        and not zero.
    """
    x = np.asarray(differences, float)
    if x.size >= 2 and not np.any(x):
        return 1.0
    if x.size < 2 or np.ptp(x) == 0:
        return float("nan")
    t = x.mean() / (x.std(ddof=1) / np.sqrt(x.size))
    return float(2 * stdtr(x.size - 1, -abs(t)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that the chance of any false positive is kept (Holm, 1979).

    NaN stays NaN and is not counted.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)  # NaN last
    count = int(np.isfinite(p).sum())
    corrected = np.full(len(p), np.nan)
    factors = count - np.arange(count)
    corrected[order[:count]] = np.minimum(1.0, np.maximum.accumulate(factors * p[order[:count]]))
    return [float(value) for value in corrected]


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation, tied values with the mean of their ranks; NaN with fewer than three pairs or where all
    values of one are the same."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(means[index], np.float64)


def bootstrap_intervals(
    seen: tuple[ArrayLike, ArrayLike],
    unseen: tuple[ArrayLike, ArrayLike],
    within_unseen: ArrayLike,
    *,
    seed: int = 0,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
) -> Mapping[str, tuple[float, float]]:
    """Percentile intervals of ``seen``, ``unseen``, ``hm`` and ``zsl`` over test samples drawn anew within each class.

    Within a class a sample is right or wrong, so that drawing n samples with replacement is a binomial draw. The model and
    beta are fixed: this is the uncertainty from the test samples alone, beside that over seeds.

    Args:
        seen: recall of each seen class among all classes, and its samples.
        unseen: the same of each unseen class.
        within_unseen: recall of each unseen class among the unseen classes.
    """
    generator = stream(Purpose.BOOTSTRAP, seed)

    def drawn(recall: ArrayLike, samples: ArrayLike) -> Floats:
        n = np.asarray(samples, np.int64)
        right = generator.binomial(n, np.clip(np.asarray(recall, float), 0, 1), (draws, n.size))
        return np.asarray((right / n).mean(axis=1), np.float64)

    s, u, zsl = drawn(*seen), drawn(*unseen), drawn(within_unseen, unseen[1])
    total = s + u
    hm = np.divide(2 * s * u, total, out=np.zeros_like(total), where=total > 0)
    outside = (1 - confidence) / 2
    intervals = {}
    for name, values in {"seen": s, "unseen": u, "hm": hm, "zsl": zsl}.items():
        low, high = np.quantile(values, [outside, 1 - outside])
        intervals[name] = (float(low), float(high))
    return intervals
