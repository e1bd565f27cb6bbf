"""The commands ``run``, ``tune`` and ``status``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.options import (
    Folders,
    Json,
    Quiet,
    ReportOfRun,
    ReportsDir,
    RetryFailed,
    RunOptions,
    TuneOptions,
    storage_of,
    tracker_of,
    tracking_uri_of,
    with_options,
)
from benchmark.cli.report import write_report_of
from benchmark.cli.terminal import INTERRUPTED, SOME_FAILED, emit, err, escape, out, rows_table, warn
from benchmark.cli.workers import Workers
from benchmark.errors import Unavailable, UsageError
from benchmark.system.beside import reason_of
from benchmark.system.redaction import hidden_command
from benchmark.system.shipped_files import program

if TYPE_CHECKING:
    from benchmark.running.estimate import Expected
    from benchmark.running.jobs import Plan
    from benchmark.running.runner import BenchmarkRunResult
    from benchmark.running.status import Existing, StudyState
    from benchmark.running.stores import Stores
    from benchmark.tracking.tracker import Tracker


ANNOUNCE_SECONDS = 120
"""Longest wait for the expected time, which is omitted then."""


def _plan(options: RunOptions, data_root: Path, *, tune_only: bool = False) -> Plan:
    from benchmark import registry
    from benchmark.running.planning import make_plan, plan_notes

    run = options.run()
    known = registry.load(run.plugins)
    plan = make_plan(run, known, data_root, tune_only=tune_only)
    for note in plan_notes(plan, known):
        err.print_line(f"note: {escape(note)}")
    return plan


@with_options
def run(
    options: RunOptions,
    folders: Folders,
    *,
    retry_failed: RetryFailed = False,
    workers: Workers,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the planned jobs, their state and the expected time; run nothing. With --quiet only "
            "the time.",
        ),
    ] = False,
    report_name: ReportOfRun = None,
    reports_dir: ReportsDir = Path("reports"),
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Train, tune, test and report methods. Finished jobs are skipped."""
    plan = _plan(options, folders.data_root)
    if dry_run:
        stores = _existing(folders)
        _show_jobs(plan, stores, json_file, quiet=quiet)
        if json_file != "-":
            _show_expected(plan, stores, workers)
        return
    tracker = tracker_of(folders.runs_dir, folders.tracking_uri)
    folder = reports_dir / (report_name or report_folder(plan))
    for place in (folder, *([Path(json_file).parent] if json_file not in (None, "-") else [])):
        # a folder that cannot be written is reported before training
        place.mkdir(parents=True, exist_ok=True)
    quiet = quiet or json_file == "-"
    result = _run(plan, tracker, folders, workers, quiet=quiet, retry_failed=retry_failed)
    for entry in result.failed:
        reason = entry.failure.removeprefix(entry.state)
        err.print_line(f"[red]{entry.state}[/]{escape(reason)}")
    if len(result.failed) == len(result.entries):  # there is nothing to report
        emit(json_file, {"report": None, "tables": [], "failed": [asdict(e) for e in result.failed]})
        raise typer.Exit(SOME_FAILED)
    try:
        written = write_report_of(
            tracker, folder, [result.run_id], log_to=result.run_id, show=json_file != "-"
        )
    except Unavailable:
        raise
    except Exception as error:  # whatever it is, nothing has to be trained again
        again = f"The jobs are recorded; write their report with: {program()} report --run {result.run_id}"
        why = error if isinstance(error, UsageError) else reason_of(error)
        problem = UsageError(f"the report could not be written ({why}). {again}")
        if not result.failed:
            raise problem from error
        warn(f"error: {problem}")
        raise typer.Exit(SOME_FAILED) from error
    emit(json_file, written)
    if result.failed:
        raise typer.Exit(SOME_FAILED)


