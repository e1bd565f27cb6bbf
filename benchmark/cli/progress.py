"""Progress on the terminal: bars of running jobs, a line for each finished one."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from benchmark.cli.terminal import escape

if TYPE_CHECKING:
    from benchmark.method import EpochRecord
    from benchmark.running.events import Event
    from benchmark.running.tasks import JobLine

REFRESHES = 2
"""A second; rich's ten take 3 % of a slow core (perf/overhead.py)."""
WIDE = 100
"""Columns from which on bars show all they can."""
USUAL = 70
"""Columns from which on loss and validation HM have room, shortened."""
MARKS = {"done": "[green]✓[/]", "reused": "[cyan]=[/]", "failed": "[red]✗[/]", "not run": "[yellow]?[/]"}


LINE_SECONDS = 30.0
"""Between two lines of progress where there is no terminal."""


@contextmanager
def counted(out: Console, err: Console) -> Iterator[Callable[[str, int, int], None]]:
    """What is done and the time left: a bar on a terminal, else a line now and then.

    Yields:
        A function that moves it: (what is done, done, total). Other words start it again.
    """
    with Progress(console=out, disable=not out.is_terminal, transient=True) as progress:
        task: TaskID = progress.add_task("", total=None)
        doing, started, said = "", 0.0, 0.0

        def show(what: str, done: int, total: int) -> None:
            nonlocal doing, started, said
            now = time.monotonic()
            if what != doing:
                doing, started, said = what, now, now
                progress.reset(task)
            progress.update(task, description=f"{what} {done:,} of {total:,}", completed=done, total=total)
            if not out.is_terminal and done and now - said >= LINE_SECONDS:
                left = (now - started) / done * (total - done)
                err.print(f"{what}: {done:,} of {total:,}, about {duration(left)} left", highlight=False)
                said = now

        yield show


def duration(seconds: float) -> str:
    """``3 h 12 min``, ``14 min`` or ``20 s``."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


class LiveDisplay:
    """Progress of a benchmark run: its running jobs with time left, and a line for each finished job.

    Without a terminal or a notebook, or on a terminal that cannot move its cursor, a line now and then
    replaces the bars; with ``quiet`` there is nothing.

    Args:
        jobs: how many jobs there are; without it there is no bar for all of them.
    """

    def __init__(self, console: Console, *, quiet: bool = False, jobs: int | None = None) -> None:
        self.console, self.quiet = console, quiet
        wide = console.width >= WIDE
        title = TextColumn(
            "{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        )
        numbers = (
            [TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True))]
            if console.width >= USUAL
            else []
        )
        self.progress = Progress(
            title,
            BarColumn(bar_width=12 if wide else 6),
            TextColumn("{task.fields[place]}", table_column=Column(no_wrap=True)),
            *numbers,
            _TimeLeft(),
            console=console,
            refresh_per_second=REFRESHES,
            disable=quiet or not _moves(console),
            transient=True,
            expand=True,
        )
        self.wide = wide
        self._slots: dict[Hashable, Slot] = {}
        self._jobs, self._done, self._trained, self._started = jobs, 0, 0, time.monotonic()
        self._all: TaskID | None = None
        if jobs is not None:
            self._all = self.progress.add_task("[bold]all jobs[/]", total=jobs, place="", numbers="", left="")
        self.passed(0)

    def __enter__(self) -> LiveDisplay:
        self._started = time.monotonic()
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def slot(self, task: Hashable = 0) -> Slot:
        """Takes what happens in a task; 0: in this process."""
        return self._slots.setdefault(task, Slot(self))

    def passed(self, jobs: int, trained: int = 0) -> None:
        """Count jobs as done; the time left is estimated from those that were trained now."""
        self._done += jobs
        self._trained += trained
        if self._all is not None and self._jobs is not None:
            self._jobs = max(self._jobs, self._done)  # a study starts another trial after a failed one
            place = f"jobs {self._done}/{self._jobs}" if self.wide else f"{self._done}/{self._jobs}"
            self.progress.update(
                self._all, completed=self._done, total=self._jobs, place=place, left=self._left()
            )

    def moved(self) -> None:
        """Show the time left again."""
        if self._all is not None:
            self.progress.update(self._all, left=self._left())

    def _left(self) -> str:
        if self._jobs is None:
            return ""
        running = sum(slot.share for slot in self._slots.values())
        trained, open_jobs = self._trained + running, self._jobs - self._done - running
        if trained <= 0 or open_jobs <= 0:
            return ""
        return _clock((time.monotonic() - self._started) * open_jobs / trained)


def _moves(console: Console) -> bool:
    """Whether bars can move: on a terminal, and in a notebook that has widgets."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return console.is_terminal and not console.is_dumb_terminal


