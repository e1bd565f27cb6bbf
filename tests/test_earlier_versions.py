"""Feature files, run databases, configurations and weights that an earlier version wrote are read as they
were.

``version-0.1.0.tar.xz`` has a runs folder of two methods (two seeds each, two trials), its feature file, and
tables of its report.
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import optuna
import pandas as pd
import pytest

from benchmark.cli import main
from benchmark.data.cards import load_cards
from benchmark.data.checks.verify import verify_store
from benchmark.data.store import FeatureStore
from benchmark.report.tables.significance import comparisons
from benchmark.report.write import write_report
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.settings.resolve import parse_overrides
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage

DATA = [
    f"--set=data.{setting}"
    for setting in (
        *(
            "order_signal=0",
            "train_samples=3",
            "val_seen_samples=1",
            "val_unseen_samples=3",
            "test_seen_samples=2",
        ),
        *("test_unseen_samples=4", "audio_steps=[2,3]", "video_steps=[2,3]"),
    )
]
"""Settings of its generated data."""


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder with ``data``, ``runs`` and ``expected``, as an earlier version left it elsewhere."""
    with tarfile.open(Path(__file__).with_name("version-0.1.0.tar.xz")) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def tracker_of(earlier: Path) -> Tracker:
    return Tracker(sqlite_uri(earlier / "runs" / "mlflow.db"), earlier / "runs" / "artifacts")


def test_a_feature_file_has_its_samples_and_digest(earlier: Path) -> None:
    (path,) = (earlier / "data").glob("*.h5")
    findings = verify_store(path, load_cards()["synthetic"])
    assert [f for f in findings if f.severity == "problem"] == [], "its digest among them"
    assert sum(FeatureStore(path).counts.values()) == 150


def test_a_report_of_its_runs_has_the_same_numbers(earlier: Path) -> None:
    """Except intervals and tests of two seeds, and tuned rows of untuned jobs, which are no longer shown."""
    report = write_report(tracker_of(earlier), earlier / "report")
    assert set(pd.read_csv(earlier / "report" / "full.csv")["alignment"]) == {"by_name"}
    comparisons(report.results).round(6).to_csv(earlier / "report" / "comparisons.csv", index=False)
    for name, methods in (
        ("gzsl", ["cjme", "avca", "avca"]),
        ("zsl", ["cjme", "avca", "avca"]),
        ("intervals", ["cjme", "avca", "avca"]),
        ("comparisons", ["cjme"]),
    ):
        before, now = (
            pd.read_csv(folder / f"{name}.csv") for folder in (earlier / "expected", earlier / "report")
        )
        tuned = before.filter(["slot", "variant", "settings"]).eq("tuned").any(axis=1)
        before = before[~tuned | (before["method"] != "cjme")].reset_index(drop=True)
        numbers = list(before.select_dtypes("number"))
        omitted = [c for c in numbers if re.fullmatch("(seen|unseen|hm|zsl)_(low|high|p|p_holm)", c)]
        assert list(now["method"]) == list(before["method"]) == methods
        assert now[omitted].isna().all(axis=None)
        kept = [c for c in numbers if c not in omitted]
        pd.testing.assert_frame_equal(now[kept], before[kept])


def test_its_studies_are_read(earlier: Path) -> None:
    uri = sqlite_uri(earlier / "runs" / "optuna.db")
    studies = optuna.get_all_study_summaries(open_storage(uri))
    assert [study.n_trials for study in studies] == [2, 2]


def test_its_configurations_run(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (first, *_) = tracker_of(earlier).find(kind="job", method="cjme", stage="2")
    config = earlier / "config.yaml"
    config.write_text(tracker_of(earlier).read_text(first.run_id, "config.yaml"))
    places = ["--data-root", str(earlier / "data"), "--runs-dir", str(earlier / "new")]
    with pytest.raises(SystemExit) as stop:
        main(["run", "--config", str(config), "--dry-run", "--json", *places])
    assert not stop.value.code
    assert [job["state"] for job in json.loads(capsys.readouterr().out)] == ["not run"] * 2


def test_its_weights_give_the_numbers_of_their_job(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {
        file.parent: json.loads(file.read_text())
        for file in (earlier / "runs" / "jobs").glob("*/config.json")
    }
    folders = {str(job["stage"]): folder for folder, job in jobs.items() if list(folder.glob("*.pt"))}
    stages = ["--stage-a", str(folders["1"]), "--stage-b", str(folders["2"])]
    places = ["--data-root", str(earlier / "data"), "--runs-dir", str(earlier / "new")]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", *stages, "--dataset", "synthetic", "--json", *places, *DATA])
    assert not stop.value.code
    found, result = json.loads(capsys.readouterr().out), jobs[folders["2"]]["result"]["metrics"]
    assert result["hm"] > 0
    assert {name: found[name] for name in ("hm", "zsl")} == {
        name: round(100 * result[name], 2) for name in ("hm", "zsl")
    }


def test_its_switches_have_their_names_of_today(earlier: Path) -> None:
    jobs = tracker_of(earlier).find(kind="job")
    assert {job.params["protocol.beta_output"] for job in jobs} == {"paper"}
    assert {job.params["protocol.text_alignment"] for job in jobs} == {"by_name"}
    assert {run.tags["alignment"] for run in tracker_of(earlier).find(kind="method")} == {"by_name"}
    assert not any("view" in name for job in jobs for name in job.params)
    assert parse_overrides(["protocol.beta_view=corrected"], {}) == {"protocol": {"beta_output": "corrected"}}
    assert BenchmarkRun(ablate=["beta_view", "calibration"]).ablate == ["beta_output", "calibration"]
