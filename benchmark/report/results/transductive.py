"""Finds the rows of a report that are transductive, so that they compete with each other only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.report.results.collect import UNIT, Results
from benchmark.tracking.schema import Tag


def transductive(results: Results, row: Mapping[Any, Any]) -> bool:
    """Whether a row of a summary used unseen class names in training, or other test samples to predict one.

    The method declares both (``Method.uses_with``), and its run records them.
    """
    key = tuple(str(row[name]) for name in UNIT)
    return any(unit.key == key and unit.tag(Tag.METHOD_USES) for unit in results.units)
