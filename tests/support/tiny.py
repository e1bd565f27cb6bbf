"""Small calls on generated data, and what runs them: shared by tests of protocol, tuning and execution."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from benchmark import registry
from benchmark.method import EpochRecord, Listener
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.events import BatchDone, EpochDone, Event, JobEnded, JobStarted, Said
from benchmark.running.jobs import Plan, Unit
from benchmark.running.planning import make_plan
from benchmark.running.runner import BenchmarkRunResult, Runner
from benchmark.running.stores import Stores
from benchmark.running.tasks import JobLine
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker

TINY = [
    "tuning.confirm=0",
    "train.epochs=3",
    "train.batches_per_epoch=4",
    "train.batch_size=16",
    *(
        f"{m}.{s}"
        for m in ("tcaf", "attention_fusion", "perceiver")
        for s in ("dim=16", "encoder_hidden=16", "lr=0.001")
    ),
    *(f"{m}.{s}" for m in ("tcaf", "perceiver") for s in ("depth=1", "heads=2", "dim_head=8")),
    "perceiver.latents=4",
    "avca.dim=16",
    "avca.encoder_hidden=16",
    "cjme.hidden=16",
    "avgzslnet.hidden=16",
]
"""Settings with which a job on the synthetic data takes well under a second. Tests of confirmed searches turn
confirmation on."""
LONGER = ("train.epochs=12", "train.batches_per_epoch=12")
"""Lengths with which a job takes a second, so that something can happen meanwhile."""


def need(missing: str) -> NoReturn:
    """Skip a test for want of a program or a right, or fail it where GZSL_ALL_TESTS=required, as in CI."""
    (pytest.fail if os.environ.get("GZSL_ALL_TESTS") == "required" else pytest.skip)(missing)


class QuietListener(Listener):
    """Hears of a training's progress and keeps nothing."""


class SilentDisplay:
    """Keeps what a user would have seen."""

    def __init__(self) -> None:
        self.outcomes: list[JobLine] = []
        self.started: list[str] = []
        self.epochs: list[EpochRecord] = []

    def __call__(self, event: Event) -> None:
        match event:
            case JobStarted(title, epochs, batches):
                self.start(title, epochs, batches)
            case BatchDone(epoch, batch, loss):
                self.batch(epoch, batch, loss)
            case EpochDone(record):
                self.epoch(record)
            case JobEnded(line):
                self.end(line)
            case Said(text):
                self.say(text)

    def start(self, title: str, epochs: int, batches: int) -> None:
        self.started.append(title)

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        self.epochs.append(record)

    def end(self, line: JobLine) -> None:
        self.outcomes.append(line)

    def say(self, text: str) -> None:
        pass


class Bench:
    """Runs benchmark runs in its own folder."""

    def __init__(self, tracker: Tracker, runs: Path, data: Path) -> None:
        self.tracker, self.runs, self.data = tracker, runs, data
        self.display = SilentDisplay()
        self.stores = Stores(tracker, sqlite_uri(runs / "optuna.db"), runs)
        self.runner = Runner(self.stores, self.display, "python run_benchmark.py")

    def plan(self, call: BenchmarkRun, *, tune_only: bool = False) -> Plan:
        return make_plan(call, registry.load(call.plugins), self.data, tune_only=tune_only)

    def units(self, call: BenchmarkRun) -> list[Unit]:
        return list(self.plan(call).units)

    def call(self, *extra: str, **options: object) -> BenchmarkRun:
        """A tiny call on the synthetic data."""
        return BenchmarkRun.model_validate({"dataset": "synthetic", "settings": [*TINY, *extra], **options})

    def run(self, call: BenchmarkRun, **options: bool) -> BenchmarkRunResult:
        return self.runner.run(self.plan(call, **options))


def results(tracker: Tracker) -> dict[str, object]:
    """Results of all finished jobs by key, without what an interruption may rightly change.

    Times, openings of the test.
    """
    found: dict[str, object] = {}
    for run in tracker.find(kind="job", status="FINISHED"):
        record = tracker.read_json(run.run_id, "result.json")
        record.pop("test_openings", None)
        for epoch in record.get("history", []):
            del epoch["seconds"]
        assert run.tags["job_key"] not in found, "a job was done twice"
        found[run.tags["job_key"]] = record
    return found
