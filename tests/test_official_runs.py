"""The command line on folders in the official layout, from import to tables. Needs reference data."""

from __future__ import annotations

import csv
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.cli import app
from benchmark.registry import load
from benchmark.settings.resolve import switches
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.tracker import Tracker

CHANCE_UCF = 1 / 6
"""Test-unseen classes of UCF with the cls split."""

pytestmark = pytest.mark.slow(60)
SUITED = [method for method in load().select("all") if not method.needs_text_parts]
"""Methods for features with word vectors as class embeddings."""


SWITCHES = {
    "text_alignment", "evaluation_times", "extra_bn_pass", "padding_in_bn", "video_norm", "audio_scale",
    "length_rule",
    "beta_output", "calibration", "stage2_schedule", "dead_biases",
}  # fmt: skip
"""All that mode ``corrected`` changes of the protocol; CJME has its own."""


class Trial:
    """A folder for runs and reports, and the command line on generated features in the official layout."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data = folder, data

    def command(self, *arguments: str) -> None:
        """Give a command in this process, since starting another one takes seconds."""
        roots = ["--data-root", str(self.data)]
        if arguments[0] == "run":
            roots += ["--runs-dir", str(self.folder / "runs"), "--reports-dir", str(self.folder / "reports")]
        with pytest.raises(SystemExit) as ended:
            app.main([*arguments, *roots])
        assert not ended.value.code

    def table(self, report: str, name: str) -> list[dict[str, str]]:
        with open(self.folder / "reports" / report / f"{name}.csv", newline="") as f:
            return list(csv.DictReader(f))


class Data:
    """A data root with generated features."""

    def __init__(self, folder: Path, shared: Path) -> None:
        self.folder, self.tool = folder, shared / "tools" / "make_official_layout.py"

    def add(self, dataset: str, features: str, *options: str) -> None:
        """Write features in the official layout and import them."""
        words = [
            sys.executable,
            str(self.tool),
            str(self.folder),
            "--dataset",
            dataset,
            "--features",
            features,
        ]
        subprocess.run([*words, "--forms", "pickle", *options], check=True)
        source = ["--from", str(self.folder / dataset), "--generated"]
        Trial(self.folder, self.folder / "data").command(
            "data", "import", dataset.casefold(), "--features", features, *source
        )
        shutil.rmtree(self.folder / dataset)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Data:
    return Data(tmp_path_factory.mktemp("official"), shared)


@pytest.fixture(scope="module")
def ucf_main(data: Data) -> Data:
    """A twentieth of UCF's samples in the main features."""
    data.add("UCF", "main", "--fraction", "0.05")
    return data


@pytest.fixture(scope="module")
def ucf_cls(data: Data) -> Data:
    """A sixth of UCF's samples in the cls features."""
    data.add("UCF", "cls", "--fraction", "0.16")
    return data


@pytest.fixture
def trial(tmp_path: Path, data: Data) -> Trial:
    return Trial(tmp_path, data.folder / "data")


SMALL = [
    "--set=train.epochs=1",
    "--set=train.batches_per_epoch=5",
    "--set=perceiver.depth=1",
    "--set=perceiver.latents=8",
]


TINY = [
    *(f"--set=train.{s}" for s in ("epochs=1", "batches_per_epoch=3", "batch_size=32")),
    *(
        f"--set={m}.{s}"
        for m in ("tcaf", "attention_fusion", "perceiver")
        for s in ("dim=32", "encoder_hidden=32")
    ),
    *(f"--set={m}.{s}" for m in ("tcaf", "perceiver") for s in ("depth=1", "heads=2", "dim_head=16")),
    "--set=perceiver.latents=8",
]


@pytest.mark.xdist_group("official cls")
def test_all_methods_on_ucf_give_both_tables(trial: Trial, ucf_cls: Data) -> None:
    trial.command("run", "--methods", "all", "--dataset", "ucf", "--report", "ucf", *SMALL)
    for name in ("gzsl", "zsl"):
        methods = {row["method"] for row in trial.table("ucf", name)}
        assert len(methods) == len(SUITED), methods


