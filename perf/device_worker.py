"""A process of ``perf.cuda``: trains a stage that may be killed, or measures how fast it trains in company.

Its only argument is a JSON text with the arguments of a function below.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmark.data.store import FeatureStore
from benchmark.method import EpochRecord, Listener
from benchmark.protocol.stages import stage_one
from benchmark.system.shipped_files import PACKAGE
from perf.generated import experiment_on
from perf.trainer import Trainer

RESULT, READY, START = "result.json", "ready", "start"


class Recorder(Listener):
    """Keeps the epochs."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_epoch(self, record: EpochRecord) -> None:
        """Keep an epoch, without its duration."""
        self.records.append({k: v for k, v in asdict(record).items() if k != "seconds"})


def stage(folder: str, store: str, method: str, train: dict[str, Any]) -> None:
    """Train stage 1, from its last checkpoint if there is one; writes the epochs to ``result.json``."""
    recorder = Recorder()
    stage_one(experiment_on(FeatureStore(Path(store)), method, **train), Path(folder), "perf", recorder)
    write(Path(folder) / RESULT, recorder.records)


def rate(folder: str, store: str, method: str, train: dict[str, Any], seconds: float) -> None:
    """Measure a step and a validation while others do the same, from when ``start`` is in the parent folder.

    Writes seconds of ``step`` and ``validation``.
    """
    trainer, here = Trainer(experiment_on(FeatureStore(Path(store)), method, **train)), Path(folder)
    trainer.steps(2)
    trainer.data.validate(trainer.model)
    (here / READY).touch()
    while not (here.parent / START).exists():
        time.sleep(0.01)
    validation = trainer.validation_seconds(seconds / 4)
    step = trainer.step_seconds(3 * seconds / 4, block=5)
    write(here / RESULT, {"step": step, "validation": validation})


def write(path: Path, content: Any) -> None:
    """Write JSON to a file that is there only when it is complete."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    temporary.rename(path)


def start(function: str, **arguments: Any) -> subprocess.Popen[bytes]:
    """Start a process that calls a function of this module.

    Args:
        arguments: of the function; ``folder`` is created.
    """
    folder = Path(arguments["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"function": function, **arguments}, default=str)
    with (folder / "output").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "perf.device_worker", text],
            cwd=PACKAGE.parent,
            stdout=output,
            stderr=output,
        )


def wait_for(
    processes: Sequence[subprocess.Popen[bytes]], files: Sequence[Path], seconds: float = 180
) -> None:
    """Wait until each process has written its file, has ended, or the time is over."""
    until = time.monotonic() + seconds
    for process, file in zip(processes, files, strict=True):
        while not file.exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)


def result(process: subprocess.Popen[bytes], folder: Path, seconds: float) -> Any:
    """What a process wrote, once it has ended.

    Raises:
        RuntimeError: it failed; the message has the end of its output.
    """
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = -1
    if code != 0:
        output = (folder / "output").read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"a process ended with {code} after at most {seconds:.0f} s: {output[-500:]}")
    return json.loads((folder / RESULT).read_text(encoding="utf-8"))


def main() -> None:
    """Call the function that the argument names."""
    torch.set_num_threads(1)
    arguments = json.loads(sys.argv[1])
    {"stage": stage, "rate": rate}[arguments.pop("function")](**arguments)


if __name__ == "__main__":
    main()
