"""Numbers of all samples that distances need: chosen with beta on validation, or (declared) of the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from protocol.test_seal import plugin
from support.tiny import Bench

from benchmark import registry
from benchmark.errors import JobError, UsageError
from benchmark.method import Embeddings, Method
from benchmark.protocol.border import checked_summary
from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.evaluate import evaluate
from benchmark.running.export import export
from benchmark.running.jobs import Plan
from benchmark.running.planning import plan_notes
from benchmark.settings.search_space import SearchSpace
from benchmark.weights.own import Weights
from benchmark.weights.published import read_pair

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


LEARNING_FROM_IT = (
    SCALING
    + """
    def loss(self, batch, classes):
        assert not self.summary
        return {"total": functional.cross_entropy(-torch.cdist(self.joint(batch), classes.text), batch.label)}
"""
)


def test_a_training_never_sees_the_numbers(bench: Bench, tmp_path: Path) -> None:
    """So it continues after a kill as it would have without one."""
    file = plugin(tmp_path, "scaling2", LEARNING_FROM_IT)
    assert not bench.run(bench.call("train.epochs=3", methods="scaling2", plugins=[file])).failed


UNDECLARED = """
    @classmethod
    def uses_with(cls, config):
        return ("test_samples",)
"""


def test_a_use_that_is_not_declared_is_refused(bench: Bench, tmp_path: Path) -> None:
    file = plugin(tmp_path, "undeclared", UNDECLARED)
    with pytest.raises(UsageError, match=r"uses_with must return some of the declared uses \(\), got"):
        bench.units(bench.call(methods="undeclared", plugins=[file]))


CHANGING = (
    """
    asked = []

    @classmethod
    def uses_with(cls, config):
        cls.asked.append(config)
        return () if len(cls.asked) < 2 else ("test_samples",)
"""
    + SCALING
)


def test_what_is_used_is_decided_when_the_run_is_planned(bench: Bench, tmp_path: Path) -> None:
    file = plugin(tmp_path, "changing", CHANGING)
    file.write_text(file.read_text().replace('inputs="mean")', 'inputs="mean", uses=("test_samples",))'))
    unit = bench.units(call := bench.call("train.epochs=1", methods="changing", plugins=[file]))[0]
    assert not bench.runner.run(Plan(call, [unit])).failed
    counts, sizes = unit.store.counts, unit.method.sizes  # type: ignore[attr-defined]
    assert set(sizes) == {counts["stage_1_val_seen"] + counts["stage_1_val_unseen"]}


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


def mode_of(weights: Weights) -> str:
    assert weights.recorded is not None
    return weights.recorded.protocol.mode


def test_exported_weights_give_the_numbers_of_the_run(clip_clap: Bench, tmp_path: Path) -> None:
    """The scale of FAR is found again, and a method without epochs has weights of stage 1 too."""
    call = clip_clap.call(*SMALL, dataset="ucf", features="clip_clap", methods="hspmoe,frozen", mode="both")
    result = clip_clap.run(call)
    exported = export(clip_clap.tracker, clip_clap.runs, tmp_path / "weights", result.run_id, [])
    assert len(exported) == 4

    known = registry.load().methods
    for each in exported:
        first, final = read_pair(each.folder / "stage_a", each.folder / "stage_b", known)
        unit = next(u for u in clip_clap.units(call) if (u.method, u.mode) == (final.method, mode_of(final)))
        again = evaluate((first, final), unit.card, "clip_clap", unit.store, None, {}, SearchSpace(method=""))
        (run,) = clip_clap.tracker.find(kind="job", stage="2", method=unit.method.name, mode=unit.mode)
        for name, value in again.result.metrics.items():
            assert value == pytest.approx(run.metrics[f"test/{name}"], abs=1e-9), (each.title, name)
        transductive = [note for note in again.notes if note.startswith("transductive: HSP-MoE")]
        assert bool(transductive) == (unit.settings.uses != ())


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


def test_parts_that_do_not_fit_together_are_named_when_the_run_is_planned(clip_clap: Bench) -> None:
    options: dict[str, Any] = {"dataset": "ucf", "features": "clip_clap", "methods": "hspmoe"}
    with pytest.raises(UsageError, match=r"settings of hspmoe on ucf: .*moe mixes directions"):
        clip_clap.units(clip_clap.call("hspmoe.sphere=false", **options))
    unit = clip_clap.units(clip_clap.call("hspmoe.sphere=false", "hspmoe.moe=false", **options))[0]
    assert unit.variant == "user-set"


def test_another_grid_is_a_setting_of_the_user(clip_clap: Bench) -> None:
    options: dict[str, Any] = {"dataset": "ucf", "features": "clip_clap", "methods": "clipclap"}
    assert clip_clap.units(clip_clap.call(**options))[0].variant == "published"
    assert clip_clap.units(clip_clap.call("protocol.grid=[3, 16]", **options))[0].variant == "user-set"


def test_adaptations_are_declared(clip_clap: Bench) -> None:
    names = {"dataset": "ucf", "features": "clip_clap", "methods": "avca,clipclap"}
    avca, clipclap = clip_clap.units(BenchmarkRun.model_validate(names))

    assert avca.settings.config.text_layer == 300  # type: ignore[attr-defined]
    assert avca.note.startswith("our adaptation to the class embeddings of CLIP and CLAP")
    assert not avca.settings.published
    assert avca.variant == "adapted"
    assert clipclap.settings.published
    assert not clipclap.note
