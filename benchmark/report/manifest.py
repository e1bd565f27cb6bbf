"""What a report's manifest says of it beside its files, so that others can list it without the tracking store."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmark.report.results.collect import UNIT, Results, digests, distinct
from benchmark.report.tables.studies import budget_of
from benchmark.tracking.tracker import Tracker


def facts(tracker: Tracker, results: Results) -> dict[str, Any]:
    """Plain data: ``made`` (end of the newest run, seconds since the epoch), ``calls``, ``revision``, ``data`` (digests of what
    was tested, by data set and features) and ``units`` (``UNIT`` with titles, kind of data and tuning budget)."""
    runs = [*results.calls, *results.runs.values(), *(w.run for w in results.released)]
    data: dict[str, list[str]] = {}
    if len(results.test):
        known = digests(tracker, pd.DataFrame(results.test))
        data = {f"{dataset}/{features}": values for (dataset, features, _), values in known.items()}
    for weights in results.released:
        tags = weights.run.tags
        data.setdefault(f"{tags['dataset']}/{tags['features']}", [tags.get("data_digest", "not recorded")])
    units = [
        {
            **dict(zip(UNIT, u.key, strict=True)),
            "method_title": u.tag("method_title", u.method),
            "dataset_title": u.tag("dataset_title", u.dataset),
            "generated": u.tag("dataset_kind") == "generated",
            "budget": str(budget_of(u) or ""),
        }
        for u in results.units
    ]
    return {
        "made": max((run.end or run.start for run in runs), default=0.0),
        "calls": [c.run_id for c in results.calls],
        "revision": ", ".join(distinct(r.tags.get("git_revision", "") for r in results.calls)),
        "data": data,
        "units": units,
    }
