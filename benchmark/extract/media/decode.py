"""Decode videos with PyAV, one frame and one block of audio at a time, so that their length does not matter.

``UnreadableVideo`` is raised if nothing can be decoded. Other faults are noted, and the rest of the file is
used. No other module imports av.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UsageError
from benchmark.extract.media.resampling import Resampler
from benchmark.extract.media.segments import Span
from benchmark.system.shipped_files import install

try:
    import av
except ImportError:
    raise UsageError(f"PyAV decodes the videos and is not installed: {install('extract')}") from None

# At any other level, ffmpeg's threads need Python's lock to report errors. Whoever frees a decoder holds that
# lock and waits for these threads, so a damaged video would stop everything. The table of problems reports
# the errors instead.
av.logging.set_level(None)

ENDS_EARLY = 0.9
"""Fraction of the length in its header below which a stream is noted, if it also lacks ``DELAY``."""
SECOND = av.time_base
"""Times are compared in microseconds, ffmpeg's unit for the times of a whole file."""
RUN_UPS = (1, 10)
"""Seconds before a span at which decoding tries to start. Audio is inexact right after a seek, and some
formats are only read from the first keyframe after the requested place."""
DELAY = 0.1
"""Seconds by which frames or audio may begin after the other without being aligned: encoders have delays."""
BACK = 0.5
"""Seconds by which times may go back, since frames come out of order. Beyond it, a new clock has begun."""
STILL = 3.0
"""Seconds: a longer gap between two frames is noted."""
LONGEST_STILL = 600.0
"""Seconds: a longer gap means that the times of a file are broken, and the file ends there. So do gaps that
together are longer than the file, or than this if its length is unknown."""
OUTSIDE = (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ESTALE, errno.ENOENT)
"""Errors of the system, whatever a file holds."""
Frame = NDArray[np.uint8]
Note = Callable[[str], None]


class UnreadableVideo(Exception):
    """Nothing of a file can be used; the message is the reason."""


def read_frames(path: Path, rate: int | None, note: Note, span: Span | None = None) -> Iterator[Frame]:
    """The frames of a video, upright, ``[height, width, 3]`` (red, green, blue), by ``decoded_frames``."""
    return (convert() for convert in decoded_frames(path, rate, note, span))


def decoded_frames(
    path: Path, rate: int | None, note: Note, span: Span | None = None
) -> Iterator[Callable[[], Frame]]:
    """For each frame of a video a function that converts it, for callers that need only some of them.

    Args:
        path: the file.
        rate: frames a second: some are dropped or repeated to fit their times. None: all, as they come.
        note: called with each fault.
        span: only these seconds, as if they were a separate video; what precedes them is not decoded.

    Raises:
        UnreadableVideo: the file cannot be opened, or has no frame here, or too short ones for the rate.
        OSError: the system cannot read the file, which may pass.
    """
    with _open_at(path, "video", span) as container:
        streams = _streams(container, "video")
        if not streams:
            raise UnreadableVideo("no video stream")
        stream = streams[0]
        stream.thread_type = "AUTO"

        # Decode, put each frame at its time, and stop at as many as fit into the span.
        decoded, start, end = _from_start(container, stream, span, note)
        timed = _Timed(rate, stream, start, end, _longest_stills(container))
        wanted, count = None, 0
        if span is not None and rate is not None:
            wanted = max(1, math.floor((span.end - span.start) * rate + 0.5))
        for convert in islice(_upright(timed, decoded, note), wanted):
            count += 1
            yield convert

        # Faults are known once all frames have come.
        if not count:
            raise UnreadableVideo(_why_none(timed, rate, span))
        if timed.stills:
            note(f"stills longer than {STILL:g} s: {timed.stills}, {timed.still_seconds:.0f} s in total")
        if timed.jumps:
            note(f"times of frames jump back {timed.jumps} times; later frames follow the earlier ones")
        _note_early_end(container, stream, timed.seconds, note, span)


def _why_none(timed: _Timed, rate: int | None, span: Span | None) -> str:
    """Why there is no frame: none decoded, none in the span, or all shorter than half a frame's time."""
    lasts = timed.seconds
    if lasts == -math.inf:
        return "no frame can be decoded"
    if span is not None:
        where = f"no frame from {span.start:g} s to {span.end:g} s"
        first, last = span.start + timed.late, span.start + timed.seconds
        if first >= span.end:
            return f"{where}: its frames begin at {first:.1f} s"
        if last <= span.start:
            return f"{where}: its frames end at {last:.1f} s"
        if rate is None:
            return f"too short: {where}, in which none begins"
        lasts = min(span.end, last) - span.start - max(0.0, timed.late)
    step = 1 / rate if rate else 0.0  # without a rate, frames of a whole file are never dropped
    return f"too short: its frames last {lasts:.2g} s, less than half of the {step:.2g} s of one frame"


