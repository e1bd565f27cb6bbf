"""The benchmark runs of a tracking store."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.errors import UsageError, near
from benchmark.system.shipped_files import program
from benchmark.tracking.schema import Kind
from benchmark.tracking.tracker import RunRecord, Tracker

ALL_CALLS = "all"


def find_calls(tracker: Tracker, ids: Sequence[str] | None) -> list[RunRecord]:
    """The calls of these ids, newest first; the newest one if None, every one for ``ALL_CALLS``.

    Raises:
        UsageError: the store holds no call, or none (or several) of an id; near ones are named.
    """
    known = list(calls(tracker))
    if not known and tracker.find(kind=Kind.JOB):
        raise UsageError(
            f"{tracker.uri} holds jobs, but the benchmark calls that they belong to were deleted: restore one in MLflow's "
            "page, or repeat its command, which does no finished job again"
        )
    if not known:
        raise UsageError(f"{tracker.uri} holds no benchmark call yet; start one with: {program()} --dataset demo")
    if ids is None:
        return known[:1]
    if ALL_CALLS in ids:
        return known
    chosen: set[str] = set()
    for wanted in ids:
        hits = [c.run_id for c in known if wanted and c.run_id.startswith(wanted)]
        if len(hits) > 1:
            raise UsageError(f"call id {wanted!r} fits {len(hits)} calls of {tracker.uri}: {', '.join(hits)}; give more of it")
        if not hits:
            raise UsageError(f"no call {wanted!r} in {tracker.uri}: {near(wanted, [c.run_id for c in known[:20]])}")
        chosen.update(hits)
    return [c for c in known if c.run_id in chosen]


def calls(tracker: Tracker) -> Sequence[RunRecord]:
    """All benchmark calls of a store, newest first."""
    return tracker.find(kind=Kind.BENCHMARK_RUN)
