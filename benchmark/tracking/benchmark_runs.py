"""The benchmark runs of a tracking store."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import UsageError, near
from benchmark.system.shipped_files import program
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Kind
from benchmark.tracking.tracker import Tracker

ALL_RUNS = "all"


def find_benchmark_runs(tracker: Tracker, ids: Sequence[str] | None) -> list[RunRecord]:
    """The benchmark runs with these ids, newest first; the newest one if None, every one for ``ALL_RUNS``.

    Raises:
        UsageError: the store has no benchmark run, or none (or several) with an id; near ones are named.
    """
    known = benchmark_runs(tracker)
    if not known and tracker.find(kind=Kind.JOB):
        raise UsageError(
            f"{tracker.uri} has jobs, but their benchmark runs were deleted: restore one in MLflow's page, "
            "or repeat its command, which does no finished job again"
        )
    if not known:
        raise UsageError(
            f"{tracker.uri} has no benchmark run yet; start one with: {program()} --datasets demo"
        )
    if ids is None:
        return known[:1]
    if ALL_RUNS in ids:
        return known
    chosen: set[str] = set()
    for wanted in ids:
        hits = [run.run_id for run in known if wanted and run.run_id.startswith(wanted)]
        if len(hits) > 1:
            raise UsageError(
                f"run id {wanted!r} fits {len(hits)} runs of {tracker.uri}: {', '.join(hits)}; give more of "
                "it"
            )
        if not hits:
            raise UsageError(
                f"no run {wanted!r} in {tracker.uri}: {near(wanted, [r.run_id for r in known[:20]])}"
            )
        chosen.update(hits)
    return [run for run in known if run.run_id in chosen]


def benchmark_runs(tracker: Tracker) -> list[RunRecord]:
    """All benchmark runs of a store, newest first."""
    found = [*tracker.find(kind=Kind.BENCHMARK_RUN), *tracker.find(kind=Kind.EARLIER_BENCHMARK_RUN)]
    return sorted(found, key=lambda run: run.start, reverse=True)
