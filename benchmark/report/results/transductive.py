"""Finds the rows of a report that are transductive, so that they compete with each other only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.report.results.collect import UNIT, Results
from benchmark.report.results.published import published_for
from benchmark.tracking.schema import Tag


def transductive(results: Results, row: Mapping[Any, Any]) -> bool:
    """Whether a row of a summary used unseen class names in training, or other test samples to predict one.

    The method declares the first (``uses``). The second is a flag of its published numbers; it holds for rows
    of the same mode without changed settings or protocol flags.
    """
    key = tuple(str(row[name]) for name in UNIT)
    if any(unit.key == key and unit.tag(Tag.METHOD_USES) for unit in results.units):
        return True
    found = published_for(row["dataset"], row["features"], row["method"])
    if found is None or "transductive" not in found.flags:
        return False
    return bool(row["mode"] == found.source.mode and row["variant"] != "user-set" and not row["switches"])
