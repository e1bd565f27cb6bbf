"""The frames of one video, for extractors that take all of them or choose some by their number."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path

from benchmark.extract.media.decode import (
    Frame,
    Note,
    UnreadableVideo,
    claimed_frames,
    decoded_frames,
    read_frames,
)
from benchmark.extract.media.segments import Span


class Footage:
    """The frames of a video, or of a span of it. Each method decodes it again.

    Args:
        path: the file.
        note: called with each fault.
        span: only these seconds; None for the whole video.
    """

    def __init__(self, path: Path, note: Note, span: Span | None = None) -> None:
        self._path, self._note, self._span = path, note, span

    def frames(self, rate: int | None) -> Iterator[Frame]:
        """All frames, as ``decode.read_frames``."""
        return read_frames(self._path, rate, self._note, self._span)

    @cached_property
    def count(self) -> int:
        """The number of frames that can be decoded, at least 1.

        Raises:
            UnreadableVideo: there is none.
        """
        return sum(1 for _ in decoded_frames(self._path, None, self._note, self._span))

    @cached_property
    def claimed(self) -> int:
        """The number of frames by the header of the file, as OpenCV gives it; of a span, ``count``."""
        return claimed_frames(self._path) if self._span is None else self.count

    def chosen(self, indices: Collection[int]) -> Iterator[Frame]:
        """Frames by index, in their order in the video. What follows the last one is not decoded.

        Raises:
            UnreadableVideo: there is no frame of an index.
        """
        if not indices:
            return
        left = set(indices)
        # Faults were noted when the frames were counted.
        convert: Callable[[], Frame]
        for i, convert in enumerate(decoded_frames(self._path, None, lambda note: None, self._span)):
            if i in left:
                yield convert()
                left.remove(i)
                if not left:
                    return
        raise UnreadableVideo(f"frame {min(left)} cannot be decoded")
