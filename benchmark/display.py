"""What a user sees on the terminal: live progress of jobs, lines of finished ones, tables. Only ``cli.py`` uses it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from benchmark.method import EpochRecord
    from benchmark.worker import Ended

REFRESHES = 2
"""A second; rich's ten take 3 % of a slow core (perf/overhead.py)."""
MARKS = {"done": "[green]✓[/]", "reused": "[cyan]=[/]", "failed": "[red]✗[/]", "missing": "[yellow]?[/]"}


class LiveDisplay:
    """Progress of running jobs with loss, validation HM and time left, and a line for each finished job.

    Without a terminal there are no live bars, only the lines; ``quiet`` leaves out the lines of jobs too.
    """

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console, self.quiet = console, quiet
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("val HM {task.fields[hm]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=REFRESHES,
            disable=quiet or not console.is_terminal,
            transient=True,
        )
        self._lanes: dict[Hashable, Lane] = {}

    def __enter__(self) -> LiveDisplay:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def lane(self, task: Hashable = 0) -> Lane:
        """The display of a task; 0 for this process."""
        return self._lanes.setdefault(task, Lane(self))


class Lane:
    """Shows the running job of a task."""

    def __init__(self, display: LiveDisplay) -> None:
        self.display, self.progress, self.console = display, display.progress, display.console
        self.task: TaskID | None = None
        self.batches = 1

    def start(self, title: str, epochs: int, batches: int) -> None:
        self.batches = batches
        self.clear()
        self.task = self.progress.add_task(escape(title), total=epochs * batches, epoch=1, epochs=epochs, loss="-", hm="-")

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        if self.task is not None:
            done = epoch * self.batches + batch + 1
            self.progress.update(self.task, completed=done, epoch=epoch + 1, loss=f"{loss:.3f}")

    def epoch(self, record: EpochRecord) -> None:
        if self.task is not None:
            done = (record.epoch + 1) * self.batches
            self.progress.update(self.task, completed=done, hm=f"{100 * record.validation['hm']:.2f}")

    def end(self, ended: Ended) -> None:
        self.clear()
        if not self.display.quiet:
            text = f"{MARKS[ended.state]} {escape(ended.label)}  {escape(_summary(ended))}"
            self.console.print(text, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if not self.display.quiet:
            self.console.print(f"[dim]{escape(text)}[/]", highlight=False)

    def clear(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task = None


def _summary(ended: Ended) -> str:
    if ended.error:
        return ended.error
    result = ended.result
    note = " (done before)" if ended.state == "reused" else ""
    if "metrics" in result:
        m = {k: 100 * v for k, v in result["metrics"].items()}
        return f"S {m['seen']:.2f}  U {m['unseen']:.2f}  HM {m['hm']:.2f}  ZSL {m['zsl']:.2f}{note}"
    best = result["validation"]
    return f"best epoch {result['best_epoch'] + 1}, validation HM {100 * best['hm']:.2f}, ZSL {100 * best['zsl']:.2f}{note}"


def show_table(
    console: Console,
    title: str,
    cells: pd.DataFrame,
    *,
    bold: pd.DataFrame | None = None,
    numeric: Sequence[bool] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print a table of strings, cells of ``bold`` emphasised, columns of ``numeric`` to the right, notes below."""
    if title:
        console.print(f"[bold]{escape(title)}[/]", highlight=False)
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(cells.columns):
        right = numeric is not None and numeric[i]
        table.add_column(
            escape(str(column)), justify="right" if right else "left", no_wrap=numeric is not None, overflow="fold"
        )
    for r in range(len(cells)):
        row = []
        for c in range(cells.shape[1]):
            text = escape(str(cells.iat[r, c]))
            row.append(f"[bold]{text}[/]" if bold is not None and bool(bold.iat[r, c]) else text)
        table.add_row(*row)
    console.print(table)
    for note in notes:
        console.print(f"[dim]{escape(note)}[/]", highlight=False)


def rows_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows of plain values."""
    show_table(console, title, pd.DataFrame([[str(v) for v in row] for row in rows], columns=list(columns)))
