"""Decoding with PyAV, a picture and a block of sound at a time, however long a video is. The only place that imports av.

What cannot be decoded at all raises ``UnreadableVideo``. What is odd but leaves something to use is noted, and the rest goes
on.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UsageError
from benchmark.extract.media.resampling import Resampler
from benchmark.extract.media.segments import Span

try:
    import av
except ImportError:
    raise UsageError("videos are decoded with PyAV, which is not installed: pip install 'gzsl-bench[extract]'") from None

# At any level but None, ffmpeg's threads wait for Python's lock to tell of errors, and whoever frees a decoder waits for them,
# with that lock: a damaged video then stops everything. What is wrong is told in the table of problems.
av.logging.set_level(None)

ENDS_EARLY = 0.9
"""A stream that has less than this of the length that its header says, and lacks more than ``DELAY``, is noted."""
SECOND = av.time_base
"""Times are compared in microseconds, ffmpeg's unit for times of a whole file."""
RUN_UPS = (1, 10)
"""Seconds before a span at which decoding is tried to begin. Some are needed: sound is not good at once after a leap, and some
kinds of files are read from the first keyframe behind the place that is asked for."""
DELAY = 0.1
"""Seconds by which pictures or sound may begin later than the other one without that being mended: encoders have delays."""
BACK = 0.5
"""Seconds by which times may go back: pictures of odd files come in another order. Beyond it, another clock has begun."""
STILL = 3.0
"""Seconds without a new picture from which on that is noted."""
LONGEST_STILL = 600.0
"""Seconds: if the next picture comes later than that, the times of a file are taken for broken, and it ends there. So it does
where all stills together take longer than the file, or than this where its length is not known."""
Frame = NDArray[np.uint8]
Note = Callable[[str], None]


class UnreadableVideo(Exception):
    """Nothing of a file can be used; says why."""


def read_frames(path: Path, rate: int | None, note: Note, span: Span | None = None) -> Iterator[Frame]:
    """The pictures of a video, upright, ``[height, width, 3]`` in red, green, blue.

    Args:
        path: the file.
        rate: pictures a second: some are dropped or repeated so that each stands at its time. None: as they come.
        note: is told what is odd.
        span: only these seconds, as if they were a video of their own. What lies before is leapt over, not decoded.

    Raises:
        UnreadableVideo: it cannot be opened, has no video stream, no picture can be decoded, none is in the span, or they last
            for less than half of the time that one has to stand for.
        OSError: the system cannot read it, which may pass.
    """
    with _open_at(path, "video", span) as container:
        streams = _streams(container, "video")
        if not streams:
            raise UnreadableVideo("no video stream")
        stream = streams[0]
        stream.thread_type = "AUTO"
        frames, start, end = _from_start(container, stream, span, _decoded(container, stream, note), note)
        timed = _Timed(rate, stream, start, end, _longest_stills(container))
        wanted = None if span is None or rate is None else max(1, math.floor((span.end - span.start) * rate + 0.5))
        count = 0
        for picture in islice(_upright(timed, frames, note), wanted):
            count += 1
            yield picture
        if not count:
            raise UnreadableVideo(_why_none(timed, rate, span))
        if timed.stills:
            note(f"stills of more than {STILL:g} s: {timed.stills}, {timed.still_seconds:.0f} s together")
        if timed.jumps:
            note(f"places where the times of pictures jump back: {timed.jumps}; what comes then stands behind what came before")
        _note_early_end(container, stream, timed.seconds, note, span)


def _why_none(timed: _Timed, rate: int | None, span: Span | None) -> str:
    """Why there is no picture: none was decoded, none is in the span, or they do not last as long as one has to stand."""
    if timed.seconds == -math.inf:
        return "no picture can be decoded"
    if span is not None:
        where = f"no picture from {span.start:g} s to {span.end:g} s"
        first, last = span.start + timed.late, span.start + timed.seconds
        if first >= span.end:
            return f"{where}: its pictures begin at {first:.1f} s"
        if last <= span.start:
            return f"{where}: its pictures end at {last:.1f} s"
        if rate is None:
            return f"too short: {where}, in which none begins"
    lasts = timed.seconds if span is None else min(span.end, span.start + timed.seconds) - span.start - max(0.0, timed.late)
    step = 1 / rate if rate else 0.0  # without a rate, frames of a whole file are never dropped
    return f"too short: its pictures last {lasts:.2g} s, less than half of the {step:.2g} s that each is to stand for"


def _upright(timed: _Timed, frames: Iterator[Any], note: Note) -> Iterator[Frame]:
    """Frames as pictures, up to the first one behind the span: a picture lasts until the next one."""
    turns = 0
    for frame in frames:
        gap = timed.place(frame)
        if gap > LONGEST_STILL or timed.still_seconds + gap > timed.longest:
            note(f"video breaks off: its times leap by {gap:.0f} s")
            break
        turns = round(frame.rotation / 90) % 4
        for kept in timed.push(frame, gap):
            yield np.rot90(_rgb(kept), turns)
        if timed.over:
            return
    for kept in timed.end():
        yield np.rot90(_rgb(kept), turns)


