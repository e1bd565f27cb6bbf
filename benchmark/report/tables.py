"""The tables of a report, as frames of display strings with the best values marked: for markdown and for a terminal alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd
from tabulate import tabulate

from benchmark.report.captions import Footnotes, caption_of, seeds_sentence
from benchmark.report.collect import Results
from benchmark.report.published import Published, PublishedTable, published_for
from benchmark.report.summary import (
    ABLATED,
    LABELS,
    PUBLISHED_METRICS,
    ablation_effects,
    method_ranks,
    order_rows,
    summarise,
)

NOTHING = "–"
SECOND_HAND = "†"
FEWER_SEEDS = "‡"


@dataclass(frozen=True)
class Table:
    """A table ready to print."""

    name: str
    """``gzsl``, ``zsl``, ``full``, ``validation``, ``ablation`` or ``tuning``."""
    title: str
    caption: str
    cells: pd.DataFrame
    """Display strings without any markup."""
    bold: pd.DataFrame
    """Of the same shape: whether a cell is the best of its column."""
    groups: Sequence[str]
    """For each column the data set that it belongs to; empty for columns that label rows."""
    notes: Sequence[str] = ()

    def markdown(self, heading: str = "###") -> str:
        """The table with title, caption and footnotes."""
        columns = [_escape(str(c)) for c in self.cells.columns]
        rows = [
            [f"**{_escape(text)}**" if best else _escape(text) for text, best in zip(texts, bests, strict=True)]
            for texts, bests in zip(self.cells.to_numpy().tolist(), self.bold.to_numpy().tolist(), strict=True)
        ]
        align = ["left" if g == "" else "right" for g in self.groups]
        grid = tabulate(rows, headers=columns, tablefmt="github", disable_numparse=True, colalign=align)
        return "\n\n".join([f"{heading} {self.title}", grid, self.caption, *self.notes]) + "\n"

    def panels(self) -> list[Table]:
        """The same table cut by data set, for narrow screens; itself where there is nothing to cut."""
        names = list(dict.fromkeys(g for g in self.groups if g))
        if len(names) < 2:
            return [self]
        panels = []
        for name in names:
            keep = [i for i, g in enumerate(self.groups) if g in ("", name)]
            cells, bold = self.cells.iloc[:, keep], self.bold.iloc[:, keep]
            panels.append(
                replace(self, title=f"{self.title} – {name}", cells=cells, bold=bold, groups=[self.groups[i] for i in keep])
            )
        return panels


def build_tables(results: Results, tables: Sequence[PublishedTable] | None = None) -> list[Table]:
    """All tables of a report: GZSL, ZSL and the full one of the test parts; validation where nothing was tested; tuning.

    There is one of each for every feature set, so that different features never share a table.
    """
    built: list[Table] = []
    for features in dict.fromkeys([*results.test["features"], *results.validation["features"]]):
        test = results.test[results.test["features"] == features]
        if len(test):
            make = _Builder(results, test, features, tables)
            built += [make.wide("gzsl", ("seen", "unseen", "hm")), make.wide("zsl", ("zsl",)), make.full("full")]
        tested = set(test["dataset"])
        validation = results.validation[results.validation["features"] == features]
        validation = validation[~validation["dataset"].isin(tested)]
        if len(validation):
            built.append(_Builder(results, validation, features, tables).full("validation"))
    tuned = tuning_table(results)
    order = ("gzsl", "zsl", "full", "validation", "ablation", "tuning")
    built += ablation_tables(results)
    return sorted([*built, *([tuned] if tuned else [])], key=lambda t: order.index(t.name))


TITLES = {
    "gzsl": "Generalised zero-shot learning",
    "zsl": "Zero-shot learning",
    "full": "All results",
    "validation": "Validation",
}


@dataclass
class _Column:
    """A column while it is built: text and number of each row; the numbers decide what is bold."""

    header: str
    group: str
    texts: list[str]
    values: list[float | None]


@dataclass
class _Builder:
    """Builds the tables of one feature set."""

    results: Results
    frame: pd.DataFrame
    features: str
    tables: Sequence[PublishedTable] | None
    summary: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        self.summary = order_rows(summarise(self.frame), method_ranks(self.results))
        self.datasets: list[str] = list(dict.fromkeys(self.summary["dataset"]))
        units = [u for u in self.results.units if u.features == self.features]
        self.dataset_titles = {u.dataset: u.tag("dataset_title", u.dataset) for u in units}
        self.method_titles = {u.method: u.tag("method_title", u.method) for u in units}
        protocols = dict.fromkeys(zip(self.summary["mode"], self.summary["alignment"], strict=True))
        self.protocols: list[tuple[str, str]] = list(protocols)

    def wide(self, name: str, metrics: Sequence[str]) -> Table:
        """Methods as rows; for each data set a column per metric, published beside ours."""
        notes = Footnotes(self.results, self.frame, self.tables)
        row_keys = ["method", "slot", "settings", "mode", "alignment"]
        rows = [group for _, group in order_rows(self.summary, method_ranks(self.results)).groupby(row_keys, sort=False)]
        rows.sort(key=lambda g: self._place(g.iloc[0]))
        columns = self._label_columns(rows, notes)
        for dataset in self.datasets:
            cells = [g[g["dataset"] == dataset] for g in rows]
            mine = [c.iloc[0] if len(c) else None for c in cells]
            for metric in metrics:
                columns += self._published_column(dataset, metric, rows)
                columns.append(self._our_column(self._header(dataset, metric), dataset, metric, mine))
        columns = _name_ours(columns)
        return self._table(name, columns, [self._protocol(g.iloc[0]) for g in rows], notes)

    def full(self, name: str) -> Table:
        """A row per data set, method and settings with every metric."""
        notes = Footnotes(self.results, self.frame, self.tables)
        lines = [row for _, row in self.summary.iterrows()]
        columns = self._label_columns([pd.DataFrame([line]) for line in lines], notes)
        if len(self.datasets) > 1:
            titles = [self.dataset_titles.get(r["dataset"], r["dataset"]) for r in lines]
            columns.insert(0, _Column("Data set", "", titles, []))
        for metric, label in LABELS.items():
            columns.append(self._our_column(label, "all", metric, list(lines)))
        columns.append(_Column("beta", "all", [_mean_and_deviation(r["beta"], r["beta_std"]) for r in lines], []))
        epochs = [_mean_and_deviation(r["epochs"], r["epochs_std"], 0 if r["seeds"] < 2 else 1) for r in lines]
        columns.append(_Column("Epochs", "all", epochs, []))
        seeds = [str(r["seeds"]) if r["seeds"] == r["planned"] else f"{r['seeds']} of {r['planned']}" for r in lines]
        columns.append(_Column("Seeds", "all", seeds, []))
        return self._table(name, columns, [(r["dataset"], *self._protocol(r)) for r in lines], notes)

    def _place(self, row: pd.Series) -> tuple[object, ...]:
        ranks = method_ranks(self.results)
        second = (row["slot"] == "tuned", row["settings"], row["mode"] != "paper", row["alignment"] != "official")
        return (ranks[row["method"]], *second)

    def _protocol(self, row: pd.Series) -> tuple[str, ...]:
        return (str(row["mode"]), str(row["alignment"]))

    def _label_columns(self, rows: Sequence[pd.DataFrame], notes: Footnotes) -> list[_Column]:
        firsts = [g.iloc[0] for g in rows]
        titles = [self.method_titles.get(r["method"], r["method"]) + notes.method_mark(r["method"]) for r in firsts]
        settings = [f"{' / '.join(dict.fromkeys(g['variant']))} {g.iloc[0]['settings']}".strip() for g in rows]
        columns = [_Column("Method", "", titles, []), _Column("Settings", "", settings, [])]
        if len(self.protocols) > 1:
            alignments = {alignment for _, alignment in self.protocols}
            texts = [f"{m}, {a} text" if len(alignments) > 1 else m for m, a in map(self._protocol, firsts)]
            columns.append(_Column("Protocol", "", texts, []))
        return columns

    def _header(self, dataset: str, metric: str) -> str:
        label = LABELS[metric]
        return f"{self.dataset_titles.get(dataset, dataset)} {label}" if len(self.datasets) > 1 else label

    def _our_column(self, header: str, dataset: str, metric: str, rows: Sequence[pd.Series | None]) -> _Column:
        texts, values = [], []
        for row in rows:
            present = row is not None and row["seeds"] > 0 and not pd.isna(row[metric])
            values.append(round(float(row[metric]), 2) if row is not None and present else None)
            texts.append(_cell(row, metric) if row is not None and (present or row["seeds"] == 0) else NOTHING)
        return _Column(header, dataset, texts, values)

    def _published_column(self, dataset: str, metric: str, rows: Sequence[pd.DataFrame]) -> list[_Column]:
        """The published numbers beside the rows of the untuned settings; nothing where no number was published."""
        if metric not in PUBLISHED_METRICS:
            return []
        texts, values = [], []
        for group in rows:
            row = group.iloc[0]
            found = published_for(dataset, self.features, row["method"], self.tables)
            value = getattr(found.numbers, metric) if found else None
            here = self._carries_published(row)
            values.append(value if here else None)
            texts.append("" if not here else _published_cell(found, value))
        if all(v is None for v in values):
            return []
        return [_Column(f"{self._header(dataset, metric)} published", dataset, texts, values)]

    def _carries_published(self, row: pd.Series) -> bool:
        """Whether published numbers stand in this row: untuned, of the published protocol if any row is."""
        official = ("paper", "official")
        wanted = official if official in self.protocols else self.protocols[0]
        same = self.summary[(self.summary["method"] == row["method"])]
        first = same[[p == wanted for p in zip(same["mode"], same["alignment"], strict=True)]]
        return self._protocol(row) == wanted and len(first) > 0 and row["slot"] == first.iloc[0]["slot"]

    def _table(self, name: str, columns: Sequence[_Column], competing: Sequence[tuple[str, ...]], notes: Footnotes) -> Table:
        cells = pd.DataFrame({c.header: c.texts for c in columns}, dtype=object)
        bold = pd.DataFrame({c.header: _best(c.values, competing) for c in columns}, dtype=bool)
        titles = ", ".join(self.dataset_titles.get(d, d) for d in self.datasets)
        groups = [self.dataset_titles.get(c.group, c.group) for c in columns]
        title = f"{TITLES[name]}: {titles}, features {self.features}"
        published = any(c.header.endswith(" published") for c in columns)
        text = caption_of(name, self.results, self.frame, self.summary, published=published, tables=self.tables)
        marks = "".join(t for c in columns for t in c.texts)
        return Table(name, title, text, cells, bold, groups, notes.lines(name, marks, self.summary, published=published))


def _name_ours(columns: list[_Column]) -> list[_Column]:
    """Name our columns as ours where a published one stands beside them."""
    headers = {c.header for c in columns}
    return [replace(c, header=f"{c.header} ours") if f"{c.header} published" in headers else c for c in columns]


def _cell(row: pd.Series, metric: str) -> str:
    if row["seeds"] == 0:
        return str(row["state"])
    mark = FEWER_SEEDS if row["seeds"] < row["planned"] else ""
    return _mean_and_deviation(row[metric], row[f"{metric}_std"]) + mark


def _published_cell(found: Published | None, value: float | None) -> str:
    if found is None or value is None:
        return NOTHING
    return f"{value:.2f}" + (SECOND_HAND if found.second_hand else "")


def _mean_and_deviation(mean: float, deviation: float, digits: int = 2) -> str:
    if pd.isna(mean):
        return NOTHING
    return f"{mean:.{digits}f}" if pd.isna(deviation) else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _best(values: Sequence[float | None], competing: Sequence[tuple[str, ...]]) -> list[bool]:
    """Which values are the highest among the rows that they compete with; none where there is no second value."""
    if not values:
        return [False] * len(competing)
    best: dict[tuple[str, ...], float] = {}
    for rivals in set(competing):
        mine = [v for v, c in zip(values, competing, strict=True) if c == rivals and v is not None]
        if len(mine) > 1:
            best[rivals] = max(mine)
    return [v is not None and v == best.get(c) for v, c in zip(values, competing, strict=True)]


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")


def tuning_table(results: Results) -> Table | None:
    """What each study found on the validation parts; None where nothing was tuned."""
    units = [u for u in results.units if u.study is not None]
    if not units:
        return None
    text: dict[str, Callable[..., str]] = {
        "Method": lambda u, s: u.tag("method_title", u.method),
        "Data set": lambda u, s: f"{u.tag('dataset_title', u.dataset)}, {u.features}",
        "Mode": lambda u, s: u.mode,
        "Trials": lambda u, s: f"{s['complete'] + s['pruned']} ({s['pruned']} pruned, {s['failed']} failed)",
        "Best trial": lambda u, s: str(s["best_number"]),
        "Validation HM": lambda u, s: f"{100 * s['best_hm']:.2f}",
        "Settings found": lambda u, s: (
            ", ".join(f"{k}={_short(v)}" for k, v in s["best_values"].items()) or "the starting settings"
        ),
    }
    ranks = method_ranks(results)
    units.sort(key=lambda u: (ranks[u.method], u.mode != "paper"))
    cells = pd.DataFrame({name: [make(u, u.study) for u in units] for name, make in text.items()}, dtype=object)
    numeric = {"Trials", "Best trial", "Validation HM"}
    caption = (
        "The search maximises HM on the validation parts (in %), with one seed; trial 0 has the starting settings "
        "(published ones, or defaults). Trials count finished and pruned ones. No test data take part."
    )
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    return Table("tuning", "Tuning", caption, cells, bold, ["all" if c in numeric else "" for c in cells.columns])


def ablation_tables(results: Results) -> list[Table]:
    """For each method of an ablation: the published protocol, each switch corrected alone, and all of them."""
    return [_ablation_table(results, effects) for _, effects in ablation_effects(results.ablation).groupby(ABLATED, sort=False)]


def _ablation_table(results: Results, effects: pd.DataFrame) -> Table:
    first = effects.iloc[0]
    unit = next(u for u in results.units if [u.call, u.dataset, u.features, u.method] == first[ABLATED].tolist())
    lines = [row for _, row in effects.iterrows()]
    names = {"": "none: mode paper", "all": "all: mode corrected"}
    cells = {"Corrected": [names.get(r["ablation"], r["ablation"]) for r in lines]}
    for metric in PUBLISHED_METRICS:
        cells[LABELS[metric]] = [_cell(r, metric) for r in lines]
    for metric in ("hm", "zsl"):
        texts = [_mean_and_deviation(r[f"{metric}_effect"], r[f"{metric}_effect_std"]) for r in lines]
        signed = [t if t == NOTHING or t.startswith("-") else f"+{t}" for t in texts]
        cells[f"Effect on {LABELS[metric]}"] = [
            NOTHING if r["ablation"] == "" else t for r, t in zip(lines, signed, strict=True)
        ]
    frame = pd.DataFrame(cells, dtype=object)
    generated = " Generated data." if unit.tag("dataset_kind") == "generated" else ""
    caption = (
        "Mean per-class accuracy in %. Each row is trained and tested by itself, with mode paper's settings but for the one "
        "switch that it names (docs/protocol.md); the last row corrects all. "
        f"{seeds_sentence(effects)} Effect: difference to the first row in percentage points, seed by seed, then its mean and "
        f"deviation.{generated}"
    )
    title = f"Protocol ablation: {unit.tag('method_title', unit.method)}, {unit.tag('dataset_title', unit.dataset)}, features "
    bold = pd.DataFrame(False, index=frame.index, columns=frame.columns)
    return Table("ablation", title + unit.features, caption, frame, bold, ["", *["all"] * (len(frame.columns) - 1)])


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
