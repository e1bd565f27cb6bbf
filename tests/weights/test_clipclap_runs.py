"""Run folders and distributed weights of ClipClap's code give the numbers of its own evaluation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.checkout import SHARED
from support.tiny import need

from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.running.evaluate import Evaluation, evaluate
from benchmark.settings.search_space import SearchSpace
from benchmark.weights.published import read_pair

RUNS = SHARED / "golden" / "official_runs" / "clipclap"
RELEASED = RUNS / "released_names" / "ClipClap_ucf"
METHODS = registry.load().methods


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    if not RUNS.is_dir():
        need(f"run folders not found in {RUNS} (set GZSL_SHARED)")
    file = tmp_path_factory.mktemp("clipclap") / "ucf-clip_clap.h5"
    import_official(load_cards()["ucf"], "clip_clap", RUNS / "data", file)
    return FeatureStore(file)


def scored(store: FeatureStore, stage_a: Path, stage_b: Path) -> Evaluation:
    card, space = load_cards()["ucf"], SearchSpace(method="clipclap")
    pair = read_pair(stage_a, stage_b, METHODS)
    return evaluate(pair, card, "clip_clap", store, None, {}, space)


@pytest.mark.parametrize(
    ("stage_a", "stage_b"),
    [(RUNS / "stage_a", RUNS / "stage_b"), (RELEASED / "stage1", RELEASED / "stage2")],
    ids=["run folders", "distributed weights"],
)
def test_published_numbers(store: FeatureStore, stage_a: Path, stage_b: Path) -> None:
    expected = json.loads((RUNS / "expected.json").read_text())["clipclap"]

    found = scored(store, stage_a, stage_b)

    assert found.final.method.name == "clipclap"
    assert found.settings.protocol.grid == (5.0, 76)
    for name, value in expected["exact"].items():
        assert found.result.metrics[name] == pytest.approx(value, abs=1e-6), name
        assert found.validation[name] == pytest.approx(expected["validation_stage_a"][name], abs=1e-6), name
    assert found.result.beta == pytest.approx(expected["beta"], abs=1e-9)
    assert found.first.epochs == expected["stage_a_epoch"]


def test_weights_of_another_variant_are_named(store: FeatureStore, tmp_path: Path) -> None:
    for stage in ("stage1", "stage2"):
        shutil.copytree(RELEASED / stage, tmp_path / stage)
    file = tmp_path / "stage1" / "Clip_model_score.pt"
    file.chmod(0o600)
    content = torch.load(file, weights_only=True)
    content["model"]["input_proj.fc.0.weight"] = torch.zeros(512, 700)
    torch.save(content, file)

    with pytest.raises(UsageError, match=r"Clip_model_score\.pt: no variant has 700 features"):
        scored(store, tmp_path / "stage1", tmp_path / "stage2")
