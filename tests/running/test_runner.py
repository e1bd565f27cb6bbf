"""Calls: what is done is not repeated, what was killed continues, what fails does not stop the rest."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import yaml
from done_once import times_done
from support.copies import Copies
from support.tiny import TINY, Bench, results

from benchmark.errors import UsageError
from benchmark.method import Method
from benchmark.protocol.code_version import code_version
from benchmark.report.results.collect import collect, records
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.means import summarise
from benchmark.running import planning
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.jobs import Plan
from benchmark.running.status import Existing, plan_states
from benchmark.running.studies import study_of
from benchmark.running.tasks import Search
from benchmark.settings.search_space import Range
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.schema import Artifact, of_study
from benchmark.tracking.tracker import Tracker
from benchmark.tuning import study as tuning


@pytest.mark.figures
def test_a_call_leaves_nested_runs_with_everything_that_a_reader_wants(bench: Bench) -> None:
    result = bench.run(bench.call(methods="avca", seeds=2, trials=2))
    call = bench.tracker.get(result.run_id)
    methods = bench.tracker.find(kind="method", parent=result.run_id)
    jobs = bench.tracker.find(kind="job", parent=methods[0].run_id)
    assert (call.status, len(methods), methods[0].name) == ("FINISHED", 1, "AVCA · synthetic/native · paper")
    final = next(j for j in jobs if j.tags["stage"] == "2")
    assert {"test/hm", "test/zsl", "test/seen", "test/unseen", "test/ausuc", "calibration/beta"} <= set(
        final.metrics
    )
    assert {"duration_seconds", "peak_memory_mb"} <= set(final.metrics)
    assert {
        "method",
        "dataset",
        "features",
        "mode",
        "alignment",
        "seed",
        "stage",
        "tuned",
        "git_revision",
        "torch",
    } <= set(final.tags)
    assert final.params["avca.dim"] == "16"
    assert final.params["protocol.text_alignment"] == "by_name"
    files = {f.path for f in bench.tracker.client.list_artifacts(final.run_id)}
    assert {"config.yaml", "result.json", "recall.csv", "curve.csv", "curve.png", "identity.json"} <= files
    inputs = bench.tracker.client.get_run(final.run_id).inputs.dataset_inputs
    store = bench.units(bench.call(methods="avca"))[0].store
    assert [(d.dataset.name, d.dataset.digest) for d in inputs] == [("synthetic-native", store.digest[:36])]
    first = next(j for j in jobs if j.tags["stage"] == "1")
    assert {"train/total", "val/seen", "val/unseen", "val/hm", "val/zsl"} <= set(first.metrics)
    assert len(bench.tracker.history(first.run_id, "val/hm")) == 3
    assert "test/hm" in methods[0].metrics
    assert {j.tags["tuned"] for j in jobs if j.tags["variant"] == "trial"} == {"false"}


def test_a_second_call_repeats_nothing(bench: Bench) -> None:
    call = bench.call(methods="cjme,linear", seeds=2, trials=2)
    first = bench.run(call)
    runs = len(bench.tracker.find(kind="job"))
    bench.display.outcomes.clear()
    bench.display.started.clear()
    second = bench.run(call)
    assert bench.display.started == []
    assert {o.state for o in bench.display.outcomes} == {"reused"}
    assert len(bench.tracker.find(kind="job")) == runs
    assert second.run_id == first.run_id
    assert [(e.job_key, e.variant) for e in second.entries] == [(e.job_key, e.variant) for e in first.entries]


def test_a_larger_call_takes_over_what_a_smaller_one_did(bench: Bench) -> None:
    bench.run(bench.call(methods="cjme"))
    bench.display.started.clear()
    bench.run(bench.call(methods="cjme,avgzslnet", seeds=2))
    assert len(bench.display.started) == 6


def test_whatever_changes_a_number_changes_the_key(bench: Bench) -> None:
    def key(*extra: str, **options: object) -> str:
        return bench.units(bench.call(*extra, **{"methods": "cjme", **options}))[0].job(1, 0).key

    keys = [
        key(),
        key("cjme.lr=0.01"),
        key("train.batch_size=17"),
        key("train.threads=2"),
        key("train.precision=bfloat16"),
        key("lengths.train=5"),
        key("protocol.beta_output=corrected"),
        key(base_seed=1),
        key(methods="avca"),
        bench.units(bench.call(methods="cjme"))[0].job(1, 1).key,
        bench.units(bench.call(methods="cjme"))[0].job(2, 0).key,
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


def test_the_stages_can_be_run_apart(bench: Bench) -> None:
    missing = bench.run(bench.call(methods="cjme", stages="2"))
    assert [e.state for e in missing.failed] == ["not run", "not run"]
    bench.run(bench.call(methods="cjme", stages="1"))
    assert not bench.tracker.find(kind="job", stage="2")
    second = bench.run(bench.call(methods="cjme", stages="2"))
    assert not second.failed
    assert [(e.stage, e.state) for e in second.entries] == [(2, "done")]


def test_a_failing_method_is_recorded_and_the_others_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = bench.units(bench.call(methods="avca,cjme"))

    def broken(self: Method, *_: object) -> None:
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(units[0].method, "loss", broken)
    result = bench.runner.run(Plan(bench.call(methods="avca,cjme"), units))
    assert [(e.method, e.stage, e.state) for e in result.failed] == [
        ("avca", 1, "failed"),
        ("avca", 2, "not run"),
    ]
    run = bench.tracker.find(kind="job", method="avca")[0]
    assert run.status == "FAILED"
    assert run.tags["error"] == "RuntimeError: the sky fell"
    assert [r.status for r in bench.tracker.find(kind="job", method="cjme")] == ["FINISHED", "FINISHED"]
    monkeypatch.undo()
    again = bench.run(bench.call(methods="avca,cjme"))
    assert [e.state for e in again.failed] == ["failed", "not run"]
    assert "the sky fell (in an earlier run; --retry-failed tries it again)" in again.failed[0].error
    bench.runner = replace(bench.runner, retry_failed=True)
    assert not bench.run(bench.call(methods="avca,cjme")).failed


def test_the_logged_configuration_runs_again_to_the_same_job(bench: Bench) -> None:
    bench.run(bench.call("avca.decoder_dropout=0.123", methods="avca", seeds=2))
    for run in bench.tracker.find(kind="job", repetition="1"):
        call = BenchmarkRun.model_validate(yaml.safe_load(bench.tracker.read_text(run.run_id, "config.yaml")))
        unit = bench.units(call)[0]
        assert [unit.job(int(run.tags["stage"]), r).key for r in unit.repetitions] == [run.tags["job_key"]]  # type: ignore[arg-type]


def test_tuning_uses_the_validation_splits_and_never_stage_two(bench: Bench) -> None:
    result = bench.run(bench.call(methods="cjme", trials=3), tune_only=True)
    assert result.studies[0].complete + result.studies[0].pruned == 3
    assert {r.tags["stage"] for r in bench.tracker.find(kind="job")} == {"1"}
    trial = bench.tracker.find(kind="job", trial="0")[0]
    assert trial.tags["variant"] == "trial"


def test_settings_changed_by_the_user_are_not_called_published_or_default(bench: Bench) -> None:
    plain = BenchmarkRun(methods="cjme", dataset="synthetic")
    changed = plain.model_copy(update={"settings": ["cjme.margin=0.5"]})
    longer = plain.model_copy(update={"settings": ["train.epochs=7"]})
    assert [bench.units(c)[0].variant for c in (plain, changed, longer)] == ["default", "user-set", "default"]


def test_seconds_without_trials_bound_a_search_of_every_method_alone(bench: Bench) -> None:
    units = bench.units(bench.call(methods="cjme,tcaf", timeout=60))
    assert [(u.tuning.searches, u.tuning.trials, str(u.tuning.budget)) for u in units] == [
        (True, None, "60 s of trials")
    ] * 2
    assert Plan(bench.call(timeout=60), units).count is None
    both = bench.units(bench.call(methods="cjme", timeout=60, trials=1))[0]
    assert str(both.tuning.budget) == "60 s of trials, at most 1 trial"
    assert study_of(units[0], "").name == study_of(both, "").name, "another budget is no other study"
    assert not bench.units(bench.call(methods="cjme"))[0].tuning.searches


def test_a_search_is_confirmed_with_seeds_that_took_no_part_in_it(bench: Bench) -> None:
    call = bench.call("tuning.seed=1", "tuning.confirm=3", methods="linear", seeds=2, trials=3)
    result = bench.run(call)
    (study,) = result.studies
    again = study.confirmation
    assert again is not None
    assert (again.seeds, again.candidates[0].number) == ([0, 1, 2], 0)
    trials = bench.tracker.find(kind="job", variant="trial")
    assert {r.tags["repetition"] for r in trials} == {"1000000"}, "the search has its own seed"

    # The numbers are those of stage 1 with these seeds, which the untuned and the tuned rows share.
    hms: dict[str, list[float]] = {e.variant: [] for e in result.entries}
    for entry in result.entries:
        if entry.stage == 1:
            run = bench.tracker.by_job_key([entry.job_key])[entry.job_key]
            hms[entry.variant].append(run.metrics["best/hm"])
    kept = next(c for c in again.candidates if c.number == again.number)
    assert hms[result.entries[0].variant] == list(again.candidates[0].hms)[:2]
    assert hms["tuned"] == list(kept.hms)[:2]
    assert again.number != 0, "the starting settings are kept: choose another seed"
    assert again.hm == pytest.approx(kept.mean)
    (method,) = bench.tracker.find(kind="method")
    assert bench.tracker.read_json(method.run_id, Artifact.TUNING)["confirmation"]["number"] == again.number

    # The same command does nothing again, and without confirmation the study is the same.
    assert {e.state for e in bench.run(call).entries} == {"reused"}
    plain = bench.run(bench.call("tuning.seed=1", methods="linear", seeds=2, trials=3))
    assert plain.studies[0].study == study.study
    assert (plain.studies[0].confirmation, plain.studies[0].chosen) == (None, study.best_values)


def test_several_searches_share_no_seed_and_each_has_its_trainings(bench: Bench) -> None:
    call = bench.call("tuning.confirm=3", methods="linear", seeds=2, trials=2, studies=2)
    result = bench.run(call)
    tuned = [e for e in result.entries if e.variant == "tuned"]
    assert {(e.study, e.repetition) for e in tuned} == {(0, 0), (0, 1), (1, 3), (1, 4)}
    assert [len(s.confirmation.seeds) for s in result.studies if s.confirmation] == [3, 3]
    confirming = [set(s.confirmation.seeds) for s in result.studies if s.confirmation]
    assert len(set.union(*confirming)) == 6, "no seed confirms two searches"
    trials = bench.tracker.find(kind="job", variant="trial")
    assert {r.tags["repetition"] for r in trials} == {"1000000", "1001000"}
    names = [run.name for run in bench.tracker.find(kind="job")]
    assert len(set(names)) == len(names)

    # Each search is recorded, and the same command does nothing again.
    (method,) = bench.tracker.find(kind="method")
    found = [bench.tracker.read_json(method.run_id, of_study(Artifact.TUNING, n)) for n in range(2)]
    assert [f["study"] for f in found] == [s.study for s in result.studies]
    assert {e.state for e in bench.run(call).entries} == {"reused"}
    states = plan_states(bench.plan(call), Existing(bench.tracker, bench.stores.storage, bench.runs))
    assert {s.state for s in states} == {"done"}

    # More searches begin with these.
    more = bench.run(
        bench.call("tuning.confirm=3", methods="linear", seeds=2, trials=2, studies=3), tune_only=True
    )
    assert [s.study for s in more.studies][:2] == [f["study"] for f in found]

    # A tuned row is over searches: the mean of each counts once.
    results = collect(bench.tracker, [result.run_id])
    (row,) = records(summarise(results.test[results.test["variant"] == "tuned"]))
    assert (row["seeds"], row["searches"], row["trainings"]) == (2, 2, 2)
    hm = results.test[results.test["variant"] == "tuned"].groupby("study")["hm"].mean()
    assert row["hm"] == pytest.approx(100 * hm.mean())
    assert row["hm_std"] == pytest.approx(100 * hm.std(ddof=1))
    tables = {t.name: t for t in build_tables(results)}
    assert "tuned: 2 searches, 2 trainings each" in list(tables["gzsl"].cells["Settings"])
    assert len(tables["tuning"].cells) == 2
    assert "± is over searches" in tables["gzsl"].text


def test_several_searches_need_a_budget(bench: Bench) -> None:
    with pytest.raises(UsageError, match="--studies 3 needs tuning"):
        bench.units(bench.call(methods="linear", studies=3))


def test_a_trial_may_be_the_mean_of_several_seeds(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    call = bench.call("tuning.seeds=2", "tuning.seed=1", methods="linear", trials=2)
    with monkeypatch.context() as patch:
        patch.setattr(bench.display, "start", lambda title, *sizes: exit_in(title, "trial 1 · seed 1"))
        with pytest.raises(KeyboardInterrupt):
            bench.run(call, tune_only=True)
    (study,) = bench.run(call, tune_only=True).studies
    runs = bench.tracker.find(kind="job", variant="trial")
    assert {r.tags["repetition"] for r in runs} == {"1000000", "1000001"}
    hms = [[r.metrics["best/hm"] for r in runs if r.tags["trial"] == t] for t in ("0", "1")]
    assert [len(values) for values in hms] == [2, 2]
    assert study.best_hm == pytest.approx(max(sum(values) / 2 for values in hms))
    (method,) = bench.tracker.find(kind="method")
    trials = bench.tracker.read_text(method.run_id, Artifact.TRIALS).splitlines()
    assert [row.split(",")[5:7] for row in trials[1:]] == [["6", "6"]] * 2, "epochs of both seeds"
    assert set(times_done(bench.tracker.find(kind="job")).values()) == {1}


def test_a_training_that_fails_takes_its_trial_out_of_the_confirmation(
    bench: Bench,
) -> None:
    call = bench.call("tuning.seed=1", "tuning.confirm=3", methods="linear", trials=3)
    best = bench.run(call, tune_only=True).studies[0].best_number
    assert best != 0, "choose another seed"
    again = f"trial {best} again · seed 2"
    (run,) = [r for r in bench.tracker.find(kind="job") if again in r.name]
    bench.tracker.tag(run.run_id, {"outcome": "failed", "error": "loss is not finite"})
    bench.tracker.finish(run.run_id, "FAILED")
    (study,) = bench.run(call).studies
    assert study.confirmation is not None
    (failed,) = [c for c in study.confirmation.candidates if None in c.hms]
    assert (failed.number, list(failed.hms).index(None)) == (best, 2)
    assert study.confirmation.number != best


def test_a_fixed_setting_is_not_searched(bench: Bench) -> None:
    unit = bench.units(bench.call(methods="cjme", trials=2))[0]
    assert "hidden" not in unit.ranges  # TINY fixes it
    assert "margin" in unit.ranges


def test_a_start_outside_the_range_is_refused_before_anything_runs(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = {"margin": Range(type="float", low=5, high=6)}
    monkeypatch.setattr(planning, "search_ranges", lambda *_: narrow)
    with pytest.raises(
        UsageError, match=r"CJME on synthetic starts from margin=1.0, outside the search range"
    ):
        bench.units(bench.call(methods="cjme", trials=2))


PRUNING = ["train.epochs=6", "train.batches_per_epoch=8", "tuning.startup_trials=1", "tuning.warmup_epochs=1"]
CONFIRMED = [*PRUNING, "tuning.confirm=3"]
"""Settings with which some trials are pruned."""

CALL = {"methods": "cjme,tcaf", "seeds": 2, "trials": 4}


def start(copies: Copies, runs: Path, data: Path) -> int:
    """The run in its own process."""
    return copies.start("run_tiny", str(runs), str(data), CONFIRMED, CALL)


def kill_at_checkpoint(copies: Copies, bench: Bench, nth: int) -> None:
    """Start the call and kill it when its nth job has written a checkpoint."""
    seen: set[Path] = set()
    copy = start(copies, bench.runs, bench.data)
    while len(seen) < nth:
        assert copies.running(copy), "the call ended before it could be killed"
        seen |= set(bench.runs.glob("jobs/*/checkpoint.pt"))
        time.sleep(0.005)
    os.kill(copy, signal.SIGKILL)
    assert copies.wait(copy) == -signal.SIGKILL


@pytest.mark.slow(75)
def test_kill_9_and_the_same_command_give_the_numbers_of_an_undisturbed_run(
    bench: Bench, other: Bench
) -> None:
    call = bench.call(*CONFIRMED, **CALL)
    bench.run(call)
    with Copies() as copies:
        kill_at_checkpoint(copies, other, 2)
        done = {r.run_id for r in other.tracker.find(kind="job", status="FINISHED")}
        for nth in (3, 6, 6, 6):  # in the searches, in their confirmations, in the tuned repetitions
            kill_at_checkpoint(copies, other, nth)
    other.run(call)
    assert done
    assert done <= {r.run_id for r in other.tracker.find(kind="job", status="FINISHED")}
    assert results(other.tracker) == results(bench.tracker)
    searches = [searched(b) for b in (bench, other)]
    assert searches[0] == searches[1]
    assert [len(s["confirmation"]["seeds"]) for s in searches[0]] == [3, 3]
    assert set(times_done(other.tracker.find(kind="job")).values()) == {1}, (
        "an interrupted job got a second run"
    )
    for run in other.tracker.find(kind="job", status="FINISHED"):
        steps = [step for step, _ in other.tracker.history(run.run_id, "val/hm")]
        assert steps == list(range(len(steps)))


def searched(bench: Bench) -> list[dict[str, Any]]:
    """The result of each search."""
    methods = sorted(bench.tracker.find(kind="method"), key=lambda run: run.name)
    return [bench.tracker.read_json(run.run_id, Artifact.TUNING) for run in methods]


@pytest.mark.slow(75)
def test_two_calls_at_once_share_the_work(bench: Bench, tmp_path: Path) -> None:
    runs = tmp_path / "both"  # both make the stores, too
    with Copies() as copies:
        both = [start(copies, runs, bench.data) for _ in range(2)]
        assert [copies.wait(copy) for copy in both] == [0, 0]
    jobs = Tracker(sqlite_uri(runs / "mlflow.db"), runs / "artifacts").find(kind="job")
    assert set(times_done(jobs).values()) == {1}
    assert any(r.tags.get("outcome") == "pruned" for r in jobs), "no trial was pruned: choose another seed"
    assert {r.status for r in jobs if r.tags.get("outcome") != "pruned"} == {"FINISHED"}


def test_a_pruned_trial_that_the_study_does_not_know_of_yet_goes_on_in_its_run(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = bench.call(*PRUNING, methods="cjme", trials=4)
    bench.run(call)
    tell = tuning._tell

    def stopped(study: Any, number: int, value: float | None = None, state: Any = None) -> None:
        if value is None:
            raise KeyboardInterrupt
        tell(study, number, value, state)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "_tell", stopped)
        with pytest.raises(KeyboardInterrupt):
            other.run(call)
    other.run(call)
    assert times_done(other.tracker.find(kind="job")) == times_done(bench.tracker.find(kind="job"))
    assert set(times_done(other.tracker.find(kind="job")).values()) == {1}
    assert any(r.tags.get("outcome") == "pruned" for r in other.tracker.find(kind="job")), (
        "nothing was pruned"
    )


def test_a_trial_that_kills_its_process_fails_and_the_search_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the engines do with a search whose process died three times."""
    call = bench.call(methods="cjme", trials=3)
    plan = bench.plan(call)
    with monkeypatch.context() as patch:
        patch.setattr(bench.display, "start", lambda title, *sizes: exit_in(title, "trial 1"))
        with pytest.raises(KeyboardInterrupt):
            bench.run(call)
    (run,) = [r for r in bench.tracker.find(kind="job") if r.tags.get("trial") == "1"]
    bench.tracker.reopen(run.run_id)  # as a killed process leaves it
    search = Search(0, parent=run.parent or "")
    assert bench.runner.lost(plan, search, "its process died (3 times)") is None, "the search is to go on"
    assert bench.tracker.get(run.run_id).status == "FAILED"
    assert bench.tracker.get(run.run_id).tags["error"] == "its process died (3 times)"
    ended = bench.runner.lost(plan, search, "its process died (3 times)")
    assert ended is not None, "no trial is to blame now"
    assert [e.state for e in ended.entries] == ["failed"]
    result = bench.run(call)
    assert not result.failed
    assert [(s.complete + s.pruned, s.failed) for s in result.studies] == [(3, 1)]


