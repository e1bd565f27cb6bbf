"""Commands and options, printing, exit codes. Nothing else prints or exits."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text
from typer.core import TyperGroup

from benchmark import __version__
from benchmark.cli.options import (
    CallOptions,
    DataRoot,
    Json,
    MlflowUi,
    OnlyDatasets,
    OnlyFeatures,
    OnlyMethods,
    OnlyMode,
    Places,
    Plugin,
    Quiet,
    Report,
    ReportsDir,
    RetryFailed,
    RunsDir,
    SearchOptions,
    TrackingUri,
    local,
    with_options,
)
from benchmark.cli.workers import Executor, GpusPerJob, Jobs, RayAddress, Workers
from benchmark.errors import Unavailable, UsageError
from benchmark.system.beside import Beside, reason_of
from benchmark.system.files import told_outside
from benchmark.system.output import is_broken_pipe, lasting_output, open_missing_streams
from benchmark.system.redaction import guard, hidden_command, hidden_traceback, hide, hide_values, learn_option

if TYPE_CHECKING:
    from benchmark.report.results.choice import Choice
    from benchmark.running.jobs import Call, Unit
    from benchmark.running.runner import CallResult
    from benchmark.running.status import StudyState
    from benchmark.tracking.tracker import Tracker

open_missing_streams()
SOME_FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
WIDTH = None if sys.stdout.isatty() else 140  # of tables in files and pipes


class HidingConsole(Console):
    """A console that shows no secrets."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(hide(text), **options)


out = HidingConsole(width=WIDTH)
err = HidingConsole(stderr=True)


class DefaultRun(TyperGroup):
    """A group whose command is ``run`` where the first argument is an option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("--help", "-h", "--version"):
            args = ["run", *args]
        with _hidden_usage_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _hidden_usage_errors():
            return super().invoke(ctx)


@contextmanager
def _hidden_usage_errors() -> Iterator[None]:
    """Errors of options repeat what was given: without secrets, that is."""
    try:
        yield
    except Exception as error:
        wrong_usage: Any = error
        if hasattr(error, "format_message"):  # click's; where its class is found depends on Typer's version
            wrong_usage.message = hide(wrong_usage.message)
        raise


app = typer.Typer(
    cls=DefaultRun,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Benchmark of audio-visual generalised zero-shot learning. [bold]run[/] is the default command. "
    "[bold]--debug[/] anywhere shows tracebacks.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Import, build, show and check feature stores.")
app.add_typer(data_app, name="data")


def _tracking_uri(runs_dir: Path, tracking_uri: str | None) -> str:
    from benchmark.system.addresses import tracking_address
    from benchmark.system.databases import sqlite_uri

    return tracking_address(tracking_uri) if tracking_uri else sqlite_uri(runs_dir / "mlflow.db")


def _tracker(runs_dir: Path, tracking_uri: str | None) -> Tracker:
    from benchmark.tracking.tracker import Tracker

    return Tracker(_tracking_uri(runs_dir, tracking_uri), runs_dir / "artifacts")


def _existing_tracker(runs_dir: Path, tracking_uri: str | None) -> Tracker:
    """The store for reading.

    Raises:
        UsageError: there is none.
    """
    from benchmark.system.databases import sqlite_file, without_password
    from benchmark.tracking.tracker import Tracker

    uri = _tracking_uri(runs_dir, tracking_uri)
    tracker = Tracker.existing(uri, runs_dir / "artifacts")
    if tracker is None:
        raise UsageError(
            f"no tracking store at {sqlite_file(uri) or f'--tracking-uri {without_password(uri)}'} yet; a call makes one: "
            "python run_benchmark.py --dataset demo (or name another place with --runs-dir or --tracking-uri)"
        )
    return tracker


def _storage(runs_dir: Path, storage: str | None) -> str:
    from benchmark.system.addresses import storage_address
    from benchmark.system.databases import sqlite_uri

    return storage_address(storage) if storage else sqlite_uri(runs_dir / "optuna.db")


def _emit(json_file: str | None, content: Any) -> None:
    """Write machine-readable results where ``--json`` says."""
    if json_file is None:
        return
    text = json.dumps(hide_values(content), indent=1, default=lambda value: hide_values(str(value)))
    if json_file == "-":
        sys.stdout.write(text + "\n")
    else:
        from benchmark.system.files import replacing

        with replacing(Path(json_file)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def _plan(call: Call, data_root: Path) -> list[Unit]:
    from benchmark import registry
    from benchmark.running.jobs import plan_notes, plan_units

    known = registry.load(call.plugins)
    units = plan_units(call, known, data_root)
    for note in plan_notes(call, known, units):
        err.print(f"note: {escape(note)}", highlight=False, soft_wrap=True)
    return units


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"gzsl-bench {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Options of all commands."""


