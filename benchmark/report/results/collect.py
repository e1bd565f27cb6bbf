"""Collects the results of benchmark runs from the tracking store into tidy frames, one row per job.

Nothing is averaged here. Accuracies are fractions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from typing import Any

import pandas as pd

from benchmark.errors import UsageError
from benchmark.report.results.artifacts import (
    artifact_frame,
    artifact_json,
    entries_of,
    identity_of,
    study_of_run,
)
from benchmark.report.results.choice import Choice
from benchmark.report.results.released import (
    RELEASED,
    OnOtherData,
    ReleasedWeights,
    data_of,
    on_report_data,
    released_runs,
)
from benchmark.report.results.switches import differing, switched, told_apart
from benchmark.tracking.benchmark_runs import benchmark_runs, find_benchmark_runs
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import RENAMED_SWITCHES, Artifact, Kind, Metric, Tag
from benchmark.tracking.tracker import Tracker

GONE = "its run is no longer in the store"
METRICS = ("seen", "unseen", "hm", "zsl", "ausuc")
DISJOINT = ("disjoint_seen", "disjoint_hm", "disjoint_samples", "disjoint_classes")
"""Without test-seen samples that share a group with a training sample; only if a job was asked for them."""
FRACTIONS = (*METRICS, "disjoint_seen", "disjoint_hm")
NUMBERS = (*METRICS, "beta", "epochs", *DISJOINT)
UNIT = ["dataset", "features", "mode", "alignment", "method"]
ROW = [*UNIT, "variant", "study", "repetition"]
_FACTS = ["kind", "switches", "as_published", "split", "stage", "state"]
COLUMNS = [*ROW, *_FACTS, *NUMBERS, "seed", "job_key", "run_id", "benchmark_run", "error"]
"""``kind``: published, real or generated (synthetic) data; ``switches``: protocol switches that differ from
the mode; ``as_published``: whether the settings are the published ones."""
SLOTS = ("untuned", "user-set", "tuned", RELEASED)
"""Kinds of settings in the order of rows. Published and default settings are one kind, ``untuned``."""
TYPES: dict[str, type] = {**dict.fromkeys(COLUMNS, object), **dict.fromkeys(NUMBERS, float)}
TYPES |= {"repetition": int, "study": int, "stage": int, "as_published": bool}
"""Types of the columns, so that frames fit each other even without rows or values."""
RECALL_COLUMNS = [
    "run_id", "class", "group", "gzsl", "own_group", "samples", "nearest_seen_class", "nearest_seen_cosine",
]  # fmt: skip
"""Recalls of a class of the test splits. The last two are of unseen classes; earlier stores lack them."""


def slot_of(variant: str) -> str:
    """The kind of settings of a variant."""
    return variant if variant in SLOTS else "untuned"


@dataclass(frozen=True)
class UnitFacts:
    """A method on a dataset in a mode, as its run describes it; captions and labels are made from this."""

    dataset: str
    features: str
    mode: str
    alignment: str
    method: str
    tags: Mapping[str, str]
    call: str
    """Id of the benchmark run."""
    run_id: str
    """Id of the method's run; its own jobs are below it."""
    study: Mapping[str, Any] | None = None
    """Result of tuning (``Artifact.TUNING``); None without tuning."""
    further: Sequence[Mapping[str, Any]] = ()
    """Results of further searches, if there are several."""
    number: int = 0
    """Which of several searches ``study`` is."""
    search: pd.DataFrame | None = field(default=None, compare=False)
    """The trials (``Artifact.TRIALS``); None without tuning and in earlier stores."""
    importances: Mapping[str, Any] | None = None
    """Importances of hyperparameters, or the reason why there are none (``Artifact.IMPORTANCES``); or
    None."""

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """Dataset, features, mode, alignment, method."""
        return (self.dataset, self.features, self.mode, self.alignment, self.method)

    @property
    def title(self) -> str:
        """The method's full name."""
        return self.tag(Tag.METHOD_TITLE, self.method)

    @property
    def dataset_title(self) -> str:
        """The dataset's full name."""
        return self.tag(Tag.DATASET_TITLE, self.dataset)

    @property
    def generated(self) -> bool:
        """Whether the data are synthetic."""
        return self.tag(Tag.DATASET_KIND) == "generated"

    @property
    def released(self) -> bool:
        """Whether these are released weights, which were not trained here."""
        return self.tags.get(Tag.KIND) == Kind.EVALUATION

    @property
    def trials(self) -> int:
        """Finished tuning trials, pruned ones included."""
        return int(self.tags.get(Tag.TUNING_TRIALS, "0"))

    @property
    def kept_trial(self) -> int | None:
        """The trial that the search kept; None without tuning, and until the search is confirmed."""
        number: int | None = self._kept("number", "best_number")
        return number

    @property
    def tuned_values(self) -> Mapping[str, Any] | None:
        """Hyperparameters of the kept trial, empty if they are the untuned ones; None if none is kept."""
        values: Mapping[str, Any] | None = self._kept("values", "best_values")
        return values

    def _kept(self, name: str, in_search: str) -> Any:
        """A fact of the kept trial: the confirmed one, or the search's best if nothing is to be confirmed."""
        study = self.study or {}
        if study.get("confirmation"):
            return study["confirmation"][name]
        return None if study.get("candidates") else study.get(in_search)

    def tag(self, name: str, default: str = "") -> str:
        """A tag, or the default where it is missing or empty."""
        return self.tags.get(name) or default


