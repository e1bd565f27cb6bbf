"""Captions and footnotes: what a reader must know to judge a number."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from benchmark.report.results.collect import UNIT, Problem, Results, UnitFacts, distinct, records
from benchmark.report.results.published import Published, PublishedTable, differences, published_for, user_reports_for
from benchmark.report.results.released import RELEASED, place_of
from benchmark.report.tables.studies import budget_sentence
from benchmark.report.tables.table import FEWER_SEEDS, NOT_COMPARABLE, SECOND_HAND
from benchmark.tracking.schema import Tag
from benchmark.tracking.tracker import RunRecord

SUPERSCRIPTS = "¹²³⁴⁵⁶⁷⁸⁹"
WIDE = ("gzsl", "zsl")
"""Tables with columns of their own for each data set."""
TESTED = (*WIDE, "full")
"""Tables that hold every row of the test splits."""
NAMED_PROBLEMS = 6
"""Seeds with lost jobs that a caption names; the report lists all of them."""

MEANING = {
    "gzsl": "Mean per-class accuracy in % among all classes: S on seen classes, U on unseen classes, HM their harmonic mean.",
    "zsl": "Mean per-class accuracy in % on unseen classes, with unseen classes as the only candidates.",
    "full": "All but beta, epochs and seeds in %: S, U and HM among all classes, ZSL among unseen classes only, AUSUC the area "
    "under the seen-unseen curve; beta as chosen on validation; epochs of the final training.",
    "disjoint": "Mean per-class accuracy in %. Disjoint: without the seen test samples that share a group with a training "
    "sample (clips of one video or recording, by the rule of the data set's card); S over the samples and classes that "
    "remain, HM with the same U and beta.",
    "validation": "Stage 1 only, nothing was tested: results in % on the validation splits, of the kept epoch with the beta "
    "chosen on the same data, hence optimistic. AUSUC: area under the seen-unseen curve.",
}


def caption_of(
    name: str,
    results: Results,
    frame: pd.DataFrame,
    summary: pd.DataFrame,
    *,
    published: bool,
) -> str:
    """The caption of a table over the rows of ``frame``."""
    units = units_of(results, frame)
    trained, ours = [u for u in units if not u.released], summary[summary["slot"] != RELEASED]
    sentences = [
        MEANING[name],
        *_protocol(units, frame),
        *(
            [_uses(trained), seeds_sentence(ours), budget_sentence(trained), _training(trained, results, frame)]
            if trained
            else []
        ),
        *_data(units),
        *_versions(results, frame),
        processors_sentence(results, frame),
        *(_published(summary) if published else []),
        _bold(summary, published, wide=name in WIDE),
        _lost(results, frame),
    ]
    return " ".join(s for s in sentences if s)


def units_of(results: Results, frame: pd.DataFrame) -> list[UnitFacts]:
    """The facts of the rows of a frame, the newest call's where several have the same."""
    wanted = set(frame[UNIT].itertuples(index=False, name=None))
    return list({u.key: u for u in reversed(results.units) if u.key in wanted}.values())[::-1]


def _protocol(units: Sequence[UnitFacts], frame: pd.DataFrame) -> list[str]:
    modes, alignments, features = (
        distinct([*(getattr(u, column) for u in units), *frame[column]]) for column in ("mode", "alignment", "features")
    )
    marked = "; the column Protocol marks the rows" if len(modes) > 1 or len(alignments) > 1 else ""
    mode = f"Mode{'s' * (len(modes) > 1)} {' and '.join(modes)}"
    first = f"{mode}, text alignment {' and '.join(alignments)}, features {', '.join(features)}{marked}."
    shuffled = " Shuffled class vectors are a control without meaning." if "shuffled" in alignments else ""
    known = {u.key for u in units}
    if any(key not in known for key in frame[UNIT].itertuples(index=False, name=None)):
        shuffled += " Some methods' runs are not in the store any more, and with them titles and settings."
    changed = distinct(frame["switches"])
    extra = [f"Switched against the mode: {', '.join(changed)}."] if changed else []
    return [first + shuffled, *extra]


