"""The training loop of all methods: epochs, learning-rate schedule, selection, checkpoints, exact resume.

The loop gets a function that scores the model. ``stages.py`` decides what is validated and how.
"""

from __future__ import annotations

import copy
import io
import math
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from benchmark.errors import JobError, UsageError
from benchmark.method import (
    Batch,
    Classes,
    EpochRecord,
    FitResult,
    Listener,
    Method,
    TrainingData,
    Validation,
)
from benchmark.protocol.batching import ahead
from benchmark.protocol.border import checked_losses, checked_optimizer
from benchmark.protocol.device import autocast_for, method_device, slow_precision
from benchmark.protocol.finite import CHECK_EVERY, Checks, Deferred, Immediate, NotFinite, check_gradients
from benchmark.protocol.randomness import random_states, restore_random_states
from benchmark.protocol.sources import CopyStream
from benchmark.settings.schema import TrainConfig
from benchmark.system.files import raise_outside, raise_unreadable, replacing
from benchmark.system.patience import disk_is_full, patiently

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.1, 3
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


@dataclass
class LoopState:
    """What changes from epoch to epoch, besides the model, its optimiser and the random states."""

    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = -1
    best_calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def best_hm(self) -> float:
        """Validation HM of the best epoch so far; minus infinity before the first epoch."""
        return self.history[self.best_epoch].validation["hm"] if self.best_epoch >= 0 else -math.inf


