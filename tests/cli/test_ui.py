"""Command ``ui`` with real servers of MLflow and Optuna on a small store."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import requests
from support.commands import PROJECT, free_port
from support.reader import chromium
from support.tiny import Bench, need

from benchmark.cli.app import main
from benchmark.cli.servers import Program, ServerError, Servers, is_free
from benchmark.cli.servers import free_port as choose_port
from benchmark.cli.ui import _links_note
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.study import open_storage


def two_ports() -> int:
    """A free port whose next one is free too. The usual ports may be used by tests at the same time."""
    return next(port for port in iter(free_port, None) if is_free(port + 1))


@contextmanager
def ui(runs: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The started command. It is killed with its children if the test leaves it running."""
    words = [
        sys.executable,
        str(PROJECT / "run_benchmark.py"),
        "ui",
        "--runs-dir",
        str(runs),
        "--port",
        str(two_ports()),
        *options,
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


def addresses(process: subprocess.Popen[str]) -> dict[str, str]:
    """What ``ui --json`` prints once the servers answer."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("}"):
            break
    assert text, process.communicate()
    found: dict[str, str] = json.loads(text)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_both_pages_are_served_and_nothing_is_left_after_a_signal(
    runs: Path, tracker: Tracker, stop: int
) -> None:
    tracker.start("a benchmark run", {"kind": "benchmark_run"})
    open_storage(f"sqlite:///{runs}/optuna.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with ui(runs, "--json") as process:
            found = addresses(process)
            assert set(found) == {"MLflow", "runs", "optuna-dashboard"}
            children = psutil.Process(process.pid).children(recursive=True)
            assert len(children) >= 2
            runs_page = requests.post(
                f"{found['MLflow']}/api/2.0/mlflow/runs/search", json={"experiment_ids": ["1"]}, timeout=30
            )
            assert [run["info"]["run_name"] for run in runs_page.json()["runs"]] == ["a benchmark run"]
            assert "Optuna" in requests.get(f"{found['optuna-dashboard']}/dashboard", timeout=30).text
            process.send_signal(stop)
            _, message = process.communicate(timeout=60)
    assert process.returncode == 0, message
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_server_that_runs_already_is_named_and_none_is_started_for_it(runs: Path, tracker: Tracker) -> None:
    (runs / "optuna.db").unlink()  # without studies there is nothing to serve besides
    with ui(runs, "--json") as first:
        address = addresses(first)["MLflow"]
        with ui(runs, "--tracking-uri", address, "--json") as second:
            assert addresses(second)["MLflow"] == address
            assert second.wait(timeout=30) == 0
        assert requests.get(f"{address}/health", timeout=30).ok


@pytest.mark.slow
def test_if_one_server_dies_its_last_lines_are_shown_and_the_other_one_is_stopped(
    runs: Path, tracker: Tracker
) -> None:
    (runs / "optuna.db").write_text("this is no database")
    with ui(runs) as process:
        out, message = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "optuna-dashboard ended unexpectedly" in message
    assert "StorageInternalError" in message
    assert out == ""


def test_without_a_store_ui_explains_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["--runs-dir", str(tmp_path)], "no tracking store at"),
        (["--tracking-uri", f"http://127.0.0.1:{free_port()}"], "no MLflow server answers there"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["ui", *arguments])
        assert stop.value.code == 2
        assert message in " ".join("".join(capsys.readouterr()).split())


def test_a_taken_port_is_an_error_where_it_was_asked_for_and_avoided_where_not(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        assert choose_port(port) != port
        with pytest.raises(SystemExit) as stop:
            main(["ui", "--runs-dir", str(runs), "--port", str(port)])
    assert stop.value.code == 2
    assert f"--port: {port}" in capsys.readouterr().err


def test_a_program_that_starts_another_one_in_its_own_session_leaves_nothing_behind(tmp_path: Path) -> None:
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    start = f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    parent = f"import subprocess, sys, time; p = {start};"
    parent += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid)); time.sleep(600)"
    import benchmark.cli.servers as servers

    patience, servers.STOP_SECONDS = servers.STOP_SECONDS, 0.5
    try:
        with Servers([Program("parent", [sys.executable, "-c", parent], free_port())]):
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                time.sleep(0.05)
            time.sleep(0.2)
            pid = int((tmp_path / "pid").read_text())
    finally:
        servers.STOP_SECONDS = patience
    for _ in range(50):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the grandchild lives on")


def test_a_program_whose_port_another_one_has_is_not_taken_for_ready() -> None:
    port = free_port()
    server = f"h.HTTPServer(('127.0.0.1', {port}), h.SimpleHTTPRequestHandler)"
    serve = f"import http.server as h; {server}.serve_forever()"
    first, second = (
        Program("first", [sys.executable, "-c", serve], port),
        Program(
            "second", [sys.executable, "-c", "import time; time.sleep(2); raise SystemExit('taken')"], port
        ),
    )
    with Servers([first]) as running:
        running.wait(lambda: False, until_ready=True)
        with Servers([second]) as late, pytest.raises(ServerError, match="taken"):
            late.wait(lambda: False, until_ready=True)


def test_an_ended_program_is_reported_with_its_last_lines() -> None:
    words = [sys.executable, "-c", "print('first'); print('cause of death')"]
    with (
        Servers([Program("a server", words, free_port())]) as running,
        pytest.raises(ServerError, match="cause of death"),
    ):
        running.wait(lambda: False, until_ready=True)


@pytest.mark.slow(40)
def test_mlflows_comparison_of_the_methods_of_a_call_shows_the_metrics_that_matter_first(
    bench: Bench,
) -> None:
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(chromium())
        except (ImportError, FileNotFoundError) as missing:
            need(str(missing))
        from selenium.webdriver.support.ui import WebDriverWait

        def shows(*texts: str) -> list[str]:
            """The lines of the page once it has these texts."""
            body = "return document.body.innerText"
            WebDriverWait(browser, 90).until(
                lambda page: all(t in str(page.execute_script(body)) for t in texts)
            )
            return str(browser.execute_script(body)).splitlines()

        browser.set_window_size(1600, 1200)
        bench.run(bench.call(dataset="demo", methods="cjme,avgzslnet", trials=2, seeds=1))
        (call,) = bench.tracker.find(kind="benchmark_run")
        found = addresses(stack.enter_context(ui(bench.runs, "--json")))
        browser.get(found["runs"])
        shows("matching runs", "A run for each benchmark run")
        browser.get(f"{found['MLflow']}/#/experiments/{bench.tracker.experiment_id}/runs/{call.run_id}")
        shows("Benchmark run", "Compare its methods")
        browser.find_element("link text", "Compare its methods").click()
        if len(browser.window_handles) > 1:
            browser.switch_to.window(browser.window_handles[-1])
        lines = shows("Comparing 2 Runs", "CJME · stamps/native · corrected", "1 HM tuned", "2 ZSL tuned")
        metrics = [
            line
            for line in lines[lines.index("Metrics") :]
            if line[:2] in ("1 ", "2 ", "3 ", "4 ") or "/" in line
        ]
        assert metrics[:5] == ["1 HM", "1 HM tuned", "2 ZSL", "2 ZSL tuned", "3 S"]
        browser.get(f"{found['optuna-dashboard']}/dashboard")
        shows("cjme stamps-native corrected")


def test_if_pages_of_reports_lead_elsewhere_ui_explains_the_fix() -> None:
    usual, other, store = "http://127.0.0.1:5000", "http://127.0.0.1:5003", "sqlite:///runs/mlflow.db"
    assert _links_note(usual, store, Path("runs"), None) == []
    assert _links_note("https://mlflow.example.org", "https://mlflow.example.org", Path("runs"), None) == []
    (message,) = _links_note(other, store, Path("my runs"), None)
    assert message.endswith(f"python run_benchmark.py report --runs-dir 'my runs' --mlflow-ui {other}")
    (message,) = _links_note(other, "postgresql://u:secret@h/b", Path("runs"), "postgresql://u:secret@h/b")
    assert "secret" not in message
