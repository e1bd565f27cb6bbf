"""Studies: starting point, exact resume, pruning, failures."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from support.opening_at_once import open_at_once

from benchmark.errors import JobError
from benchmark.settings.schema import TuningConfig
from benchmark.settings.search_space import Range
from benchmark.system.databases import sqlite_uri
from benchmark.tuning.results import TuningResult
from benchmark.tuning.study import Study, open_storage
from benchmark.tuning.trial import Trial

RANGES = {
    "lr": Range(type="float", low=1e-5, high=1e-1, log=True),
    "depth": Range(type="int", low=1, high=8),
    "act": Range(type="categorical", choices=["a", "b"]),
}
START = {"lr": 1e-3, "depth": 2, "act": "b"}


def study(folder: Path, **config: Any) -> Study:
    return Study(
        "s",
        sqlite_uri(folder / "optuna.db"),
        RANGES,
        START,
        TuningConfig.model_validate({"trials": 8, **config}),
    )


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


@pytest.mark.parametrize("dies_at", [1, 2, 5])
def test_a_kill_while_values_are_drawn_leaves_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    study(tmp_path / "whole", trials=4).run(Log())
    suggest, calls = optuna.Trial._suggest, 0

    def dying(self: optuna.Trial, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            raise KeyboardInterrupt
        return suggest(self, *arguments)

    monkeypatch.setattr(optuna.Trial, "_suggest", dying)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "broken", trials=4).run(Log())
    monkeypatch.undo()
    study(tmp_path / "broken", trials=4).run(Log())
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")


@pytest.mark.slow
def test_processes_that_open_new_storages_at_once_all_open_them(tmp_path: Path) -> None:
    storages = [sqlite_uri(tmp_path / f"{i}.db") for i in range(3)]
    open_at_once(2, [], storages, tmp_path)
    assert all(optuna.storages.RDBStorage(uri).get_all_studies() == [] for uri in storages)


class Shared:
    """Turns of threads of this process."""

    def __init__(self) -> None:
        self.study, self.trials = threading.Lock(), defaultdict[int, threading.Lock](threading.Lock)

    def alone(self) -> AbstractContextManager[object]:
        return self.study

    def hold(self, trial: int) -> AbstractContextManager[object] | None:
        lock = self.trials[trial]
        return contextlib.closing(Release(lock)) if lock.acquire(blocking=False) else None

    def pause(self) -> None:
        time.sleep(0.005)


@dataclass
class Release:
    lock: threading.Lock

    def close(self) -> None:
        self.lock.release()


def side_by_side(folder: Path, objectives: Sequence[Log], **config: Any) -> TuningResult:
    """A study run by one thread per objective; the first to its end."""
    turns = Shared()
    open_storage(sqlite_uri(folder / "optuna.db"))
    with ThreadPoolExecutor(len(objectives)) as pool:
        helpers = [
            pool.submit(study(folder, **config).help, objective, turns) for objective in objectives[1:]
        ]
        result = study(folder, **config).run(objectives[0], turns)
        for helper in helpers:
            helper.result(timeout=30)
    return result


class Slow(Log):
    """An objective whose trials take times of their own."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.times = random.Random(seed)

    def __call__(self, trial: Trial, values: Mapping[str, Any]) -> float:
        time.sleep(self.times.choice([0, 0.02, 0.1]))
        return super().__call__(trial, values)


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_parallel_study_is_the_same_whoever_does_its_trials(tmp_path: Path, pruner: str) -> None:
    config = {"trials": 14, "parallel": 3, "startup_trials": 3, "warmup_epochs": 1, "pruner": pruner}
    alone = study(tmp_path / "alone", **config).run(Log(fail=4))
    slow = [Slow(seed, fail=4) for seed in range(3)]
    assert side_by_side(tmp_path / "shared", slow, **config) == alone
    assert rows(tmp_path / "shared") == rows(tmp_path / "alone")
    assert (alone.complete + alone.pruned, alone.failed) == (14, 1)
    assert alone.pruned > 0
    assert all(objective.values for objective in slow)  # each of them did some


