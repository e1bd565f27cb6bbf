"""Writes a report into a folder: Markdown, CSV, LaTeX, figures and a page."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pandas as pd

from benchmark.figures.searches import importances_figure, searches_figure
from benchmark.report.explain import explain
from benchmark.report.folder import facts, install, is_whole, listed_files, made_from, read_manifest
from benchmark.report.page.page import MLFLOW_UI, report_page, run_link
from benchmark.report.parallel import in_parallel
from benchmark.report.results.artifacts import artifact_text
from benchmark.report.results.choice import Choice
from benchmark.report.results.collect import DISJOINT, METRICS, Results, collect, digests, distinct, records
from benchmark.report.results.published import published_problems
from benchmark.report.results.transductive import transductive
from benchmark.report.sections import Image, ReportFigure, Section, save_figure
from benchmark.report.tables.build import ORDER, build_tables
from benchmark.report.tables.captions import method_title
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
from benchmark.report.tables.table import Table, report_protocol, short_assignment
from benchmark.system.beside import Beside, Guard, not_written
from benchmark.system.databases import sqlite_file, without_password
from benchmark.system.redaction import link_to
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Artifact, Tag
from benchmark.tracking.tracker import Tracker

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
    protocol: Sequence[str]
    """What holds for its tables, as sentences (``report_protocol``)."""
    tables: Sequence[Table]
    results: Results
    not_written: Sequence[str] = ()
    """What could not be written, as ``name: reason``."""

    @property
    def failed(self) -> list[str]:
        """A sentence for each job that failed or did not run."""
        return failed_jobs(self.results)


def write_report(
    tracker: Tracker,
    folder: Path,
    call_ids: Sequence[str] | None = None,
    mlflow_ui: str | None = None,
    choice: Choice | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Write the report of some benchmark runs, with the released weights that were tested on their data.

    The folder does not change if it already holds the same report. A table, figure or file that cannot be
    made is omitted, and the report lists it.

    Args:
        tracker: the store, the only source of results.
        folder: created if needed. Files of an earlier report are removed, others are kept.
        call_ids: ids of benchmark runs or unique prefixes; ``all`` for every run; the newest run if None.
        mlflow_ui: address for the page's links to runs; by default the tracking server's or else
            ``MLFLOW_UI``.
        choice: the methods, datasets, feature sets and modes to report; all if None.
        say: reports to the user what could not be made.

    Raises:
        UsageError: there is no benchmark run, an id or name is unknown, there is no result yet, or the
            address is invalid; the folder does not change.
    """
    known = mlflow_ui or (tracker.uri if tracker.uri.startswith("http") else "")
    link = run_link(link_to(known) if known else MLFLOW_UI, tracker.experiment_id)

    # everything but the figures, which take most of the time
    results, beside = collect(tracker, call_ids, choice), Beside(say)
    tables = build_tables(results, beside)
    texts = {**_csv_files(results, tables, beside), **latex_files(tables, beside)}
    protocol, tables = report_protocol(tables)
    provenance, configs = _provenance(tracker, results), _configs(tracker, results)
    stated = [*texts.values(), *protocol, *(t.markdown() for t in tables)]
    stated += [*provenance, *configs.values(), link]

    # the same report is not written again
    inputs = made_from(results, stated)
    if read_manifest(folder).get("made_from") == inputs and is_whole(folder):
        return Report(folder, [folder / name for name in listed_files(folder)], protocol, tables, results)

    # write into a temporary folder on the same disk, then move all files into place
    sections = _sections(tracker, results, beside)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as new:
        for name, text in texts.items():
            (Path(new) / name).write_text(text, encoding="utf-8")

        # figures, of which some may fail
        figures = [figure for section in sections for figure in section.figures]
        saved = in_parallel(partial(save_figure, folder=Path(new)), figures)
        found = {figure.stem: image for figure, image in zip(figures, saved, strict=True)}
        beside.note({f"figure {stem}": reason for stem, reason in found.items() if isinstance(reason, str)})
        images = {stem: image for stem, image in found.items() if isinstance(image, Image)}
        sections = [s.only(images) for s in sections]

        # the page and report.md list what is missing, so they come last
        with beside(PAGE):
            page = report_page(
                title_of(results),
                results,
                protocol,
                dict(zip(table_names(tables), tables, strict=True)),
                sections,
                images,
                incomplete=_incomplete(results),
                failed=failed_jobs(results),
                not_written=[*not_logged(results), *beside.lines()],
                provenance=provenance,
                configs=configs,
                files=sorted({"report.md", *(p.name for p in Path(new).iterdir())}),
                link=link,
            )
            (Path(new) / PAGE).write_text(page, encoding="utf-8")
        missing = [*not_logged(results), *beside.lines()]
        text = report_markdown(results, protocol, tables, sections, provenance, missing)
        (Path(new) / "report.md").write_text(text, encoding="utf-8")
        about = {"report": facts(tracker, results), **({} if beside.failed else {"made_from": inputs})}
        names = install(Path(new), folder, "report.md", about)
    return Report(folder, [folder / name for name in names], protocol, tables, results, beside.lines())