def _uses(units: Sequence[UnitFacts]) -> str:
    """Which methods see more in training than the training classes."""
    more = {u.title: u.tag(Tag.METHOD_USES) for u in units if u.tag(Tag.METHOD_USES)}
    if not more:
        return "All methods are inductive: in training they get the vectors of training classes only."
    listed = "; ".join(f"{title} ({uses} in training)" for title, uses in more.items())
    return f"Transductive: {listed}. All others are inductive: in training they get the vectors of training classes only."


def seeds_sentence(summary: pd.DataFrame) -> str:
    """Over how many seeds (``seeds`` of ``planned``) the numbers are means."""
    low, high = int(summary["planned"].min()), int(summary["planned"].max())
    fewer = " (fewer where a job is lost)" if (summary["seeds"] < summary["planned"]).any() else ""
    if high == 1:
        return "Ours: n = 1 seed, no deviation."
    count = str(high) if low == high else f"{low} to {high}"
    return f"Ours: mean ± standard deviation (n − 1) over n = {count} seeds{fewer}."


def _training(units: Sequence[UnitFacts], results: Results, frame: pd.DataFrame) -> str:
    """How long each method trained: epochs x batches of a size, from the jobs' own settings where there are any."""
    lengths: dict[str, dict[str, None]] = {}
    for unit in units:
        mine = frame[(frame[UNIT] == list(unit.key)).all(axis=1) & (frame["variant"] != "tuned")]
        params = next((results.runs[k].params for k in mine["job_key"] if k in results.runs), {})
        size = f" of {params['train.batch_size']}" if "train.batch_size" in params else ""
        epochs = params.get("train.epochs", unit.tag(Tag.EPOCHS, "?"))
        batches = params.get("train.batches_per_epoch", unit.tag(Tag.BATCHES, "?"))
        lengths.setdefault(f"{epochs} epochs × {batches} batches{size}", {})[unit.title] = None
    presets = distinct(u.tag(Tag.PRESET) for u in units)
    preset = f" (preset {', '.join(presets)})" if presets else ""
    if len(lengths) == 1:
        return f"Training: up to {next(iter(lengths))}{preset}."
    parts = [f"{length} ({', '.join(titles)})" for length, titles in lengths.items()]
    return f"Training: up to {'; '.join(parts)}{preset}." if parts else ""


def _data(units: Sequence[UnitFacts]) -> list[str]:
    sentences = []
    for dataset in distinct(u.dataset for u in units):
        mine = [u for u in units if u.dataset == dataset]
        text = mine[0].tag(Tag.DATASET_CAPTION)
        if any(u.generated for u in mine) and "generated data" not in text.lower():
            text = f"generated data; {text}" if text else "generated data"
        if text:
            sentences.append(f"{mine[0].dataset_title}: {text.rstrip('.')}.")
        reduced = distinct(u.title for u in mine if u.tag(Tag.REDUCED_SIZES) == "true")
        if reduced:
            whose = "all methods" if len(reduced) == len({u.method for u in mine}) else ", ".join(reduced)
            sentences.append(f"Sizes reduced against the published ones: {whose}.")
    return sentences


def _versions(results: Results, frame: pd.DataFrame) -> list[str]:
    """Data sets of which several calls had different data: their rows share columns."""
    sentences = []
    for dataset, rows in frame.groupby("dataset", sort=False):
        digests = distinct(results.settings.get(key, {}).get("digest", "") for key in rows["job_key"])
        if len(digests) > 1:
            title = dataset_title(results, str(dataset))
            sentences.append(f"{title}: the calls had different data (digests {', '.join(digests)}), not comparable.")
    return sentences


def processors_sentence(results: Results, frame: pd.DataFrame) -> str:
    """That the results of a frame's rows come from processors which round otherwise; empty where one kind computed them all.

    Args:
        frame: rows with ``job_key`` and, of released weights, ``run_id``.
    """
    runs = {**results.runs, **{weights.run.run_id: weights.run for weights in results.released}}
    found = [runs.get(row["job_key"]) or runs.get(row["run_id"]) for row in records(frame[["job_key", "run_id"]])]
    kinds = distinct(_processor(run) for run in found if run is not None)
    if len(kinds) < 2:
        return ""
    return f"Computed by different processors ({'; '.join(kinds)}), whose roundings can move a result as much as another seed."


