"""Renders a report as one self-contained HTML page: sortable tables, filters, runs of each method, figures.

The page comes from ``templates/``. All texts from the store are escaped. The page's security policy forbids
other scripts and any loading.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from markupsafe import escape as html_escape

from benchmark.errors import UsageError
from benchmark.report.page.runs import COLUMNS, LABELLING, Run, method_runs, resolved_settings
from benchmark.report.results.collect import Results, records, synthetic
from benchmark.report.results.released import RELEASED
from benchmark.report.results.transductive import transductive
from benchmark.report.sections import Image, Section
from benchmark.report.tables.captions import dataset_title, method_title, settings_text
from benchmark.report.tables.means import LABELS, summarise
from benchmark.report.tables.table import Table, short_assignment, spread_of
from benchmark.tracking.tracker import AS_TRAINING

TEMPLATES = Path(__file__).parent / "templates"
MLFLOW_UI = "http://127.0.0.1:5000"
"""Default address of MLflow's pages."""
SWITCHES = {"mode": "Mode", "alignment": "Class-to-embedding assignment", "features": "Features"}
"""What readers can filter rows and figures by."""
PLACE = ["dataset", "features", "mode", "alignment"]


@dataclass(frozen=True)
class Cell:
    """A cell of a table on a page."""

    text: str
    sort: float | None = None
    """Its number (a mean); None if it has none."""
    bold: bool = False
    label: bool = False
    """Whether it names the row."""
    method: str = ""
    """Method whose runs it opens."""
    link: str = ""
    title: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table on a page."""

    cells: Sequence[Cell]
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Grid:
    """A table on a page."""

    id: str
    title: str
    spans: Sequence[tuple[str, int]]
    headers: Sequence[str]
    numeric: Sequence[bool]
    rows: Sequence[Row]
    caption: str = ""
    notes: Sequence[str] = ()


def number_of(text: str) -> float | None:
    """The number at the start of a cell's text, such as the mean of ``12.34 ± 0.56``; commas may separate
    thousands."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.replace("−", "-"))
    found = re.match(r"(?:< )?([+-]?\d+(?:\.\d+)?)", plain)
    return float(found[1]) if found else None


def grid(table: Table, name: str, title: str) -> Grid:
    """A table of a report as a table of a page."""
    columns = table.cells.to_numpy().T.tolist()
    numeric = [_numeric(texts) for texts in columns]
    heads = [str(c) for c in table.cells.columns]
    rows = []
    for i, (texts, bests) in enumerate(table.rows()):
        keys = table.keys[i] if table.keys else {}
        cells = [
            Cell(
                text,
                number_of(text) if numeric[j] else None,
                bests[j],
                label=j == 0,
                method=keys.get("method", "") if heads[j] == "Method" else "",
            )
            for j, text in enumerate(texts)
        ]
        rows.append(Row(cells, keys))
    return Grid(name, title, table.spans(), table.headers(), numeric, rows, table.text, table.notes)


def _numeric(texts: Iterable[str]) -> bool:
    """Whether a column is sorted by number: most of its texts begin with one."""
    filled = [t for t in texts if t not in ("", "–")]
    return bool(filled) and sum(number_of(t) is not None for t in filled) > len(filled) / 2


@dataclass(frozen=True)
class Highlight:
    """The best results on a dataset and feature set under a protocol."""

    title: str
    lines: Sequence[tuple[str, str, str]]
    """Metric, value, method."""
    keys: Mapping[str, str]


def highlights(results: Results) -> list[Highlight]:
    """The highest HM and ZSL of methods trained here, without controls and transductive rows: test results
    or, if nothing was tested, validation results."""
    tested = bool((results.test["state"] == "done").any())
    summary = summarise(results.test if tested else results.validation)
    found = []
    ours = (summary["variant"] != RELEASED) & ~summary["method"].isin(results.controls)
    ours &= ~pd.Series([transductive(results, row) for row in records(summary)], summary.index, bool)
    for key, rows in summary[(summary["seeds"] > 0) & ours].groupby(PLACE, sort=False):
        dataset, features, mode, alignment = map(str, key)
        lines = []
        for metric in ("hm", "zsl"):
            known = rows.dropna(subset=[metric])
            if len(known):
                best = known.sort_values(metric, kind="stable").iloc[-1]
                value = spread_of(best, metric)
                settings = settings_text(best["variant"], best["settings"])
                who = f"{method_title(results, best['method'])}, {settings}"
                lines.append((LABELS[metric] if tested else f"Validation {LABELS[metric]}", value, who))
        place = f"{dataset_title(results, dataset)}, {features}{synthetic(rows)}"
        title = f"{place}: mode {mode}, {short_assignment(alignment)}"
        found.append(Highlight(title, lines, dict(zip(PLACE, map(str, key), strict=True))))
    return found