@app.command()
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
    tracker = _tracker(places.runs_dir, places.tracking_uri)
    folder = reports_dir / (report_name or report_folder(call))
    for place in (folder, *([Path(json_file).parent] if json_file not in (None, "-") else [])):
        place.mkdir(parents=True, exist_ok=True)  # told before training if it cannot be written
    result = _run_units(call, units, tracker, places, workers, quiet=quiet or json_file == "-", retry_failed=retry_failed)
    for entry in result.failed:
        switch = f"{entry.ablation} corrected, " if entry.ablation else ""
        text = f"{entry.method} on {entry.dataset} ({switch}{entry.variant}, seed {entry.repetition}, stage {entry.stage})"
        err.print(f"[red]{entry.state}[/] {text}: {escape(entry.error)}", highlight=False, soft_wrap=True)
    if len(result.failed) == len(result.entries):  # there is nothing to report
        _emit(json_file, {"report": None, "tables": [], "failed": [asdict(e) for e in result.failed]})
        raise typer.Exit(SOME_FAILED)
    try:
        written = _write_report(tracker, folder, [result.run_id], log_to=result.run_id, show=json_file != "-")
    except Unavailable:
        raise
    except Exception as error:  # whatever it is, the user must know that nothing has to be trained again
        again = f"The jobs are recorded; write their report with: python run_benchmark.py report --call {result.run_id}"
        why = error if isinstance(error, UsageError) else reason_of(error)
        problem = UsageError(f"the report could not be written ({why}). {again}")
        if not result.failed:
            raise problem from error
        _warn(f"error: {problem}")
        raise typer.Exit(SOME_FAILED) from error
    _emit(json_file, written)
    if result.failed:
        raise typer.Exit(SOME_FAILED)


@app.command()
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
    """Search for settings on the validation parts only; nothing is tested."""
    call = options.call()
    workers = Workers(executor, jobs, ray_address, gpus_per_job)
    units = _plan(call, places.data_root)
    if not all(unit.tuning.searches for unit in units):
        raise UsageError("tune: say how many trials or seconds of them, for example --trials 30 or --timeout 3600")
    tracker = _tracker(places.runs_dir, places.tracking_uri)
    quiet = quiet or json_file == "-"
    result = _run_units(call, units, tracker, places, workers, quiet=quiet, tune_only=True, retry_failed=retry_failed)
    if json_file != "-":
        from benchmark.cli.progress import rows_table

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
    _emit(json_file, [s.as_dict() for s in result.studies])
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
        storage = _storage(places.runs_dir, places.storage)
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


