"""Trained weights from folders: published run folders against a plain evaluation, hostile and broken ones, and our own."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain_evaluation import fit, plain_evaluation
from published_runs import CLASS_OF, MANUAL, Data, Sizes, make_data, make_state, shapes, write_data, write_run
from tiny import Bench

from benchmark import cli, registry
from benchmark.checkpoints import KIND, export
from benchmark.data.unpickle import RefusedPickle, UnreadableFile, load_arguments
from benchmark.errors import UsageError
from benchmark.official import load_tensors, read_pair
from benchmark.report.collect import collect
from benchmark.report.tables import build_tables
from benchmark.tracking import Tracker

SMALL = Sizes(hidden=10, decoder=6, depth=1, heads=2, dim_head=5, mlp=7, embedding=6)
SIZES = {"default-like": Sizes(), "other sizes": SMALL, "fixed length": replace(SMALL, lengths=4)}


class Place:
    """A data root with small generated data under the name of a published data set, and the command on it."""

    def __init__(self, folder: Path, runs: Path, data: Data) -> None:
        self.folder, self.runs, self.data = folder, runs, data
        write_data(folder / "data" / "ucf-cls.h5", data)

    def evaluate(self, stage_a: Path, stage_b: Path, *options: str, dataset: str = "ucf", code: int = 0) -> dict[str, float]:
        file = self.folder / "numbers.json"
        places = ["--data-root", str(self.folder / "data"), "--runs-dir", str(self.runs), "--json", str(file)]
        folders = ["--stage-a", str(stage_a), "--stage-b", str(stage_b), "--dataset", dataset]
        with pytest.raises(SystemExit) as ended:
            cli.main(["evaluate", *folders, *places, *options])
        assert (ended.value.code or 0) == code
        numbers: dict[str, float] = json.loads(file.read_text()) if code == 0 else {}
        return numbers


@pytest.fixture
def place(tmp_path: Path, runs: Path) -> Place:
    return Place(tmp_path, runs, make_data())


@pytest.mark.parametrize(
    ("method", "sizes"),
    [(m, s) for m in CLASS_OF for s in SIZES if m == "tcaf" or s != "fixed length"],
)
def test_published_weights_give_the_numbers_of_a_plain_evaluation(
    place: Place, method: str, sizes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    states = tuple(fit(method, SIZES[sizes], make_state(method, SIZES[sizes], seed), place.data, seed) for seed in (1, 2))
    expected = plain_evaluation(method, SIZES[sizes], *states, place.data)
    assert expected["hm"] > 0
    assert expected["beta"] > 0
    stage_a, stage_b = write_run(place.folder, method, SIZES[sizes], states=(states[0], states[1]))
    numbers = place.evaluate(stage_a, stage_b, "--features", "cls")
    assert numbers == {name: round(value, 2) for name, value in expected.items()}
    shown = capsys.readouterr().out
    assert all(f"{value:.2f}" in shown for value in numbers.values())
    assert "published weights" in shown
    assert "generated data" in shown


@pytest.mark.parametrize("method", CLASS_OF)
def test_the_written_tensors_have_the_names_and_kinds_of_the_published_ones(method: str, shared: Path) -> None:
    sizes = Sizes(depth=1 if method == "avca" else 2)
    with np.load(shared / "golden" / method / "weights_before.npz") as stored:
        published = {name: stored[name].ndim for name in stored.files}
    assert {name: len(shape) for name, shape in shapes(method, sizes).items()} == published


def test_the_evaluation_is_logged_as_a_run_of_its_own(place: Place) -> None:
    numbers = place.evaluate(*write_run(place.folder, "avca", SMALL))
    tracker = Tracker(f"sqlite:///{place.runs / 'mlflow.db'}", place.runs / "artifacts")
    (run,) = tracker.find(status="FINISHED", kind=KIND)
    assert {k: round(100 * run.metrics[f"test/{k}"], 2) for k in ("seen", "unseen", "hm", "zsl")} == {
        k: v for k, v in numbers.items() if k != "beta"
    }
    wanted = {"method": "avca", "dataset": "ucf", "features": "cls", "mode": "paper", "alignment": "official"}
    assert wanted.items() <= run.tags.items()
    assert (run.tags["origin"], len(run.tags["weights_digest"])) == ("published", 16)
    assert run.params["protocol.text_alignment"] == "official"
    assert "beta" in tracker.read_text(run.run_id, "curve.csv")
    again = place.evaluate(*write_run(place.folder / "other", "avca", SMALL, states=(make_state("avca", SMALL, 5),) * 2))
    digests = {r.tags["weights_digest"] for r in tracker.find(kind=KIND)}
    assert len(digests) == 2, again


def test_the_report_shows_released_weights_beside_retrained_ones(place: Place, tracker: Tracker) -> None:
    numbers = place.evaluate(*write_run(place.folder, "cjme", SMALL))
    bench = Bench(tracker, place.runs, place.folder / "data")
    assert not bench.run(bench.call("train.epochs=1", methods="cjme,avca", dataset="ucf", features="cls")).failed
    table = next(t for t in build_tables(collect(tracker)) if t.name == "full")
    rows = {(m, s): row for m, s, *row in table.cells.astype(str).itertuples(index=False, name=None)}
    assert {key for key in rows if key[1] == "released weights"} == {("CJME", "released weights")}
    assert len(rows) == 3
    shown = dict(zip(table.cells.columns[2:], rows["CJME", "released weights"], strict=True))
    assert [shown[name] for name in ("S", "U", "HM", "ZSL")] == [f"{v:.2f}" for k, v in numbers.items() if k != "beta"]


def test_the_corrected_protocol_gives_each_class_its_own_vector(place: Place) -> None:
    states = tuple(fit("avca", SMALL, make_state("avca", SMALL, seed), place.data, seed) for seed in (1, 2))
    folders = write_run(place.folder, "avca", SMALL, states=(states[0], states[1]))
    order = [sorted(MANUAL).index(name) for name in MANUAL]
    own = Data(place.data.samples, place.data.text[order])
    expected = plain_evaluation("avca", SMALL, *states, own)
    found = place.evaluate(*folders, "--set", "protocol.text_alignment=corrected")
    assert found == {name: round(value, 2) for name, value in expected.items()}
    assert found != place.evaluate(*folders)
    corrected = place.evaluate(*folders, "--mode", "corrected")
    assert round(corrected["beta"] / 0.2) * 0.2 != pytest.approx(corrected["beta"], abs=1e-3)  # exact, not of the grid


def _says(place: Place, capsys: pytest.CaptureFixture[str], *texts: str, **how: Any) -> None:
    folders = [how.pop(stage, place.folder / stage) for stage in ("stage_a", "stage_b")]
    capsys.readouterr()
    place.evaluate(*folders, *how.pop("options", []), code=2, **how)
    said = " ".join(capsys.readouterr().err.split())
    for text in texts:
        assert text in said
    assert "Traceback" not in said
    tracker = Tracker(f"sqlite:///{place.runs / 'mlflow.db'}", place.runs / "artifacts")
    assert not tracker.find(kind=KIND)


def _change_model(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = load_tensors(path)
    change(content["model"])
    torch.save(content, path)


def _change_arguments(folder: Path, **changes: Any) -> None:
    arguments = {**Sizes().arguments("avca", folder.name == "stage_b"), **changes}
    (folder / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**arguments)))


Spoil = Callable[[Path, Path], None]
FAULTS: dict[str, tuple[Spoil, list[str]]] = {
    "missing parameter": (
        lambda a, b: _change_model(a / "AVCA_score.pt", lambda m: m.pop("W_proj.fc.0.bias")),
        ["AVCA_score.pt", "missing ['W_proj.fc.0.bias']"],
    ),
    "extra parameter": (
        lambda a, b: _change_model(a / "AVCA_score.pt", lambda m: m.update(more=torch.zeros(1))),
        ["AVCA_score.pt", "extra ['more']"],
    ),
    "parameter of another size": (
        lambda a, b: _change_model(a / "AVCA_score.pt", lambda m: m.update({"W_proj.fc.0.bias": torch.zeros(3)})),
        ["AVCA_score.pt", "word_projection.0.bias is [3], not [64]"],
    ),
    "not a number": (
        lambda a, b: _change_model(b / "checkpoints/AVCA_score_ckpt_7.pt", lambda m: m["W_proj.fc.0.bias"].fill_(np.nan)),
        ["AVCA_score_ckpt_7.pt", "word_projection.0.bias is not finite"],
    ),
    "another data set": (
        lambda a, b: _change_arguments(a, dataset_name="VGGSound"),
        ["trained on VGGSound", "--dataset is ucf"],
    ),
    "another feature set": (lambda a, b: _change_arguments(a, zero_shot_split="main_split"), ["made for main", "--features"]),
    "other dimensions": (
        lambda a, b: _change_arguments(a, input_size_audio=128, input_size_video=4096),
        ["audio 128, video 4096", "has audio 12, video 20"],
    ),
    "an unknown variant": (lambda a, b: _change_arguments(a, reg_loss=False), ["args.pkl", "reg_loss"]),
    "a setting out of range": (lambda a, b: _change_arguments(a, embedding_dropout=7.0), ["args.pkl", "encoder_dropout"]),
    "the epoch is not there": (
        lambda a, b: (b / "checkpoints/AVCA_score_ckpt_7.pt").unlink(),
        ["AVCA_score_ckpt_7.pt is missing", "AVCA_score_ckpt_6.pt"],
    ),
    "no weights": (lambda a, b: (a / "AVCA_score.pt").unlink(), ["<Class>_score.pt", "found none"]),
    "two methods": (
        lambda a, b: shutil.copy(a / "AVCA_score.pt", a / "CJME_score.pt") and None,
        ["found several: AVCA_score.pt, CJME_score.pt"],
    ),
    "an unknown class": (
        lambda a, b: (a / "AVCA_score.pt").rename(a / "AVCAx_score.pt") and None,
        ["no method has published class 'AVCAx'", "did you mean 'AVCA'"],
    ),
    "truncated": (
        lambda a, b: os.truncate(a / "AVCA_score.pt", 5000),
        ["AVCA_score.pt", "truncated or damaged"],
    ),
    "no arguments": (lambda a, b: (a / "args.pkl").unlink(), ["--stage-a", "neither args.pkl", "config.json"]),
    "damaged arguments": (lambda a, b: os.truncate(a / "args.pkl", 40), ["args.pkl", "truncated or damaged"]),
    "no model": (lambda a, b: torch.save({"epoch": 8}, a / "AVCA_score.pt"), ["AVCA_score.pt", "'model'"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_run_folder_gets_an_error_that_names_it(place: Place, capsys: pytest.CaptureFixture[str], fault: str) -> None:
    spoil, texts = FAULTS[fault]
    spoil(*write_run(place.folder, "avca", Sizes(depth=1)))
    _says(place, capsys, *texts)


def test_swapped_stages_and_missing_folders_are_named(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write_run(place.folder, "avca", SMALL)
    _says(place, capsys, "swap the two folders", stage_a=b, stage_b=a)
    _says(place, capsys, "no such folder", stage_a=place.folder / "nowhere")
    _says(place, capsys, "fixed by the weights", "avca.lr", options=["--set", "avca.lr=0.1"])


class _Attack:
    """Runs a command when it is unpickled without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def test_hostile_pickles_are_refused_by_name_and_run_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    victim = place.folder / "victim"
    a, b = write_run(place.folder, "avca", SMALL)
    good = (a / "args.pkl").read_bytes()
    for value in (argparse.Namespace(x=_Attack(victim)), _Attack(victim)):
        (a / "args.pkl").write_bytes(pickle.dumps(value))
        _says(place, capsys, "refused", "system", "args.pkl")
    (a / "args.pkl").write_bytes(good)
    for file in (a / "AVCA_score.pt", b / "checkpoints" / "AVCA_score_ckpt_7.pt"):
        content = load_tensors(file)
        torch.save({**content, "more": _Attack(victim)}, file)
        _says(place, capsys, "refused", "system", file.name)
        torch.save(content, file)
    assert not victim.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_stored_arguments_load_from_every_protocol_with_paths_as_text(tmp_path: Path, protocol: int) -> None:
    values = {"a": 1, "b": [1, 2.5, None], "c": Path("/x/y"), "d": True, "e": Path("rel"), "f": np.float64(2), "g": Path("/")}
    file = tmp_path / "args.pkl"
    file.write_bytes(pickle.dumps(argparse.Namespace(**values), protocol))
    assert load_arguments(file) == {**values, "c": "/x/y", "e": "rel", "g": "/"}


