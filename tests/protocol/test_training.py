"""The training loop: exact resume, selection, schedule, values that are not finite."""

from __future__ import annotations

import dataclasses
import errno
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import Bench
from torch import Tensor

from benchmark.errors import JobError, Unavailable, UsageError
from benchmark.method import EpochRecord, FitResult, Method, TrainingData
from benchmark.protocol import stages
from benchmark.protocol.stages import Experiment, stage_one
from benchmark.protocol.training import Loop


class Stop(Exception):
    """Simulates the end of the process."""


class Recorder:
    """Records the epochs; can end the process after some batches."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[EpochRecord] = []
        self.batches, self.stop_after = 0, stop_after
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)

    def on_batch(self, epoch: int, batch: int, loss: float) -> None:
        self.batches += 1
        if self.batches == self.stop_after:
            raise Stop

    def on_epoch(self, record: EpochRecord) -> None:
        self.records.append(record)


def experiment(bench: Bench, method: str, *extra: str) -> Experiment:
    return bench.units(bench.call(*extra, methods=method))[0].job(1, 0).experiment()


def fit(experiment: Experiment, folder: Path, recorder: Recorder, **options: Any) -> tuple[Method, FitResult]:
    data = stages.training_data(experiment, 1)
    loop = Loop(
        experiment.settings.train,
        seed=experiment.seed,
        folder=folder,
        key="k",
        listener=recorder,
        keep_best=True,
        extra_pass=True,
        **options,
    )
    method = experiment.build()
    return method, method.fit(data, loop)


def numbers(records: list[EpochRecord]) -> list[tuple[Any, ...]]:
    return [(r.epoch, dict(r.losses), dict(r.validation), r.lr) for r in records]


@pytest.mark.parametrize("method", ["tcaf", "avca"])
@pytest.mark.parametrize("stop_after", [1, 5, 8, 11])
def test_a_stopped_training_resumes_to_equal_results(
    bench: Bench, tmp_path: Path, method: str, stop_after: int
) -> None:
    undisturbed = Recorder()
    model, result = fit(experiment(bench, method), tmp_path / "whole", undisturbed)
    with pytest.raises(Stop):
        fit(experiment(bench, method), tmp_path / "broken", Recorder(stop_after))
    torch.rand(100)  # another process has another random state
    resumed = Recorder()
    again, other = fit(experiment(bench, method), tmp_path / "broken", resumed)
    assert numbers(resumed.records) == numbers(undisturbed.records)
    assert other.best_epoch == result.best_epoch
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    whole, broken = (torch.load(tmp_path / f / "best.pt", weights_only=True) for f in ("whole", "broken"))
    assert whole["epoch"] == broken["epoch"]
    assert all(torch.equal(v, broken["model"][k]) for k, v in whole["model"].items())


class Drawing(Recorder):
    """Records draws of numpy's and Python's generators, as a method would see them."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(stop_after)
        self.drawn: list[tuple[float, float]] = []

    def on_batch(self, epoch: int, batch: int, loss: float) -> None:
        if epoch == 2:
            self.drawn.append((float(np.random.rand()), random.random()))
        super().on_batch(epoch, batch, loss)


def test_the_random_states_of_numpy_and_python_are_resumed_too(bench: Bench, tmp_path: Path) -> None:
    whole, stopped, resumed = Drawing(), Drawing(stop_after=6), Drawing()
    fit(experiment(bench, "cjme"), tmp_path / "whole", whole)
    with pytest.raises(Stop):
        fit(experiment(bench, "cjme"), tmp_path / "broken", stopped)
    fit(experiment(bench, "cjme"), tmp_path / "broken", resumed)
    assert len(whole.drawn) == 4
    assert resumed.drawn == whole.drawn


def test_the_kept_epoch_is_the_first_with_the_highest_validation_hm(bench: Bench, tmp_path: Path) -> None:
    recorder = Recorder()
    _, result = fit(experiment(bench, "avgzslnet", "train.epochs=6"), tmp_path, recorder)
    hms = [r.validation["hm"] for r in recorder.records]
    assert result.best_epoch == hms.index(max(hms))
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == result.best_epoch


