"""From the tracking store to tidy frames: which jobs a call is made of, what they gave, what failed, and what captions say.

Nothing is averaged here and nothing is printed. Accuracies are fractions.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import pandas as pd

from benchmark.errors import UsageError
from benchmark.report.results.choice import Choice
from benchmark.report.results.released import RELEASED, OnOtherData, ReleasedWeights, on_report_data, place_of, released_runs
from benchmark.report.results.switches import differing, switched, told_apart
from benchmark.system.redaction import hide_values
from benchmark.tracking.benchmark_runs import benchmark_runs, find_benchmark_runs
from benchmark.tracking.schema import RENAMED_SWITCHES, Artifact, Kind, Metric, Tag
from benchmark.tracking.tracker import RunRecord, Tracker

GONE = "its run is not in the store any more"
METRICS = ("seen", "unseen", "hm", "zsl", "ausuc")
DISJOINT = ("disjoint_seen", "disjoint_hm", "disjoint_samples", "disjoint_classes")
"""Without the test-seen samples that have a relative in training; only where a job was asked for them."""
FRACTIONS = (*METRICS, "disjoint_seen", "disjoint_hm")
NUMBERS = (*METRICS, "beta", "epochs", *DISJOINT)
UNIT = ["dataset", "features", "mode", "alignment", "method"]
ROW = [*UNIT, "variant", "repetition"]
_FACTS = ["kind", "switches", "as_published", "split", "stage", "state"]
COLUMNS = [*ROW, *_FACTS, *NUMBERS, "seed", "job_key", "run_id", "call", "error"]
"""``kind``: published, real or generated data; ``switches``: those set against the mode; ``as_published``:
whether the settings are known to be the published ones."""
SLOTS = ("untuned", "user-set", "tuned", RELEASED)
"""Kinds of settings in the order of rows; what is published for one data set and default for another is one kind."""
TYPES: dict[str, type] = {
    **dict.fromkeys(COLUMNS, object),
    **dict.fromkeys(NUMBERS, float),
    "repetition": int,
    "stage": int,
    "as_published": bool,
}
"""Of the columns: the same in a frame without rows, or without a value in a column, so that frames fit each other."""
RECALL_COLUMNS = [
    "run_id", "class", "group", "gzsl", "own_group", "samples", "nearest_seen_class", "nearest_seen_cosine",
]  # fmt: skip
"""Recalls (fractions) of a class of the test splits; the last two of unseen classes, missing in older stores."""


def slot_of(variant: str) -> str:
    """The kind of settings of a variant."""
    return variant if variant in SLOTS else "untuned"


@dataclass(frozen=True)
class UnitFacts:
    """A method on a data set in a mode, as the call's record describes it: what captions and labels are made of."""

    dataset: str
    features: str
    mode: str
    alignment: str
    method: str
    tags: Mapping[str, str]
    call: str
    """Run id of the call."""
    run_id: str
    """The method's run, below which the jobs are that it ran itself."""
    study: Mapping[str, Any] | None = None
    """What tuning found (``Artifact.TUNING``); None without tuning."""
    search: pd.DataFrame | None = field(default=None, compare=False)
    """The trials (``Artifact.TRIALS``); None without tuning and in older stores."""
    importances: Mapping[str, Any] | None = None
    """Of the searched settings, or why there are none (``Artifact.IMPORTANCES``); None like ``search``."""

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """Data set, features, mode, alignment, method."""
        return (self.dataset, self.features, self.mode, self.alignment, self.method)

    @property
    def title(self) -> str:
        """Of the method."""
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
        """Whether these are weights from run folders of the published code: nothing was trained here."""
        return self.tags.get(Tag.KIND) == Kind.EVALUATION

    @property
    def trials(self) -> int:
        """Finished tuning trials, pruned ones included."""
        return int(self.tags.get(Tag.TUNING_TRIALS, "0"))

    def tag(self, name: str, default: str = "") -> str:
        """A tag, or the default where it is missing or empty."""
        return self.tags.get(name) or default


