"""Writes a report into a folder: markdown, CSV, figures. Every file is replaced whole; those of an earlier report go."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.figures.curves import MethodCurve, best_of, method_curves_figure
from benchmark.figures.searches import importances_figure, searches_figure
from benchmark.report.explain import explain
from benchmark.report.folder import facts, install, is_whole, listed_files, made_from, read_manifest
from benchmark.report.page.page import MLFLOW_UI, report_page, run_link
from benchmark.report.parallel import side_by_side
from benchmark.report.results.choice import Choice
from benchmark.report.results.collect import (
    DISJOINT,
    METRICS,
    UNIT,
    Results,
    artifact_text,
    collect,
    curve_of,
    digests,
    distinct,
    records,
    slot_of,
)
from benchmark.report.results.published import published_problems
from benchmark.report.results.released import RELEASED
from benchmark.report.sections import Picture, ReportFigure, Section, save_figure
from benchmark.report.tables.build import ORDER, build_tables
from benchmark.report.tables.captions import dataset_title, method_title
from benchmark.report.tables.cost import costs
from benchmark.report.tables.latex import latex_files, table_names
from benchmark.report.tables.means import (
    ablation_effects,
    method_ranks,
    mode_effects,
    numbers_csv,
    order_rows,
    summarise,
)
from benchmark.report.tables.recall import recall_csv
from benchmark.report.tables.references import references
from benchmark.report.tables.significance import comparisons, intervals
from benchmark.report.tables.studies import StudyGroup, study_groups, tuning_csv
from benchmark.report.tables.table import Table
from benchmark.system.beside import Beside, Guard, not_written, unguarded
from benchmark.system.databases import without_password
from benchmark.system.redaction import link_to
from benchmark.tracking.schema import Artifact, Tag
from benchmark.tracking.tracker import RunRecord, Tracker

PAGE = "index.html"
VERSIONS = {
    "torch": Tag.TORCH,
    "numpy": Tag.NUMPY,
    "Python": Tag.PYTHON,
    "platform": Tag.PLATFORM,
    "CPU instruction set": Tag.CPU_CAPABILITY,
    "linear algebra": Tag.BLAS,
}
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
    not_written: Sequence[str] = ()
    """What could not be made of it, with the reason: ``name: reason``."""

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


def write_report(
    tracker: Tracker,
    folder: Path,
    call_ids: Sequence[str] | None = None,
    mlflow_ui: str | None = None,
    choice: Choice | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Write the report of some calls (the newest one if None), with the released weights that were tested on their data.

    A folder that holds just this report already is left as it is. A table, figure or file that cannot be made is left out, and
    the report says so.

    Args:
        tracker: the store, the only source of results.
        folder: created if need be; files of an earlier report in it are removed, others are left alone.
        call_ids: run ids of calls, or their beginnings; ``all`` for every call.
        mlflow_ui: address to which the page's links to runs lead; the tracking server's if None, or else ``MLFLOW_UI``.
        choice: the methods, data sets, feature sets and modes that are wanted; all if None.
        say: tells the user of what could not be made.

    Raises:
        UsageError: no call, an unknown id or name, no result yet, or an address that is none; then the folder is left as it
            was.
    """
    address = link_to(mlflow_ui) if mlflow_ui else (link_to(tracker.uri) if tracker.uri.startswith("http") else MLFLOW_UI)
    link = run_link(address, tracker.experiment_id)
    results, beside = collect(tracker, call_ids, choice), Beside(say)
    tables = build_tables(results, beside)
    texts = {**_csv_files(results, tables, beside), **latex_files(tables, beside)}
    provenance, configs = _provenance(tracker, results), _configs(tracker, results)
    stated = [*texts.values(), *(t.markdown() for t in tables), *provenance, *configs.values(), link]
    inputs = made_from(results, stated)
    if read_manifest(folder).get("made_from") == inputs and is_whole(folder):
        return Report(folder, [folder / name for name in listed_files(folder)], tables, results)
    sections = _sections(tracker, results, beside)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        for name, text in texts.items():
            (Path(new) / name).write_text(text, encoding="utf-8")
        figures = [figure for section in sections for figure in section.figures]
        saved = side_by_side(partial(save_figure, folder=Path(new)), figures)
        found = {figure.stem: picture for figure, picture in zip(figures, saved, strict=True)}
        beside.note({f"figure {stem}": reason for stem, reason in found.items() if isinstance(reason, str)})
        pictures = {stem: picture for stem, picture in found.items() if isinstance(picture, Picture)}
        sections = [s.only(pictures) for s in sections]
        with beside(PAGE):
            page = report_page(
                title_of(results),
                results,
                dict(zip(table_names(tables), tables, strict=True)),
                sections,
                pictures,
                incomplete=_incomplete(results),
                lost=failed_jobs(results),
                not_written=[*not_logged(results), *beside.lines()],
                provenance=provenance,
                configs=configs,
                files=sorted({"report.md", *(p.name for p in Path(new).iterdir())}),
                link=link,
            )
            (Path(new) / PAGE).write_text(page, encoding="utf-8")
        text = report_markdown(results, tables, sections, provenance, [*not_logged(results), *beside.lines()])
        (Path(new) / "report.md").write_text(text, encoding="utf-8")
        about = {"report": facts(tracker, results), **({} if beside.failed else {"made_from": inputs})}
        names = install(Path(new), folder, "report.md", about)
    return Report(folder, [folder / name for name in names], tables, results, beside.lines())