def _write_report(
    tracker: Tracker,
    folder: Path,
    calls: Sequence[str] | None,
    *,
    show: bool,
    mlflow_ui: str | None = None,
    log_to: str | None = None,
    choice: Choice | None = None,
) -> dict[str, Any]:
    from benchmark.cli.progress import show_table
    from benchmark.report.write import write_report

    report = write_report(tracker, folder, calls, mlflow_ui=mlflow_ui, choice=choice, say=_warn)
    if log_to is not None:
        with Beside(_warn)("the report among the artifacts of the call"):
            tracker.log_files(log_to, report.files, "report")
    if show:
        for table in report.tables:
            if not table.screen:  # too wide for a terminal: in the report's files
                continue
            for panel in table.panels():
                out.print()
                numeric = [bool(group) for group in panel.groups]
                show_table(out, panel.title, panel.cells, bold=panel.bold, numeric=numeric)
            for note in (table.caption, *table.notes):
                out.print(f"[dim]{escape(note)}[/]", highlight=False)
        out.print(f"\nReport: {os.path.relpath(report.files[0])}", highlight=False, soft_wrap=True)
        for page in (f for f in report.files if f.name == "index.html"):
            out.print(f"Page:   {os.path.relpath(page)}", highlight=False, soft_wrap=True)
    return {
        "report": str(report.files[0]),
        "tables": [{"name": t.name, "title": t.title, "rows": t.cells.to_dict("records")} for t in report.tables],
        "failed": report.failed,
        **({"not_written": list(report.not_written)} if report.not_written else {}),
    }


def _warn(text: str) -> None:
    err.print(escape(hide(text)), highlight=False, soft_wrap=True)


