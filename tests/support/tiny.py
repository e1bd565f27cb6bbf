"""Small calls on generated data, and what runs them: shared by tests of protocol, tuning and execution."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from benchmark import registry
from benchmark.method import EpochRecord, Listener
from benchmark.running.jobs import Call, Unit
from benchmark.running.planning import plan_units
from benchmark.running.runner import CallResult, Runner
from benchmark.running.tasks import Ended
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker

TINY = [
    "train.epochs=3",
    "train.batches_per_epoch=4",
    "train.batch_size=16",
    *(f"{m}.{s}" for m in ("tcaf", "attention_fusion", "perceiver") for s in ("dim=16", "encoder_hidden=16", "lr=0.001")),
    *(f"{m}.{s}" for m in ("tcaf", "perceiver") for s in ("depth=1", "heads=2", "dim_head=8")),
    "perceiver.latents=4",
    "avca.dim=16",
    "avca.encoder_hidden=16",
    "cjme.hidden=16",
    "avgzslnet.hidden=16",
]
"""Settings with which a job on the synthetic data takes well under a second."""


def need(missing: str) -> NoReturn:
    """Skip a test for want of a program or a right, or fail it where GZSL_ALL_TESTS=required, as in CI."""
    (pytest.fail if os.environ.get("GZSL_ALL_TESTS") == "required" else pytest.skip)(missing)


class QuietListener(Listener):
    """Hears of a training's progress and keeps nothing."""


class SilentDisplay:
    """Keeps what a user would have seen."""

    def __init__(self) -> None:
        self.outcomes: list[Ended] = []
        self.started: list[str] = []
        self.epochs: list[EpochRecord] = []

    def start(self, title: str, epochs: int, batches: int) -> None:
        self.started.append(title)

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)

    def end(self, ended: Ended) -> None:
        self.outcomes.append(ended)

    def passed(self, jobs: int) -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def clear(self) -> None:
        pass


class Bench:
    """Runs calls in a folder of its own."""

    def __init__(self, tracker: Tracker, runs: Path, data: Path) -> None:
        self.tracker, self.runs, self.data = tracker, runs, data
        self.display = SilentDisplay()
        self.runner = Runner(tracker, runs, sqlite_uri(runs / "optuna.db"), self.display, "python run_benchmark.py")

    def units(self, call: Call) -> list[Unit]:
        return plan_units(call, registry.load(call.plugins), self.data)

    def call(self, *extra: str, **options: object) -> Call:
        """A tiny call on the synthetic data."""
        return Call.model_validate({"dataset": "synthetic", "settings": [*TINY, *extra], **options})

    def run(self, call: Call, **options: bool) -> CallResult:
        return self.runner.run(call, self.units(call), **options)


def results(tracker: Tracker) -> dict[str, object]:
    """Results of all finished jobs by key, without what an interruption may rightly change: times, openings of the test."""
    found: dict[str, object] = {}
    for run in tracker.find(kind="job", status="FINISHED"):
        record = tracker.read_json(run.run_id, "result.json")
        record.pop("test_openings", None)
        for epoch in record.get("history", []):
            del epoch["seconds"]
        assert run.tags["job_key"] not in found, "a job was done twice"
        found[run.tags["job_key"]] = record
    return found
