"""Biases in front of a BatchNorm, which cancels them in training.

Their gradient is rounding error alone. Adam divides it by its own size, so each step moves them by about the
learning rate, in a direction that the processor decides. Training does not notice. Evaluation does, since the
running means of the BatchNorm lag behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import nn

BatchNorms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def dead_biases(model: nn.Module) -> Iterator[nn.Parameter]:
    """Biases of all ``nn.Linear`` that a BatchNorm follows in an ``nn.Sequential`` of the model."""
    for block in model.modules():
        if isinstance(block, nn.Sequential):
            for layer, following in pairwise(block):
                if (
                    isinstance(layer, nn.Linear)
                    and isinstance(following, BatchNorms)
                    and layer.bias is not None
                ):
                    yield layer.bias


def keep_dead_biases(model: nn.Module) -> None:
    """Leave these biases at the values with which they start: they are not trained."""
    for bias in dead_biases(model):
        bias.requires_grad_(False)
