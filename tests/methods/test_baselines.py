"""The linear baselines against values worked out by hand, and ESZSL against its closed form in numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny import Bench, QuietListener

from benchmark import registry
from benchmark.method import Batch, Classes, Spec
from benchmark.protocol.stages import stage_one, training_data
from methods.compatibility import Compatibility

SPEC = Spec(audio_dim=2, video_dim=3, text_dim=2, audio_seconds=1.0, video_seconds=1.0)
SCORES = torch.tensor([[0.5, 0.45, 0.2, 0.55], [0.3, 0.9, 0.1, 0.2]])
LABEL = torch.tensor([0, 0])
"""Margin 0.1. Hinges of the first sample: 0.05, 0, 0.15; of the second one: 0.7, 0, 0."""


def method(name: str, **settings: float) -> Compatibility:
    cls = registry.load().get(name)
    model = cls(cls.Config(**settings), SPEC)
    assert isinstance(model, Compatibility)
    return model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("devise", (0.05 + 0.15 + 0.7) / 2),
        ("sje", (0.15 + 0.7) / 2),
        ("ale", ((1 + 1 / 2) / 2 * (0.05 + 0.15) + 1 * 0.7) / 2),
    ],
)
def test_ranking_losses_have_the_values_of_their_formulas(name: str, expected: float) -> None:
    loss = method(name, margin=0.1).ranking_loss(SCORES, LABEL)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["devise", "sje", "ale"])
def test_a_sample_whose_class_leads_by_the_margin_has_no_loss(name: str) -> None:
    assert (
        method(name, margin=0.1).ranking_loss(torch.tensor([[0.9, 0.7, 0.75]]), torch.tensor([0])).item() == 0
    )


def test_linear_is_the_cross_entropy_of_products() -> None:
    model = method("linear", dropout=0.0)
    batch = Batch(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.zeros(2, 3), label=torch.tensor([1, 0]))
    with torch.no_grad():
        model.map.weight.copy_(torch.eye(2, 5))
        total = model.loss(batch, Classes(torch.tensor([[2.0, 0.0], [0.0, 5.0]])))["total"]
    # The BatchNorm makes (-1, 1) and (1, -1) of the audio, and the class embeddings get length 1.
    assert total.item() == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-4)


def test_eszsl_is_its_closed_form(bench: Bench, tmp_path: Path) -> None:
    gamma, lam = 0.3, 2.0
    sets = [f"eszsl.gamma={gamma}", f"eszsl.lam={lam}"]
    experiment = bench.units(bench.call(*sets, methods="eszsl"))[0].job(1, 0).experiment()
    batches = training_data(experiment, 1).batches
    every = list(batches.each(10_000))
    assert len(every) == 1
    assert every[0].label is not None
    x = np.concatenate([every[0].audio.numpy(), every[0].video.numpy()], axis=1).astype(float)
    x = (x - x.mean(0)) / x.std(0)
    s = batches.classes.text.numpy().astype(float)
    s /= np.linalg.norm(s, axis=1, keepdims=True)
    y = 2 * np.eye(len(s))[every[0].label.numpy()] - 1
    left = np.linalg.inv(x.T @ x + gamma * len(x) * np.eye(x.shape[1]))
    right = np.linalg.inv(s.T @ s + lam * len(s) / s.shape[1] * np.eye(s.shape[1]))
    expected = left @ x.T @ y @ s @ right

    result = stage_one(experiment, tmp_path, "k", QuietListener())

    model = experiment.build()
    model.fit(training_data(experiment, 1), Quiet())  # type: ignore[arg-type]
    assert np.allclose(model.map.detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    assert result.best_epoch == 0


class Quiet:
    """All that ESZSL asks of a training loop."""

    listener = QuietListener()


@pytest.mark.parametrize("stage", [1, 2])
def test_each_gives_every_training_sample_once(bench: Bench, stage: int) -> None:
    experiment = bench.units(bench.call(methods="eszsl"))[0].job(stage, 0).experiment()
    batches = training_data(experiment, stage).batches  # type: ignore[arg-type]
    found = torch.cat([batch.audio for batch in batches.each(7)])
    labels = torch.cat([batch.label for batch in batches.each(7) if batch.label is not None])
    stored = torch.tensor(batches.samples.audio.means[:])
    assert len(found) == len(stored)
    assert torch.equal(found[found[:, 0].argsort()], stored[stored[:, 0].argsort()])
    assert torch.equal(labels.bincount(), torch.from_numpy(batches.sampler.counts))
