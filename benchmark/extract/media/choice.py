"""Which frames of a video and which part of its audio are used, if not all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.extract.media.decode import UnreadableVideo

BLANK = -1
"""Index for an image of the mean colour, which is zero after the preprocessing."""


def chosen_frames(count: int, claimed: int, wanted: int, quirks: Collection[str]) -> Sequence[int]:
    """Indices of evenly spaced frames; of one frame, that of the middle, ``count // 2``.

    Published variants, which are defined for one frame:

    - ``claimed_middle``: half of the number in the header. The frame may not exist (index ``count`` or more).
    - ``early_middle``: the frame before the middle of those that can be read, as many as the header has.
    - ``blank_single``: with ``early_middle``, a video of one frame gives ``BLANK``; else it is left out.

    Args:
        count: of frames that can be decoded, at least 1.
        claimed: frames by the header of the file.
        wanted: frames to choose, at least 1. A short video gives some of them more than once.
        quirks: published quirks to repeat.

    Raises:
        UnreadableVideo: the published extraction leaves such a video out.
    """
    if "claimed_middle" in quirks:
        if not claimed:
            raise UnreadableVideo("its header has no number of frames; the published code left it out")
        return [claimed // 2]
    if "early_middle" in quirks:
        read = min(count, claimed)
        if read > 1:
            return [read // 2 - 1]
        if read == 1 and "blank_single" in quirks:
            return [BLANK]
        raise UnreadableVideo(f"{read} readable frames; the published code left it out, or did not end")
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def centre_of(blocks: Iterable[NDArray[Any]], length: int) -> NDArray[np.float32]:
    """The central samples of a waveform that comes in blocks, or all if it is shorter: ``[up to length]``.

    Of ``n`` samples the first ``(n - length) // 2`` are omitted. About half of a long waveform is in memory.
    """
    kept: list[NDArray[np.float32]] = []
    start = end = 0  # the kept samples of the waveform
    for block in blocks:
        kept.append(block.astype(np.float32))
        end += len(block)
        while kept and start + len(kept[0]) <= (end - length) // 2:
            start += len(kept.pop(0))
    waveform = np.concatenate(kept) if kept else np.zeros(0, np.float32)
    first = max(0, (end - length) // 2) - start
    return waveform[first : first + length]