@dataclass(frozen=True)
class Problem:
    """A job without a result, and why. The order of the fields is that of the frames."""

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
    """The switch that an ablation corrected alone; such jobs are in no other table."""

    def sentence(self, title: str) -> str:
        """``TCAF on ucf/cls, mode paper, tuned, seed 0, stage 2: failed: ...``, with the method's title."""
        switch = f", ablation {self.ablation}" if self.ablation else ""
        place = f"{title} on {self.dataset}/{self.features}, mode {self.mode}{switch}, {self.variant} settings"
        return f"{place}, seed {self.repetition}, stage {self.stage}: {self.state}: {self.reason or 'no reason recorded'}"


@dataclass(frozen=True)
class Results:
    """All that a report is made of."""

    calls: Sequence[RunRecord]
    test: pd.DataFrame
    """A row per planned stage-2 job (``COLUMNS``), and one per released weights; metrics are missing where a job has no
    result."""
    validation: pd.DataFrame
    """The same for stage 1: metrics of the kept epoch on the validation splits."""
    ablation: pd.DataFrame
    """Stage-2 jobs of protocol ablations, with the column ``ablation``: the switch corrected, ``all``, or empty for paper."""
    units: Sequence[UnitFacts]
    problems: Sequence[Problem]
    runs: Mapping[str, RunRecord]
    """Finished run of each job key."""
    settings: Mapping[str, Mapping[str, str]]
    """Settings of each job key, with code and data where several calls meet; of released weights by run id."""
    released: Sequence[ReleasedWeights] = ()
    """Weights from run folders of the published code, which have rows in ``test``."""
    on_other_data: Sequence[OnOtherData] = ()
    """Released weights without a row."""
    recall: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=RECALL_COLUMNS), compare=False)
    """A row per class of each finished row of ``test`` that logged them (``RECALL_COLUMNS``)."""
    choice: Choice = field(default_factory=Choice)
    """What of the calls this is, with the names of datasets for presets."""
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)
    """``Artifact.GROUPS`` of each finished job of ``test`` that logged it, by run id."""
    made: dict[str, pd.DataFrame] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Frames that were made of this, by the function that made them (``once``)."""

    @property
    def method_runs(self) -> set[str]:
        """Run ids of the calls' own method runs; a job below another run was reused."""
        return {u.run_id for u in self.units}


def collect(tracker: Tracker, call_ids: Sequence[str] | None = None, choice: Choice | None = None) -> Results:
    """Everything that the store knows of some calls.

    Args:
        call_ids: run ids (or their beginnings) of benchmark calls, ``ALL_RUNS`` for every one; the newest call if None. Where
            two calls have the same row with the same settings, the newer one counts.
        choice: the part of it that is wanted; all of it if None.

    Raises:
        UsageError: no call in the store, an unknown id, calls without any result, or a choice that they do not have.
    """
    weights = released_runs(tracker)
    alone = bool(weights) and call_ids is None and not benchmark_runs(tracker)
    found = [] if alone else find_benchmark_runs(tracker, call_ids)
    entries = [(call, entry) for call in found for entry in _entries(tracker, call)]
    units = _units(tracker, found)
    if choice:
        places = {(entry["dataset"], entry["features"]) for _, entry in entries}
        weights = [w for w in weights if alone or place_of(w) in places]
        choice = choice.resolved([*(entry for _, entry in entries), *(u.tags for u in units), *(w.tags for w in weights)])
        entries = [(call, entry) for call, entry in entries if choice.has(entry)]
        units, weights = [u for u in units if choice.has(u.tags)], [w for w in weights if choice.has(w.tags)]
        found = [call for call in found if call.run_id in {*(c.run_id for c, _ in entries), *(u.call for u in units)}]
        alone = alone or not found
    runs = tracker.by_job_key(entry["job_key"] for _, entry in entries if entry["job_key"])
    if not runs and not any(u.study for u in units) and not alone:
        raise UsageError(_without_results(tracker, found, entries))
    rows = _rows(entries, runs, units)
    settings = _settings(tracker, runs, with_code=len(found) > 1)
    plain = [r for r in rows if not r["ablation"]]
    test, validation = (_frame([r for r in plain if r["split"] == split], settings) for split in ("test", "validation"))
    ablating = {r["call"] for r in rows if r["ablation"]}
    names = [*COLUMNS, "ablation"]
    ablation = pd.DataFrame([r for r in rows if r["call"] in ablating and r["stage"] == 2], columns=names).astype(TYPES)
    switched = pd.DataFrame([r for r in rows if r["ablation"]], columns=names).astype(TYPES)
    problems = _problems(pd.concat([validation, test, switched]))
    tested = {(r["dataset"], r["features"]) for r in records(test)}
    data = {(dataset, features): values for (dataset, features, _), values in digests(tracker, test).items()} if weights else {}
    released, other = on_report_data([w for w in weights if alone or place_of(w) in tested], data)
    if released:
        test = pd.concat([f for f in (test, _released_frame(released)) if len(f)], ignore_index=True)
        units += [_unit(w.run, call="") for w in released]
        settings |= {w.run.run_id: w.facts for w in released}
    recall, groups = _recall(tracker, test), _groups(tracker, test)
    return Results(
        found, test, validation, ablation, units, problems, runs, settings, released, other, recall, choice or Choice(), groups
    )


