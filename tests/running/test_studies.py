"""What a search leaves in the tracking store, and that reports are made from it."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from support.tiny import Bench

from benchmark.report.write import write_report


@pytest.mark.figures
def test_a_search_leaves_its_trials_its_importances_and_a_figure(bench: Bench, tmp_path: Path) -> None:
    result = bench.run(bench.call(methods="cjme", trials=3), tune_only=True)

    assert not result.failed
    run = next(r.run_id for r in bench.tracker.find(kind="method"))
    trials = pd.read_csv(io.StringIO(bench.tracker.read_text(run, "trials.csv")))
    assert list(trials["number"]) == [0, 1, 2]
    assert list(trials["start"]) == [True, False, False]
    assert set(trials["planned_epochs"]) == {3}
    assert (trials["seconds"] > 0).all()
    assert "param.lr" in trials
    assert trials.loc[trials["state"] == "complete", "value"].max() == result.studies[0].best_hm
    assert (
        bench.tracker.read_json(run, "importances.json")["reason"]
        == "3 finished trials, at least 10 are needed"
    )
    names = {a.path for a in bench.tracker.client.list_artifacts(run)}
    assert "tuning-history.png" in names
    assert "importances.png" not in names
    write_report(bench.tracker, tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "(tuning-synthetic-native-paper.png)" in text
    assert "CJME (3 finished trials" in text


def test_no_trial_is_pruned_after_its_last_epoch(bench: Bench) -> None:
    settings = [
        "tuning.startup_trials=1",
        "tuning.warmup_epochs=2",
    ]  # of three epochs only the last one may prune

    result = bench.run(bench.call(*settings, methods="cjme", trials=6), tune_only=True)

    assert (result.studies[0].complete, result.studies[0].pruned) == (6, 0)
