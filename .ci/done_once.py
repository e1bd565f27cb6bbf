"""Says how many jobs a runs folder holds, and fails where one was done twice: ``python .ci/done_once.py
RUNS``.

A pruned trial is one of its study's: a later trial may have the same settings, and so the same job key.
"""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmark.system.databases import sqlite_uri
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.tracker import Tracker


def times_done(runs: Iterable[RunRecord]) -> Counter[tuple[str, ...]]:
    """How many runs each job has, by its key, and each pruned trial, by its study and number."""
    pruned = ("study", "trial")
    return Counter(
        tuple(r.tags[t] for t in (pruned if r.tags.get("outcome") == "pruned" else ("job_key",)))
        for r in runs
    )


def main(runs: Path) -> None:
    found = Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts").find(kind="job")
    times = times_done(found)
    twice = [" ".join(job) for job, count in times.items() if count > 1]
    left = {run.status for run in found} - {"FINISHED", "KILLED"}
    print(f"{len(times)} jobs, pruned trials included")
    if twice or left or not times:
        sys.exit(f"done twice: {twice}; runs that are {left or 'open: none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
