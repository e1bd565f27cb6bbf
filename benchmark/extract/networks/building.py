"""Building a network: its names and shapes alone, with weights for trials, or with those of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

SEED = 0
"""Weights for trials are drawn from it, so that they are the same in every process."""


def random_state(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The state dict of a network with weights that keep the size of what passes through its ReLUs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = build()
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
    return network.state_dict()


def skeleton(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Names, shapes and kinds of a network's state dict; no memory is taken for it."""
    with torch.device("meta"):
        return build().state_dict()


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of products and convolutions in the type that autocast would turn them into at each call."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            module.to(dtype)


def network(build: Callable[[], nn.Module], state: Mapping[str, Tensor], device: str) -> nn.Module:
    """The network with its weights, ready to compute."""
    with torch.device("meta"):
        built = build()
    built.load_state_dict(state, assign=True)
    return built.to(device).eval()
