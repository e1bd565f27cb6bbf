"""Tables of the tensors in published files of weights, and random weights by a table.

They need no library, so that ``extract weights`` lists and checks files without the extra ``encoders``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from benchmark.extract.networks.building import SEED

Shapes = Mapping[str, tuple[int, ...]]
"""Names and shapes of tensors of float32."""


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    """A linear layer with a bias."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, size: int) -> Shapes:
    """The factors and offsets of a normalisation."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def expected_tensors(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors without values on the device ``meta``."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def random_tensors(shapes: Shapes) -> dict[str, Tensor]:
    """Random weights, always the same ones; factors and variances are 1, biases 0."""
    generator = torch.Generator().manual_seed(SEED)
    state = {}
    for name, shape in shapes.items():
        x = torch.empty(shape)
        if len(shape) > 1:
            x.uniform_(-1, 1, generator=generator).mul_((3 / x[0].numel()) ** 0.5)
        else:
            x.fill_(float(name.endswith((".weight", "running_var"))))
        state[name] = x
    return state
