"""How long a benchmark run will take on this machine, from a few training batches of each method."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmark.method import Method
from benchmark.protocol.device import autocast_for, method_device
from benchmark.protocol.stages import VAL_SEEN, VAL_UNSEEN, training_data
from benchmark.running.jobs import Plan, Unit, trainings_that_confirm
from benchmark.running.status import Existing, JobStatus, StudyState, unit_states

BATCHES = 3
"""Measured batches, after one to warm up."""


@dataclass(frozen=True)
class Expected:
    """What is left to do of a unit, and how long it takes at most."""

    unit: str
    trainings: int
    """Stages that are not done, of repetitions and of trials."""
    batch_seconds: float
    """Of a training batch."""
    training_seconds: float
    """Of a stage with all its epochs and their validation."""

    @property
    def seconds(self) -> float:
        """Of all trainings, one after the other."""
        return self.trainings * self.training_seconds


def expected(plan: Plan, stores: Existing) -> tuple[list[Expected], list[str]]:
    """What is left of each unit, and how long it takes at most.

    Returns:
        Also the titles of units that cannot be measured, since their methods have a training of their own.
    """
    left = [(unit, trainings_left(plan, unit, unit_states(plan, unit, stores))) for unit in plan.units]
    found = [
        Expected(unit.title, count, *measure(unit))
        for unit, count in left
        if count and unit.method.fit is Method.fit
    ]
    return found, [unit.title for unit, count in left if count and unit.method.fit is not Method.fit]


def trainings_left(plan: Plan, unit: Unit, states: Sequence[JobStatus | StudyState]) -> int:
    """Jobs and trials that are not done. Tuned jobs count before it is known what they are.

    A search that only seconds bound counts for nothing.
    """
    count = sum(isinstance(state, JobStatus) and state.state != "done" for state in states)
    stages, repetitions = 2 if plan.run.stages == "all" else 1, len(unit.repetitions)
    for number, study in enumerate(state for state in states if isinstance(state, StudyState)):
        count += ((study.left or 0) + study.interrupted + study.running) * unit.tuning.seeds
        if study.state == "done":
            continue

        # Trainings that confirm are stage 1 of the tuned repetitions and, for trial 0, of the untuned ones.
        confirming = trainings_that_confirm(unit)
        shared = 0 if not confirming else 1 if number else 2
        count += confirming + repetitions * (stages - shared)
    return count


def measure(unit: Unit) -> tuple[float, float]:
    """Seconds of a training batch, and of a stage with all its epochs."""
    experiment = unit.job(1, unit.repetitions[0]).experiment()
    data, model, train = training_data(experiment, 1), experiment.build(), experiment.settings.train
    device, autocast, optimizer = method_device(model), autocast_for(train), model.optimizer()
    classes = type(data.batches.classes)(data.batches.classes.text.to(device))
    started = 0.0
    model.train()
    for i, batch in enumerate(data.batches.epoch(experiment.seed, 0, 1 + BATCHES, train.batch_size)):
        if i == 1:
            started = time.perf_counter()
        batch = batch.to(device)
        with autocast():
            total = model.loss(batch, classes)["total"]
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if experiment.protocol.extra_bn_pass == "paper":
            with torch.no_grad(), autocast():
                model.after_step(data.batches.at_evaluation_times(batch))
        total.item()  # a GPU has finished the step
    of_batch = (time.perf_counter() - started) / BATCHES

    # Validation embeds all of its samples; their cost is estimated from those of a training batch.
    model.eval()
    started = time.perf_counter()
    with torch.no_grad(), autocast():
        next(iter(model.embed(batch).outputs.values())).sum().item()
    of_sample = (time.perf_counter() - started) / len(batch)
    samples = sum(experiment.store.counts[split] for split in (VAL_SEEN, VAL_UNSEEN))
    return of_batch, train.epochs * (train.batches_per_epoch * of_batch + samples * of_sample)
