"""Checks of losses and gradients every few steps, as off the CPU: the same training, the same message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny import Bench, QuietListener
from torch import Tensor

from benchmark.errors import JobError
from benchmark.method import FitResult, Method
from benchmark.protocol import stages
from benchmark.protocol.finite import Deferred
from benchmark.protocol.stages import Experiment
from benchmark.protocol.training import Loop

EVERY = [1, 3, 4, 100]
"""Steps between two checks; an epoch has four."""
Losses = dict[str, Tensor]


class Heard(QuietListener):
    """Keeps what it hears of batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, float]] = []

    def on_batch(self, epoch: int, batch: int, loss: float) -> None:
        self.batches.append((epoch, batch, loss))

    def on_epoch(self, record: Any) -> None:
        pass

    def on_note(self, text: str) -> None:
        pass


def experiment(bench: Bench, method: str, *extra: str) -> Experiment:
    return bench.units(bench.call(*extra, methods=method))[0].job(1, 0).experiment()


def fit(
    its: Experiment, folder: Path, every: int, change: Callable[[Method], None] = lambda _: None
) -> tuple[Method, FitResult, Heard]:
    heard, method = Heard(), its.build()
    change(method)
    loop = Loop(
        its.settings.train,
        seed=its.seed,
        folder=folder,
        key="k",
        listener=heard,
        keep_best=False,
        extra_pass=True,
        check_every=every,
    )
    return method, method.fit(stages.training_data(its, 1), loop), heard


@pytest.mark.parametrize("method", ["cjme", "tcaf"])
def test_checking_later_changes_no_bit_of_the_training(bench: Bench, tmp_path: Path, method: str) -> None:
    its = experiment(bench, method, "train.epochs=2")
    trained = [fit(its, tmp_path / str(every), every) for every in EVERY]

    first, result, heard = trained[0]
    for other, same, listened in trained[1:]:
        assert all(torch.equal(x, other.state_dict()[n]) for n, x in first.state_dict().items())
        assert [(dict(r.losses), dict(r.validation)) for r in same.history] == [
            (dict(r.losses), dict(r.validation)) for r in result.history
        ]
        assert listened.batches == heard.batches
    assert [batch[:2] for batch in heard.batches] == [(e, b) for e in range(2) for b in range(4)]


def message(its: Experiment, folder: Path, every: int, change: Callable[[Method], None]) -> str:
    with pytest.raises(JobError) as error:
        fit(its, folder / str(every), every, change)
    return str(error.value)


def breaking(fault: Callable[[Losses, Method], Losses], at: int) -> Callable[[Method], None]:
    """Let the losses of one batch of the training be changed, whenever that batch comes."""

    def change(method: Method) -> None:
        plain, seen = method.loss, []  # type: ignore[var-annotated]

        def loss(batch: Any, classes: Any) -> Losses:
            key = batch.audio.sum().item()
            if key not in seen:
                seen.append(key)
            losses = plain(batch, classes)
            return fault(losses, method) if seen.index(key) == at else losses

        method.loss = loss  # type: ignore[method-assign]

    return change


def broken_loss(losses: Losses, _: Method) -> Losses:
    name = next(n for n in losses if n != "total")
    return {**losses, name: losses[name] * float("nan")}


def broken_gradient(losses: Losses, method: Method) -> Losses:
    zero = (0 * next(method.parameters())).sum().sqrt()  # finite, and its gradient is 0 * infinity
    name = next(n for n in losses if n != "total")
    return {**losses, name: losses[name] + zero, "total": losses["total"] + zero}


@pytest.mark.parametrize("fault", [broken_loss, broken_gradient])
@pytest.mark.parametrize(("at", "place"), [(0, "epoch 0, batch 0"), (5, "epoch 1, batch 1")])
def test_a_failing_step_is_found_again_with_the_message_of_a_check_at_once(
    bench: Bench, tmp_path: Path, fault: Callable[[Losses, Method], Losses], at: int, place: str
) -> None:
    its = experiment(bench, "cjme")
    change = breaking(fault, at)
    messages = [message(its, tmp_path, every, change) for every in EVERY]

    assert place in messages[0]
    assert messages == [messages[0]] * len(EVERY)
    assert ("(of loss" in messages[0]) == (fault is broken_gradient)


def test_a_step_that_fails_only_once_is_named_as_it_was_found(bench: Bench, tmp_path: Path) -> None:
    its, calls = experiment(bench, "cjme"), 0

    def change(method: Method) -> None:
        plain = method.loss

        def loss(batch: Any, classes: Any) -> Losses:
            nonlocal calls
            losses, calls = plain(batch, classes), calls + 1
            return broken_loss(losses, method) if calls == 6 else losses

        method.loss = loss  # type: ignore[method-assign]

    found = message(its, tmp_path, 100, change)
    assert "is not finite in epoch 1, batch 1" in found
    assert found.endswith("(a repetition of the epoch did not fail there)")


def test_an_error_that_follows_from_a_broken_step_does_not_hide_it(bench: Bench, tmp_path: Path) -> None:
    def change(method: Method) -> None:
        breaking(broken_loss, 1)(method)
        plain, calls = method.loss, 0

        def loss(batch: Any, classes: Any) -> Losses:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise ValueError("probabilities that are not finite")
            return plain(batch, classes)

        method.loss = loss  # type: ignore[method-assign]

    assert "is not finite in epoch 0, batch 1" in message(experiment(bench, "cjme"), tmp_path, 100, change)


def test_the_numbers_of_steps_are_read_together_after_every_few() -> None:
    checks, read = Deferred(0, every=2), []  # type: ignore[var-annotated]
    for batch in range(5):
        checks.losses({"total": torch.tensor(float(batch))}, batch)
        read.append([values["total"] for _, values in checks.finished()])
    assert read == [[], [0.0, 1.0], [], [2.0, 3.0], []]
    assert [values for _, values in checks.finished(everything=True)] == [{"total": 4.0}]
    assert list(checks.finished(everything=True)) == []
