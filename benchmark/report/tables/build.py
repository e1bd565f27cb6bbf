"""Builds the tables of a report as frames of text, with the best values marked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import pandas as pd

from benchmark.report.results.collect import SLOTS, UNIT, Results
from benchmark.report.results.published import Published, differences, published_for
from benchmark.report.results.released import RELEASED
from benchmark.report.results.transductive import transductive
from benchmark.report.tables.captions import MEANING, Footnotes, facts_of, settings_text
from benchmark.report.tables.cost import cost_table
from benchmark.report.tables.means import LABELS, PUBLISHED_METRICS, method_ranks, order_rows, summarise
from benchmark.report.tables.modes import ablation_tables, modes_table
from benchmark.report.tables.recall import recall_tables
from benchmark.report.tables.references import references_table
from benchmark.report.tables.significance import comparisons, intervals, intervals_table, wins_tables
from benchmark.report.tables.studies import tuning_table
from benchmark.report.tables.table import (
    NOTHING,
    Column,
    Sample,
    Table,
    about,
    best,
    cell,
    name_ours,
    protocol_text,
    published_cell,
    spread_of,
)
from benchmark.system.beside import Guard, unguarded
from benchmark.uncertainty import FEWEST_SEEDS

ORDER = (
    "gzsl", "zsl", "modes", "disjoint", "full", "intervals", "comparisons", "recall", "cost",
    "validation", "ablation",
    "tuning", "references",
)  # fmt: skip
"""Names of tables in the order of a report."""


def build_tables(results: Results, guard: Guard = unguarded) -> list[Table]:
    """Build all tables of a report (``ORDER``); the validation table is for datasets without test results.

    Each feature set has its own tables, and each dataset, mode and alignment has its own table of recalls.

    Args:
        guard: encloses each table; it gets the table's name.
    """
    built: list[Table | None] = []
    for name, features, make in _makers(results):
        with guard(f"table {name}" + (f", features {features}" if features else "")):
            built += make()
    shown = [t for t in built if t is not None and not t.is_empty]
    return sorted(shown, key=lambda t: ORDER.index(t.name))


Maker = tuple[str, str, Callable[[], Sequence[Table | None]]]
"""Name of a table, its feature set or nothing, and the function that makes it."""


def _makers(results: Results) -> Iterator[Maker]:
    for features in dict.fromkeys([*results.test["features"], *results.validation["features"]]):
        test = results.test[results.test["features"] == features]
        builder = partial(_Builder, results, features=features)
        for name, make in _tests(results, test, features, builder).items() if len(test) else ():
            yield name, features, make
        validation = results.validation[results.validation["features"] == features]
        validation = validation[~validation["dataset"].isin(set(test["dataset"]))]
        if len(validation):
            yield "validation", features, lambda f=validation, b=builder: [b(frame=f).full("validation")]  # type: ignore[misc]
    for features in dict.fromkeys(u.features for u in results.units):
        yield "references", features, lambda f=features: [references_table(results, f)]  # type: ignore[misc]
    yield "recall", "", lambda: recall_tables(results)
    yield "ablation", "", lambda: ablation_tables(results)
    yield "tuning", "", lambda: [tuning_table(results)]


def _tests(
    results: Results, test: pd.DataFrame, features: str, builder: Callable[..., _Builder]
) -> dict[str, Callable[[], Sequence[Table | None]]]:
    """The functions that make the tables of a feature set's test results."""
    every = cache(lambda: builder(frame=test))

    def disjoint() -> list[Table | None]:
        asked = test[
            test.groupby([*UNIT, "variant", "settings"])["disjoint_samples"].transform("max").notna()
        ]
        return [builder(frame=asked).disjoint("disjoint")] if len(asked) else []

    return {
        "gzsl": lambda: [every().wide("gzsl", ("seen", "unseen", "hm"))],
        "zsl": lambda: [every().wide("zsl", ("zsl",))],
        "full": lambda: [every().full("full")],
        "intervals": lambda: [intervals_table(results, features, intervals(results))],
        "comparisons": lambda: wins_tables(results, features, comparisons(results)),
        "modes": lambda: [modes_table(results, test, features)],
        "cost": lambda: [cost_table(results, features)],
        "disjoint": disjoint,
    }


TITLES = {
    "gzsl": "Generalised zero-shot learning",
    "zsl": "Zero-shot learning",
    "disjoint": "Test-seen samples from sources without training samples",
    "full": "All results",
    "validation": "Validation",
}


