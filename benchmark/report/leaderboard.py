"""Writes a static site from several reports: best and latest result of each method, all results, and the
reports.

It needs only the reports' own files (manifest and ``full.csv``), not a tracking store.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.errors import UsageError
from benchmark.report.folder import MANIFEST, install, listed_files, read_manifest
from benchmark.report.page.page import PLACE, Cell, Grid, Row, choices, number_of, render
from benchmark.report.published_page import (
    HTML,
    MARKDOWN,
    OwnResult,
    published_markdown,
    published_page,
)
from benchmark.report.results.collect import distinct, records
from benchmark.report.results.released import RELEASED
from benchmark.report.tables.captions import pretraining_lines
from benchmark.report.tables.table import FLAG_MARKS, NOTHING, flag_lines, protocol_text, spread_of
from benchmark.system.shipped_files import program
from benchmark.tracking.schema import current_alignment

PAGE, RESULTS = "index.html", "full.csv"
METRICS = ("S", "U", "HM", "ZSL")
TEXTS = ("dataset", "features", "mode", "alignment", "method", "settings")


@dataclass(frozen=True)
class Source:
    """A report of the site."""

    name: str
    """Name of its folder in the site."""
    folder: Path
    facts: Mapping[str, Any]
    """``manifest.facts``."""
    files: Sequence[str]

    @property
    def date(self) -> str:
        """When its newest run ended (UTC)."""
        return datetime.fromtimestamp(float(self.facts["made"]), UTC).strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True)
class Entry:
    """A row of a report: a method with some settings on a dataset."""

    source: Source
    row: Mapping[str, Any]
    """A line of ``full.csv``."""
    unit: Mapping[str, Any]
    """The unit in the manifest; empty if it is not there."""
    data: str
    """Start of the hash of the data."""

    @property
    def place(self) -> tuple[str, ...]:
        """``PLACE`` and the data: results compete if these are equal."""
        return (*(str(self.row[name]) for name in PLACE), self.data)

    @property
    def method(self) -> str:
        """The method's title."""
        return str(self.unit.get("method_title") or self.row["method"])

    @property
    def hm(self) -> float:
        """Mean harmonic mean, percent."""
        return float(self.row["HM_percent"])

    @property
    def released(self) -> bool:
        """Whether these are released weights, which do not compete with means over seeds."""
        return str(self.row["settings"]).split(" ")[0] == RELEASED

    @property
    def transductive(self) -> bool:
        """Whether the row is transductive, so that it does not compete with the others."""
        return str(self.row.get("transductive", "")).lower() == "true"

    @property
    def comparable(self) -> bool:
        """Whether it is comparable with the published number of its method. Earlier reports do not record
        it."""
        return bool(self.row.get("published_origin")) and not self.row.get("published_differs_in")

    @property
    def keys(self) -> dict[str, str]:
        """``PLACE``, by which readers filter."""
        return {name: str(self.row[name]) for name in PLACE}


@dataclass(frozen=True)
class Leaderboard:
    """A written site."""

    page: Path
    reports: Sequence[Source]
    entries: Sequence[Entry]


