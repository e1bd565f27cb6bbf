"""Confirms a search: the best trials are trained again with seeds that took no part in it.

The highest of many noisy results is too high, and often that of a setting that was merely lucky. So the best
trials and trial 0 are compared by their mean validation HM over other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """A trial that is trained again."""

    number: int
    values: Mapping[str, Any]
    """Its hyperparameters; empty for trial 0, which has the published or default ones."""
    hm: float | None
    """Validation HM in the search, fraction; None for a trial 0 that was pruned or failed."""


@dataclass(frozen=True)
class Confirmed:
    """A candidate and its trainings with other seeds."""

    number: int
    values: Mapping[str, Any]
    search_hm: float | None
    hms: Sequence[float | None]
    """Validation HM by seed, fractions; None for a training that failed."""

    @property
    def complete(self) -> bool:
        """Whether all its trainings have a result."""
        return None not in self.hms

    @property
    def mean(self) -> float:
        """Mean validation HM, fraction; NaN if a training failed."""
        return _mean(self.hms) if self.complete else math.nan


@dataclass(frozen=True)
class Confirmation:
    """The result of all candidates, and which one is kept."""

    seeds: Sequence[int]
    """Numbers of the repetitions whose seeds the trainings had."""
    candidates: Sequence[Confirmed]
    number: int
    """The trial that is kept."""
    values: Mapping[str, Any]
    """Its hyperparameters; empty for trial 0."""
    hm: float
    """Its mean validation HM over the seeds, fraction."""
    gain: float | None
    """Mean difference to trial 0 of the candidate with the highest mean, paired by seed; None if that is
    trial 0, or if trial 0 has no result."""
    gain_error: float | None
    """Standard error of ``gain``."""

    def sentence(self) -> str:
        """What is kept, and why."""
        text = f"trial {self.number} is kept, validation HM {100 * self.hm:.2f} over {len(self.seeds)} seeds"
        if self.gain is None or self.gain_error is None:
            return text
        gain = f"{100 * self.gain:.2f} ± {100 * self.gain_error:.2f}"
        if self.number:
            return f"{text}, {gain} above trial 0"
        return f"{text}; the best other trial is {gain} above it, which may be noise"


def confirm(seeds: Sequence[int], candidates: Sequence[Confirmed]) -> Confirmation | None:
    """Choose the candidate with the highest mean validation HM.

    Trial 0 stays unless the other one's gain, paired by seed, exceeds one standard error of its mean.

    Args:
        seeds: at least two.
        candidates: with a training for each seed.

    Returns:
        None if a training of every candidate failed.
    """
    complete = [c for c in candidates if c.complete]
    if not complete:
        return None
    best = max(complete, key=lambda c: (c.mean, -c.number))
    start = next((c for c in complete if c.number == 0), None)
    gain = error = None
    kept = best
    if start is not None and best.number != 0:
        gains = [(b or 0.0) - (s or 0.0) for b, s in zip(best.hms, start.hms, strict=True)]
        gain, error = _mean(gains), _standard_error(gains)
        kept = best if gain > error else start
    return Confirmation(list(seeds), list(candidates), kept.number, dict(kept.values), kept.mean, gain, error)


def confirm_candidates(
    seeds: Sequence[int], candidates: Sequence[Candidate], hm_of: Callable[[Candidate, int], float | None]
) -> Confirmation | None:
    """``confirm`` the candidates of a search.

    Args:
        hm_of: validation HM of a candidate with a seed, fraction; None if the training failed.
    """
    trained = [Confirmed(c.number, c.values, c.hm, [hm_of(c, seed) for seed in seeds]) for c in candidates]
    return confirm(seeds, trained)


def _mean(values: Sequence[float | None]) -> float:
    return math.fsum(v or 0.0 for v in values) / len(values)


def _standard_error(values: Sequence[float]) -> float:
    mean = _mean(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