def _upright(timed: _Timed, decoded: Iterator[Any], note: Note) -> Iterator[Callable[[], Frame]]:
    """Frames up to the first one after the span: a frame lasts until the next one."""
    turns = 0
    for frame in decoded:
        gap = timed.place(frame)
        if gap > LONGEST_STILL or timed.still_seconds + gap > timed.longest:
            note(f"video breaks off: its times jump by {gap:.0f} s")
            break
        turns = round(frame.rotation / 90) % 4
        for kept in timed.push(frame, gap):
            yield partial(_rgb, kept, turns)
        if timed.over:
            return
    for kept in timed.end():
        yield partial(_rgb, kept, turns)


def claimed_frames(path: Path) -> int:
    """The number of frames by the header of a file, else its length times its rate, as OpenCV gives it.

    Raises:
        UnreadableVideo: it cannot be opened or has no video stream.
    """
    with _open(path) as container:
        stream = next(iter(_streams(container, "video")), None)
        if stream is None:
            raise UnreadableVideo("no video stream")
        seconds = (container.duration or 0) / SECOND
        return stream.frames or math.floor(seconds * float(stream.guessed_rate or 0) + 0.5)


def has_audio(path: Path) -> bool:
    """Whether a file has an audio stream.

    Raises:
        UnreadableVideo: it cannot be opened.
    """
    with _open(path) as container:
        return bool(container.streams.audio)


def read_audio(
    path: Path, rate: int, note: Note, span: Span | None = None, *, sixteen_bit: bool = False
) -> Iterator[NDArray[np.float64]]:
    """Audio in blocks ``[samples]``: the mean of the channels, in -1 to 1; no blocks if there is no stream.

    Args:
        path: the file.
        rate: samples a second.
        note: called with each fault.
        span: only these seconds, exact to the sample, with silence until the audio begins. Seeks to them.
        sixteen_bit: round each channel to 16 bits first, as if it had been stored as a WAV file.

    Raises:
        UnreadableVideo: the file cannot be opened.
    """
    with _open_at(path, "audio", span) as container:
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        floats: Any = None
        resampler: Resampler | None = None
        form = None
        seconds = 0.0
        for block, first, last in _within(*_from_start(container, stream, span, note)):
            # The first block, and each one in a new format, sets up the conversion to floats.
            if (block.format.name, block.layout.name, block.sample_rate) != form:
                if resampler is not None and form is not None and block.sample_rate != form[2]:
                    yield resampler.end()
                    resampler = None
                form = (block.format.name, block.layout.name, block.sample_rate)
                # packed, since PyAV reads past the eight planes that a frame has room for
                floats = av.AudioResampler(format="flt", layout=block.layout, rate=block.sample_rate)
                resampler = resampler or Resampler(block.sample_rate, rate)
            assert resampler is not None
            seconds += (last - first) / block.sample_rate

            # A negative first sample stands for silence, which is filled in a second at a time.
            for silent in range(first, 0, block.sample_rate):
                yield resampler.push(np.zeros(min(-silent, block.sample_rate)))
            for piece in floats.resample(block):
                channels = piece.to_ndarray().reshape(piece.samples, -1).T.astype(np.float64)
                channels = channels[:, max(0, first) : last]
                if sixteen_bit:
                    channels = np.clip(np.round(channels * 2**15), -(2**15), 2**15 - 1) / 2**15
                yield resampler.push(channels.mean(0))
        if resampler is not None:
            yield resampler.end()
            _note_early_end(container, stream, seconds, note, span)


def _within(blocks: Iterator[Any], start: float, end: float) -> Iterator[tuple[Any, int, int]]:
    """Blocks of audio with the index of the first wanted sample and of the one after the last.

    If the audio begins after the span does, the first index is negative: minus the missing samples.
    """
    left = (end - start) / SECOND
    begun = start == -math.inf
    for block in blocks:
        first = 0
        if not begun:
            first = round((start - _time(block)) * block.sample_rate / SECOND)
            if first >= block.samples:
                continue
            begun = True
        # Samples are counted, since the times of many files are rounded.
        last = round(min(block.samples, first + left * block.sample_rate))
        if last <= 0:
            return
        yield block, first, last
        left -= (last - first) / block.sample_rate
        if left * block.sample_rate < 0.5:
            return


def _rgb(frame: Any, turns: int) -> Frame:
    try:
        return np.rot90(frame.to_ndarray(format="rgb24"), turns)
    except (av.error.FFmpegError, ValueError) as error:
        raise UnreadableVideo(f"a frame cannot be converted: {_reason(error)}") from None