@pytest.mark.parametrize(
    "content",
    [
        b"cargparse\nNamespace\n(S'x'\ntR.",  # called as a function
        b"cargparse\nArgumentParser\n(tR.",
        b"cpathlib\nPath\n(I1\ntR.",
        b"ccopyreg\n_reconstructor\n(cbuiltins\nlist\ncbuiltins\nobject\nNtR.",
        b"\x80\x02cargparse\nNamespace\n)\x81}I1\nI2\nsb.",  # a name that is no text
        b"(iargparse\nNamespace\n.",
    ],
)
def test_arguments_may_hold_nothing_else(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "args.pkl"
    file.write_bytes(content)
    with pytest.raises(RefusedPickle):
        load_arguments(file)
    file.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnreadableFile, match="no argparse Namespace"):
        load_arguments(file)


# ---- weights of ours ----------------------------------------------------------------------------------------------------


def _trained(bench: Bench, *methods: str) -> list[Path]:
    """Folders of stage 1 and 2 of each method's job."""
    call = bench.call("train.epochs=2", methods=",".join(methods))
    assert not bench.run(call).failed
    return [bench.runs / "jobs" / unit.job(stage, 0).key for unit in bench.units(call) for stage in (1, 2)]  # type: ignore[arg-type]


def _measure(bench: Bench, a: Path, b: Path) -> dict[str, float]:
    file = bench.runs / "numbers.json"
    with pytest.raises(SystemExit) as ended:
        cli.main(
            ["evaluate", "--stage-a", str(a), "--stage-b", str(b), "--dataset", "synthetic", "--json", str(file),
             "--data-root", str(bench.data), "--runs-dir", str(bench.runs)]
        )  # fmt: skip
    assert not ended.value.code
    numbers: dict[str, float] = json.loads(file.read_text())
    return numbers


