"""Cutting pictures and sound into what becomes a step of a sequence, a few of them at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def clips(pictures: Iterable[Array], length: int, *, pad: bool) -> Iterator[Array]:
    """Clips of ``length`` pictures without overlap, ``[length, ...]``.

    Args:
        pictures: prepared pictures, all of one shape.
        length: pictures of a clip.
        pad: fill the last clip with zeros; else what is left over is dropped.
    """
    clip: list[Array] = []
    for picture in pictures:
        clip.append(picture)
        if len(clip) == length:
            yield np.stack(clip)
            clip = []
    if clip and pad:
        yield np.stack([*clip, *[np.zeros_like(clip[0])] * (length - len(clip))])


def windows(blocks: Iterable[Array], length: int, hop: int) -> Iterator[Array]:
    """Windows ``[length]`` of a waveform that comes in blocks, one every ``hop`` samples; what is left over is dropped."""
    kept: Array = np.zeros(0)
    skip = 0  # samples to drop before the next window, where windows lie apart
    for block in blocks:
        kept = np.concatenate([kept, block])
        while len(kept) >= skip + length:
            yield kept[skip : skip + length]
            kept, skip = kept[min(skip + hop, len(kept)) :], max(0, skip + hop - len(kept))


def batches(items: Iterable[Array], size: int) -> Iterator[Array]:
    """Up to ``size`` items at a time, ``[n, ...]``."""
    batch: list[Array] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)
