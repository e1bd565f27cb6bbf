"""Shows what has been published, as tables of a leaderboard, with our own results beside it.

There is a table for each dataset and feature set, so that numbers of different features are never in one
ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

import pandas as pd

from benchmark.report.page.page import Grid, Row, choices, grid, render
from benchmark.report.results.collect import distinct
from benchmark.report.results.published import (
    UNKNOWN,
    Published,
    assignment_text,
    every_published,
    method_order,
    published_for,
    published_titles,
)
from benchmark.report.tables.means import LABELS, PUBLISHED_METRICS
from benchmark.report.tables.table import NOTHING, Column, Table, flag_lines, flag_marks

HTML, MARKDOWN = "published.html", "published.md"
TITLE = "What has been published"
INTRODUCTION = (
    "Mean per-class accuracy in %, as printed in its source: S on seen and U on unseen classes among all "
    "classes, HM their harmonic mean, ZSL on unseen classes with unseen classes as the only candidates. "
    f"{NOTHING}: not reported.",
    "Compare numbers within a table only. Each dataset and feature set has its own, since better features "
    "change results more than methods do.",
    "Ours: HM and ZSL of the reports of this leaderboard, mean over seeds. Ours is in the row of a published "
    "number only if both have the same protocol, settings and kind of data. Otherwise it has its own row.",
)
SOURCE, RUN = "Source", "Our run"
RANKED = ("hm", "zsl")
"""S and U alone rank nothing: a method can trade one for the other."""


@dataclass(frozen=True)
class OwnResult:
    """A finished row of a report, as its leaderboard has it."""

    dataset: str
    features: str
    method: str
    numbers: Mapping[str, str]
    """Text of each of S, U, HM and ZSL."""
    run: str
    """Protocol, settings, seeds and report."""
    link: str
    """Address of the report within the site."""
    comparable: bool
    """Whether it is comparable with the published number (``published_for``)."""


@dataclass(frozen=True)
class _Line:
    """A row of a table: a published number, a result of ours, or both if they are comparable."""

    method: str
    published: Published | None
    own: OwnResult | None


def published_tables(own: Sequence[OwnResult]) -> dict[tuple[str, str], Table]:
    """A table for each dataset and feature set that somebody published on.

    Args:
        own: our results. Those of methods without a published number on the dataset and features are
            omitted.
    """
    return {place: _table(*place, lines) for place, lines in _places(own).items()}


def published_markdown(own: Sequence[OwnResult]) -> str:
    """The tables as Markdown."""
    tables = published_tables(own).values()
    return "\n\n".join([f"# {TITLE}", *INTRODUCTION, *(t.markdown("##").strip() for t in tables)]) + "\n"


def published_page(own: Sequence[OwnResult]) -> str:
    """The tables as a page."""
    places = _places(own)
    _, titles = published_titles()
    datasets: dict[str, list[Grid]] = {}
    for number, ((dataset, features), lines) in enumerate(places.items(), 1):
        made = _grid(_table(dataset, features, lines), f"published-{number}", lines)
        datasets.setdefault(titles.get(dataset, dataset), []).append(made)
    return render(
        "published.html",
        title=TITLE,
        introduction=INTRODUCTION,
        choices=choices({"features": features} for _, features in places),
        datasets=datasets,
        counts=f"{len(every_published())} rows from {_sources(places)} sources.",
    )


def _sources(places: Mapping[tuple[str, str], Sequence[_Line]]) -> int:
    return len({line.published.source.paper for m in places.values() for line in m if line.published})


def _places(own: Sequence[OwnResult]) -> dict[tuple[str, str], list[_Line]]:
    """The rows of each dataset and feature set, in the order of the files; methods by the year of their first
    source."""
    found: dict[tuple[str, str], dict[str, list[Published]]] = {}
    for dataset, each in every_published():
        methods = found.setdefault((dataset, each.source.features), {})
        methods.setdefault(each.method, []).append(each)
    ranks = {name: rank for rank, name in enumerate(method_order())}
    datasets = {name: rank for rank, name in enumerate(distinct(dataset for dataset, _ in found))}
    places = {}
    for place in sorted(found, key=lambda p: datasets[p[0]]):
        ordered = sorted(found[place].items(), key=lambda m: (_year(m[1]), ranks[m[0]]))
        places[place] = [line for name, numbers in ordered for line in _lines(place, name, numbers, own)]
    return places


def _year(numbers: Sequence[Published]) -> int:
    """The year of the first source of a method; after all others if it is unknown."""
    return min((p.source.year for p in numbers if p.source.year is not None), default=10_000)


def _lines(
    place: tuple[str, str], method: str, numbers: Sequence[Published], own: Sequence[OwnResult]
) -> list[_Line]:
    """The rows of a method: comparable results of ours beside their published number, then the others."""
    mine = [o for o in own if (o.dataset, o.features, o.method) == (*place, method)]
    compared = published_for(*place, method)
    beside = [o for o in mine if o.comparable and compared is not None]
    lines = []
    for each in numbers:
        partners = beside if each == compared else []
        pairs = zip_longest([each], partners)
        lines += [_Line(method, published, ours) for published, ours in pairs]
    return [*lines, *(_Line(method, None, o) for o in mine if o not in beside)]


def _table(dataset: str, features: str, lines: Sequence[_Line]) -> Table:
    """The table of a dataset and feature set, with the best published numbers in bold."""
    methods, datasets = published_titles()
    marks = [flag_marks(line.published.flags) if line.published else "" for line in lines]
    titles = [methods.get(line.method, line.method) + mark for line, mark in zip(lines, marks, strict=True)]
    columns = [Column("Method", "", titles), *_columns(lines)]
    cells = pd.DataFrame({c.header: c.texts for c in columns}, dtype=object)
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    for metric in RANKED:
        bold[_header(lines, metric)] = _best(lines, metric)
    notes = [*flag_lines("".join(marks)), *_protocols(lines, methods)]
    notes += [_BOLD] if bold.to_numpy().any() else []
    title = f"{datasets.get(dataset, dataset)}, features {features}"
    keys = [{"dataset": dataset, "features": features}] * len(lines)
    return Table("published", title, "", cells, bold, [c.group for c in columns], notes, keys=keys)


def _header(lines: Sequence[_Line], metric: str) -> str:
    """The header of published numbers, which names them as such if there are numbers of ours too."""
    return f"Published {LABELS[metric]}" if any(line.own for line in lines) else LABELS[metric]


def _columns(lines: Sequence[_Line]) -> list[Column]:
    """Published numbers, ours if there are any, sources and runs. Numbers come first, for narrow screens."""
    columns = []
    for metric in PUBLISHED_METRICS:
        texts = ["" if line.published is None else _number(line.published, metric) for line in lines]
        columns.append(Column(_header(lines, metric), "Published", texts))
    ours = any(line.own for line in lines)
    for label in [LABELS[metric] for metric in RANKED] if ours else ():
        texts = [line.own.numbers[label] if line.own else "" for line in lines]
        columns.append(Column(f"Ours {label}", "Ours", texts))
    columns.append(Column(SOURCE, "", [_source(line.published) for line in lines]))
    columns.append(Column("Year", "", [_year_text(line.published) for line in lines]))
    if ours:
        columns.append(Column(RUN, "", [line.own.run if line.own else "" for line in lines]))
    return columns


_BOLD = (
    "Bold: the highest published HM and ZSL. Numbers that were selected on test data, transductive "
    "ones and users' reports do not compete. Most are single trainings, so small differences may be noise."
)


def _best(lines: Sequence[_Line], metric: str) -> list[bool]:
    """Which published numbers are the highest of those that compete; none if there is nothing to beat."""
    values = [
        getattr(line.published.numbers, metric) if line.published and line.published.ranked else None
        for line in lines
    ]
    known = [v for v in values if v is not None]
    return [len(known) > 1 and v == max(known) for v in values]


def _number(found: Published, metric: str) -> str:
    value = getattr(found.numbers, metric)
    return NOTHING if value is None else f"{value:.2f}"


_A_USER = "a user's "


def _source(found: Published | None) -> str:
    if found is None:
        return ""
    if found.source.origin == "user-report":
        return f"user's report: {found.source.short.removeprefix(_A_USER)}"
    return f"{found.source.short}, {found.source.table}"


def _year_text(found: Published | None) -> str:
    if found is None:
        return ""
    return NOTHING if found.source.year is None else str(found.source.year)


def _protocols(lines: Sequence[_Line], names: Mapping[str, str]) -> list[str]:
    """Under which protocol the published numbers were measured, and of which it is unknown."""
    found = [line.published for line in lines if line.published]
    known: dict[str, None] = {}
    unknown: dict[str, None] = {}
    for p in found:
        if UNKNOWN in (p.source.mode, p.source.alignment):
            unknown[names.get(p.method, p.method)] = None
        else:
            known[f"mode {p.source.mode}, {assignment_text(p.source.alignment)}"] = None
    texts = [f"Protocol of the published numbers: {' or '.join(known)}."] if known else []
    return texts + ([f"Protocol not known: {', '.join(unknown)}."] if unknown else [])


def _grid(table: Table, name: str, lines: Sequence[_Line]) -> Grid:
    """A table with links to the sources and to our reports."""
    made = grid(table, name, table.title)
    heads = [str(c) for c in table.cells.columns]
    rows = []
    for row, line in zip(made.rows, lines, strict=True):
        links = {
            SOURCE: line.published.source.url or "" if line.published else "",
            RUN: line.own.link if line.own else "",
        }
        cells = [replace(c, link=links.get(h, "")) for c, h in zip(row.cells, heads, strict=True)]
        rows.append(Row(cells, row.keys))
    return replace(made, rows=rows)
