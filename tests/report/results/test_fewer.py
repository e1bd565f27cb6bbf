"""Reports of stores from which runs or artifacts are missing, in many combinations: always a report of what
there is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report.tables.test_studies import log_search
from report.test_explain import details

from benchmark.errors import UsageError
from benchmark.figures import results
from benchmark.figures.style import default_style
from benchmark.report import explain, parallel, write
from benchmark.report.results.collect import GONE
from benchmark.report.sections import Image, ReportFigure
from benchmark.report.tables import build
from benchmark.report.write import Report, write_report
from benchmark.system.beside import reason_of
from benchmark.tracking.runs import RunRecord
from benchmark.tracking.schema import Artifact

DISJOINT = {"samples": 90.0, "classes": 3.0, "seen": 0.3, "hm": 0.2}
FIVE = [(0.4, 0.2), (0.5, 0.3), (0.4, 0.3), (0.5, 0.2), (0.45, 0.25)]
"""S and U of as many seeds as intervals and tests need."""
FILES = (
    "curve.csv",
    "recall.csv",
    "confusion.csv",
    "embedding.csv",
    Artifact.EMBEDDING_MAP,
    "identity.json",
    "call.yaml",
)
OF_SEARCHES = ("tuning.json", "trials.csv", "importances.json")


@dataclass
class Memory:
    """A tracking store in memory: quick to fill, and to make smaller."""

    runs: dict[str, RunRecord] = field(default_factory=dict)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    """By run and name of the artifact."""
    values: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    """By run and metric, then by step."""
    uri: str = "sqlite:////nowhere/mlflow.db"
    experiment_id: str = "1"

    def start(self, name: str, tags: Mapping[str, str], parent: str | None = None) -> str:
        run_id, now = f"run{len(self.runs)}", float(len(self.runs))
        self.runs[run_id] = RunRecord(run_id, name, "RUNNING", tags, {}, {}, now, now, parent)
        return run_id

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self.runs[run_id] = replace(self.runs[run_id], status=status)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        texts = {name: str(value) for name, value in params.items()}
        self.runs[run_id] = replace(self.runs[run_id], params={**self.runs[run_id].params, **texts})

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        self.runs[run_id] = replace(self.runs[run_id], metrics={**self.runs[run_id].metrics, **metrics})
        for name, value in metrics.items():
            self.values.setdefault((run_id, name), {})[step] = value

    def log_text(self, run_id: str, text: str, file: str) -> None:
        self.texts[run_id, file] = text

    def log_json(self, run_id: str, content: Any, file: str) -> None:
        self.log_text(run_id, json.dumps(content), file)

    def without(self, gone: Callable[[RunRecord], bool]) -> Memory:
        """As after these runs were deleted in MLflow."""
        return replace(self, runs={key: run for key, run in self.runs.items() if not gone(run)})

    def with_text(self, file: str, text: str | None) -> Memory:
        """All artifacts of a name have this text; None: there are none."""
        others = {key: old for key, old in self.texts.items() if key[1] != file}
        mine = {} if text is None else {key: text for key in self.texts if key[1] == file}
        return replace(self, texts={**others, **mine})

    def find(self, *, status: str | None = None, parent: str | None = None, **tags: str) -> list[RunRecord]:
        return [
            run
            for run in reversed(self.runs.values())
            if status in (None, run.status)
            and parent in (None, run.parent)
            and all(run.tags.get(name) == value for name, value in tags.items())
        ]

    def by_job_key(self, keys: Collection[str]) -> dict[str, RunRecord]:
        wanted = set(keys)
        found: dict[str, RunRecord] = {}
        for run in self.find(status="FINISHED", kind="job"):
            if (key := run.tags.get("job_key", "")) in wanted:
                found.setdefault(key, run)
        return found

    def read_text(self, run_id: str, file: str) -> str:
        if (run_id, file) not in self.texts:
            raise UsageError(f"no {file}")
        return self.texts[run_id, file]

    def read_json(self, run_id: str, file: str) -> Any:
        return json.loads(self.read_text(run_id, file))

    def histories(
        self, run_ids: Sequence[str], metrics: Sequence[str]
    ) -> dict[tuple[str, str], dict[int, float]]:
        return {
            key: values for key, values in self.values.items() if key[0] in set(run_ids) and key[1] in metrics
        }


@pytest.fixture(scope="module")
def whole(store_on: Any, unit: Any) -> Memory:
    """A call with everything that a report can show.

    Modes, a search, an ablation, a failed seed, released weights.
    """
    memory = Memory()
    store = store_on(memory)
    call = store.call(
        [
            unit(scores=FIVE, tuned=[(0.5, 0.3), (0.5, 0.35)], trials=4, disjoint=DISJOINT),
            unit(method="avca", scores=FIVE[::-1]),
            unit(mode="corrected"),
            unit(method="avca", mode="corrected", scores=[(0.3, 0.1), None]),
        ]
    )
    log_search(store, call)
    entries = store.tracker.read_json(call, "jobs.json")
    other = next(e["job_key"] for e in entries if e["method"] == "avca" and e["stage"] == 2)
    switched = [{**e, "ablation": "video_norm", "job_key": other} for e in entries[:2]]
    store.tracker.log_json(call, [*entries, *switched], "jobs.json")
    store.released(unit(), (0.6, 0.3))
    details(store)
    points = pd.DataFrame({"kind": ["sample", "class"] * 2, "class": ["a", "a", "b", "b"], "group": "unseen"})
    for run in store.tracker.find(kind="job", stage="2", repetition="0"):
        store.tracker.log_text(
            run.run_id,
            points.assign(x=1.0, y=[1.0, 2.0, 3.0, 4.0]).to_csv(index=False),
            Artifact.EMBEDDING_MAP,
        )
    return memory


@pytest.fixture
def report_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Report]:
    """Writes a report in which every figure is made and none is painted, which takes a second each."""

    def made(figure: ReportFigure) -> Image | str:
        try:
            figure.draw()
        except Exception as error:  # as save_figure
            return reason_of(error)
        return Image(b"<svg/>", 1, 1)

    def make(save: object, figures: Sequence[ReportFigure]) -> list[Image | str]:
        with default_style():
            return [made(figure) for figure in figures]

    monkeypatch.setattr(write, "in_parallel", make)
    return lambda snapshot: write_report(snapshot, tmp_path / "report")


def stage(number: int, **tags: str) -> Callable[[RunRecord], bool]:
    """Whether a run is a job of a stage with these tags."""
    wanted = {"kind": "job", "stage": str(number), **tags}
    return lambda run: wanted.items() <= run.tags.items()


def no(run: RunRecord) -> bool:
    return False


FIRST = {"no stage 1": stage(1), "stage 1 of one method lost": stage(1, method="tcaf"), "": no}
SECOND = {
    "no stage 2": stage(2),
    "stage 2 of one method lost": stage(2, method="tcaf"),
    "stage 2 of one mode lost": stage(2, mode="corrected"),
    "stage 2 of seed 0 lost": stage(2, repetition="0"),
    "methods without a seed in common": lambda r: any(
        stage(2, method=method, repetition=repetition)(r)
        for method, repetitions in (("tcaf", "024"), ("avca", "13"))
        for repetition in repetitions
    ),
    "": no,
}
METHODS = {
    "no method's run": lambda r: r.tags.get("kind") == "method",
    "one method's run lost": lambda r: r.tags.get("kind") == "method" and r.tags["method"] == "tcaf",
    "": no,
}
QUICK = [
    ("no stage 1", "", ""),
    ("stage 1 of one method lost", "stage 2 of one mode lost", "one method's run lost"),
    ("", "no stage 2", ""),
    ("", "no stage 2", "no method's run"),
    ("", "methods without a seed in common", ""),
    ("", "stage 2 of one method lost", "no method's run"),
    ("no stage 1", "no stage 2", "no method's run"),
]
"""What the fast tests try."""
PAIRS = [
    (list(FIRST)[(i + k) % len(FIRST)], second, method)
    for i, second in enumerate(SECOND)
    for k, method in enumerate(METHODS)
]
"""What the slow tests try besides: of the 54 combinations those that have each pair once at least."""


def some(values: Sequence[Any], quick: Collection[Any]) -> list[Any]:
    """Parameters of which those that are not quick are for the slow tests."""
    return [pytest.param(v, marks=() if v in quick else pytest.mark.slow, id=name_of(v)) for v in values]


def name_of(value: Any) -> str:
    return repr(value) if isinstance(value, str | None) else ", ".join(filter(None, value))


@pytest.mark.parametrize("names", some([*QUICK, *(p for p in PAIRS if p not in QUICK)], QUICK))
def test_runs_that_were_deleted_or_failed_leave_a_report_of_the_others(
    whole: Memory, report_of: Callable[[Any], Report], names: tuple[str, str, str]
) -> None:
    first, second, method = names
    kept = whole.without(FIRST[first]).without(SECOND[second]).without(METHODS[method])
    kept = kept.without(lambda run: len(method) > 0 and run.tags.get("kind") == "published-checkpoint")
    if not kept.find(kind="job") and not any("tuning.trials" in run.tags for run in kept.find(kind="method")):
        with pytest.raises(UsageError, match=f"no results yet in benchmark run .* first reason: {GONE}"):
            report_of(kept)
        return
    report = report_of(kept)
    assert report.not_written == []
    keys = [e["job_key"] for e in whole.read_json(whole.find(kind="benchmark_run")[0].run_id, "jobs.json")]
    before, now = whole.by_job_key(keys), kept.by_job_key(keys)
    assert len(report.failed) >= len(set(keys) - now.keys())
    text = report.files[0].read_text(encoding="utf-8")
    assert (GONE in text) is (len(now) < len(before))
    assert not re.search(r"Mode ,|alignment ,|features \.", text)
    if method == "no method's run" and "## Table" in text:
        assert (
            "The runs of some methods are no longer in the store, so their titles and settings are unknown."
            in text
        )
    assert ("## Table" in text) or not kept.find(kind="job")


MALFORMED = ("a,b\n", "{", "null", "[]")
"""For CSV files all of these are files of other columns."""


TEXTS = (None, "", "\n", *MALFORMED)
TOGETHER = [(files, text) for files in (FILES, OF_SEARCHES) for text in TEXTS]
ALONE = [((file,), text) for file in (*FILES, *OF_SEARCHES) for text in (None, "a,b\n")]


@pytest.mark.parametrize(
    ("files", "text"),
    [
        pytest.param(
            files,
            text,
            marks=[] if len(files) > 1 and text in TEXTS[:2] else pytest.mark.slow,
            id=f"{name_of(files)}-{text!r}",
        )
        for files, text in (*TOGETHER, *ALONE)
    ],
)
def test_artifacts_that_are_missing_empty_or_of_other_content_leave_a_report_without_them(
    whole: Memory, report_of: Callable[[Any], Report], files: Sequence[str], text: str | None
) -> None:
    smaller = whole
    for file in files:
        smaller = smaller.with_text(file, text)
    report = report_of(smaller)
    assert text in MALFORMED or report.not_written == [], (
        "files of other content are named, all else is foreseen"
    )
    assert {"gzsl", "zsl", "full", "intervals", "comparisons", "modes"} <= {t.name for t in report.tables}


@pytest.mark.parametrize("kept", ["tcaf", "avca", "none"])
def test_a_call_of_stage_1_or_of_searches_alone_is_reported(
    whole: Memory, report_of: Callable[[Any], Report], kept: str
) -> None:
    call = whole.find(kind="benchmark_run")[0].run_id
    entries = [e for e in whole.read_json(call, "jobs.json") if e["stage"] == 1 and e["method"] == kept]
    texts = {**whole.texts, (call, "jobs.json"): json.dumps(entries)}
    report = report_of(replace(whole, texts=texts))
    assert report.not_written == []
    assert ("validation" in {t.name for t in report.tables}) is (kept != "none")
    assert "tuning" in {t.name for t in report.tables}


def test_a_table_and_figures_that_fail_are_named_and_all_else_is_written(
    whole: Memory, report_of: Callable[[Any], Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no luck\nat all")

    before = report_of(whole)
    names = {file.name for file in before.files}
    failing = ((build, "cost_table"), (explain, "scores_of"), (results, "_panels"), (write, "report_page"))
    other = replace(whole, uri=f"{whole.uri}?other")
    with monkeypatch.context() as patch:
        for place, name in failing:
            patch.setattr(place, name, broken)
        after = report_of(other)
    missing = names - {file.name for file in after.files}
    assert {"index.html", "cost.csv", "cost.tex"} <= missing
    assert all(name.startswith(("index.html", "cost.", "scores-")) for name in missing), (
        "nothing else is missing"
    )
    assert "table cost, features native: RuntimeError: no luck" in after.not_written
    assert "index.html: RuntimeError: no luck" in after.not_written
    text = after.files[0].read_text(encoding="utf-8")
    assert all(f"- {line}" in text for line in after.not_written)
    assert "(recall-" not in text, "a figure that was not drawn is not shown"
    assert "(curve-" in text
    assert report_of(other).not_written == [], "it is tried again"


def test_processes_that_cannot_work_leave_the_work_to_this_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def killed(**_: Any) -> Any:
        raise OSError("no memory for a process")

    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    monkeypatch.setattr(parallel, "PROCESSES", 4)
    monkeypatch.setattr("joblib.Parallel", killed)
    assert parallel.in_parallel(abs, range(-9, 0)) == list(range(9, 0, -1))
    assert "no memory for a process" in caplog.text
