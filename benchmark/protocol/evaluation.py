"""From distances to S, U, HM, ZSL, AUSUC, per-class recall and the seen-unseen curve.

Adding beta to the distances of the seen classes moves a sample from its nearest seen class to its nearest unseen class
exactly when beta exceeds ``gap = unseen distance - seen distance``. So the two nearest classes of each sample hold all that
any beta can decide: the published grid and the exact curve come from the same four arrays, and no ``[N, C]`` matrix is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.store import Samples
from benchmark.errors import JobError
from benchmark.method import Method
from benchmark.protocol.batching import FeatureRules, make_batch
from benchmark.protocol.border import check_comparable, checked_classes, checked_distances, checked_embeddings, file_of
from benchmark.system.streams import Purpose, stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

GRID: Floats = torch.linspace(0, 3, 16).numpy()
"""Betas of the published protocol, 0, 0.2, ..., 3, bit by bit: ``np.arange`` would round 1.8 and 2.6 otherwise."""
ROUNDING = 1e-12
"""Harmonic means that differ by less are the same."""


CHECKED = 1000
"""Samples that a test scores a second time, at most; half of the samples where they are fewer."""


@dataclass(frozen=True)
class Rounding:
    """How far distances of one sample may differ when they are computed beside other samples."""

    of_spread: float
    """Share of the standard deviation of all distances, which is added to ..."""
    of_size: float
    """... this share of the largest distance."""
    samples: float
    """Share of samples that may differ by more: rounding can carry a sample over a threshold (CJME's gate)."""


FULL, REDUCED = Rounding(1e-3, 2e-6, 0.01), Rounding(5e-2, 5e-3, 0.05)
"""Of float32, and of bfloat16 and float16. With a large share of the size a constant that a method adds to all distances would
hide a change. Measured with the six methods, trained or not: at most 4e-7 of the size in float32. In bfloat16 all of the error,
for 95 % of the samples, is below 5e-3 of the size."""


@dataclass(frozen=True)
class Scores:
    """Results at one beta, as fractions."""

    seen: float
    """S: mean over seen classes of per-class recall."""
    unseen: float
    """U: mean over unseen classes of per-class recall."""
    zsl: float
    """Mean per-class recall on unseen samples among unseen classes only."""
    beta: float

    @property
    def hm(self) -> float:
        """Harmonic mean of S and U."""
        return harmonic_mean(self.seen, self.unseen)

    def as_dict(self) -> dict[str, float]:
        """The metrics under their stable names."""
        return {"seen": self.seen, "unseen": self.unseen, "hm": self.hm, "zsl": self.zsl}


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b), 0 where both are 0."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


