"""Runs read straight from MLflow's database are those that MLflow's client gives."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace

import pytest
from sqlalchemy import text

from benchmark.errors import UsageError
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.tracker import Tracker


@pytest.fixture
def filled(tracker: Tracker) -> Tracker:
    call = tracker.start("a benchmark run", {"kind": "benchmark_run"})
    for i in range(4):
        run = tracker.start(
            f"job {i}", {"kind": "job", "job_key": f"key {i // 2}", "mode": "it's paper"}, call
        )
        tracker.log_params(run, {"lr": 0.1 * i})
        tracker.log_metrics(run, {"hm": 0.1 * i, "loss": math.nan if i == 1 else 1.0}, step=0)
        tracker.log_metrics(run, {"hm": 0.2 * i}, step=1)
        if i != 3:
            tracker.finish(run, "FAILED" if i == 0 else "FINISHED")
    deleted = tracker.start("deleted", {"kind": "job", "job_key": "key 0"}, call)
    tracker.client.delete_run(deleted)
    return tracker


def plain(runs: list[RunRecord]) -> list[RunRecord]:
    """With NaN as text, since it equals nothing."""
    return [replace(r, metrics={k: str(v) for k, v in r.metrics.items()}) for r in runs]  # type: ignore[misc]


def test_runs_are_found_as_by_the_client_in_its_order(
    filled: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (call,) = filled.find(kind="benchmark_run")
    searches = [
        dict[str, str](kind="job"), {"kind": "job", "job_key": "key 0"},
        {"status": "FINISHED", "kind": "job"}, {},
        {"parent": call.run_id, "kind": "job"}, {"kind": "job", "job_key": "none"},
        {"parent": call.run_id, "status": "RUNNING"},
    ]  # fmt: skip
    assert filled._tables is not None
    straight = [plain(filled.find(**search)) for search in searches]  # type: ignore[arg-type]
    keys = filled.by_job_key(["key 0", "key 1", "none"])
    monkeypatch.setattr(filled, "_tables", None)
    assert straight == [plain(filled.find(**search)) for search in searches]  # type: ignore[arg-type]
    assert {k: plain([r]) for k, r in keys.items()} == {
        k: plain([r]) for k, r in filled.by_job_key(["key 0", "key 1", "none"]).items()
    }
    assert {key: run.name for key, run in keys.items()} == {"key 0": "job 1", "key 1": "job 2"}


def test_histories_are_those_of_the_client(filled: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run.run_id for run in filled.find(kind="job")]
    straight = filled.histories(runs, ["hm", "loss", "none"])
    monkeypatch.setattr(filled, "_tables", None)
    slow = filled.histories(runs, ["hm", "loss", "none"])
    as_text = [
        {key: sorted((step, str(v)) for step, v in values.items()) for key, values in h.items()}
        for h in (straight, slow)
    ]
    assert as_text[0] == as_text[1]
    assert len(straight) == 2 * len(runs)


def test_tables_of_an_unknown_kind_are_left_to_the_client(filled: Tracker) -> None:
    assert filled._tables is not None
    with filled._tables.engine.begin() as connection:
        connection.execute(text("ALTER TABLE latest_metrics RENAME COLUMN is_nan TO no_number"))
    assert not filled._tables.fits()


def test_artifacts_of_a_local_folder_are_read_where_they_are(filled: Tracker) -> None:
    run = filled.find(kind="benchmark_run")[0].run_id
    filled.log_json(run, {"a": 1}, "folder/a.json")
    assert filled.read_json(run, "folder/a.json") == {"a": 1}
    with pytest.raises(UsageError, match=r"artifact b\.json cannot be read"):
        filled.read_text(run, "b.json")
    assert filled._folder is not None
    shutil.rmtree(filled._folder / run)
    with pytest.raises(UsageError, match=r"artifact folder/a\.json cannot be read"):
        filled.read_text(run, "folder/a.json")
