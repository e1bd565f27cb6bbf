"""Find the seconds of a whole video that are a sample, by an annotation file or by the sample's id."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, FiniteFloat, ValidationError

from benchmark.data.cards import Card
from benchmark.data.groups import origin_rule
from benchmark.errors import UsageError, validation_message
from benchmark.system.files import outside_reason

SHOWN_ERRORS = 3


class Span(NamedTuple):
    """Seconds of a video, counted from its beginning, without the end."""

    start: float
    end: float


@dataclass(frozen=True)
class Cut:
    """The piece of a whole video that is a sample."""

    video: str
    """Name of the whole video, without extension."""
    span: Span | None
    problem: str = ""
    """Why there is no span."""
    label: str = ""
    """The class of the segment in the annotation file."""


Rule = Callable[[str], Cut | None]
"""Sample id -> its piece of a whole video; None if the id does not name one."""


class _Segment(BaseModel):
    segment: tuple[FiniteFloat, FiniteFloat]
    label: str = ""


class _Video(BaseModel):
    annotations: list[_Segment]


class _Annotations(BaseModel):
    """The fields that are read of ActivityNet's annotation format."""

    database: dict[str, _Video]


def named_clips(card: Card) -> Rule | None:
    """The rule of a dataset whose sample ids hold the start of a clip (``grouping``, ``overlap_seconds``)."""
    seconds = card.overlap_seconds
    if seconds is None:
        return None
    origin = origin_rule(card)

    def rule(sample: str) -> Cut | None:
        found = origin(sample)
        return None if found.start is None else Cut(found.group, Span(found.start, found.start + seconds))

    return rule


def annotated_segments(path: Path) -> Rule:
    """The rule for ids ``<video>_<k>``: the k-th annotated segment of a video, from 0, in the file's order.

    Args:
        path: JSON: ``{"database": {video: {"annotations": [{"segment": [start, end], "label": class}, ...]},
            ...}}``.

    Raises:
        UsageError: the file cannot be read, or has another form.
    """
    try:
        database = _Annotations.model_validate_json(path.read_bytes()).database
    except OSError as error:
        reason = outside_reason(error, path) or f"{error.strerror or error}; name another file"
        raise UsageError(f"--segments {path}: cannot be read: {reason}") from None
    except ValidationError as error:
        lines = validation_message(error, f"--segments {path}").splitlines()
        more = f"\nand {len(lines) - SHOWN_ERRORS:,} more" if len(lines) > SHOWN_ERRORS else ""
        form = (
            '{"database": {VIDEO: {"annotations": [{"segment": [START, END], "label": CLASS}]}}}, in seconds'
        )
        shown = "\n".join(lines[:SHOWN_ERRORS])
        raise UsageError(f"{shown}{more}\ndownload the file again, or fix it; its form is {form}") from None

    def rule(sample: str) -> Cut | None:
        found = re.fullmatch(r"(.+)_(\d+)", sample)
        if found is None:
            return None
        video, k = found[1], int(found[2])
        if video not in database:
            return Cut(video, None, f"{path.name} has no video {video}")
        segments = database[video].annotations
        if k >= len(segments):
            why = f"{path.name} has no segment {k} of {video}: it has {len(segments)}, counted from 0"
            return Cut(video, None, why)
        start, end = segments[k].segment
        if not 0 <= start < end:
            return Cut(video, None, f"{path.name}: segment {k} of {video} is from {start:g} s to {end:g} s")
        return Cut(video, Span(start, end), label=segments[k].label)

    return rule
