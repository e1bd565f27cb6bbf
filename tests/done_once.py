"""Says how many jobs a runs folder holds, and fails where one was done twice: ``python tests/done_once.py RUNS``."""

import sys
from collections import Counter
from pathlib import Path

from benchmark.databases import sqlite_uri
from benchmark.tracking import Tracker


def main(runs: Path) -> None:
    found = Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts").find(kind="job")
    times = Counter(run.tags["job_key"] for run in found if run.tags.get("outcome") != "pruned")
    twice = [key for key, count in times.items() if count > 1]
    left = {run.status for run in found} - {"FINISHED", "KILLED"}
    print(f"{len(times)} jobs")
    if twice or left or not times:
        sys.exit(f"done twice: {twice}; runs that are {left or 'open: none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