@pytest.mark.parametrize(
    ("hms", "kept"),
    [
        ([0.0, 0.0, 0.0, 0.0], 3),
        ([0.0, 0.0, 0.2, 0.0], 2),
        ([0.0, 0.3, 0.3, 0.0], 1),
        ([0.2, 0.1, 0.2, 0.2], 0),
    ],
)
def test_an_epoch_with_hm_zero_is_replaced_by_every_later_one(
    bench: Bench, tmp_path: Path, hms: list[float], kept: int
) -> None:
    """As in the published code. Otherwise the first epoch with the highest HM is kept."""
    its = experiment(bench, "cjme", "train.epochs=4")
    data = with_validation(stages.training_data(its, 1), hms)
    loop = Loop(
        its.settings.train,
        seed=0,
        folder=tmp_path,
        key="k",
        listener=Recorder(),
        keep_best=True,
        extra_pass=True,
    )
    result = its.build().fit(data, loop)
    assert result.best_epoch == kept
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == kept


def with_validation(data: TrainingData, hms: list[float]) -> TrainingData:
    values = iter(hms)

    def validate(method: Method) -> stages.Validation:
        return stages.Validation({"hm": next(values)}, {})

    return dataclasses.replace(data, validate=validate)


def rates(bench: Bench, tmp_path: Path, hms: list[float], *extra: str) -> list[float]:
    job = experiment(bench, "cjme", f"train.epochs={len(hms)}", "cjme.lr=0.1", *extra)
    data = with_validation(stages.training_data(job, 1), hms)
    loop = Loop(
        job.settings.train,
        seed=0,
        folder=tmp_path,
        key="k",
        listener=Recorder(),
        keep_best=False,
        extra_pass=True,
    )
    return [r.lr for r in job.build().fit(data, loop).history]


def test_the_rate_falls_to_a_tenth_after_more_than_three_epochs_without_a_better_hm(
    bench: Bench, tmp_path: Path
) -> None:
    hms = [0.1, 0.3, 0.3, 0.2, 0.3, 0.1, 0.4]
    assert rates(bench, tmp_path, hms) == pytest.approx([0.1] * 6 + [0.01])


def test_the_schedule_can_be_switched_off(bench: Bench, tmp_path: Path) -> None:
    assert rates(bench, tmp_path, [0.1] * 8, "cjme.plateau=false") == [0.1] * 8


def test_rates_can_be_replayed(bench: Bench, tmp_path: Path) -> None:
    recorder = Recorder()
    fit(experiment(bench, "cjme"), tmp_path, recorder, replay=[0.1, 0.02, 0.003])
    assert [r.lr for r in recorder.records] == pytest.approx([0.1, 0.02, 0.003])


def test_a_loss_that_is_not_finite_names_epoch_batch_and_loss(bench: Bench, tmp_path: Path) -> None:
    job = experiment(bench, "cjme")
    model = job.build()
    plain, calls = model.loss, 0

    def breaking(batch: Any, classes: Any) -> dict[str, Tensor]:
        nonlocal calls
        losses, calls = plain(batch, classes), calls + 1
        if calls == 6:
            name = next(n for n in losses if n != "total")
            losses[name] = losses[name] * float("nan")
        return losses

    model.loss = breaking  # type: ignore[method-assign]
    data = stages.training_data(job, 1)
    loop = Loop(
        job.settings.train,
        seed=0,
        folder=tmp_path,
        key="k",
        listener=Recorder(),
        keep_best=False,
        extra_pass=True,
    )
    with pytest.raises(JobError, match=r"loss '\w+' is not finite in epoch 1, batch 1 .*learning rate"):
        model.fit(data, loop)


def test_a_gradient_that_is_not_finite_names_the_parameter(bench: Bench, tmp_path: Path) -> None:
    job = experiment(bench, "cjme")
    model = job.build()
    name, parameter = next(iter(model.named_parameters()))
    parameter.register_hook(lambda g: g * float("inf"))
    data = stages.training_data(job, 1)
    loop = Loop(
        job.settings.train,
        seed=0,
        folder=tmp_path,
        key="k",
        listener=Recorder(),
        keep_best=False,
        extra_pass=True,
    )
    with pytest.raises(JobError, match=f"gradient of {name} is not finite in epoch 0, batch 0"):
        model.fit(data, loop)