class _TimeLeft(ProgressColumn):
    """The time left of a task, or an estimate from its speed."""

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        if left is None:
            seconds = task.time_remaining
            left = "" if seconds is None else _clock(seconds)
        return Text(f"{left or '-:--'} left", style="progress.remaining")


def _clock(seconds: float) -> str:
    """``3:05`` or ``1:03:05``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


class Slot:
    """Shows what happens in one task. The worker calls it with each event."""

    def __init__(self, display: LiveDisplay) -> None:
        self.display, self.progress, self.console = display, display.progress, display.console
        self.task: TaskID | None = None
        self.epochs, self.batches, self.share = 1, 1, 0.0
        self.loss: float | None = None
        self.hm: float | None = None  # of the last epoch, percent
        self._shown, self._began, self._said, self._title = 0.0, 0.0, 0.0, ""

    def __call__(self, event: Event) -> None:
        from benchmark.running.events import BatchDone, EpochDone, JobEnded, JobStarted, Said, Skipped

        match event:
            case BatchDone(epoch, batch, loss):
                self.batch(epoch, batch, loss)
            case JobStarted(title, epochs, batches):
                self.start(title, epochs, batches)
            case EpochDone(record):
                self.epoch(record)
            case JobEnded(line):
                self.end(line)
            case Skipped(jobs):
                self.clear()
                self.display.passed(jobs)
            case Said(text):
                self.say(text)
            case _:
                self.clear()

    def start(self, title: str, epochs: int, batches: int) -> None:
        self.clear()
        self.epochs, self.batches, self.loss, self.hm = epochs, batches, None, None
        self._title, self._began = title, time.monotonic()
        self._said = self._began
        if not self.display.wide:  # data and mode are in the lines above
            method, *rest = title.split(" · ")
            title = " · ".join([method, *rest[2:]])
        self.task = self.progress.add_task(escape(title), total=epochs * batches, place="", numbers="")
        self._show(0, 0, 0)

    def _show(self, done: int, epoch: int, batch: int) -> None:
        if self.task is None:
            return
        self.share = done / (self.epochs * self.batches)
        place = f"{epoch + 1}/{self.epochs} {batch:>{len(str(self.batches))}}/{self.batches}"
        numbers = f"{_number(self.loss, 2)} HM {_number(self.hm, 1)}"
        if self.display.wide:
            place = f"epoch {epoch + 1}/{self.epochs} batch {batch:>{len(str(self.batches))}}/{self.batches}"
            numbers = f"loss {_number(self.loss, 3)} val HM {_number(self.hm, 2)}"
        self.progress.update(self.task, completed=done, place=place, numbers=numbers)
        self.display.moved()
        if self.progress.disable and not self.display.quiet and done:
            self._line(f"epoch {epoch + 1}/{self.epochs} batch {batch}/{self.batches}, {numbers}")

    def _line(self, text: str) -> None:
        """Show where a long job is, if no bar does."""
        now = time.monotonic()
        if now >= self._said + LINE_SECONDS and self.share < 1:
            left = duration((now - self._began) * (1 - self.share) / self.share)
            line = escape(f"{self._title}: {text}, about {left} left")
            self.console.print(f"[dim]{line}[/]", highlight=False, soft_wrap=True)
            self._said = now

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        now = time.monotonic()
        if now < self._shown + 0.5 / REFRESHES and batch + 1 < self.batches:  # more is not drawn
            return
        self._shown = now
        self.loss = loss
        self._show(epoch * self.batches + batch + 1, epoch, batch + 1)

    def epoch(self, record: EpochRecord) -> None:
        self.hm = 100 * record.validation["hm"]
        self._show((record.epoch + 1) * self.batches, record.epoch, self.batches)

    def end(self, line: JobLine) -> None:
        self.clear()
        self.display.passed(1, trained=int(line.state == "done"))
        if not self.display.quiet:
            text = f"{MARKS[line.state]} {escape(line.label)}  {escape(_summary(line))}"
            self.console.print(text, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if not self.display.quiet:
            self.console.print(f"[dim]{escape(text)}[/]", highlight=False)

    def clear(self) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
            self.task, self.share = None, 0.0


def _summary(line: JobLine) -> str:
    if line.error:
        return line.error
    result = line.result
    note = " (done before)" if line.state == "reused" else ""
    if "metrics" in result:
        m = {k: 100 * v for k, v in result["metrics"].items()}
        return f"S {m['seen']:.2f}  U {m['unseen']:.2f}  HM {m['hm']:.2f}  ZSL {m['zsl']:.2f}{note}"
    best = result["validation"]
    numbers = f"validation HM {100 * best['hm']:.2f}, ZSL {100 * best['zsl']:.2f}"
    return f"best epoch {result['best_epoch'] + 1}, {numbers}{note}"
