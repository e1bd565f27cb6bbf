"""Peak memory of training and evaluating on a mapped store of N GB, and how long the loop waits for data.

Run with ``make bench`` or ``python -m perf.memory``; ``-h`` lists the options. Features are synthetic with
UCF's dimensions and lengths (``cls``). One process writes the store. Another one runs both stages of a method
with its published settings, mode ``corrected`` and short epochs. Validation and test use all their samples,
and training draws from all of its samples.

The bound applies to ``RssAnon`` of ``/proc/<pid>/status``, read every 5 ms by another process. It is the
resident memory without pages of mapped files, which the system can reclaim. ``VmHWM``, the highest resident
size including them, is also shown. Linux only.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmark.data.store import FeatureStore
from perf import stage
from perf.generated import experiment_on, forget, generate, samples_of
from perf.resident import Resident, watched

FIXED, PER_GB = 1.2e9, 0.06e9
"""The bound in bytes: 3 GB for a store of 30 GB."""


def bound(gigabytes: float) -> float:
    """Most bytes that training and evaluating on a store may use, without mapped pages."""
    return FIXED + PER_GB * gigabytes


def make(path: Path, gigabytes: float, features: str) -> int:
    """Write the store and return its number of samples."""
    return sum(generate(path, features, samples_of(gigabytes, features)).counts.values())


def work(path: Path, method: str, batches: int, threads: int, cold: bool) -> dict[str, float]:
    """Run both stages with one epoch each; the seconds of each activity (``stage.run``).

    Args:
        cold: whether to ask the system to drop its cached pages of the file first.
    """
    if cold:
        forget(path)
    return stage.run(
        experiment_on(FeatureStore(path), method, epochs=1, batches_per_epoch=batches, threads=threads)
    )


def row(path: Path, gigabytes: float, method: str, batches: int, threads: int, cold: bool) -> dict[str, Any]:
    """A line of the table."""
    seconds, memory = watched(work, path, method, batches, threads, cold)
    return {
        "method": method,
        "store (GB)": round(path.stat().st_size / 1e9, 1),
        "file": "cold" if cold else "cached",
        **sizes(memory),
        "bound (MB)": round(bound(gigabytes) / 1e6),
        **{f"{name} (s)": round(seconds[name], 1) for name in (stage.WHOLE, stage.BATCHES, stage.WAITING)},
        "waiting (%)": round(100 * seconds[stage.WAITING] / seconds[stage.BATCHES], 1),
    }


def sizes(memory: Resident) -> dict[str, int]:
    """Columns of peak memory."""
    return {
        "own memory, peak (MB)": round(memory.own / 1e6),
        "with mapped files, peak (MB)": round(memory.whole / 1e6),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; exit code 1 if the bound is exceeded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--gb", type=float, default=1.0, help="size of the store (%(default)s); it is deleted afterwards"
    )
    parser.add_argument("--folder", type=Path, help="folder of the store; a temporary one by default")
    parser.add_argument(
        "--files", default="cold,cached", help="whether cached pages are dropped before a method runs"
    )
    parser.add_argument("--features", default="cls", choices=["cls", "main"])
    parser.add_argument("--methods", default="tcaf,avca")
    parser.add_argument(
        "--batches", type=int, default=20, help="batches of an epoch (%(default)s); each stage has one epoch"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch (%(default)s, as jobs have them by default)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, started = Path(folder) / "store.h5", time.perf_counter()
        samples, memory = watched(make, path, options.gb, options.features)
        took, most = time.perf_counter() - started, memory.own / 1e6
        print(f"{samples} samples written in {took:.0f} s, own memory at most {most:.0f} MB\n", flush=True)
        rows = [
            row(path, options.gb, name, options.batches, options.threads, way == "cold")
            for name in options.methods.split(",")
            for way in options.files.split(",")
        ]
    print(tabulate(rows, headers="keys", tablefmt="github"))
    if options.json is not None:
        found = {
            "gb": options.gb,
            "samples": samples,
            "making": sizes(memory),
            "threads": options.threads,
            "rows": rows,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    over = [r for r in rows if r["own memory, peak (MB)"] > r["bound (MB)"]]
    if over:
        raise SystemExit(f"over the bound: {', '.join(str(r['method']) for r in over)}")


if __name__ == "__main__":
    main()
