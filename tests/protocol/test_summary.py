"""Numbers of all samples that distances need: chosen with beta on validation, or (declared) of the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from protocol.test_seal import plugin
from support.clipclap import make_clipclap_layout
from support.tiny import Bench

from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.data.importing.official_layout import import_official
from benchmark.data.locate import store_path
from benchmark.errors import JobError, UsageError
from benchmark.method import Embeddings, Method
from benchmark.protocol.border import checked_summary
from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.running.planning import plan_notes

SCALING = """
    sizes = []

    def summarise(self, embeddings, classes):
        x = embeddings.outputs["joint"]
        self.sizes.append(len(x))
        return {"scale": float(x.abs().mean())}

    def distances(self, embeddings, classes):
        return {"joint": self.summary["scale"] * torch.cdist(embeddings.outputs["joint"], classes)}
"""


@pytest.mark.parametrize("transductive", [False, True])
def test_the_test_uses_the_numbers_of_validation_unless_others_are_declared(
    bench: Bench, tmp_path: Path, transductive: bool
) -> None:
    name = f"scaling{int(transductive)}"
    file = plugin(tmp_path, name, SCALING)
    if transductive:
        file.write_text(file.read_text().replace('inputs="mean")', 'inputs="mean", uses=("test_samples",))'))
    call = bench.call("train.epochs=2", methods=name, plugins=[file])
    unit = bench.units(call)[0]
    result = bench.run(call)

    assert not result.failed
    counts = unit.store.counts
    validation = counts["stage_1_val_seen"] + counts["stage_1_val_unseen"]
    tested = counts["stage_2_test_seen"] + counts["stage_2_test_unseen"]
    sizes: list[int] = unit.method.sizes  # type: ignore[attr-defined]
    assert set(sizes) == ({validation, tested} if transductive else {validation})
    assert sizes.count(tested) == transductive
    first = bench.tracker.find(kind="job", stage="1")[0]
    calibration = bench.tracker.read_json(first.run_id, "result.json")["calibration"]
    assert calibration["summary"]["scale"] > 0
    text = build_tables(collect(bench.tracker))[0].text
    assert ("Transductive: Trial (all test samples together at the test)" in text) is transductive


class _Summarised(Method):
    title = "Summarised"

    def __init__(self) -> None:
        super(Method, self).__init__()

    def loss(self, batch: Any, classes: Any) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def embed(self, batch: Any) -> Embeddings:
        raise NotImplementedError

    def embed_classes(self, text: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "summarise must return a dict of numbers, got None"),
        ({"scale": float("nan")}, "summarise: 'scale' must return a finite number, got nan"),
        ({"scale": "1"}, "summarise: 'scale' must return a finite number"),
        ({"a/b": 1.0}, "names of letters"),
    ],
)
def test_wrong_numbers_are_refused(given: Any, message: str) -> None:
    with pytest.raises(JobError, match=message):
        checked_summary(_Summarised(), given)


@pytest.fixture
def clip_clap(bench: Bench, tmp_path: Path) -> Bench:
    """A bench with small features in ClipClap's layout as UCF's."""
    source = make_clipclap_layout(tmp_path / "source", "ucf", form="classes")
    import_official(load_cards()["ucf"], "clip_clap", source, store_path(bench.data, "ucf", "clip_clap"))
    return bench


SMALL = ("clipclap.encoding_dim=16", "clipclap.projection_hidden=16", "hspmoe.encoding_dim=16")


def test_methods_of_clip_clap_run_on_its_features(clip_clap: Bench) -> None:
    """From the published layout to results in both modes: what no test of a single part shows."""
    call = clip_clap.call(
        *SMALL, dataset="ucf", features="clip_clap", methods="clipclap,hspmoe,frozen,tcaf", mode="both"
    )

    result = clip_clap.run(call)

    assert not result.failed
    finals = clip_clap.tracker.find(kind="job", stage="2")
    tags: dict[tuple[str, str], Mapping[str, str]] = {
        (run.tags["method"], run.tags["mode"]): run.tags for run in finals
    }
    assert len(tags) == 8
    assert tags["hspmoe", "paper"]["method_uses"] == "all test samples together at the test"
    assert tags["hspmoe", "corrected"]["method_uses"] == ""
    frozen = next(run for run in finals if run.tags["method"] == "frozen")
    assert frozen.metrics["test/zsl"] > 0.5  # the features are the texts and noise


def test_what_does_not_suit_the_features_is_named_with_the_reason(clip_clap: Bench) -> None:
    known = registry.load()
    everything = clip_clap.plan(clip_clap.call(dataset="ucf", features="clip_clap", methods="all"))
    titles = {unit.method.name for unit in everything.units}
    assert {"clipclap", "hspmoe", "frozen", "hyper_single", "tcaf", "avca"} <= titles
    notes = "\n".join(plan_notes(everything, known))
    assert "ucf/clip_clap has one time step per clip" in notes
    assert "TCAF" in notes

    elsewhere = clip_clap.plan(clip_clap.call(methods="all"))
    assert not {"clipclap", "hspmoe", "frozen"} & {unit.method.name for unit in elsewhere.units}
    notes = "\n".join(plan_notes(elsewhere, known))
    assert "not run on synthetic (native): ClipClap, Frozen, HSP-MoE. Reason: needs class embeddings" in notes
    with pytest.raises(UsageError, match="ClipClap needs class embeddings that are in the spaces"):
        clip_clap.plan(clip_clap.call(methods="clipclap"))


def test_adaptations_are_declared(clip_clap: Bench) -> None:
    call = clip_clap.call(dataset="ucf", features="clip_clap", methods="avca,clipclap")
    avca, clipclap = clip_clap.units(call)

    assert avca.settings.config.text_layer == 300  # type: ignore[attr-defined]
    assert avca.note.startswith("our adaptation to the class embeddings of CLIP and CLAP")
    assert not avca.settings.published
    assert clipclap.settings.published
    assert not clipclap.note