def write_leaderboard(folders: Sequence[Path], site: Path) -> Leaderboard:
    """Write a site of several reports: a page, a copy of each report, and ``.nojekyll`` for GitHub Pages.

    Args:
        folders: folders of reports, in any order.
        site: created if needed. Reports of an earlier site that are not listed any more are removed, other
            files are kept.

    Raises:
        UsageError: folders without a usable report (all are listed), no test results, or a site inside a
            report or around one. The site does not change.
    """
    sources = _sources(folders)
    _check_place(sources, site)
    entries = [entry for source in sources for entry in _entries(source)]
    if not entries:
        raise UsageError("--leaderboard: none of these reports has test results (full.csv is missing)")
    earlier = [
        n
        for n in read_manifest(site).get("reports", [])
        if isinstance(n, str) and re.fullmatch(r"\w[\w.+-]*", n)
    ]
    site.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=site) as new:
        for source in sources:
            copy = Path(new) / source.name
            copy.mkdir()
            for name in source.files:
                shutil.copyfile(source.folder / name, copy / name)
            (site / source.name).mkdir(exist_ok=True)
            install(copy, site / source.name, PAGE, {"report": source.facts})
        names = [s.name for s in sources]
        own = _own(entries)
        pages = {PAGE: _page(sources, entries), HTML: published_page(own), MARKDOWN: published_markdown(own)}
        for name, text in pages.items():
            (Path(new) / name).write_text(text, encoding="utf-8")
        (Path(new) / ".nojekyll").write_text("", encoding="utf-8")
        install(Path(new), site, PAGE, {"reports": names})
    for name in set(earlier) - set(names):
        _remove(site / name)
    return Leaderboard(site / PAGE, sources, entries)


def _sources(folders: Sequence[Path]) -> list[Source]:
    """The reports, newest first."""
    if not folders:
        raise UsageError(
            "--leaderboard: name the folders of the reports, such as report --leaderboard reports/a reports/b"
        )
    faults = [f"--leaderboard {folder}: {fault}" for folder in folders if (fault := _fault(folder))]
    if faults:
        raise UsageError("\n".join(faults))
    unique = list({folder.resolve(): folder for folder in folders})
    sources = [Source("", f, read_manifest(f)["report"], listed_files(f)) for f in unique]
    sources.sort(key=lambda s: (-float(s.facts["made"]), str(s.folder)))
    names: list[str] = []
    for source in sources:
        base = re.sub(r"[^\w.+-]", "-", source.folder.name).lstrip("-.+") or "report"
        taken = sum(n == base or n.rpartition("-")[0] == base for n in names)
        name = base if base not in names else f"{base}-{taken + 1}"
        while name in names:
            name += "x"
        names.append(name)
    return [Source(name, s.folder, s.facts, s.files) for name, s in zip(names, sources, strict=True)]


def _fault(folder: Path) -> str:
    """The reason why a folder cannot be shown; empty if it can."""
    if not folder.is_dir():
        return "no such folder"
    manifest = read_manifest(folder)
    if "reports" in manifest:
        return "a leaderboard, not a report; name the folders of the reports"
    if not manifest:
        return f"not a report ({MANIFEST} is missing or damaged); write one with: {program()} report"
    facts = manifest.get("report")
    known = (
        isinstance(facts, dict)
        and isinstance(facts.get("made"), int | float)
        and isinstance(facts.get("units"), list)
    )
    if not known or PAGE not in listed_files(folder):
        return f"a report of an earlier version; write it again with: {program()} report"
    gone = [name for name in listed_files(folder) if not (folder / name).is_file()]
    if gone:
        return f"files of the report are missing: {', '.join(gone)}; write it again"
    missing = _missing_columns(folder / RESULTS) if RESULTS in listed_files(folder) else []
    return f"{RESULTS} has no column {', '.join(missing)}; write the report again" if missing else ""


def _missing_columns(file: Path) -> list[str]:
    """Columns that a leaderboard needs but a file of results does not have."""
    try:
        columns = set(pd.read_csv(file, nrows=0))
    except ValueError:
        columns = set()
    return [name for name in (*TEXTS, "HM_percent", "seeds", "seeds_planned") if name not in columns]


def _check_place(sources: Sequence[Source], site: Path) -> None:
    place = site.resolve()
    for source in sources:
        if place == source.folder or place in source.folder.parents or source.folder in place.parents:
            raise UsageError(
                f"--out {site}: the site and the report {source.folder} must not contain each other; choose "
                "another folder"
            )
    if site.exists() and not site.is_dir():
        raise UsageError(f"--out {site}: is a file; choose a folder")
    ours = listed_files(site) if "reports" in read_manifest(site) else []
    for name in (PAGE, HTML, MARKDOWN):
        if (site / name).exists() and name not in ours:
            raise UsageError(
                f"--out {site}: contains another page ({name}), which is not overwritten; choose another "
                "folder"
            )


