"""Writes a report into a folder: markdown, CSV, figures. Every file is replaced whole; those of an earlier report go."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from benchmark.databases import without_password
from benchmark.report.captions import dataset_title, method_title
from benchmark.report.cells import Table
from benchmark.report.collect import DISJOINT, METRICS, UNIT, Results, collect, curve_of, digests, distinct, records
from benchmark.report.figures import MethodCurve, method_curves_figure
from benchmark.report.published import PublishedTable
from benchmark.report.references import references
from benchmark.report.released import RELEASED
from benchmark.report.significance import comparisons, intervals
from benchmark.report.studies import StudyGroup, study_groups
from benchmark.report.study_figures import importances_figure, searches_figure
from benchmark.report.summary import (
    ablation_effects,
    method_ranks,
    mode_effects,
    numbers_csv,
    order_rows,
    slot_of,
    summarise,
)
from benchmark.report.tables import ORDER, build_tables
from benchmark.tracking import RunRecord, Tracker

MANIFEST = "manifest.json"
VERSIONS = {"torch": "torch", "numpy": "numpy", "Python": "python", "platform": "platform"}
CSV_METRICS = {
    "gzsl": ["seen", "unseen", "hm"],
    "zsl": ["zsl"],
    "disjoint": ["seen", "hm", *DISJOINT],
    "full": [*METRICS, "beta", "epochs"],
    "validation": [*METRICS, "beta", "epochs"],
}


@dataclass(frozen=True)
class Report:
    """A written report."""

    folder: Path
    files: Sequence[Path]
    """All files, ``report.md`` first."""
    tables: Sequence[Table]
    results: Results

    @property
    def markdown(self) -> dict[str, list[str]]:
        """Markdown of the tables by name (``ORDER``)."""
        texts: dict[str, list[str]] = {}
        for table in self.tables:
            texts.setdefault(table.name, []).append(table.markdown())
        return texts

    @property
    def failed(self) -> list[str]:
        """A sentence for each job without a result."""
        return failed_jobs(self.results)


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report with the numbers that it shows."""

    stem: str
    title: str
    figure: Figure
    data: pd.DataFrame
    """Accuracies and importances are fractions."""

    def markdown(self) -> str:
        """The line that shows it."""
        return f"![{self.title.replace(chr(10), ', ')}]({self.stem}.png)"


def write_report(
    tracker: Tracker,
    folder: Path,
    call_ids: Sequence[str] | None = None,
    published: Sequence[PublishedTable] | None = None,
) -> Report:
    """Write the report of some calls (the newest one if None), with the released weights that were tested on their data.

    Args:
        tracker: the store, the only source of results.
        folder: created if need be; files of an earlier report in it are removed, others are left alone.
        call_ids: run ids of calls, or their beginnings.
        published: published tables; those of ``reports/published/`` if None.

    Raises:
        UsageError: no call, an unknown id, or no result yet; then the folder is left as it was.
    """
    results = collect(tracker, call_ids)
    tables = build_tables(results, published)
    curves, groups = curve_figures(tracker, results), study_groups(results)
    searches = [figure for group in groups for figure in study_figures(group)]
    sections = [*_curves_section(curves), *_searches_section(groups, searches)]
    texts = {"report.md": report_markdown(tracker, results, tables, sections), **_csv_files(results, tables, published)}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        for name, text in texts.items():
            (Path(new) / name).write_text(text, encoding="utf-8")
        for figure in [*curves, *searches]:
            figure.figure.draw_without_rendering()  # lays it out
            figure.figure.set_layout_engine("none")  # once: each file would do it again
            figure.figure.savefig(Path(new) / f"{figure.stem}.png", dpi=200)
            figure.figure.savefig(Path(new) / f"{figure.stem}.svg", metadata={"Date": None})
            figure.data.to_csv(Path(new) / f"{figure.stem}.csv", index=False)
        names = _install(Path(new), folder)
    return Report(folder, [folder / name for name in names], tables, results)


def _install(new: Path, folder: Path) -> list[str]:
    """Move new files into place, report.md last, and remove what an earlier report left; returns the names."""
    names = sorted((p.name for p in new.iterdir()), key=lambda name: (name != "report.md", name))
    for name in set(_earlier_files(folder)) - {*names, MANIFEST}:
        (folder / name).unlink(missing_ok=True)
    (new / MANIFEST).write_text(json.dumps({"files": names}, indent=1), encoding="utf-8")
    for name in [MANIFEST, *reversed(names)]:
        os.replace(new / name, folder / name)
    return names