def has_audio(path: Path) -> bool:
    """Whether a file has a stream of sound.

    Raises:
        UnreadableVideo: it cannot be opened.
    """
    with _open(path) as container:
        return bool(container.streams.audio)


def read_audio(
    path: Path, rate: int, note: Note, span: Span | None = None, *, sixteen_bit: bool = False
) -> Iterator[NDArray[np.float64]]:
    """The sound of a video in blocks ``[samples]``: the mean of the channels, in -1 to 1; nothing where there is none.

    Args:
        path: the file.
        rate: samples a second.
        note: is told what is odd.
        span: only these seconds, to the sample; silence where the sound begins later. What lies before is leapt over.
        sixteen_bit: round each channel to 16 bits first, as a detour over WAV files does.

    Raises:
        UnreadableVideo: it cannot be opened.
    """
    with _open_at(path, "audio", span) as container:
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        floats: Any = None
        resampler: Resampler | None = None
        form = None
        seconds = 0.0
        for frame, first, last in _within(*_from_start(container, stream, span, _decoded(container, stream, note), note)):
            if (frame.format.name, frame.layout.name, frame.sample_rate) != form:  # the first one, or a change on the way
                if resampler is not None and form is not None and frame.sample_rate != form[2]:
                    yield resampler.end()
                    resampler = None
                form = (frame.format.name, frame.layout.name, frame.sample_rate)
                # packed, since PyAV reads past the eight planes that a frame has room for
                floats = av.AudioResampler(format="flt", layout=frame.layout, rate=frame.sample_rate)
                resampler = resampler or Resampler(frame.sample_rate, rate)
            assert resampler is not None
            seconds += (last - first) / frame.sample_rate
            for silent in range(first, 0, frame.sample_rate):
                yield resampler.push(np.zeros(min(-silent, frame.sample_rate)))
            for part in floats.resample(frame):
                channels = part.to_ndarray().reshape(part.samples, -1).T[:, max(0, first) : last].astype(np.float64)
                if sixteen_bit:
                    channels = np.clip(np.round(channels * 2**15), -(2**15), 2**15 - 1) / 2**15
                yield resampler.push(channels.mean(0))
        if resampler is not None:
            yield resampler.end()
            _note_early_end(container, stream, seconds, note, span)


def _within(frames: Iterator[Any], start: float, end: float) -> Iterator[tuple[Any, int, int]]:
    """Frames of sound with the first of their samples that is wanted and the one behind the last.

    The first one is negative where the sound begins later than the span: so many samples are missing before it.
    """
    left = (end - start) / SECOND
    begun = start == -math.inf
    for frame in frames:
        first = 0
        if not begun:
            first = round((start - _time(frame)) * frame.sample_rate / SECOND)
            if first >= frame.samples:
                continue
            begun = True
        last = round(min(frame.samples, first + left * frame.sample_rate))  # counted: the times of many files are rounded
        if last <= 0:
            return
        yield frame, first, last
        left -= (last - first) / frame.sample_rate
        if left * frame.sample_rate < 0.5:
            return


def _rgb(frame: Any) -> Frame:
    try:
        picture: Frame = frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, ValueError) as error:
        raise UnreadableVideo(f"a picture cannot be converted: {getattr(error, 'strerror', None) or error}") from None
    return picture


def _open(path: Path) -> Any:
    try:
        return av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        _check_readable(path, error)
        raise UnreadableVideo(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None


def _check_readable(path: Path, error: Exception) -> None:
    """See that a file is to blame for an error and not the system. ffmpeg gives the same numbers for both, so it is read.

    Raises:
        OSError: the system cannot read it.
    """
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.EACCES, errno.ESTALE, errno.ENOENT):
        raise OSError(error.errno, error.strerror) from None
    with open(path, "rb", buffering=0) as file:
        while file.read(2**20):
            pass


def _streams(container: Any, kind: str) -> list[Any]:
    return [s for s in getattr(container.streams, kind) if not s.disposition & av.stream.Disposition.attached_pic]


def _bounds(container: Any, span: Span | None) -> tuple[float, float]:
    """Microseconds of a span by the clock of a file, which need not begin at 0."""
    if span is None:
        return -math.inf, math.inf
    zero = container.start_time or 0
    return zero + round(span.start * SECOND), zero + round(span.end * SECOND)


def _from_start(
    container: Any, stream: Any, span: Span | None, frames: Iterator[Any], note: Note
) -> tuple[Iterator[Any], float, float]:
    """Frames, and the microseconds from which to which they are wanted.

    In a whole file with pictures and sound, those that begin clearly later are wanted from the start of the file on too: both
    keep in step.
    """
    start, end = _bounds(container, span)
    first = next(frames, None)
    if first is None:
        return frames, start, end
    zero = (container.start_time or 0) if span is None else start
    late = (_time(first) - zero) / SECOND
    alone = not (container.streams.audio and _streams(container, "video"))
    if late > DELAY and _time(first) < end and not (span is None and alone):
        if span is None and late > min(LONGEST_STILL, _longest_stills(container)):
            note(f"{stream.type} begins {late:.0f} s late, which cannot be true: it is taken to begin with the file")
        else:
            note(f"{stream.type} begins {late:.1f} s late")
            start = zero
    return chain([first], frames), start, end


