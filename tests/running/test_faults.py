"""What goes wrong around jobs: damaged checkpoints, full disks, servers that go away, memory that runs out.
Nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from mlflow import MlflowClient, MlflowException
from mlflow.entities import Metric
from requests.exceptions import ConnectionError as NoConnection
from support.commands import PROJECT, free_port, tiny_arguments, trainers
from support.tiny import Bench, need, results

from benchmark.cli.app import main
from benchmark.errors import Unavailable, UsageError
from benchmark.method import EpochRecord, Method
from benchmark.protocol.training import CHECKPOINT, PREVIOUS
from benchmark.running.jobs import Plan
from benchmark.running.scheduler import WorkerSpec
from benchmark.running.status import Existing, plan_states
from benchmark.running.studies import study_of
from benchmark.system import databases, patience
from benchmark.system.databases import is_unavailable, sqlite_uri
from benchmark.system.patience import patiently
from benchmark.tracking.tracker import Tracker
from benchmark.tuning import study as tuning
from benchmark.tuning.study import open_storage

EPOCHS = "train.epochs=5"


class Stopped(Exception):
    """The process ends here."""


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses and little patience."""
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv(patience.VARIABLE, "0.5")


def stop_after(bench: Bench, monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Run a call that ends without any farewell after an epoch of its first job."""

    def end(record: EpochRecord) -> None:
        if record.epoch == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench.display, "epoch", end)
        with pytest.raises(KeyboardInterrupt):
            bench.run(bench.call(EPOCHS, methods="avca"))


def truncate(file: Path) -> None:
    with open(file, "r+b") as f:
        f.truncate(file.stat().st_size // 2)


def flip(file: Path) -> None:
    """Change a byte in the middle of the file, which is in a tensor."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def test_a_damaged_checkpoint_is_told_and_an_earlier_one_gives_the_same_numbers(
    bench: Bench, other: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    bench.run(bench.call(EPOCHS, methods="avca"))
    stop_after(other, monkeypatch, epoch=2)
    interrupted = shutil.copytree(other.runs, tmp_path / "interrupted")
    for files, damage in (
        ([CHECKPOINT], truncate),
        ([CHECKPOINT], flip),
        ([CHECKPOINT], empty),
        ([CHECKPOINT, PREVIOUS], truncate),
    ):
        with subtests.test(files=files, damage=damage.__name__):
            shutil.rmtree(other.runs)
            shutil.copytree(interrupted, other.runs)
            again = Bench(Tracker(other.tracker.uri, other.tracker.artifacts), other.runs, other.data)
            for file in files:
                (found,) = other.runs.glob(f"jobs/*/{file}")
                damage(found)
            said: list[str] = []
            monkeypatch.setattr(again.display, "say", said.append)
            assert not again.run(again.call(EPOCHS, methods="avca")).failed
            assert f"{CHECKPOINT} cannot be read" in said[0]
            assert len(said) == len(files)
            assert results(again.tracker) == results(bench.tracker)
            assert not list(other.runs.glob("jobs/*/checkpoint*"))


def test_a_full_disk_is_waited_for(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    bench.run(bench.call(EPOCHS, methods="avca"))
    written, write = [0], Path.write_bytes

    def full(self: Path, data: Any) -> int:
        written[0] += 1
        if "checkpoint" in self.name and written[0] % 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert not other.run(other.call(EPOCHS, methods="avca")).failed
    assert results(other.tracker) == results(bench.tracker)


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_call_and_loses_nothing(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    bench.run(bench.call(EPOCHS, methods="avca"))
    written, write = [0], Path.write_bytes

    def full(self: Path, data: Any) -> int:
        written[0] += 1
        if written[0] > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(
            Unavailable, match=r"cannot be written \(.*No space left.*the same command continues"
        ):
            other.run(other.call(EPOCHS, methods="avca"))
    assert not other.run(other.call(EPOCHS, methods="avca")).failed, "a full disk is no failure of the job"
    assert results(other.tracker) == results(bench.tracker)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow.db", "optuna.db"])
def test_a_database_file_that_is_gone_is_waited_for(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As where a file system is unmounted for a while: the file is put back as it was."""
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    bench.run(bench.call(EPOCHS, methods="avca", trials=2))
    file, aside = other.runs / name, other.runs / "aside.db"
    timers: list[threading.Timer] = []

    def vanish(record: EpochRecord) -> None:
        if len(other.display.epochs) == 8:  # in the second trial
            file.rename(aside)
            timers.append(threading.Timer(1.0, lambda: aside.rename(file)))
            timers[0].start()
        other.display.epochs.append(record)

    monkeypatch.setattr(other.display, "epoch", vanish)
    assert not other.run(other.call(EPOCHS, methods="avca", trials=2)).failed
    timers[0].join()
    assert results(other.tracker) == results(bench.tracker)


@pytest.mark.parametrize("name", ["mlflow.db", "optuna.db"])
def test_a_database_file_that_stays_away_ends_the_call_by_name_and_nothing_is_made_in_its_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, hasty: None, name: str
) -> None:
    file = bench.runs / name
    monkeypatch.setattr(bench.display, "epoch", lambda record: file.unlink(missing_ok=True))
    with pytest.raises(Unavailable, match=rf"No such file or directory: .*{name}"):
        bench.run(bench.call(EPOCHS, methods="avca", trials=2))
    assert not file.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow.db", "optuna.db"])
def test_a_locked_database_is_waited_for(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        tuning, "LOCK_SECONDS", 0.1
    )  # Optuna's connections give up immediately; MLflow's wait for 20 seconds
    call = bench.call(EPOCHS, methods="avca", trials=2)
    expected = bench.run(call)
    seconds, locked = 1.5, list[float]()
    timers: list[threading.Timer] = []

    def lock(record: EpochRecord) -> None:
        if len(other.display.epochs) == 8:  # in the second trial
            connection = sqlite3.connect(other.runs / name, isolation_level=None, check_same_thread=False)
            connection.execute("BEGIN EXCLUSIVE")
            locked.append(time.monotonic())
            timers.append(threading.Timer(seconds, connection.close))
            timers[0].start()
        other.display.epochs.append(record)

    monkeypatch.setattr(other.display, "epoch", lock)
    found = other.run(call)
    assert time.monotonic() - locked[0] >= seconds, "nothing was written meanwhile"
    timers[0].join()
    assert not found.failed
    assert results(other.tracker) == results(bench.tracker)
    assert found.studies == expected.studies
    for key, run in bench.tracker.by_job_key(results(bench.tracker)).items():
        again = other.tracker.by_job_key([key])[key]
        assert other.tracker.history(again.run_id, "val/hm") == bench.tracker.history(run.run_id, "val/hm")


def test_a_database_file_that_is_replaced_is_opened_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a backup is put back."""
    file, copy = bench.runs / "mlflow.db", bench.runs / "copy.db"

    def replace(record: EpochRecord) -> None:
        if record.epoch == 2:
            with (
                contextlib.closing(sqlite3.connect(file)) as source,
                contextlib.closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
            copy.rename(file)
            for rest in ("-wal", "-shm"):
                Path(f"{file}{rest}").unlink(missing_ok=True)

    monkeypatch.setattr(bench.display, "epoch", replace)
    assert not bench.run(bench.call(EPOCHS, methods="avca")).failed
    fresh = Tracker(bench.tracker.uri, bench.tracker.artifacts)
    assert results(fresh) == results(bench.tracker)
    assert len(results(fresh)) == 2


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=False, capture_output=True
    )
    if mounted.returncode:
        need("no right to mount a small file system")
    try:
        other = Bench(Tracker(sqlite_uri(small / "mlflow.db"), small / "artifacts"), small, bench.data)
        ballast = small / "ballast"
        with pytest.raises(OSError, match="space"):
            ballast.write_bytes(bytes(64 * 2**20))
        timer = threading.Timer(8, ballast.unlink)
        timer.start()
        started = time.monotonic()
        assert not other.run(other.call(EPOCHS, methods="avca,cjme")).failed
        assert time.monotonic() - started > 7, "it went on although the disk was full"
        timer.join()
        bench.run(bench.call(EPOCHS, methods="avca,cjme"))
        assert results(other.tracker) == results(bench.tracker)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_epochs_are_kept_while_the_store_is_away_and_sent_later(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(bench.call(EPOCHS, methods="cjme", stages="1"))
    log_metrics, tried = other.tracker.log_metrics, []

    def away(run_id: str, metrics: Any, step: int = 0, *, wait: bool = True) -> None:
        if not wait:
            tried.append(step)
            if len(tried) < 4:
                raise Unavailable("the store is away")
        log_metrics(run_id, metrics, step, wait=wait)

    monkeypatch.setattr(other.tracker, "log_metrics", away)
    assert not other.run(other.call(EPOCHS, methods="cjme", stages="1")).failed
    assert tried[:4] == [0, 0, 0, 0], "the first epoch is tried again with each later one"
    histories = [b.tracker.history(b.tracker.find(kind="job")[0].run_id, "val/hm") for b in (bench, other)]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 5


def test_a_result_that_cannot_be_read_for_now_is_not_taken_for_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.run(bench.call(EPOCHS, methods="cjme"))
    before = [run.run_id for run in bench.tracker.find(kind="job")]

    def away(*_: object) -> str:
        raise Unavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(bench.tracker, "read_text", away)
        with pytest.raises(Unavailable, match="the store is away"):
            bench.run(bench.call(EPOCHS, methods="cjme"))
    assert [run.run_id for run in bench.tracker.find(kind="job")] == before, (
        "a finished job was started again"
    )


def test_an_answer_that_breaks_off_counts_as_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is killed while it answers: MLflow wraps what its HTTP library says of it."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"
            )
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(
                65536
            ):  # closing with a part of the request unread would reset the connection
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        with pytest.raises(MlflowException, match="IncompleteRead") as caught:
            MlflowClient(f"http://127.0.0.1:{listener.getsockname()[1]}").log_batch(
                "1", metrics=[Metric("m", 1.0, 0, 0)]
            )
        thread.join()
    assert is_unavailable(caught.value)


def test_a_run_whose_creation_was_not_answered_is_created_once(
    hasty: None, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, lost = bench.tracker.client.create_run, []

    def unanswered(*arguments: Any, **options: Any) -> Any:
        made = create(*arguments, **options)
        if not lost:
            lost.append(made.info.run_id)
            raise NoConnection("the answer was lost")
        return made

    monkeypatch.setattr(bench.tracker.client, "create_run", unanswered)
    assert bench.tracker.start("one", {}) == lost[0]
    assert bench.tracker.start("two", {}) != lost[0]
    assert len(bench.tracker.find()) == 2


def test_an_experiment_that_another_process_made_at_the_same_moment_is_taken(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, looks = MlflowClient.get_experiment_by_name, []

    def too_early(self: MlflowClient, name: str) -> Any:
        looks.append(name)
        return find(self, name) if len(looks) > 1 else None

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", too_early)
    assert Tracker(tracker.uri, tracker.artifacts).experiment_id == tracker.experiment_id


def test_patience_ends(hasty: None) -> None:
    def away() -> None:
        raise ConnectionError("nobody there")

    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"the server is away \(nobody there\); waited 0 s"):
        patiently(away, lambda error: True, "the server is away")
    assert 0.5 <= time.monotonic() - started < 5
    with pytest.raises(ConnectionError):
        patiently(away, lambda error: False, "the server is away")


def test_patience_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(patience.VARIABLE, "long")
    with pytest.raises(UsageError, match="GZSL_PATIENCE=long: give seconds"):
        patience.patience()


def test_out_of_memory_fails_the_trial_with_its_settings_and_the_study_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = bench.call("train.epochs=1", methods="avgzslnet", trials=4)
    units = bench.units(call)
    method, loss = units[0].method, units[0].method.loss

    def hungry(self: Method, *arguments: Any) -> Any:
        if self.config.margin > 1.1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return loss(self, *arguments)

    monkeypatch.setattr(method, "loss", hungry)
    result = bench.runner.run(Plan(call, units))
    failed = bench.tracker.find(kind="job", variant="trial", status="FAILED")
    assert failed, "no trial drew a large margin: choose another seed"
    assert all(float(run.params["avgzslnet.margin"]) > 1.1 for run in failed)
    assert all("out of memory" in run.tags["error"] for run in failed)
    (study,) = result.studies
    assert (study.complete + study.pruned, study.failed) == (4, len(failed))


def test_status_tells_running_from_interrupted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(bench, monkeypatch, epoch=1)
    plan = bench.plan(bench.call(EPOCHS, methods="avca"))

    def states() -> list[str]:
        return [s.state for s in plan_states(plan, Existing(bench.tracker, bench.stores.storage, bench.runs))]

    assert states() == ["interrupted", "not run"]
    with FileLock(bench.runs / "jobs" / f"{plan.units[0].job(1, 0).key}.lock"):
        assert states() == ["running", "not run"]


@contextmanager
def server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real MLflow server; its whole process group is killed at the end."""
    program = Path(sys.executable).with_name("mlflow")
    backend = [
        "--backend-store-uri",
        sqlite_uri(folder / "served.db"),
        "--artifacts-destination",
        str(folder / "served"),
    ]
    command = [str(program), "server", *backend, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    log = open(folder / "server.log", "ab")  # noqa: SIM115 - closed below, after the process
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "server.log").read_text()
            time.sleep(0.1)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log.close()


@pytest.mark.slow(190)
def test_a_tracking_server_that_goes_away_loses_nothing(
    bench: Bench, other: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a call, back after a while.

    Two processes work meanwhile, are killed too, and others start.
    """
    longer = ["train.epochs=8", "train.batches_per_epoch=12"]
    bench.run(bench.call(*longer, methods="cjme,avca", trials=2))
    port = free_port()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("GZSL_TRACKING_URI", f"http://127.0.0.1:{port}")
    options = ["--methods", "cjme,avca", "--trials", "2", "--jobs", "2", *(f"--set={x}" for x in longer)]
    words = [sys.executable, str(PROJECT / "run_benchmark.py"), *tiny_arguments(other, *options)]
    with server(tmp_path, port):
        Tracker(f"http://127.0.0.1:{port}", tmp_path / "unused")
        child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        while len(list(other.runs.glob("jobs/*/best.pt"))) < 2:
            assert child.poll() is None
            time.sleep(0.05)
    time.sleep(3)  # the server is gone
    workers = trainers(child, other.runs)
    assert workers, "nobody works"
    for worker in workers:
        worker.kill()
    time.sleep(20)
    assert child.poll() is None, "the call did not outlive the server"
    with server(tmp_path, port):
        _, told = child.communicate(timeout=600)
        assert child.returncode == 0, told
        assert "does not answer" in told
        assert results(Tracker(f"http://127.0.0.1:{port}", tmp_path / "unused")) == results(bench.tracker)


@pytest.mark.parametrize("name", ["mlflow.db", "optuna.db"])
def test_a_process_that_starts_while_a_database_file_is_gone_waits_for_it_and_makes_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.01)
    call = bench.call(methods="cjme", trials=1)
    units = bench.units(call)
    place = WorkerSpec.of(bench.runner, bench.plan(call), bench.data)
    open_storage(bench.stores.storage)
    monkeypatch.setattr(databases, "_known", set())  # as in a new process
    file, aside, made = bench.runs / name, bench.runs / "aside.db", list[bool]()

    def put_back() -> None:
        made.append(file.exists())
        aside.rename(file)

    file.rename(aside)
    timer = threading.Timer(1.0, put_back)
    timer.start()
    worker = place.worker(bench.display)
    assert (worker.stores.tracker.find(), study_of(units[0], worker.stores.storage).finished_trials()) == (
        [],
        0,
    )
    timer.join()
    assert made == [False], "an empty file was made in its place"


def test_a_process_that_starts_while_the_server_is_away_does_not_take_it_for_a_wrong_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        Unavailable, match=r"tracking store http://127.0.0.1:9 does not answer \(.*refused.*waited 0 s"
    ):
        Tracker.waiting("http://127.0.0.1:9", tmp_path)


@pytest.mark.slow
def test_an_unreachable_server_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    with pytest.raises(SystemExit) as stop:
        main(["report", "--tracking-uri", "http://127.0.0.1:9", "--runs-dir", str(tmp_path)])
    assert stop.value.code == 2
    assert "--tracking-uri http://127.0.0.1:9: cannot be opened" in "".join(capsys.readouterr())
    assert time.monotonic() - started < 60