@dataclass(frozen=True)
class Problem:
    """A job that failed or did not run, with the reason."""

    dataset: str
    features: str
    mode: str
    method: str
    variant: str
    repetition: int
    stage: int
    state: str
    reason: str
    ablation: str
    """The switch that an ablation corrects alone; such jobs are in no other table."""

    def sentence(self, title: str) -> str:
        """``TCAF on ucf/cls, mode paper, tuned, seed 0, stage 2: failed: ...``, with the method's title."""
        switch = f", ablation {self.ablation}" if self.ablation else ""
        place = (
            f"{title} on {self.dataset}/{self.features}, mode {self.mode}{switch}, {self.variant} settings"
        )
        reason = self.reason or "no reason recorded"
        return f"{place}, seed {self.repetition}, stage {self.stage}: {self.state}: {reason}"


@dataclass(frozen=True)
class Results:
    """All results that a report is made from."""

    calls: Sequence[RunRecord]
    test: pd.DataFrame
    """A row per planned stage-2 job (``COLUMNS``) and per released weights; without metrics if a job has no
    result."""
    validation: pd.DataFrame
    """The same for stage 1: metrics of the best epoch on the validation splits."""
    ablation: pd.DataFrame
    """Stage-2 jobs of ablations; ``ablation`` is the corrected switch, ``all``, or empty for mode
    paper."""
    units: Sequence[UnitFacts]
    problems: Sequence[Problem]
    runs: Mapping[str, RunRecord]
    """The finished run of each job key."""
    settings: Mapping[str, Mapping[str, str]]
    """Settings by job key, with hashes of code and data if there are several benchmark runs; of released
    weights by run id."""
    released: Sequence[ReleasedWeights] = ()
    """Released weights with a row in ``test``."""
    on_other_data: Sequence[OnOtherData] = ()
    """Released weights without a row, since they were evaluated on other data."""
    recall: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=RECALL_COLUMNS), compare=False)
    """A row per class of each finished row of ``test`` that logged its recalls (``RECALL_COLUMNS``)."""
    choice: Choice = field(default_factory=Choice)
    """What was selected of the benchmark runs, with names of datasets instead of presets."""
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    """``Artifact.GROUPS`` of each finished job of ``test`` that logged it, by run id."""
    made: dict[str, pd.DataFrame] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Frames made from these results, by the function that made them (``once``)."""

    @property
    def controls(self) -> set[str]:
        """The methods that are controls: they have rows, and neither figures nor recalls by class."""
        return {unit.method for unit in self.units if unit.tag(Tag.CONTROL)}

    @property
    def method_runs(self) -> set[str]:
        """Ids of the runs of methods. A job below any other run was reused."""
        return {u.run_id for u in self.units}


def collect(tracker: Tracker, call_ids: Sequence[str] | None = None, choice: Choice | None = None) -> Results:
    """Collect all results of some benchmark runs.

    Args:
        call_ids: ids of benchmark runs or unique prefixes; ``ALL_RUNS`` for all; the newest one if None. If
            two have the same row with the same settings, the newer one counts.
        choice: what to select; everything if None.

    Raises:
        UsageError: the store has no benchmark run, an id is unknown, there are no results, or nothing matches
            the choice.
    """
    # benchmark runs with their jobs and methods; released weights alone if there are no benchmark runs
    weights = released_runs(tracker)
    alone = bool(weights) and call_ids is None and not benchmark_runs(tracker)
    found = [] if alone else find_benchmark_runs(tracker, call_ids)
    entries = [(call, entry) for call in found for entry in entries_of(tracker, call)]
    units = _units(tracker, found)

    # what is selected of them
    if choice:
        data = {(entry["dataset"], entry["features"]) for _, entry in entries}
        weights = [w for w in weights if alone or data_of(w) in data]
        choice = choice.resolved(
            [*(entry for _, entry in entries), *(u.tags for u in units), *(w.tags for w in weights)]
        )
        entries = [(call, entry) for call, entry in entries if choice.has(entry)]
        units, weights = [u for u in units if choice.has(u.tags)], [w for w in weights if choice.has(w.tags)]
        kept = {*(c.run_id for c, _ in entries), *(u.call for u in units)}
        found = [call for call in found if call.run_id in kept]
        alone = alone or not found

    # a row per job, from its finished run, whichever benchmark run it belongs to
    runs = tracker.by_job_key(entry["job_key"] for _, entry in entries if entry["job_key"])
    if not runs and not any(u.study for u in units) and not alone:
        raise UsageError(_without_results(tracker, found, entries))
    rows = _rows(entries, runs, units)
    settings = _settings(tracker, runs, with_code=len(found) > 1)
    plain = [r for r in rows if not r["ablation"]]
    test, validation = (
        _frame([r for r in plain if r["split"] == split], settings) for split in ("test", "validation")
    )
    ablating = {r["benchmark_run"] for r in rows if r["ablation"]}
    names = [*COLUMNS, "ablation", "uses"]
    ablation = pd.DataFrame(
        [r for r in rows if r["benchmark_run"] in ablating and r["stage"] == 2], columns=names
    ).astype(TYPES)
    switched = pd.DataFrame([r for r in rows if r["ablation"]], columns=names).astype(TYPES)
    problems = _problems(pd.concat([validation, test, switched]))

    # released weights that were evaluated on the same data
    tested = {(r["dataset"], r["features"]) for r in records(test)}
    hashes = digests(tracker, test).items() if weights else ()
    known = {(dataset, features): values for (dataset, features, _), values in hashes}
    released, other = on_report_data([w for w in weights if alone or data_of(w) in tested], known)
    if released:
        test = pd.concat([f for f in (test, _released_frame(released)) if len(f)], ignore_index=True)
        units += [_unit(w.run, call="") for w in released]
        settings |= {w.run.run_id: w.facts for w in released}
    return Results(
        calls=found,
        test=test,
        validation=validation,
        ablation=ablation,
        units=units,
        problems=problems,
        runs=runs,
        settings=settings,
        released=released,
        on_other_data=other,
        recall=_recall(tracker, test),
        choice=choice or Choice(),
        groups=_groups(tracker, test),
    )


def _rows(
    entries: Sequence[tuple[RunRecord, Mapping[str, Any]]],
    runs: Mapping[str, RunRecord],
    units: Sequence[UnitFacts],
) -> list[dict[str, Any]]:
    """A row (``COLUMNS`` and ``ablation``) for each entry of the lists of jobs.

    If tuning kept the untuned settings, its jobs are those of the untuned rows, which are enough. A further
    search has jobs of its own, whatever it kept.
    """
    untuned = {(call.run_id, e["job_key"]) for call, e in entries if e["variant"] != "tuned"}
    several = {call.run_id for call, e in entries if e.get("study", 0)}
    entries = [
        (call, e)
        for call, e in entries
        if e["variant"] != "tuned" or (call.run_id, e["job_key"]) not in untuned or call.run_id in several
    ]
    has_test = {call.run_id for call, entry in entries if entry["stage"] == 2}
    facts = {(u.call, u.dataset, u.features, u.mode, u.method): u for u in units}
    rows = []
    for call, entry in entries:
        tested = entry["stage"] == 2 or (not entry["job_key"] and call.run_id in has_test)
        switch = entry.get("ablation", "")
        switch = RENAMED_SWITCHES.get(switch, switch)
        unit = facts.get((call.run_id, entry["dataset"], entry["features"], entry["mode"], entry["method"]))
        row = _row(call, entry, runs.get(entry["job_key"]), None if switch else unit)
        run = runs.get(entry["job_key"])
        row |= {"split": "test" if tested else "validation", "stage": entry["stage"], "ablation": switch}
        rows.append({**row, "uses": run.tags.get(Tag.METHOD_USES, "") if run else ""})
    return rows


def _released_frame(released: Sequence[ReleasedWeights]) -> pd.DataFrame:
    """The rows of released weights: one training each, without seed."""
    rows = []
    for weights in released:
        run, tags = weights.run, weights.run.tags
        row: dict[str, Any] = {name: tags.get(name, "unknown") for name in UNIT} | _numbers(run, Metric.TEST)
        row |= {"variant": RELEASED, "repetition": 0, "study": 0, "settings": weights.settings}
        row |= {"kind": tags.get(Tag.DATASET_KIND, ""), "run_id": run.run_id}
        row |= {"split": "test", "stage": 2, "state": "done"}
        row |= {"switches": ", ".join(switched(run.params)), "as_published": weights.published_settings}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "settings"])
    texts = ["seed", "job_key", "benchmark_run", "error"]
    return frame.astype(dict.fromkeys(NUMBERS, float)).assign(**dict.fromkeys(texts, ""))


def _problems(frame: pd.DataFrame) -> list[Problem]:
    lost = frame[frame["state"] != "done"].assign(ablation=lambda f: f["ablation"].fillna(""))
    lost = lost.rename(columns={"error": "reason"})[[field.name for field in fields(Problem)]]
    return [Problem(**row) for row in records(lost.drop_duplicates())]


def _settings(
    tracker: Tracker, runs: Mapping[str, RunRecord], *, with_code: bool
) -> dict[str, dict[str, str]]:
    """Settings by job key.

    Args:
        with_code: add hashes of code and data, versions of libraries and the rule that groups test samples,
            as far as they were recorded, since rows may come from several benchmark runs.
    """
    settings = {key: dict(run.params) for key, run in runs.items()}
    for key, run in runs.items() if with_code else ():
        identity = identity_of(tracker, run.run_id)
        settings[key] |= {
            name: str(identity.get(name, "unknown"))[:8] for name in ("code", "digest", "torch", "numpy")
        }
        settings[key] |= {"grouping": str(identity["grouping"])} if "grouping" in identity else {}
    return settings


def _without_results(tracker: Tracker, found: Sequence[RunRecord], entries: Sequence[Any]) -> str:
    names = ", ".join(f"{c.run_id} ({c.name}, {c.status.lower()})" for c in found)
    reasons = [e["error"] or GONE for _, e in entries if e["error"] or e["state"] in ("done", "reused")]
    why = f"; all {len(entries)} jobs failed or did not run, first reason: {reasons[0]}" if reasons else ""
    others = [c for c in benchmark_runs(tracker) if c.run_id not in {f.run_id for f in found}]
    hint = (
        f"; other benchmark runs: {', '.join(f'{c.run_id} ({c.name})' for c in others[:3])}" if others else ""
    )
    return (
        f"no results yet in benchmark run {names} of {tracker.uri}{why}. Rerun its command to continue{hint}"
    )


def _units(tracker: Tracker, found: Sequence[RunRecord]) -> list[UnitFacts]:
    units = []
    for call in found:
        for run in sorted(tracker.find(kind=Kind.METHOD, parent=call.run_id), key=lambda r: r.start):
            tags = run.tags
            if tags.get(Tag.ABLATION):
                continue
            unit = _unit(run, call.run_id)
            units.append(
                replace(unit, **study_of_run(tracker, run.run_id, tags))
                if Tag.TUNING_TRIALS in tags
                else unit
            )
    return units


def _unit(run: RunRecord, call: str) -> UnitFacts:
    tags = run.tags
    return UnitFacts(
        dataset=tags[Tag.DATASET],
        features=tags[Tag.FEATURES],
        mode=tags[Tag.MODE],
        alignment=tags.get(Tag.ALIGNMENT, "unknown"),
        method=tags[Tag.METHOD],
        tags=tags,
        call=call,
        run_id=run.run_id,
    )


def _row(
    call: RunRecord, entry: Mapping[str, Any], run: RunRecord | None, unit: UnitFacts | None
) -> dict[str, Any]:
    """A row of ``COLUMNS``, without split. A finished run counts whatever the entry's state: it may be from
    elsewhere."""
    row = {
        name: entry[name]
        for name in ("dataset", "features", "mode", "method", "variant", "repetition", "job_key")
    }
    row["study"] = entry.get("study", 0)
    row["alignment"] = unit.alignment if unit else "unknown"
    row["kind"] = unit.tag(Tag.DATASET_KIND) if unit else ""
    row |= {"switches": "", "as_published": entry["variant"] == "published"}
    state = "not run" if entry["state"] == "missing" else entry["state"]  # version 0.1.0 wrote missing
    row |= {"benchmark_run": call.run_id, "error": entry["error"], "state": state}
    if run is None:
        return row if state in ("failed", "not run") else {**row, "state": "not run", "error": GONE}
    row |= _numbers(run, Metric.TEST if entry["stage"] == 2 else Metric.BEST)
    row |= {"switches": ", ".join(switched(run.params)), "seed": run.tags.get(Tag.SEED)}
    return {**row, "state": "done", "error": "", "run_id": run.run_id}


def _numbers(run: RunRecord, prefix: str) -> dict[str, float | None]:
    """``NUMBERS`` of a run; None if missing."""
    found = {name: run.metrics.get(prefix + name) for name in (*METRICS, *DISJOINT)}
    until_best = run.metrics.get(Metric.BEST_EPOCH, -1) + 1
    epochs = run.metrics.get(Metric.EPOCHS) if prefix == Metric.TEST else until_best
    return {**found, "beta": run.metrics.get(Metric.BETA), "epochs": epochs}


def _frame(rows: list[dict[str, Any]], params: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Rows as a frame, each once with the same settings: preferably one with a result, then the newest."""
    frame = pd.DataFrame(rows, columns=COLUMNS).astype(TYPES)
    frame["settings"], frame["slot"] = "", frame["variant"].map(slot_of)
    for _, group in frame.groupby([*UNIT, "slot"], sort=False):
        if not group["study"].any():  # several searches find different settings, which are one row
            frame.loc[group.index, "settings"] = _settings_labels(group, params)
    done = frame[frame["state"] == "done"].drop_duplicates([*UNIT, "slot", "study", "repetition", "settings"])
    lost = frame[(frame["state"] != "done") & ~_in(frame, done)].drop_duplicates(ROW)
    return frame.loc[sorted([*done.index, *lost.index])].drop(columns="slot").reset_index(drop=True)