def test_trials_that_run_at_once_differ(tmp_path: Path) -> None:
    mine = study(tmp_path, trials=8, parallel=8, startup_trials=1)
    mine.run(Log())
    assert len({tuple(t.values.items()) for t in mine.past_trials()}) == 8


def test_other_widths_are_other_searches(tmp_path: Path) -> None:
    for parallel in (1, 4):
        study(tmp_path / str(parallel), trials=10, parallel=parallel, startup_trials=2).run(Log())
    assert rows(tmp_path / "1")[:1] == rows(tmp_path / "4")[:1]
    assert rows(tmp_path / "1") != rows(tmp_path / "4")


def test_a_helper_leaves_the_end_to_the_first(tmp_path: Path) -> None:
    """The last trial is held by another process; a helper does not wait for it."""
    turns, config = Shared(), {"trials": 3, "parallel": 2}
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, **config).run(Log(stop_at=(2, 1)), turns)
    held = turns.hold(2)
    assert held is not None
    log = Log()
    study(tmp_path, **config).help(log, turns)
    assert log.values == []
    assert not study(tmp_path, **config).is_over()
    with held:
        pass
    study(tmp_path, **config).help(log, turns)
    assert [number for number, _ in log.epochs] == [2] * 5
    assert study(tmp_path, **config).is_over()


def test_a_trial_that_kills_processes_fails_and_the_study_goes_on(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path, trials=3).run(Log(stop_at=(1, 2)))
    mine = study(tmp_path, trials=3)
    turns = Shared()
    blamed = mine.blame("its process died", turns)
    assert blamed == rows(tmp_path)[1][0]
    assert mine.blame("its process died", turns) is None
    result = mine.run(Log(), turns)
    assert (result.complete, result.failed) == (3, 1)


def test_a_study_that_gave_up_goes_on_where_it_is_forgiven(tmp_path: Path) -> None:
    def broken(trial: Trial, values: Mapping[str, Any]) -> float:
        raise JobError("broken")

    mine = study(tmp_path, trials=2)
    for _ in range(2):
        with pytest.raises(JobError, match=r"5 trials failed.*--retry-failed"):
            mine.run(broken)
    mine.forgive()
    result = mine.run(Log())
    assert (result.complete, result.failed, result.start_hm) == (2, 5, None)
    mine.forgive()  # no harm where it did not give up
    assert mine.run(Log()) == result


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
    assert (states.count("complete"), states.count("pruned"), states.count("failed")) == (
        result.complete,
        result.pruned,
        1,
    )
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
    assert [t.seconds for t in study(tmp_path).past_trials()] == [
        10,
        10,
    ]  # the second began before 15 s were used up

    log = Log()
    result = study(tmp_path, pruner="none", timeout=15).run(log)

    assert log.values == []
    assert (result.complete, result.timeout) == (2, 15)


def test_a_budget_in_seconds_alone_is_not_bounded_by_a_number_of_trials(tmp_path: Path) -> None:
    mine = study(tmp_path, trials=None, pruner="none", timeout=115)
    result = mine.run(Log())
    assert (result.complete, result.trials, result.timeout) == (12, None, 115)  # ten seconds each
    assert mine.is_over()
    assert not study(tmp_path, trials=None, pruner="none", timeout=125).is_over()


def test_a_study_bounded_by_seconds_gives_up_where_trials_fail_at_once(tmp_path: Path) -> None:
    def broken(trial: Trial, values: Mapping[str, Any]) -> float:
        raise JobError("broken")

    with pytest.raises(JobError, match=r"7 trials failed"):
        study(tmp_path, trials=None, timeout=1000, startup_trials=3).run(broken)


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
    one = Study(
        "s", sqlite_uri(tmp_path / "one.db"), {"depth": RANGES["depth"]}, {"depth": 2}, TuningConfig(trials=2)
    )
    one.run(lambda trial, values: 0.01 * values["depth"])

    assert few.importances().reason == "4 finished trials, at least 6 are needed"
    assert flat.importances().reason == "all finished trials have the same HM"
    assert one.importances().reason == "a single setting is searched"
    assert not {**few.importances().values, **flat.importances().values, **one.importances().values}
