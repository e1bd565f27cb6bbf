"""Studies: starting point, exact resume, pruning, failures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest

from benchmark.config import Range, TuningConfig
from benchmark.errors import JobError
from benchmark.tracking import sqlite_uri
from benchmark.tuning import Study, Trial

RANGES = {
    "lr": Range(type="float", low=1e-5, high=1e-1, log=True),
    "depth": Range(type="int", low=1, high=8),
    "act": Range(type="categorical", choices=["a", "b"]),
}
START = {"lr": 1e-3, "depth": 2, "act": "b"}


def study(folder: Path, **config: Any) -> Study:
    return Study("s", sqlite_uri(folder / "optuna.db"), RANGES, START, TuningConfig.model_validate({"trials": 8, **config}))


def score(values: Mapping[str, Any]) -> float:
    return 0.5 - abs(values["lr"] - 0.01) - 0.01 * values["depth"] + 0.1 * (values["act"] == "a")


class Log:
    """An objective of five epochs that remembers, and may end the process or fail."""

    def __init__(self, *, stop_at: tuple[int, int] | None = None, fail: int | None = None) -> None:
        self.values: list[dict[str, Any]] = []
        self.epochs: list[tuple[int, int]] = []
        self.stop_at, self.fail = stop_at, fail

    def __call__(self, trial: Trial, values: Mapping[str, Any]) -> float:
        self.values.append(dict(values))
        for epoch in range(5):
            if (trial.number, epoch) == self.stop_at:
                raise KeyboardInterrupt
            self.epochs.append((trial.number, epoch))
            trial.report(epoch, score(values) * (epoch + 1) / 5, seconds=2.0)
        if trial.number == self.fail:
            raise JobError("loss is not finite")
        return score(values)


def rows(folder: Path) -> list[tuple[Any, ...]]:
    loaded = optuna.load_study(study_name="s", storage=sqlite_uri(folder / "optuna.db"))
    return [(t.params, t.value, t.state, t.intermediate_values) for t in loaded.trials]


def test_trial_zero_has_the_starting_settings(tmp_path: Path) -> None:
    log = Log()
    study(tmp_path, trials=1).run(log)
    assert log.values == [START]


def test_the_total_of_trials_counts_earlier_calls(tmp_path: Path) -> None:
    study(tmp_path, trials=3).run(Log())
    log = Log()
    result = study(tmp_path, trials=5).run(log)
    assert len(log.values) == 2
    assert result.complete + result.pruned == 5
    again = Log()
    study(tmp_path, trials=5).run(again)
    assert again.values == []


def test_more_trials_begin_with_those_of_a_smaller_budget(tmp_path: Path) -> None:
    options = {"startup_trials": 2, "warmup_epochs": 1}
    study(tmp_path / "small", trials=4, **options).run(Log())
    study(tmp_path / "large", trials=7, **options).run(Log())
    assert rows(tmp_path / "large")[:4] == rows(tmp_path / "small")


@pytest.mark.parametrize("stop_at", [(0, 0), (2, 3), (6, 1), (7, 0)])
def test_an_interrupted_study_ends_as_an_undisturbed_one(tmp_path: Path, stop_at: tuple[int, int]) -> None:
    expected = study(tmp_path / "whole", startup_trials=3, warmup_epochs=1).run(Log())
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "broken", startup_trials=3, warmup_epochs=1).run(Log(stop_at=stop_at))
    result = study(tmp_path / "broken", startup_trials=3, warmup_epochs=1).run(Log())
    assert result == expected
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


def test_a_kill_while_the_starting_values_are_drawn_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Log()
    study(tmp_path / "whole", trials=4).run(expected)
    suggest, calls = optuna.Trial._suggest, 0

    def dying(self: optuna.Trial, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return suggest(self, *arguments)

    monkeypatch.setattr(optuna.Trial, "_suggest", dying)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "broken", trials=4).run(Log())
    monkeypatch.undo()
    log = Log()
    study(tmp_path / "broken", trials=4).run(log)
    assert log.values == expected.values
    assert log.values[0] == START


@pytest.mark.parametrize("pruner", ["median", "hyperband", "none"])
def test_every_pruner_finishes_the_budget(tmp_path: Path, pruner: str) -> None:
    result = study(tmp_path, trials=6, pruner=pruner, startup_trials=2, warmup_epochs=1).run(Log())
    assert result.complete + result.pruned == 6


def test_the_pruner_stops_hopeless_trials(tmp_path: Path) -> None:
    log = Log()
    result = study(tmp_path, trials=20, startup_trials=3, warmup_epochs=1).run(log)
    assert result.pruned > 0
    assert result.complete + result.pruned == 20
    assert len(log.epochs) < 100


def test_a_failed_trial_is_recorded_and_not_counted(tmp_path: Path) -> None:
    result = study(tmp_path, trials=3, startup_trials=2, pruner="none").run(Log(fail=1))
    assert (result.complete, result.failed) == (3, 1)
    loaded = optuna.load_study(study_name="s", storage=sqlite_uri(tmp_path / "optuna.db"))
    assert loaded.trials[1].user_attrs["error"] == "loss is not finite"
    assert loaded.trials[2].params != loaded.trials[1].params


def test_a_study_whose_trials_all_fail_gives_up(tmp_path: Path) -> None:
    def objective(trial: Trial, values: Mapping[str, Any]) -> float:
        raise JobError("broken")

    with pytest.raises(JobError, match="trials failed"):
        study(tmp_path, trials=2).run(objective)


def test_the_best_settings_are_empty_where_the_start_is_best(tmp_path: Path) -> None:
    best = study(tmp_path, trials=3).run(lambda trial, values: 1.0 if trial.number == 0 else 0.0)
    assert best.best_values == {}
    other = study(tmp_path / "b", trials=3).run(lambda trial, values: float(trial.number))
    assert other.best_number == 2
    assert set(other.best_values) == set(RANGES)


def test_past_trials_tell_epochs_seconds_and_the_start(tmp_path: Path) -> None:
    mine = study(tmp_path, trials=12, startup_trials=3, warmup_epochs=1)
    result = mine.run(Log(fail=1))

    trials = mine.past_trials()

    assert [t.number for t in trials] == list(range(13))
    assert [t.number for t in trials if t.start] == [0]
    states = [t.state for t in trials]
    assert (states.count("complete"), states.count("pruned"), states.count("failed")) == (result.complete, result.pruned, 1)
    pruned = [t for t in trials if t.state == "pruned"]
    assert pruned
    assert all(t.epochs < 5 for t in pruned)
    assert all(t.epochs == 5 for t in trials if t.state == "complete")
    assert all(t.seconds == 2 * t.epochs for t in trials)
    assert max(t.hm or 0 for t in trials if t.state == "complete") == result.best_hm
    assert trials[0].hm == result.start_hm == score(START)


def test_an_interruption_costs_no_seconds(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, trials=2).run(Log(stop_at=(1, 3)))
    again = study(tmp_path, trials=2)
    again.run(Log())
    assert [t.seconds for t in again.past_trials()] == [10, 10]


def test_a_budget_in_seconds_is_a_total_over_calls(tmp_path: Path) -> None:
    study(tmp_path, pruner="none", timeout=15).run(Log())
    assert [t.seconds for t in study(tmp_path).past_trials()] == [10, 10]  # the second began before 15 s were used up

    log = Log()
    result = study(tmp_path, pruner="none", timeout=15).run(log)

    assert log.values == []
    assert (result.complete, result.timeout) == (2, 15)


def test_trials_that_tell_no_seconds_use_up_the_time_too(tmp_path: Path) -> None:
    result = study(tmp_path, timeout=1e-6).run(lambda trial, values: 0.5)
    assert result.complete == 1


def test_importances_find_the_setting_that_matters_and_are_the_same_again(tmp_path: Path) -> None:
    mine = study(tmp_path, trials=20, pruner="none", startup_trials=20)
    mine.run(lambda trial, values: 0.1 * (values["act"] == "a") + 0.001 * values["depth"])

    found = mine.importances()

    assert found == mine.importances()
    assert (found.trials, found.reason) == (20, "")
    assert sum(found.values.values()) == pytest.approx(1)
    assert max(found.values, key=lambda name: found.values[name]) == "act"
    assert "fANOVA" in found.evaluator


def test_importances_that_cannot_be_told_say_why(tmp_path: Path) -> None:
    few = study(tmp_path / "few", trials=4)
    few.run(Log())
    flat = study(tmp_path / "flat", trials=10)
    flat.run(lambda trial, values: 0.5)
    one = Study("s", sqlite_uri(tmp_path / "one.db"), {"depth": RANGES["depth"]}, {"depth": 2}, TuningConfig(trials=2))
    one.run(lambda trial, values: 0.01 * values["depth"])

    assert few.importances().reason == "4 finished trials, at least 10 are needed"
    assert flat.importances().reason == "all finished trials have the same HM"
    assert one.importances().reason == "a single setting is searched"
    assert not {**few.importances().values, **flat.importances().values, **one.importances().values}
