"""The commands ``run``, ``tune``, ``status`` and ``list``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.options import (
    CallOptions,
    DataRoot,
    Json,
    Places,
    Plugin,
    Quiet,
    Report,
    ReportsDir,
    RetryFailed,
    SearchOptions,
    storage_of,
    tracker_of,
    tracking_uri_of,
    with_options,
)
from benchmark.cli.report import write_report_of
from benchmark.cli.terminal import INTERRUPTED, SOME_FAILED, emit, err, escape, out, warn
from benchmark.cli.workers import Executor, GpusPerJob, Jobs, RayAddress, Workers
from benchmark.errors import Unavailable, UsageError
from benchmark.system.beside import reason_of
from benchmark.system.redaction import hidden_command
from benchmark.system.shipped_files import program

if TYPE_CHECKING:
    from benchmark.running.jobs import Call, Unit
    from benchmark.running.runner import CallResult
    from benchmark.running.status import StudyState
    from benchmark.tracking.tracker import Tracker


def _plan(call: Call, data_root: Path) -> list[Unit]:
    from benchmark import registry
    from benchmark.running.planning import plan_notes, plan_units

    known = registry.load(call.plugins)
    units = plan_units(call, known, data_root)
    for note in plan_notes(call, known, units):
        err.print(f"note: {escape(note)}", highlight=False, soft_wrap=True)
    return units


@with_options
def run(
    options: CallOptions,
    places: Places,
    retry_failed: RetryFailed = False,
    jobs: Jobs = None,
    executor: Executor = "local",
    ray_address: RayAddress = None,
    gpus_per_job: GpusPerJob = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the jobs, their keys and what is done, and stop.")] = False,
    report_name: Report = None,
    reports_dir: ReportsDir = Path("reports"),
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Train, tune, test and report methods on data sets. What is done already is not done again."""
    call = options.call()
    workers = Workers(executor, jobs, ray_address, gpus_per_job)
    units = _plan(call, places.data_root)
    if dry_run:
        _show_jobs(call, units, places, json_file)
        return
    tracker = tracker_of(places.runs_dir, places.tracking_uri)
    folder = reports_dir / (report_name or report_folder(call))
    for place in (folder, *([Path(json_file).parent] if json_file not in (None, "-") else [])):
        place.mkdir(parents=True, exist_ok=True)  # told before training if it cannot be written
    result = _run_units(call, units, tracker, places, workers, quiet=quiet or json_file == "-", retry_failed=retry_failed)
    for entry in result.failed:
        switch = f"{entry.ablation} corrected, " if entry.ablation else ""
        text = f"{entry.method} on {entry.dataset} ({switch}{entry.variant}, seed {entry.repetition}, stage {entry.stage})"
        err.print(f"[red]{entry.state}[/] {text}: {escape(entry.error)}", highlight=False, soft_wrap=True)
    if len(result.failed) == len(result.entries):  # there is nothing to report
        emit(json_file, {"report": None, "tables": [], "failed": [asdict(e) for e in result.failed]})
        raise typer.Exit(SOME_FAILED)
    try:
        written = write_report_of(tracker, folder, [result.run_id], log_to=result.run_id, show=json_file != "-")
    except Unavailable:
        raise
    except Exception as error:  # whatever it is, the user must know that nothing has to be trained again
        again = f"The jobs are recorded; write their report with: {program()} report --call {result.run_id}"
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
    options: SearchOptions,
    places: Places,
    retry_failed: RetryFailed = False,
    jobs: Jobs = None,
    executor: Executor = "local",
    ray_address: RayAddress = None,
    gpus_per_job: GpusPerJob = None,
    quiet: Quiet = False,
    json_file: Json = None,
) -> None:
    """Search for settings on the validation splits only; nothing is tested."""
    call = options.call()
    workers = Workers(executor, jobs, ray_address, gpus_per_job)
    units = _plan(call, places.data_root)
    if not all(unit.tuning.searches for unit in units):
        raise UsageError("tune: say how many trials or seconds of them, for example --trials 30 or --timeout 3600")
    tracker = tracker_of(places.runs_dir, places.tracking_uri)
    quiet = quiet or json_file == "-"
    result = _run_units(call, units, tracker, places, workers, quiet=quiet, tune_only=True, retry_failed=retry_failed)
    if json_file != "-":
        from benchmark.cli.terminal import rows_table

        rows = [
            (
                s.study,
                f"{100 * s.best_hm:.2f}",
                s.best_number,
                s.complete,
                s.pruned,
                s.failed,
                _settings_text(s.best_values),
            )
            for s in result.studies
        ]
        rows_table(out, "Tuning", ["study", "best val HM", "trial", "complete", "pruned", "failed", "best settings"], rows)
    emit(json_file, [s.as_dict() for s in result.studies])
    if result.failed:
        raise typer.Exit(SOME_FAILED)


def _settings_text(values: Any) -> str:
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()) or "as published"