def _processor(run: RunRecord) -> str:
    """The GPU of a job that ran on one, else what decides how the CPU rounds."""
    if run.params.get("train.device") != "cpu" and (gpu := run.tags.get(Tag.CUDA_DEVICE)):
        return gpu
    recorded = distinct(run.tags.get(name, "") for name in (Tag.CPU_CAPABILITY, Tag.BLAS))
    return " with ".join(recorded) or "not recorded"


def _published(summary: pd.DataFrame) -> list[str]:
    sources = {f"{p.source.short}, {p.source.table}": p for p in _published_rows(summary) if not p.second_hand}
    seeds = "one seed, no deviations" if all(p.source.seeds == 1 for p in sources.values()) else "seeds as in their source"
    protocols = " or ".join(distinct(_protocol_text(p.source) for p in sources.values()))
    return [f"Published: {'; '.join(sources)} ({seeds}; {protocols})."] if sources else []


def _protocol_text(source: PublishedTable) -> str:
    return f"mode {source.mode}, text alignment {source.alignment}"


def _published_rows(summary: pd.DataFrame) -> list[Published]:
    found = [published_for(r["dataset"], r["features"], r["method"]) for r in records(summary)]
    return [p for p in found if p is not None]


def _bold(summary: pd.DataFrame, published: bool, wide: bool) -> str:
    within = []
    if not wide and len(summary["dataset"].unique()) > 1:
        within.append("data set")
    if len(summary[["mode", "alignment"]].drop_duplicates()) > 1:
        within.append("protocol")
    where = f" for each {' and '.join(within)}" if within else ""
    kinds = [
        *(["published"] if published else []),
        *(["ours"] if (summary["slot"] != RELEASED).any() else []),
        *(["released weights"] if (summary["slot"] == RELEASED).any() else []),
    ]
    apart = f", {', '.join(kinds[:-1])} and {kinds[-1]} apart" if len(kinds) > 1 else ""
    return f"Bold: best of a column{where}{apart}."


def _lost(results: Results, frame: pd.DataFrame) -> str:
    """How many jobs have no result, and which."""
    place = ["dataset", "features", "mode", "method"]
    mine = set(frame[place].itertuples(index=False, name=None))
    lost = [p for p in results.problems if not p.ablation and (p.dataset, p.features, p.mode, p.method) in mine]
    if not lost:
        return ""
    counts = [f"{sum(p.state == state for p in lost)} {state}" for state in distinct(p.state for p in lost)]
    stages: dict[str, list[str]] = {}
    for problem in lost:
        stages.setdefault(_seed_name(problem, results), []).append(str(problem.stage))
    names = [f"{name}, stage{'s' * (len(s) > 1)} {' and '.join(s)}" for name, s in stages.items()]
    rest = f"; and {len(names) - NAMED_PROBLEMS} more, listed below" if len(names) > NAMED_PROBLEMS else ""
    return f"Jobs without a result: {', '.join(counts)} ({'; '.join(names[:NAMED_PROBLEMS])}{rest})."


def method_title(results: Results, method: str) -> str:
    """A method's name in tables."""
    return next((u.title for u in results.units if u.method == method), method)


def dataset_title(results: Results, dataset: str) -> str:
    """A data set's name in tables."""
    return next((u.dataset_title for u in results.units if u.dataset == dataset), dataset)


def _seed_name(problem: Problem, results: Results) -> str:
    where = f"{method_title(results, problem.method)} on {problem.dataset}, {problem.mode}, {problem.variant}"
    return f"{where}, seed {problem.repetition}"


