"""Searches of settings in reports: budgets, pruning, gains, curves and importances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmark.figures.searches import best_so_far, history_figure
from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.table import Table
from benchmark.report.write import write_report

TRIALS = pd.DataFrame(
    {
        "number": [0, 1, 2, 3, 4],
        "state": ["complete", "failed", "complete", "pruned", "complete"],
        "start": [True, False, False, False, False],
        "value": [0.40, None, 0.38, 0.60, 0.45],
        "seconds": [10.0, 2.0, 11.0, 4.0, 9.0],
        "epochs": [8, 1, 8, 3, 8],
        "planned_epochs": [8, 8, 8, 8, 8],
        "param.lr": [1e-3, 1e-2, 1e-4, 1e-1, 2e-3],
        "param.depth": [2, 3, 4, 5, 6],
    }
)
IMPORTANCES = {
    "evaluator": "fANOVA",
    "seed": 0,
    "trials": 12,
    "values": {"lr": 0.75, "depth": 0.25},
    "reason": "",
}
STUDY = {
    "study": "s",
    "best_values": {"lr": 2e-3, "depth": 6},
    "best_number": 4,
    "best_hm": 0.45,
    "start_hm": 0.40,
}
COUNTS = {"complete": 3, "pruned": 1, "failed": 1, "trials": 4, "timeout": None}


def log_search(
    store: Any, call: str, method: str = "tcaf", importances: object = IMPORTANCES, **study: object
) -> None:
    """Give a method's run what ``running/studies.py`` logs."""
    run = next(r.run_id for r in store.tracker.find(kind="method", parent=call, method=method))
    store.tracker.log_json(run, {**STUDY, **COUNTS, **study}, "tuning.json")
    store.tracker.log_text(run, TRIALS.to_csv(index=False), "trials.csv")
    store.tracker.log_json(run, importances, "importances.json")


def tables(store: Any, calls: list[str] | None = None) -> dict[str, Table]:
    return {t.name: t for t in build_tables(collect(store.tracker, calls))}


def test_the_table_tells_budget_pruning_and_gains(store: Any, unit: Any) -> None:
    call = store.call([unit(scores=[(0.4, 0.2), (0.5, 0.3)], tuned=[(0.4, 0.4), (0.5, 0.5)], trials=4)])
    log_search(store, call)

    found = tables(store)["tuning"]

    row = found.cells.iloc[0]
    assert row["Budget"] == "4 trials"
    assert row["Trials"] == "4 (1 pruned, 1 failed)"
    assert row["Pruned"] == "25 %"
    assert row["Epochs saved"] == "5 of 32 (16 %)"
    assert row["Seconds"] == "36"
    assert row["Gain"] == "+5.00"
    assert row["Gain in test HM"] == "+12.92 ± 0.59"  # 40 - 26.67 and 50 - 37.5
    for meaning in ("Epochs saved: ", "Gain: ", "Gain in test HM: ", "Tuning budget: 4 trials per method"):
        assert meaning in found.caption


def test_the_table_has_its_numbers_as_csv(store: Any, unit: Any, tmp_path: Path) -> None:
    call = store.call([unit(scores=[(0.4, 0.2), (0.5, 0.3)], tuned=[(0.4, 0.4), (0.5, 0.5)], trials=4)])
    log_search(store, call)

    write_report(store.tracker, tmp_path)

    row = pd.read_csv(tmp_path / "tuning.csv").iloc[0]
    assert (row["method"], row["trials_complete"], row["trials_pruned"], row["seconds"]) == ("tcaf", 3, 1, 36)
    assert (row["validation_HM_percent"], row["validation_HM_gain"]) == pytest.approx((45, 5))
    assert (row["test_HM_gain"], row["test_HM_gain_std"]) == pytest.approx((12.916667, 0.589256))
    assert json.loads(row["best_hyperparameters"]) == {"lr": 2e-3, "depth": 6}
    assert "`tuning.csv`" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_store_without_these_records_is_reported_as_before(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit(scores=[], trials=3)])

    found = tables(store)["tuning"]
    report = write_report(store.tracker, tmp_path)

    assert found.cells.iloc[0]["Budget"] == "3 trials"
    assert not {"Epochs saved", "Seconds", "Gain"} & set(found.cells.columns)
    assert "Epochs saved" not in found.caption
    assert [f.name for f in report.files] == [
        "report.md",
        "index.html",
        "report.tex",
        "tuning.csv",
        "tuning.tex",
    ]


def test_unequal_budgets_are_told_in_every_caption(store: Any, unit: Any) -> None:
    store.call(
        [unit(tuned=[(0.5, 0.3)] * 2, trials=3), unit(method="avca", tuned=[(0.5, 0.3)] * 2, trials=5)]
    )

    found = tables(store)

    for name in ("gzsl", "tuning"):
        assert "Budgets differ: " in found[name].caption
        assert "5 trials (AVCA)" in found[name].caption
        assert "3 trials (TCAF)" in found[name].caption


