"""SqueezeNet 1.1: 512-dimensional features of an image.

Source: Iandola et al., SqueezeNet, 2016, arXiv 1602.07360; version 1.1 of github.com/forresti/SqueezeNet. The
    names in the
state dict are those of the Keras port, with dots instead of slashes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import UsageError
from benchmark.extract.media.images import smooth_resize
from benchmark.untrusted.arrays import load_pickle

DIM = 512
SIZE = 227
"""Side of the network's input in pixels."""
BGR_MEAN = (103.939, 116.779, 123.68)
"""Mean of ImageNet, blue first."""


class Fire(nn.Module):
    """``[N, inputs, H, W]`` -> ``[N, 2 * expanded, H, W]``."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = functional.relu(self.squeeze1x1(x))
        return functional.relu(torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], 1))


class SqueezeNet(nn.Module):
    """Prepared images ``[N, 3, 227, 227]`` -> the spatial mean of the last fire module, ``[N, 512]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        self.fire2, self.fire3 = Fire(64, 16, 64), Fire(128, 16, 64)
        self.fire4, self.fire5 = Fire(128, 32, 128), Fire(256, 32, 128)
        self.fire6, self.fire7 = Fire(256, 48, 192), Fire(384, 48, 192)
        self.fire8, self.fire9 = Fire(384, 64, 256), Fire(512, 64, 256)
        self.pool = nn.MaxPool2d(3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(functional.relu(self.conv1(x)))
        h = self.pool(self.fire3(self.fire2(h)))
        h = self.pool(self.fire5(self.fire4(h)))
        h = self.fire9(self.fire8(self.fire7(self.fire6(h))))
        pooled: Tensor = h.mean((2, 3))
        return pooled


def prepare(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A square image ``[side, side, 3]`` (red, green, blue) as the network takes it, ``[3, 227, 227]``."""
    resized = smooth_resize(image, SIZE, SIZE)[:, :, ::-1].astype(np.float32) - np.array(BGR_MEAN, np.float32)
    return np.ascontiguousarray(resized.transpose(2, 0, 1))


def read_keras_weights(path: Path) -> dict[str, Tensor]:
    """Read a pickled dict of layer -> (kernel ``[h, w, in, out]``, bias ``[out]``) safely, as a state dict.

    Raises:
        UsageError: the file is damaged, refused as unsafe, or holds something else.
    """
    content = load_pickle(path)
    state: dict[str, Tensor] = {}
    for layer, arrays in content.items() if isinstance(content, dict) else ():
        if not (
            isinstance(layer, str) and isinstance(arrays, list | tuple) and all(map(_is_numbers, arrays))
        ):
            state = {}
            break
        for name, array in zip(("weight", "bias"), arrays, strict=False):
            turned = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
            state[f"{layer.replace('/', '.')}.{name}"] = torch.from_numpy(
                np.ascontiguousarray(turned, np.float32)
            )
    if not state:
        raise UsageError(f"{path}: not a SqueezeNet weight file; download it again")
    return state


def _is_numbers(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"
