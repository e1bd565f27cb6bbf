"""Leak groups: which samples come from the same source, by the rule in a data set's card."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.data.cards import Card
from benchmark.errors import UsageError


@dataclass(frozen=True)
class Origin:
    """Where a sample was cut from."""

    group: str
    start: float | None = None
    """Second at which its clip starts, where the card's rule knows it."""
    fits: bool = True
    """Whether the rule fits the id; an id that it does not fit is its own group."""


def shares_group(card: Card, ids: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """For each id whether any of ``others`` is in the same group; an id that the rule does not fit is its own group."""
    origin = origin_rule(card)
    known = {origin(name).group for name in others}
    return np.array([origin(name).group in known for name in ids], dtype=bool)


def groups_of(card: Card, ids: Sequence[str]) -> list[str]:
    """For each id the name of its group; without a grouping rule in the card each id is its own group."""
    if card.grouping is None:
        return list(ids)
    origin = origin_rule(card)
    return [origin(name).group for name in ids]


def origin_rule(card: Card) -> Callable[[str], Origin]:
    """The function from a sample id to its origin.

    Raises:
        UsageError: the card has no grouping rule.
    """
    if card.grouping is None:
        raise UsageError(f"{card.name} has no grouping rule; write `grouping` in its card")
    rule, timed = re.compile(card.grouping), card.overlap_seconds is not None

    def origin(name: str) -> Origin:
        found = rule.match(name)
        if found is None:
            return Origin(name, fits=False)
        return Origin(found.group(1), float(found.group(2)) if timed else None)

    return origin


def relatives(origins: Sequence[Origin], others: Sequence[Origin], overlap_seconds: float | None = None) -> Iterator[list[int]]:
    """For each origin the indices of its relatives among ``others``, the nearest start first where starts are known.

    Args:
        origins: of the samples that are looked at.
        others: of the samples among which relatives are looked for, none of them in ``origins``.
        overlap_seconds: length of a clip, where only relatives are wanted whose clips overlap: their starts are less than
            that apart. None for all of the same group.
    """
    members: dict[str, list[tuple[int, float | None]]] = {}
    for index, other in enumerate(others):
        members.setdefault(other.group, []).append((index, other.start))
    for origin in origins:
        apart = [(_apart(origin.start, start), index) for index, start in members.get(origin.group, [])]
        yield [index for seconds, index in sorted(apart) if overlap_seconds is None or seconds < overlap_seconds]


def _apart(start: float | None, other: float | None) -> float:
    """Seconds between two starts, infinite where one is not known."""
    return float("inf") if start is None or other is None else abs(start - other)
