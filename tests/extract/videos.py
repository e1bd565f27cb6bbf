"""Small real videos with sound, written by PyAV's own encoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


def grey(seconds: float) -> NDArray[np.uint8]:
    """A picture whose brightness says its time: 20 levels a second."""
    return np.full((48, 64, 3), 20 + 20 * round(seconds * 10) / 10 % 220, np.uint8)


@dataclass(frozen=True)
class Clip:
    """What a video holds and how it is encoded."""

    seconds: float = 2.0
    rate: int = 25
    size: tuple[int, int] = (64, 48)
    """Width and height."""
    codec: str = "libx264"
    pixels: str = "yuv420p"
    sound: str | None = "aac"
    sound_rate: int = 44_100
    layout: str = "stereo"
    tone: float = 440.0
    rotation: int = 0
    times: Sequence[float] | None = None
    """Seconds of each picture, for a variable rate."""
    picture: Callable[[float], NDArray[np.uint8]] = grey


def write_video(path: Path, clip: Clip = Clip()) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(clip.codec, rate=clip.rate)
        stream.width, stream.height = clip.size
        stream.pix_fmt = clip.pixels
        stream.options = {"crf": "10"} if clip.codec == "libx264" else {}
        if clip.times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if clip.rotation:
            stream.set_display_rotation(clip.rotation)
        sound: Any = container.add_stream(clip.sound, rate=clip.sound_rate, layout=clip.layout) if clip.sound else None
        _encode_pictures(container, stream, clip)
        if sound is not None:
            _encode_sound(container, sound, clip)
    return path


def _encode_pictures(container: Any, stream: Any, clip: Clip) -> None:
    times = clip.times if clip.times is not None else [i / clip.rate for i in range(round(clip.seconds * clip.rate))]
    for i, seconds in enumerate(times):
        picture = av.VideoFrame.from_ndarray(clip.picture(seconds), format="rgb24")
        picture = picture.reformat(*clip.size, format=clip.pixels)
        if clip.times is not None:
            picture.pts, picture.time_base = round(seconds * 1000), Fraction(1, 1000)
        else:
            picture.pts, picture.time_base = i, Fraction(1, clip.rate)
        container.mux(stream.encode(picture))
    container.mux(stream.encode(None))


def _encode_sound(container: Any, stream: Any, clip: Clip) -> None:
    for start in range(0, round(clip.seconds * clip.sound_rate), clip.sound_rate):
        time = np.arange(start, min(start + clip.sound_rate, round(clip.seconds * clip.sound_rate))) / clip.sound_rate
        wave = 0.5 * np.sin(2 * np.pi * clip.tone * time)
        channels = np.stack([wave, 0.5 * wave] if clip.layout == "stereo" else [wave]).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=clip.layout)
        frame.sample_rate, frame.pts, frame.time_base = clip.sound_rate, start, Fraction(1, clip.sound_rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