def _remove(folder: Path) -> None:
    """Remove a report of an earlier site; keep other files."""
    for name in [*listed_files(folder), MANIFEST]:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _entries(source: Source) -> list[Entry]:
    """The rows of a report that have a result."""
    file = source.folder / RESULTS
    if file.name not in source.files:
        return []
    frame = pd.read_csv(
        file, dtype=dict.fromkeys(TEXTS, str), keep_default_na=False, na_values={m: [""] for m in _numbers()}
    )
    frame["alignment"] = frame["alignment"].map(current_alignment)
    facts = [{**u, "alignment": current_alignment(u.get("alignment"))} for u in source.facts.get("units", [])]
    units = {tuple(str(u.get(n)) for n in (*PLACE, "method")): u for u in facts}
    data = source.facts.get("data", {})
    entries = []
    for row in records(frame):
        if not pd.isna(row["HM_percent"]):
            digests = data.get(f"{row['dataset']}/{row['features']}", [])
            unit = units.get(tuple(str(row[n]) for n in (*PLACE, "method")), {})
            entries.append(Entry(source, row, unit, "+".join(str(d)[:8] for d in digests)))
    return entries


def _own(entries: Sequence[Entry]) -> list[OwnResult]:
    """The entries as the page of published numbers shows them; of equal rows that of the newest report."""
    newest: dict[tuple[str, ...], Entry] = {}
    for entry in sorted(entries, key=lambda e: -float(e.source.facts["made"])):
        newest.setdefault((*entry.place, entry.row["method"], entry.row["settings"]), entry)
    return [
        OwnResult(
            e.row["dataset"],
            e.row["features"],
            e.row["method"],
            {metric: _number(e, metric).text for metric in METRICS},
            "; ".join(_facts(e)),
            f"{e.source.name}/{PAGE}",
            e.comparable,
        )
        for e in newest.values()
    ]


def _facts(entry: Entry) -> list[str]:
    """What distinguishes a row of ours: protocol, settings, seeds, kind of data, report."""
    seeds = _seeds(entry)
    facts = [protocol_text(entry.row), _settings(entry), f"{seeds} seed{'s' * (seeds != '1')}"]
    facts += ["synthetic data"] if entry.unit.get("generated") else []
    facts += ["transductive"] if entry.transductive else []
    return [*facts, entry.source.name]


def _numbers() -> list[str]:
    return [f"{m}{suffix}_percent" for m in METRICS for suffix in ("", "_low", "_high")]


def _page(sources: Sequence[Source], entries: Sequence[Entry]) -> str:
    places: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        if not entry.released:
            places.setdefault(entry.place, []).append(entry)
    several = {place[:-1] for place in places if sum(p[:-1] == place[:-1] for p in places) > 1}
    grids = [
        _board(i, mine, several=mine[0].place[:-1] in several) for i, mine in enumerate(places.values(), 1)
    ]
    return render(
        "leaderboard.html",
        title="Audio-visual generalised zero-shot learning: leaderboard",
        choices=choices(e.keys for e in entries),
        grids=grids,
        everything=_everything(entries),
        published=HTML,
        sources=sources,
        titles={
            s.name: ", ".join(distinct(str(u.get("dataset_title", "")) for u in s.facts.get("units", [])))
            for s in sources
        },
    )


