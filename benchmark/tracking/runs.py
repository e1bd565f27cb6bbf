"""A run as the tracking store has it, read by MLflow's client or straight from its database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.system.beside import NOT_WRITTEN
from benchmark.system.redaction import hide, hide_values
from benchmark.tracking.schema import Tag, current_params, current_tags

TEXT_TAGS = (Tag.COMMAND, Tag.ERROR, NOT_WRITTEN, Tag.DESCRIPTION)
"""Tags with text for people. All others name things and are compared."""


@dataclass(frozen=True)
class RunRecord:
    """A run of the tracking store; a copy, which does not follow later changes."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    """Latest value of each metric, accuracies as fractions."""
    start: float
    """Seconds since the epoch."""
    end: float | None
    parent: str | None
    """Id of the run above it."""

    @classmethod
    def of(
        cls,
        facts: tuple[str, str, str, int, int | None],
        tags: Mapping[str, str],
        params: Mapping[str, str],
        metrics: Mapping[str, float],
    ) -> RunRecord:
        """A run from what MLflow stores.

        Args:
            facts: id, name, status, start and end, the last two in milliseconds since the epoch.
        """
        run_id, name, status, start, end = facts
        return cls(
            run_id=run_id,
            name=name,
            status=status,
            tags=_shown(tags),
            params=current_params(params),
            metrics=metrics,
            start=start / 1000,
            end=end / 1000 if end else None,
            parent=tags.get(Tag.PARENT),
        )

    @classmethod
    def of_client(cls, run: Any) -> RunRecord:
        """A run from MLflow's client."""
        info, data = run.info, run.data
        facts = (info.run_id, info.run_name, info.status, info.start_time, info.end_time)
        return cls.of(facts, dict(data.tags), dict(data.params), dict(data.metrics))


def hidden_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as they are written: without secrets."""
    return {key: hide(value) if key in TEXT_TAGS else hide_values(value) for key, value in tags.items()}


def _shown(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as they are read. Earlier versions wrote commands and errors with their secrets."""
    return current_tags({**tags, **{key: hide(tags[key]) for key in TEXT_TAGS if key in tags}})
