"""Prepare images for networks: resize, scale to 0-1, normalise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from benchmark.errors import UsageError
from benchmark.system.shipped_files import install

try:
    from PIL import Image
except ImportError:
    raise UsageError(f"Pillow resizes the images and is not installed: {install('extract')}") from None

Pixels = NDArray[np.uint8]
Prepared = NDArray[np.float32]


def smooth_resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resize to ``[height, width, 3]``: bilinear, with smoothing, as torchvision does for PIL images."""
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BILINEAR)
    )


def bicubic_short_side(image: Pixels, size: int) -> Pixels:
    """Resize ``[height, width, 3]`` so that the shorter side is ``size``: bicubic, as torchvision does."""
    height, width = image.shape[:2]
    scaled = int(size * max(height, width) / min(height, width))
    target = (size, scaled) if width <= height else (scaled, size)  # width and height
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(target, Image.Resampling.BICUBIC))


def normalise(image: Pixels, mean: Sequence[float], std: Sequence[float]) -> Prepared:
    """``[H, W, 3]`` of 0-255 -> ``[3, H, W]``: scaled to 0-1, then normalised by channel."""
    scaled = (image.astype(np.float32) / 255 - np.array(mean, np.float32)) / np.array(std, np.float32)
    prepared: Prepared = np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32)
    return prepared


def short_side(prepared: Prepared, size: int) -> Prepared:
    """Resize ``[3, H, W]`` so that the shorter side is ``size``: bilinear, without smoothing."""
    height, width = prepared.shape[1:]
    if min(height, width) == size:
        return prepared
    target = (size, width * size // height) if height <= width else (height * size // width, size)
    resized = functional.interpolate(torch.from_numpy(prepared)[None], target, mode="bilinear")
    out: Prepared = resized[0].numpy()
    return out