def _sections(tracker: Tracker, results: Results, guard: Guard) -> list[Section]:
    """All figures of a report in their sections; those that cannot be made are left out."""
    groups, searches = list[StudyGroup](), list[ReportFigure]()
    with guard("figures of searches"):
        groups = study_groups(results)
        searches = [figure for group in groups for figure in study_figures(group)]
    curves = _curves_section(curve_figures(tracker, results, guard))
    return [curves, *explain(tracker, results, guard).sections, _searches_section(groups, searches)]


def not_logged(results: Results) -> list[str]:
    """A sentence for each thing that jobs, searches and calls could not log beside their results."""
    runs = [*((c.name, c.tags) for c in results.calls), *((u.title, u.tags) for u in results.units)]
    runs += [(_job_title(run), run.tags) for run in results.runs.values()]
    return [f"{title}: {line}" for title, tags in runs for line in not_written(tags)]


def _job_title(run: RunRecord) -> str:
    tags = run.tags
    place = f"{tags.get(Tag.DATASET)}/{tags.get(Tag.FEATURES)}, mode {tags.get(Tag.MODE)}"
    return f"{tags.get(Tag.METHOD_TITLE)} on {place}, seed {tags.get(Tag.REPETITION)}, stage {tags.get(Tag.STAGE)}"


def _configs(tracker: Tracker, results: Results) -> dict[str, str]:
    """The configuration of each benchmark run that logged one: the options that are not at their defaults."""
    files = (Artifact.CONFIG, Artifact.EARLIER_CONFIG)
    found = {
        run.run_id: next(filter(None, (artifact_text(tracker, run.run_id, file) for file in files)), None)
        for run in results.calls
    }
    return {call: "every option at its default" if text.strip() == "{}" else text for call, text in found.items() if text}


def _csv_files(results: Results, tables: Sequence[Table], guard: Guard) -> dict[str, str]:
    """The numbers of the tables, and ``results.csv``, by name of the file."""

    def numbers(name: str) -> pd.DataFrame:
        rows = order_rows(summarise(results.validation if name == "validation" else results.test), method_ranks(results))
        rows = rows[rows["disjoint_samples"].notna()].reset_index(drop=True) if name == "disjoint" else rows
        return numbers_csv(rows, CSV_METRICS[name])

    frames: dict[str, Callable[[], pd.DataFrame]] = {
        **{name: partial(numbers, name) for name in CSV_METRICS},
        "modes": lambda: order_rows(mode_effects(results.test, results.settings), method_ranks(results)).drop(columns="slot"),
        "intervals": lambda: intervals(results).drop(columns="slot"),
        "comparisons": lambda: comparisons(results),
        "recall": lambda: recall_csv(results),
        "cost": lambda: costs(results).drop(columns="slot"),
        "tuning": lambda: tuning_csv(results),
        "references": lambda: references(results),
        "ablation": lambda: ablation_effects(results.ablation),
    }
    files, names = {}, {t.name for t in tables}
    for name, make in frames.items():
        if name in names:
            with guard(f"{name}.csv"):
                files[f"{name}.csv"] = _csv(make() if name in ("recall", "references") else make().round(6))
    jobs = [f for f in (results.test, results.validation) if len(f)]
    if jobs:
        files["results.csv"] = _csv(pd.concat(jobs, ignore_index=True))
    return files


def _csv(frame: pd.DataFrame) -> str:
    return str(frame.to_csv(index=False, lineterminator="\n"))


