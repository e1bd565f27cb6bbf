"""Run by itself, since what hangs in ffmpeg cannot be interrupted: begins to decode a damaged video again and
again."""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.videos import Clip, write_video

from benchmark.extract.media.decode import UnreadableVideo, read_frames

TIMES = 20


def noise(seconds: float) -> NDArray[np.uint8]:
    """A picture that takes long to decode, so that decoding breaks off while others are worked on."""
    return np.random.default_rng(round(seconds * 1000)).integers(0, 255, (360, 640, 3), np.uint8)


def damage(path: Path, rng: random.Random) -> None:
    """Turn a bit in each of a hundred places, some in each picture; the headers stay as they are."""
    content = bytearray(path.read_bytes())
    for _ in range(100):
        content[rng.randrange(len(content) // 10, len(content) * 9 // 10)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


if __name__ == "__main__":
    rng = random.Random(0)
    path = write_video(
        Path(sys.argv[1]), Clip(seconds=1, size=(640, 360), picture=noise, sound=None, options={"crf": "25"})
    )
    damage(path, rng)
    seen = 0
    for _ in range(TIMES):
        with suppress(UnreadableVideo):
            seen += sum(1 for _ in islice(read_frames(path, None, lambda note: None), rng.randrange(1, 20)))
    print(seen)
