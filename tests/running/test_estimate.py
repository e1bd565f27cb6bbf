"""The expected time of a benchmark run: what is left is counted, and a training takes about as long."""

from __future__ import annotations

import time

from support.tiny import Bench

from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.estimate import expected, measure
from benchmark.running.status import Existing

LONG = ["train.epochs=3", "train.batches_per_epoch=60"]


def left(bench: Bench, call: BenchmarkRun) -> list[int]:
    found, _ = expected(bench.plan(call), Existing(bench.tracker, bench.stores.storage, bench.runs))
    return [e.trainings for e in found]


def test_jobs_and_trials_that_are_not_done_count(bench: Bench) -> None:
    call = bench.call(methods="cjme,avgzslnet", seeds=2)
    assert left(bench, call) == [4, 4]
    bench.run(bench.call(methods="cjme", seeds=1))
    assert left(bench, call) == [2, 4]
    assert left(bench, bench.call(methods="cjme", seeds=1, trials=3)) == [3 + 2]
    # 3 trials, each again with 3 seeds, of which trial 0 has one already, and the tuned stage 2
    confirmed = bench.call("tuning.confirm=3", methods="cjme", seeds=1, trials=3)
    assert left(bench, confirmed) == [3 + 3 * 3 - 1 + 1]
    bench.run(call)
    assert left(bench, call) == []


def test_a_training_takes_about_the_time_that_is_expected(bench: Bench) -> None:
    call = bench.call(*LONG, methods="avca", stages="1")
    (unit,) = bench.units(call)
    batch, training = measure(unit)
    assert training > 3 * 60 * batch
    started = time.perf_counter()
    bench.run(call)
    assert 0.1 < (time.perf_counter() - started) / training < 10
