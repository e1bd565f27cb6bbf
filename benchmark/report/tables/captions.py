"""Writes captions and footnotes of tables: what a reader needs to judge the numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from benchmark.report.results.collect import UNIT, Problem, Results, UnitFacts, distinct, records
from benchmark.report.results.published import (
    Published,
    PublishedTable,
    assignment_text,
    differences,
    flagged_features,
    published_for,
    user_reports_for,
)
from benchmark.report.results.released import RELEASED, data_of
from benchmark.report.results.transductive import transductive
from benchmark.report.tables.studies import budget_facts
from benchmark.report.tables.table import (
    FEWER_SEEDS,
    FLAG_MARKS,
    NOT_COMPARABLE,
    SECOND_HAND,
    SUPERSCRIPTS,
    Column,
    flag_lines,
    protocol_text,
    spread_facts,
)
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Tag
from benchmark.uncertainty import FEWEST_SEEDS, LEVEL

WIDE = ("gzsl", "zsl")
"""Tables with separate columns for each dataset."""
TESTED = (*WIDE, "full")
"""Tables with every row of the test splits."""
NAMED_PROBLEMS = 6
"""Seeds with failed jobs that a caption names; the report lists all of them."""

MEANING: Mapping[str, Sequence[str]] = {
    "gzsl": [
        "Mean per-class accuracy in % among all classes: S on seen and U on unseen classes, HM their "
        "harmonic mean."
    ],
    "zsl": ["Mean per-class accuracy in % on unseen classes, with unseen classes as the only candidates."],
    "full": [
        "All values in %, except beta, epochs and seeds.",
        "S, U and HM: among all classes. ZSL: among unseen classes only. AUSUC: area under the seen-unseen "
        "curve. Beta is chosen on validation. Epochs: of the final training.",
    ],
    "disjoint": [
        "Mean per-class accuracy in %, on all test-seen samples and without those that share a group with a "
        "training sample.",
        "Group: clips from the same source video or recording, by the rule `grouping` of the dataset config. "
        "S disjoint is over the remaining samples and classes, HM disjoint with the same U and beta.",
    ],
    "validation": [
        "Stage 1 only, without test: results in % on the validation splits.",
        "Epoch (unless the last one is kept) and beta are chosen on the same data, so the results are "
        "optimistic. AUSUC: area under the seen-unseen curve.",
    ],
}
"""The caption of a table, and notes on its columns."""


def facts_of(
    name: str, results: Results, frame: pd.DataFrame, summary: pd.DataFrame, *, published: bool, bold: bool
) -> list[str]:
    """How the numbers of a table over the rows of ``frame`` came about.

    Args:
        bold: whether a cell is bold.
    """
    units = units_of(results, frame)
    trained, ours = [u for u in units if not u.released], summary[summary["slot"] != RELEASED]
    sentences = [
        *_protocol(units, frame),
        *(_how_trained(results, frame, trained, ours) if trained else []),
        *_data(units),
        *_versions(results, frame),
        processors_sentence(results, frame),
        *(_published(summary) if published else []),
        _bold(results, summary, wide=name in WIDE) if bold else "",
        _lost(results, frame),
        *_released(results, frame),
        _kept_untuned(units),
    ]
    return [s for s in sentences if s]


def _how_trained(
    results: Results, frame: pd.DataFrame, units: Sequence[UnitFacts], ours: pd.DataFrame
) -> list[str]:
    published = bool(_published_rows(ours))
    budget, *searches = budget_facts(units)
    tuned = (ours["slot"] == "tuned").any()
    facts = [_uses(units), *seeds_facts(ours, published=published), budget, *(searches if tuned else [])]
    return [*facts, _training(units, results, frame)]


def units_of(results: Results, frame: pd.DataFrame) -> list[UnitFacts]:
    """The units of the rows of a frame; of equal ones the newest."""
    wanted = set(frame[UNIT].itertuples(index=False, name=None))
    return list({u.key: u for u in reversed(results.units) if u.key in wanted}.values())[::-1]


def _protocol(units: Sequence[UnitFacts], frame: pd.DataFrame) -> list[str]:
    modes, alignments, features = (
        distinct([*(getattr(u, column) for u in units), *frame[column]])
        for column in ("mode", "alignment", "features")
    )
    marked = " (column Protocol)" if len(modes) > 1 or len(alignments) > 1 else ""
    mode = f"Mode{'s' * (len(modes) > 1)} {' and '.join(modes)}"
    assignment = assignment_text(" and ".join(alignments))
    first = f"{mode}, {assignment}, features {', '.join(features)}{marked}."
    shuffled = " Shuffled class embeddings: negative control." if "shuffled" in alignments else ""
    known = {u.key for u in units}
    if any(key not in known for key in frame[UNIT].itertuples(index=False, name=None)):
        shuffled += (
            " The runs of some methods are no longer in the store, so their titles and settings are unknown."
        )
    changed = distinct(frame["switches"])
    extra = [f"Non-default protocol flags: {', '.join(changed)}."] if changed else []
    return [first + shuffled, *extra, *pretraining_lines(features)]


def pretraining_lines(features: Sequence[str]) -> list[str]:
    """A sentence for each feature set whose pre-training may have seen the test classes."""
    return [
        f"The pre-training of features {name} may contain test classes, so rows with other features are no "
        "rivals."
        for name in features
        if flagged_features(name, "pretraining_may_contain_test_classes")
    ]


def _uses(units: Sequence[UnitFacts]) -> str:
    """Which methods use more than the training classes and each sample itself."""
    more = {u.title: u.tag(Tag.METHOD_USES) for u in units if u.tag(Tag.METHOD_USES)}
    if not more:
        return "All methods are inductive: only embeddings of training classes are used during training."
    listed = "; ".join(f"{title} ({uses})" for title, uses in more.items())
    others = "All others are inductive: only embeddings of training classes are used during training."
    return f"Transductive: {listed}. {others}"


def seeds_facts(summary: pd.DataFrame, *, published: bool = False) -> list[str]:
    """The number of seeds (``seeds`` of ``planned``) behind the means, and what follows them.

    Args:
        published: whether there are published numbers too, with other seeds.
    """
    ours = "Ours: " if published else ""
    low, high = int(summary["planned"].min()), int(summary["planned"].max())
    fewer = " (fewer where a run failed)" if (summary["seeds"] < summary["planned"]).any() else ""
    if high == 1:
        needed = f"An interval or a test needs {FEWEST_SEEDS} seeds (--seeds {FEWEST_SEEDS})."
        return [f"{ours}single seed. {needed}" if ours else f"Single seed. {needed}"]
    count = str(high) if low == high else f"{low} to {high}"
    first = f"{ours}mean over {count} seeds{fewer}."
    return [first if ours else first[0].upper() + first[1:], *spread_facts(summary["seeds"])]


def _training(units: Sequence[UnitFacts], results: Results, frame: pd.DataFrame) -> str:
    """Length of each method's training: epochs x batches and their size, from the settings of its jobs if
    known."""
    lengths: dict[str, dict[str, None]] = {}
    for unit in units:
        mine = frame[(frame[UNIT] == list(unit.key)).all(axis=1) & (frame["variant"] != "tuned")]
        params = next((results.runs[k].params for k in mine["job_key"] if k in results.runs), {})
        size = f" of {params['train.batch_size']}" if "train.batch_size" in params else ""
        epochs = params.get("train.epochs", unit.tag(Tag.EPOCHS, "?"))
        batches = params.get("train.batches_per_epoch", unit.tag(Tag.BATCHES, "?"))
        last = params.get("train.selection") == "last"
        length = f"{'' if last else 'up to '}{epochs} epochs × {batches} batches{size}"
        length += ", the last epoch kept" if last else ""
        length += ", cosine schedule" if params.get("train.schedule") == "cosine" else ""
        lengths.setdefault(length, {})[unit.title] = None
    presets = distinct(u.tag(Tag.PRESET) for u in units)
    preset = f" (preset {', '.join(presets)})" if presets else ""
    if len(lengths) == 1:
        return f"Training: {next(iter(lengths))}{preset}."
    parts = [f"{length} ({', '.join(titles)})" for length, titles in lengths.items()]
    return f"Training: {'; '.join(parts)}{preset}." if parts else ""


def _data(units: Sequence[UnitFacts]) -> list[str]:
    sentences = []
    for dataset in distinct(u.dataset for u in units):
        mine = [u for u in units if u.dataset == dataset]
        text = mine[0].tag(Tag.DATASET_CAPTION)
        if any(u.generated for u in mine) and not re.search("(generated|synthetic) data", text.lower()):
            text = f"synthetic data; {text}" if text else "synthetic data"
        if text:
            sentences.append(f"{mine[0].dataset_title}: {text.rstrip('.')}.")
        reduced = distinct(u.title for u in mine if u.tag(Tag.REDUCED_SIZES) == "true")
        if reduced:
            whose = "all methods" if len(reduced) == len({u.method for u in mine}) else ", ".join(reduced)
            sentences.append(f"Smaller model sizes than published: {whose}.")
    return sentences


def _versions(results: Results, frame: pd.DataFrame) -> list[str]:
    """Datasets whose data differ between benchmark runs, though their rows share columns."""
    sentences = []
    for dataset, rows in frame.groupby("dataset", sort=False):
        digests = distinct(results.settings.get(key, {}).get("digest", "") for key in rows["job_key"])
        if len(digests) > 1:
            title = dataset_title(results, str(dataset))
            sentences.append(
                f"{title}: these runs used different versions of the data (hashes {', '.join(digests)}), so "
                "rows are not comparable."
            )
    return sentences


def processors_sentence(results: Results, frame: pd.DataFrame) -> str:
    """A sentence if processors with different rounding computed the results of a frame; else empty.

    Args:
        frame: rows with ``job_key`` or, for released weights, ``run_id``.
    """
    runs = {**results.runs, **{weights.run.run_id: weights.run for weights in results.released}}
    found = [
        runs.get(row["job_key"]) or runs.get(row["run_id"]) for row in records(frame[["job_key", "run_id"]])
    ]
    kinds = distinct(_processor(run) for run in found if run is not None)
    if len(kinds) < 2:
        return ""
    shown = "; ".join(kinds)
    return (
        f"Computed by different processors ({shown}); rounding can change a result as much as another seed."
    )


def _processor(run: RunRecord) -> str:
    """The GPU of a job; for a job on the CPU what determines its rounding."""
    if run.params.get("train.device") != "cpu" and (gpu := run.tags.get(Tag.CUDA_DEVICE)):
        return gpu
    recorded = distinct(run.tags.get(name, "") for name in (Tag.CPU_CAPABILITY, Tag.BLAS))
    return " with ".join(recorded) or "not recorded"


def _published(summary: pd.DataFrame) -> list[str]:
    sources = {
        f"{p.source.short}, {p.source.table}": p for p in _published_rows(summary) if not p.second_hand
    }
    seeds = (
        "single seed" if all(p.source.seeds == 1 for p in sources.values()) else "seeds as in their source"
    )
    protocols = " or ".join(distinct(_protocol_text(p.source) for p in sources.values()))
    return [f"Published: {'; '.join(sources)} ({seeds}; {protocols})."] if sources else []


def _protocol_text(source: PublishedTable) -> str:
    return f"mode {source.mode}, {assignment_text(source.alignment)}"


def _published_rows(summary: pd.DataFrame) -> list[Published]:
    found = [published_for(r["dataset"], r["features"], r["method"]) for r in records(summary)]
    return [p for p in found if p is not None]


def _bold(results: Results, summary: pd.DataFrame, *, wide: bool) -> str:
    within = []
    if not wide and len(summary["dataset"].unique()) > 1:
        within.append("dataset")
    if len(summary[["mode", "alignment"]].drop_duplicates()) > 1:
        within.append("protocol")
    where = f" for each {' and '.join(within)}" if within else ""
    kinds = {transductive(results, row) for row in records(summary)}
    apart = " Transductive rows compete with each other only." if len(kinds) > 1 else ""
    return (
        f"Bold: the highest mean of a column{where} and all means without a significant difference to it "
        f"(Welch's test, p ≥ {LEVEL:.2g}). Only rows with {FEWEST_SEEDS} seeds or more compete, and no tuned "
        f"row of a single search.{apart}"
    )


def _lost(results: Results, frame: pd.DataFrame) -> str:
    """The number of jobs that failed or did not run, and their names."""
    place = ["dataset", "features", "mode", "method"]
    mine = set(frame[place].itertuples(index=False, name=None))
    lost = [
        p for p in results.problems if not p.ablation and (p.dataset, p.features, p.mode, p.method) in mine
    ]
    if not lost:
        return ""
    counts = [f"{sum(p.state == state for p in lost)} {state}" for state in distinct(p.state for p in lost)]
    stages: dict[str, list[str]] = {}
    for problem in lost:
        stages.setdefault(_seed_name(problem, results), []).append(str(problem.stage))
    names = [f"{name}, stage{'s' * (len(s) > 1)} {' and '.join(s)}" for name, s in stages.items()]
    rest = f"; and {len(names) - NAMED_PROBLEMS} more, listed below" if len(names) > NAMED_PROBLEMS else ""
    return f"Failed or not run: {', '.join(counts)} ({'; '.join(names[:NAMED_PROBLEMS])}{rest})."


def _released(results: Results, frame: pd.DataFrame) -> list[str]:
    """What released weights are, and which of them are not in the rows since their data differ."""
    shown = set(frame[["dataset", "features"]].itertuples(index=False, name=None))
    facts = [o.sentence() for o in results.on_other_data if data_of(o.run) in shown]
    if (frame["variant"] == RELEASED).any():
        facts.insert(
            0,
            "Released weights: checkpoints of the published code, from its authors or a user, evaluated "
            "here; single training run.",
        )
    return facts


def _kept_untuned(units: Sequence[UnitFacts]) -> str:
    """The methods whose tuning changed nothing."""
    several = len({u.dataset for u in units}) > 1, len({u.mode for u in units}) > 1
    names = []
    for unit in units:
        if unit.tuned_values is not None and not unit.tuned_values:
            where = [text for text, shown in zip((unit.dataset, unit.mode), several, strict=True) if shown]
            names.append(f"{unit.title} ({', '.join(where)})" if where else unit.title)
    if not names:
        return ""
    return f"No trial beat the untuned hyperparameters, so there is no tuned row: {', '.join(names)}."


def method_title(results: Results, method: str) -> str:
    """The name of a method in tables."""
    return next((u.title for u in results.units if u.method == method), method)


def dataset_title(results: Results, dataset: str) -> str:
    """The name of a dataset in tables."""
    return next((u.dataset_title for u in results.units if u.dataset == dataset), dataset)


def labels(results: Results, rows: Sequence[Mapping[str, Any]], *headers: str) -> list[Column]:
    """Columns that label rows.

    Args:
        headers: ``Dataset``, ``Protocol``, ``Method`` or ``Settings``; with ``?`` only if the rows differ in
            it.
    """
    texts: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "Dataset": lambda row: dataset_title(results, row["dataset"]),
        "Protocol": protocol_text,
        "Method": lambda row: method_title(results, row["method"]),
        "Settings": lambda row: settings_text(
            row["variant"],
            row["settings"],
            int(row.get("trainings") or row.get("seeds") or 0),
            int(row.get("searches") or 1),
        ),
    }
    found = [(header, [texts[header.rstrip("?")](row) for row in rows]) for header in headers]
    return [
        Column(h.rstrip("?"), "", column)
        for h, column in found
        if not h.endswith("?") or len(set(column)) > 1
    ]


def settings_text(variant: str, settings: str, trainings: int = 0, searches: int = 1) -> str:
    """The settings of a row, as tables name them.

    Args:
        trainings: of each search of a tuned row.
    """
    if variant == "tuned" and trainings:
        of = "one search" if searches == 1 else f"{searches} searches"
        each = " each" if searches > 1 else ""
        name = f"tuned: {of}, {trainings} training{'s' * (trainings > 1)}{each}"
        return f"{name}, {settings}" if settings else name
    return f"{'released weights' if variant == RELEASED else variant} {settings}".strip()


def _seed_name(problem: Problem, results: Results) -> str:
    where = f"{method_title(results, problem.method)} on {problem.dataset}, {problem.mode}, {problem.variant}"
    return f"{where}, seed {problem.repetition}"


class Footnotes:
    """Collects the footnotes of a table while it is built; notes on methods are numbered in the order of
    rows."""

    def __init__(self, results: Results, frame: pd.DataFrame) -> None:
        self.results = results
        self.units = units_of(results, frame)
        self.numbers: dict[str, str] = {}
        self.protocols: dict[str, None] = {}
        self.unlike: dict[str, None] = {}

    def method_mark(self, method: str) -> str:
        """The mark of a method's note; empty if it has none."""
        note = next(
            (u.tag(Tag.METHOD_NOTE) for u in self.units if u.method == method and u.tag(Tag.METHOD_NOTE)), ""
        )
        if not note:
            return ""
        count = len(self.numbers)
        return self.numbers.setdefault(
            note, SUPERSCRIPTS[count] if count < len(SUPERSCRIPTS) else f"({count + 1})"
        )

    def row_mark(self, row: pd.Series) -> str:
        """The mark of a row that is transductive; else empty."""
        return FLAG_MARKS["transductive"] if transductive(self.results, row.to_dict()) else ""

    def published_mark(self, row: pd.Series, found: Published | None) -> str:
        """The mark of a published number that is not comparable with its row; else empty."""
        unlike = differences(row.to_dict(), found) if found else []
        if found is None or not unlike:
            return ""
        self.protocols[_protocol_text(found.source)] = None
        self.unlike[", ".join(unlike)] = None
        return NOT_COMPARABLE

    def lines(self, name: str, marks: str, summary: pd.DataFrame, *, published: bool) -> list[str]:
        """All footnotes.

        Args:
            name: name of the table.
            marks: the text of all cells; only marks that occur in it are explained.
            summary: rows of the table.
            published: whether the table has published numbers.
        """
        lines = [f"{mark} {note[:1].upper()}{note[1:].rstrip('.')}." for note, mark in self.numbers.items()]
        if NOT_COMPARABLE in marks:
            lines.append(
                f"{NOT_COMPARABLE} Measured under {' or '.join(self.protocols)}, on the published features "
                "with the published settings; not comparable with this row, which has "
                f"{'; or '.join(self.unlike)}."
            )
        if SECOND_HAND in marks:
            sources = distinct(p.source.short for p in _published_rows(summary) if p.second_hand)
            lines.append(f"{SECOND_HAND} Second-hand: {'; '.join(sources)}.")
        lines += flag_lines(marks, "second_hand")
        if FEWER_SEEDS in marks:
            lines.append(
                f"{FEWER_SEEDS} Over fewer seeds than planned: " + "; ".join(self._fewer(summary)) + "."
            )
        return [*lines, *(self._user_reports(summary, "zsl" if name == "zsl" else "hm") if published else [])]

    def _fewer(self, summary: pd.DataFrame) -> list[str]:
        rows = summary[(summary["seeds"] < summary["planned"]) & (summary["seeds"] > 0)]
        return [
            f"{method_title(self.results, r['method'])} on {r['dataset']}, {r['mode']}, {r['variant']}: "
            f"{r['seeds']} of {r['planned']}"
            for r in records(rows)
        ]

    def _user_reports(self, summary: pd.DataFrame, metric: str) -> list[str]:
        lines = []
        rows = summary.drop_duplicates(["dataset", "features", "method"])
        for row in records(rows):
            reports = user_reports_for(row["dataset"], row["features"], row["method"])
            numbers = [(getattr(p.numbers, metric), p.source.short) for p in reports]
            texts = [
                f"{metric.upper()} {value:.2f} ({source})" for value, source in numbers if value is not None
            ]
            if texts:
                name = method_title(self.results, row["method"])
                place = dataset_title(self.results, row["dataset"])
                who = f"Users who retrained {name} on {place} with the published code"
                lines.append(f"{who} report {', '.join(texts)}.")
        return lines
