"""A table ready to print, and how numbers become its cells. What stands in which table is not decided here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Of the same shape: whether a cell is the best of its column."""
    groups: Sequence[str]
    """For each column the data set (or metric) that it belongs to; empty for columns that label rows."""
    notes: Sequence[str] = ()
    screen: bool = True
    """Whether it fits a terminal; the others are in the report's files alone."""
    keys: Sequence[Mapping[str, str]] = ()
    """For each row what it is about (``about``), by which readers choose rows; empty: they cannot choose."""

    def spans(self) -> list[tuple[str, int]]:
        """The groups of columns in order, with the number of columns of each; empty where there are not several to head."""
        if len({g for g in self.groups if g}) < 2:
            return []
        return [(group, len(list(columns))) for group, columns in groupby(self.groups)]

    def headers(self) -> list[str]:
        """The heads of the columns, without what the head of their group says already."""
        texts = [str(c) for c in self.cells.columns]
        if not self.spans():
            return texts
        return [t.removeprefix(f"{g} ") if g else t for t, g in zip(texts, self.groups, strict=True)]

    def markdown(self, heading: str = "###") -> str:
        """The table with title, caption and footnotes."""
        columns = [escape(str(c)) for c in self.cells.columns]
        rows = [
            [f"**{escape(text)}**" if best else escape(text) for text, best in zip(texts, bests, strict=True)]
            for texts, bests in zip(self.cells.to_numpy().tolist(), self.bold.to_numpy().tolist(), strict=True)
        ]
        align = ["left" if g == "" else "right" for g in self.groups]
        grid = tabulate(rows, headers=columns, tablefmt="github", disable_numparse=True, colalign=align)
        return "\n\n".join([f"{heading} {self.title}", grid, self.caption, *self.notes]) + "\n"

    def panels(self) -> list[Table]:
        """The same table cut by group of columns, for narrow screens; itself where there is nothing to cut."""
        names = list(dict.fromkeys(g for g in self.groups if g))
        if len(names) < 2:
            return [self]
        return [replace(self.only([name]), title=f"{self.title} – {name}") for name in names]

    def only(self, names: Sequence[str]) -> Table:
        """The same table with the columns that label rows and those of some groups."""
        keep = [i for i, g in enumerate(self.groups) if g in ("", *names)]
        return replace(
            self, cells=self.cells.iloc[:, keep], bold=self.bold.iloc[:, keep], groups=[self.groups[i] for i in keep]
        )


@dataclass
class Column:
    """A column while it is built: text and number of each row; the numbers decide what is bold."""

    header: str
    group: str
    texts: Sequence[str]
    values: Sequence[float | None] = ()
    apart: bool = True
    """Whether rows of different protocols compete apart."""


def name_ours(columns: list[Column]) -> list[Column]:
    """Name our columns as ours where a published one stands beside them."""
    headers = {c.header for c in columns}
    return [replace(c, header=f"{c.header} ours") if f"{c.header} published" in headers else c for c in columns]


def cell(row: pd.Series, metric: str) -> str:
    """A metric of a row of a summary, marked where seeds are missing; the state of the jobs where there is no result."""
    if row["seeds"] == 0:
        return str(row["state"])
    mark = FEWER_SEEDS if row["seeds"] < row["planned"] else ""
    return mean_and_deviation(row[metric], row[f"{metric}_std"]) + mark


def published_cell(found: Published | None, value: float | None) -> str:
    """A published number in percent, marked where it is second-hand."""
    if found is None or value is None:
        return NOTHING
    return f"{value:.2f}" + (SECOND_HAND if found.second_hand else "")


def mean_and_deviation(mean: float, deviation: float, digits: int = 2) -> str:
    """``12.34 ± 0.56``; the mean alone where there is no deviation."""
    if pd.isna(mean):
        return NOTHING
    return f"{mean:.{digits}f}" if pd.isna(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def difference(mean: float, deviation: float) -> str:
    """A difference with its sign."""
    text = mean_and_deviation(mean, deviation)
    return text if text == NOTHING or text.startswith("-") else f"+{text}"


def best(values: Sequence[float | None], competing: Sequence[tuple[str, ...]]) -> list[bool]:
    """Which values are the highest among the rows that they compete with; none where there is no second value."""
    if not values:
        return [False] * len(competing)
    highest: dict[tuple[str, ...], float] = {}
    for rivals in set(competing):
        mine = [v for v, c in zip(values, competing, strict=True) if c == rivals and v is not None]
        if len(mine) > 1:
            highest[rivals] = max(mine)
    return [v is not None and v == highest.get(c) for v, c in zip(values, competing, strict=True)]


def about(row: Mapping[str, Any] | pd.Series, *without: str) -> dict[str, str]:
    """What a row is about: those of ``UNIT`` that it has, but for those that it has several of."""
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
    """A table in which nothing competes."""
    cells = pd.DataFrame({c.header: c.texts for c in columns}, dtype=object)
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    return Table(name, title, caption, cells, bold, [c.group for c in columns], notes, screen, keys)


def escape(text: str) -> str:
    """Text of a cell as markdown."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
