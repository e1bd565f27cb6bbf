"""The controls: rows that have to be at chance, and that no search and no ``--methods all`` touches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.tiny import Bench, results

from benchmark import registry
from benchmark.errors import UsageError
from benchmark.method import Batch, Spec

SPEC = Spec(audio_dim=5, video_dim=7, text_dim=6, audio_seconds=0.5, video_seconds=0.25)


def test_controls_are_added_where_they_are_asked_for_and_are_never_tuned(bench: Bench) -> None:
    assert not [m for m in registry.load().select("all") if m.control]
    units = bench.units(bench.call(methods="linear", controls=True, trials=3))
    assert [u.method.name for u in units] == ["linear", "chance", "linear_shuffled"]
    assert [u.tuning.searches for u in units] == [True, False, False]
    assert [u.settings.protocol.text_alignment for u in units] == ["by_name", "by_name", "shuffled"]
    named = bench.units(bench.call(methods="chance", controls=True))
    assert [u.method.name for u in named] == ["chance", "linear_shuffled"], "each once"


def test_random_embeddings_find_each_class_equally_often() -> None:
    """Of 4 classes a quarter is right, although samples of a class are alike and one class lies apart."""
    cls = registry.load().get("chance")
    random = torch.Generator().manual_seed(0)
    means = 10 + torch.randn(4, 12, generator=random)
    labels = torch.arange(4).repeat_interleave(500)
    x = means[labels] + 0.1 * torch.randn(2000, 12, generator=random)
    text = torch.randn(4, 6, generator=random) + torch.tensor([[3.0], [0.0], [0.0], [0.0]])
    right = []
    for seed in range(20):
        torch.manual_seed(seed)
        method = cls(cls.Config(), SPEC).eval()
        nearest = method.distances(method.embed(Batch(x[:, :5], x[:, 5:])), method.embed_classes(text))
        hits = nearest["joint"].argmin(1) == labels
        right.append(np.mean([hits[labels == c].float().mean().item() for c in range(4)]))
    error = np.std(right, ddof=1) / np.sqrt(len(right))
    assert error < 0.01
    assert abs(np.mean(right) - 0.25) < 3 * error


def test_a_run_with_controls_has_their_rows_and_repeats_itself(bench: Bench) -> None:
    result = bench.run(bench.call(methods="linear", controls=True, seeds=2))
    assert {e.method for e in result.entries} == {"linear", "chance", "linear_shuffled"}
    assert {e.state for e in result.entries} == {"done"}
    before = results(bench.tracker)
    assert {e.state for e in bench.run(bench.call(methods="linear", controls=True, seeds=2)).entries} == {
        "reused"
    }
    assert results(bench.tracker) == before


def test_an_ablation_has_no_controls(bench: Bench) -> None:
    with pytest.raises(UsageError, match="omit --controls"):
        bench.units(bench.call(methods="linear", controls=True, ablate=["all"]))
