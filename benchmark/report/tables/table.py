"""A table ready to print, and how numbers become its cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pandas as pd
from tabulate import tabulate

from benchmark.report.results.collect import UNIT
from benchmark.report.results.published import Flag, Published
from benchmark.uncertainty import FEWEST_SEEDS, LEVEL, welch_p

NOTHING = "–"
SECOND_HAND = "†"
FEWER_SEEDS = "‡"
NOT_COMPARABLE = "§"
FLAG_MARKS: Mapping[Flag, str] = {
    "second_hand": SECOND_HAND,
    "selected_on_test": "ˢ",
    "transductive": "ᵗ",
    "no_public_code": "ⁿ",
    "pretraining_may_contain_test_classes": "ᵖ",
}
"""The mark of each flag of a published number."""
FLAG_TEXTS: Mapping[Flag, str] = {
    "second_hand": "Second-hand: quoted by a source that did not measure it.",
    "selected_on_test": "Epoch, settings or beta were selected on test data, so the number is optimistic.",
    "transductive": "Transductive: unseen class names take part in training, or other test samples in the "
    "prediction of one.",
    "no_public_code": "No code of this method or adaptation is public.",
    "pretraining_may_contain_test_classes": "The pre-training of the features may contain test classes, so "
    "numbers with other features are no rivals.",
}
"""What the marks mean."""


SUPERSCRIPTS = "¹²³⁴⁵⁶⁷⁸⁹"
"""Marks of notes on methods."""
ALL_MARKS = "".join([SUPERSCRIPTS, "(", FEWER_SEEDS, NOT_COMPARABLE, *FLAG_MARKS.values()])
"""First characters of footnotes that explain a mark."""


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
    facts: Sequence[str] = ()
    """Sentences on how the numbers came about. A report states once what its tables share
    (``report_protocol``); a table that travels alone, such as a LaTeX file, states all of them."""

    @property
    def text(self) -> str:
        """The caption with the facts."""
        return " ".join([self.caption, *self.facts])

    @property
    def is_empty(self) -> bool:
        """Whether no cell beside the labels has content."""
        results = self.cells.loc[:, [bool(group) for group in self.groups]]
        return bool(results.isin(["", NOTHING]).all(axis=None))

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
        return "\n\n".join(filter(None, [f"{heading} {self.title}", grid, self.text, *self.notes])) + "\n"

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


def report_protocol(tables: Sequence[Table]) -> tuple[list[str], list[Table]]:
    """What a report states once, and the tables with the facts that are left.

    The facts of the first table of each feature set, ``gzsl`` or ``validation``, hold for its other tables.
    """
    main = [t for t in tables if t.name in ("gzsl", "validation")]
    shared = [fact for fact in main[0].facts if all(fact in t.facts for t in main)] if main else []
    own = {t.title: [fact for fact in t.facts if fact not in shared] for t in main}
    lines = [*shared, *(f"{title}: {' '.join(facts)}" for title, facts in own.items() if facts)]
    stated = {features: set(shared) for t in tables for features in _features(t)}
    for table in main:
        for features in _features(table):
            stated[features] |= set(table.facts)
    left = [
        replace(t, facts=[f for f in t.facts if not all(f in stated[features] for features in _features(t))])
        for t in tables
    ]
    return lines, notes_once(left)


def notes_once(tables: Sequence[Table]) -> list[Table]:
    """The tables, each footnote only under the first table of a feature set that has it.

    Later tables name that table and its marks. Tables of other feature sets repeat footnotes, since a page
    can hide one feature set.
    """
    first: dict[tuple[str, str], str] = {}
    left = []
    for table in tables:
        place, kept = ", ".join(sorted(_features(table))), list[str]()
        again: dict[str, list[str]] = {}
        for note in table.notes:
            before = first.setdefault((place, note), table.title)
            if before == table.title:
                kept.append(note)
            else:
                again.setdefault(before.partition(":")[0], []).append(note)
        kept += [_see(title, notes) for title, notes in again.items()]
        left.append(replace(table, notes=kept))
    return left


def _see(title: str, notes: Sequence[str]) -> str:
    """The line in place of footnotes that another table has."""
    marks = [note.split(" ", 1)[0] for note in notes]
    named = [mark for mark in marks if mark[0] in ALL_MARKS]
    which = f" ({', '.join(named)})" if named else ""
    return f"Notes{which}: see “{title}”."


def _features(table: Table) -> set[str]:
    """The feature sets of a table."""
    return {row.get("features", "") for row in table.keys}


@dataclass(frozen=True)
class Sample:
    """What the seeds of a row gave."""

    mean: float
    deviation: float
    """Sample standard deviation."""
    seeds: int

    def differs(self, other: Sample) -> bool:
        """Whether the means differ by more than noise."""
        return (
            welch_p(self.mean, self.deviation, self.seeds, other.mean, other.deviation, other.seeds) < LEVEL
        )


@dataclass
class Column:
    """A column while a table is built: a text per row, and the results that decide which texts are bold."""

    header: str
    group: str
    texts: Sequence[str]
    results: Sequence[Sample | None] = ()
    """For each row what competes for bold; None for rows that do not."""


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
    return spread_of(row, metric) + mark


def published_cell(found: Published | None, value: float | None) -> str:
    """A published number in percent, with the marks of its flags."""
    if found is None or value is None:
        return NOTHING
    return f"{value:.2f}{flag_marks(found.flags)}"


def flag_marks(flags: Iterable[Flag]) -> str:
    """The marks of some flags."""
    return "".join(FLAG_MARKS[flag] for flag in flags)


def flag_lines(marks: str, *without: Flag) -> list[str]:
    """A footnote for each mark of a flag that occurs in a text.

    Args:
        without: flags that have a footnote already.
    """
    return [
        f"{FLAG_MARKS[flag]} {text}"
        for flag, text in FLAG_TEXTS.items()
        if FLAG_MARKS[flag] in marks and flag not in without
    ]


def spread_of(row: Mapping[str, Any] | pd.Series, name: str, digits: int = 2) -> str:
    """The mean of a row's column over its ``seeds``, with its interval or range.

    ``12.34 ± 0.56`` from five seeds on: half the width of the 95 % interval of the mean. With two to four
    seeds ``12.34 (11.90 to 12.80)``: the lowest and the highest. With one seed only the value.
    """
    mean, low, high = (row.get(name + end, float("nan")) for end in ("", "_low", "_high"))
    if pd.isna(mean):
        return NOTHING
    text = f"{mean:.{digits}f}"
    if pd.isna(low):
        return text
    if row["seeds"] >= FEWEST_SEEDS:
        return f"{text} ± {(high - low) / 2:.{digits}f}"
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def spread_facts(seeds: pd.Series) -> list[str]:
    """What follows the means of a table whose rows have so many seeds."""
    few, many = ((seeds > 1) & (seeds < FEWEST_SEEDS)).any(), (seeds >= FEWEST_SEEDS).any()
    sentences = ["±: half the width of the 95 % t-interval of the mean."] if many else []
    if few:
        sentences.append(
            f"In parentheses: the lowest and the highest seed. An interval or a test needs {FEWEST_SEEDS} "
            f"seeds (--seeds {FEWEST_SEEDS})."
        )
    return sentences


def signed(text: str) -> str:
    """The text of a difference with its sign."""
    return text if text == NOTHING or text.startswith("-") else f"+{text}"


def best(results: Sequence[Sample | None], competing: Sequence[tuple[str, ...]]) -> list[bool]:
    """Which results are the highest among competing rows, or differ from it by no more than noise.

    None where all are that, since then nothing is best.

    Args:
        competing: rows with equal entries compete.
    """
    bold = [False] * len(competing)
    for rivals in set(competing if results else ()):
        mine = [(i, r) for i, r in enumerate(results) if competing[i] == rivals and r is not None]
        highest = max((r for _, r in mine), key=lambda r: r.mean, default=None)
        within = [i for i, r in mine if highest is not None and not highest.differs(r)]
        for i in within if len(within) < len(mine) else ():
            bold[i] = True
    return bold


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
    facts: Sequence[str] = (),
) -> Table:
    """A table without bold cells."""
    cells = pd.DataFrame({c.header: c.texts for c in columns}, dtype=object)
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    return Table(name, title, caption, cells, bold, [c.group for c in columns], notes, screen, keys, facts)


def protocol_text(row: Mapping[str, Any] | pd.Series) -> str:
    """The protocol of a row: ``paper, official assignment``."""
    return f"{row['mode']}, {short_assignment(row['alignment'])}"


def short_assignment(alignment: str) -> str:
    """The class-to-embedding assignment of a row in short: ``official assignment``."""
    return f"{alignment} assignment"


def escape(text: str) -> str:
    """The text of a cell as Markdown."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