def test_our_weights_give_the_numbers_of_their_job_from_its_folder_and_exported(bench: Bench) -> None:
    folders = _trained(bench, "cjme", "tcaf")
    trainings = export(bench.tracker, bench.runs, bench.runs / "out", None, [])
    assert [t.title for t in trainings] == [f"synthetic-native-paper-{m}-user-set-seed0" for m in ("cjme", "tcaf")]
    for i, training in enumerate(trainings):
        result = json.loads((folders[2 * i + 1] / "config.json").read_text())["result"]
        expected = {k: round(100 * v, 2) for k, v in result["metrics"].items() if k != "ausuc"}
        expected["beta"] = round(result["beta"], 2)
        assert _measure(bench, folders[2 * i], folders[2 * i + 1]) == expected
        assert {p.name for p in (training.folder / "stage_a").iterdir()} == {"model.safetensors", "config.json"}
        assert _measure(bench, training.folder / "stage_a", training.folder / "stage_b") == expected
    assert {r.tags["origin"] for r in bench.tracker.find(kind=KIND)} == {"ours"}


def test_export_writes_once_and_says_what_is_missing(bench: Bench) -> None:
    (first, *_) = _trained(bench, "cjme")
    out = bench.runs / "out"
    (training,) = export(bench.tracker, bench.runs, out, None, ["cjme"])
    before = (training.folder / "stage_a" / "model.safetensors").stat().st_mtime_ns
    export(bench.tracker, bench.runs, out, None, [])
    assert (training.folder / "stage_a" / "model.safetensors").stat().st_mtime_ns == before
    (training.folder / "stage_a" / "config.json").write_text('{"job_key": "another"}')
    with pytest.raises(UsageError, match="exists with other content"):
        export(bench.tracker, bench.runs, out, None, [])
    with pytest.raises(UsageError, match="no finished training of tcaf"):
        export(bench.tracker, bench.runs, out, None, ["tcaf"])
    with pytest.raises(UsageError, match="no benchmark call"):
        export(bench.tracker, bench.runs, out, "nonsense", [])
    (first / "best.pt").unlink()
    with pytest.raises(UsageError, match=f"not there any more:\n.*{first.name}"):
        export(bench.tracker, bench.runs, bench.runs / "new", None, [])
    assert not (bench.runs / "new").exists()


def test_folders_of_ours_that_do_not_fit_are_named(bench: Bench) -> None:
    cjme_1, cjme_2, avgzslnet_1, avgzslnet_2 = _trained(bench, "cjme", "avgzslnet")
    methods = registry.load().methods
    with pytest.raises(UsageError, match="swap the two folders"):
        read_pair(cjme_2, cjme_1, methods)
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
