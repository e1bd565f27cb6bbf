"""Searches of settings in reports: budgets, pruning, gains, curves and importances."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.cells_of import said

from benchmark.figures.searches import best_so_far, history_figure
from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.table import Table
from benchmark.report.write import write_report
from benchmark.tuning.confirmation import Confirmed, confirm

KEPT = "No trial beat the untuned hyperparameters, so there is no tuned row: TCAF."
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
    assert row["Best in search"] == "45.00 (trial 4)"
    assert row["Kept trial"] == "4"
    assert row["Hyperparameters"] == "lr=0.002, depth=6"
    assert row["Gain in test HM"] == "+12.92 (12.50 to 13.33)"  # 50 - 37.5 and 40 - 26.67
    for meaning in (
        "Epochs saved: ",
        "Best in search: the highest of all trials",
        "Gain in test HM: ",
        "Tuning budget: 4 trials per method",
        "In parentheses: the lowest and the highest seed.",
    ):
        assert meaning in said(found)


def hyperparameters(number: int) -> dict[str, float]:
    return {"lr": number / 1000, "depth": float(number)} if number else {}


def confirmation(kept: int, **hms: list[float | None]) -> dict[str, Any]:
    """What ``TuningResult.as_dict`` has of the trainings that confirm a search.

    Args:
        kept: number of the trial.
        hms: by trial (``t0``), by seed.
    """
    trials = {int(name[1:]): values for name, values in hms.items()}
    candidates = [
        Confirmed(number, hyperparameters(number), 0.4, values) for number, values in trials.items()
    ]
    found = confirm(range(len(next(iter(hms.values())))), candidates)
    assert found is not None
    assert found.number == kept
    return {"confirmation": asdict(found), "candidates": [{"number": number} for number in trials]}


def tuned(store: Any, unit: Any, seeds: int = 2, **study: Any) -> str:
    """A run with a search; returns its id."""
    scores = [(0.4, 0.2), (0.5, 0.3), (0.4, 0.3), (0.5, 0.2), (0.45, 0.25)][:seeds]
    call: str = store.call(
        [unit(scores=scores, tuned=[(seen, unseen + 0.1) for seen, unseen in scores], trials=4)]
    )
    log_search(store, call, **study)
    return call


def test_a_confirmed_search_shows_what_its_kept_trial_gave_with_other_seeds(store: Any, unit: Any) -> None:
    """The search's best trial was merely lucky: another one is kept."""
    tuned(store, unit, **confirmation(2, t0=[0.30, 0.32, 0.28], t4=[0.31, 0.30, 0.29], t2=[0.36, 0.40, 0.32]))

    table = tables(store)["tuning"]

    row = table.cells.iloc[0]
    assert (row["Best in search"], row["Kept trial"]) == ("45.00 (trial 4)", "2")
    assert row["Validation HM"] == "36.00 (32.00 to 40.00)"
    assert row["Gain"] == "+6.00 (4.00 to 8.00)", "6, 8 and 4, paired by seed"
    assert row["Hyperparameters"] == "lr=0.002, depth=2"
    order = ["Best in search", "Kept trial", "Validation HM", "Gain", "Gain in test HM", "Hyperparameters"]
    assert list(table.cells)[-6:] == order
    for meaning in ("Validation HM: the kept trial, trained again", "Gain: kept trial − trial 0"):
        assert meaning in said(table)


def test_a_search_that_five_seeds_confirm_has_intervals(store: Any, unit: Any) -> None:
    start, kept = [0.30, 0.32, 0.28, 0.31, 0.29], [0.36, 0.40, 0.32, 0.34, 0.38]
    tuned(store, unit, seeds=5, **confirmation(2, t0=start, t2=kept))

    table = tables(store)["tuning"]

    row = table.cells.iloc[0]
    expected = stats.ttest_rel([100 * hm for hm in kept], [100 * hm for hm in start])
    low, high = expected.confidence_interval(0.95)
    assert row["Validation HM"].startswith("36.00 ± ")
    assert row["Gain"] == f"+6.00 ± {(high - low) / 2:.2f}"
    assert "±: half the width of the 95 % t-interval of the mean." in said(table)
    assert "In parentheses" not in said(table)


