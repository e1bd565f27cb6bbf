"""Released weights: checkpoints of the published code that were evaluated here, and which of them a report
lists.

They come from the method's authors or from anyone who ran their code. Their evaluations are runs of their own
kind (``Kind.EVALUATION``), which belong to no benchmark run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmark.report.results.switches import Logged, beyond_switches, switched, told_apart
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Kind, Tag
from benchmark.tracking.tracker import Tracker

RELEASED = "released"
"""Kind of settings of their rows, like ``published`` or ``tuned``."""

IDENTITY = (Tag.METHOD, Tag.DATASET, Tag.FEATURES, Tag.MODE, Tag.ALIGNMENT, Tag.WEIGHTS_DIGEST)
WEIGHTS, DATA = "weights", "digest"
"""Names of the hashes of weights and data, which are shown like settings."""
Data = tuple[str, str]
"""Dataset and features."""


@dataclass(frozen=True)
class ReleasedWeights:
    """Released weights that get a row in a report."""

    run: RunRecord
    settings: str
    """What distinguishes the row: weights, protocol switches, settings or data; may be empty."""

    @property
    def facts(self) -> dict[str, str]:
        """The logged settings, and the hashes of weights and data."""
        tags = self.run.tags
        return {
            **self.run.params,
            WEIGHTS: tags.get(Tag.WEIGHTS_DIGEST, "")[:8],
            DATA: tags.get(Tag.DATA_DIGEST, "")[:8],
        }

    @property
    def published_settings(self) -> bool:
        """Whether the weights have the published settings."""
        return self.run.tags.get(Tag.PUBLISHED_SETTINGS) == "true"


@dataclass(frozen=True)
class OnOtherData:
    """Released weights that were evaluated on other data than the report's, so that they get no row."""

    run: RunRecord
    digests: Sequence[str]
    """Hashes of the report's data."""

    def sentence(self) -> str:
        """Which weights are omitted, and why."""
        tags = self.run.tags
        digest = tags.get(Tag.WEIGHTS_DIGEST, "?")[:8]
        weights = f"{tags.get(Tag.METHOD_TITLE, tags[Tag.METHOD])} (weights {digest})"
        where = (
            f"{tags.get(Tag.DATASET_TITLE, tags[Tag.DATASET])}/{tags[Tag.FEATURES]}, mode {tags[Tag.MODE]}"
        )
        theirs, ours = tags.get(Tag.DATA_DIGEST, "?")[:8], ", ".join(d[:8] for d in self.digests)
        return (
            f"Omitted: released weights of {weights} on {where}, which were evaluated on other data (hash "
            f"{theirs}, the report's: {ours}). Evaluate them on the report's data to add a row."
        )


def released_runs(tracker: Tracker) -> list[RunRecord]:
    """Finished evaluations of released weights, newest first. Our own weights have rows of their own
    already."""
    return tracker.find(status="FINISHED", kind=Kind.EVALUATION, origin="published")


def data_of(run: RunRecord) -> Data:
    """Dataset and features that the weights were evaluated on."""
    return (run.tags[Tag.DATASET], run.tags[Tag.FEATURES])


def on_report_data(
    runs: Iterable[RunRecord], data: Mapping[Data, Sequence[str]]
) -> tuple[list[ReleasedWeights], list[OnOtherData]]:
    """Split evaluations of released weights into those on a report's data and those on other data.

    Args:
        runs: newest first. Of several evaluations of the same weights with the same settings the newest one
            on the report's data counts.
        data: hashes of the report's data; if there are none, those of the newest evaluation.
    """
    known = {name: list(digests) for name, digests in data.items()}
    kept: dict[tuple[tuple[str, ...], str, frozenset[tuple[str, str]]], RunRecord] = {}
    other: dict[tuple[str, ...], RunRecord] = {}
    for run in runs:
        digest = run.tags.get(Tag.DATA_DIGEST, "")
        identity = tuple(run.tags.get(name, "") for name in IDENTITY)
        if digest in known.setdefault(data_of(run), [digest]):
            several = digest if len(known[data_of(run)]) > 1 else ""
            kept.setdefault((identity, several, frozenset(run.params.items())), run)
        else:
            other.setdefault(identity, run)
    alike: dict[tuple[str, ...], list[Logged]] = {}
    for (identity, *_), run in kept.items():
        alike.setdefault(identity, []).append(run.params)
    rows = [
        ReleasedWeights(
            run, ", ".join([*_weights(run, kept.values()), *_settings(run, alike[identity]), *_data(several)])
        )
        for (identity, several, _), run in kept.items()
    ]
    return rows, [OnOtherData(run, known[data_of(run)]) for key, run in other.items() if key not in alike]


def _weights(run: RunRecord, others: Iterable[RunRecord]) -> list[str]:
    """The hash of the weights, if there are several of the method."""
    mine = (run.tags[Tag.METHOD], *data_of(run))
    weights = {
        o.tags.get(Tag.WEIGHTS_DIGEST, "") for o in others if (o.tags[Tag.METHOD], *data_of(o)) == mine
    }
    return [run.tags.get(Tag.WEIGHTS_DIGEST, "")[:8]] if len(weights) > 1 else []


def _settings(run: RunRecord, alike: Sequence[Logged]) -> list[str]:
    """Protocol switches that differ from the mode, and settings that differ between evaluations of these
    weights."""
    return [*switched(run.params), *told_apart(run.params, beyond_switches(run.tags[Tag.METHOD], alike))]


def _data(digest: str) -> list[str]:
    return [f"{DATA}={digest[:8]}"] if digest else []