@dataclass(frozen=True)
class Nearest:
    """For each sample of an evaluation set its nearest seen and its nearest unseen class, in one output."""

    label: Ints
    """``[N]`` class ids."""
    is_seen: NDArray[np.bool_]
    """``[N]`` whether the sample's own class is a seen one."""
    seen_distance: Floats
    seen_class: Ints
    unseen_distance: Floats
    unseen_class: Ints

    @classmethod
    def of(cls, distances: Floats, class_ids: Ints, seen_ids: Ints, label: Ints) -> Nearest:
        """From distances ``[N, C]`` to classes ``class_ids`` ``[C]`` (ascending, so that ties go to the lower id).

        Raises:
            ValueError: ids not ascending, no seen or no unseen class, a label that is no class, or a distance not finite.
        """
        if np.any(np.diff(class_ids) <= 0):
            raise ValueError("class ids must be ascending")
        seen = np.isin(class_ids, seen_ids)
        if not seen.any() or seen.all():
            raise ValueError("evaluation needs seen and unseen classes")
        if not np.isin(label, class_ids).all():
            raise ValueError("a sample's label is not among the classes")
        if not np.isfinite(distances).all():
            sample, column = np.argwhere(~np.isfinite(distances))[0]
            raise ValueError(
                f"the distance of a sample of class id {label[sample]} to class id {class_ids[column]} is "
                f"{distances[sample, column]}; distances must be finite: the embeddings are broken, or too large for float32"
            )
        columns, rows = (np.flatnonzero(seen), np.flatnonzero(~seen)), np.arange(len(label))
        best = [c[distances[:, c].argmin(1)] for c in columns]
        return cls(
            label=label,
            is_seen=np.isin(label, seen_ids),
            seen_distance=distances[rows, best[0]],
            seen_class=class_ids[best[0]],
            unseen_distance=distances[rows, best[1]],
            unseen_class=class_ids[best[1]],
        )

    @classmethod
    def concatenate(cls, blocks: Sequence[Nearest]) -> Nearest:
        """Blocks of samples as one."""
        return cls(**{name: np.concatenate([vars(b)[name] for b in blocks]) for name in vars(blocks[0])})

    def keep(self, samples: NDArray[np.bool_] | Ints) -> Nearest:
        """Some of the samples: those where ``samples`` ``[N]`` is True, or those that it names, in its order."""
        return Nearest(**{name: values[samples] for name, values in vars(self).items()})

    def predict(self, beta: float, *, exact: bool = False) -> Ints:
        """Predicted class ids at a beta, lower id at a tie. The sum is float32 as in published code, float64 if ``exact``."""
        dtype = np.dtype(np.float64 if exact else np.float32)
        shifted = self.seen_distance.astype(dtype) + np.asarray(beta, dtype)
        tie = (shifted == self.unseen_distance) & (self.seen_class < self.unseen_class)
        return np.where((shifted < self.unseen_distance) | tie, self.seen_class, self.unseen_class)

    def _weights(self) -> Doubles:
        """``[N]``: what a correct sample adds to S (seen) or U (unseen)."""
        weight = np.zeros(len(self.label))
        for group in (self.is_seen, ~self.is_seen):
            _, index, counts = np.unique(self.label[group], return_inverse=True, return_counts=True)
            weight[group] = 1.0 / (counts[index] * max(1, len(counts)))
        return weight

    def at(self, beta: float, *, exact: bool = False) -> Scores:
        """S, U and ZSL at one beta."""
        return self._scores(beta, self._weights(), exact)

    def _scores(self, beta: float, weight: Doubles, exact: bool = False) -> Scores:
        right = (self.predict(beta, exact=exact) == self.label) * weight
        zsl = (self.unseen_class == self.label) * weight
        return Scores(
            seen=float(right[self.is_seen].sum()),
            unseen=float(right[~self.is_seen].sum()),
            zsl=float(zsl[~self.is_seen].sum()),
            beta=float(beta),
        )

    def best_on_grid(self, grid: Floats = GRID) -> Scores:
        """Scores at the grid's beta with the highest HM; the first maximum wins."""
        weight = self._weights()
        return max((self._scores(float(beta), weight) for beta in grid), key=lambda s: s.hm)

    def right(self, beta: float, *, exact: bool = False) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """``[N]`` each: whether a sample is right among all classes at ``beta``, and among seen or unseen ones, as it is."""
        own = np.where(self.is_seen, self.seen_class, self.unseen_class)
        return self.predict(beta, exact=exact) == self.label, own == self.label

    def recall(self, beta: float, *, exact: bool = False) -> dict[int, tuple[float, float, int]]:
        """Class id -> recall among all classes at ``beta``, recall among the classes of its own group, samples."""
        right, own = self.right(beta, exact=exact)
        table = {}
        for c in np.unique(self.label):
            mask = self.label == c
            table[int(c)] = (float(right[mask].mean()), float(own[mask].mean()), int(mask.sum()))
        return table

    def curve(self) -> Curve:
        """The exact seen-unseen curve over all real betas, in O(N log N)."""
        return Curve.of(self)


