"""From distances to S, U, HM, ZSL, AUSUC, per-class recall and the seen-unseen curve.

Calibrated stacking adds beta to the distances of the seen classes. A sample moves from its nearest seen class
to its nearest unseen class exactly when beta exceeds ``gap = unseen distance - seen distance``. So the two
nearest classes of each sample determine the results at every beta. The published grid and the exact curve
come from the same four arrays, and no ``[N, C]`` matrix is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.store import Samples
from benchmark.errors import JobError
from benchmark.method import Embeddings, Inputs, Method
from benchmark.protocol.batching import FeatureRules, make_batch
from benchmark.protocol.border import (
    check_comparable,
    checked_classes,
    checked_distances,
    checked_embeddings,
    checked_summary,
    file_of,
)
from benchmark.protocol.sources import Source, source_for
from benchmark.system.streams import Purpose, stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def grid(highest: float, count: int) -> Floats:
    """Betas of a published calibration, from 0 on, bit by bit. ``np.arange`` would round some differently."""
    return np.asarray(torch.linspace(0, highest, count).numpy())


GRID = grid(3, 16)
"""Betas of AVCA and TCAF: 0, 0.2, ..., 3."""
ROUNDING = 1e-12
"""Harmonic means that differ by less are equal."""

CHECKED = 1000
"""Samples that a test scores a second time, at most; half of a smaller evaluation set."""


@dataclass(frozen=True)
class Rounding:
    """How far the distances of a sample may differ when they are computed in another batch.

    The tolerance is ``of_spread`` times the standard deviation of all distances plus ``of_size`` times the
    largest.
    """

    of_spread: float
    of_size: float
    samples: float
    """Fraction of samples that may differ by more: rounding may flip a threshold (CJME's gate)."""


FULL, REDUCED = Rounding(1e-3, 2e-6, 0.01), Rounding(5e-2, 5e-3, 0.05)
"""Tolerances of float32, and of bfloat16 and float16.

``of_size`` is small, because a constant that a method adds to all distances would otherwise hide a change.
Measured with the six methods, trained or not: at most 4e-7 of the size in float32; in bfloat16 below 5e-3 of
the size for 95 % of the samples.
"""


@dataclass(frozen=True)
class Scores:
    """Results at one beta, as fractions. ``Nearest`` computes them."""

    seen: float
    """S: mean over seen classes of per-class recall."""
    unseen: float
    """U: mean over unseen classes of per-class recall."""
    zsl: float
    """Mean over unseen classes of per-class recall, with the unseen classes as the only candidates."""
    beta: float

    @property
    def hm(self) -> float:
        """Harmonic mean of S and U."""
        return harmonic_mean(self.seen, self.unseen)

    def as_dict(self) -> dict[str, float]:
        """The metrics by the names that are recorded."""
        return {"seen": self.seen, "unseen": self.unseen, "hm": self.hm, "zsl": self.zsl}


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b); 0 if both are 0."""
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


@dataclass(frozen=True)
class Nearest:
    """The nearest seen and the nearest unseen class of each sample, by the distances of one output.

    ``nearest_classes`` makes one per output, in each validation and in the test. All metrics come from it.
    """

    label: Ints
    """``[N]`` class ids of the samples."""
    is_seen: NDArray[np.bool_]
    """``[N]`` whether the sample's class is seen."""
    seen_distance: Floats
    seen_class: Ints
    unseen_distance: Floats
    unseen_class: Ints

    @classmethod
    def of(cls, distances: Floats, class_ids: Ints, seen_ids: Ints, label: Ints) -> Nearest:
        """Reduce distances ``[N, C]`` to ``class_ids`` ``[C]``, which ascend, so ties go to the lower id.

        Raises:
            ValueError: ids that do not ascend, no seen or no unseen class, a label that is no class, or a
                distance that is not finite.
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
                f"{distances[sample, column]}; distances must be finite "
                "(the embeddings are broken, or too large for float32)"
            )

        # The first minimum of each group of columns: the lower id at a tie.
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
        """Join blocks of samples."""
        return cls(**{name: np.concatenate([vars(b)[name] for b in blocks]) for name in vars(blocks[0])})

    def keep(self, samples: NDArray[np.bool_] | Ints) -> Nearest:
        """Some of the samples: a mask ``[N]``, or indices, whose order is kept."""
        return Nearest(**{name: values[samples] for name, values in vars(self).items()})

    def predict(self, beta: float, *, exact: bool = False) -> Ints:
        """Predicted class ids ``[N]`` at a beta, the lower id at a tie.

        Args:
            exact: add beta in float64; otherwise in float32, as in the published code.
        """
        dtype = np.dtype(np.float64 if exact else np.float32)
        shifted = self.seen_distance.astype(dtype) + np.asarray(beta, dtype)
        tie = (shifted == self.unseen_distance) & (self.seen_class < self.unseen_class)
        return np.where((shifted < self.unseen_distance) | tie, self.seen_class, self.unseen_class)

    def _weights(self) -> Doubles:
        """``[N]``: how much a correct prediction of each sample adds to S (seen) or U (unseen)."""
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
        """Scores at the beta of the grid with the highest HM, the first one at a tie."""
        weight = self._weights()
        return max((self._scores(float(beta), weight) for beta in grid), key=lambda s: s.hm)

    def right(self, beta: float, *, exact: bool = False) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each sample is classified correctly, ``[N]`` twice.

        The first is among all classes at ``beta``. The second is among the seen classes for a seen sample,
        and among the unseen classes for an unseen one.
        """
        own = np.where(self.is_seen, self.seen_class, self.unseen_class)
        return self.predict(beta, exact=exact) == self.label, own == self.label

    def recall(self, beta: float, *, exact: bool = False) -> dict[int, tuple[float, float, int]]:
        """Class id -> recall among all classes, recall among seen or unseen ones, samples."""
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
    """S and U as step functions of beta: each state once, in the order of increasing beta.

    Chao et al., An empirical study and analysis of generalized zero-shot learning, ECCV 2016.
    """

    beta: Doubles
    """``[K]`` a beta at which state k holds: a breakpoint, or the middle between two."""
    seen: Doubles
    unseen: Doubles

    @classmethod
    def of(cls, nearest: Nearest) -> Curve:
        """All states that occur at some beta."""
        # Each sample changes sides at its gap. If it is correct, S loses or U gains its weight there.
        gap = nearest.unseen_distance.astype(np.float64) - nearest.seen_distance.astype(np.float64)
        weight = nearest._weights()
        breaks, index = np.unique(gap, return_inverse=True)
        leaves_seen = -weight * (nearest.is_seen & (nearest.seen_class == nearest.label))
        joins_unseen = weight * (~nearest.is_seen & (nearest.unseen_class == nearest.label))
        at_tie = nearest.unseen_class < nearest.seen_class  # at the breakpoint itself the lower id wins
        size = len(breaks)

        # Two states per breakpoint: at the breakpoint itself, and after it.
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
        """The highest HM between the breakpoints: the HM at ``best_beta``."""
        return float(self.hm[::2].max())

    def best_beta(self) -> float:
        """The middle of the widest interval of betas with the highest HM; the lowest of equally wide ones.

        An interval is between two betas at which S or U changes. A single such beta is no interval, because
        there the order of class ids decides which samples are correct. So the result does not depend on that
        order, unless two seen or two unseen classes tie for a sample. The two unbounded intervals have HM 0.
        If 0 is the highest HM, the result is 0: no calibration.
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
        """About ``points`` states at most, both ends included, for tables and figures."""
        keep = np.unique(np.linspace(0, len(self.beta) - 1, points).astype(int))
        return Curve(self.beta[keep], self.seen[keep], self.unseen[keep])


@dataclass(frozen=True)
class EvaluationSet:
    """Samples to classify among seen and unseen classes, made by ``stages.evaluation_set``."""

    samples: Samples
    rows: Ints
    seen_ids: Ints
    unseen_ids: Ints
    text: Floats
    """Class embeddings ``[C, D_w]`` of ``class_ids``."""
    seed: int = 0
    """Fixes the order in which samples are embedded."""
    resident_share: float = 0.0
    """Fraction of the free memory of a CUDA device that the features may take; 0: copied each time."""
    _sources: dict[torch.device, Source] = field(default_factory=dict, compare=False, repr=False)

    def source(self, device: torch.device, inputs: Inputs) -> Source:
        """Where the features of batches on a device come from, chosen when they are first needed."""
        if device not in self._sources:
            self._sources[device] = source_for(self.samples, inputs, device, self.resident_share)
        return self._sources[device]

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
    summary: Mapping[str, float] | None = None,
) -> dict[str, Nearest]:
    """Embed all samples in blocks, and find their nearest seen and unseen classes by each output.

    The method gets the samples in a random order that ``data.seed`` fixes, so the other samples of a block
    reveal nothing of a sample's class. Results are in the order of ``data.rows``.

    Args:
        check: embed and score some samples again among others, and compare.
        summary: ``Method.summary`` for these samples; None: the method computes it from them.

    Raises:
        JobError: the method returned something wrong, or (with ``check``) its distances depend on the other
            samples of a block.
    """
    # Draw the order, and the samples that are scored again.
    rng = stream(Purpose.EVALUATION_ORDER, data.seed)
    order = rng.permutation(len(data.rows))
    again = rng.permutation(len(data.rows))[: min(CHECKED, -(-len(data.rows) // 2))] if check else order[:0]

    # Score the blocks. Only the nearest classes are kept, and the distances to be compared.
    kept: dict[str, list[Floats]] = {}
    blocks: dict[str, list[Nearest]] = {}
    with _evaluating(method) as device:
        classes = _embedded_classes(method, data, device)
        embed = partial(_embedded, method, data, rules, device, autocast)
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        method.summary = _summary(method, embed, classes, parts) if summary is None else dict(summary)
        score = partial(_distances, method, embed, classes)
        for places in parts:
            checked = np.isin(places, again)
            scored = score(places)
            _check_outputs(method, blocks or scored, scored)
            for output, distances in scored.items():
                block = Nearest.of(
                    distances, data.class_ids, data.seen_ids, data.samples.labels[data.rows[places]]
                )
                blocks.setdefault(output, []).append(block)
                kept.setdefault(output, []).append(distances[checked])

        # Score some samples again, and compare in the order in which ``kept`` has them.
        if check:
            first = order[np.isin(order, again)]
            before = {output: np.concatenate(parts) for output, parts in kept.items()}
            _compare(
                method, before, first, again, score, batch_size, FULL if autocast is nullcontext else REDUCED
            )
    back: Ints = np.argsort(order)
    return {output: Nearest.concatenate(parts).keep(back) for output, parts in blocks.items()}


@contextmanager
def _evaluating(method: Method) -> Iterator[torch.device]:
    """Evaluation mode; gives the method's device, and restores the mode afterwards."""
    was_training = method.training
    method.eval()
    try:
        yield next(method.parameters()).device
    finally:
        method.train(was_training)