def curve_figures(tracker: Tracker, results: Results, guard: Guard = unguarded) -> list[ReportFigure]:
    """A figure for each data set, features, mode, alignment and kind of settings: a curve per method, of its first seed."""
    done = results.test[results.test["state"] == "done"]
    figures: list[ReportFigure] = []
    slots = done.assign(slot=done["variant"].map(slot_of))
    for key, group in slots.groupby([*UNIT[:-1], "slot"], sort=False):
        place = tuple(map(str, key))
        with guard(f"Seen-unseen curves, {', '.join(place)}"):
            figures += _curves_of(tracker, results, place, group)
    return figures


def _curves_of(tracker: Tracker, results: Results, key: Sequence[str], group: pd.DataFrame) -> list[ReportFigure]:
    dataset, features, mode, alignment, slot = key
    ranks, curves, points = method_ranks(results), [], []
    firsts = group.sort_values("repetition", kind="stable").drop_duplicates("method")
    firsts = firsts.sort_values("method", key=lambda names: names.map(ranks), kind="stable")
    for row in records(firsts):
        curve = curve_of(tracker, row["run_id"])
        if curve is not None and len(curve):
            title = method_title(results, row["method"])
            curves.append(MethodCurve(title, curve, (row["unseen"], row["seen"]), ranks[row["method"]]))
            points.append(_marked(curve, row).assign(method=row["method"], repetition=row["repetition"]))
    if not curves:
        return []
    data = pd.concat(points, ignore_index=True)[["method", "repetition", "beta", "seen", "unseen", "point"]]
    generated = ", generated data" if "generated" in set(group["kind"]) else ""
    place = f"{dataset_title(results, dataset)} ({features}{generated}), mode {mode}, {alignment} text"
    trained = f"{' / '.join(distinct(group['variant']))} settings, seed {firsts['repetition'].iloc[0]}"
    title = f"{place}\n{'released weights' if slot == RELEASED else trained}"
    stem = re.sub(r"[^\w.+-]", "-", f"curve-{dataset}-{features}-{mode}-{alignment}-{slot}")
    keys = dict(zip(UNIT[:-1], (dataset, features, mode, alignment), strict=True))
    return [ReportFigure(stem, title, partial(method_curves_figure, curves, title), data, keys)]


def _marked(curve: pd.DataFrame, row: Mapping[str, Any]) -> pd.DataFrame:
    """A curve by beta with the column ``point``: ``best`` (highest HM of the curve), a row ``chosen`` (by calibration), or
    empty."""
    points = curve.assign(point=np.where(np.arange(len(curve)) == best_of(curve), "best", ""))
    chosen = pd.DataFrame([{"beta": row["beta"], "seen": row["seen"], "unseen": row["unseen"], "point": "chosen"}])
    return pd.concat([points, chosen]).sort_values("beta", kind="stable")


def study_figures(group: StudyGroup) -> list[ReportFigure]:
    """The searches of a data set, features and mode, and their importances where there are any."""
    title = f"Best validation HM so far: {group.title}"
    drawn = partial(searches_figure, group.curves, title)
    figures = [ReportFigure(f"tuning-{group.stem}", title, drawn, group.searches, group.keys)]
    if group.panels:
        title = f"Importances of the searched settings: {group.title}"
        drawn = partial(importances_figure, group.panels, f"{title}\n{group.evaluator}")
        figures.append(ReportFigure(f"importances-{group.stem}", title, drawn, group.importances, group.keys))
    return figures


def failed_jobs(results: Results) -> list[str]:
    """A sentence for each job without a result."""
    return [p.sentence(method_title(results, p.method)) for p in results.problems]


def title_of(results: Results) -> str:
    """The title of a report."""
    datasets = distinct(u.dataset_title for u in results.units)
    return f"Audio-visual generalised zero-shot learning: {', '.join(datasets)}"


def _incomplete(results: Results) -> str:
    unfinished = [c for c in results.calls if c.status in ("RUNNING", "KILLED")]
    return "A call still runs or was interrupted; this report holds what is done so far." if unfinished else ""


def report_markdown(
    results: Results,
    tables: Sequence[Table],
    sections: Sequence[Section],
    provenance: Sequence[str],
    not_written: Sequence[str] = (),
) -> str:
    """The whole report as markdown.

    Args:
        sections: with the figures.
        provenance: a line for each fact.
        not_written: a line for each thing that could not be made or logged.
    """
    parts = [f"# {title_of(results)}"]
    if incomplete := _incomplete(results):
        parts.append(f"**Not complete.** {incomplete}")
    parts += [t.markdown(f"## Table {i}.") for i, t in enumerate(tables, 1)]
    parts += [text for section in sections for text in section.markdown()]
    lost = failed_jobs(results)
    if lost:
        parts += ["## Jobs without a result", "\n".join(f"- {_one_line(text)}" for text in lost)]
    if not_written:
        parts += ["## Not written", NOT_WRITTEN_TEXT, "\n".join(f"- {_one_line(text)}" for text in not_written)]
    parts += ["## Provenance", "\n".join(f"- {line}" for line in provenance)]
    parts += ["## Files", _files(tables)]
    return "\n\n".join(p.strip() for p in parts) + "\n"