def _board(number: int, entries: Sequence[Entry], *, several: bool) -> Grid:
    """The methods that compete, best first, each with its best and its latest result.

    Transductive results of a method have their own row and no rank.
    """
    methods: dict[tuple[str, bool], list[Entry]] = {}
    for entry in entries:
        methods.setdefault((entry.row["method"], entry.transductive), []).append(entry)
    best = {key: max(mine, key=lambda e: e.hm) for key, mine in methods.items()}
    ordered = sorted(methods, key=lambda key: -best[key].hm)
    ranks = {key: i for i, key in enumerate((key for key in ordered if not best[key].transductive), 1)}
    rows = []
    for key in ordered:
        mine, rank = methods[key], ranks.get(key)
        newest = max(float(e.source.facts["made"]) for e in mine)
        latest = max((e for e in mine if float(e.source.facts["made"]) == newest), key=lambda e: e.hm)
        mark = "" if rank else FLAG_MARKS["transductive"]
        cells = [Cell(best[key].method + mark, label=True), Cell(str(rank or NOTHING), rank)]
        cells += [*_cells(best[key], bold=rank == 1), *_cells(latest, bold=False)]
        rows.append(Row(cells, best[key].keys))
    head = ["HM", "ZSL", "Settings", "Seeds", "Report"]
    numeric = [False, True, *([True, True, False, False, False] * 2)]
    spans = [("", 2), ("Best", len(head)), ("Latest", len(head))]
    headers = ["Method", "Rank", *head, *head]
    notes = flag_lines("".join(row.cells[0].text for row in rows))
    notes += pretraining_lines([entries[0].row["features"]])
    title = _board_title(entries[0], several=several)
    return Grid(f"board-{number}", title, spans, headers, numeric, rows, notes=notes)


def _board_title(first: Entry, *, several: bool) -> str:
    """What the entries of a board have in common.

    Args:
        several: whether there are boards of other data with the same names.
    """
    generated = ", synthetic data" if first.unit.get("generated") else ""
    dataset = first.unit.get("dataset_title") or first.row["dataset"]
    data = f", data {first.data or 'of unknown hash'}" if several else ""
    return f"{dataset}, features {first.row['features']}{generated}: mode {protocol_text(first.row)}{data}"


def _cells(entry: Entry, *, bold: bool) -> list[Cell]:
    numbers = [_number(entry, metric, bold=bold and metric == "HM") for metric in ("HM", "ZSL")]
    return [*numbers, Cell(_settings(entry)), Cell(_seeds(entry)), _link(entry.source)]


def _number(entry: Entry, metric: str, *, bold: bool = False) -> Cell:
    numbers = {
        metric + end: entry.row.get(f"{metric}{end}_percent", float("nan")) for end in ("", "_low", "_high")
    }
    text = spread_of({**numbers, "seeds": entry.row["seeds"]}, metric)
    return Cell(text, number_of(text), bold)


def _settings(entry: Entry) -> str:
    budget = entry.unit.get("budget")
    settings = str(entry.row["settings"])
    return f"{settings} ({budget})" if budget and settings.startswith("tuned") else settings


def _seeds(entry: Entry) -> str:
    seeds, planned = entry.row["seeds"], entry.row["seeds_planned"]
    return str(seeds) if seeds == planned else f"{seeds} of {planned}"


def _link(source: Source) -> Cell:
    return Cell(f"{source.name}, {source.date}", link=f"{source.name}/{PAGE}")


def _everything(entries: Sequence[Entry]) -> Grid:
    """A row for each result of each report, newest first."""
    heads = ["Method", "Dataset", "Protocol", "Settings", *METRICS, "Seeds", "Data", "Revision", "Report"]
    numeric = [name in METRICS for name in heads]
    rows = []
    for e in entries:
        dataset = f"{e.unit.get('dataset_title') or e.row['dataset']}, {e.row['features']}"
        texts = [e.method, dataset, protocol_text(e.row), _settings(e)]
        cells = [Cell(t, label=i == 0) for i, t in enumerate(texts)]
        cells += [*(_number(e, m) for m in METRICS), Cell(_seeds(e))]
        cells += [Cell(e.data or NOTHING), Cell(str(e.source.facts.get("revision") or NOTHING)[:12])]
        rows.append(Row([*cells, _link(e.source)], e.keys))
    return Grid("everything", "All results of all reports", (), heads, numeric, rows)