def runs_grid(runs: Sequence[Run], name: str, title: str, link: str) -> Grid:
    """The runs of a method as a table.

    Args:
        link: ``run_link``.
    """
    numeric = [name not in LABELLING for name in COLUMNS]
    rows = []
    for run in runs:
        cells = [
            Cell(
                text,
                number_of(text) if numeric[j] else None,
                label=j == 0,
                title=run.error if COLUMNS[j] == "State" else "",
            )
            for j, text in enumerate(run.cells)
        ]
        last = Cell(run.error or "none")
        if run.run_id:
            last = Cell(run.run_id[:8], link=f"{link}{run.run_id}?{urlencode(AS_TRAINING)}")
        rows.append(Row([*cells, last], run.keys))
    return Grid(name, title, (), [*COLUMNS, "Run"], [*numeric, False], rows)


def run_link(address: str, experiment: str) -> str:
    """The address of a run in MLflow, without the id at its end.

    Raises:
        UsageError: ``address`` is not a web address.
    """
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).netloc:
        raise UsageError(f"--mlflow-ui {address}: not a web address; write for example {MLFLOW_UI}")
    return f"{address.rstrip('/')}/#/experiments/{experiment}/runs/"


def choices(keys: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """The values that occur of each of ``SWITCHES``."""
    known = list(keys)
    return {name: list(dict.fromkeys(k[name] for k in known if k.get(name))) for name in SWITCHES}


def report_page(
    title: str,
    results: Results,
    protocol: Sequence[str],
    tables: Mapping[str, Table],
    sections: Sequence[Section],
    images: Mapping[str, Image],
    *,
    incomplete: str,
    failed: Sequence[str],
    not_written: Sequence[str],
    provenance: Sequence[str],
    configs: Mapping[str, str],
    files: Sequence[str],
    link: str,
) -> str:
    """The page of a report.

    Args:
        protocol: what holds for all tables, a line per fact.
        tables: tables by file name.
        images: images by stem of their figure.
        incomplete: a sentence if the report is not complete.
        failed: a sentence for each job that failed or did not run.
        not_written: a line for each item that could not be made or logged.
        configs: options of each benchmark run.
        files: the other files of the report.
        link: ``run_link``.
    """
    grids = [
        grid(t, f"table-{name}", f"Table {i}. {t.title}") for i, (name, t) in enumerate(tables.items(), 1)
    ]
    listed = list(enumerate(method_runs(results)))
    methods = [(m, runs_grid(m.runs, f"runs-table-{i}", f"Runs of {m.title}", link)) for i, m in listed]
    shown = [row.keys for g in [*grids, *(g for _, g in methods)] for row in g.rows]
    return render(
        "report.html",
        title=title,
        incomplete=incomplete,
        choices=choices([*shown, *(f.keys for s in sections for f in s.figures)]),
        highlights=highlights(results),
        tested=bool((results.test["state"] == "done").any()),
        counts=_counts(results),
        protocol=protocol,
        grids=grids,
        methods=methods,
        has_runs={m.method: f"runs-{i}" for i, (m, _) in enumerate(methods)},
        sections=[s for s in sections if s.markdown()],
        images=images,
        failed=failed,
        not_written=not_written,
        provenance=provenance,
        configs=configs,
        settings=resolved_settings(results),
        files=files,
    )


def _counts(results: Results) -> str:
    jobs = [*records(results.validation), *records(results.test)]
    trained = [j for j in jobs if j["variant"] != RELEASED]
    done = sum(j["state"] == "done" for j in trained)
    methods, sets = len({u.method for u in results.units}), len({u.dataset for u in results.units})
    parts = [f"{methods} method{'s' * (methods != 1)}", f"{sets} dataset{'s' * (sets != 1)}"]
    return ", ".join(
        [*parts, f"{done} of {len(trained)} jobs finished" if trained else "released weights only"]
    )


def _data_uri(content: bytes) -> str:
    kind = "png" if content.startswith(b"\x89PNG") else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def render(template: str, **content: Any) -> str:
    """A page from a template, with style and script included."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "data_uri": _data_uri}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    shared = {"style": Markup(style), "script": Markup(script), "policy": policy, "switches": SWITCHES}
    return environment.get_template(f"{template}.j2").render(**shared, **content)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _code(text: str) -> Markup:
    """HTML of a text; text between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(html_escape(text))))