NOT_WRITTEN_TEXT = "These could not be drawn, computed or written. The results are complete without them."


def _curves_section(figures: Sequence[ReportFigure]) -> Section:
    text = (
        "Seen and unseen accuracy as the calibration beta varies, first seed of each method. Filled marker: the beta "
        "chosen on validation. Hollow diamond: the highest harmonic mean of the curve, a bound that no choice on validation "
        "can exceed, never a result. Grey: lines of equal harmonic mean. The numbers stand beside each figure as CSV."
    )
    return Section("Seen-unseen curves", [text], figures)


def _searches_section(groups: Sequence[StudyGroup], figures: Sequence[ReportFigure]) -> Section:
    texts = [
        "Highest validation HM of a finished trial so far, by the number of trials and by what these took; pruned trials "
        "count in both, failed ones in time only. The first point is that of the starting settings. The trials stand beside "
        "each figure as CSV; the settings of each trial are in the artifact `trials.csv` of the method's run."
    ]
    if any(group.panels for group in groups):
        texts.append(
            "Importances: the variance of validation HM over the searched ranges that each setting explains by itself, by a "
            "random forest over the finished trials, as shares that sum to 100 %. They are rough where trials are few."
        )
    notes = [f"No importances on {g.title}: {'; '.join(g.without)}." for g in groups if g.without]
    return Section("Searches", texts, figures, notes)


def _one_line(text: str, limit: int = 500) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[:limit] + " …"


def _files(tables: Sequence[Table]) -> str:
    present = {t.name for t in tables}
    names = [f"`{n}.csv`" for n in ORDER if n in present]
    lines = [f"- `{PAGE}`: all of it as one page, with tables to sort and the runs of each method"]
    lines += ["- `report.tex`: all tables for LaTeX, each in a file of its own"] if tables else []
    lines += [f"- {', '.join(names)}: the numbers of the tables, accuracies in percent, not rounded"] if names else []
    if present & {"full", "validation"}:
        lines.append("- `results.csv`: a line per job, accuracies as fractions")
    return "\n".join(lines)


def _provenance(tracker: Tracker, results: Results) -> list[str]:
    lines = []
    for call in results.calls:
        started = datetime.fromtimestamp(call.start, UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(
            f"Call `{call.run_id}`, first started {started}, {call.status.lower()}: `{call.tags.get(Tag.COMMAND, '?')}`"
        )
    if results.choice:
        lines.append(f"Only a part of what these calls hold: `{results.choice}`")
    in_tables = {*results.test["job_key"], *results.validation["job_key"]}
    used = [r for key, r in results.runs.items() if key in in_tables]
    tested = [*used, *(weights.run for weights in results.released)]
    lines.append(f"Code revision: {_tag_values([*tested, *results.calls], Tag.REVISION)}")
    versions = (f"{label} {_tag_values(tested, tag)}" for label, tag in VERSIONS.items())
    lines.append(", ".join(versions))
    devices = distinct(r.tags.get(Tag.CUDA_DEVICE, "") for r in tested)
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
        place = f"{tags[Tag.DATASET]}/{tags[Tag.FEATURES]}, mode {tags[Tag.MODE]}, {tags.get(Tag.ALIGNMENT, 'unknown')} text"
        origin = f"weights `{tags.get(Tag.WEIGHTS_DIGEST, '?')}` from {tags.get(Tag.SOURCE) or 'a place not recorded'}"
        data = f"tested on data `{tags.get(Tag.DATA_DIGEST, '?')}`, run `{weights.run.run_id}`"
        lines.append(f"Released weights of {method_title(results, tags[Tag.METHOD])} on {place}: {origin}, {data}")
    lines += [f"Published numbers left out: {problem}" for problem in published_problems()]
    return [*lines, f"Tracking store: {without_password(tracker.uri)}"]


def _tag_values(runs: Sequence[RunRecord], tag: str) -> str:
    return ", ".join(distinct(r.tags.get(tag, "") for r in runs)) or "not recorded"