class Footnotes:
    """The footnotes of a table: notes on methods, numbered in the order in which rows show them."""

    def __init__(self, results: Results, frame: pd.DataFrame) -> None:
        self.results = results
        self.units = units_of(results, frame)
        self.numbers: dict[str, str] = {}
        self.shown = set(frame[["dataset", "features"]].itertuples(index=False, name=None))
        self.has_released = bool((frame["variant"] == RELEASED).any())
        self.protocols: dict[str, None] = {}
        self.unlike: dict[str, None] = {}

    def method_mark(self, method: str) -> str:
        """The mark of a method's note; empty where there is nothing to note."""
        note = next((u.tag(Tag.METHOD_NOTE) for u in self.units if u.method == method and u.tag(Tag.METHOD_NOTE)), "")
        if not note:
            return ""
        count = len(self.numbers)
        return self.numbers.setdefault(note, SUPERSCRIPTS[count] if count < len(SUPERSCRIPTS) else f"({count + 1})")

    def published_mark(self, row: pd.Series, found: Published | None) -> str:
        """The mark of a published number that stands in a row which it must not be compared with."""
        unlike = differences(row.to_dict(), found.source) if found else []
        if found is None or not unlike:
            return ""
        self.protocols[_protocol_text(found.source)] = None
        self.unlike[", ".join(unlike)] = None
        return NOT_COMPARABLE

    def lines(self, name: str, marks: str, summary: pd.DataFrame, *, published: bool) -> list[str]:
        """All footnotes; ``marks`` is the text of the cells, and only marks that occur in it are explained."""
        lines = [f"{mark} {note[:1].upper()}{note[1:].rstrip('.')}." for note, mark in self.numbers.items()]
        if NOT_COMPARABLE in marks:
            lines.append(
                f"{NOT_COMPARABLE} Measured under {' or '.join(self.protocols)}, on the published features with the published "
                f"settings; not comparable with this row, which has {'; or '.join(self.unlike)}."
            )
        if SECOND_HAND in marks:
            sources = distinct(p.source.short for p in _published_rows(summary) if p.second_hand)
            lines.append(f"{SECOND_HAND} Second-hand: {'; '.join(sources)}.")
        if FEWER_SEEDS in marks:
            lines.append(f"{FEWER_SEEDS} Over fewer seeds than planned: " + "; ".join(self._fewer(summary)) + ".")
        if self.has_released:
            lines.append(
                "Released weights: from run folders of the published code (its authors' or another run of it), tested here; "
                "one training, no deviation."
            )
        if name in TESTED:
            lines += [o.sentence() for o in self.results.on_other_data if place_of(o.run) in self.shown]
        kept = self._kept_starting_settings()
        if kept:
            lines.append(f"Tuning kept the starting settings, so that both rows are the same runs: {', '.join(kept)}.")
        return [*lines, *(self._user_reports(summary, "zsl" if name == "zsl" else "hm") if published else [])]

    def _fewer(self, summary: pd.DataFrame) -> list[str]:
        rows = summary[(summary["seeds"] < summary["planned"]) & (summary["seeds"] > 0)]
        return [
            f"{method_title(self.results, r['method'])} on {r['dataset']}, {r['mode']}, {r['variant']}: "
            f"{r['seeds']} of {r['planned']}"
            for r in records(rows)
        ]

    def _kept_starting_settings(self) -> list[str]:
        several = len({u.dataset for u in self.units}) > 1, len({u.mode for u in self.units}) > 1
        names = []
        for unit in self.units:
            if unit.study is not None and not unit.study["best_values"]:
                where = [text for text, shown in zip((unit.dataset, unit.mode), several, strict=True) if shown]
                title = unit.title
                names.append(f"{title} ({', '.join(where)})" if where else title)
        return names

    def _user_reports(self, summary: pd.DataFrame, metric: str) -> list[str]:
        lines = []
        rows = summary.drop_duplicates(["dataset", "features", "method"])
        for row in records(rows):
            reports = user_reports_for(row["dataset"], row["features"], row["method"])
            numbers = [(getattr(p.numbers, metric), p.source.short) for p in reports]
            texts = [f"{metric.upper()} {value:.2f} ({source})" for value, source in numbers if value is not None]
            if texts:
                name, place = method_title(self.results, row["method"]), dataset_title(self.results, row["dataset"])
                lines.append(f"Users who retrained {name} on {place} with the published code report {', '.join(texts)}.")
        return lines