def _embedded_classes(method: Method, data: EvaluationSet, device: torch.device) -> Tensor:
    text = torch.tensor(data.text, device=device)  # a copy: the method may change it
    return checked_classes(method, method.embed_classes(text), len(data.class_ids))


def _distances(
    method: Method, embed: Callable[[Ints], Embeddings], classes: Tensor, places: Ints
) -> dict[str, Floats]:
    """Distances ``[B, C]`` by output, in full precision also if the embeddings are in reduced precision."""
    embeddings = embed(places)
    check_comparable(method, embeddings, classes)
    distances = checked_distances(method, method.distances(embeddings, classes), len(places), len(classes))
    return {output: x.float().cpu().numpy() for output, x in distances.items()}


def _embedded(
    method: Method,
    data: EvaluationSet,
    rules: FeatureRules,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    places: Ints,
) -> Embeddings:
    """Embeddings of samples, given by their indices ``[B]`` into ``data.rows``."""
    source = data.source(device, rules.inputs)
    batch = make_batch(data.samples, data.rows[places], rules, training=False, source=source).to(device)
    with autocast():
        embeddings = method.embed(batch)
    return checked_embeddings(method, embeddings, len(places))


def _summary(
    method: Method, embed: Callable[[Ints], Embeddings], classes: Tensor, blocks: Sequence[Ints]
) -> dict[str, float]:
    """The numbers of ``Method.summarise`` over all samples; most methods have none."""
    if type(method).summarise is Method.summarise:
        return {}
    parts = [embed(places) for places in blocks]
    outputs = {name: torch.cat([part.outputs[name] for part in parts]) for name in parts[0].outputs}
    gates = [part.gate for part in parts if part.gate is not None]
    everything = Embeddings(outputs, torch.cat(gates) if gates else None)
    return checked_summary(method, method.summarise(everything, classes))


