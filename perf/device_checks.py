"""What ``perf.cuda`` checks of a device: it computes what the CPU does, repeats itself, and no step waits."""

from __future__ import annotations

import copy
import signal
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from benchmark.errors import JobError
from benchmark.method import Batch, Classes, Method
from benchmark.protocol.evaluation import nearest_classes
from benchmark.protocol.sources import HOST, Copied, Resident
from benchmark.protocol.stages import VAL_SEEN, VAL_UNSEEN, evaluation_set, stage_one
from benchmark.protocol.training import CHECKPOINT, Loop
from perf import device_worker
from perf.device_worker import Recorder
from perf.trainer import Trainer, wait

DOUBLE_BOUND, SINGLE_BOUND, GRADIENT_BOUND = 1e-9, 1e-4, 1e-2
"""Largest relative error against float64 on the CPU: of losses in float64 and in float32, and of the gradient
(its Euclidean distance over its norm) in float32. A gradient of ReLUs jumps where rounding changes a sign."""
BATCH_BOUND = 1e-5
"""Largest difference of a batch that a device normalised, relative to its largest number."""
BFLOAT_BOUND = 5e-2
"""Largest median over samples of an embedding's error in bfloat16, relative to its norm."""
Row = dict[str, Any]
DOUBLE, SINGLE = torch.float64, torch.float32