def _sections(tracker: Tracker, results: Results, guard: Guard) -> list[Section]:
    """All figures of a report by section; those that cannot be made are omitted."""
    groups, searches = list[StudyGroup](), list[ReportFigure]()
    with guard("figures of hyperparameter searches"):
        groups = study_groups(results)
        searches = [figure for group in groups for figure in study_figures(group)]
    return [*explain(tracker, results, guard), _searches_section(groups, searches)]


def not_logged(results: Results) -> list[str]:
    """A sentence for each item that jobs, searches and benchmark runs could not log beside their results."""
    runs = [*((c.name, c.tags) for c in results.calls), *((u.title, u.tags) for u in results.units)]
    runs += [(_job_title(run), run.tags) for run in results.runs.values()]
    return [f"{title}: {line}" for title, tags in runs for line in not_written(tags)]


def _job_title(run: RunRecord) -> str:
    tags = run.tags
    place = f"{tags.get(Tag.DATASET)}/{tags.get(Tag.FEATURES)}, mode {tags.get(Tag.MODE)}"
    which = f"seed {tags.get(Tag.REPETITION)}, stage {tags.get(Tag.STAGE)}"
    return f"{tags.get(Tag.METHOD_TITLE)} on {place}, {which}"


def _configs(tracker: Tracker, results: Results) -> dict[str, str]:
    """The options of each benchmark run that differ from the defaults, if they were logged."""
    files = (Artifact.CONFIG, Artifact.EARLIER_CONFIG)
    found = {
        run.run_id: next(filter(None, (artifact_text(tracker, run.run_id, file) for file in files)), None)
        for run in results.calls
    }
    return {
        call: "all options at their defaults" if text.strip() == "{}" else without_folders(text)
        for call, text in found.items()
        if text
    }