@dataclass
class _Builder:
    """Builds the tables of one feature set."""

    results: Results
    frame: pd.DataFrame
    features: str
    summary: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        self.summary = order_rows(summarise(self.frame), method_ranks(self.results))
        self.datasets: list[str] = list(dict.fromkeys(self.summary["dataset"]))
        units = [u for u in self.results.units if u.features == self.features]
        self.dataset_titles = {u.dataset: u.dataset_title for u in units}
        self.method_titles = {u.method: u.title for u in units}
        protocols = dict.fromkeys(zip(self.summary["mode"], self.summary["alignment"], strict=True))
        self.protocols: list[tuple[str, str]] = list(protocols)

    def wide(self, name: str, metrics: Sequence[str]) -> Table:
        """A row per method; for each dataset a column per metric, published and ours."""
        notes = Footnotes(self.results, self.frame)
        row_keys = ["method", "slot", "settings", "mode", "alignment"]
        rows = [
            group
            for _, group in order_rows(self.summary, method_ranks(self.results)).groupby(row_keys, sort=False)
        ]
        rows.sort(key=lambda g: self._place(g.iloc[0]))

        # published numbers and ours, for each dataset and metric
        columns = self._label_columns(rows, notes)
        for dataset in self.datasets:
            cells = [g[g["dataset"] == dataset] for g in rows]
            mine = [c.iloc[0] if len(c) else None for c in cells]
            for metric in metrics:
                columns += self._published_column(dataset, metric, mine, notes)
                columns.append(self._our_column(self._header(dataset, metric), dataset, metric, mine))
        columns = name_ours(columns)

        several = ("dataset",) if len(self.datasets) > 1 else ()
        table = self._table(name, columns, [self._rivals(g.iloc[0]) for g in rows], notes)
        return replace(table, keys=[about(g.iloc[0], *several) for g in rows])

    def full(self, name: str) -> Table:
        """A row per dataset, method and settings, with every metric."""
        notes = Footnotes(self.results, self.frame)
        lines = self._lines()
        columns = self._labels_with_dataset(lines, notes)
        for metric, label in LABELS.items():
            columns.append(self._our_column(label, "all", metric, lines))
        columns.append(Column("Beta", "all", [spread_of(r, "beta") for r in lines]))
        epochs = [spread_of(r, "epochs", 0 if r["seeds"] < 2 else 1) for r in lines]
        columns.append(Column("Epochs", "all", epochs))
        seeds = [
            str(r["seeds"]) if r["seeds"] == r["planned"] else f"{r['seeds']} of {r['planned']}"
            for r in lines
        ]
        columns.append(Column("Seeds", "all", seeds))
        table = self._table(name, columns, [(r["dataset"], *self._rivals(r)) for r in lines], notes)
        return replace(table, screen=name != "full", keys=[about(r) for r in lines])

    def disjoint(self, name: str) -> Table:
        """A row as in the full table: all test-seen samples, and those that share no group with a training
        sample."""
        notes = Footnotes(self.results, self.frame)
        lines = self._lines()
        columns = self._labels_with_dataset(lines, notes)
        for metric in ("seen", "hm"):
            ours = self._our_column(f"{LABELS[metric]} disjoint", "all", f"disjoint_{metric}", lines)
            texts = [
                "none remain" if r["disjoint_samples"] == 0 else t
                for r, t in zip(lines, ours.texts, strict=True)
            ]
            columns.append(self._our_column(f"{LABELS[metric]} published split", "all", metric, lines))
            columns.append(replace(ours, texts=texts))
        for count in ("samples", "classes"):
            counts = [r[f"disjoint_{count}"] for r in lines]
            texts = [NOTHING if pd.isna(value) else f"{value:.0f}" for value in counts]
            columns.append(Column(f"Remaining {count}", "all", texts))
        table = self._table(name, columns, [(r["dataset"], *self._rivals(r)) for r in lines], notes)
        return replace(table, keys=[about(r) for r in lines])

    def _lines(self) -> list[pd.Series]:
        return [row for _, row in self.summary.iterrows()]

    def _labels_with_dataset(self, lines: Sequence[pd.Series], notes: Footnotes) -> list[Column]:
        columns = self._label_columns([pd.DataFrame([line]) for line in lines], notes)
        if len(self.datasets) > 1:
            columns.insert(
                0, Column("Dataset", "", [self.dataset_titles.get(r["dataset"], r["dataset"]) for r in lines])
            )
        return columns

    def _place(self, row: pd.Series) -> tuple[object, ...]:
        rank = method_ranks(self.results)[row["method"]]
        protocol = (row["mode"] != "paper", row["alignment"] != "official")
        return (rank, SLOTS.index(row["slot"]), row["settings"], *protocol)

    def _protocol(self, row: pd.Series) -> tuple[str, ...]:
        return (str(row["mode"]), str(row["alignment"]))

    def _rivals(self, row: pd.Series) -> tuple[str, ...]:
        """Rows with equal values compete in a column. Released weights, a single training, do not compete
        with our means, and transductive rows do not compete with others."""
        kind = "transductive" if transductive(self.results, row.to_dict()) else "inductive"
        return (*self._protocol(row), "released" if row["slot"] == RELEASED else "ours", kind)

    def _label_columns(self, rows: Sequence[pd.DataFrame], notes: Footnotes) -> list[Column]:
        firsts = [g.iloc[0] for g in rows]
        titles = [
            self.method_titles.get(r["method"], r["method"])
            + notes.method_mark(r["method"])
            + notes.row_mark(r)
            for r in firsts
        ]
        settings = [
            settings_text(" / ".join(dict.fromkeys(g["variant"])), g.iloc[0]["settings"], *_trainings(g))
            for g in rows
        ]
        columns = [Column("Method", "", titles), Column("Settings", "", settings)]
        if len(self.protocols) > 1:
            alignments = {alignment for _, alignment in self.protocols}
            texts = [protocol_text(row) if len(alignments) > 1 else str(row["mode"]) for row in firsts]
            columns.append(Column("Protocol", "", texts))
        return columns

    def _header(self, dataset: str, metric: str) -> str:
        label = LABELS[metric]
        return f"{self.dataset_titles.get(dataset, dataset)} {label}" if len(self.datasets) > 1 else label

    def _our_column(self, header: str, dataset: str, metric: str, rows: Sequence[pd.Series | None]) -> Column:
        texts, results = list[str](), list[Sample | None]()
        for row in rows:
            present = row is not None and row["seeds"] > 0 and not pd.isna(row[metric])
            texts.append(cell(row, metric) if row is not None and (present or row["seeds"] == 0) else NOTHING)
            results.append(_sample(row, metric) if row is not None else None)
        return Column(header, dataset, texts, results)

    def _published_column(
        self, dataset: str, metric: str, rows: Sequence[pd.Series | None], notes: Footnotes
    ) -> list[Column]:
        """The published numbers, once per method; no column if there are none."""
        if metric not in PUBLISHED_METRICS:
            return []
        methods = {r["method"] for r in rows if r is not None}
        found = {m: published_for(dataset, self.features, m) for m in methods}
        texts: list[str] = [""] * len(rows)
        values: list[float | None] = [None] * len(rows)
        for i in _carriers(rows, found):
            row = rows[i]
            source = None if row is None else found[row["method"]]
            values[i] = getattr(source.numbers, metric) if source else None
            mark = notes.published_mark(row, source) if row is not None and values[i] is not None else ""
            texts[i] = published_cell(source, values[i]) + mark
        if all(v is None for v in values):
            return []
        return [Column(f"{self._header(dataset, metric)} published", dataset, texts)]

    def _table(
        self, name: str, columns: Sequence[Column], competing: Sequence[tuple[str, ...]], notes: Footnotes
    ) -> Table:
        cells = pd.DataFrame({c.header: c.texts for c in columns}, dtype=object)
        bold = pd.DataFrame({c.header: best(c.results, competing) for c in columns}, dtype=bool)
        titles = ", ".join(self.dataset_titles.get(d, d) for d in self.datasets)
        groups = [self.dataset_titles.get(c.group, c.group) for c in columns]
        title = f"{TITLES[name]}: {titles}, features {self.features}"
        published = any(c.header.endswith(" published") for c in columns)
        facts = facts_of(
            name,
            self.results,
            self.frame,
            self.summary,
            published=published,
            bold=bool(bold.to_numpy().any()),
        )
        marks = "".join(t for c in columns for t in c.texts)
        lines = notes.lines(name, marks, self.summary, published=published)
        caption, *meaning = MEANING[name]
        return Table(name, title, caption, cells, bold, groups, [*meaning, *lines], facts=facts)


def _trainings(rows: pd.DataFrame) -> tuple[int, int]:
    """Trainings of a search and searches, of the rows of a method on several datasets."""
    return int(rows["trainings"].max()), int(rows["searches"].max())


def _sample(row: pd.Series, metric: str) -> Sample | None:
    """What competes for bold; None for tuned rows of one search, and if too few seeds have the metric."""
    one_search = row["slot"] == "tuned" and row["searches"] == 1
    if one_search or row["seeds"] < FEWEST_SEEDS or pd.isna(row[f"{metric}_low"]):
        return None
    return Sample(row[metric], row[f"{metric}_std"], row["seeds"])


def _carriers(rows: Sequence[pd.Series | None], found: Mapping[str, Published | None]) -> list[int]:
    """For each method the row that shows its published numbers: the first comparable one, else the first."""
    places: dict[str, tuple[bool, int]] = {}
    for i, row in enumerate(rows):
        if row is not None:
            source = found[row["method"]]
            unlike = source is not None and bool(differences(row.to_dict(), source))
            places[row["method"]] = min(places.get(row["method"], (unlike, i)), (unlike, i))
    return [i for _, i in places.values()]