def exit_in(title: str, part: str) -> None:
    if part in title:
        raise KeyboardInterrupt


def test_a_call_of_which_all_is_done_asks_no_engine(bench: Bench) -> None:
    class NoEngine:
        def run(self, tasks: object, then: object) -> None:
            raise AssertionError("nothing is left to do")

    call = bench.call(methods="cjme", trials=2)
    before = bench.run(call)
    bench.display.outcomes.clear()
    again = bench.runner.run(bench.plan(call), NoEngine())
    assert [e.job_key for e in again.entries] == [e.job_key for e in before.entries]
    assert {e.state for e in again.entries} == {o.state for o in bench.display.outcomes} == {"reused"}
    assert again.studies == before.studies


def test_a_lost_result_is_computed_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(bench.call(methods="cjme", stages="1"))
    run = bench.tracker.find(kind="job")[0]
    folder = urlparse(bench.tracker.client.get_run(run.run_id).info.artifact_uri).path
    (Path(folder) / "result.json").unlink()
    bench.display.outcomes.clear()
    assert not bench.run(bench.call(methods="cjme", stages="1")).failed
    assert [o.state for o in bench.display.outcomes] == ["done"]


def test_a_job_killed_before_it_was_described_is_described_when_it_goes_on(bench: Bench) -> None:
    job = bench.units(bench.call(methods="cjme"))[0].job(1, 0)
    bench.tracker.start("half a run", {"kind": "job", "job_key": job.key})
    bench.run(bench.call(methods="cjme", stages="1"))
    (run,) = bench.tracker.find(kind="job")
    assert run.params["train.batch_size"] == "16"