@dataclass(frozen=True)
class Curve:
    """S and U as step functions of beta, every state once, in the order of rising beta.

    Chao et al., An empirical study and analysis of generalized zero-shot learning, ECCV 2016.
    """

    beta: Doubles
    """``[K]`` a beta at which state k holds: a breakpoint itself, or the middle between two."""
    seen: Doubles
    unseen: Doubles

    @classmethod
    def of(cls, nearest: Nearest) -> Curve:
        """All states that any beta can bring about."""
        gap = nearest.unseen_distance.astype(np.float64) - nearest.seen_distance.astype(np.float64)
        weight = nearest._weights()
        breaks, index = np.unique(gap, return_inverse=True)
        leaves_seen = -weight * (nearest.is_seen & (nearest.seen_class == nearest.label))
        joins_unseen = weight * (~nearest.is_seen & (nearest.unseen_class == nearest.label))
        at_tie = nearest.unseen_class < nearest.seen_class  # at the breakpoint itself the lower id has the sample
        size = len(breaks)

        def states(change: Doubles, start: float) -> Doubles:
            at = np.bincount(index[at_tie], change[at_tie], size)
            after = np.bincount(index[~at_tie], change[~at_tie], size)
            values = start + np.concatenate([[0.0], np.cumsum(np.stack([at, after], 1).ravel())])
            return np.clip(values, 0.0, 1.0)

        beta = np.empty(2 * size + 1)
        beta[1::2] = breaks
        beta[2:-1:2] = (breaks[1:] + breaks[:-1]) / 2
        beta[0], beta[-1] = breaks[0] - 1.0, breaks[-1] + 1.0
        return cls(beta, states(leaves_seen, float(-leaves_seen.sum())), states(joins_unseen, 0.0))

    @property
    def hm(self) -> Doubles:
        """Harmonic mean of each state."""
        total = self.seen + self.unseen
        return np.divide(2 * self.seen * self.unseen, total, out=np.zeros_like(total), where=total > 0)

    @property
    def ausuc(self) -> float:
        """Area under S as a function of U."""
        return float(np.trapezoid(self.seen, self.unseen))

    def best_hm(self) -> float:
        """The highest HM between the breakpoints, which ``best_beta`` reaches."""
        return float(self.hm[::2].max())

    def best_beta(self) -> float:
        """The middle of the best interval: of all betas that reach the highest HM the widest interval, of equally wide ones
        the lowest.

        An interval lies between two betas at which S or U changes. One such beta alone is none: which samples are right there
        depends on the order of class ids. So the result does not, if no two seen nor two unseen classes tie for a sample. The
        intervals without an end on one side have HM 0; if that is the highest, the result is 0, no calibration.
        """
        hm, seen, unseen = self.hm[::2], self.seen[::2], self.unseen[::2]  # between the breakpoints
        if hm.max() <= ROUNDING:
            return 0.0
        changes = (np.diff(seen) != 0) | (np.diff(unseen) != 0)
        ends, inside = self.beta[1::2][changes], hm[1:][changes][:-1]
        widths = np.where(inside >= hm.max() - ROUNDING, np.diff(ends), -1.0)
        best = int(widths.argmax())
        return float((ends[best] + ends[best + 1]) / 2)

    def thinned(self, points: int = 500) -> Curve:
        """At most about ``points`` states, for tables and pictures; the ends are kept."""
        keep = np.unique(np.linspace(0, len(self.beta) - 1, points).astype(int))
        return Curve(self.beta[keep], self.seen[keep], self.unseen[keep])


@dataclass(frozen=True)
class EvaluationSet:
    """Samples to evaluate among seen and unseen classes."""

    samples: Samples
    rows: Ints
    seen_ids: Ints
    unseen_ids: Ints
    text: Floats
    """Word vectors ``[C, D_w]`` of ``class_ids``."""
    seed: int = 0
    """Fixes the order in which samples are embedded."""

    @property
    def class_ids(self) -> Ints:
        """Seen and unseen ids, ascending."""
        return np.union1d(self.seen_ids, self.unseen_ids)