def test_a_method_without_a_study_beside_a_tuned_one_is_an_unequal_budget(store: Any, unit: Any) -> None:
    store.call([unit(tuned=[(0.5, 0.3)] * 2, trials=3), unit(method="avca")])

    assert "no finished study (AVCA)" in tables(store)["gzsl"].caption


def test_a_budget_that_differs_between_places_names_them(store: Any, unit: Any) -> None:
    store.call([unit(trials=3, tuned=[(0.5, 0.3)]), unit(trials=4, tuned=[(0.5, 0.3)], mode="corrected")])

    caption = tables(store)["tuning"].caption

    assert "3 trials (TCAF on Stamps native, paper), 4 trials (TCAF on Stamps native, corrected)" in caption


def test_budgets_in_seconds_are_equal_whatever_number_of_trials_they_gave(store: Any, unit: Any) -> None:
    call = store.call([unit(trials=4), unit(method="avca", trials=7)])
    log_search(store, call, trials=100, timeout=36.5)
    log_search(store, call, "avca", trials=100, timeout=36.5, complete=6)

    found = tables(store)["tuning"]

    assert "Tuning budget: 36.5 s of trials, at most 100 trials per method" in found.caption
    assert set(found.cells["Budget"]) == {"36.5 s of trials, at most 100 trials"}


def test_a_budget_in_seconds_alone_names_no_trials(store: Any, unit: Any) -> None:
    call = store.call([unit(trials=4), unit(method="avca", trials=7)])
    log_search(store, call, trials=None, timeout=36.5)
    log_search(store, call, "avca", trials=None, timeout=36.5, complete=6)

    found = tables(store)["tuning"]

    assert "Tuning budget: 36.5 s of trials per method" in found.caption
    assert set(found.cells["Budget"]) == {"36.5 s of trials"}


def test_trials_of_earlier_calls_count_as_budget(store: Any, unit: Any) -> None:
    call = store.call([unit(trials=9)])
    log_search(store, call, trials=4, complete=8)

    assert tables(store)["tuning"].cells.iloc[0]["Budget"] == "9 trials"


def test_a_study_that_two_calls_share_is_one_row(store: Any, unit: Any) -> None:
    calls = [store.call([unit(trials=4)]), store.call([unit(trials=4)])]
    for call in calls:
        log_search(store, call)

    assert len(tables(store, calls)["tuning"].cells) == 1


def test_pruned_trials_use_up_the_budget_and_are_never_the_best(store: Any, unit: Any) -> None:
    found = best_so_far(TRIALS)

    assert list(found["finished"]) == [1, 1, 2, 3, 4]
    assert list(found["seconds_so_far"]) == [10, 12, 23, 27, 36]
    assert list(found["best_so_far"]) == [0.40, 0.40, 0.40, 0.40, 0.45]


@pytest.mark.painted
def test_curves_and_importances_stand_in_the_report_with_their_numbers(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    call = store.call([unit(trials=4), unit(method="avca", trials=4), unit(method="cjme", trials=4)])
    log_search(store, call)
    log_search(store, call, "avca")
    few = {**IMPORTANCES, "values": {}, "reason": "3 finished trials, at least 5 are needed"}
    log_search(store, call, "cjme", importances=few)

    write_report(store.tracker, tmp_path)

    text = (tmp_path / "report.md").read_text()
    for stem in ("tuning-stamps-native-paper", "importances-stamps-native-paper"):
        assert f"({stem}.png)" in text
        assert (tmp_path / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
    assert (
        "No importances on Stamps (native), mode paper: CJME (3 finished trials, at least 5 are needed)."
        in text
    )
    searches = pd.read_csv(tmp_path / "tuning-stamps-native-paper.csv")
    assert list(dict.fromkeys(searches["method"])) == ["CJME", "AVCA", "TCAF"]
    assert list(searches[searches["method"] == "TCAF"]["best_so_far"]) == [0.4, 0.4, 0.4, 0.4, 0.45]
    assert not [c for c in searches if c.startswith("param.")]
    importances = pd.read_csv(tmp_path / "importances-stamps-native-paper.csv")
    assert set(importances["method"]) == {"AVCA", "TCAF"}
    assert set(importances[importances["parameter"] == "lr"]["importance"]) == {0.75}


def test_the_history_marks_start_pruned_and_failed_trials_in_percent() -> None:
    axes = history_figure(TRIALS, "title").axes[0]

    lines = {str(line.get_label()): line for line in axes.lines}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Trial", "Validation HM (%)")
    assert list(lines["best so far"].get_ydata()) == pytest.approx([40, 40, 40, 40, 45])
    assert (list(lines["untuned settings"].get_xdata()), list(lines["untuned settings"].get_ydata())) == (
        [0],
        [40],
    )
    assert list(lines["pruned: highest of its epochs"].get_xdata()) == [3]
    assert list(lines["failed"].get_xdata()) == [1]
    assert list(lines["finished"].get_xdata()) == [2, 4]
