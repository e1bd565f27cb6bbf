"""What ``perf.cuda`` times: steps, epochs, jobs in company, the peak, and a plain published data path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.method import Batch
from benchmark.protocol.stages import Experiment
from benchmark.settings.schema import TrainConfig
from perf import device_worker, flops
from perf.device_checks import Row
from perf.trainer import Trainer, repeated, wait

PRECISIONS = ("float32", "tf32", "bfloat16")
"""TF32 is float32 whose matrix products have 10 bits of mantissa; jobs do not use it."""
HOUR = 3600.0


def peak(device: torch.device, precision: str, seconds: float) -> float:
    """Operations per second of a product of two large square matrices."""
    size = 8192 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    with products(precision):
        return 2 * size**3 / repeated(lambda: torch.mm(a, b), seconds, device)


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Let products of float32 use TF32 within the block if the precision is ``tf32``, and otherwise not."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def with_train(experiment: Experiment, **train: Any) -> Experiment:
    """The experiment with other settings of training."""
    settings = experiment.settings
    changed = TrainConfig.model_validate({**settings.train.model_dump(), **train})
    return replace(experiment, settings=replace(settings, train=changed))


def operations(trainer: Trainer) -> float:
    """Operations of a step that torch counts: matrix products and attention, padding included."""
    batch = next(trainer.coming(1))
    with flops.counter() as counter:
        trainer.model.loss(batch, trainer.classes)["total"].backward()  # type: ignore[no-untyped-call]
    trainer.model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def steps(
    experiment: Experiment, peaks: dict[str, float], seconds: float, precisions: Sequence[str] = PRECISIONS
) -> Row:
    """Time of a step in each precision, with its share of the peak, and of a validation.

    Args:
        peaks: operations per second by precision.
        seconds: for all of them.
    """
    row: Row = {"method": experiment.method.title}
    for precision in precisions:
        name = "float32" if precision == "tf32" else precision
        trainer = Trainer(with_train(experiment, precision=name))
        count = operations(trainer)
        with products(precision):
            step = trainer.step_seconds(seconds / (len(precisions) + 1))
        row[f"{precision} (ms)"] = 1000 * step
        row[f"{precision} (% of peak)"] = 100 * count / step / peaks[precision]
        if precision == "float32":
            validation = trainer.validation_seconds(seconds / (len(precisions) + 1))
            train = trainer.train
            row |= {"GFLOP": count / 1e9, "validation (ms)": 1000 * validation}
            row["epoch (s)"] = train.batches_per_epoch * step + validation
    return row


def sources(experiment: Experiment, seconds: float) -> Row:
    """Time of a step whose features lie on the device, are copied ahead, or take the published data path."""
    row: Row = {"method": experiment.method.title}
    for name, share in (("resident", 1.0), ("copied", 0.0)):
        trainer = Trainer(with_train(experiment, resident_share=share))
        row[f"{name} (ms)"] = 1000 * trainer.step_seconds(seconds / 3)
    row["plain (ms)"] = 1000 * Plain(trainer).step_seconds(seconds / 3)
    row["times as fast"] = row["plain (ms)"] / row["resident (ms)"]
    return row


class Plain:
    """Our own plain version of how published code feeds a step, for comparison of speed only.

    Each sample is a list of time steps that is padded in Python, each tensor of a batch goes to the device by
    itself, and the host reads the loss in each step.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.batches = trainer.data.batches
        self.optimizer = trainer.parts["optimizer"]

    def step_seconds(self, seconds: float) -> float:
        """Mean seconds of a step, its batch included."""
        size, self.model = self.trainer.train.batch_size, self.trainer.model.train()
        rows, labels = self.batches.sampler.epoch(0, 0, 50, size)  # type: ignore[attr-defined]
        turns = iter(range(10**9))

        def step() -> None:
            i = next(turns) % len(rows)
            batch = self._batch(rows[i], labels[i])
            if self.trainer.model.needs_negatives:
                batch = replace(batch, negative=self._batch(rows[i - 1], labels[i - 1]))
            loss = self.model.loss(batch, self.trainer.classes)["total"]
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            loss.item()

        return repeated(step, seconds, self.trainer.device)

    def _batch(self, rows: Any, labels: Any) -> Batch:
        samples, device = self.batches.samples, self.trainer.device  # type: ignore[attr-defined]
        found: dict[str, Tensor] = {}
        for name in ("audio", "video"):
            data = getattr(samples, name)
            if self.trainer.model.inputs == "mean":
                found[name] = torch.stack([torch.from_numpy(np.array(data.means[i])) for i in rows])
                continue
            listed = [list(np.array(data.frames[data.offsets[i] : data.offsets[i + 1]])) for i in rows]
            longest = max(map(len, listed))
            padded = [steps + [np.zeros(data.dim, np.float32)] * (longest - len(steps)) for steps in listed]
            found[name] = torch.stack([torch.from_numpy(np.stack(steps)).float() for steps in padded])
            mask = [[i < len(steps) for i in range(longest)] for steps in listed]
            found[f"{name}_mask"] = torch.tensor(mask)
            found[f"{name}_times"] = torch.arange(longest).float().expand(len(rows), -1)
        label = torch.from_numpy(labels)
        found |= {"label": label, "text": self.batches.classes.text[label]}
        return Batch(**{name: x.to(device) for name, x in found.items()})  # type: ignore[arg-type]


def company(
    store: Path, experiment: Experiment, train: dict[str, Any], folder: Path, count: int, seconds: float
) -> Row:
    """Jobs per hour of several processes that train on the same device together.

    A job is a stage 1 at its published length: its time is computed from a step and a validation.

    Args:
        train: settings of training, the device among them.
        count: number of processes.
        seconds: of the measurement, without the start of the processes.
    """
    folder.mkdir(parents=True)
    folders = [folder / str(i) for i in range(count)]
    arguments = {"store": str(store), "method": experiment.method.name, "train": train, "seconds": seconds}
    processes = [device_worker.start("rate", folder=str(place), **arguments) for place in folders]
    device_worker.wait_for(processes, [place / device_worker.READY for place in folders])
    (folder / device_worker.START).touch()
    pairs = zip(processes, folders, strict=True)
    found = [device_worker.result(process, place, 10 * seconds + 120) for process, place in pairs]
    length = experiment.settings.train
    jobs = sum(
        HOUR / (length.epochs * (length.batches_per_epoch * x["step"] + x["validation"])) for x in found
    )
    step = 1000 * float(np.mean([x["step"] for x in found]))
    return {
        "method": experiment.method.title,
        "device": train["device"],
        "processes": count,
        "step (ms)": step,
        "jobs per hour": jobs,
    }


def against_cpu(experiment: Experiment, seconds: float) -> Row:
    """Time of a step on the device and on one thread of the CPU."""
    there, here = Trainer(experiment), Trainer(with_train(experiment, device="cpu", threads=1))
    device, cpu = (each.step_seconds(seconds / 2, block=2) for each in (there, here))
    wait(there.device)
    return {
        "method": experiment.method.title,
        "device (ms)": 1000 * device,
        "CPU, one thread (ms)": 1000 * cpu,
        "times as fast": cpu / device,
    }