def _rows(
    entries: Sequence[tuple[RunRecord, Mapping[str, Any]]], runs: Mapping[str, RunRecord], units: Sequence[UnitFacts]
) -> list[dict[str, Any]]:
    """A row for each entry of the calls' lists of jobs: ``COLUMNS`` and ``ablation``."""
    has_test = {call.run_id for call, entry in entries if entry["stage"] == 2}
    facts = {(u.call, u.dataset, u.features, u.mode, u.method): u for u in units}
    rows = []
    for call, entry in entries:
        tested = entry["stage"] == 2 or (not entry["job_key"] and call.run_id in has_test)
        switch = entry.get("ablation", "")
        switch = RENAMED_SWITCHES.get(switch, switch)
        unit = facts.get((call.run_id, entry["dataset"], entry["features"], entry["mode"], entry["method"]))
        row = _row(call, entry, runs.get(entry["job_key"]), None if switch else unit)
        rows.append({**row, "split": "test" if tested else "validation", "stage": entry["stage"], "ablation": switch})
    return rows


def _released_frame(released: Sequence[ReleasedWeights]) -> pd.DataFrame:
    """The rows of released weights: one training, nothing planned here, no seed."""
    rows = []
    for weights in released:
        run, tags = weights.run, weights.run.tags
        row: dict[str, Any] = {name: tags.get(name, "unknown") for name in UNIT} | _numbers(run, Metric.TEST)
        row |= {"variant": RELEASED, "repetition": 0, "kind": tags.get(Tag.DATASET_KIND, ""), "settings": weights.settings}
        row |= {"split": "test", "stage": 2, "state": "done", "run_id": run.run_id}
        row |= {"switches": ", ".join(switched(run.params)), "as_published": weights.published_settings}
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "settings"])
    texts = ["seed", "job_key", "call", "error"]
    return frame.astype(dict.fromkeys(NUMBERS, float)).assign(**dict.fromkeys(texts, ""))


def _problems(frame: pd.DataFrame) -> list[Problem]:
    lost = frame[frame["state"] != "done"].assign(ablation=lambda f: f["ablation"].fillna(""))
    names = ["dataset", "features", "mode", "method", "variant", "repetition", "stage", "state", "error", "ablation"]
    return [Problem(*row) for row in lost[names].drop_duplicates().itertuples(index=False, name=None)]


def _settings(tracker: Tracker, runs: Mapping[str, RunRecord], *, with_code: bool) -> dict[str, dict[str, str]]:
    """Settings by job key; where runs of several calls may meet in a row, also the versions of code, data and libraries and the
    rule that groups test samples, as far as the runs recorded them."""
    settings = {key: dict(run.params) for key, run in runs.items()}
    for key, run in runs.items() if with_code else ():
        identity = _identity(tracker, run.run_id)
        settings[key] |= {name: str(identity.get(name, "unknown"))[:8] for name in ("code", "digest", "torch", "numpy")}
        settings[key] |= {"grouping": str(identity["grouping"])} if "grouping" in identity else {}
    return settings


def _identity(tracker: Tracker, run_id: str) -> dict[str, Any]:
    """What a job's key was made of; empty where it was not recorded."""
    return dict(artifact_json(tracker, run_id, Artifact.IDENTITY) or {})


def _entries(tracker: Tracker, call: RunRecord) -> list[dict[str, Any]]:
    """The call's list of jobs; empty where it was stopped before its first method was through."""
    return list(hide_values(artifact_json(tracker, call.run_id, Artifact.JOBS) or []))


