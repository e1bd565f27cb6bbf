"""Small real videos with sound, written by PyAV's own encoders."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

OPTIONS = {"libx264": {"crf": "10"}, "libvpx": {"threads": "1"}}
"""Of encoders. VP8's threads wait for each other in loops, which takes six times the CPU time on small
pictures."""


def grey(seconds: float) -> NDArray[np.uint8]:
    """A picture whose brightness says its time: 20 levels a second."""
    return np.full((48, 64, 3), 20 + 20 * round(seconds * 10) / 10 % 220, np.uint8)


def clock(seconds: float) -> NDArray[np.uint8]:
    """A picture that says its time modulo 20 s: whole seconds above, the rest below."""
    picture = np.full((48, 64, 3), 20 + round(200 * (seconds % 1)), np.uint8)
    picture[:24] = 20 + 10 * int(seconds % 20)
    return picture


def shown_time(picture: NDArray[np.uint8]) -> float:
    """The time that a picture of ``clock`` says, to a hundredth or so."""
    return round((float(picture[:20].mean()) - 20) / 10) + (float(picture[-20:].mean()) - 20) / 200


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
    rise: float = 0.0
    """Hertz by which the tone rises each second."""
    begins: float = 0.0
    """Second of the content with which the file begins."""
    sound_delay: float = 0.0
    """Seconds by which the sound begins later than the pictures."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the encoder of pictures."""
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
        stream.options = {**OPTIONS.get(clip.codec, {}), **clip.options}
        if clip.times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if clip.rotation:
            stream.set_display_rotation(clip.rotation)
        sound: Any = (
            container.add_stream(clip.sound, rate=clip.sound_rate, layout=clip.layout) if clip.sound else None
        )
        packets = [_pictures(stream, clip), *([_sound(sound, clip)] if sound is not None else [])]
        for _, some in heapq.merge(*packets, key=lambda item: item[0]):
            container.mux(some)
    return path


def _pictures(stream: Any, clip: Clip) -> Iterator[tuple[float, list[Any]]]:
    """Packets of pictures, and the second at which they are due in the file."""
    times = (
        clip.times
        if clip.times is not None
        else [i / clip.rate for i in range(round(clip.seconds * clip.rate))]
    )
    for i, seconds in enumerate(times):
        picture = av.VideoFrame.from_ndarray(clip.picture(seconds + clip.begins), format="rgb24")
        picture = picture.reformat(*clip.size, format=clip.pixels)
        if clip.times is not None:
            picture.pts, picture.time_base = round(seconds * 1000), Fraction(1, 1000)
        else:
            picture.pts, picture.time_base = i, Fraction(1, clip.rate)
        yield seconds, stream.encode(picture)
    yield float("inf"), stream.encode(None)


def _sound(stream: Any, clip: Clip) -> Iterator[tuple[float, list[Any]]]:
    for start in range(0, round(clip.seconds * clip.sound_rate), clip.sound_rate):
        time = (
            np.arange(start, min(start + clip.sound_rate, round(clip.seconds * clip.sound_rate)))
            / clip.sound_rate
        )
        content = time + clip.begins
        wave = 0.5 * np.sin(2 * np.pi * (clip.tone + clip.rise / 2 * content) * content)
        others = 0.5 if clip.layout == "stereo" else 1.0
        channels = np.stack([wave, *[others * wave] * (stream.channels - 1)], axis=1).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(channels.reshape(1, -1), format="flt", layout=clip.layout)
        frame.sample_rate, frame.time_base = clip.sound_rate, Fraction(1, clip.sound_rate)
        frame.pts = start + round(clip.sound_delay * clip.sound_rate)
        yield start / clip.sound_rate, stream.encode(frame)
    yield float("inf"), stream.encode(None)
