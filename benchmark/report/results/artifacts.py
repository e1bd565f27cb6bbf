"""Reads artifacts of runs. What is missing or damaged is None or empty: earlier versions logged less."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from itertools import count
from typing import Any

import pandas as pd

from benchmark.errors import UsageError
from benchmark.system.redaction import hide_values
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Artifact, Tag, of_study
from benchmark.tracking.tracker import Tracker


def artifact_text(tracker: Tracker, run_id: str, file: str) -> str | None:
    """A text artifact of a run; None if it is missing."""
    try:
        return tracker.read_text(run_id, file)
    except UsageError:
        return None


def artifact_frame(tracker: Tracker, run_id: str, file: str) -> pd.DataFrame | None:
    """A CSV artifact of a run; None if it is missing or damaged."""
    text = artifact_text(tracker, run_id, file)
    try:
        return None if text is None else pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
    except ValueError:  # empty or cut off
        return None


def artifact_json(tracker: Tracker, run_id: str, file: str) -> Any:
    """A JSON artifact of a run; None if it is missing or damaged."""
    text = artifact_text(tracker, run_id, file)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def identity_of(tracker: Tracker, run_id: str) -> dict[str, Any]:
    """What a job's key is made from; empty if it was not recorded."""
    return dict(artifact_json(tracker, run_id, Artifact.IDENTITY) or {})


def entries_of(tracker: Tracker, call: RunRecord) -> list[dict[str, Any]]:
    """The list of jobs of a benchmark run; empty if it was stopped before it finished its first method."""
    return list(hide_values(artifact_json(tracker, call.run_id, Artifact.JOBS) or []))


def study_of_run(tracker: Tracker, run_id: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """The studies of a method's run. Earlier stores have the result alone; what cannot be read is None.

    Args:
        tags: of the run, which name further studies.
    """
    further = []
    for number in count(1):
        if of_study(Tag.TUNING_TRIALS, number) not in tags:
            break
        found = artifact_json(tracker, run_id, of_study(Artifact.TUNING, number))
        further += [found] if isinstance(found, dict) else []
    study, importances = (
        artifact_json(tracker, run_id, name) for name in (Artifact.TUNING, Artifact.IMPORTANCES)
    )
    return {
        "study": study if isinstance(study, dict) else None,
        "search": artifact_frame(tracker, run_id, Artifact.TRIALS),
        "importances": importances if isinstance(importances, dict) else None,
        "further": further,
    }