@with_options
def tune(
    options: TuneOptions,
    folders: Folders,
    *,
    retry_failed: RetryFailed = False,
    workers: Workers,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Search hyperparameters on the validation splits; nothing is tested."""
    plan = _plan(options, folders.data_root, tune_only=True)
    if not all(unit.tuning.searches for unit in plan.units):
        raise UsageError(
            "tune: set a budget with --trials N, --timeout SECONDS or both, for example --trials 30"
        )
    tracker = tracker_of(folders.runs_dir, folders.tracking_uri)
    quiet = quiet or json_file == "-"
    result = _run(plan, tracker, folders, workers, quiet=quiet, retry_failed=retry_failed)
    if json_file != "-":
        columns = ["study", "val HM", "trainings", "trial", "best in search", "complete", "pruned", "failed",
                   "hyperparameters"]  # fmt: skip
        rows = []
        for s in result.studies:
            again = s.confirmation
            counts = (s.complete, s.pruned, s.failed, _settings_text(s.chosen))
            if again is None:
                hm, trainings, number = s.best_hm, 1, s.best_number
            else:
                hm, trainings, number = again.hm, len(again.seeds), again.number
            rows.append((s.study, f"{100 * hm:.2f}", trainings, number, f"{100 * s.best_hm:.2f}", *counts))
        rows_table(out, "Tuning", columns, rows)
    emit(json_file, [s.as_dict() for s in result.studies])
    if result.failed:
        raise typer.Exit(SOME_FAILED)


def _settings_text(values: Any) -> str:
    shown = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items())
    return ", ".join(shown) or "as published"


def _run(
    plan: Plan, tracker: Tracker, folders: Folders, workers: Workers, *, quiet: bool, retry_failed: bool
) -> BenchmarkRunResult:
    from benchmark.running.stores import Stores

    if out.is_terminal and not quiet:
        _announce()
    stores = Stores(tracker, storage_of(folders.runs_dir, folders.storage), folders.runs_dir)
    command = hidden_command(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    try:
        return carry_out(
            plan, stores, workers, folders.data_root, command, quiet=quiet, retry_failed=retry_failed
        )
    except KeyboardInterrupt:
        err.print("Interrupted. Rerun the same command to resume.")
        raise typer.Exit(INTERRUPTED) from None


def carry_out(
    plan: Plan,
    stores: Stores,
    workers: Workers,
    data_root: Path,
    command: str,
    *,
    quiet: bool = False,
    retry_failed: bool = False,
) -> BenchmarkRunResult:
    """Run a plan and show its progress, for the commands and for ``api.run``.

    Args:
        command: repeats the run; it is recorded.

    Raises:
        KeyboardInterrupt: the user stopped it; its checkpoints are kept.
    """
    from benchmark.cli.progress import LiveDisplay
    from benchmark.cli.signals import Interrupts
    from benchmark.running.runner import Runner

    if note := workers.note(plan):
        err.print(note)
    with LiveDisplay(out, quiet=quiet, jobs=plan.count) as display, Interrupts(err.print) as interrupts:
        runner = Runner(stores, display.slot(), command, interrupts.stopping, retry_failed)
        return runner.run(plan, workers.engine(runner, plan, data_root, display.slot))


def _announce() -> None:
    """Show the expected time before a long wait. A separate process measures it, so that the methods' code
    runs in this one as if nothing had been measured."""
    words = ["run" if word == "tune" else word for word in sys.argv[1:2]]
    for before, word in zip(sys.argv[1:], sys.argv[2:], strict=False):
        words += [] if "--json" in (before, word) or word.startswith("--json=") else [word]
    command = [sys.executable, sys.argv[0], *words, "--dry-run", "--quiet"]
    with suppress(subprocess.TimeoutExpired):
        shown = subprocess.run(command, capture_output=True, timeout=ANNOUNCE_SECONDS, check=False)
        if shown.returncode == 0:
            out.print(shown.stdout.decode(), highlight=False, markup=False, soft_wrap=True)


def report_folder(plan: Plan) -> str:
    """Name of a benchmark run's report: its datasets, and what differs from the defaults."""
    run = plan.run
    usual = all(unit.mode == unit.card.default_mode for unit in plan.units)
    special = "ablation" if run.ablates else None if usual else plan.mode
    parts = [run.dataset.replace(",", "-"), run.features, special]
    return "-".join(p for p in parts if p)


def _show_jobs(plan: Plan, stores: Existing, json_file: str | None, *, quiet: bool = False) -> None:
    """Show the state of a plan's jobs and studies."""
    from benchmark.running.status import JobStatus, StudyState, plan_states

    states = plan_states(plan, stores)
    emit(json_file, [asdict(state) for state in states])
    if json_file == "-" or quiet:
        return

    # Jobs, then studies with the numbers of their trials.
    jobs = [(s.job, s.key, s.state, s.reason) for s in states if isinstance(s, JobStatus)]
    rows_table(out, "Jobs", ["job", "key", "state", "reason"], jobs)
    studies = [s for s in states if isinstance(s, StudyState)]
    if studies:
        columns = ["finished", "pruned", "running", "interrupted", "failed", "left"]
        rows = []
        for s in studies:
            counts = (getattr(s, name) for name in columns)
            rows.append((s.study, s.state, *("" if n is None else n for n in counts), _reasons(s)))
        rows_table(out, "Studies, trials", ["study", "state", *columns, "reason"], rows)
    for study in studies:
        again = "then the best trials again, " if study.confirming else ""
        then = f"{again}then all seeds with the best hyperparameters"
        if study.best_hm is not None:
            best = _settings_text(study.best_values)
            then = f"best val HM {100 * study.best_hm:.2f} of trial {study.best_trial}: {best}"
            if study.confirming and study.chosen_trial is not None:
                then += f"; kept: trial {study.chosen_trial}: {_settings_text(study.chosen_values)}"
        out.print(f"{study.unit}: {study.budget}, {then}", highlight=False, markup=False, soft_wrap=True)


def _existing(folders: Folders) -> Existing:
    """The stores, which are not created where there are none yet."""
    from benchmark.running.status import Existing
    from benchmark.system.databases import readable
    from benchmark.tracking.tracker import Tracker

    runs_dir = folders.runs_dir
    tracker = Tracker.existing(tracking_uri_of(runs_dir, folders.tracking_uri), runs_dir / "artifacts")
    return Existing(tracker, readable(storage_of(runs_dir, folders.storage)), runs_dir)


def _show_expected(plan: Plan, stores: Existing, workers: Workers) -> None:
    """Show how long what is left takes at most on this machine, method by method."""
    from benchmark.cli.progress import duration
    from benchmark.running.estimate import expected

    found, others = expected(plan, stores)
    rows = [
        (
            e.unit,
            e.trainings,
            f"{1000 * e.batch_seconds:.0f} ms",
            duration(e.training_seconds),
            duration(e.seconds),
        )
        for e in found
    ]
    columns = ["method", "trainings left", "a batch", "a training", "all"]
    rows_table(out, "Expected time on this machine", columns, rows)
    out.print_line(_in_all(found, others, workers))


def _in_all(found: Sequence[Expected], others: Sequence[str], workers: Workers) -> str:
    """The expected time in a sentence."""
    from benchmark.cli.progress import duration
    from benchmark.running.estimate import BATCHES

    seconds, processes = sum(e.seconds for e in found), workers.jobs or 1
    shared = f", {duration(seconds / processes)} with {processes} processes" if processes > 1 else ""
    unknown = f" Not measured, since they train in their own way: {', '.join(others)}." if others else ""
    return (
        f"At most {duration(seconds)} in all{shared}, by {BATCHES} batches of each method. Pruned trials and "
        f"trainings of fewer epochs take less.{unknown}"
    )


def _reasons(study: StudyState) -> str:
    """Why a study or its trials failed; trials that failed for one reason are named together."""
    trials: dict[str, list[str]] = {}
    for number, reason in study.failures.items():
        trials.setdefault(reason, []).append(str(number))
    of_trials = [f"trial{'s' * (len(n) > 1)} {', '.join(n)}: {reason}" for reason, n in trials.items()]
    return "; ".join([*([study.reason] if study.reason else []), *of_trials])


@with_options
def status(options: RunOptions, folders: Folders, json_file: Json = None) -> None:
    """Show the state of all jobs and trials of a benchmark run."""
    _show_jobs(_plan(options, folders.data_root), _existing(folders), json_file)