def _earlier_files(folder: Path) -> list[str]:
    """Files that an earlier report wrote, by its manifest; plain names only, so that nothing outside can be meant."""
    try:
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [n for n in names if isinstance(n, str) and re.fullmatch(r"[\w][\w.+-]*", n)]


def _csv_files(results: Results, tables: Sequence[Table], published: Sequence[PublishedTable] | None) -> dict[str, str]:
    ranks, given = method_ranks(results), None if published is None else tuple(published)
    names = {t.name for t in tables}
    files = {}
    for name, metrics in CSV_METRICS.items():
        if name in names:
            rows = order_rows(summarise(results.validation if name == "validation" else results.test), ranks)
            rows = rows[rows["disjoint_samples"].notna()].reset_index(drop=True) if name == "disjoint" else rows
            files[f"{name}.csv"] = _csv(numbers_csv(rows, metrics, given))
    if "modes" in names:
        files["modes.csv"] = _csv(order_rows(mode_effects(results.test, results.settings), ranks).drop(columns="slot").round(6))
    if "intervals" in names:
        files["intervals.csv"] = _csv(intervals(results, published).drop(columns="slot").round(6))
    if "comparisons" in names:
        files["comparisons.csv"] = _csv(comparisons(results).round(6))
    if "references" in names:
        files["references.csv"] = _csv(references(results, published))
    if "ablation" in names:
        files["ablation.csv"] = _csv(ablation_effects(results.ablation).round(6))
    frames = [f for f in (results.test, results.validation) if len(f)]
    if frames:
        files["results.csv"] = _csv(pd.concat(frames, ignore_index=True))
    return files


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, lineterminator="\n"))


def curve_figures(tracker: Tracker, results: Results) -> list[ReportFigure]:
    """A figure for each data set, features, mode, alignment and kind of settings: a curve per method, of its first seed."""
    done = results.test[results.test["state"] == "done"]
    ranks, figures = method_ranks(results), []
    slots = done.assign(slot=done["variant"].map(slot_of))
    for key, group in slots.groupby([*UNIT[:-1], "slot"], sort=False):
        dataset, features, mode, alignment, slot = map(str, key)
        firsts = group.sort_values("repetition", kind="stable").drop_duplicates("method")
        firsts = firsts.sort_values("method", key=lambda names: names.map(ranks), kind="stable")
        curves, points = [], []
        for row in records(firsts):
            curve = curve_of(tracker, row["run_id"])
            if curve is not None and len(curve):
                title = method_title(results, row["method"])
                curves.append(MethodCurve(title, curve, (row["unseen"], row["seen"]), ranks[row["method"]]))
                points.append(curve.assign(method=row["method"], repetition=row["repetition"]))
        if curves:
            data = pd.concat(points, ignore_index=True)[["method", "repetition", "beta", "seen", "unseen"]]
            generated = ", generated data" if "generated" in set(group["kind"]) else ""
            place = f"{dataset_title(results, dataset)} ({features}{generated}), mode {mode}, {alignment} text"
            trained = f"{' / '.join(distinct(group['variant']))} settings, seed {firsts['repetition'].iloc[0]}"
            title = f"{place}\n{'released weights' if slot == RELEASED else trained}"
            stem = re.sub(r"[^\w.+-]", "-", f"curve-{dataset}-{features}-{mode}-{alignment}-{slot}")
            figures.append(ReportFigure(stem, title, method_curves_figure(curves, title), data))
    return figures


def study_figures(group: StudyGroup) -> list[ReportFigure]:
    """The searches of a data set, features and mode, and their importances where there are any."""
    title = f"Best validation HM so far: {group.title}"
    figures = [ReportFigure(f"tuning-{group.stem}", title, searches_figure(group.curves, title), group.searches)]
    if group.panels:
        title = f"Importances of the searched settings: {group.title}"
        drawn = importances_figure(group.panels, f"{title}\n{group.evaluator}")
        figures.append(ReportFigure(f"importances-{group.stem}", title, drawn, group.importances))
    return figures


def failed_jobs(results: Results) -> list[str]:
    """A sentence for each job without a result."""
    return [p.sentence(method_title(results, p.method)) for p in results.problems]


