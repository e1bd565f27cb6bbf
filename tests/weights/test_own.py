"""Weights of ours: tested from their job's folder and exported, with the numbers of the job."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from support.published_runs import Sizes, write_run
from support.tiny import Bench

from benchmark import registry
from benchmark.cli import app
from benchmark.errors import UsageError
from benchmark.running.evaluate import evaluate
from benchmark.running.export import export
from benchmark.settings.search_space import SearchSpace
from benchmark.tracking.schema import Kind
from benchmark.weights.published import read_pair

SMALL = Sizes(hidden=10, decoder=6, depth=1, heads=2, dim_head=5, mlp=7, embedding=6)
SIZES = {"default-like": Sizes(), "other sizes": SMALL, "fixed length": replace(SMALL, lengths=4)}


def _trained(bench: Bench, *methods: str) -> list[Path]:
    """Folders of stage 1 and 2 of each method's job."""
    call = bench.call("train.epochs=2", methods=",".join(methods))
    assert not bench.run(call).failed
    return [bench.runs / "jobs" / unit.job(stage, 0).key for unit in bench.units(call) for stage in (1, 2)]  # type: ignore[arg-type]


def _measure(bench: Bench, a: Path, b: Path) -> dict[str, float]:
    file = bench.runs / "numbers.json"
    with pytest.raises(SystemExit) as ended:
        app.main(
            ["evaluate", "--stage-a", str(a), "--stage-b", str(b), "--dataset", "synthetic",
             "--json", str(file),
             "--data-root", str(bench.data), "--runs-dir", str(bench.runs)]
        )  # fmt: skip
    assert not ended.value.code
    numbers: dict[str, float] = json.loads(file.read_text())
    return numbers


def test_our_weights_give_the_numbers_of_their_job_from_its_folder_and_exported(bench: Bench) -> None:
    folders = _trained(bench, "cjme", "tcaf")
    trainings = export(bench.tracker, bench.runs, bench.runs / "out", None, [])
    assert [t.title for t in trainings] == [
        f"synthetic-native-paper-{m}-user-set-seed0" for m in ("cjme", "tcaf")
    ]
    for i, training in enumerate(trainings):
        result = json.loads((folders[2 * i + 1] / "config.json").read_text())["result"]
        expected = {k: round(100 * v, 2) for k, v in result["metrics"].items() if k != "ausuc"}
        expected["beta"] = round(result["beta"], 2)
        assert _measure(bench, folders[2 * i], folders[2 * i + 1]) == expected
        assert {p.name for p in (training.folder / "stage_a").iterdir()} == {
            "model.safetensors",
            "config.json",
        }
        assert _measure(bench, training.folder / "stage_a", training.folder / "stage_b") == expected
    assert {r.tags["origin"] for r in bench.tracker.find(kind=Kind.EVALUATION)} == {"ours"}


def test_our_weights_keep_their_protocol_unless_another_is_asked_for(bench: Bench) -> None:
    call = bench.call("train.epochs=2", "protocol.calibration=corrected", methods="cjme")
    assert not bench.run(call).failed
    unit = bench.units(call)[0]
    a, b = (bench.runs / "jobs" / unit.job(stage, 0).key for stage in (1, 2))  # type: ignore[arg-type]
    methods = registry.load().methods

    def beta(mode: Literal["paper", "corrected"] | None) -> float:
        found = evaluate(
            read_pair(a, b, methods),
            unit.card,
            unit.features,
            unit.store,
            mode,
            {},
            SearchSpace(method="cjme"),
        )
        assert found.notes == []
        return found.result.beta

    own = json.loads((b / "config.json").read_text())["result"]["beta"]
    assert beta(None) == own
    assert beta("paper") != own
    record = json.loads((b / "config.json").read_text())
    (b / "config.json").write_text(json.dumps({**record, "digest": "0" * 64}))
    found = evaluate(
        read_pair(a, b, methods), unit.card, unit.features, unit.store, None, {}, SearchSpace(method="cjme")
    )
    assert "trained on other data (hash 000000000000)" in found.notes[0]