def test_a_search_that_kept_trial_0_has_no_gain(store: Any, unit: Any) -> None:
    """The other trial is ahead by less than a standard error."""
    call = store.call([unit(tuned=[(0.4, 0.2), (0.5, 0.3)], trials=4, best_values={}), unit(method="avca")])
    log_search(store, call, **confirmation(0, t0=[0.30, 0.40, 0.35], t4=[0.45, 0.32, 0.30]))

    found = tables(store)

    row = found["tuning"].cells.iloc[0]
    assert (row["Best in search"], row["Kept trial"]) == ("45.00 (trial 4)", "0")
    assert row["Validation HM"] == "35.00 (30.00 to 40.00)"
    assert row["Hyperparameters"] == "the untuned settings"
    assert not {"Gain", "Gain in test HM"} & set(found["tuning"].cells), "columns without any value"
    assert KEPT in found["gzsl"].facts
    assert list(found["gzsl"].cells["Settings"]) == ["default", "default"]


def test_trainings_that_failed_while_they_confirmed_a_search_are_left_out(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    """Without a result of trial 0 there is no gain; another failed candidate changes nothing."""
    tuned(store, unit, **confirmation(4, t0=[0.30, None, 0.28], t4=[0.31, 0.30, 0.29], t2=[None, 0.9, 0.9]))

    row = tables(store)["tuning"].cells.iloc[0]
    write_report(store.tracker, tmp_path)

    assert (row["Kept trial"], row["Validation HM"]) == ("4", "30.00 (29.00 to 31.00)")
    assert "Gain" not in row
    numbers = pd.read_csv(tmp_path / "tuning.csv").iloc[0]
    assert (numbers["kept_trial"], numbers["confirmed_seeds"]) == (4, 3)
    assert numbers[["confirmed_HM_gain", "confirmed_HM_gain_std"]].isna().all()


def test_a_search_that_is_not_confirmed_yet_has_kept_no_trial(store: Any, unit: Any, tmp_path: Path) -> None:
    """The run was stopped, or all trainings failed: the best trial may not be the one that is kept."""
    call = store.call([unit(trials=4), unit(method="avca", trials=4)])
    candidates = [{"number": 0, "values": {}, "hm": 0.4}, {"number": 4, "values": {"lr": 2e-3}, "hm": 0.45}]
    log_search(store, call, candidates=candidates, confirmation=None)
    log_search(store, call, "avca", best_values={}, candidates=candidates, confirmation=None)

    found = tables(store)
    write_report(store.tracker, tmp_path)

    for column, text in (
        ("Best in search", "45.00 (trial 4)"),
        ("Kept trial", "–"),
        ("Hyperparameters", "–"),
    ):
        assert list(found["tuning"].cells[column]) == [text] * 2
    assert not any(fact.startswith("No trial beat") for fact in found["gzsl"].facts)
    assert pd.read_csv(tmp_path / "tuning.csv")[["kept_trial", "kept_hyperparameters"]].isna().all(axis=None)


def test_a_search_without_confirmation_keeps_its_best_trial(store: Any, unit: Any, tmp_path: Path) -> None:
    """As in stores of earlier versions, and without ``--tuning.confirm``; beside one that is confirmed."""
    call = store.call([unit(trials=4, tuned=[(0.5, 0.3)] * 2), unit(method="avca", trials=4)])
    log_search(store, call)
    log_search(store, call, "avca", **confirmation(2, t0=[0.30, 0.32], t2=[0.36, 0.40]))

    found = tables(store)["tuning"].cells.set_index("Method")
    write_report(store.tracker, tmp_path)

    columns = ["Kept trial", "Validation HM", "Gain"]
    assert found.loc["TCAF", columns].tolist() == ["4", "–", "–"]
    assert found.loc["AVCA", columns].tolist() == ["2", "38.00 (36.00 to 40.00)", "+7.00 (6.00 to 8.00)"]
    numbers = pd.read_csv(tmp_path / "tuning.csv").set_index("method")
    assert numbers.loc["tcaf", ["kept_trial", "confirmed_seeds"]].tolist() == [4, 0]
    assert np.isnan(numbers.loc["tcaf", "confirmed_HM_percent"])
    assert json.loads(str(numbers.loc["tcaf", "kept_hyperparameters"])) == {"lr": 2e-3, "depth": 6}


def test_the_table_has_its_numbers_as_csv(store: Any, unit: Any, tmp_path: Path) -> None:
    call = store.call([unit(scores=[(0.4, 0.2), (0.5, 0.3)], tuned=[(0.4, 0.4), (0.5, 0.5)], trials=4)])
    log_search(store, call, **confirmation(2, t0=[0.30, 0.32], t4=[0.31, 0.30], t2=[0.36, 0.40]))

    write_report(store.tracker, tmp_path)

    row = pd.read_csv(tmp_path / "tuning.csv").iloc[0]
    assert (row["method"], row["trials_complete"], row["trials_pruned"], row["seconds"]) == ("tcaf", 3, 1, 36)
    assert (row["validation_HM_percent"], row["validation_HM_gain"]) == pytest.approx((45, 5))
    assert (row["test_HM_gain"], row["test_HM_gain_std"]) == pytest.approx((12.916667, 0.589256))
    assert (row["best_trial"], row["kept_trial"], row["confirmed_seeds"], row["test_seeds"]) == (4, 2, 2, 2)
    assert (row["confirmed_HM_percent"], row["confirmed_HM_std_percent"]) == pytest.approx((38, 8**0.5))
    assert (row["confirmed_HM_gain"], row["confirmed_HM_gain_std"]) == pytest.approx((7, 2**0.5))
    assert json.loads(row["kept_hyperparameters"]) == {"lr": 2e-3, "depth": 2}
    assert "`tuning.csv`" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_store_without_these_records_is_reported_as_before(store: Any, unit: Any, tmp_path: Path) -> None:
    store.call([unit(scores=[], trials=3)])

    found = tables(store)["tuning"]
    report = write_report(store.tracker, tmp_path)

    assert found.cells.iloc[0]["Budget"] == "3 trials"
    assert not {"Epochs saved", "Seconds", "Validation HM", "Gain"} & set(found.cells.columns)
    assert found.cells.iloc[0][["Best in search", "Kept trial"]].tolist() == ["43.21 (trial 2)", "2"]
    assert "Epochs saved" not in said(found)
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
        assert "Budgets differ: " in said(found[name])
        assert "5 trials (AVCA)" in said(found[name])
        assert "3 trials (TCAF)" in said(found[name])


def test_a_method_without_a_study_beside_a_tuned_one_is_an_unequal_budget(store: Any, unit: Any) -> None:
    store.call([unit(tuned=[(0.5, 0.3)] * 2, trials=3), unit(method="avca")])

    assert "not tuned (AVCA)" in said(tables(store)["gzsl"])


def test_a_budget_that_differs_between_places_names_them(store: Any, unit: Any) -> None:
    store.call([unit(trials=3, tuned=[(0.5, 0.3)]), unit(trials=4, tuned=[(0.5, 0.3)], mode="corrected")])

    caption = said(tables(store)["tuning"])

    assert "3 trials (TCAF on Stamps native, paper), 4 trials (TCAF on Stamps native, corrected)" in caption


def test_budgets_in_seconds_are_equal_whatever_number_of_trials_they_gave(store: Any, unit: Any) -> None:
    call = store.call([unit(trials=4), unit(method="avca", trials=7)])
    log_search(store, call, trials=100, timeout=36.5)
    log_search(store, call, "avca", trials=100, timeout=36.5, complete=6)

    found = tables(store)["tuning"]

    assert "Tuning budget: 36.5 s of trials, at most 100 trials per method" in said(found)
    assert set(found.cells["Budget"]) == {"36.5 s of trials, at most 100 trials"}


def test_a_budget_in_seconds_alone_names_no_trials(store: Any, unit: Any) -> None:
    call = store.call([unit(trials=4), unit(method="avca", trials=7)])
    log_search(store, call, trials=None, timeout=36.5)
    log_search(store, call, "avca", trials=None, timeout=36.5, complete=6)

    found = tables(store)["tuning"]

    assert "Tuning budget: 36.5 s of trials per method" in said(found)
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
        "No importances on Stamps, features native, mode paper: CJME (3 finished trials, at least 5 are "
        "needed)." in text
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
