"""Finds losses and gradients that are not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmark.errors import JobError
from benchmark.method import Method
from benchmark.protocol.border import file_of


def finite_losses(losses: Mapping[str, Tensor], epoch: int, batch: int) -> dict[str, float]:
    """The losses as numbers.

    Raises:
        JobError: one of them is not finite.
    """
    names = list(losses)
    values = dict(zip(names, torch.stack([losses[n].detach().float() for n in names]).tolist(), strict=True))
    broken = [n for n in names if not math.isfinite(values[n])]
    if broken:
        shown = ", ".join(f"{n} = {values[n]}" for n in names)
        raise JobError(
            f"loss {' and '.join(map(repr, broken))} is not finite in epoch {epoch}, batch {batch} "
            f"({shown}); try a smaller learning rate or train.precision=float32"
        )
    return values


def check_gradients(
    method: Method, epoch: int, batch: int, losses: Callable[[], Mapping[str, Tensor]]
) -> None:
    """Check that there are gradients and that they are finite.

    Args:
        losses: computes the losses of the batch again, to find out which of them has the broken gradient.

    Raises:
        JobError: a gradient is not finite (the message says of what and where), or there is none.
    """
    named = [(n, p.grad) for n, p in method.named_parameters() if p.grad is not None]
    if not named:
        raise JobError(
            f"{method.title} ({file_of(type(method))}): loss: 'total' depends on no parameter of the method"
        )
    norms = torch.stack(torch._foreach_norm([g for _, g in named]))
    if not bool(torch.isfinite(norms.sum())):
        finite = torch.isfinite(norms).tolist()
        broken = [n for (n, _), fine in zip(named, finite, strict=True) if not fine]
        parts = " and ".join(repr(n) for n in broken_parts(method, losses()))
        raise JobError(
            f"gradient of {', '.join(broken[:3])} is not finite in epoch {epoch}, batch {batch}"
            f"{f' (of loss {parts})' if parts else ''}; "
            "try a smaller learning rate or train.precision=float32"
        )


def broken_parts(method: Method, losses: Mapping[str, Tensor]) -> list[str]:
    """The losses whose own gradients are not finite; the total only if no other one is."""
    parameters = [p for p in method.parameters() if p.requires_grad]

    def breaks(loss: Tensor) -> bool:
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return not all(bool(torch.isfinite(g).all()) for g in gradients if g is not None)

    broken = [name for name, loss in losses.items() if loss.requires_grad and breaks(loss)]
    return [name for name in broken if name != "total"] or broken