class Loop:
    """Trains a method. ``stages.py`` makes one per stage and hands it to ``Method.fit``, which calls ``run``.

    Args:
        train: epochs, batches, precision.
        seed: of the batches; a model draws from torch's own random state.
        folder: for checkpoints; the caller removes them.
        key: of the job; a checkpoint of another key is refused.
        listener: is called after each batch and epoch.
        keep_best: whether to keep the weights of the best epoch as ``best.pt``.
        extra_pass: whether to call ``Method.after_step``.
        replay: learning rate of each epoch, instead of the plateau schedule.
        check_every: steps between two checks that losses and gradients are finite. None: each step on the CPU
            and with float16, whose scaler reads the device in each step anyway; otherwise ``CHECK_EVERY``.
    """

    def __init__(
        self,
        train: TrainConfig,
        *,
        seed: int,
        folder: Path,
        key: str,
        listener: Listener,
        keep_best: bool,
        extra_pass: bool,
        replay: Sequence[float] | None = None,
        check_every: int | None = None,
    ) -> None:
        self.train, self.seed, self.folder, self.key = train, seed, folder, key
        self.listener, self.keep_best, self.extra_pass, self.replay = listener, keep_best, extra_pass, replay
        self.check_every = check_every
        self.autocast = autocast_for(train)

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    @property
    def previous(self) -> Path:
        """The checkpoint of the epoch before, in case the last one cannot be read."""
        return self.folder / PREVIOUS

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    def run(self, method: Method, data: TrainingData) -> FitResult:
        """Train to the last epoch, from the last checkpoint if there is one.

        Raises:
            JobError: a loss or a gradient is not finite; the message names the epoch, the batch and the loss.
            UsageError: there is a checkpoint of other settings.
        """
        # Everything with a state that a checkpoint has to restore.
        optimizer = checked_optimizer(method, method.optimizer())
        scaler = torch.amp.GradScaler(
            enabled=self.train.precision == "float16" and method_device(method).type == "cuda"
        )
        plateau = ReduceLROnPlateau(optimizer, "max", PLATEAU_FACTOR, PLATEAU_PATIENCE)
        parts = {"model": method, "optimizer": optimizer, "scaler": scaler, "plateau": plateau}
        if slow := slow_precision(self.train):
            self.listener.on_note(slow)

        # Off the CPU batches are assembled on the device, from features that lie there if they fit.
        if method_device(method).type != "cpu":
            data = replace(data, batches=data.batches.on(method_device(method)))

        # Continue after the last finished epoch; the listener hears of the earlier ones again.
        state = self._resume(parts)
        for record in state.history:
            self.listener.on_epoch(record)

        rates = self.replay
        if rates is None and self.train.schedule == "cosine":
            rates = cosine_rates(method.config.lr, self.train.epochs)

        # Train, validate, select, schedule, save.
        for epoch in range(len(state.history), self.train.epochs):
            started = time.perf_counter()
            if rates is not None:
                set_lr(optimizer, rates[epoch])
            lr = float(optimizer.param_groups[0]["lr"])
            losses = self._checked_epoch(method, data, parts, epoch)
            validation = data.validate(method)
            record = EpochRecord(epoch, losses, dict(validation.metrics), lr, time.perf_counter() - started)
            self._select(state, record, validation, method)
            if rates is None and method.config.plateau:
                plateau.step(record.validation["hm"])
            self._save(parts, state)
            self.listener.on_epoch(record)
        return FitResult(state.history, state.best_epoch, state.best_calibration)

    def _checked_epoch(
        self, method: Method, data: TrainingData, parts: Mapping[str, Any], epoch: int
    ) -> dict[str, float]:
        """Train one epoch; returns the mean of each loss.

        Raises:
            JobError: a loss or a gradient is not finite. If that was found after later steps, the epoch is
                repeated up to the failing step, for the message of a check at once.
        """
        every = self._steps_between_checks(method, parts["scaler"])
        if every == 1:
            return self._epoch(method, data, parts, Immediate(epoch), self.train.batches_per_epoch)
        before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        random = random_states()
        try:
            return self._epoch(method, data, parts, Deferred(epoch, every), self.train.batches_per_epoch)
        except NotFinite as found:
            for name, part in parts.items():
                part.load_state_dict(before[name])
            restore_random_states(random)
            self._epoch(method, data, parts, Immediate(epoch), found.batch + 1, report=False)
            raise JobError(f"{found} (a repetition of the epoch did not fail there)") from None

    def _steps_between_checks(self, method: Method, scaler: torch.amp.GradScaler) -> int:
        if self.check_every is not None:
            return self.check_every
        return 1 if scaler.is_enabled() or method_device(method).type == "cpu" else CHECK_EVERY

    def _epoch(
        self,
        method: Method,
        data: TrainingData,
        parts: Mapping[str, Any],
        checks: Checks,
        steps: int,
        *,
        report: bool = True,
    ) -> dict[str, float]:
        """Train the first steps of an epoch; returns the mean of each loss.

        Args:
            parts: optimiser and scaler, among others.
            report: whether the listener is called.
        """
        method.train()
        device, size, epoch = method_device(method), self.train.batches_per_epoch, checks.epoch
        classes = type(data.batches.classes)(data.batches.classes.text.to(device))
        sums: dict[str, float] = {}

        def take(*, everything: bool) -> None:
            """Add the losses that are known by now, and report them."""
            for i, values in checks.finished(everything=everything):
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value
                if report:
                    self.listener.on_batch(epoch, i, values["total"])

        batches = data.batches.epoch(self.seed, epoch, size, self.train.batch_size)
        stream = CopyStream(device) if device.type == "cuda" else None
        coming = ahead(stream.assemble(batches) if stream else batches)
        for i, batch in enumerate(islice(coming, steps)):
            try:
                batch = stream.arrived(batch) if stream else batch.to(device)
                self._step(method, data, parts, checks, i, batch, classes)
            except JobError:
                raise
            except Exception:
                take(everything=True)  # an earlier step may have caused it
                raise
            take(everything=False)
        take(everything=True)
        return {name: total / size for name, total in sums.items()}

    def _step(
        self,
        method: Method,
        data: TrainingData,
        parts: Mapping[str, Any],
        checks: Checks,
        i: int,
        batch: Batch,
        classes: Classes,
    ) -> None:
        """Train on a batch."""
        optimizer, scaler = parts["optimizer"], parts["scaler"]

        # Forward pass.
        losses_of = partial(self._losses, method, batch, classes)
        losses = losses_of()
        checks.losses(losses, i)

        # Backward pass. Gradients are checked, unless the scaler itself skips float16 overflows.
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(losses["total"]).backward()
        if scaler.is_enabled():
            scaler.unscale_(optimizer)
        else:
            checks.gradients(method, i, losses_of)
        scaler.step(optimizer)
        scaler.update()
        if scaler.is_enabled() and scaler.get_scale() < 1:  # no scale is small enough: not float16's fault
            check_gradients(method, checks.epoch, i, losses_of)

        # The published code passes the batch through the model again.
        if self.extra_pass:
            with torch.no_grad(), self.autocast():
                method.after_step(data.batches.at_evaluation_times(batch))

    def _losses(self, method: Method, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        with self.autocast():
            losses = method.loss(batch, classes)
        return checked_losses(method, losses)

    def _select(self, state: LoopState, record: EpochRecord, validation: Validation, method: Method) -> None:
        """Add a record, and keep the epoch if it is better than all before it (or the last one)."""
        # as published: HM 0 keeps no epoch
        keep = record.validation["hm"] > state.best_hm or state.best_hm == 0
        if self.train.selection == "last":
            keep = record.epoch == self.train.epochs - 1
        state.history.append(record)
        if keep:
            state.best_epoch, state.best_calibration = record.epoch, validation.calibration
            if self.keep_best:
                save_atomically(
                    self.best, {"key": self.key, "epoch": record.epoch, "model": method.state_dict()}
                )

    def keep(self, method: Method, result: FitResult) -> None:
        """Keep the weights of a method with its own ``fit`` if its last epoch is the best one."""
        if self.keep_best and not self.best.exists() and result.best_epoch == len(result.history) - 1:
            content = {"key": self.key, "epoch": result.best_epoch, "model": method.state_dict()}
            save_atomically(self.best, content)

    def _save(self, parts: Mapping[str, Any], state: LoopState) -> None:
        """Write the checkpoint, and keep the one before it."""
        content = {
            "key": self.key,
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "random": random_states(),
            "state": {**vars(state), "history": [asdict(r) for r in state.history]},
        }
        if self.checkpoint.exists():
            os.replace(self.checkpoint, self.previous)
        save_atomically(self.checkpoint, content)

    def _resume(self, parts: Mapping[str, Any]) -> LoopState:
        """Restore all states from the last readable checkpoint; a new state if there is none."""
        content = self._read(self.checkpoint) or self._read(self.previous)
        if content is None:
            return LoopState()
        for name, part in parts.items():
            part.load_state_dict(content["parts"][name])
        restore_random_states(content["random"])
        saved = content["state"]
        return LoopState(**{**saved, "history": [EpochRecord(**r) for r in saved["history"]]})

    def _read(self, file: Path) -> dict[str, Any] | None:
        """The content of a checkpoint; None if it is missing or damaged."""
        if not file.is_file():
            return None
        try:
            with zipfile.ZipFile(file) as archive:  # torch does not check the checksums
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile("wrong checksum")
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            key = content["key"]
        except Exception as error:  # a damaged file fails in many ways
            raise_outside(error, file)  # a passing fault is no reason to start from an earlier epoch
            raise_unreadable(file)
            self.listener.on_note(
                f"{file} cannot be read ({type(error).__name__}); an earlier one is used, if any"
            )
            return None
        if key != self.key:
            raise UsageError(f"{file}: belongs to other settings ({key}); remove it")
        return content


def cosine_rates(lr: float, epochs: int) -> list[float]:
    """The learning rate of each epoch, from ``lr`` towards zero along half a cosine (Loshchilov and Hutter,
    ICLR 2017, without restarts)."""
    return [lr * (1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def save_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file atomically with torch.save. If the disk is full, it waits for space.

    Raises:
        Unavailable: the disk stays full.
    """
    buffer = io.BytesIO()  # torch itself fails on a full disk without a reason
    torch.save(content, buffer)

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    patiently(write, disk_is_full, f"{path} cannot be written")


def clear_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished job; the best and the final weights stay."""
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