def test_export_writes_once_and_says_what_is_missing(bench: Bench) -> None:
    (first, *_) = _trained(bench, "cjme")
    out = bench.runs / "out"
    (training,) = export(bench.tracker, bench.runs, out, None, ["cjme"])
    before = (training.folder / "stage_a" / "model.safetensors").stat().st_mtime_ns
    export(bench.tracker, bench.runs, out, None, [])
    assert (training.folder / "stage_a" / "model.safetensors").stat().st_mtime_ns == before
    (training.folder / "stage_a" / "config.json").write_text('{"job_key": "another"}')
    with pytest.raises(UsageError, match="exists with other or incomplete content"):
        export(bench.tracker, bench.runs, out, None, [])
    (training.folder / "stage_a" / "config.json").write_text("no JSON")
    with pytest.raises(UsageError, match="exists with other or incomplete content"):
        export(bench.tracker, bench.runs, out, None, [])
    (training.folder / "stage_b" / "model.safetensors").unlink()
    shutil.rmtree(training.folder / "stage_a")
    with pytest.raises(UsageError, match="stage_b: exists with other or incomplete content"):
        export(bench.tracker, bench.runs, out, None, [])
    with pytest.raises(UsageError, match="no finished training of tcaf"):
        export(bench.tracker, bench.runs, out, None, ["tcaf"])
    with pytest.raises(UsageError, match="no run 'nonsense'"):
        export(bench.tracker, bench.runs, out, "nonsense", [])
    (first / "best.pt").unlink()
    with pytest.raises(UsageError, match=f"no longer on disk:\n.*{first.name}"):
        export(bench.tracker, bench.runs, bench.runs / "new", None, [])
    assert not (bench.runs / "new").exists()


def test_the_command_export_only_reads_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(["export", "--to", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "misspelt")])
    assert ended.value.code == 2
    assert "no tracking store at" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_folders_of_ours_that_do_not_fit_are_named(bench: Bench) -> None:
    cjme_1, cjme_2, avgzslnet_1, avgzslnet_2 = _trained(bench, "cjme", "avgzslnet")
    methods = registry.load().methods
    with pytest.raises(UsageError, match="swap the two folders"):
        read_pair(cjme_2, cjme_1, methods)
    good = json.loads((cjme_1 / "config.json").read_text())
    lr = {**good, "settings": {**good["settings"], "cjme": {**good["settings"]["cjme"], "lr": 0.5}}}
    no_protocol = {**good, "settings": {k: v for k, v in good["settings"].items() if k != "protocol"}}
    unknown = {**good, "settings": {**good["settings"], "protocol": {"nothing": "paper"}}}
    for record, says in (
        ({**good, "seed": 5}, "different trainings: seed 5 and"),
        (lr, r"different trainings: cjme.lr 0.5 and 0.001"),
        (no_protocol, "lack protocol"),
        (unknown, "nothing"),
        ({**good, "settings": None}, "settings"),
        ({**good, "settings": {"cjme": [1]}}, "settings.cjme"),
        ({**good, "epochs": "abc"}, "epochs"),
        ({**good, "seed": None}, "seed"),
        ([1], "not the record"),
    ):
        (cjme_1 / "config.json").write_text(json.dumps(record))
        with pytest.raises(UsageError, match=says):
            read_pair(cjme_1, cjme_2, methods)
    (cjme_1 / "config.json").write_text(json.dumps(good))
    with pytest.raises(UsageError, match=r"is CJME and .* AVGZSLNet"):
        read_pair(cjme_1, avgzslnet_2, methods)
    published, _ = write_run(bench.runs / "published", "cjme", SMALL)
    with pytest.raises(UsageError, match=r"is published and .* is ours"):
        read_pair(published, cjme_2, methods)
    record = json.loads((avgzslnet_1 / "config.json").read_text())
    (avgzslnet_1 / "config.json").write_text(json.dumps({**record, "method": "avgzslnett"}))
    with pytest.raises(UsageError, match="did you mean 'avgzslnet'"):
        read_pair(avgzslnet_1, avgzslnet_2, methods)
    (avgzslnet_1 / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="not the record of a trained job"):
        read_pair(avgzslnet_1, avgzslnet_2, methods)
    (cjme_2 / "final.pt").unlink()
    with pytest.raises(UsageError, match="no weights in it"):
        read_pair(cjme_1, cjme_2, methods)
