"""A table ready to print, and how numbers become its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmark.report.results.collect import UNIT
from benchmark.report.results.published import Published

NOTHING = "–"
SECOND_HAND = "†"
FEWER_SEEDS = "‡"
NOT_COMPARABLE = "§"


@dataclass(frozen=True)
class Table:
    """A table ready to print."""

    name: str
    """One of ``ORDER`` in ``build.py``."""
    title: str
    caption: str
    cells: pd.DataFrame
    """Display strings without any markup."""
    bold: pd.DataFrame
    """Whether a cell is the best of its column; same shape as ``cells``."""
    groups: Sequence[str]
    """Dataset (or metric) of each column; empty for columns that label rows."""
    notes: Sequence[str] = ()
    screen: bool = True
    """Whether it is printed on the terminal; wide tables are only in the report's files."""
    keys: Sequence[Mapping[str, str]] = ()
    """For each row the values by which readers select rows (``about``); empty if they cannot."""

    def spans(self) -> list[tuple[str, int]]:
        """The groups of columns in order, with their numbers of columns; empty if there are fewer than two
        groups."""
        if len({g for g in self.groups if g}) < 2:
            return []
        return [(group, len(list(columns))) for group, columns in groupby(self.groups)]

    def headers(self) -> list[str]:
        """The headers of the columns, without the name of their group, which has its own header."""
        texts = [str(c) for c in self.cells.columns]
        if not self.spans():
            return texts
        return [t.removeprefix(f"{g} ") if g else t for t, g in zip(texts, self.groups, strict=True)]

    def rows(self) -> Iterator[tuple[list[str], list[bool]]]:
        """The texts of each row, and which of them are bold."""
        return zip(self.cells.to_numpy().tolist(), self.bold.to_numpy().tolist(), strict=True)

    def markdown(self, heading: str = "###") -> str:
        """The table as Markdown, with title, caption and footnotes."""
        columns = [escape(str(c)) for c in self.cells.columns]
        rows = [
            [f"**{escape(text)}**" if best else escape(text) for text, best in zip(texts, bests, strict=True)]
            for texts, bests in self.rows()
        ]
        align = ["left" if g == "" else "right" for g in self.groups]
        grid = tabulate(rows, headers=columns, tablefmt="github", disable_numparse=True, colalign=align)
        return "\n\n".join([f"{heading} {self.title}", grid, self.caption, *self.notes]) + "\n"

    def panels(self) -> list[Table]:
        """One table per group of columns, for narrow screens; the table itself if it has fewer than two
        groups."""
        names = list(dict.fromkeys(g for g in self.groups if g))
        if len(names) < 2:
            return [self]
        return [replace(self.only([name]), title=f"{self.title} – {name}") for name in names]

    def only(self, names: Sequence[str]) -> Table:
        """The table with only the columns of some groups and those that label rows."""
        keep = [i for i, g in enumerate(self.groups) if g in ("", *names)]
        cells, bold = self.cells.iloc[:, keep], self.bold.iloc[:, keep]
        return replace(self, cells=cells, bold=bold, groups=[self.groups[i] for i in keep])


@dataclass
class Column:
    """A column while a table is built: a text and a number per row. The numbers decide which texts are
    bold."""

    header: str
    group: str
    texts: Sequence[str]
    values: Sequence[float | None] = ()
    apart: bool = True
    """Whether rows compete only with rows of the same protocol."""


def name_ours(columns: list[Column]) -> list[Column]:
    """Add ``ours`` to the header of each column that has a published counterpart."""
    headers = {c.header for c in columns}
    return [
        replace(c, header=f"{c.header} ours") if f"{c.header} published" in headers else c for c in columns
    ]


def cell(row: pd.Series, metric: str) -> str:
    """The text of a metric, marked if seeds are missing; the state of the jobs if there is no result."""
    if row["seeds"] == 0:
        return str(row["state"])
    mark = FEWER_SEEDS if row["seeds"] < row["planned"] else ""
    return mean_and_deviation(row[metric], row[f"{metric}_std"]) + mark


def published_cell(found: Published | None, value: float | None) -> str:
    """A published number in percent, marked if it is second-hand."""
    if found is None or value is None:
        return NOTHING
    return f"{value:.2f}" + (SECOND_HAND if found.second_hand else "")


def mean_and_deviation(mean: float, deviation: float, digits: int = 2) -> str:
    """``12.34 ± 0.56``; only the mean if there is no deviation."""
    if pd.isna(mean):
        return NOTHING
    return f"{mean:.{digits}f}" if pd.isna(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def difference(mean: float, deviation: float) -> str:
    """A difference with its sign."""
    text = mean_and_deviation(mean, deviation)
    return text if text == NOTHING or text.startswith("-") else f"+{text}"


def best(values: Sequence[float | None], competing: Sequence[tuple[str, ...]]) -> list[bool]:
    """Which values are the highest among competing rows; none if there is no second value.

    Args:
        competing: rows with equal entries compete.
    """
    if not values:
        return [False] * len(competing)
    highest: dict[tuple[str, ...], float] = {}
    for rivals in set(competing):
        mine = [v for v, c in zip(values, competing, strict=True) if c == rivals and v is not None]
        if len(mine) > 1:
            highest[rivals] = max(mine)
    return [v is not None and v == highest.get(c) for v, c in zip(values, competing, strict=True)]


def about(row: Mapping[str, Any] | pd.Series, *without: str) -> dict[str, str]:
    """The values of ``UNIT`` that a row has, by which readers select rows.

    Args:
        without: names of which the row has several values.
    """
    return {name: str(row[name]) for name in UNIT if name in row and name not in without}


def plain_table(
    name: str,
    title: str,
    caption: str,
    columns: Sequence[Column],
    notes: Sequence[str] = (),
    *,
    screen: bool = True,
    keys: Sequence[Mapping[str, str]] = (),
) -> Table:
    """A table without bold cells."""
    cells = pd.DataFrame({c.header: c.texts for c in columns}, dtype=object)
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    return Table(name, title, caption, cells, bold, [c.group for c in columns], notes, screen, keys)


def protocol_text(row: Mapping[str, Any] | pd.Series) -> str:
    """The protocol of a row: ``paper, official text``."""
    return f"{row['mode']}, {row['alignment']} text"


def escape(text: str) -> str:
    """The text of a cell as Markdown."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
