"""Several processes give the results of one, whatever dies meanwhile; Ctrl-C stops at a checkpoint, and twice
immediately."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from support.commands import command, trainers
from support.tiny import LONGER, Bench, results

from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.processes import LocalProcesses
from benchmark.running.runner import BenchmarkRunResult
from benchmark.running.scheduler import ATTEMPTS, Dispatcher
from benchmark.system.databases import sqlite_uri


def run_side_by_side(bench: Bench, call: BenchmarkRun, jobs: int = 2) -> BenchmarkRunResult:
    plan = bench.plan(call)
    dispatcher = Dispatcher.of(bench.runner, plan, bench.data, lambda task: bench.display)
    return bench.runner.run(plan, LocalProcesses(dispatcher, jobs))


@pytest.mark.slow(40)
def test_two_processes_give_the_numbers_and_the_record_of_one(bench: Bench, other: Bench) -> None:
    call = bench.call(methods="cjme,avgzslnet", seeds=2, trials=2)
    one, two = bench.run(call), run_side_by_side(other, call)
    assert results(other.tracker) == results(bench.tracker)
    assert [(e.method, e.variant, e.repetition, e.stage, e.job_key) for e in two.entries] == [
        (e.method, e.variant, e.repetition, e.stage, e.job_key) for e in one.entries
    ]
    recorded = other.tracker.read_json(two.run_id, "jobs.json")
    assert [e["job_key"] for e in recorded] == [e.job_key for e in one.entries]
    methods = other.tracker.find(kind="method", parent=two.run_id)
    assert {m.status for m in methods} == {"FINISHED"}
    assert all("test/hm" in m.metrics for m in methods)
    assert {o.state for o in other.display.outcomes} >= {"done", "reused"}
    again = run_side_by_side(other, call)
    assert {e.state for e in again.entries} == {"reused"}


DEADLY = """
import os, signal
from benchmark.method import register
from methods.cjme import Cjme


@register("deadly", title="Deadly", paper="", bibtex="", inputs="mean")
class Deadly(Cjme):
    def loss(self, batch, classes):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_method_that_kills_its_process_fails_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    plugin = tmp_path / "deadly.py"
    plugin.write_text(DEADLY)
    call = bench.call("train.epochs=1", methods="deadly,cjme", plugins=[plugin])
    result = run_side_by_side(bench, call)
    assert {(e.method, e.state) for e in result.entries} == {("deadly", "failed"), ("cjme", "done")}
    assert result.failed[0].error.startswith("its process died (exit code -9;")
    assert result.failed[0].error.endswith(f"({ATTEMPTS} times)")
    (run,) = bench.tracker.find(kind="job", method="deadly")
    assert (run.status, run.tags["outcome"]) == ("FAILED", "lost")  # tried again by the next call
    assert "its process died" in run.tags["error"]


KILLS = 8


@pytest.mark.slow(100)
def test_jobs_whose_processes_are_killed_again_and_again_give_the_undisturbed_numbers(
    other: Bench, undisturbed: dict[str, Any]
) -> None:
    """Four seeds of two methods, both stages each.

    Sixteen jobs. A process is killed wherever it happens to be.
    """
    lengths = [f"--set={s}" for s in LONGER]
    options = ["--methods", "cjme,avgzslnet", "--seeds", "4", "--jobs", "2", *lengths]
    draw, killed, starts = random.Random(0), 0, 0
    while True:
        starts += 1
        with command(other, *options) as process:
            while process.poll() is None and killed < KILLS:
                time.sleep(draw.uniform(0.1, 0.6))
                alive = trainers(process, other.runs)
                if alive:
                    victim = draw.choice(alive)
                    killed += victim.is_running()
                    victim.kill()
            output = process.communicate()[0]
        if process.returncode == 0:
            break
        assert "Traceback" not in output
        assert starts < KILLS, output
    print(f"{killed} processes killed, {starts} starts")
    assert killed == KILLS
    assert results(other.tracker) == undisturbed


@pytest.mark.slow(110)
def test_a_study_whose_processes_are_killed_ends_with_the_trials_of_an_undisturbed_one(
    bench: Bench, other: Bench
) -> None:
    """Two processes do its trials, of which some are pruned; the command itself is killed as well."""
    lengths = ("train.epochs=10", "train.batches_per_epoch=10")
    search = ("tuning.parallel=2", "tuning.startup_trials=2", "tuning.warmup_epochs=1")
    call = bench.call(*lengths, *search, methods="cjme", trials=10)
    expected = bench.run(call, tune_only=True)
    options = [
        "--methods",
        "cjme",
        "--trials",
        "10",
        "--jobs",
        "2",
        *(f"--set={s}" for s in (*lengths, *search)),
    ]
    draw, killed, starts = random.Random(0), 0, 0
    while True:
        starts += 1
        with command(other, *options, do="tune") as process:
            while process.poll() is None and killed < 4:
                time.sleep(draw.uniform(0.1, 0.8))
                alive = trainers(process, other.runs)
                if alive and starts == 1 and killed == 2:
                    process.kill()
                    _, left = psutil.wait_procs(alive, timeout=20)
                    assert not left, "processes outlive their command"
                elif alive:
                    draw.choice(alive).kill()
                    killed += 1
            output = process.communicate()[0]
        if process.returncode == 0:
            break
        assert "Traceback" not in output
        assert starts < 20, output
    assert killed == 4
    assert starts >= 2
    (study,) = expected.studies
    assert study.pruned > 0
    trials, undisturbed = (
        optuna.load_study(study_name=study.study, storage=sqlite_uri(b.runs / "optuna.db")).trials
        for b in (other, bench)
    )
    told = [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in trials]
    assert told == [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in undisturbed]
    assert results(other.tracker) == results(bench.tracker)


@pytest.mark.slow(45)
def test_ctrl_c_stops_at_a_checkpoint_and_the_same_command_goes_on(
    other: Bench, undisturbed: dict[str, Any]
) -> None:
    options = ["--methods", "cjme,avgzslnet", *(f"--set={s}" for s in LONGER)]
    with command(other, "--jobs", "2", *options) as process:
        while not list(other.runs.glob("jobs/*/checkpoint.pt")):
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130, output
    assert "at the end of the running epochs" in output
    assert "Rerun the same command to resume" in output
    assert "Traceback" not in output
    assert not other.tracker.find(status="RUNNING")
    with command(other, "--jobs", "2", *options) as process:
        assert process.wait() == 0
    found = results(other.tracker)
    assert len(found) == 4
    assert found == {key: undisturbed[key] for key in found}


@pytest.mark.slow(40)
def test_a_second_ctrl_c_stops_at_once(bench: Bench) -> None:
    endless = [
        "--methods",
        "cjme,avgzslnet",
        "--set",
        "train.epochs=2",
        "--set",
        "train.batches_per_epoch=1000000",
    ]
    with command(bench, "--jobs", "2", *endless) as process:
        while len(trainers(process, bench.runs)) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.0)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        output = process.communicate(timeout=30)[0]
    assert process.returncode == 130, output
