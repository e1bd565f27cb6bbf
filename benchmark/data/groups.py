"""Groups of samples that were cut from the same source, by the grouping rule in a dataset config."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.data.cards import Card
from benchmark.errors import UsageError


def made_up_id(split: str, class_name: str, index: int) -> str:
    """The id of a sample whose name is unknown: its split, its class, and its index in the class file."""
    return f"{split}/{class_name}/{index:05d}"


_MADE_UP = re.compile(r"stage_[12]_[a-z_]+/.+/\d{5,}")


def is_made_up(sample: str) -> bool:
    """Whether an id is one of ``made_up_id``, so that the source video of its sample is unknown."""
    return _MADE_UP.fullmatch(sample) is not None


@dataclass(frozen=True)
class Origin:
    """The source from which a sample was cut, and its place there."""

    group: str
    start: float | None = None
    """Second at which its clip starts, if the rule gives it."""
    fits: bool = True
    """Whether the rule fits the id. An id that it does not fit is its own group."""


def shares_group(card: Card, ids: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """Whether any of ``others`` is in the same group, for each id. An id that fits no rule is alone.

    Raises:
        UsageError: the dataset config has no grouping rule, or ids are made up, so that groups are unknown.
    """
    origin = origin_rule(card)
    if unknown := sum(map(is_made_up, [*ids, *others])):
        raise UsageError(f"{card.name}: {unknown:,} samples {UNKNOWN_SOURCES}")
    known = {origin(name).group for name in others}
    return np.array([origin(name).group in known for name in ids], dtype=bool)


UNKNOWN_SOURCES = (
    "have unusable names (clips were dropped before the features were published), so their source videos are "
    "unknown; use protocol.seen_test=published, or features that were extracted again"
)
"""Why samples with made-up ids have no known group, and what to do; follows a number of samples."""


def usable_grouping(card: Card, ids: Sequence[str]) -> str | None:
    """The dataset's grouping rule; None if it has none, or if the source videos of some ids are unknown."""
    return None if any(map(is_made_up, ids)) else card.grouping


def groups_of(card: Card, ids: Sequence[str]) -> list[str]:
    """The group of each id. Without a rule that is usable (``usable_grouping``), each id is its own group."""
    if usable_grouping(card, ids) is None:
        return list(ids)
    origin = origin_rule(card)
    return [origin(name).group for name in ids]


def origin_rule(card: Card) -> Callable[[str], Origin]:
    """The function from a sample id to its origin.

    Raises:
        UsageError: the dataset config has no grouping rule.
    """
    if card.grouping is None:
        raise UsageError(f"{card.name} has no grouping rule; write `grouping` in its dataset config")
    rule, timed = re.compile(card.grouping), card.overlap_seconds is not None

    def origin(name: str) -> Origin:
        found = None if is_made_up(name) else rule.match(name)
        if found is None:
            return Origin(name, fits=False)
        return Origin(found.group(1), float(found.group(2)) if timed else None)

    return origin


def relatives(
    origins: Sequence[Origin], others: Sequence[Origin], overlap_seconds: float | None = None
) -> Iterator[list[int]]:
    """Indices in ``others`` of the samples from the same source, for each origin, nearest known start first.

    Args:
        origins: origins of the samples to look at.
        others: origins of other samples, to search for the same sources.
        overlap_seconds: length of a clip, to return only samples whose clips overlap: their starts are less
            than that apart. None returns the whole group.
    """
    members: dict[str, list[tuple[int, float | None]]] = {}
    for index, other in enumerate(others):
        members.setdefault(other.group, []).append((index, other.start))
    for origin in origins:
        apart = [(_apart(origin.start, start), index) for index, start in members.get(origin.group, [])]
        yield [
            index for seconds, index in sorted(apart) if overlap_seconds is None or seconds < overlap_seconds
        ]


def _apart(start: float | None, other: float | None) -> float:
    """Seconds between two starts; infinite if one is unknown."""
    return float("inf") if start is None or other is None else abs(start - other)