def _without_results(tracker: Tracker, found: Sequence[RunRecord], entries: Sequence[Any]) -> str:
    names = ", ".join(f"{c.run_id} ({c.name}, {c.status.lower()})" for c in found)
    reasons = [e["error"] or GONE for _, e in entries if e["error"] or e["state"] in ("done", "reused")]
    why = f"; all {len(entries)} of its jobs failed or are missing, first reason: {reasons[0]}" if reasons else ""
    others = [c for c in benchmark_runs(tracker) if c.run_id not in {f.run_id for f in found}]
    hint = f"; other calls: {', '.join(f'{c.run_id} ({c.name})' for c in others[:3])}" if others else ""
    return f"no results yet in call {names} of {tracker.uri}{why}. Repeat the call's command to go on{hint}"


def _units(tracker: Tracker, found: Sequence[RunRecord]) -> list[UnitFacts]:
    units = []
    for call in found:
        for run in sorted(tracker.find(kind=Kind.METHOD, parent=call.run_id), key=lambda r: r.start):
            tags = run.tags
            if tags.get(Tag.ABLATION):
                continue
            unit = _unit(run, call.run_id)
            units.append(replace(unit, **_study(tracker, run.run_id)) if Tag.TUNING_TRIALS in tags else unit)
    return units


def _unit(run: RunRecord, call: str) -> UnitFacts:
    tags = run.tags
    names = (tags[Tag.DATASET], tags[Tag.FEATURES], tags[Tag.MODE], tags.get(Tag.ALIGNMENT, "unknown"), tags[Tag.METHOD])
    return UnitFacts(*names, tags=tags, call=call, run_id=run.run_id)


def _study(tracker: Tracker, run_id: str) -> dict[str, Any]:
    """What a method's run has of its study; older stores have the result alone, and what cannot be read is None."""
    study, importances = (artifact_json(tracker, run_id, name) for name in (Artifact.TUNING, Artifact.IMPORTANCES))
    return {
        "study": study if isinstance(study, dict) else None,
        "search": artifact_frame(tracker, run_id, Artifact.TRIALS),
        "importances": importances if isinstance(importances, dict) else None,
    }


def _row(call: RunRecord, entry: Mapping[str, Any], run: RunRecord | None, unit: UnitFacts | None) -> dict[str, Any]:
    """A row of ``COLUMNS`` but its split. A finished run counts whatever the entry says: another call may have made it."""
    row = {name: entry[name] for name in ("dataset", "features", "mode", "method", "variant", "repetition", "job_key")}
    row |= {"alignment": unit.alignment if unit else "unknown", "kind": unit.tag(Tag.DATASET_KIND) if unit else ""}
    row |= {"switches": "", "as_published": entry["variant"] == "published"}
    state = "not run" if entry["state"] == "missing" else entry["state"]  # version 0.1.0 wrote missing
    row |= {"call": call.run_id, "error": entry["error"], "state": state}
    if run is None:
        return row if state in ("failed", "not run") else {**row, "state": "not run", "error": GONE}
    row |= _numbers(run, Metric.TEST if entry["stage"] == 2 else Metric.BEST)
    row |= {"switches": ", ".join(switched(run.params)), "seed": run.tags.get(Tag.SEED)}
    return {**row, "state": "done", "error": "", "run_id": run.run_id}


def _numbers(run: RunRecord, prefix: str) -> dict[str, float | None]:
    """``NUMBERS`` of a run, None where it has none."""
    found = {name: run.metrics.get(prefix + name) for name in (*METRICS, *DISJOINT)}
    epochs = run.metrics.get(Metric.EPOCHS) if prefix == Metric.TEST else run.metrics.get(Metric.BEST_EPOCH, -1) + 1
    return {**found, "beta": run.metrics.get(Metric.BETA), "epochs": epochs}


