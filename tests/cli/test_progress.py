"""What a user sees on terminals of all kinds, and where there is none."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from benchmark.cli import progress as display
from benchmark.cli.progress import LiveDisplay
from benchmark.cli.terminal import rows_table
from benchmark.method import EpochRecord
from benchmark.running.events import Skipped
from benchmark.running.tasks import JobLine

TITLE = "TCAF · stamps/native · paper · seed 0 · stage 1"
RESULT = {"validation": {"hm": 0.25, "zsl": 0.5}, "best_epoch": 1}


def run_two_jobs(console: Console, *, quiet: bool = False) -> str:
    """The screen after one job of three is done and another one is under way, and after the end."""
    shown = ""
    with LiveDisplay(console, quiet=quiet, jobs=3) as display:
        lane = display.slot()
        lane.start(TITLE, 2, 4)
        lane.batch(0, 3, 0.5)
        lane.epoch(EpochRecord(0, {"total": 0.5}, {"hm": 0.25}, 0.001, 1.0))
        lane.end(JobLine(TITLE, "done", RESULT, ""))
        lane.start(TITLE, 2, 4)
        lane.batch(0, 3, 0.5)
        lane.epoch(EpochRecord(0, {"total": 0.5}, {"hm": 0.25}, 0.001, 1.0))
        if not display.progress.disable:
            paper = Console(file=io.StringIO(), width=console.width)
            paper.print(display.progress.get_renderable())
            shown = text_of(paper)
    return shown


def console(width: int, *, terminal: bool = True, **environment: str) -> Console:
    kind = {"TERM": "xterm", **environment}
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, _environ=kind, legacy_windows=False
    )


def text_of(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


def test_without_a_terminal_a_line_now_and_then_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_SECONDS", 0)
    err = console(100, terminal=False)
    with display.counted(console(100, terminal=False), err) as show:
        for what, done in (("results", 0), ("results", 99), ("videos", 0), ("videos", 2)):
            time.sleep(0.01)
            show(what, done, 2_000_002)
    first, second = text_of(err).splitlines()
    assert first.startswith("results: 99 of 2,000,002, about ")
    assert re.fullmatch(
        r"videos: 2 of 2,000,002, about [2-9] h \d+ min left", second
    )  # 10 ms and more for two of them


def test_without_a_terminal_a_long_job_shows_now_and_then_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(display, "LINE_SECONDS", 0)
    paper, silent = console(140, terminal=False), console(140, terminal=False)
    run_two_jobs(paper)
    run_two_jobs(silent, quiet=True)
    first, *_ = text_of(paper).splitlines()
    where = re.escape(f"{TITLE}: epoch 1/2 batch 4/4, loss 0.500 val HM -, about ")
    assert re.fullmatch(where + r"\d+ s left", first)
    assert not text_of(silent)


def test_live_progress_shows_all_jobs_epochs_batches_and_time_left() -> None:
    shown = run_two_jobs(console(140))
    assert "jobs 1/3" in shown
    assert "epoch 1/2 batch 4/4" in shown
    assert "loss 0.500 val HM 25.00" in shown
    assert shown.count("left") == 2


@pytest.mark.parametrize("width", [40, 60, 70, 80, 99])
def test_on_a_narrow_terminal_each_bar_keeps_its_line_and_the_seed_is_seen(width: int) -> None:
    lines = run_two_jobs(console(width, NO_COLOR="1")).splitlines()
    assert len(lines) == 2
    assert "1/3" in lines[0]
    assert "1/2 4/4" in lines[1]
    assert width < 60 or "seed 0" in lines[1]
    assert width < 70 or "0.50 HM 25.0" in lines[1]


def test_on_a_usual_terminal_loss_and_hm_are_seen_in_long_trainings_too() -> None:
    title = "Attention fusion · vggsound/main · corrected · seed 10 · stage 1 · tuned"
    screen = console(80, NO_COLOR="1")
    with LiveDisplay(screen, jobs=3) as display:
        lane = display.slot()
        lane.start(title, 50, 300)
        lane.epoch(EpochRecord(9, {"total": 0.5}, {"hm": 0.072}, 0.001, 1.0))
        lane.batch(10, 299, 12.5)
        paper = Console(file=io.StringIO(), width=80)
        paper.print(display.progress.get_renderable())
    line = text_of(paper).splitlines()[1]
    assert "11/50 300/300 12.50 HM 7.2 " in line
    assert line.startswith("Attention fusion · seed 10")
    assert "left" in line


@pytest.mark.parametrize("screen", [console(140, terminal=False), console(140, TERM="dumb")])
def test_without_a_terminal_that_can_move_its_cursor_there_are_lines_only(screen: Console) -> None:
    run_two_jobs(screen)
    (line,) = text_of(screen).splitlines()
    assert line.endswith(f"{TITLE}  best epoch 2, validation HM 25.00, ZSL 50.00")


def test_quiet_shows_nothing_of_jobs() -> None:
    screen = console(140)
    run_two_jobs(screen, quiet=True)
    assert text_of(screen) == ""


def test_trials_that_were_done_before_or_pruned_count_and_failed_ones_add_to_the_whole() -> None:
    display = LiveDisplay(console(140), jobs=3)
    display.slot()(Skipped(2))
    assert "jobs 2/3" in str([task.fields["place"] for task in display.progress.tasks])
    display.slot()(Skipped(2))
    assert "jobs 4/4" in str([task.fields["place"] for task in display.progress.tasks])


def test_rows_whose_columns_would_break_words_are_printed_one_below_the_other() -> None:
    rows = [("tcaf", "sequence", "Temporal and cross-modal attention " * 3), ("cjme", "mean", "")]
    wide, narrow = console(120, terminal=False), console(40, terminal=False)
    for screen in (wide, narrow):
        rows_table(screen, "Methods", ["name", "inputs", "paper"], rows)
    assert "─" in text_of(wide)
    assert "  inputs: sequence" in text_of(narrow)
    assert max(map(len, text_of(narrow).splitlines())) <= 40
    assert "paper:" not in text_of(narrow).split("cjme")[1]
