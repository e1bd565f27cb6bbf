"""A method in training on a device: what ``perf.cuda`` times and checks, made of the harness's own loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmark.method import Batch, Listener
from benchmark.protocol.batching import ahead
from benchmark.protocol.device import method_device
from benchmark.protocol.finite import Checks, Deferred, Immediate
from benchmark.protocol.sources import CopyStream
from benchmark.protocol.stages import Experiment, training_data
from benchmark.protocol.training import Loop

NEVER = 10**9
"""Steps between two readings of the device, where none is wanted."""


class Silent(Listener):
    """Ignores progress."""


def wait(device: torch.device) -> None:
    """Wait until a CUDA device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def repeated(action: Callable[[], Any], seconds: float, device: torch.device, least: int = 3) -> float:
    """Mean seconds of an action, after one to warm up, repeated for about this long and ``least`` times."""
    action()
    wait(device)
    count, started = 0, time.perf_counter()
    while count < least or time.perf_counter() - started < seconds:
        action()
        count += 1
        if count % least == 0:
            wait(device)  # the host must not run ahead of the clock
    wait(device)
    return (time.perf_counter() - started) / count


class Trainer:
    """Stage 1 of an experiment, ready to train.

    Args:
        experiment: its device, precision and resident share are those of its settings.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment, self.train = experiment, experiment.settings.train
        self.data = training_data(experiment, 1)
        self.model = experiment.build()
        self.device = method_device(self.model)
        self.batches = self.data.batches.on(self.device)
        self.classes = type(self.data.batches.classes)(self.data.batches.classes.text.to(self.device))
        extra = experiment.protocol.extra_bn_pass == "paper"
        options: dict[str, Any] = {"folder": Path(), "key": "perf", "listener": Silent(), "keep_best": False}
        self.loop = Loop(self.train, seed=experiment.seed, extra_pass=extra, **options)
        self.parts = {
            "optimizer": self.model.optimizer(),
            "scaler": torch.amp.GradScaler(enabled=False),
        }

    def coming(self, steps: int, epoch: int = 0) -> Iterator[Batch]:
        """Batches of an epoch on the device, made ahead as the loop has them made."""
        batches = self.batches.epoch(self.experiment.seed, epoch, steps, self.train.batch_size)
        stream = CopyStream(self.device) if self.device.type == "cuda" else None
        for batch in islice(ahead(stream.assemble(batches) if stream else batches), steps):
            yield stream.arrived(batch) if stream else batch.to(self.device)

    def steps(
        self,
        count: int,
        around: Callable[[int], AbstractContextManager[Any]] = lambda _: nullcontext(),
        checks: Checks | None = None,
    ) -> Checks:
        """Train on some batches; their losses and gradients are kept and not read.

        Args:
            around: the context of each step, from its number.
            checks: what takes losses and gradients.
        """
        self.model.train()
        checks = checks or (Immediate(0) if self.device.type == "cpu" else Deferred(0, NEVER))
        for i, batch in enumerate(self.coming(count)):
            with around(i):
                self.loop._step(self.model, self.data, self.parts, checks, i, batch, self.classes)
        return checks

    def step_seconds(self, seconds: float, block: int = 10) -> float:
        """Mean seconds of a step, from blocks of steps whose batches are made ahead."""

        def some() -> None:
            list(self.steps(block).finished(everything=True))

        return repeated(some, seconds, self.device, least=2) / block

    def validation_seconds(self, seconds: float) -> float:
        """Mean seconds of a validation."""
        return repeated(lambda: self.data.validate(self.model), seconds, self.device, least=2)
