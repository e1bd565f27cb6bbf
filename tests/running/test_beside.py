"""What is written beside a result can fail: the result, the job, the study and the call do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny import Bench, results

from benchmark import inspection
from benchmark.cli.app import main
from benchmark.errors import Unavailable
from benchmark.report.write import write_report
from benchmark.running import records, runner, studies, worker
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.system.beside import NOT_WRITTEN, Beside, not_written, unguarded
from benchmark.tracking.schema import Artifact
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import Study

SYNTHETIC = [
    "--dataset",
    "synthetic",
    "--set=train.epochs=1",
    "--set=train.batches_per_epoch=2",
    "--set=train.batch_size=16",
]


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a library is broken\nin two lines")


def test_what_fails_is_told_and_kept_and_all_else_passes() -> None:
    said: list[str] = []
    beside = Beside(said.append)
    with beside("curve.png"):
        broken()
    with beside("nothing"):
        pass
    assert said == [
        "warning: curve.png could not be written (RuntimeError: a library is broken); the result stays, "
        "reports lack it"
    ]
    assert not_written(beside.tags()) == ["curve.png: RuntimeError: a library is broken"]
    for error in (KeyboardInterrupt, Unavailable):
        with pytest.raises(error), beside("curve.png"):
            raise error
    with pytest.raises(RuntimeError), unguarded("curve.png"):
        broken()


def test_a_run_that_had_failed_so_before_and_does_not_any_more_says_so() -> None:
    beside = Beside(lambda text: None)
    assert beside.tags({}) == {}
    assert beside.tags({NOT_WRITTEN: "curve.png: old"}) == {NOT_WRITTEN: ""}


def test_jobs_are_done_with_the_same_results_whatever_fails_beside_them(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench.run(bench.call(methods="cjme"))
    for place, name in (
        (inspection, "recall_rows"),
        (inspection, "unseen_confusion"),
        (inspection, "embedding_map"),
        (inspection, "cost"),
        (inspection, "parameter_count"),
        (records, "log_curve"),
        (worker, "log_map"),
        (worker, "peak_memory_mb"),
        (worker, "write_weights_record"),
        (worker, "job_note"),
        (BenchmarkRun, "as_yaml"),
        (runner, "run_note"),
        (runner, "method_note"),
        (other.tracker, "log_dataset"),
        (other.tracker, "log_params"),
    ):
        monkeypatch.setattr(place, name, broken)
    said: list[str] = []
    monkeypatch.setattr(other.display, "say", said.append)

    found = other.run(other.call(methods="cjme"))

    assert [e.state for e in found.entries] == ["done", "done"]
    names = {key: {**r, "bootstrap": None} for key, r in results(other.tracker).items()}  # type: ignore[dict-item]
    assert names == {key: {**r, "bootstrap": None} for key, r in results(bench.tracker).items()}  # type: ignore[dict-item]
    assert any("CJME" in text and "warning: curve.png could not be written" in text for text in said)
    text = write_report(other.tracker, tmp_path / "report").files[0].read_text(encoding="utf-8")
    section = text.split("## Not written")[1]
    for what in (
        "curve.png",
        "recall.csv",
        "confusion.csv",
        "embedding.csv",
        "cost",
        "settings",
        "config.yaml",
        "the description",
    ):
        assert f"{what}: RuntimeError: a library is broken" in section
    assert "seed 0, stage 2: curve.png" in section
    again = other.run(other.call(methods="cjme"))
    assert [e.state for e in again.entries] == ["reused", "reused"]


def test_a_search_counts_although_its_figures_and_importances_fail(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(studies, "_log_history", broken)
    monkeypatch.setattr(Study, "importances", broken)

    found = bench.run(bench.call("train.epochs=1", methods="cjme", trials=1))

    assert len(found.studies) == 1
    assert {e.state for e in found.entries} <= {"done", "reused"}
    report = write_report(bench.tracker, tmp_path)
    assert "tuning" in {t.name for t in report.tables}
    text = report.files[0].read_text(encoding="utf-8")
    assert "CJME: tuning-history.png: RuntimeError" in text
    assert "CJME: importances.json: RuntimeError" in text


def test_a_search_whose_record_fails_altogether_leaves_the_next_method_its_turn(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "log_study", broken)
    found = bench.run(bench.call("train.epochs=1", methods="cjme,avgzslnet", trials=1), tune_only=True)
    assert len(found.studies) == 2
    missing = [not_written(run.tags) for run in bench.tracker.find(kind="method")]
    assert missing == [["the record of the search: RuntimeError: a library is broken"]] * 2


def test_a_call_whose_list_of_jobs_cannot_be_written_is_no_success(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_json = Tracker.log_json

    def refuse(self: Tracker, run_id: str, content: Any, file: str) -> None:
        if file == Artifact.JOBS:
            raise OSError("no list")
        log_json(self, run_id, content, file)

    call = bench.call("train.epochs=1", methods="cjme")
    with monkeypatch.context() as patch:
        patch.setattr(Tracker, "log_json", refuse)
        with pytest.raises(OSError, match="no list"):
            bench.run(call)
    assert {entry.state for entry in bench.run(call).entries} == {"reused"}


def test_reasons_hide_what_is_secret() -> None:
    beside = Beside(lambda text: None)
    with beside("the upload"):
        raise RuntimeError("cannot reach http://me:S3CRETPW@host/path")
    assert "S3CRETPW" not in "".join(beside.lines())


def test_a_store_that_is_away_and_ctrl_c_mean_what_they_did(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("the store is away")

    def ctrl_c(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    call = bench.call("train.epochs=1", methods="cjme")
    for failure, error in ((away, Unavailable), (ctrl_c, KeyboardInterrupt)):
        with monkeypatch.context() as patch:
            patch.setattr(records, "log_curve", failure)
            with pytest.raises(error):
                bench.run(call)
    assert not bench.run(call).failed


def command(tmp_path: Path, tracker: Tracker, *arguments: str) -> list[str]:
    folders = {
        "data-root": tmp_path / "data",
        "runs-dir": tracker.artifacts.parent,
        "reports-dir": tmp_path / "reports",
    }
    return ["run", *SYNTHETIC, *(f"--{name}={folder}" for name, folder in folders.items()), *arguments]


def test_a_report_that_fails_does_not_hide_that_the_jobs_are_done(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmark.report.write.install", broken)
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path, tracker, "--methods=cjme", "--set=cjme.hidden=16"))
    text = " ".join(capsys.readouterr().err.split())
    assert end.value.code == 2
    call = tracker.find(kind="benchmark_run")[0].run_id
    assert (
        "error: the report could not be written (RuntimeError: a library is broken). The jobs are recorded"
        in text
    )
    assert f"report --run {call}" in text
    assert len(tracker.find(kind="job", status="FINISHED")) == 2


FAILS_IN_STAGE_2 = """
import torch
from benchmark.method import Embeddings, Method, register

@register("late", title="Late", paper="none", bibtex="@misc{late}", inputs="mean")
class Late(Method):
    trained = 0

    def __init__(self, config, spec):
        super().__init__(config, spec)
        Late.trained += 1
        if Late.trained == 2:
            raise ValueError("more classes than I know")
        self.w = torch.nn.Linear(spec.audio_dim, spec.text_dim)

    def loss(self, batch, classes):
        return {"total": self.w(batch.audio).square().mean()}

    def embed(self, batch):
        return Embeddings({"joint": self.w(batch.audio)})

    def embed_classes(self, text):
        return text
"""


def test_a_method_that_fails_in_stage_2_is_reported_by_its_validation_and_its_reason(
    tracker: Tracker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "late.py"
    plugin.write_text(FAILS_IN_STAGE_2, encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(command(tmp_path, tracker, "--methods=late", f"--plugin={plugin}"))
    assert end.value.code == 1, capsys.readouterr()
    text = (tmp_path / "reports" / "synthetic" / "report.md").read_text(encoding="utf-8")
    assert "stage 2: failed: ValueError: more classes than I know" in text
    assert "Late" in text
    assert len(tracker.find(kind="job", status="FINISHED")) == 1
