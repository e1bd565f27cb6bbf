"""A real MLflow store filled as ``benchmark/running/runner.py`` fills one, without training anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.rows import Rows

from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker

ADAPTED = "our adaptation to zero-shot learning: no code of the adapted version was published"
TITLES = {
    "attention_fusion": "Attention fusion",
    "perceiver": "Perceiver",
    "cjme": "CJME",
    "avgzslnet": "AVGZSLNet",
    "avca": "AVCA",
    "tcaf": "TCAF",
}


@dataclass(frozen=True)
class FakeUnit:
    """A method on a dataset in a mode, and the scores that its seeds shall have."""

    method: str = "tcaf"
    dataset: str = "stamps"
    features: str = "native"
    mode: str = "paper"
    alignment: str = "by_name"
    variant: str = "default"
    scores: Sequence[tuple[float, float] | None] = ((0.4, 0.2), (0.5, 0.3))
    """S and U of each seed, fractions; None: the job failed in stage 1."""
    tuned: Sequence[tuple[float, float] | None] | None = None
    trials: int = 0
    best_values: Mapping[str, Any] = field(default_factory=lambda: {"lr": 0.000123})
    kind: str = "real"
    caption: str = ""
    reduced: bool = False
    epochs: int = 8
    params: Mapping[str, str] = field(default_factory=dict)
    disjoint: Mapping[str, float] = field(default_factory=dict)
    """``samples``, ``classes``, ``seen`` and ``hm`` of the group-disjoint test."""
    processor: tuple[str, str] | None = None
    """``cpu_capability`` and ``blas`` of its jobs, if they recorded them."""
    uses: str = ""
    """What the method uses as a transductive one."""
    digest: str = ""
    """Of the data; ``digest-of-<dataset>`` where empty."""

    def identity(self) -> dict[str, str]:
        return {"dataset": self.dataset, "features": self.features, "mode": self.mode, "method": self.method}

    def tags(self) -> dict[str, str]:
        return {
            **self.identity(),
            "alignment": self.alignment,
            "method_title": TITLES.get(self.method, self.method),
            "method_note": ADAPTED if self.method in ("perceiver", "attention_fusion") else "",
            "method_inputs": "sequence",
            "method_uses": self.uses,
            "dataset_title": {"ucf": "UCF"}.get(self.dataset, self.dataset.title()),
            "dataset_kind": self.kind,
            "dataset_caption": self.caption,
            "reduced_sizes": str(self.reduced).lower(),
            "epochs": str(self.epochs),
            "batches_per_epoch": "40",
            "lengths": "max/max",
        }


def hm(seen: float, unseen: float) -> float:
    return 2 * seen * unseen / (seen + unseen)


def curve(seen: float, unseen: float) -> pd.DataFrame:
    """A curve that passes through the point."""
    t = np.linspace(0, 1, 61)
    shape = 1 - t**3.5
    return pd.DataFrame(
        {"beta": 4 * t - 1.6, "seen": seen * shape / shape[30], "unseen": unseen * shape[::-1] / shape[30]}
    )


@dataclass
class FakeStore:
    """Writes calls into a store."""

    tracker: Tracker
    rows: Rows | None = None
    """Takes what is recorded, instead of the tracker."""
    made: set[str] = field(default_factory=set)
    """Keys of jobs."""

    @property
    def record(self) -> Tracker | Rows:
        return self.rows or self.tracker

    def flush(self) -> None:
        if self.rows is not None:
            self.rows.flush()

    def call(self, units: Sequence[FakeUnit], stages: str = "all", status: str = "FINISHED") -> str:
        tags = {
            "kind": "benchmark_run",
            "benchmark_run_key": "k",
            "command": "run_benchmark.py --methods all",
            "git_revision": "abc123def456",
        }
        call = self.record.start("benchmark 2026-01-01 12:00", tags)
        entries: list[dict[str, Any]] = []
        for unit in units:
            method_tags = {**unit.tags(), "kind": "method"}
            if unit.trials:
                method_tags |= {"tuning.trials": str(unit.trials), "tuning.pruned": "1"}
            parent = self.record.start(unit.method, method_tags, call)
            if unit.trials:
                study = {
                    "study": "s",
                    "best_values": dict(unit.best_values),
                    "best_number": 2,
                    "best_hm": 0.4321,
                }
                study |= {"complete": unit.trials - 1, "pruned": 1, "failed": 0}
                self.record.log_json(parent, study, "tuning.json")
            for variant, scores in ((unit.variant, unit.scores), ("tuned", unit.tuned)):
                for repetition, score in enumerate(scores or ()):
                    entries += self.repetition(
                        replace(unit, variant=variant), parent, repetition, score, stages
                    )
            self.record.finish(parent)
        if entries:
            self.record.log_json(call, entries, "jobs.json")
        self.record.finish(call, status)  # type: ignore[arg-type]
        self.flush()
        return call

    def repetition(
        self, unit: FakeUnit, parent: str, repetition: int, score: tuple[float, float] | None, stages: str
    ) -> list[dict[str, Any]]:
        """Both stages of a seed, as jobs and as entries of the call's list."""
        common = {**unit.identity(), "variant": unit.variant, "repetition": repetition}
        keys = [self.key(unit, repetition, stage) for stage in (1, 2)]
        if score is None:
            first = {
                **common,
                "stage": 1,
                "job_key": keys[0],
                "state": "failed",
                "error": "loss is not a number in epoch 3",
            }
            second = {
                **common,
                "stage": 2,
                "job_key": keys[1],
                "state": "missing",
                "error": "stage 1 is failed",
            }
            return [first, second] if stages == "all" else [first]
        entries = []
        for stage in (1, 2) if stages == "all" else (1,):
            state = "reused" if keys[stage - 1] in self.made else "done"
            self.made.add(keys[stage - 1])
            if state == "done":
                self.job(unit, parent, repetition, stage, keys[stage - 1], score)
            entries.append(
                {**common, "stage": stage, "job_key": keys[stage - 1], "state": state, "error": ""}
            )
        return entries

    @staticmethod
    def key(unit: FakeUnit, repetition: int, stage: int) -> str:
        variant = "tuned" if unit.variant == "tuned" and unit.best_values else "start"
        tail = "".join(unit.params.values())
        return "-".join(
            [
                *unit.identity().values(),
                unit.alignment,
                str(unit.epochs),
                tail,
                variant,
                str(repetition),
                str(stage),
            ]
        )

    def job(
        self, unit: FakeUnit, parent: str, repetition: int, stage: int, key: str, score: tuple[float, float]
    ) -> None:
        versions = {
            "torch": "2.9.0",
            "numpy": "2.3.0",
            "python": "3.12.1",
            "git_revision": "abc123def456",
            "platform": "Linux",
        }
        versions |= dict(zip(("cpu_capability", "blas"), unit.processor or (), strict=False))
        job_tags = {"kind": "job", "job_key": key, "stage": str(stage), "seed": str(1000 + repetition)}
        run = self.record.start(
            key, {**unit.tags(), **job_tags, **versions, "repetition": str(repetition)}, parent
        )
        identity = {"digest": unit.digest or f"digest-of-{unit.dataset}", "code": "c0de", "torch": "2.9.0"}
        settings = {"train.epochs": unit.epochs, "train.batches_per_epoch": 40, "train.batch_size": 64}
        self.record.log_params(
            run, {**settings, "protocol.mode": unit.mode, "protocol.calibration": unit.mode, **unit.params}
        )
        self.record.log_json(run, identity, "identity.json")
        seen, unseen = score
        values = {
            "seen": seen,
            "unseen": unseen,
            "hm": hm(seen, unseen),
            "zsl": 1.2 * unseen,
            "ausuc": 0.8 * seen * unseen,
        }
        if stage == 1:
            metrics = {f"best/{k}": v for k, v in {**values, "beta": 0.4, "epoch": 4}.items()}
        else:
            metrics = {f"test/{k}": v for k, v in values.items()} | {"epochs": 5}
            metrics |= {f"test/disjoint_{k}": v for k, v in unit.disjoint.items()}
            self.record.log_text(run, curve(seen, unseen).to_csv(index=False), "curve.csv")
        self.record.log_metrics(run, {**metrics, "calibration/beta": 0.4 + 0.2 * repetition})
        self.record.finish(run)

    def released(
        self,
        unit: FakeUnit,
        score: tuple[float, float],
        weights: str = "aaaa1111bbbb2222",
        origin: str = "published",
        published_settings: str | None = "true",
    ) -> str:
        """A test of weights from run folders, as command ``evaluate`` logs it."""
        tags = {
            "kind": "published-checkpoint",
            "origin": origin,
            "weights_digest": weights,
            "source": "stage A and stage B",
        }
        tags |= {"data_digest": unit.digest or f"digest-of-{unit.dataset}"}
        tags |= {} if published_settings is None else {"published_settings": published_settings}
        run = self.record.start("released", {**unit.tags(), **tags})
        seen, unseen = score
        values = {
            "seen": seen,
            "unseen": unseen,
            "hm": hm(seen, unseen),
            "zsl": 1.2 * unseen,
            "ausuc": 0.8 * seen * unseen,
        }
        self.record.log_metrics(run, {**{f"test/{k}": v for k, v in values.items()}, "calibration/beta": 1.4})
        self.record.log_text(run, curve(seen, unseen).to_csv(index=False), "curve.csv")
        self.record.log_params(
            run, {"protocol.mode": unit.mode, "protocol.calibration": unit.mode, **unit.params}
        )
        self.record.finish(run)
        self.flush()
        return run


@pytest.fixture(scope="session")
def new_store(mlflow_template: Path) -> Callable[[Path], FakeStore]:
    """Makes a store in a folder."""

    def make(folder: Path) -> FakeStore:
        shutil.copy(mlflow_template, folder / "mlflow.db")
        tracker = Tracker(sqlite_uri(folder / "mlflow.db"), folder / "artifacts")
        return FakeStore(tracker, Rows(tracker, folder))

    return make


@pytest.fixture(scope="session")
def store_on() -> type[FakeStore]:
    """Makes a store on any tracker; test files cannot import this file."""
    return FakeStore


@pytest.fixture
def store(new_store: Callable[[Path], FakeStore], tmp_path: Path) -> FakeStore:
    """A store of the test's own."""
    return new_store(tmp_path)


@pytest.fixture(scope="session")
def unit() -> type[FakeUnit]:
    """Makes units; test files cannot import this file."""
    return FakeUnit