def _reason(error: Exception) -> Any:
    """The system's or ffmpeg's text of an error, without its number."""
    return getattr(error, "strerror", None) or error


def _open(path: Path) -> Any:
    try:
        return av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        _check_readable(path, error)
        raise UnreadableVideo(f"cannot be opened: {_reason(error)}") from None


def _check_readable(path: Path, error: Exception) -> None:
    """Check that the system can read a file: ffmpeg gives the same error numbers for both.

    Raises:
        OSError: the system cannot read it.
    """
    if isinstance(error, OSError) and error.errno in OUTSIDE:
        raise OSError(error.errno, error.strerror) from None
    with open(path, "rb", buffering=0) as file:
        while file.read(2**20):
            pass


def _streams(container: Any, kind: str) -> list[Any]:
    cover = av.stream.Disposition.attached_pic
    return [stream for stream in getattr(container.streams, kind) if not stream.disposition & cover]


def _bounds(container: Any, span: Span | None) -> tuple[float, float]:
    """A span in microseconds of the file's clock, which need not begin at 0; infinite for a whole file."""
    if span is None:
        return -math.inf, math.inf
    zero = container.start_time or 0
    return zero + round(span.start * SECOND), zero + round(span.end * SECOND)


def _from_start(
    container: Any, stream: Any, span: Span | None, note: Note
) -> tuple[Iterator[Any], float, float]:
    """The decoded frames or blocks, and the microseconds between which they are wanted.

    Of a whole file with frames and audio, the stream that clearly begins later is also wanted from the start
    of the file, so that the two stay aligned.
    """
    start, end = _bounds(container, span)
    decoded = _decoded(container, stream, note)
    first = next(decoded, None)
    if first is None:
        return decoded, start, end
    zero = (container.start_time or 0) if span is None else start
    late = (_time(first) - zero) / SECOND
    alone = not (container.streams.audio and _streams(container, "video"))
    if late > DELAY and _time(first) < end and not (span is None and alone):
        if span is None and late > min(LONGEST_STILL, _longest_stills(container)):
            note(f"{stream.type} begins {late:.0f} s late, implausibly: taken to begin with the file")
        else:
            note(f"{stream.type} begins {late:.1f} s late")
            start = zero
    return chain([first], decoded), start, end


def _longest_stills(container: Any) -> float:
    """Seconds that all stills may last: a little more than the file, whose length may be estimated."""
    return 1.1 * container.duration / SECOND + STILL if container.duration else LONGEST_STILL


def _time(item: Any) -> float:
    """Microseconds at which a frame, a block or a packet begins; 0 if unknown."""
    return round(item.pts * item.time_base * SECOND) if item.pts is not None else 0


def _open_at(path: Path, kind: str, span: Span | None) -> Any:
    """Open a file and seek to a little before a span; without seeking, it is read from its beginning."""
    container = _open(path)
    streams = _streams(container, kind)
    start, _ = _bounds(container, span)
    run_ups = (start - seconds * SECOND for seconds in RUN_UPS)
    targets = [target for target in run_ups if target > (container.start_time or 0)]
    if not streams or not targets:
        return container
    for target in targets:
        try:
            container.seek(int(target))
            landed = next(packet for packet in _packets(container, streams[0]) if packet.is_keyframe)
            if landed.pts is not None and _time(landed) <= start:
                container.seek(int(target))  # again, since packets were read
                return container
        except (av.error.FFmpegError, ValueError, StopIteration):
            pass
    container.close()
    return _open(path)