def without_dropout(model: Method) -> Method:
    """The model, which then draws nothing in a step."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """A batch in another precision."""
    changed: dict[str, Any] = {}
    for name, value in vars(batch).items():
        if isinstance(value, Batch):
            changed[name] = cast(value, dtype)
        elif isinstance(value, Tensor) and value.is_floating_point():
            changed[name] = value.to(dtype)
    return replace(batch, **changed)


def computed(
    model: Method, batch: Batch, text: Tensor, device: torch.device, dtype: torch.dtype
) -> tuple[dict[str, float], Tensor]:
    """Losses and the whole gradient of a copy of a model on a device, in a precision."""
    there = copy.deepcopy(model).to(device, dtype).train()
    losses = there.loss(cast(batch, dtype).to(device), Classes(text.to(device, dtype)))
    losses["total"].backward()  # type: ignore[no-untyped-call]
    gradient = [p.grad.flatten() for p in there.parameters() if p.grad is not None]
    return {k: v.item() for k, v in losses.items()}, torch.cat(gradient).double().cpu()


def agreement(trainer: Trainer) -> Row:
    """Losses and gradient of a batch on the device, against those of the CPU in float64."""
    model = without_dropout(copy.deepcopy(trainer.model).cpu())
    batch = next(trainer.data.batches.epoch(0, 0, 1, trainer.train.batch_size))
    arguments = (model, batch, trainer.data.batches.classes.text)
    right, gradient = computed(*arguments, torch.device("cpu"), DOUBLE)
    row: Row = {"method": trainer.model.title}
    for name, dtype, bound in (("float64", DOUBLE, DOUBLE_BOUND), ("float32", SINGLE, SINGLE_BOUND)):
        losses, other = computed(*arguments, trainer.device, dtype)
        error = max(abs(losses[k] - right[k]) / max(abs(right[k]), 1e-3) for k in right)
        apart = float((other - gradient).norm() / gradient.norm())
        row |= {f"losses, {name}": error, f"gradient, {name}": apart}
        row["ok"] = (
            row.get("ok", True) and error <= bound and apart <= (bound if dtype is DOUBLE else GRADIENT_BOUND)
        )
    return row


def batches(trainer: Trainer) -> Row:
    """Batches of features that lie on the device or are copied, against each other and those of the CPU."""
    plain, device = trainer.data.batches, trainer.device
    inputs = plain.rules.inputs  # type: ignore[attr-defined]
    made = {
        "host": HOST,
        "copied": Copied(device),
        "resident": Resident(plain.samples, inputs, device),  # type: ignore[attr-defined]
    }
    found = {
        name: next(replace(plain, source=source).epoch(0, 0, 1, trainer.train.batch_size))  # type: ignore[type-var]
        for name, source in made.items()
    }
    same = all(
        torch.equal(getattr(found["copied"], x), getattr(found["resident"], x)) for x in ("audio", "video")
    )
    host = found["host"].video
    apart = float((found["resident"].video.cpu() - host).abs().max() / host.abs().max())
    return {
        "method": trainer.model.title,
        "resident = copied": same,
        "against the CPU": apart,
        "ok": same and apart <= BATCH_BOUND,
    }


def contract(trainer: Trainer) -> Row:
    """Training lowers the loss, and distances depend on no other sample of a block (the test's own check)."""
    losses = [v["total"] for _, v in trainer.steps(30).finished(everything=True)]
    experiment = trainer.experiment
    section = experiment.development((VAL_SEEN, VAL_UNSEEN))
    data = evaluation_set(section, VAL_SEEN, VAL_UNSEEN, 0, experiment.settings.train.resident_share)
    nearest_classes(trainer.model, data, experiment.rules, batch_size=256, check=True)
    first, last = float(np.mean(losses[:5])), float(np.mean(losses[-5:]))
    return {"method": trainer.model.title, "first losses": first, "last losses": last, "ok": last < first}


def bfloat(trainer: Trainer) -> Row:
    """Embeddings of the validation's samples in bfloat16 autocast, against float32."""
    trainer.steps(10)
    trainer.model.eval()
    batch = next(trainer.data.batches.each(256)).to(trainer.device)
    with torch.no_grad():
        plain = trainer.model.embed(batch).outputs
        with torch.autocast(trainer.device.type, dtype=torch.bfloat16):
            reduced = trainer.model.embed(batch).outputs
    errors = {
        name: float(((reduced[name].float() - x).norm(dim=-1) / x.norm(dim=-1).clamp(min=1e-6)).median())
        for name, x in plain.items()
    }
    worst = max(errors.values())
    return {"method": trainer.model.title, "median error": worst, "ok": worst <= BFLOAT_BOUND}


def trained(trainer: Trainer, folder: Path) -> tuple[Mapping[str, Tensor], list[dict[str, Any]], float]:
    """Train stage 1 of a new model: best weights, epochs, and seconds."""
    recorder, started = Recorder(), time.perf_counter()
    stage_one(trainer.experiment, folder, "perf", recorder)
    wait(trainer.device)
    seconds = time.perf_counter() - started
    return torch.load(folder / "best.pt", weights_only=True)["model"], recorder.records, seconds


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts have the same bits."""
    return one.keys() == other.keys() and all(torch.equal(x, other[k]) for k, x in one.items())


def repetition(trainer: Trainer, free: Trainer, folder: Path) -> Row:
    """The same training twice with ``train.deterministic=true``, and twice without; what the former costs.

    Args:
        free: the same experiment without it.
    """
    found = {}
    for name, each in (("deterministic", trainer), ("free", free)):
        found[name] = [trained(each, folder / f"{name} {i}") for i in range(2)]
    equal = {k: same(a[0], b[0]) and a[1] == b[1] for k, (a, b) in found.items()}
    seconds = {k: min(a[2], b[2]) for k, (a, b) in found.items()}
    return {
        "method": trainer.model.title,
        "same bits": equal["deterministic"],
        "same bits without": equal["free"],
        "times the seconds": seconds["deterministic"] / seconds["free"],
        "ok": equal["deterministic"],
    }


def resumed(store: Path, method: str, train: dict[str, Any], folder: Path, seconds: float) -> Row:
    """A training that is killed after its first checkpoint and continued, against an undisturbed one.

    Args:
        train: training settings, with several epochs.
        seconds: longest time of a process.
    """

    def begin(name: str) -> Any:
        where = {"folder": str(folder / name), "store": str(store)}
        return device_worker.start("stage", **where, method=method, train=train)

    whole = device_worker.result(begin("whole"), folder / "whole", seconds)
    process = begin("killed")
    until = time.monotonic() + seconds
    while (
        not (folder / "killed" / CHECKPOINT).exists() and process.poll() is None and time.monotonic() < until
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    continued = device_worker.result(begin("killed"), folder / "killed", seconds)
    weights = [torch.load(folder / x / "best.pt", weights_only=True)["model"] for x in ("whole", "killed")]
    killed, equal = code == -signal.SIGKILL, whole == continued and same(*weights)
    return {"method": method, "killed": killed, "same bits": equal, "ok": killed and equal}


@contextmanager
def no_waiting() -> Iterator[None]:
    """Let torch fail where the host waits for a CUDA device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def waiting(trainer: Trainer, steps: int = 8) -> Row:
    """Whether a step makes the host wait for the device, and where; the first two steps may."""

    def around(i: int) -> AbstractContextManager[Any]:
        return no_waiting() if checked and i >= 2 else nullcontext()

    checked = trainer.device.type == "cuda"
    row: Row = {"method": trainer.model.title, "waits": "" if checked else "not checked on a CPU", "ok": True}
    try:
        trainer.steps(steps, around)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        own = [f for f in traceback.extract_tb(error.__traceback__) if "torch" not in Path(f.filename).parts]
        row |= {"waits": f"{Path(own[-1].filename).name}:{own[-1].lineno}", "ok": False}
    return row


def replayed(trainer: Trainer, folder: Path) -> Row:
    """A loss that is not finite in the second epoch is found again, with the message of a check at once."""
    plain, batch_size = trainer.model.loss, trainer.train.batch_size
    broken = list(trainer.data.batches.epoch(trainer.experiment.seed, 1, 3, batch_size))[1].label
    assert broken is not None

    def loss(batch: Batch, classes: Classes) -> dict[str, Tensor]:
        losses = plain(batch, classes)
        assert batch.label is not None
        fault = torch.equal(batch.label.cpu(), broken)
        return {k: v * float("nan") for k, v in losses.items()} if fault else losses

    trainer.model.loss = loss  # type: ignore[method-assign]
    train = trainer.train.model_copy(update={"epochs": 2, "batches_per_epoch": 3})
    options: dict[str, Any] = {"key": "perf", "listener": Recorder(), "keep_best": False, "extra_pass": False}
    folder.mkdir()
    try:
        Loop(train, seed=trainer.experiment.seed, folder=folder, check_every=50, **options).run(
            trainer.model, trainer.data
        )
        said = ""
    except Exception as error:
        said = str(error)
    return {"method": trainer.model.title, "message": said[:60], "ok": "in epoch 1, batch 1 (" in said}


@contextmanager
def scarce_memory(method: type[Method], device: torch.device) -> Iterator[None]:
    """Almost no memory of a CUDA device; on the CPU a loss that fails as if there were none."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1e-5, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return

    def hungry(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")

    with patch.object(method, "loss", hungry):
        yield


def memory(trainer: Trainer, folder: Path) -> Row:
    """Too little memory: the message names what to lower, and the same training then runs."""
    with scarce_memory(type(trainer.model), trainer.device):
        try:
            trained(trainer, folder)
            said = ""
        except JobError as error:
            said = str(error)
    weights, _, _ = trained(trainer, folder)
    named = "out of memory" in said and "lower train." in said
    return {"method": trainer.model.title, "message": said[:60], "ok": named and bool(weights)}
