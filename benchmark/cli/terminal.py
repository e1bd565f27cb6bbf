"""The output of commands, and their exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from benchmark.system.output import open_missing_streams
from benchmark.system.redaction import hide, hide_values

open_missing_streams()
SOME_FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
WIDTH = None if sys.stdout.isatty() else 140  # of tables in files and pipes


class HidingConsole(Console):
    """A console that hides secrets."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(hide(text), **options)

    def print_line(self, text: str) -> None:
        """Print a text with markup, without breaking it into lines or colouring its numbers."""
        self.print(text, highlight=False, soft_wrap=True)


out = HidingConsole(width=WIDTH)
err = HidingConsole(stderr=True)


def escape(text: str) -> str:
    """A text for a console: without secrets, and with brackets that are no markup."""
    return markup.escape(hide(text))


def emit(json_file: str | None, content: Any) -> None:
    """Write machine-readable results to the file that ``--json`` names, or to standard output (``-``)."""
    if json_file is None:
        return
    text = json.dumps(hide_values(content), indent=1, default=lambda value: hide_values(str(value)))
    if json_file == "-":
        sys.stdout.write(text + "\n")
    elif Path(json_file).exists() and not Path(json_file).is_file():  # such as /dev/null
        Path(json_file).write_text(text + "\n", encoding="utf-8")
    else:
        from benchmark.system.files import replacing

        with replacing(Path(json_file)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def warn(text: str) -> None:
    err.print_line(escape(text))


NARROWEST = 24
"""Minimum width in characters of a column of longer texts."""


def show_table(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    bold: Sequence[Sequence[bool]] | None = None,
    numeric: Sequence[bool] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print a table with ``bold`` cells emphasised, ``numeric`` columns right-aligned, and notes below.

    Cells of a table that is too wide for the console wrap.
    """
    if title:
        console.print(f"[bold]{escape(title)}[/]", highlight=False)
    longest = (max(map(len, column)) + 3 for column in zip(columns, *rows, strict=True))
    whole = numeric is not None and sum(longest) <= console.width
    table = Table(header_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        right = numeric is not None and numeric[i]
        table.add_column(escape(column), justify="right" if right else "left", no_wrap=whole, overflow="fold")
    for r, row in enumerate(rows):
        texts = map(escape, row)
        table.add_row(
            *(f"[bold]{text}[/]" if bold is not None and bold[r][c] else text for c, text in enumerate(texts))
        )
    console.print(table)
    for note in notes:
        console.print(f"[dim]{escape(note)}[/]", highlight=False)


def rows_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows of plain values. If columns would break words, print the values below each other instead."""
    # The narrowest table that breaks no words.
    texts = [[str(value) for value in row] for row in rows]
    words = [
        max((len(word) for text in column for word in text.split()), default=0)
        for column in zip(columns, *texts, strict=True)
    ]
    longest = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    least = sum(max(w, min(whole, NARROWEST)) + 3 for w, whole in zip(words, longest, strict=True))
    if least <= console.width or len(columns) < 3:
        show_table(console, title, columns, texts)
        return

    if title:
        console.print(f"[bold]{escape(title)}[/]", highlight=False)
    for first, *others in texts:
        console.print(f"\n[bold]{escape(first)}[/]", highlight=False)
        for column, text in zip(columns[1:], others, strict=True):
            if text:
                console.print(
                    Padding(f"[dim]{escape(column)}:[/] {escape(text)}", (0, 0, 0, 2)), highlight=False
                )
    console.print()