@torch.no_grad()
def nearest_classes(
    method: Method,
    data: EvaluationSet,
    rules: FeatureRules,
    *,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    check: bool = False,
) -> dict[str, Nearest]:
    """Nearest seen and unseen classes of all samples, per output, a block of samples at a time.

    The method gets the samples in an order that ``data.seed`` fixes, so that neighbours in a block say nothing of each other's
    class. Results are in the order of ``data.rows``.

    Args:
        check: whether a random part of the samples is embedded and scored again beside other samples.

    Raises:
        JobError: the method returned something wrong, or (with ``check``) its distances depend on the samples beside.
    """
    rng = stream(Purpose.EVALUATION_ORDER, data.seed)
    order = rng.permutation(len(data.rows))
    again = rng.permutation(len(data.rows))[: min(CHECKED, -(-len(data.rows) // 2))] if check else order[:0]
    kept: dict[str, list[Floats]] = {}
    blocks: dict[str, list[Nearest]] = {}
    with _evaluating(method) as device:
        score = partial(_distances, method, data, rules, _embedded_classes(method, data, device), autocast)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            checked = np.isin(places, again)
            scored = score(places)
            _check_outputs(method, blocks or scored, scored)
            for output, distances in scored.items():
                block = Nearest.of(distances, data.class_ids, data.seen_ids, data.samples.labels[data.rows[places]])
                blocks.setdefault(output, []).append(block)
                kept.setdefault(output, []).append(distances[checked])
        if check:
            first = order[np.isin(order, again)]  # as they stand in ``kept``
            before = {output: np.concatenate(parts) for output, parts in kept.items()}
            _compare(method, before, first, again, score, batch_size, FULL if autocast is nullcontext else REDUCED)
    back: Ints = np.argsort(order)
    return {output: Nearest.concatenate(parts).keep(back) for output, parts in blocks.items()}


@contextmanager
def _evaluating(method: Method) -> Iterator[torch.device]:
    """Evaluation mode on the method's device; its mode is as before afterwards."""
    was_training = method.training
    method.eval()
    try:
        yield next(method.parameters()).device
    finally:
        method.train(was_training)


def _embedded_classes(method: Method, data: EvaluationSet, device: torch.device) -> Tensor:
    text = torch.tensor(data.text, device=device)  # a copy, which the method may change
    return checked_classes(method, method.embed_classes(text), len(data.class_ids))


def _distances(
    method: Method,
    data: EvaluationSet,
    rules: FeatureRules,
    classes: Tensor,
    autocast: Callable[[], AbstractContextManager[Any]],
    places: Ints,
) -> dict[str, Floats]:
    """Distances ``[B, C]`` by output, in full precision whatever that of the embeddings.

    Args:
        places: ``[B]`` indices into ``data.rows``.
    """
    batch = make_batch(data.samples, data.rows[places], rules, training=False).to(classes.device)
    with autocast():
        embeddings = method.embed(batch)
    embeddings = checked_embeddings(method, embeddings, len(places))
    check_comparable(method, embeddings, classes)
    distances = checked_distances(method, method.distances(embeddings, classes), len(places), len(classes))
    return {output: x.float().cpu().numpy() for output, x in distances.items()}


def _check_outputs(method: Method, first: Iterable[str], now: Iterable[str]) -> None:
    if set(first) != set(now):
        raise JobError(
            f"{method.title} ({file_of(type(method))}): distances must return the same outputs for every batch, "
            f"got {', '.join(first)}, then {', '.join(now)}"
        )


def _compare(
    method: Method,
    before: Mapping[str, Floats],
    order: Ints,
    again: Ints,
    score: Callable[[Ints], dict[str, Floats]],
    batch_size: int,
    rounding: Rounding,
) -> None:
    """Score some samples again, in another order and in smaller blocks, and compare.

    Args:
        before: distances ``[P, C]`` by output of the same samples, in the order ``order``.
        order, again: ``[P]`` indices of these samples, as they came before and as they come now.

    Raises:
        JobError: more differ than rounding explains.
    """
    size = max(1, min(batch_size, len(again)) // 2)
    blocks = [score(again[start : start + size]) for start in range(0, len(again), size)]
    for block in blocks:
        _check_outputs(method, before, block)
    place = np.argsort(again)[np.argsort(np.argsort(order))]  # of each sample of ``order`` in ``again``
    for output, earlier in before.items():
        later = np.concatenate([block[output] for block in blocks])[place]
        difference = np.abs(later - earlier).max(1)
        spread, largest = float(earlier.std()), float(np.abs(earlier).max())
        differing = int((difference > rounding.of_spread * spread + rounding.of_size * largest).sum())
        if differing > 1 + rounding.samples * len(again):
            raise JobError(
                f"{method.title} ({file_of(type(method))}): distances (output {output!r}) of {differing} of {len(again)} "
                f"samples change with the samples that are embedded beside them, by up to {difference.max():.3g} where all "
                f"distances have a standard deviation of {spread:.3g}; embed and distances must look at each sample alone"
            )


@dataclass(frozen=True)
class Calibration:
    """The beta that stage 1 chose on validation; stage 2 applies it unchanged."""

    beta: float
    rule: str
    """``grid`` (published) or ``exact``."""
    per_output: Mapping[str, float]

    @classmethod
    def choose(cls, nearest: Mapping[str, Nearest], reported: str, *, exact: bool, mean_of_outputs: bool) -> Calibration:
        """The beta of the highest HM: of the reported output, or (published) the mean over the outputs."""
        per_output = {
            output: x.curve().best_beta() if exact else float(np.float32(x.best_on_grid().beta))
            for output, x in nearest.items()
        }
        beta = float(np.mean(list(per_output.values()))) if mean_of_outputs else per_output[reported]
        return cls(beta, "exact" if exact else "grid", per_output)
