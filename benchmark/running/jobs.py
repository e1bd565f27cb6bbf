"""What a benchmark run consists of: units, jobs and their keys, as small frozen records that can be printed
and hashed.

A job's key is made here (``Job.identity``). Nothing here trains or writes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark.data.cards import Card
from benchmark.data.store import FeatureStore
from benchmark.method import Method
from benchmark.protocol.code_version import code_version
from benchmark.protocol.device import choose_device
from benchmark.protocol.randomness import derive_seed
from benchmark.protocol.stages import Experiment, Stage
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.settings.resolve import Settings
from benchmark.settings.schema import MOST_SEEDS, Mode, TuningConfig
from benchmark.settings.search_space import Range
from benchmark.tracking.schema import EVERYTHING, WITHOUT, ablation_words

SEARCH_REPETITION = 1_000_000
"""The repetition whose seed the trials of a search have. No repetition of a run has such a number."""
FEWEST_CONFIRMING = 3
"""Seeds with which a search is confirmed at least: fewer have no standard error worth the name."""


@dataclass(frozen=True)
class Unit:
    """A method on a dataset in a mode, a row of a table. ``make_plan`` makes it; a study tunes it."""

    method: type[Method]
    ranges: Mapping[str, Range]
    """Search ranges of its hyperparameters."""
    card: Card
    features: str
    preset: str | None
    """The preset that was asked for, such as ``demo``."""
    data_settings: Mapping[str, Any]
    """Settings of synthetic data that differ from the dataset config."""
    store: FeatureStore
    mode: Mode
    settings: Settings
    user_set: bool
    """Whether ``--set`` changed settings of the method, its sequence lengths or its calibration grid."""
    tuning: TuningConfig
    plugins: Sequence[Path]
    repetitions: Sequence[int]
    base_seed: int
    ablation: str = ""
    """The protocol flag that an ablation corrects; ``all`` for mode corrected; ``without`` and a part that is
    left out; empty outside ablations."""
    studies: int = 1
    """How many independent searches there are."""
    study: int = 0
    """Number of the search that this unit is for (``of_study``)."""
    settings_note: str = ""
    """What is ours in the settings for these features; empty if they are published or defaults."""

    @property
    def title(self) -> str:
        """``TCAF · ucf/cls · paper``, in an ablation with the corrected flag, of a further search with its
        number."""
        words = ablation_words(self.ablation) if self.ablation not in ("", EVERYTHING) else ""
        switch = f" {words}" if words.startswith(WITHOUT) else f" with {words}" if words else ""
        study = f" · study {self.study}" if self.study else ""
        return f"{self.method.title} · {self.card.name}/{self.features} · {self.mode}{switch}{study}"

    @property
    def note(self) -> str:
        """What a reader of the row must know."""
        return "; ".join(filter(None, [self.method.note, self.settings_note]))

    def of_study(self, number: int) -> Unit:
        """The unit as one of its searches tunes and trains it: no two share a seed."""
        if number == self.study:
            return self
        step = number * (max(self.confirming) + 1)
        return replace(
            self,
            study=number,
            tuning=self.tuning.model_copy(update={"seed": self.tuning.seed + number}),
            repetitions=[repetition + step for repetition in self.repetitions],
        )

    @property
    def searching(self) -> list[int]:
        """The repetitions whose seeds the trials of its search have."""
        first = SEARCH_REPETITION + self.study * MOST_SEEDS
        return [first + i for i in range(self.tuning.seeds)]

    @property
    def variant(self) -> str:
        """Kind of the untuned settings: of a paper, adapted by us to these features, defaults for these data,
        or changed with ``--set``.

        Epochs, batches and protocol flags are listed in captions and do not count as changed settings.
        """
        if self.user_set:
            return "user-set"
        own = "adapted" if self.settings_note else "default"
        return "published" if self.settings.published else own

    @property
    def confirming(self) -> list[int]:
        """The repetitions whose seeds confirm a search: those of the run, and more if these are few."""
        more, after = FEWEST_CONFIRMING - len(self.repetitions), max(self.repetitions) + 1
        return [*self.repetitions, *range(after, after + more)]

    def job(self, stage: Stage, repetition: int, settings: Settings | None = None) -> Job:
        """One stage of one repetition."""
        return Job(self, stage, repetition, settings or self.settings)

    def identity(self) -> dict[str, Any]:
        """The names that identify the unit."""
        return {
            "dataset": self.card.name,
            "features": self.features,
            "mode": self.mode,
            "method": self.method.name,
            "ablation": self.ablation,
        }


@dataclass(frozen=True)
class Job:
    """One stage of one repetition of a unit, with all settings resolved.

    A worker runs it; its key names it everywhere.
    """

    unit: Unit
    stage: Stage
    repetition: int
    settings: Settings

    @property
    def seed(self) -> int:
        """Seed of the repetition."""
        return derive_seed(self.unit.base_seed, self.unit.card.name, self.repetition)

    def identity(self) -> dict[str, Any]:
        """Everything that can change a number; the key is its hash."""
        store, settings = self.unit.store, self.settings.as_dict()
        features, of = self.unit.card.features[self.unit.features], ("audio", "video")
        steps = {name: getattr(features, name).model_dump(exclude={"extractor"}) for name in of}
        if self.stage == 1:
            del settings["protocol"]["seen_test"]  # stage 1 does not depend on which test samples count
        return {
            # which test samples belong together
            **({"grouping": self.unit.card.grouping} if self.stage == 2 else {}),
            "settings": settings,
            "method": self.unit.method.name,
            "dataset": self.unit.card.name,
            "features": self.unit.features,
            "steps": steps,
            "digest": store.development_digest if self.stage == 1 else store.digest,
            "seed": self.seed,
            "stage": self.stage,
            "code": code_version(self.unit.method),
            "device": choose_device(self.settings.train.device, self.settings.train.precision).type,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        }

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name the job."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """``TCAF · ucf/cls · paper · seed 0 · stage 1``."""
        return f"{self.unit.title} · seed {self.repetition} · stage {self.stage}"

    def first_stage(self) -> Job:
        """The job whose epoch and beta this one uses."""
        return replace(self, stage=1)

    def experiment(self) -> Experiment:
        """The job as the protocol takes it."""
        features = self.unit.card.features[self.unit.features]
        return Experiment(
            self.unit.method, self.settings, features, self.unit.store, self.seed, self.unit.card
        )

    def alone(self) -> BenchmarkRun:
        """The benchmark run that repeats this job and nothing else."""
        return BenchmarkRun(
            methods=self.unit.method.name,
            dataset=self.unit.card.name,
            features=self.unit.features,
            mode=self.unit.mode,
            stages="1" if self.stage == 1 else "all",
            repetitions=[self.repetition],
            base_seed=self.unit.base_seed,
            trials=0,
            settings=[
                *(
                    f"{key}={json.dumps(value)}"
                    for key, value in self.settings.flat().items()
                    if key != "protocol.mode"
                ),
                *(f"data.{key}={json.dumps(value)}" for key, value in self.unit.data_settings.items()),
            ],
            plugins=[_from_here(path) for path in self.unit.plugins],
        )


def _from_here(path: Path) -> Path:
    """A path as seen from the working folder if it is below, so that a project moves with its runs."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def trainings_that_confirm(unit: Unit) -> int:
    """How many trainings confirm a search at most."""
    tuning = unit.tuning
    if not tuning.searches or not tuning.confirm:
        return 0
    others = tuning.confirm if tuning.trials is None else min(tuning.confirm, tuning.trials - 1)
    return (1 + others) * len(unit.confirming) if others else 0


