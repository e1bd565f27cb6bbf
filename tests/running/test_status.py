"""What ``status`` and ``--dry-run`` say of jobs and studies; neither creates a store."""

from __future__ import annotations

from typing import Any

import pytest
from filelock import FileLock
from support.tiny import Bench

from benchmark.method import Method
from benchmark.running.jobs import Plan
from benchmark.running.status import Existing, JobStatus, StudyState, plan_states
from benchmark.running.studies import study_of
from benchmark.system.locks import Locks
from benchmark.tuning.locks import StudyLocks


def states(bench: Bench, plan: Plan) -> tuple[list[JobStatus], list[StudyState]]:
    """Jobs and studies of a plan."""
    found = plan_states(plan, Existing(bench.tracker, bench.stores.storage, bench.runs))
    return [s for s in found if isinstance(s, JobStatus)], [s for s in found if isinstance(s, StudyState)]


@pytest.mark.slow
def test_all_that_a_call_does_is_told_before_and_after_it(bench: Bench) -> None:
    call = bench.call("tuning.seed=1", "tuning.confirm=3", methods="avca", seeds=2, trials=4)
    (bench.runs / "optuna.db").unlink()
    jobs, (study,) = states(bench, bench.plan(call))
    assert [j.state for j in jobs] == ["not run"] * 4
    assert (study.state, study.left, study.best_hm) == ("not run", 4, None)
    assert not (bench.runs / "optuna.db").exists(), "looking makes no storage"
    assert not (bench.runs / "jobs").exists()

    result = bench.run(call)
    jobs, (study,) = states(bench, bench.plan(call))
    again = [j for j in jobs if j.job.endswith(" again")]
    assert [j.key for j in jobs if j not in again] == [e.job_key for e in result.entries]
    assert {j.state for j in jobs} == {"done"}
    assert study.chosen_values, "the starting settings are the best ones: choose another seed"
    assert [j.job.endswith("· tuned") for j in jobs if j not in again] == [False] * 4 + [True] * 4
    (found,) = result.studies
    assert found.confirmation is not None
    trials = {c.number for c in found.confirmation.candidates} - {0}
    assert len(again) == 3 * len(trials) + 1, "the first two seeds of trial 0 are the untuned rows"
    assert (study.chosen_trial, study.chosen_values) == (found.confirmation.number, found.chosen)
    assert (study.study, study.state, study.left) == (found.study, "done", 0)
    assert (study.finished, study.pruned, study.failed) == (found.complete, found.pruned, 0)
    assert (study.best_trial, study.best_hm, study.best_values) == (
        found.best_number,
        found.best_hm,
        found.best_values,
    )

    jobs, (study,) = states(bench, bench.plan(bench.call("tuning.seed=1", methods="avca", seeds=2, trials=6)))
    assert len(jobs) == 4, "what the tuned jobs are is not known yet"
    assert (study.state, study.finished + study.pruned, study.left) == ("interrupted", 4, 2)


def test_a_call_that_kept_the_starting_settings_has_no_tuned_jobs(bench: Bench) -> None:
    call = bench.call(methods="cjme", trials=1)
    bench.run(call)
    jobs, (study,) = states(bench, bench.plan(call))
    assert [j.state for j in jobs] == ["done", "done"]
    assert (study.state, study.best_trial, study.chosen_trial, study.chosen_values) == ("done", 0, 0, {})


def test_a_trial_of_a_living_process_runs_and_one_of_a_dead_process_is_interrupted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = bench.call(methods="cjme", trials=3)

    def start(title: str, epochs: int, batches: int) -> None:
        if "trial 1" in title:
            raise KeyboardInterrupt

    monkeypatch.setattr(bench.display, "start", start)
    with pytest.raises(KeyboardInterrupt):
        bench.run(call)
    plan = bench.plan(call)
    _, (study,) = states(bench, plan)
    assert (study.state, study.finished, study.running, study.interrupted, study.left) == (
        "interrupted",
        1,
        0,
        1,
        1,
    )
    name = study_of(plan.units[0], bench.stores.storage).name
    with StudyLocks(Locks(bench.runs), name).hold(1) or pytest.fail("somebody holds it"):
        _, (study,) = states(bench, plan)
        assert (study.state, study.running, study.interrupted) == ("running", 1, 0)


def test_why_trials_failed_and_that_a_study_gave_up_is_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = bench.call(methods="cjme", trials=1)
    plan = bench.plan(call)

    def failing(self: Method, *arguments: Any) -> Any:
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(plan.units[0].method, "loss", failing)
    bench.runner.run(plan)
    jobs, (study,) = states(bench, plan)
    assert [(j.state, j.reason) for j in jobs] == [("failed", "RuntimeError: the sky fell"), ("not run", "")]
    assert (study.state, study.finished, study.failed, study.left) == ("failed", 0, 3, 1)
    assert "3 trials failed" in study.reason
    assert list(study.failures) == [0, 1, 2]
    assert all("the sky fell" in reason for reason in study.failures.values())


def test_jobs_of_an_ablation_are_told_and_nothing_is_created_without_a_store(bench: Bench) -> None:
    call = bench.call(methods="cjme", ablate=["calibration"])
    empty = bench.runs / "empty"
    found = plan_states(bench.plan(call), Existing(None, f"sqlite:///{empty}/optuna.db", empty))
    assert [s.state for s in found] == ["not run"] * 4
    assert ["with calibration corrected" in s.job for s in found if isinstance(s, JobStatus)] == [
        False,
        False,
        True,
        True,
    ]
    assert not empty.exists()


def test_a_running_job_is_told_without_a_record(bench: Bench) -> None:
    plan = bench.plan(bench.call(methods="cjme"))
    (bench.runs / "jobs").mkdir()
    with FileLock(bench.runs / "jobs" / f"{plan.units[0].job(1, 0).key}.lock"):
        assert [s.state for s in plan_states(plan, Existing(None, "", bench.runs))] == ["running", "not run"]
