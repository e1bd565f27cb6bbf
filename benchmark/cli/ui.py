"""The command ``ui``: the dashboards of MLflow and Optuna for the stores of this project."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import typer

from benchmark.cli.options import (
    Json,
    RunsDir,
    Storage,
    TrackingUri,
    existing_tracker_of,
    storage_of,
    tracking_uri_of,
)
from benchmark.cli.servers import LOOPBACK, Program, ServerError, Servers, answers, free_port, is_free
from benchmark.cli.signals import stop_signals
from benchmark.cli.terminal import SOME_FAILED, emit, err, escape, out
from benchmark.errors import UsageError
from benchmark.system.databases import readable, sqlite_file, without_password
from benchmark.system.redaction import link_to
from benchmark.system.shipped_files import program

MLFLOW_PORT, OPTUNA_PORT = 5000, 8080
ADDRESS = "GZSL_UI_STORAGE"
"""Variable that passes the storage to optuna-dashboard, since its address may have a password."""
DASHBOARD = (
    "import os, sys; from optuna_dashboard import run_server; "
    f"run_server(os.environ.pop('{ADDRESS}'), sys.argv[1], int(sys.argv[2]))"
)
Port = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65534,
        metavar="PORT",
        help=f"Port for MLflow; Optuna uses PORT + 1. (default: {MLFLOW_PORT} and {OPTUNA_PORT}, or free "
        "ports)",
    ),
]


def ui(
    port: Port = None,
    json_file: Json = None,
    runs_dir: RunsDir = Path("runs"),
    tracking_uri: TrackingUri = None,
    storage: Storage = None,
) -> None:
    """Start the MLflow and Optuna dashboards (Ctrl-C to stop)."""
    from benchmark.tracking.tracker import AS_TRAINING

    # Refuse stores that are missing, instead of serving new and empty ones.
    uri, optuna = tracking_uri_of(runs_dir, tracking_uri), storage_of(runs_dir, storage)
    if uri.startswith("http") and not answers(f"{uri.rstrip('/')}/health"):
        raise UsageError(f"--tracking-uri {without_password(uri)}: no MLflow server answers there")
    tracker = existing_tracker_of(runs_dir, tracking_uri)
    experiment = tracker.experiment_id
    if tracker.address != uri:
        err.print(
            "note: you may only read this store, so the pages show a copy of it as it is now", soft_wrap=True
        )

    # Servers that run already are only shown; the others are started.
    addresses, programs = _programs(tracker.address, readable(optuna), runs_dir, port)
    addresses["runs"] = (
        f"{addresses['MLflow'].rstrip('/')}/#/experiments/{experiment}/runs?{urlencode(AS_TRAINING)}"
    )
    if not programs:
        _show(addresses, json_file)
        return

    # Show the addresses when all programs answer, and serve until a signal comes.
    with stop_signals() as came:
        try:
            with Servers(programs) as servers:
                with err.status("starting"):
                    servers.wait(lambda: bool(came), until_ready=True)
                if not came:
                    links = _links_note(addresses["MLflow"], uri, runs_dir, tracking_uri)
                    note = "\n".join([*links, "Press Ctrl-C to stop what was started here"])
                    _show(addresses, json_file, note)
                servers.wait(lambda: bool(came))
        except ServerError as error:
            err.print_line(f"[red]error:[/] {escape(str(error))}")
            raise typer.Exit(SOME_FAILED) from None


def _links_note(address: str, uri: str, runs_dir: Path, tracking_uri: str | None) -> list[str]:
    """The command that makes links of report pages lead to this address; empty if they do so already."""
    from benchmark.report.page.page import MLFLOW_UI

    if _is_server(uri) or address.rstrip("/") == MLFLOW_UI:
        return []
    places = [] if runs_dir == Path("runs") else ["--runs-dir", str(runs_dir)]
    places += [] if tracking_uri is None else ["--tracking-uri", without_password(tracking_uri)]
    command = shlex.join(["report", *places, "--mlflow-ui", address])
    return [f"Links of report pages lead to {MLFLOW_UI}; to make them lead here: {program()} {command}"]


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://", "databricks"))


def _programs(
    uri: str, optuna: str, runs_dir: Path, port: int | None
) -> tuple[dict[str, str], list[Program]]:
    """Addresses by name, and the programs to start for them.

    Raises:
        UsageError: a port that the user asked for is in use.
    """
    addresses, programs = {}, list[Program]()
    if _is_server(uri):
        addresses["MLflow"] = link_to(uri)
    else:
        programs.append(_mlflow(uri, runs_dir, _port(port, MLFLOW_PORT, [])))
    file = sqlite_file(optuna)
    if file is None or file.exists():
        taken = [program.port for program in programs]
        programs.append(_dashboard(optuna, _port(None if port is None else port + 1, OPTUNA_PORT, taken)))
    else:
        err.print(
            f"note: no studies at {file} yet (tuning makes some); optuna-dashboard is not started",
            soft_wrap=True,
        )
    return {**addresses, **{program.name: program.address for program in programs}}, programs


def _port(wanted: int | None, usual: int, taken: list[int]) -> int:
    if wanted is None:
        return free_port(usual, taken)
    if not is_free(wanted):
        raise UsageError(f"--port: {wanted} of {LOOPBACK} is in use; choose another port, or omit --port")
    return wanted


def _mlflow(uri: str, runs_dir: Path, port: int) -> Program:
    words = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port)]
    words += ["--workers", "1", "--no-serve-artifacts"]
    words += ["--default-artifact-root", (runs_dir / "artifacts").resolve().as_uri()]
    environment = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return Program("MLflow", words, port, "/health", environment)


def _dashboard(storage: str, port: int) -> Program:
    words = [sys.executable, "-c", DASHBOARD, LOOPBACK, str(port)]
    return Program("optuna-dashboard", words, port, "/dashboard", {ADDRESS: storage})


def _show(addresses: dict[str, str], json_file: str | None, note: str = "") -> None:
    if json_file != "-":
        for name, address in addresses.items():
            out.print_line(f"{name:<17} {address}")
        if note:
            out.print_line(f"[dim]{escape(note)}[/]")
    emit(json_file, addresses)
    sys.stdout.flush()