@app.command()
def report(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders of reports, for --leaderboard.")] = None,
    call: Annotated[
        list[str] | None,
        typer.Option(help="Run id of a benchmark call, or all of them: all; may be repeated. Newest if not given."),
    ] = None,
    methods: OnlyMethods = None,
    dataset: OnlyDatasets = None,
    features: OnlyFeatures = None,
    mode: OnlyMode = None,
    name: Report = "latest",
    mlflow_ui: MlflowUi = None,
    leaderboard: Annotated[
        bool, typer.Option("--leaderboard", help="Instead, write a site of the reports in FOLDERS, to be served as it is.")
    ] = False,
    out_dir: Annotated[
        Path | None, typer.Option("--out", callback=local, help="Folder of the site; site if not given.")
    ] = None,
    json_file: Json = None,
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the tables again from the tracking store, or a leaderboard of several reports."""
    from benchmark.report.results.choice import Choice

    choice = Choice.of(methods=methods, dataset=dataset, features=features, mode=mode)
    if leaderboard and (call or choice):
        raise UsageError(
            "report --leaderboard: --call, --methods, --dataset, --features and --mode choose for the reports in it"
        )
    if leaderboard:
        _emit(json_file, _write_leaderboard(folders or [], out_dir or Path("site"), show=json_file != "-"))
        return
    if folders:
        raise UsageError(f"report: folders ({', '.join(map(str, folders))}) are for --leaderboard; --report names a report")
    if out_dir is not None:
        raise UsageError("report: --out is for --leaderboard; the report's folder is --report NAME in --reports-dir FOLDER")
    tracker = _existing_tracker(runs_dir, tracking_uri)
    folder = reports_dir / (name or "latest")
    _emit(json_file, _write_report(tracker, folder, call, show=json_file != "-", mlflow_ui=mlflow_ui, choice=choice))


def _write_leaderboard(folders: Sequence[Path], site: Path, *, show: bool) -> dict[str, Any]:
    from benchmark.report.leaderboard import write_leaderboard

    board = write_leaderboard(folders, site)
    if show:
        text = f"Leaderboard of {len(board.reports)} report{'s' * (len(board.reports) != 1)}: {os.path.relpath(board.page)}"
        out.print(text, highlight=False, soft_wrap=True)
    return {"page": str(board.page), "reports": [r.name for r in board.reports], "results": len(board.entries)}


def _show_jobs(call: Call, units: list[Unit], places: Places, json_file: str | None) -> None:
    """What of a call is done; a store that is not there yet is not created."""
    from benchmark.cli.progress import rows_table
    from benchmark.running.status import JobState, Stores, StudyState, call_states
    from benchmark.system.databases import readable
    from benchmark.tracking.tracker import Tracker

    runs_dir = places.runs_dir
    tracker = Tracker.existing(_tracking_uri(runs_dir, places.tracking_uri), runs_dir / "artifacts")
    storage = readable(_storage(runs_dir, places.storage))
    states = call_states(units, call.stages, Stores(tracker, storage, runs_dir))
    _emit(json_file, [asdict(state) for state in states])
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


@app.command()
@with_options
def status(options: CallOptions, places: Places, json_file: Json = None) -> None:
    """Show which jobs and trials of a call are done, running, interrupted, failed (with the reason) or missing."""
    call = options.call()
    _show_jobs(call, _plan(call, places.data_root), places, json_file)


@app.command(name="list")
def list_(plugin: Plugin = None, json_file: Json = None, data_root: DataRoot = Path("data")) -> None:
    """List methods and data sets."""
    from benchmark import registry
    from benchmark.cli.progress import rows_table
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
         ("built at first use" if card.builder else "not imported"), ", ".join(card.aliases))
        for card in cards.values()
        for f in card.features
    ]  # fmt: skip
    datasets += [(b.names[0], "", "", "", f"cannot be used: {'; '.join(b.reason.splitlines())}", "") for b in cards.broken]
    method_columns = ("name", "title", "inputs", "training", "paper", "note")
    dataset_columns = ("name", "features", "title", "kind", "state", "aliases")
    if json_file != "-":
        rows_table(out, "Methods", method_columns, methods)
        rows_table(out, "Data sets", dataset_columns, datasets)
    _emit(
        json_file,
        {
            "methods": [dict(zip(method_columns, row, strict=True)) for row in methods],
            "datasets": [dict(zip(dataset_columns, row, strict=True)) for row in datasets],
        },
    )


WORKING = ("run", "tune", "extract")
"""Commands whose work is of use although what they print is lost."""
SHOWING = ("--dry-run", "--help", "-h", "--version")
"""Options with which they only print."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of usage become one message and exit code 2. Output that is lost ends no work."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with lasting_output() as screen:
        try:
            _main(arguments)
        except SystemExit as end:
            screen.flush()
            if screen.lost is None or is_broken_pipe(screen.lost):
                raise
            reason = getattr(screen.lost, "strerror", None) or screen.lost
            err.print(
                f"[red]error:[/] standard output cannot be written ({reason}); what was to be shown is lost", soft_wrap=True
            )
            worked = not arguments or arguments[0].startswith("-") or arguments[0] in WORKING
            worked = worked and not any(option in arguments for option in SHOWING)
            sys.exit(end.code if end.code or worked else WRONG_USAGE)


def _main(arguments: list[str]) -> None:
    from benchmark.cli import data as cli_data  # noqa: F401 - register their commands
    from benchmark.cli import extract as cli_extract  # noqa: F401 - register their commands
    from benchmark.cli import ui as cli_ui  # noqa: F401 - register their commands
    from benchmark.cli import weights as cli_weights  # noqa: F401 - register their commands
    from benchmark.system.surroundings import settle

    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    for i, argument in enumerate(arguments):  # --json may stand without a file, --ablate-protocol without names
        following = arguments[i + 1] if i + 1 < len(arguments) else "-"
        if argument == "--json" and (following.startswith("-") or not Path(following).suffix):
            arguments[i] = "--json=-"
        elif argument == "--ablate-protocol" and following.startswith("-"):
            arguments[i] = "--ablate-protocol=all"
    for before, word in zip(["", *arguments], arguments, strict=False):
        learn_option(before, word)
    guard()
    logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if not debug:
        warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        settle()
        app(arguments, standalone_mode=True)
    except Exception as error:
        if debug:
            sys.stderr.write(hidden_traceback(error))
        elif isinstance(error, (UsageError, Unavailable)):
            err.print(f"[red]error:[/] {escape(hide(str(error)))}", highlight=False, soft_wrap=True)
        else:  # the last resort: one line instead of a traceback
            reason = told_outside(error) or f"{type(error).__name__}: {error} (--debug shows where)"
            err.print(f"[red]error:[/] {escape(hide(reason))}", highlight=False, soft_wrap=True)
        sys.exit(WRONG_USAGE)
