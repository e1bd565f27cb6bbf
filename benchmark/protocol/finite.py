"""Finds losses and gradients that are not finite: in each step, or later without waiting for the device.

On the CPU each step is checked at once (``Immediate``). Elsewhere the host would wait for the device in each
step, so the numbers stay there and are read every few steps (``Deferred``). The training has the same bits.
The loop repeats an epoch with a failing step up to that step with checks at once, for the same message.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmark.errors import JobError
from benchmark.method import Method
from benchmark.protocol.border import file_of

CHECK_EVERY = 50
"""Steps between two readings off the CPU."""
ADVICE = "try a smaller learning rate or train.precision=float32"
Losses = Mapping[str, Tensor]
Values = tuple[int, dict[str, float]]
"""A batch of the epoch and its losses."""


def finite_losses(losses: Losses, epoch: int, batch: int) -> dict[str, float]:
    """The losses as numbers.

    Raises:
        JobError: one of them is not finite.
    """
    values = dict(zip(losses, _stacked(losses).tolist(), strict=True))
    _refuse_losses(values, epoch, batch)
    return values


def _stacked(losses: Losses) -> Tensor:
    return torch.stack([loss.detach().float() for loss in losses.values()])


def _refuse_losses(values: Mapping[str, float], epoch: int, batch: int) -> None:
    broken = [n for n in values if not math.isfinite(values[n])]
    if broken:
        shown = ", ".join(f"{n} = {values[n]}" for n in values)
        raise JobError(
            f"loss {' and '.join(map(repr, broken))} is not finite in epoch {epoch}, batch {batch} "
            f"({shown}); {ADVICE}"
        )


def check_gradients(method: Method, epoch: int, batch: int, losses: Callable[[], Losses]) -> None:
    """Check that there are gradients and that they are finite.

    Args:
        losses: computes the losses of the batch again, to find out which of them has the broken gradient.

    Raises:
        JobError: a gradient is not finite (the message says of what and where), or there is none.
    """
    names, norms = _gradient_norms(method)
    if not bool(torch.isfinite(norms.sum())):
        parts = " and ".join(repr(n) for n in broken_parts(method, losses()))
        _refuse_gradients(names, norms.tolist(), epoch, batch, f" (of loss {parts})" if parts else "")


def _gradient_norms(method: Method) -> tuple[list[str], Tensor]:
    """Names of the parameters that have a gradient, and its Euclidean norm ``[P]``."""
    named = [(n, p.grad) for n, p in method.named_parameters() if p.grad is not None]
    if not named:
        raise JobError(
            f"{method.title} ({file_of(type(method))}): loss: 'total' depends on no parameter of the method"
        )
    return [n for n, _ in named], torch.stack(torch._foreach_norm([g for _, g in named]))


def _refuse_gradients(
    names: Sequence[str], norms: Sequence[float], epoch: int, batch: int, of_loss: str = ""
) -> None:
    broken = [n for n, norm in zip(names, norms, strict=True) if not math.isfinite(norm)]
    raise JobError(
        f"gradient of {', '.join(broken[:3])} is not finite in epoch {epoch}, batch {batch}{of_loss}; "
        f"{ADVICE}"
    )


def broken_parts(method: Method, losses: Losses) -> list[str]:
    """The losses whose own gradients are not finite; the total only if no other one is."""
    parameters = [p for p in method.parameters() if p.requires_grad]

    def breaks(loss: Tensor) -> bool:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)

    broken = [name for name, loss in losses.items() if loss.requires_grad and breaks(loss)]
    return [name for name in broken if name != "total"] or broken


class NotFinite(JobError):
    """A step that was found after later ones had been done.

    Args:
        batch: of the epoch.
    """

    def __init__(self, text: str, batch: int) -> None:
        super().__init__(text)
        self.batch = batch


class Checks(Protocol):
    """What the loop does with the losses and gradients of each step of an epoch."""

    epoch: int

    def losses(self, losses: Losses, batch: int) -> None:
        """Take the losses of a step."""

    def gradients(self, method: Method, batch: int, losses: Callable[[], Losses]) -> None:
        """Take the gradients of a step; ``losses`` computes its losses again."""

    def finished(self, *, everything: bool = False) -> Iterator[Values]:
        """The steps whose losses are known and have not been given yet, in their order.

        Args:
            everything: whether to read all that is left, at the end of an epoch.
        """


class Immediate:
    """Checks each step at once and fails before its update."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._ready: list[Values] = []

    def losses(self, losses: Losses, batch: int) -> None:
        """Check the losses."""
        self._ready.append((batch, finite_losses(losses, self.epoch, batch)))

    def gradients(self, method: Method, batch: int, losses: Callable[[], Losses]) -> None:
        """Check the gradients."""
        check_gradients(method, self.epoch, batch, losses)

    def finished(self, *, everything: bool = False) -> Iterator[Values]:
        """The losses of the step."""
        ready, self._ready = self._ready, []
        yield from ready


@dataclass
class _Step:
    batch: int
    losses: list[str]
    values: Tensor
    gradients: list[str]
    norms: Tensor

    def refuse(self, epoch: int, values: list[float]) -> None:
        """Raise JobError if one of ``values``, the numbers of losses and gradients, is not finite."""
        of_losses, of_gradients = values[: len(self.losses)], values[len(self.losses) :]
        _refuse_losses(dict(zip(self.losses, of_losses, strict=True)), epoch, self.batch)
        if not math.isfinite(sum(of_gradients)):
            _refuse_gradients(self.gradients, of_gradients, epoch, self.batch)


class Deferred:
    """Keeps the numbers of steps on the device and reads them every few steps, all at once.

    Args:
        epoch: of the steps.
        every: steps between two readings.
    """

    def __init__(self, epoch: int, every: int) -> None:
        self.epoch, self.every = epoch, every
        self._steps: list[_Step] = []

    def losses(self, losses: Losses, batch: int) -> None:
        """Keep the losses."""
        values = _stacked(losses)
        self._steps.append(_Step(batch, list(losses), values, [], values.new_zeros(0)))

    def gradients(self, method: Method, batch: int, losses: Callable[[], Losses]) -> None:
        """Keep the norms of the gradients."""
        names, norms = _gradient_norms(method)
        self._steps[-1].gradients, self._steps[-1].norms = names, norms.float()

    def finished(self, *, everything: bool = False) -> Iterator[Values]:
        """The losses of all steps since the last reading, if it is time for one.

        Raises:
            NotFinite: losses or gradients of a step are not finite; it is the first such step.
        """
        if not self._steps or (len(self._steps) < self.every and not everything):
            return
        steps, self._steps = self._steps, []
        numbers = iter(torch.cat([x for step in steps for x in (step.values, step.norms)]).tolist())
        ready: list[Values] = []
        for step in steps:
            values = [next(numbers) for _ in (*step.losses, *step.gradients)]
            try:
                step.refuse(self.epoch, values)
            except JobError as error:
                raise NotFinite(str(error), step.batch) from None
            ready.append((step.batch, dict(zip(step.losses, values[: len(step.losses)], strict=True))))
        yield from ready
