"""Weights from run folders of the published code (what authors distributed), as tested here: which stand in a report.

They come from runs of their own (``kind=published-checkpoint``), which belong to no call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.report.switches import beyond_switches, switched
from benchmark.tracking import RunRecord, Tracker

KIND = "published-checkpoint"
RELEASED = "released"
"""Kind of settings of their rows, beside ``published``, ``tuned`` and others."""

IDENTITY = ("method", "dataset", "features", "mode", "alignment", "weights_digest")
Place = tuple[str, str]
"""Data set and features."""


@dataclass(frozen=True)
class ReleasedWeights:
    """A row's worth of released weights."""

    run: RunRecord
    settings: str
    """What tells them apart: from other weights of the method, from the mode's own switches, from other data; may be empty."""


@dataclass(frozen=True)
class OnOtherData:
    """Released weights that were tested on other data than the report's, so that no row may hold them."""

    run: RunRecord
    digests: Sequence[str]
    """The report's data."""

    def sentence(self) -> str:
        """Which weights, and why they are left out."""
        tags = self.run.tags
        weights = f"{tags.get('method_title', tags['method'])} (weights {tags.get('weights_digest', '?')[:8]})"
        where = f"{tags.get('dataset_title', tags['dataset'])}/{tags['features']}, mode {tags['mode']}"
        theirs, ours = tags.get("data_digest", "?")[:8], ", ".join(d[:8] for d in self.digests)
        return (
            f"Left out: released weights of {weights} on {where}, which were tested on other data (digest {theirs}, the "
            f"report's {ours}); `evaluate` on the report's data gives them a row."
        )


def released_runs(tracker: Tracker) -> list[RunRecord]:
    """Finished tests of released weights, newest first; those of our own weights are the retrained rows already."""
    return tracker.find(status="FINISHED", kind=KIND, origin="published")


def place_of(run: RunRecord) -> Place:
    """Data set and features that the weights were tested on."""
    return (run.tags["dataset"], run.tags["features"])


def on_report_data(
    runs: Iterable[RunRecord], data: Mapping[Place, Sequence[str]]
) -> tuple[list[ReleasedWeights], list[OnOtherData]]:
    """Sort tests of released weights into those that may stand beside a report's results and those on other data.

    Args:
        runs: newest first; of several tests of the same weights the newest on the report's data counts.
        data: digests of the report's data; where it has none, the newest test names the data.
    """
    known = {place: list(digests) for place, digests in data.items()}
    kept: dict[tuple[Any, ...], RunRecord] = {}
    other: dict[tuple[str, ...], RunRecord] = {}
    for run in runs:
        digest = run.tags.get("data_digest", "")
        identity = tuple(run.tags.get(name, "") for name in IDENTITY)
        if digest in known.setdefault(place_of(run), [digest]):
            several = digest if len(known[place_of(run)]) > 1 else ""
            kept.setdefault((*identity, tuple(sorted(run.params.items())), several), run)
        else:
            other.setdefault(identity, run)
    shown = {key[: len(IDENTITY)] for key in kept}
    rows = [ReleasedWeights(run, _settings(run, several, kept.values())) for (*_, several), run in kept.items()]
    return rows, [OnOtherData(run, known[place_of(run)]) for key, run in other.items() if key not in shown]


def _settings(run: RunRecord, data: str, others: Iterable[RunRecord]) -> str:
    mine = (run.tags["method"], *place_of(run))
    rivals = [o for o in others if (o.tags["method"], *place_of(o)) == mine]
    weights = {o.tags.get("weights_digest", "") for o in rivals}
    parts = [run.tags.get("weights_digest", "")[:8]] if len(weights) > 1 else []
    same = [o.params for o in rivals if o.tags.get("weights_digest") == run.tags.get("weights_digest")]
    differing = sorted({n for params in same for n in beyond_switches(mine[0], run.params, params)})
    parts += [f"{name}={run.params.get(name, 'unset')}" for name in differing]
    return ", ".join([*parts, *switched(run.params), *([f"digest={data[:8]}"] if data else [])])