def _longest_stills(container: Any) -> float:
    """Seconds that stills may take together: a little more than the file, whose length may be rounded or estimated."""
    return 1.1 * container.duration / SECOND + STILL if container.duration else LONGEST_STILL


def _time(frame: Any) -> float:
    """Microseconds at which a frame or packet begins; 0 where that is not known."""
    return round(frame.pts * frame.time_base * SECOND) if frame.pts is not None else 0


def _open_at(path: Path, kind: str, span: Span | None) -> Any:
    """An open file that is read from a little before a span on: from its beginning, where it cannot be leapt in."""
    container = _open(path)
    streams = _streams(container, kind)
    start, _ = _bounds(container, span)
    targets = [start - seconds * SECOND for seconds in RUN_UPS if start - seconds * SECOND > (container.start_time or 0)]
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

    PyAV can fail when a stream has begun that was not there when the file was opened: it goes on behind that place.
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
    """Frames of a stream; packets that cannot be decoded are left out, and the file may break off."""
    packets = _packets(container, stream)
    damaged = 0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, ValueError) as error:
            _check_readable(Path(container.name), error)
            note(f"{stream.type} breaks off: {getattr(error, 'strerror', None) or error}")
            break
        try:
            yield from packet.decode()
        except (av.error.FFmpegError, ValueError):
            damaged += 1
    if damaged:
        note(f"{damaged} {stream.type} packets cannot be decoded and were left out")


def _note_early_end(container: Any, stream: Any, seconds: float, note: Note, span: Span | None) -> None:
    promised = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / SECOND
    if span is not None:
        promised = span.end - span.start
    if seconds < ENDS_EARLY * promised and promised - seconds > DELAY:  # of a few pictures, the last one's length is a guess
        digits = 1 if seconds >= DELAY and f"{seconds:.1f}" != f"{promised:.1f}" else 2
        note(f"{stream.type} ends after {seconds:.{digits}f} s of {promised:.{digits}f} s")


class _Timed:
    """Frames at a constant rate by ffmpeg's filter ``fps``, all in the size and pixel format of the first one.

    Args:
        rate: frames a second; None leaves them as they come, and lets through those between ``start`` and ``end`` only.
        stream: theirs.
        start, end: microseconds; the frame that is seen at ``start`` becomes the first one. Infinite where all are wanted.
        longest: seconds that stills may take together.
    """

    def __init__(self, rate: int | None, stream: Any, start: float, end: float, longest: float) -> None:
        self._rate, self._stream, self.longest = rate, stream, longest
        self._from, self._to = start, end
        self._graph: Any = None
        self._first: Any = None
        self._last = self._next = self._shift = 0
        self._start: int | None = None
        self.seconds = -math.inf
        """From ``start``, or from the first frame where that is infinite, to the end of the last frame that came."""
        self.late = 0.0
        """Seconds from ``start`` to the first frame that came."""
        self.over = False
        """Whether a frame from ``end`` on has come."""
        self.stills = 0
        """Gaps of more than ``STILL``."""
        self.still_seconds = 0.0
        self.jumps = 0
        """Times that were set behind the last frame, since they went back by more than ``BACK``."""

    def place(self, frame: Any) -> float:
        """Give a frame its time; the seconds for which the last frame is to be repeated until then, 0 without a rate."""
        frame.time_base = base = frame.time_base or self._stream.time_base
        if frame.pts is None:  # raw streams have no times
            frame.pts = self._next
        elif self._start is not None:
            if abs(frame.pts - self._next) * base <= BACK:  # the clock goes on, or goes on again
                self._shift = 0
            frame.pts += self._shift
            if (self._last - frame.pts) * base > BACK:
                self.jumps += 1
                self._shift += self._next - frame.pts
                frame.pts = self._next
        return 0.0 if self._rate is None or self._start is None else float((frame.pts - self._next) * base)

    def push(self, frame: Any, gap: float) -> Iterator[Any]:
        base = frame.time_base
        step = max(1, round(1 / (base * (self._stream.average_rate or self._stream.guessed_rate or 25))))
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
        if self._rate is None:
            if self._from <= time < self._to:
                yield frame
            return
        if frame.duration * base > min(LONGEST_STILL, self.longest - self.still_seconds):
            frame.duration = round(1 / (self._rate * base))  # the filter shows the last one as long as it says
        if self._graph is None:
            self._first = (frame.width, frame.height, frame.format.name)
            self._graph = self._make_graph(frame, base)
        if (frame.width, frame.height, frame.format.name) != self._first:
            width, height, form = self._first
            frame = frame.reformat(width, height, form)
        try:
            self._graph.vpush(frame)
        except (av.error.FFmpegError, ValueError) as error:
            raise UnreadableVideo(f"its rate cannot be converted: {getattr(error, 'strerror', None) or error}") from None
        yield from self._pull()

    def end(self) -> Iterator[Any]:
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