def test_a_broken_gradient_names_the_loss_that_broke_it(bench: Bench, tmp_path: Path) -> None:
    job = experiment(bench, "cjme")
    model = job.build()
    plain = model.loss
    parts: list[str] = []

    def breaking(batch: Any, classes: Any) -> dict[str, Tensor]:
        losses = plain(batch, classes)
        parts[:] = [name for name in losses if name != "total"]
        weight = next(model.parameters())
        zero = (0 * weight).sum().sqrt()  # finite, and its gradient is 0 * infinity
        return {**losses, parts[0]: losses[parts[0]] + zero, "total": losses["total"] + zero}

    model.loss = breaking  # type: ignore[method-assign]
    data = stages.training_data(job, 1)
    loop = Loop(
        job.settings.train,
        seed=0,
        folder=tmp_path,
        key="k",
        listener=Recorder(),
        keep_best=False,
        extra_pass=True,
    )
    with pytest.raises(JobError, match=r"gradient of .* is not finite in epoch 0, batch 0") as error:
        model.fit(data, loop)
    assert f"(of loss {parts[0]!r}); try a smaller learning rate" in str(error.value)


@pytest.mark.parametrize("broken_batches", [5, 1000])
def test_with_a_scaler_broken_gradients_are_skipped_until_no_scale_helps(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken_batches: int
) -> None:
    scaler = torch.amp.GradScaler("cpu")
    monkeypatch.setattr(torch.amp, "GradScaler", lambda **_: scaler)
    job = experiment(bench, "cjme", "train.batches_per_epoch=20", "train.epochs=1")
    model, steps = job.build(), 0
    name, parameter = next(iter(model.named_parameters()))
    before = parameter.detach().clone()

    def breaking(gradient: Tensor) -> Tensor:
        nonlocal steps
        steps += 1
        return gradient * (float("nan") if steps <= broken_batches else 1.0)

    parameter.register_hook(breaking)
    data = stages.training_data(job, 1)
    loop = Loop(
        job.settings.train,
        seed=0,
        folder=tmp_path,
        key="k",
        listener=Recorder(),
        keep_best=False,
        extra_pass=True,
    )
    if broken_batches < 17:
        model.fit(data, loop)
        assert scaler.get_scale() == 2.0 ** (16 - broken_batches)
        assert not torch.equal(parameter, before)
    else:  # 65536 is halved below 1 by the 17th
        with pytest.raises(
            JobError, match=f"gradient of {name} is not finite in epoch 0, batch 16 .of loss '"
        ):
            model.fit(data, loop)
        assert torch.equal(parameter, before)


def test_a_checkpoint_of_other_settings_is_refused(bench: Bench, tmp_path: Path) -> None:
    fit(experiment(bench, "cjme"), tmp_path, Recorder())
    job = experiment(bench, "cjme")
    with pytest.raises(UsageError, match="belongs to other settings"):
        stage_one(job, tmp_path, "another key", Recorder())


def test_mixed_precision_trains_and_validates(bench: Bench, tmp_path: Path) -> None:
    recorder = Recorder()
    fit(experiment(bench, "tcaf", "train.precision=bfloat16", "train.epochs=1"), tmp_path, recorder)
    assert recorder.records[0].losses["total"] > 0


@pytest.mark.parametrize(("supported", "notes"), [(True, 0), (False, 1)])
def test_a_note_reports_reduced_precision_that_is_slower(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool, notes: int
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    recorder = Recorder()
    fit(experiment(bench, "avca", "train.precision=bfloat16", "train.epochs=1"), tmp_path, recorder)
    assert len([n for n in recorder.notes if "float32 is many times as fast" in n]) == notes


def test_float16_on_a_cpu_is_refused_before_anything_is_trained(bench: Bench) -> None:
    with pytest.raises(UsageError, match="not for CPUs"):
        _ = (
            bench.units(bench.call("train.precision=float16", "train.device=cpu", methods="cjme"))[0]
            .job(1, 0)
            .key
        )


def test_the_extra_pass_moves_running_statistics_and_nothing_else(bench: Bench) -> None:
    job = experiment(
        bench,
        "tcaf",
        "tcaf.dropout=0",
        "tcaf.encoder_dropout=0",
        "tcaf.decoder_dropout=0",
        "tcaf.token_dropout=0",
    )
    data = stages.training_data(job, 1)
    model = job.build().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        model.after_step(next(data.batches.epoch(0, 0, 1, 16)))
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all("running" in k or "num_batches" in k for k in moved)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_checkpoint_that_is_unreadable_for_a_while_does_not_lose_epochs(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with pytest.raises(Stop):
        fit(experiment(bench, "cjme"), tmp_path, Recorder(stop_after=9))
    monkeypatch.setattr(zipfile, "ZipFile", failing(code))
    with pytest.raises(Unavailable, match=r"checkpoint\.pt"):
        fit(experiment(bench, "cjme"), tmp_path, Recorder())
    assert (tmp_path / "checkpoint.pt").is_file()


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, "as the system says")

    return fail