def _csv_files(results: Results, tables: Sequence[Table], guard: Guard) -> dict[str, str]:
    """The numbers of the tables, and ``results.csv``, by file name."""

    def numbers(name: str) -> pd.DataFrame:
        rows = order_rows(
            summarise(results.validation if name == "validation" else results.test), method_ranks(results)
        )
        rows = rows[rows["disjoint_samples"].notna()].reset_index(drop=True) if name == "disjoint" else rows
        found = [transductive(results, row) for row in records(rows)]
        table = numbers_csv(rows, CSV_METRICS[name])
        return table.assign(transductive=found) if any(found) else table

    frames: dict[str, Callable[[], pd.DataFrame]] = {
        **{name: partial(numbers, name) for name in CSV_METRICS},
        "modes": lambda: order_rows(mode_effects(results.test, results.settings), method_ranks(results)).drop(
            columns="slot"
        ),
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


def study_figures(group: StudyGroup) -> list[ReportFigure]:
    """Figures of the searches on a dataset, feature set and mode, and of their importances if there are
    any."""
    title = f"Best validation HM so far: {group.title}"
    drawn = partial(searches_figure, group.curves, title)
    figures = [ReportFigure(f"tuning-{group.stem}", title, drawn, group.searches, group.keys)]
    if group.panels:
        title = f"Hyperparameter importances: {group.title}"
        drawn = partial(importances_figure, group.panels, f"{title}\n{group.evaluator}")
        figures.append(ReportFigure(f"importances-{group.stem}", title, drawn, group.importances, group.keys))
    return figures


def failed_jobs(results: Results) -> list[str]:
    """A sentence for each job that failed or did not run."""
    return [p.sentence(method_title(results, p.method)) for p in results.problems]


def title_of(results: Results) -> str:
    """The title of a report."""
    datasets = distinct(u.dataset_title for u in results.units)
    return f"Audio-visual generalised zero-shot learning: {', '.join(datasets)}"


def _incomplete(results: Results) -> str:
    if not any(c.status in ("RUNNING", "KILLED") for c in results.calls):
        return ""
    return "A benchmark run is still running or was interrupted; this report has the results so far."


def report_markdown(
    results: Results,
    protocol: Sequence[str],
    tables: Sequence[Table],
    sections: Sequence[Section],
    provenance: Sequence[str],
    not_written: Sequence[str] = (),
) -> str:
    """The whole report as Markdown.

    Args:
        protocol: what holds for all tables, a line per fact.
        sections: figures with their texts.
        provenance: one line per fact.
        not_written: one line for each item that could not be made or logged.
    """
    parts = [f"# {title_of(results)}"]
    if incomplete := _incomplete(results):
        parts.append(f"**Not complete.** {incomplete}")
    if protocol:
        parts += ["## Protocol of this report", "\n".join(f"- {line}" for line in protocol)]
    parts += [text for section in sections if section.leads for text in section.markdown()]
    parts += [t.markdown(f"## Table {i}.") for i, t in enumerate(tables, 1)]
    parts += [text for section in sections if not section.leads for text in section.markdown()]
    failed = failed_jobs(results)
    if failed:
        parts += ["## Failed or not run", "\n".join(f"- {_one_line(text)}" for text in failed)]
    if not_written:
        items = "\n".join(f"- {_one_line(text)}" for text in not_written)
        parts += ["## Not written", NOT_WRITTEN_TEXT, items]
    parts += ["## Provenance", "\n".join(f"- {line}" for line in provenance)]
    parts += ["## Files", _files(tables)]
    return "\n\n".join(p.strip() for p in parts) + "\n"


NOT_WRITTEN_TEXT = "These items could not be drawn, computed or written. The results themselves are complete."


def _searches_section(groups: Sequence[StudyGroup], figures: Sequence[ReportFigure]) -> Section:
    texts = [
        "Best validation HM so far, by number of trials and by time. Pruned trials count in both, failed "
        "ones in time only. The first point is trial 0, with the untuned settings. Each figure has its "
        f"trials as CSV; their hyperparameters are in the artifact `{Artifact.TRIALS}` of the method's run."
    ]
    if any(group.panels for group in groups):
        texts.append(
            "Importances: the share of the variance of validation HM that each hyperparameter explains "
            "alone, estimated by a random forest over the finished trials; shares sum to 100 %. They are "
            "rough if there are few trials."
        )
    notes = [f"No importances on {g.title}: {'; '.join(g.without)}." for g in groups if g.without]
    return Section("Hyperparameter search", texts, figures, notes)


def _one_line(text: str, limit: int = 500) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[:limit] + " …"


def _files(tables: Sequence[Table]) -> str:
    present = {t.name for t in tables}
    names = [f"`{n}.csv`" for n in ORDER if n in present]
    lines = [f"- `{PAGE}`: the whole report as one page, with sortable tables and the runs of each method"]
    lines += ["- `report.tex`: all tables for LaTeX; each table also has its own file"] if tables else []
    if names:
        lines.append(f"- {', '.join(names)}: the numbers of the tables; accuracies in percent, not rounded")
    if present & {"full", "validation"}:
        lines.append("- `results.csv`: one line per job; accuracies as fractions")
    return "\n".join(lines)


def _provenance(tracker: Tracker, results: Results) -> list[str]:
    lines = []
    for call in results.calls:
        started = datetime.fromtimestamp(call.start, UTC).strftime("%Y-%m-%d %H:%M UTC")
        lines.append(
            f"Benchmark run `{call.run_id}`, first started {started}, {call.status.lower()}: "
            f"`{call.tags.get(Tag.COMMAND, '?')}`"
        )
    if results.choice:
        lines.append(f"Only some results of these benchmark runs: `{results.choice}`")
    in_tables = {*results.test["job_key"], *results.validation["job_key"]}
    used = [r for key, r in results.runs.items() if key in in_tables]
    tested = [*used, *(weights.run for weights in results.released)]
    lines.append(f"Code revision: {_tag_values([*tested, *results.calls], Tag.REVISION)}")
    versions = (f"{label} {_tag_values(tested, tag)}" for label, tag in VERSIONS.items())
    lines.append(", ".join(versions))
    devices = distinct(r.tags.get(Tag.CUDA_DEVICE, "") for r in tested)
    lines.append(f"GPU: {', '.join(devices)}" if devices else "No GPU used")
    frames = [f for f in (results.test, results.validation) if len(f)]
    known = digests(tracker, pd.concat(frames, ignore_index=True)) if frames else {}
    for (dataset, features, split), values in known.items():
        what = "train, validation and test" if split == "test" else "train and validation"
        lines.append(f"Hash of the data {dataset}/{features} ({what}): {', '.join(f'`{v}`' for v in values)}")
    elsewhere = sum(r.parent not in results.method_runs for r in used)
    if elsewhere:
        lines.append(f"{elsewhere} of {len(used)} jobs were reused from another benchmark run")
    for weights in results.released:
        tags = weights.run.tags
        alignment, source = tags.get(Tag.ALIGNMENT, "unknown"), tags.get(Tag.SOURCE) or "an unknown folder"
        place = (
            f"{tags[Tag.DATASET]}/{tags[Tag.FEATURES]}, mode {tags[Tag.MODE]}, {short_assignment(alignment)}"
        )
        origin = f"weights `{tags.get(Tag.WEIGHTS_DIGEST, '?')}` from {source}"
        data = f"tested on data `{tags.get(Tag.DATA_DIGEST, '?')}`, run `{weights.run.run_id}`"
        lines.append(
            f"Released weights of {method_title(results, tags[Tag.METHOD])} on {place}: {origin}, {data}"
        )
    lines += [f"Published numbers omitted: {problem}" for problem in published_problems()]
    file = sqlite_file(tracker.uri)
    lines.append(f"Tracking store: {without_password(tracker.uri) if file is None else f'SQLite, {file}'}")
    return [without_folders(line) for line in lines]


def without_folders(text: str) -> str:
    """A text in which absolute paths are relative to the working folder or, if they are elsewhere, names
    alone, since reports are published."""
    here = Path.cwd()

    def shown(found: re.Match[str]) -> str:
        path = Path(found[0])
        return str(path.relative_to(here)) if path.is_relative_to(here) else path.name

    return re.sub(r"(?<![^\s=`'\"(])/[^\s`'\",;)]+", shown, text)


def _tag_values(runs: Sequence[RunRecord], tag: str) -> str:
    return ", ".join(distinct(r.tags.get(tag, "") for r in runs)) or "not recorded"