@pytest.mark.xdist_group("official main")
def test_both_modes_of_all_methods_stand_side_by_side(trial: Trial, ucf_main: Data) -> None:
    names = ["--dataset", "ucf", "--features", "main", "--report", "modes"]
    trial.command("run", "--methods", "all", *names, "--mode", "both", "--seeds", "2", *TINY)
    rows = trial.table("modes", "modes")
    assert len({row["method"] for row in rows}) == len(rows) == len(SUITED)
    for row in rows:
        assert (row["seeds"], row["paper_alignment"], row["corrected_alignment"]) == (
            "2",
            "official",
            "by_name",
        )
        assert float(row["hm_difference"]) == pytest.approx(
            float(row["hm_corrected"]) - float(row["hm_paper"]), abs=1e-5
        )
        assert math.isfinite(float(row["zsl_difference_std"]))


@pytest.mark.xdist_group("official main")
@pytest.mark.parametrize("method", ["tcaf", "cjme"])
def test_the_ablation_has_a_row_per_switch_from_runs_that_differ_in_it_alone(
    trial: Trial, ucf_main: Data, method: str
) -> None:
    names = ["--dataset", "ucf", "--features", "main", "--report", "ablation"]
    trial.command("run", "--methods", method, *names, "--ablate-protocol", "--seeds", "2", *TINY)
    expected = SWITCHES | ({"cjme_pairing"} if method == "cjme" else set())
    assert expected == {*switches(load().methods[method])}
    rows = {row["ablation"]: row for row in trial.table("ablation", "ablation")}
    assert set(rows) == {"", *expected, "all"}
    assert all(row["seeds"] == "2" for row in rows.values())
    effects = [float(row[f"{m}_effect_std"]) for name, row in rows.items() if name for m in ("hm", "zsl")]
    assert all(math.isfinite(effect) for effect in effects)

    runs = trial.folder / "runs"
    tested: dict[str, list[RunRecord]] = {}
    for run in Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts").find(kind="job", stage="2"):
        tested.setdefault(run.tags["ablation"], []).append(run)
    assert {name: len(found) for name, found in tested.items()} == dict.fromkeys(rows, 2)
    paper = tested[""][0].params
    for switch in expected:
        for run in tested[switch]:
            changed = {name for name in {*paper, *run.params} if run.params.get(name) != paper.get(name)}
            assert changed - {"seed", "cjme.pairing"} == {f"protocol.{switch}"}


def test_several_data_sets_of_the_main_features_stand_in_one_table(trial: Trial, data: Data) -> None:
    data.add("ActivityNet", "main", "--fraction", "0.001", "--length-scale", "0.1")
    data.add("VGGSound", "main", "--fraction", "0.001")
    small = [*TINY, "--set=lengths.train=8", "--set=lengths.test=16"]
    names = ["--dataset", "activitynet,vggsound", "--features", "main", "--report", "both"]
    trial.command("run", "--methods", "all", *names, *small)
    rows = trial.table("both", "gzsl")
    assert {(r["dataset"], r["method"]) for r in rows} == {
        (dataset, m.name) for dataset in ("activitynet", "vggsound") for m in SUITED
    }


@pytest.mark.xdist_group("official cls")
def test_six_epochs_of_tcaf_recognise_unseen_classes_of_generated_ucf(trial: Trial, ucf_cls: Data) -> None:
    """Small sizes and a rate to match, so that it takes minutes; published sizes take an hour. The mean
    of two seeds: of six classes one seed says little."""
    training = ["train.epochs=6", "train.batches_per_epoch=30", "protocol.text_alignment=by_name"]
    sizes = [
        f"tcaf.{s}" for s in ("dim=64", "depth=2", "heads=4", "dim_head=16", "encoder_hidden=128", "lr=0.001")
    ]
    names = ["--dataset", "ucf", "--features", "cls", "--report", "tcaf"]
    settings = [f"--set={s}" for s in training + sizes]
    trial.command("run", "--methods", "tcaf", *names, "--seeds", "2", *settings)
    (row,) = trial.table("tcaf", "full")
    print(row)
    assert float(row["ZSL_percent"]) >= 100 * 3 * CHANCE_UCF
    seeds = [r for r in trial.table("tcaf", "results") if r["stage"] == "2"]
    assert len(seeds) == 2
    assert min(float(r[name]) for r in seeds for name in ("seen", "unseen", "hm")) > 0