def test_editing_code_while_jobs_run_does_not_rename_them(bench: Bench, tmp_path: Path) -> None:
    units = bench.units(bench.call(methods="cjme"))
    before = units[0].job(1, 0).key
    assert code_version(units[0].method) is code_version(units[0].method)
    assert units[0].job(1, 0).key == before


def test_a_killed_job_goes_on_at_its_epoch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(epoch: int, batch: int, loss: float) -> None:
        if (epoch, batch) == (2, 1):
            raise Killed

    monkeypatch.setattr(bench.display, "batch", die)
    with pytest.raises(Killed):
        bench.run(bench.call(methods="cjme"))
    trained = []
    monkeypatch.setattr(bench.display, "batch", lambda epoch, batch, loss: trained.append((epoch, batch)))
    result = bench.run(bench.call(methods="cjme", stages="1"))
    assert not result.failed
    assert trained == [(2, i) for i in range(4)]


def test_sequence_methods_refuse_a_store_of_means(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = bench.units(bench.call(methods="tcaf"))[0]
    monkeypatch.setattr(type(unit.store), "_read_header", _without_frames(type(unit.store)._read_header))
    with pytest.raises(UsageError, match=r"TCAF needs sequences.*data import synthetic"):
        bench.units(bench.call(methods="tcaf"))
    assert bench.units(bench.call(methods="avca"))


def _without_frames(read):  # type: ignore[no-untyped-def]
    def wrapped(self, f):  # type: ignore[no-untyped-def]
        read(self, f)
        self.has_sequences = False

    return wrapped


def test_tiny_settings_fit_all_methods(bench: Bench) -> None:
    assert len(bench.units(bench.call(methods="all"))) >= 6
    assert TINY