def _packets(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream and an empty one at the end.

    PyAV can fail if a stream begins that was not there when the file was opened; reading continues after that
    place.
    """
    ended = False
    while not ended:
        try:
            for packet in container.demux(stream):
                ended = packet.size == 0 and packet.dts is None
                yield packet
            ended = True
        except IndexError:
            pass


def _decoded(container: Any, stream: Any, note: Note) -> Iterator[Any]:
    """Frames or blocks of a stream. Damaged packets are omitted, and the file may break off."""
    packets = _packets(container, stream)
    damaged = 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, ValueError) as error:
            _check_readable(Path(container.name), error)
            note(f"{stream.type} breaks off: {_reason(error)}")
            break
        try:
            yield from packet.decode()
        except (av.error.FFmpegError, ValueError):
            damaged += 1
    if damaged:
        note(f"{damaged} {stream.type} packets cannot be decoded and were omitted")


def _note_early_end(container: Any, stream: Any, seconds: float, note: Note, span: Span | None) -> None:
    promised = (
        float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / SECOND
    )
    if span is not None:
        promised = span.end - span.start
    # The length of the last frame is a guess, which matters if there are few: so more than a delay has to be
    # missing.
    if seconds < ENDS_EARLY * promised and promised - seconds > DELAY:
        digits = 1 if seconds >= DELAY and f"{seconds:.1f}" != f"{promised:.1f}" else 2
        note(f"{stream.type} ends after {seconds:.{digits}f} s of {promised:.{digits}f} s")


class _Timed:
    """Frames at a constant rate, by ffmpeg's filter ``fps``, in the size and pixel format of the first one.

    Args:
        rate: frames a second. None keeps the frames between ``start`` and ``end`` as they are.
        stream: the stream of the frames.
        start, end: microseconds. The frame that is seen at ``start`` becomes the first one. Infinite if all
            are wanted.
        longest: seconds that stills may last in total.
    """

    def __init__(self, rate: int | None, stream: Any, start: float, end: float, longest: float) -> None:
        self._rate, self._stream, self.longest = rate, stream, longest
        self._from, self._to = start, end
        self._graph: Any = None
        self._first: Any = None
        self._last = self._next = self._shift = 0
        self._start: int | None = None
        self.seconds = -math.inf
        """From ``start`` (from the first frame if that is infinite) to the end of the last frame so far."""
        self.late = 0.0
        """Seconds from ``start`` to the first frame that came."""
        self.over = False
        """Whether a frame at or after ``end`` has come."""
        self.stills = 0
        """Gaps of more than ``STILL``."""
        self.still_seconds = 0.0
        self.jumps = 0
        """Frames moved after the previous one, because their times went back by more than ``BACK``."""

    def place(self, frame: Any) -> float:
        """Set a frame's time; the seconds for which the last one is repeated until then, 0 without a rate."""
        frame.time_base = base = frame.time_base or self._stream.time_base
        if frame.pts is None:  # raw streams have no times
            frame.pts = self._next
        elif self._start is not None:
            if abs(frame.pts - self._next) * base <= BACK:  # the clock continues, or continues again
                self._shift = 0
            frame.pts += self._shift
            if (self._last - frame.pts) * base > BACK:
                self.jumps += 1
                self._shift += self._next - frame.pts
                frame.pts = self._next
        return 0.0 if self._rate is None or self._start is None else float((frame.pts - self._next) * base)

    def push(self, frame: Any, gap: float) -> Iterator[Any]:
        """The frames that are complete now that one came, ``gap`` seconds after the end of the last one."""
        base = frame.time_base
        step = max(1, round(1 / (base * (self._stream.average_rate or self._stream.guessed_rate or 25))))

        # Count stills, and note where the frames begin and end.
        if gap > STILL:
            self.stills += 1
            self.still_seconds += gap
        if self._start is None:
            self._start = frame.pts
            self.late = float(frame.pts * base) - self._from / SECOND
        self._last, self._next = frame.pts, frame.pts + step
        begins = self._from / SECOND if self._from > -math.inf else float(self._start * base)
        self.seconds = float(self._next * base) - begins
        time = round(frame.pts * base * SECOND)
        self.over = time >= self._to

        # Without a rate, frames of the span pass as they are.
        if self._rate is None:
            if self._from <= time < self._to:
                yield frame
            return

        # The filter shows the last frame for its duration, and takes frames of one size and format.
        if frame.duration * base > min(LONGEST_STILL, self.longest - self.still_seconds):
            frame.duration = round(1 / (self._rate * base))
        if self._graph is None:
            self._first = (frame.width, frame.height, frame.format.name)
            self._graph = self._make_graph(frame, base)
        if (frame.width, frame.height, frame.format.name) != self._first:
            width, height, form = self._first
            frame = frame.reformat(width, height, form)
        try:
            self._graph.vpush(frame)
        except (av.error.FFmpegError, ValueError) as error:
            raise UnreadableVideo(f"its rate cannot be converted: {_reason(error)}") from None
        yield from self._pull()

    def end(self) -> Iterator[Any]:
        """The frames that remain."""
        if self._graph is not None:
            self._graph.vpush(None)
            yield from self._pull()

    def _make_graph(self, frame: Any, base: Any) -> Any:
        graph = av.filter.Graph()
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
        start = f":start_time={self._from / SECOND:.6f}" if self._from > -math.inf else ""
        fps, sink = graph.add("fps", f"fps={self._rate}{start}"), graph.add("buffersink")
        source.link_to(fps)
        fps.link_to(sink)
        graph.configure()
        return graph

    def _pull(self) -> Iterator[Any]:
        while True:
            try:
                yield self._graph.vpull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
