"""The command line in its own process with a tiny run, and the processes that work for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import psutil
from support.checkout import PROJECT
from support.tiny import TINY, Bench


def tiny_arguments(bench: Bench, *options: str, do: Literal["run", "tune"] = "run") -> list[str]:
    """Arguments of ``run_benchmark.py`` for a tiny call on the synthetic data."""
    places = ["--data-root", str(bench.data), "--runs-dir", str(bench.runs)]
    if do == "run":
        places += ["--reports-dir", str(bench.runs / "reports")]
    return [do, "--dataset", "synthetic", *places, *(f"--set={s}" for s in TINY), *options]


def command(
    bench: Bench, *options: str, do: Literal["run", "tune"] = "run", **env: str
) -> subprocess.Popen[str]:
    """The command line with a tiny call, started."""
    return subprocess.Popen(
        [sys.executable, str(PROJECT / "run_benchmark.py"), *tiny_arguments(bench, *options, do=do)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )


def trainers(process: subprocess.Popen[str], runs: Path) -> list[psutil.Process]:
    """The processes below this one that hold an open lock of a job."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any(str(runs / "jobs") in f.path for f in child.open_files()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