def _in(frame: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Whether each row of the frame is also in the other one."""
    known = set(other[ROW].itertuples(index=False, name=None))
    return pd.Series(
        [row in known for row in frame[ROW].itertuples(index=False, name=None)], index=frame.index, dtype=bool
    )


def _settings_labels(group: pd.DataFrame, params: Mapping[str, Mapping[str, str]]) -> list[str]:
    """For each row the settings that differ between rows, as ``train.epochs=2``; empty if all are the same.

    Results under different settings must not be averaged, so they get rows of their own.
    """
    mine = [params.get(key) for key in group["job_key"]]
    names = differing(p for p in mine if p is not None)
    return ["" if p is None else ", ".join(told_apart(p, names)) for p in mine]


def _recall(tracker: Tracker, frame: pd.DataFrame) -> pd.DataFrame:
    """``Results.recall`` of the finished jobs of a frame."""
    found = []
    for run_id in frame.loc[frame["state"] == "done", "run_id"]:
        classes = artifact_frame(tracker, run_id, Artifact.RECALL)
        if classes is not None:
            found.append(classes.assign(run_id=run_id).reindex(columns=RECALL_COLUMNS))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=RECALL_COLUMNS)


def _groups(tracker: Tracker, frame: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    """``Results.groups`` of the finished jobs of a frame; released weights have no intervals."""
    trained = frame[(frame["state"] == "done") & (frame["variant"] != RELEASED)]
    found = {run_id: artifact_json(tracker, run_id, Artifact.GROUPS) for run_id in trained["run_id"]}
    return {
        run_id: groups for run_id, groups in found.items() if isinstance(groups, dict) and "classes" in groups
    }


def digests(tracker: Tracker, frame: pd.DataFrame) -> dict[tuple[str, str, str], list[str]]:
    """Hashes of the data by dataset, features and split, from one job of each benchmark run."""
    found: dict[tuple[str, str, str], list[str]] = {}
    mine = frame[(frame["state"] == "done") & (frame["variant"] != RELEASED)]
    done = mine.drop_duplicates(["dataset", "features", "split", "benchmark_run"])
    for row in records(done):
        digest = str(identity_of(tracker, row["run_id"]).get("digest", "not recorded"))
        known = found.setdefault((row["dataset"], row["features"], row["split"]), [])
        known.extend([digest] if digest not in known else [])
    return found


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def synthetic(frame: pd.DataFrame) -> str:
    """What titles add if rows are of synthetic data."""
    return ", synthetic data" if "generated" in set(frame["kind"]) else ""


def distinct(values: Iterable[str]) -> list[str]:
    """The distinct values that are not empty, in order."""
    return list(dict.fromkeys(v for v in values if v))


def once(make: Callable[[Results], pd.DataFrame]) -> Callable[[Results], pd.DataFrame]:
    """Let a function make its frame only once for the same results. Callers must not change the frame."""

    @wraps(make)
    def given(results: Results) -> pd.DataFrame:
        if make.__qualname__ not in results.made:
            results.made[make.__qualname__] = make(results)
        return results.made[make.__qualname__]

    return given
