"""Weights from run folders of the published code, as they were tested here: which of them stand in a report.

Who made such a folder is not known: the method's authors or anybody who ran their code. The tests come from runs of their own
(``kind=published-checkpoint``), which belong to no call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.report.results.switches import Logged, beyond_switches, switched, told_apart
from benchmark.tracking.schema import Kind, Tag
from benchmark.tracking.tracker import RunRecord, Tracker

RELEASED = "released"
"""Kind of settings of their rows, beside ``published``, ``tuned`` and others."""

IDENTITY = (Tag.METHOD, Tag.DATASET, Tag.FEATURES, Tag.MODE, Tag.ALIGNMENT, Tag.WEIGHTS_DIGEST)
WEIGHTS, DATA = "weights", "digest"
"""Names of the digests of weights and data beside the settings of a run."""
Place = tuple[str, str]
"""Data set and features."""


@dataclass(frozen=True)
class ReleasedWeights:
    """A row's worth of released weights."""

    run: RunRecord
    settings: str
    """What tells them apart: other weights of the method, switches against the mode, other settings, other data; may be
    empty."""

    @property
    def facts(self) -> dict[str, str]:
        """The settings that were logged, the weights and the data."""
        tags = self.run.tags
        return {**self.run.params, WEIGHTS: tags.get(Tag.WEIGHTS_DIGEST, "")[:8], DATA: tags.get(Tag.DATA_DIGEST, "")[:8]}

    @property
    def published_settings(self) -> bool:
        """Whether the settings of the run folder are known to be the published ones."""
        return self.run.tags.get(Tag.PUBLISHED_SETTINGS) == "true"


@dataclass(frozen=True)
class OnOtherData:
    """Released weights that were tested on other data than the report's, so that no row may hold them."""

    run: RunRecord
    digests: Sequence[str]
    """The report's data."""

    def sentence(self) -> str:
        """Which weights, and why they are left out."""
        tags = self.run.tags
        weights = f"{tags.get(Tag.METHOD_TITLE, tags[Tag.METHOD])} (weights {tags.get(Tag.WEIGHTS_DIGEST, '?')[:8]})"
        where = f"{tags.get(Tag.DATASET_TITLE, tags[Tag.DATASET])}/{tags[Tag.FEATURES]}, mode {tags[Tag.MODE]}"
        theirs, ours = tags.get(Tag.DATA_DIGEST, "?")[:8], ", ".join(d[:8] for d in self.digests)
        return (
            f"Left out: released weights of {weights} on {where}, which were tested on other data (digest {theirs}, the "
            f"report's {ours}); `evaluate` on the report's data gives them a row."
        )


def released_runs(tracker: Tracker) -> list[RunRecord]:
    """Finished tests of released weights, newest first; those of our own weights are the retrained rows already."""
    return tracker.find(status="FINISHED", kind=Kind.EVALUATION, origin="published")


def place_of(run: RunRecord) -> Place:
    """Data set and features that the weights were tested on."""
    return (run.tags[Tag.DATASET], run.tags[Tag.FEATURES])


def on_report_data(
    runs: Iterable[RunRecord], data: Mapping[Place, Sequence[str]]
) -> tuple[list[ReleasedWeights], list[OnOtherData]]:
    """Sort tests of released weights into those that may stand beside a report's results and those on other data.

    Args:
        runs: newest first; of several tests of the same weights with the same settings the newest on the report's data
            counts.
        data: digests of the report's data; where it has none, the newest test names the data.
    """
    known = {place: list(digests) for place, digests in data.items()}
    kept: dict[tuple[tuple[str, ...], str, frozenset[tuple[str, str]]], RunRecord] = {}
    other: dict[tuple[str, ...], RunRecord] = {}
    for run in runs:
        digest = run.tags.get(Tag.DATA_DIGEST, "")
        identity = tuple(run.tags.get(name, "") for name in IDENTITY)
        if digest in known.setdefault(place_of(run), [digest]):
            several = digest if len(known[place_of(run)]) > 1 else ""
            kept.setdefault((identity, several, frozenset(run.params.items())), run)
        else:
            other.setdefault(identity, run)
    alike: dict[tuple[str, ...], list[Logged]] = {}
    for (identity, *_), run in kept.items():
        alike.setdefault(identity, []).append(run.params)
    rows = [
        ReleasedWeights(run, ", ".join([*_weights(run, kept.values()), *_settings(run, alike[identity]), *_data(several)]))
        for (identity, several, _), run in kept.items()
    ]
    return rows, [OnOtherData(run, known[place_of(run)]) for key, run in other.items() if key not in alike]


def _weights(run: RunRecord, others: Iterable[RunRecord]) -> list[str]:
    """The weights, where there are several of the method."""
    mine = (run.tags[Tag.METHOD], *place_of(run))
    weights = {o.tags.get(Tag.WEIGHTS_DIGEST, "") for o in others if (o.tags[Tag.METHOD], *place_of(o)) == mine}
    return [run.tags.get(Tag.WEIGHTS_DIGEST, "")[:8]] if len(weights) > 1 else []


def _settings(run: RunRecord, alike: Sequence[Logged]) -> list[str]:
    """Switches set against the mode, and what else tests of the same weights do not share."""
    return [*switched(run.params), *told_apart(run.params, beyond_switches(run.tags[Tag.METHOD], alike))]


def _data(digest: str) -> list[str]:
    return [f"{DATA}={digest[:8]}"] if digest else []