def report_markdown(tracker: Tracker, results: Results, tables: Sequence[Table], sections: Sequence[str]) -> str:
    """The whole report as markdown.

    Args:
        sections: paragraphs of the figures.
    """
    datasets = distinct(u.tag("dataset_title", u.dataset) for u in results.units)
    parts = [f"# Audio-visual generalised zero-shot learning: {', '.join(datasets)}"]
    unfinished = [c for c in results.calls if c.status in ("RUNNING", "KILLED")]
    if unfinished:
        parts.append("**Not complete.** A call still runs or was interrupted; this report holds what is done so far.")
    parts += [t.markdown(f"## Table {i}.") for i, t in enumerate(tables, 1)]
    parts += sections
    lost = failed_jobs(results)
    if lost:
        parts += ["## Jobs without a result", "\n".join(f"- {_one_line(text)}" for text in lost)]
    parts += ["## Provenance", "\n".join(f"- {line}" for line in _provenance(tracker, results))]
    parts += ["## Files", _files(tables)]
    return "\n\n".join(p.strip() for p in parts) + "\n"


def _curves_section(figures: Sequence[ReportFigure]) -> list[str]:
    text = (
        "Seen and unseen accuracy as the calibration beta varies, first seed of each method. Filled marker: the beta "
        "chosen on validation. Grey: lines of equal harmonic mean. The numbers stand beside each figure as CSV."
    )
    return ["## Seen-unseen curves", text, *(f.markdown() for f in figures)] if figures else []


def _searches_section(groups: Sequence[StudyGroup], figures: Sequence[ReportFigure]) -> list[str]:
    if not groups:
        return []
    text = (
        "Highest validation HM of a finished trial so far, by the number of trials and by what these took; pruned trials "
        "count in both, failed ones in time only. The first point is that of the starting settings. The trials stand beside "
        "each figure as CSV; the settings of each trial are in the artifact `trials.csv` of the method's run."
    )
    parts = ["## Searches", text]
    if any(group.panels for group in groups):
        parts.append(
            "Importances: the variance of validation HM over the searched ranges that each setting explains by itself, by a "
            "random forest over the finished trials, as shares that sum to 100 %. They are rough where trials are few."
        )
    parts += [figure.markdown() for figure in figures]
    return [*parts, *(f"No importances on {g.title}: {'; '.join(g.without)}." for g in groups if g.without)]


def _one_line(text: str, limit: int = 500) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[:limit] + " …"


def _files(tables: Sequence[Table]) -> str:
    present = {t.name for t in tables}
    names = [f"`{n}.csv`" for n in ORDER if n in present - {"tuning"}]
    lines = [f"- {', '.join(names)}: the numbers of the tables, in percent, not rounded"] if names else []
    if present & {"full", "validation"}:
        lines.append("- `results.csv`: a line per job, accuracies as fractions")
    return "\n".join(lines) or "- no tables but that of tuning: nothing else was done"


def _provenance(tracker: Tracker, results: Results) -> list[str]:
    lines = []
    for call in results.calls:
        started = datetime.fromtimestamp(call.start, UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(f"Call `{call.run_id}`, first started {started}, {call.status.lower()}: `{call.tags.get('command', '?')}`")
    in_tables = {*results.test["job_key"], *results.validation["job_key"]}
    used = [r for key, r in results.runs.items() if key in in_tables]
    tested = [*used, *(weights.run for weights in results.released)]
    lines.append(f"Code revision: {_tag_values([*tested, *results.calls], 'git_revision')}")
    versions = (f"{label} {_tag_values(tested, tag)}" for label, tag in VERSIONS.items())
    lines.append(", ".join(versions))
    devices = distinct(r.tags.get("cuda_device", "") for r in tested)
    lines.append(f"GPU: {', '.join(devices)}" if devices else "No GPU in use")
    frames = [f for f in (results.test, results.validation) if len(f)]
    known = digests(tracker, pd.concat(frames, ignore_index=True)) if frames else {}
    for (dataset, features, split), values in known.items():
        what = "train, validation and test" if split == "test" else "train and validation"
        lines.append(f"Data digest of {dataset}/{features} ({what}): {', '.join(f'`{v}`' for v in values)}")
    elsewhere = sum(r.parent not in results.method_runs for r in used)
    if elsewhere:
        lines.append(f"{elsewhere} of {len(used)} jobs were run by another call and reused")
    for weights in results.released:
        tags = weights.run.tags
        place = f"{tags['dataset']}/{tags['features']}, mode {tags['mode']}, {tags.get('alignment', 'unknown')} text"
        origin = f"weights `{tags.get('weights_digest', '?')}` from {tags.get('source') or 'a place not recorded'}"
        data = f"tested on data `{tags.get('data_digest', '?')}`, run `{weights.run.run_id}`"
        lines.append(f"Released weights of {method_title(results, tags['method'])} on {place}: {origin}, {data}")
    return [*lines, f"Tracking store: {without_password(tracker.uri)}"]


def _tag_values(runs: Sequence[RunRecord], tag: str) -> str:
    return ", ".join(distinct(r.tags.get(tag, "") for r in runs)) or "not recorded"
