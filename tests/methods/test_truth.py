"""Methods on synthetic data with a known truth: each finds its signals, none beats chance without."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from support.tiny import QuietListener

from benchmark import registry
from benchmark.protocol.stages import stage_one, stage_two
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.planning import make_plan

CHANCE = 1 / 6
"""Six unseen test classes."""
TRAINING = [
    "train.epochs=6",
    "train.batches_per_epoch=40",
    *(
        f"tcaf.{s}"
        for s in (
            "dim=64",
            "depth=2",
            "heads=4",
            "dim_head=16",
            "mlp_dim=64",
            "encoder_hidden=64",
            "lr=0.002",
        )
    ),
    *(
        f"tcaf.{s}"
        for s in (
            "decoder_hidden=64",
            "dropout=0",
            "encoder_dropout=0",
            "token_dropout=0",
            "fourier_scale=0.1",
        )
    ),
    *(f"avgzslnet.{s}" for s in ("hidden=128", "dropout=0.2")),
    *(
        f"{method}.{s}"
        for method in ("avca", "hyper_single")
        for s in ("dim=48", "encoder_hidden=64", "projection_hidden=64", "dim_head=16", "momentum=0.1")
    ),
    *(f"cjme.{s}" for s in ("hidden=128", "dropout=0")),
    *(f"attention_fusion.{s}" for s in ("dim=64", "encoder_hidden=64", "decoder_hidden=64", "lr=0.002")),
    *(
        f"perceiver.{s}"
        for s in ("dim=64", "depth=1", "latents=8", "heads=4", "dim_head=16", "encoder_hidden=64", "lr=0.002")
    ),
]
SAME = ("hyper_alignment", "hyper_multiple")
"""AVCA with another curvature of the term that hyper_single has."""
METHODS = [m.name for m in registry.load().select("all") if m.name not in SAME and not m.needs_text_parts]
SAMPLES = ["train_samples=40", "test_unseen_samples=30", "seen_bias=0", "noise=0.3"]


def zsl(method: str, folder: Path, *extra: str, **signals: float) -> float:
    """ZSL of a method if only the named signals separate the classes."""
    channels = {"audio_signal": 0.0, "video_signal": 0.0, "joint_signal": 0.0, "order_signal": 0.0, **signals}
    data = [*SAMPLES, *(f"{name}={value}" for name, value in channels.items())]
    settings = [*TRAINING, *(f"data.{s}" for s in data), *extra]
    run = BenchmarkRun(methods=method, dataset="synthetic", mode="corrected", settings=settings)
    experiment = make_plan(run, registry.load(), folder).units[0].job(2, 0).experiment()
    first = stage_one(experiment, folder / "1", "k", QuietListener())
    return stage_two(experiment, first, folder / "2", "k", QuietListener()).metrics["zsl"]


@pytest.mark.slow(50)
def test_if_only_the_order_of_time_steps_has_a_signal_only_tcaf_is_above_chance(tmp_path: Path) -> None:
    assert zsl("tcaf", tmp_path / "tcaf", order_signal=2.0) > 3 * CHANCE
    assert zsl("avgzslnet", tmp_path / "avgzslnet", order_signal=2.0) == pytest.approx(CHANCE, abs=0.12)


@pytest.mark.parametrize(
    "method", ["avgzslnet", *(pytest.param(m, marks=pytest.mark.slow) for m in ("avca", "tcaf"))]
)
def test_a_method_recognises_unseen_classes_by_their_class_embeddings(tmp_path: Path, method: str) -> None:
    assert zsl(method, tmp_path, video_signal=1.0, audio_signal=1.0) > 3 * CHANCE


@pytest.mark.slow(15)
@pytest.mark.parametrize("method", METHODS)
def test_with_shuffled_class_embeddings_no_method_beats_chance_on_unseen_classes(
    tmp_path: Path, method: str
) -> None:
    """Other data and another permutation for each seed. With six classes a permutation may be informative by
    chance, so single results scatter widely. Their mean is at chance within three standard errors. With
    their own embeddings and the same training, unseen classes are recognised."""
    quick, alignment = ("train.epochs=2", "train.batches_per_epoch=25"), "protocol.text_alignment="
    assert zsl(method, tmp_path / "own", *quick, f"{alignment}by_name", video_signal=1.0) > 3 * CHANCE
    values = []
    for seed in range(5):
        shuffled = (*quick, f"{alignment}shuffled", f"data.seed={seed}")
        values.append(zsl(method, tmp_path / str(seed), *shuffled, video_signal=1.0))
    error = statistics.stdev(values) / len(values) ** 0.5
    print(method, values, error)
    assert statistics.fmean(values) < CHANCE + max(3 * error, 0.05), values
    assert statistics.fmean(values) < 2 * CHANCE, values
