"""Leak groups: which samples come from the same source."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.data.cards import Card
from benchmark.errors import UsageError


def shares_group(card: Card, ids: Sequence[str], others: Sequence[str]) -> NDArray[np.bool_]:
    """For each id whether any of ``others`` is in the same group; an id that the rule does not fit is its own group."""
    if card.grouping is None:
        raise UsageError(f"{card.name} has no grouping rule; write `grouping` in its card")
    rule = re.compile(card.grouping)

    def group(name: str) -> str:
        found = rule.match(name)
        return found.group(1) if found else name

    known = {group(name) for name in others}
    return np.array([group(name) in known for name in ids], dtype=bool)
