"""Cut frames into clips and audio into windows, each of which becomes a time step, a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def clips(frames: Iterable[Array], length: int, *, pad: bool) -> Iterator[Array]:
    """Clips of ``length`` frames without overlap, ``[length, ...]``.

    Args:
        frames: prepared frames, all of one shape.
        length: frames of a clip.
        pad: fill the last clip with zeros; else the remaining frames are dropped.
    """
    for clip in batches(frames, length):
        if len(clip) == length:
            yield clip
        elif pad:
            yield np.concatenate([clip, np.zeros((length - len(clip), *clip.shape[1:]), clip.dtype)])


def windows(blocks: Iterable[Array], length: int, hop: int) -> Iterator[Array]:
    """Windows ``[length]`` of a waveform in blocks, one every ``hop`` samples; the rest is dropped."""
    kept: Array = np.zeros(0)
    skip = 0  # samples to drop before the next window, if there are gaps between windows
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