def _frame(rows: list[dict[str, Any]], params: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """Rows as a frame; of a row that two calls have with the same settings, a result is kept before none, the newer first."""
    frame = pd.DataFrame(rows, columns=COLUMNS).astype(TYPES)
    frame["settings"], frame["slot"] = "", frame["variant"].map(slot_of)
    for _, group in frame.groupby([*UNIT, "slot"], sort=False):
        frame.loc[group.index, "settings"] = _settings_labels(group, params)
    done = frame[frame["state"] == "done"].drop_duplicates([*UNIT, "slot", "repetition", "settings"])
    lost = frame[(frame["state"] != "done") & ~_in(frame, done)].drop_duplicates(ROW)
    return frame.loc[sorted([*done.index, *lost.index])].drop(columns="slot").reset_index(drop=True)


def _in(frame: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Whether a row of the frame stands in the other one too."""
    known = set(other[ROW].itertuples(index=False, name=None))
    return pd.Series([row in known for row in frame[ROW].itertuples(index=False, name=None)], index=frame.index, dtype=bool)


def _settings_labels(group: pd.DataFrame, params: Mapping[str, Mapping[str, str]]) -> list[str]:
    """For each row what its settings have that the others' do not, as ``train.epochs=2``; empty where all are the same.

    Results made under different settings must not be averaged, so that each settings get a row of their own.
    """
    mine = [params.get(key) for key in group["job_key"]]
    names = differing(p for p in mine if p is not None)
    return ["" if p is None else ", ".join(told_apart(p, names)) for p in mine]


def artifact_text(tracker: Tracker, run_id: str, file: str) -> str | None:
    """A text artifact of a run, None where it has none."""
    try:
        return tracker.read_text(run_id, file)
    except UsageError:
        return None


def artifact_frame(tracker: Tracker, run_id: str, file: str) -> pd.DataFrame | None:
    """A CSV artifact of a run, None where it has none that can be read."""
    text = artifact_text(tracker, run_id, file)
    try:
        return None if text is None else pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
    except ValueError:  # empty or cut off: pandas' errors are of this kind
        return None


def artifact_json(tracker: Tracker, run_id: str, file: str) -> Any:
    """A JSON artifact of a run, None where it has none that can be read."""
    text = artifact_text(tracker, run_id, file)
    try:
        return None if text is None else json.loads(text)
    except ValueError:
        return None


def curve_of(tracker: Tracker, run_id: str) -> pd.DataFrame | None:
    """The seen-unseen curve of a stage-2 run (columns beta, seen, unseen; fractions), None where it was not logged."""
    return artifact_frame(tracker, run_id, Artifact.CURVE)


def _recall(tracker: Tracker, frame: pd.DataFrame) -> pd.DataFrame:
    """``Results.recall`` of the finished jobs of a frame."""
    found = []
    for run_id in frame.loc[frame["state"] == "done", "run_id"]:
        classes = artifact_frame(tracker, run_id, Artifact.RECALL)
        if classes is not None:
            found.append(classes.assign(run_id=run_id).reindex(columns=RECALL_COLUMNS))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=RECALL_COLUMNS)


def _groups(tracker: Tracker, frame: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    """``Results.groups`` of the finished jobs of a frame; released weights are in no interval."""
    trained = frame[(frame["state"] == "done") & (frame["variant"] != RELEASED)]
    found = {run_id: artifact_json(tracker, run_id, Artifact.GROUPS) for run_id in trained["run_id"]}
    return {run_id: groups for run_id, groups in found.items() if isinstance(groups, dict) and "classes" in groups}


def digests(tracker: Tracker, frame: pd.DataFrame) -> dict[tuple[str, str, str], list[str]]:
    """Digests of the data of jobs by data set, features and split; read from one run of each."""
    found: dict[tuple[str, str, str], list[str]] = {}
    mine = frame[(frame["state"] == "done") & (frame["variant"] != RELEASED)]
    done = mine.drop_duplicates(["dataset", "features", "split", "call"])
    for row in records(done):
        digest = str(_identity(tracker, row["run_id"]).get("digest", "not recorded"))
        known = found.setdefault((row["dataset"], row["features"], row["split"]), [])
        known.extend([digest] if digest not in known else [])
    return found


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame by column name."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def distinct(values: Iterable[str]) -> list[str]:
    """Values without repetition and without empty ones, in their order."""
    return list(dict.fromkeys(v for v in values if v))


def once(make: Callable[[Results], pd.DataFrame]) -> Callable[[Results], pd.DataFrame]:
    """A function that returns the frame it returned before for the same results; nobody changes it."""

    @wraps(make)
    def given(results: Results) -> pd.DataFrame:
        if make.__qualname__ not in results.made:
            results.made[make.__qualname__] = make(results)
        return results.made[make.__qualname__]

    return given
