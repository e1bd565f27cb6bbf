"""Videos per minute of an extraction, and where its time goes.

Run with ``make bench`` or ``python -m perf.extraction``; ``-h`` lists the options. ffmpeg generates videos
like those of UCF (320 x 240, 25 frames per second, 7 s, MPEG-4 and MP3 in AVI) and of VGGSound (640 x 360, 30
frames per second, 10 s, H.264 and AAC in MP4). Weights are random, except those of ``packaged``, which is
omitted if its packages are not installed.

"Decoding" is everything before the networks: decoding, rates, sizes, spectrograms. "Elsewhere" is reading and
writing files. The ways alternate on the same videos. A ratio compares their videos per minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from tabulate import tabulate

from benchmark.errors import UsageError
from benchmark.extract.calls import Calls
from benchmark.extract.extraction import attempt
from benchmark.extract.extractor import Extractor, Precision, find_extractor
from benchmark.extract.plan import Wanted
from benchmark.extract.results import ResultFolder
from benchmark.extract.weights_files import ExtractorWeights, load_weights

SOUND_RATE = 44_100


@dataclass(frozen=True)
class Kind:
    """The format of a video."""

    end: str
    size: str
    rate: int
    seconds: int
    codec: str
    sound: str


KINDS = {
    "ucf": Kind(".avi", "320x240", 25, 7, "mpeg4", "libmp3lame"),
    "vggsound": Kind(".mp4", "640x360", 30, 10, "libx264", "aac"),
}


@dataclass(frozen=True)
class Way:
    """How videos are extracted."""

    full_calls: bool = False
    """Whether a call of a network gets as many time steps as on a GPU, instead of one."""
    decoders: int = 1
    precision: Precision = "float32"


PLAIN = "one step a call"
WAYS = {
    PLAIN: Way(),
    "two decoders": Way(decoders=2),
    "full calls": Way(full_calls=True),
    "full calls over videos": Way(full_calls=True, decoders=2),
    "bfloat16": Way(precision="bfloat16"),
}
RATIOS = {
    "two decoders : one": ("two decoders", PLAIN),
    "full calls : one step a call": ("full calls", PLAIN),
    "full calls over two videos : over one": ("full calls over videos", "full calls"),
    "bfloat16 : float32": ("bfloat16", PLAIN),
}


def write_video(path: Path, kind: Kind, number: int) -> None:
    """Write a video of moving images with noise and a tone, which depend on the number."""
    with av.open(str(path), "w") as target:
        pictures: Any = target.add_stream(kind.codec, rate=kind.rate)
        pictures.width, pictures.height = map(int, kind.size.split("x"))
        pictures.pix_fmt, pictures.bit_rate = "yuv420p", 800_000
        sound: Any = target.add_stream(kind.sound, rate=SOUND_RATE, layout="stereo")
        noise = f"noise=alls=12:allf=t:all_seed={number}"
        source = f"testsrc2=size={kind.size}:rate={kind.rate},{noise},format=yuv420p"
        for frame in _generated(source, kind.seconds * kind.rate):
            frame.pts, frame.time_base = None, Fraction(1, kind.rate)
            target.mux(pictures.encode(frame))
        target.mux(pictures.encode(None))
        for start in range(kind.seconds):
            times = start + np.arange(SOUND_RATE) / SOUND_RATE
            wave = np.stack([0.4 * np.sin(2 * np.pi * (200 + 40 * number) * times)] * 2).astype(np.float32)
            block = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
            block.sample_rate, block.pts, block.time_base = (
                SOUND_RATE,
                start * SOUND_RATE,
                Fraction(1, SOUND_RATE),
            )
            target.mux(sound.encode(block))
        target.mux(sound.encode(None))


def _generated(source: str, count: int) -> Iterator[Any]:
    with av.open(source, format="lavfi") as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i == count:
                return
            yield frame


def until_none(function: Callable[[], Any]) -> Iterator[Any]:
    """The results of a function until it returns None."""
    while (item := function()) is not None:
        yield item


class TimedCalls(Calls):
    """Calls that measure the time before them and in the networks, summed over threads."""

    def __init__(self, extractor: Extractor, rows: int, now: Callable[[], float]) -> None:
        self.now = now
        self.seconds: dict[str, float] = defaultdict(float)
        functions = {
            "audio": self._timed("calls", extractor.audio),
            "video": self._timed("calls", extractor.video),
        }
        super().__init__(functions, rows, kept=2 * extractor.batch)
        extractor.run = self._timed("networks", extractor.run)  # type: ignore[method-assign]
        if hasattr(extractor, "speech_embedding"):
            extractor.speech_embedding = self._timed("networks", extractor.speech_embedding)

    def compute(
        self, modality: str, steps: Iterable[NDArray[Any]], keep: Callable[[NDArray[np.float32]], None]
    ) -> None:
        coming = iter(steps)
        super().compute(modality, until_none(self._timed("steps", lambda: next(coming, None))), keep)

    def _timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = self.now()
            try:
                return function(*arguments)
            finally:
                self.seconds[what] += self.now() - started

        return timed


@dataclass(frozen=True)
class Measured:
    """Seconds of an extraction."""

    videos: int
    total: float
    decoding: float
    networks: float

    @property
    def a_minute(self) -> float:
        return 60 * self.videos / self.total


CLOCKS = {"passed": time.perf_counter, "processor": time.process_time}


def measure(
    kind: type[Extractor],
    weights: ExtractorWeights,
    way: Way,
    videos: Sequence[Path],
    folder: Path,
    clock: str = "passed",
) -> Measured:
    """Extract some videos.

    Args:
        kind: the extractor.
        folder: folder of the videos, in which results are written and deleted.
        clock: wall-clock or processor time.
    """
    now = CLOCKS[clock]
    extractor = kind(weights.states, frozenset(), "cpu")
    extractor.use(way.precision)
    extractor.calls = calls = TimedCalls(extractor, extractor.batch if way.full_calls else 1, now)
    wanted = [Wanted(sample=path.stem, split="stage_1_train", label=0, video=path) for path in videos]
    with tempfile.TemporaryDirectory(dir=folder) as name, ThreadPoolExecutor(way.decoders) as pool:
        results = ResultFolder(Path(name), {}, "skip")
        started = now()
        for made in pool.map(lambda w: attempt(w, folder, extractor, results), wanted):
            if made.problem is not None:
                raise RuntimeError(made)
        total = now() - started
    front = calls.seconds["calls"] - calls.seconds["networks"]
    return Measured(len(videos), total, calls.seconds["steps"] + front, calls.seconds["networks"])


def rows(features: str, kind: str, found: dict[str, list[Measured]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A line of each table: of the plain way, and of the ratios."""
    decoding = statistics.median(100 * m.decoding / m.total for m in found[PLAIN])
    networks = statistics.median(100 * m.networks / m.total for m in found[PLAIN])
    speed = {way: statistics.median(m.a_minute for m in found[way]) for way in found}
    head = {"features": features, "videos as": kind}
    return (
        head
        | {
            "videos a minute": round(speed[PLAIN], 2),
            "decoding (%)": round(decoding, 1),
            "networks (%)": round(networks, 1),
        }
        | {"elsewhere (%)": round(100 - decoding - networks, 1)},
        head | {name: round(speed[a] / speed[b], 2) for name, (a, b) in RATIOS.items()},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--features", default="cls,main,packaged")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--videos", type=int, default=2, help="of each kind")
    parser.add_argument("--rounds", type=int, default=1, help="medians are shown")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="passed", help="processor: where others use the cores too"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    tables: list[tuple[dict[str, Any], dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = {
            kind: [folder / f"{kind}{i}{KINDS[kind].end}" for i in range(options.videos)]
            for kind in options.kinds.split(",")
        }
        for kind, paths in videos.items():
            for number, path in enumerate(paths):
                write_video(path, KINDS[kind], number)
        for features in options.features.split(","):
            extractor = find_extractor(features)
            try:
                weights = load_weights(extractor, [], random=features != "packaged")
            except UsageError as error:
                print(f"{features} is omitted: {str(error).splitlines()[0]}")
                continue
            measure(extractor, weights, WAYS[PLAIN], videos[next(iter(videos))][:1], folder)  # warms up
            for kind, paths in videos.items():
                found: dict[str, list[Measured]] = {way: [] for way in WAYS}
                for _ in range(options.rounds):
                    for way in WAYS:
                        found[way].append(
                            measure(extractor, weights, WAYS[way], paths, folder, options.clock)
                        )
                tables.append(rows(features, kind, found))
    print(f"{options.threads} threads, {options.videos} videos of each kind, seconds: {options.clock}\n")
    print(tabulate([plain for plain, _ in tables], headers="keys", tablefmt="github"))
    print("\nRatios of videos per minute\n")
    print(tabulate([ratios for _, ratios in tables], headers="keys", tablefmt="github"))
    if options.json:
        found_rows = [plain | ratios for plain, ratios in tables]
        options.json.write_text(json.dumps({"threads": options.threads, "extraction": found_rows}, indent=1))


if __name__ == "__main__":
    main()