def _check_outputs(method: Method, first: Iterable[str], now: Iterable[str]) -> None:
    if set(first) != set(now):
        raise JobError(
            f"{method.title} ({file_of(type(method))}): distances must return the same outputs for every "
            f"batch, got {', '.join(first)}, then {', '.join(now)}"
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
    """Score some samples again, in another order and in smaller blocks, and compare the distances.

    Args:
        before: distances ``[P, C]`` of these samples by output, in the order ``order``.
        order, again: ``[P]`` indices of these samples, in their first order and in the new one.

    Raises:
        JobError: more distances differ than rounding explains.
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
                f"{method.title} ({file_of(type(method))}): distances (output {output!r}) of {differing} of "
                f"{len(again)} samples change with the other samples of a batch, by up to "
                f"{difference.max():.3g} (standard deviation of all distances: {spread:.3g}); "
                "embed and distances must look at each sample alone"
            )


@dataclass(frozen=True)
class Calibration:
    """The beta that stage 1 chose on the validation splits. Stage 2 applies it unchanged."""

    beta: float
    rule: str
    """``grid`` (published) or ``exact``."""
    per_output: Mapping[str, float]
    """The best beta of each output."""
    summary: Mapping[str, float] = field(default_factory=dict)
    """``Method.summary`` of the validation samples; most methods have none."""

    @classmethod
    def choose(
        cls,
        nearest: Mapping[str, Nearest],
        reported: str,
        *,
        exact: bool,
        mean_of_outputs: bool,
        betas: Floats = GRID,
    ) -> Calibration:
        """The beta with the highest HM: that of the reported output, or (published) the mean over outputs.

        Args:
            exact: whether to choose among all real betas instead of a grid.
            betas: the grid.
        """
        per_output = {
            output: x.curve().best_beta() if exact else float(np.float32(x.best_on_grid(betas).beta))
            for output, x in nearest.items()
        }
        beta = float(np.mean(list(per_output.values()))) if mean_of_outputs else per_output[reported]
        return cls(beta, "exact" if exact else "grid", per_output)
