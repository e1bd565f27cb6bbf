"""A cluster gives the numbers of one process, whatever is lost meanwhile: a worker, a machine, the command,
the SLURM job."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import demo_report
import pandas as pd
import psutil
import pytest
from support.commands import PROJECT, command, free_port, tiny_arguments, trainers
from support.slurm import missing_programs, one_node_slurm
from support.tiny import LONGER, Bench, need, results

from benchmark.cli import app
from benchmark.errors import UsageError
from benchmark.running.scheduler import WorkerSpec

THREE = ["cjme", "avca", "linear"]
OPTIONS = ("--methods", "cjme,avgzslnet", "--seeds", "2", *(f"--set={s}" for s in LONGER))
BIN = Path(sys.executable).parent
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@pytest.fixture
def cluster() -> ModuleType:
    """The module of Ray, where the extra is installed."""
    try:
        from benchmark.running import cluster
    except UsageError as error:
        need(str(error))
    return cluster


def assert_undisturbed(bench: Bench, undisturbed: dict[str, Any]) -> None:
    """Fail unless the record has the jobs of ``OPTIONS``, each once and with the numbers of one process."""
    found = results(bench.tracker)
    assert len(found) == 8
    assert found == {key: undisturbed[key] for key in found}


def wait_for_a_checkpoint(bench: Bench, process: subprocess.Popen[str]) -> None:
    while not list(bench.runs.glob("jobs/*/checkpoint.pt")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def test_without_ray_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "benchmark.running.cluster", raising=False)
    monkeypatch.delattr("benchmark.running.cluster", raising=False)
    with pytest.raises(SystemExit) as stopped:
        app.main(["run", "--dataset", "synthetic", "--executor", "ray", "--runs-dir", str(tmp_path)])
    assert stopped.value.code == 2
    assert "pip install -c constraints.txt -e '.[cluster]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["--ray-address=head:6379", "--gpus-per-job=0.5"])
def test_options_of_ray_without_ray_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app.main(["run", "--dataset", "synthetic", option])
    assert stopped.value.code == 2
    assert "needs --executor ray" in capsys.readouterr().err


def test_a_job_on_cuda_gets_a_gpu_and_one_on_the_cpu_none(cluster: ModuleType) -> None:
    share = cluster.gpu_share
    assert share(None, on_cuda=True, free_choice=True, has_gpus=True) == 1
    assert share(0.25, on_cuda=True, free_choice=True, has_gpus=True) == 0.25
    assert share(None, on_cuda=False, free_choice=True, has_gpus=False) == 0
    assert share(None, on_cuda=False, free_choice=False, has_gpus=True) == 0
    assert share(0, on_cuda=False, free_choice=True, has_gpus=True) == 0


def test_a_device_that_the_workers_would_choose_otherwise_is_refused(cluster: ModuleType) -> None:
    for wanted, on_cuda in [(None, False), (1.0, False), (0.0, True)]:
        with pytest.raises(UsageError, match=r"train\.device=cpu"):
            cluster.gpu_share(wanted, on_cuda=on_cuda, free_choice=True, has_gpus=True)


def test_as_many_jobs_fit_as_cpus_and_gpus_allow(cluster: ModuleType) -> None:
    assert cluster.Share(2, 0).fits({"CPU": 7.0}) == 3
    assert cluster.Share(1, 0.1).fits({"CPU": 64.0, "GPU": 3.0}) == 30
    assert cluster.Share(1, 1).fits({"CPU": 64.0}) == 0


@pytest.fixture
def place(bench: Bench) -> WorkerSpec:
    call = bench.call(methods="cjme")
    return WorkerSpec.of(bench.runner, bench.plan(call), bench.data)


def test_sqlite_files_are_refused_where_several_machines_work(cluster: ModuleType, place: WorkerSpec) -> None:
    cluster.check_storages(place, {"a"}, tunes=True)
    with pytest.raises(UsageError, match=r"--tracking-uri .* and --storage .* 2 \(a, b\)"):
        cluster.check_storages(place, {"a", "b"}, tunes=True)
    served = replace(place, tracking_uri="http://head:5000")
    cluster.check_storages(served, {"a", "b"}, tunes=False)
    with pytest.raises(UsageError, match="--storage"):
        cluster.check_storages(served, {"a", "b"}, tunes=True)


def test_an_address_where_nothing_listens_is_told_in_bounded_time(
    cluster: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "WAIT_SECONDS", 0.5)
    said: list[str] = []
    with pytest.raises(UsageError, match=r"--ray-address .* no cluster is there .*ray start --head"):
        cluster._await_cluster(f"127.0.0.1:{free_port()}", said.append)
    assert len(said) == 1


@pytest.mark.slow(150)
def test_the_demo_on_a_cluster_whose_worker_is_killed_gives_a_complete_report(
    cluster: ModuleType, bench: Bench
) -> None:
    """Three methods of the demo with five seeds and smaller trainings."""
    small = [
        "--dataset",
        "demo",
        "--methods",
        ",".join(THREE),
        "--seeds",
        "5",
        "--trials",
        "5",
        "--set=train.epochs=1",
        "--set=train.batches_per_epoch=4",
    ]
    with command(
        bench, *small, "--executor", "ray", "--ray-address", "local", "--jobs", "2", **TOKEN
    ) as process:
        wait_for_a_checkpoint(bench, process)
        while len(alive := trainers(process, bench.runs)) < 2:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        alive[0].kill()
        output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "its worker was lost" in output
    assert "its task is tried again" in output
    results(bench.tracker)  # no job twice
    report = bench.runs / "reports" / "demo"
    tables = {name: pd.read_csv(report / f"{name}.csv") for name in ("gzsl", "zsl")}
    for table in tables.values():
        assert sorted(table.loc[table["settings"] != "tuned", "method"]) == sorted(THREE)
        assert (table["seeds"] == 5).all()
    assert len(pd.read_csv(report / "tuning.csv")) == len(THREE)
    assert "over 5 seeds" in (report / "report.md").read_text()
    assert "Failed or not run" not in (report / "report.md").read_text()
    demo_report.check(report)


@pytest.mark.slow(200)
def test_a_lost_command_goes_on_when_started_again_and_a_lost_machine_has_its_work_done_elsewhere(
    cluster: ModuleType, other: Bench, undisturbed: dict[str, Any]
) -> None:
    with ray_machines(cpus=[0, 1, 1]) as (address, machines):
        options = [*OPTIONS, "--executor", "ray", "--ray-address", address]
        with command(other, *options, **TOKEN) as process:
            wait_for_a_checkpoint(other, process)
            process.kill()
        while any(
            trainers(machine, other.runs) for machine in machines
        ):  # of the lost command: Ray ends them after a while
            time.sleep(0.2)
        with command(other, *options, **TOKEN) as process:
            while not (busy := [m for m in machines[1:] if trainers(m, other.runs)]):
                assert process.poll() is None, process.communicate()[0]
                time.sleep(0.1)
            kill_tree(busy[0])
            output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "its task is tried again" in output
    assert_undisturbed(other, undisturbed)


@contextmanager
def ray_machines(cpus: list[int]) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """The address of a Ray cluster of several "machines" here, started as in docs/how-to/cluster.md, and
    their processes."""
    address, machines = f"127.0.0.1:{free_port()}", list[subprocess.Popen[str]]()
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short, for the sake of the sockets in it
    try:
        for count in cpus:
            if not machines:
                where = [
                    "--head",
                    f"--port={address.split(':')[1]}",
                    "--include-dashboard=false",
                    f"--temp-dir={folder}",
                ]
            else:
                where = [f"--address={address}"]
            words = [
                str(BIN / "ray"),
                "start",
                *where,
                f"--num-cpus={count}",
                "--num-gpus=0",
                "--disable-usage-stats",
                "--block",
            ]
            log = folder / f"machine-{len(machines)}.log"
            with log.open("w") as f:
                machines.append(
                    subprocess.Popen(words, stdout=f, stderr=f, text=True, env={**os.environ, **TOKEN})
                )
            while (
                "Ray runtime started" not in log.read_text()
            ):  # one after the other: each has 30 seconds, says Ray
                assert machines[-1].poll() is None, log.read_text()
                time.sleep(0.2)
        yield address, machines
    finally:
        for machine in machines:
            kill_tree(machine)
        shutil.rmtree(folder, ignore_errors=True)


def kill_tree(process: subprocess.Popen[str]) -> None:
    """Kill a process and all below it."""
    if process.poll() is None:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            child.kill()
        process.wait()


@pytest.mark.slow(100)
def test_a_slurm_job_that_is_killed_and_requeued_completes_with_the_undisturbed_numbers(
    cluster: ModuleType, other: Bench, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    if missing := missing_programs():
        need(f"{', '.join(missing)}: not installed; apt-get install slurm-wlm munge")
    script, log = PROJECT / "examples" / "slurm.sbatch", tmp_path / "job.log"
    env = {"PATH": f"{BIN}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", **TOKEN}
    one_node = ["--nodes=1", "--cpus-per-task=2", "--gpus-per-node=0", f"--output={log}"]
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    try:
        with one_node_slurm(folder, cpus=2) as slurm:
            words = [
                "sbatch",
                "--parsable",
                *one_node,
                str(script),
                *tiny_arguments(other, *OPTIONS)[1:],
            ]  # the script says run
            number = slurm.command(*words, cwd=PROJECT, **env)
            while not list(other.runs.glob("jobs/*/checkpoint.pt")):
                assert slurm.job(number)["JobState"] in ("PENDING", "CONFIGURING", "RUNNING"), (
                    log.read_text() + slurm.logs()
                )
                time.sleep(0.2)
            slurm.command("scontrol", "requeue", number)
            assert slurm.job(number)["JobState"] in ("COMPLETING", "PENDING")
            while (job := slurm.job(number))["JobState"] in (
                "COMPLETING",
                "PENDING",
                "CONFIGURING",
                "RUNNING",
            ):
                time.sleep(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1"), log.read_text()
    assert_undisturbed(other, undisturbed)