@dataclass(frozen=True)
class Plan:
    """All work of a benchmark run.

    ``planning.make_plan`` makes it; the runner and the dispatcher of an engine take it.
    """

    run: BenchmarkRun
    units: Sequence[Unit]
    tune_only: bool = False
    """Whether hyperparameters are searched and nothing is tested."""
    left_out: Sequence[str] = ()
    """Methods of ``--methods all`` that are not run, with the reason, a sentence each."""

    @property
    def mode(self) -> str:
        """The mode of all units, or ``both``."""
        modes = {unit.mode for unit in self.units}
        return "both" if len(modes) > 1 else modes.pop()

    @cached_property
    def key(self) -> str:
        """Names the work: a repeated command with the same work continues the same record."""
        work = [
            [unit.job(2, repetition).key for repetition in unit.repetitions]
            + [unit.mode, unit.tuning.model_dump(), unit.preset]
            + ([{k: r.model_dump() for k, r in unit.ranges.items()}] if unit.tuning.searches else [])
            for unit in self.units
        ]
        asked = [work, self.run.stages, self.tune_only, self.run.dataset, self.run.studies]
        text = json.dumps(asked, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def count(self) -> int | None:
        """Number of jobs, trials and finished ones included; None where seconds alone bound a search."""
        stages, jobs = 2 if self.run.stages == "all" else 1, 0
        for unit in self.units:
            if unit.tuning.trials is None:
                return None
            tests = 0 if self.tune_only else stages * len(unit.repetitions)
            jobs += tests
            if unit.tuning.searches:
                search = unit.tuning.trials * unit.tuning.seeds + trainings_that_confirm(unit)
                jobs += unit.studies * (search + tests)
        return jobs
