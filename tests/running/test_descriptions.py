"""What people find in MLflow's pages: names, descriptions, the metrics of methods."""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml
from scipy import stats
from support.tiny import Bench

from benchmark.report.write import write_report
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.descriptions import FIRST, Means, command_of
from benchmark.tracking.schema import Tag


def test_a_call_its_methods_and_jobs_say_what_they_are_what_came_out_and_how_to_repeat_it(
    bench: Bench,
) -> None:
    result = bench.run(bench.call(methods="cjme,avgzslnet", seeds=2, trials=2))
    (call,), methods = bench.tracker.find(kind="benchmark_run"), bench.tracker.find(kind="method")
    jobs = bench.tracker.find(kind="job")

    assert call.name.startswith("synthetic · cjme,avgzslnet · paper · 20")
    assert "python run_benchmark.py" in call.tags[Tag.DESCRIPTION]
    assert all(method.run_id in call.tags[Tag.DESCRIPTION] for method in methods)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for method in methods:
        assert sorted(method.metrics)[0] == "1 HM"
        means = {name: f"{100 * method.metrics[name]:.2f}" for name in FIRST.values()}
        assert all(f"| {value} (" in method.tags[Tag.DESCRIPTION] for value in means.values())
        assert all(value in call.tags[Tag.DESCRIPTION] for value in means.values())
        assert method.metrics["1 HM"] == method.metrics["test/hm"]
    for job in jobs:
        assert "--config config.yaml" in job.tags[Tag.DESCRIPTION]
        assert ("Result" in job.tags[Tag.DESCRIPTION]) == (job.status == "FINISHED")
    assert not result.failed


def test_the_configuration_of_a_job_gives_the_job(bench: Bench) -> None:
    bench.run(bench.call(methods="cjme"))
    for job in bench.tracker.find(kind="job"):
        call = BenchmarkRun.model_validate(yaml.safe_load(bench.tracker.read_text(job.run_id, "config.yaml")))
        (unit,) = bench.units(call)
        assert unit.job(int(job.tags["stage"]), 0).key == job.tags["job_key"]  # type: ignore[arg-type]


def test_a_call_is_written_as_the_command_that_repeats_it() -> None:
    call = BenchmarkRun(
        methods="tcaf", dataset="ucf", trials=3, settings=["tcaf.lr=0.1"], ablate=["a", "b"], in_memory=True
    )
    words = shlex.split(command_of(call))
    assert words[:3] == ["python", "run_benchmark.py", "run"]
    assert words[3:] == [
        "--methods", "tcaf", "--datasets", "ucf", "--trials", "3", "--set", "tcaf.lr=0.1",
        "--ablate-protocol", "a,b",
        "--in-memory",
    ]  # fmt: skip


def test_means_over_seeds_have_a_range_where_there_are_two_and_an_interval_where_there_are_five() -> None:
    assert Means.of([{"test/hm": 0.25}]).text("test/hm") == "25.00"
    assert Means.of([{"test/hm": 0.35}, {"test/hm": 0.25}]).text("test/hm") == "30.00 (25.00 to 35.00)"
    five = [0.2, 0.25, 0.3, 0.35, 0.4]
    low, high = stats.t.interval(0.95, 4, 30, 100 * stats.sem(five))
    text = Means.of([{"test/hm": value} for value in five]).text("test/hm")
    assert text == f"30.00 ± {30 - low:.2f}" == f"30.00 ± {high - 30:.2f}" == "30.00 ± 9.82"
    assert Means.of([{"test/hm": 0.25}, {}]).text("test/hm") == ""


def test_files_of_a_report_become_artifacts_of_its_call(bench: Bench, tmp_path: Path) -> None:
    result = bench.run(bench.call(methods="cjme"))
    report = write_report(bench.tracker, tmp_path / "report", [result.run_id])
    bench.tracker.log_files(result.run_id, report.files, "report")
    logged = {Path(a.path).name for a in bench.tracker.client.list_artifacts(result.run_id, "report")}
    assert {"report.md", "gzsl.csv"} <= logged == {f.name for f in report.files}