def _run_units(
    call: Call,
    units: list[Unit],
    tracker: Tracker,
    places: Places,
    workers: Workers,
    *,
    quiet: bool,
    tune_only: bool = False,
    retry_failed: bool = False,
) -> CallResult:
    from benchmark.cli.progress import LiveDisplay
    from benchmark.cli.signals import Interrupts
    from benchmark.running.runner import Runner, count_jobs

    if note := workers.note(units):
        err.print(note)
    jobs = count_jobs(units, call.stages, tune_only=tune_only)
    with LiveDisplay(out, quiet=quiet, jobs=jobs) as display, Interrupts(err.print) as interrupts:
        command = hidden_command(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
        storage = storage_of(places.runs_dir, places.storage)
        runner = Runner(tracker, places.runs_dir, storage, display.lane(), command, interrupts.stopping, retry_failed)
        engine = workers.engine(runner, call, units, places.data_root, display.lane, tune_only=tune_only)
        try:
            return runner.run(call, units, tune_only=tune_only, engine=engine)
        except KeyboardInterrupt:
            err.print("stopped; the same command goes on where it was")
            raise typer.Exit(INTERRUPTED) from None


def report_folder(call: Call) -> str:
    """Name of a call's report: data sets, and what differs from the defaults."""
    special = "ablation" if call.ablate else call.mode if call.mode != "paper" else None
    parts = [call.dataset.replace(",", "-"), call.features, special]
    return "-".join(p for p in parts if p)


def _show_jobs(call: Call, units: list[Unit], places: Places, json_file: str | None) -> None:
    """What of a call is done; a store that is not there yet is not created."""
    from benchmark.cli.terminal import rows_table
    from benchmark.running.status import JobState, Stores, StudyState, call_states
    from benchmark.system.databases import readable
    from benchmark.tracking.tracker import Tracker

    runs_dir = places.runs_dir
    tracker = Tracker.existing(tracking_uri_of(runs_dir, places.tracking_uri), runs_dir / "artifacts")
    storage = readable(storage_of(runs_dir, places.storage))
    states = call_states(units, call.stages, Stores(tracker, storage, runs_dir))
    emit(json_file, [asdict(state) for state in states])
    if json_file == "-":
        return
    jobs = [(s.job, s.key, s.state, s.reason) for s in states if isinstance(s, JobState)]
    rows_table(out, "Jobs", ["job", "key", "state", "reason"], jobs)
    studies = [s for s in states if isinstance(s, StudyState)]
    if studies:
        columns = ["study", "state", "finished", "pruned", "running", "interrupted", "failed", "missing", "reason"]
        counts = [
            (s.finished, s.pruned, s.running, s.interrupted, s.failed, "" if s.missing is None else s.missing) for s in studies
        ]
        rows = [(s.study, s.state, *count, _reasons(s)) for s, count in zip(studies, counts, strict=True)]
        rows_table(out, "Studies, trials", columns, rows)
    for study in studies:
        then = "then the seeds again if settings differ"
        if study.best_hm is not None:
            then = f"best val HM {100 * study.best_hm:.2f} of trial {study.best_trial}: {_settings_text(study.best_values)}"
        out.print(f"{study.unit}: {study.budget}, {then}", highlight=False, markup=False, soft_wrap=True)


def _reasons(study: StudyState) -> str:
    """Why a study or its trials failed, trials of one reason together."""
    trials: dict[str, list[str]] = {}
    for number, reason in study.failures.items():
        trials.setdefault(reason, []).append(str(number))
    of_trials = [f"trial{'s' * (len(n) > 1)} {', '.join(n)}: {reason}" for reason, n in trials.items()]
    return "; ".join([*([study.reason] if study.reason else []), *of_trials])


@with_options
def status(options: CallOptions, places: Places, json_file: Json = None) -> None:
    """Show which jobs and trials of a call are done, running, interrupted, failed (with the reason) or missing."""
    call = options.call()
    _show_jobs(call, _plan(call, places.data_root), places, json_file)


def list_(plugin: Plugin = None, json_file: Json = None, data_root: DataRoot = Path("data")) -> None:
    """List methods and data sets."""
    from benchmark import registry
    from benchmark.cli.terminal import rows_table
    from benchmark.data.cards import load_cards
    from benchmark.data.locate import store_path

    found, cards = registry.load(plugin or []), load_cards()
    methods = [
        (m.name, m.title, str(m.inputs), f"transductive ({', '.join(m.uses)})" if m.uses else "inductive", m.paper, m.note)
        for m in found.methods.values()
    ]
    methods += [(name, "", "", "", "", f"cannot be loaded: {why}") for name, why in found.broken.items()]
    datasets: list[tuple[str, ...]] = [
        (card.name, f, card.title, card.kind, "ready" if store_path(data_root, card.name, f).exists() else
         ("built at first use" if card.builder else "not imported"), ", ".join(card.presets))
        for card in cards.values()
        for f in card.features
    ]  # fmt: skip
    datasets += [(b.names[0], "", "", "", f"cannot be used: {'; '.join(b.reason.splitlines())}", "") for b in cards.broken]
    method_columns = ("name", "title", "inputs", "training", "paper", "note")
    dataset_columns = ("name", "features", "title", "kind", "state", "presets")
    if json_file != "-":
        rows_table(out, "Methods", method_columns, methods)
        rows_table(out, "Data sets", dataset_columns, datasets)
    emit(
        json_file,
        {
            "methods": [dict(zip(method_columns, row, strict=True)) for row in methods],
            "datasets": [dict(zip(dataset_columns, row, strict=True)) for row in datasets],
        },
    )
