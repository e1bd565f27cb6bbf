"""The command ``report``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.options import (
    Json,
    MlflowUi,
    OnlyDatasets,
    OnlyFeatures,
    OnlyMethods,
    OnlyMode,
    Report,
    ReportsDir,
    RunsDir,
    TrackingUri,
    existing_tracker_of,
    local,
)
from benchmark.cli.terminal import emit, escape, out, show_table, warn
from benchmark.errors import UsageError
from benchmark.system.beside import Beside
from benchmark.tracking.schema import Artifact

if TYPE_CHECKING:
    from benchmark.report.results.choice import Choice
    from benchmark.tracking.tracker import Tracker


def write_report_of(
    tracker: Tracker,
    folder: Path,
    runs: Sequence[str] | None,
    *,
    show: bool,
    mlflow_ui: str | None = None,
    log_to: str | None = None,
    choice: Choice | None = None,
) -> dict[str, Any]:
    from benchmark.report.write import write_report

    report = write_report(tracker, folder, runs, mlflow_ui=mlflow_ui, choice=choice, say=warn)
    if log_to is not None:
        with Beside(warn)("the report among the run's artifacts"):
            tracker.log_files(log_to, report.files, Artifact.REPORT)
    if show:
        if report.protocol:
            out.print("\n[bold]Protocol of this report[/]", highlight=False)
        for line in report.protocol:
            out.print(f"[dim]- {escape(line)}[/]", highlight=False)
        for table in report.tables:
            if not table.screen:  # too wide for a terminal: in the report's files
                continue
            for panel in table.panels():
                out.print()
                numeric = [bool(group) for group in panel.groups]
                columns, rows = [str(c) for c in panel.cells.columns], panel.cells.to_numpy().tolist()
                show_table(
                    out, panel.title, columns, rows, bold=panel.bold.to_numpy().tolist(), numeric=numeric
                )
            for note in (table.text, *table.notes):
                out.print(f"[dim]{escape(note)}[/]", highlight=False)
        out.print_line(f"\nReport: {os.path.relpath(report.files[0])}")
        for page in (f for f in report.files if f.name == "index.html"):
            out.print_line(f"Page:   {os.path.relpath(page)}")
    return {
        "report": str(report.files[0]),
        "tables": [
            {"name": t.name, "title": t.title, "rows": t.cells.to_dict("records")} for t in report.tables
        ],
        "failed": report.failed,
        **({"not_written": list(report.not_written)} if report.not_written else {}),
    }


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDERS", help="Folders of reports, for --leaderboard."),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            "--call",
            metavar="ID",
            help="Benchmark run: its id or the beginning of it (repeatable), or all; see list --runs. "
            "(default: the newest)",
        ),
    ] = None,
    methods: OnlyMethods = None,
    dataset: OnlyDatasets = None,
    features: OnlyFeatures = None,
    mode: OnlyMode = None,
    name: Report = "latest",
    mlflow_ui: MlflowUi = None,
    leaderboard: Annotated[
        bool,
        typer.Option(
            "--leaderboard", help="Build a static leaderboard site from the reports in FOLDERS instead."
        ),
    ] = False,
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out", callback=local, metavar="DIR", help="Folder of the leaderboard site. (default: site)"
        ),
    ] = None,
    json_file: Json = None,
    runs_dir: RunsDir = Path("runs"),
    reports_dir: ReportsDir = Path("reports"),
    tracking_uri: TrackingUri = None,
) -> None:
    """Regenerate a report from the tracking store, or build a leaderboard from several reports."""
    from benchmark.report.results.choice import Choice

    choice = Choice.of(methods=methods, datasets=dataset, features=features, mode=mode)
    if leaderboard and (run or choice):
        raise UsageError(
            "report --leaderboard: --run, --methods, --datasets, --features and --mode apply when a report "
            "is written, not to the leaderboard"
        )
    if leaderboard:
        emit(json_file, _write_leaderboard(folders or [], out_dir or Path("site"), show=json_file != "-"))
        return
    if folders:
        raise UsageError(
            f"report: folders ({', '.join(map(str, folders))}) are for --leaderboard; --report names a report"
        )
    if out_dir is not None:
        raise UsageError(
            "report: --out is for --leaderboard; the report's folder is --report NAME in --reports-dir FOLDER"
        )
    tracker = existing_tracker_of(runs_dir, tracking_uri)
    folder = reports_dir / (name or "latest")
    show = json_file != "-"
    emit(json_file, write_report_of(tracker, folder, run, show=show, mlflow_ui=mlflow_ui, choice=choice))


def _write_leaderboard(folders: Sequence[Path], site: Path, *, show: bool) -> dict[str, Any]:
    from benchmark.report.leaderboard import write_leaderboard

    board = write_leaderboard(folders, site)
    if show:
        count = len(board.reports)
        text = f"Leaderboard of {count} report{'s' * (count != 1)}: {os.path.relpath(board.page)}"
        out.print_line(text)
    return {
        "page": str(board.page),
        "reports": [r.name for r in board.reports],
        "results": len(board.entries),
    }
