"""Build a network: its names and shapes only, with random weights, or with those of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

SEED = 0
"""Random weights are drawn with this seed, so that they are the same in every process."""


def random_state(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """A random state dict, with weights that keep the scale of activations through ReLUs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = build()
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
    return network.state_dict()


def skeleton(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """Names, shapes and types of a network's state dict, without memory for the values."""
    with torch.device("meta"):
        return build().state_dict()


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Convert the weights of linear layers and convolutions once, which autocast would do at each call."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            module.to(dtype)


def network(build: Callable[[], nn.Module], state: Mapping[str, Tensor], device: str) -> nn.Module:
    """A network with weights, in evaluation mode."""
    with torch.device("meta"):
        built = build()
    built.load_state_dict(state, assign=True)
    return built.to(device).eval()
