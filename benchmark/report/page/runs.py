"""Lists the runs of each method for the page of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.report.results.collect import METRICS, Results, records
from benchmark.report.tables.captions import dataset_title, method_title, settings_text
from benchmark.report.tables.means import LABELS, method_ranks
from benchmark.report.tables.table import NOTHING, about, protocol_text, short_assignment
from benchmark.tracking.schema import ablation_words

LABELLING = ("Dataset", "Protocol", "Settings", "Seed", "Stage", "State")
COLUMNS = (*LABELLING, *LABELS.values(), "Beta", "Epochs")


@dataclass(frozen=True)
class Run:
    """A job of a method."""

    cells: Sequence[str]
    """Texts of ``COLUMNS``; accuracies in percent."""
    keys: Mapping[str, str]
    run_id: str
    """Empty if there is no run."""
    error: str


@dataclass(frozen=True)
class MethodRuns:
    """A method with its runs."""

    method: str
    title: str
    runs: Sequence[Run]


def method_runs(results: Results) -> list[MethodRuns]:
    """All jobs of a report by method, in the order of tables: validation, test, ablations."""
    switched = (
        results.ablation[results.ablation["ablation"] != ""] if len(results.ablation) else results.ablation
    )
    frames = [f for f in (results.validation, results.test, switched) if len(f)]
    lines = records(pd.concat(frames, ignore_index=True)) if frames else []
    ranks = method_ranks(results)
    methods = sorted({r["method"] for r in lines}, key=lambda m: (ranks.get(m, len(ranks)), m))
    return [
        MethodRuns(m, method_title(results, m), [_run(results, r) for r in lines if r["method"] == m])
        for m in methods
    ]


def resolved_settings(results: Results) -> dict[str, str]:
    """The settings of the first job of each method and kind of settings, one per line, by the job's name."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    ranks = method_ranks(results)
    lines = records(
        pd.concat(
            [f for f in (results.validation, results.test) if len(f)] or [results.test], ignore_index=True
        )
    )
    for row in sorted(lines, key=lambda r: ranks[r["method"]]):
        known = results.settings.get(row["job_key"] or row["run_id"])
        if known:
            data = f"{dataset_title(results, row['dataset'])}, {row['features']}, mode {protocol_text(row)}"
            name = f"{method_title(results, row['method'])}, {settings_text(row['variant'], '')}: {data}"
            text = "\n".join(f"{setting}: {value}" for setting, value in sorted(known.items()))
            found.setdefault((row["method"], row["variant"]), (name, text))
    return dict(found.values())


def _run(results: Results, row: Mapping[str, Any]) -> Run:
    switch = f", {ablation_words(row['ablation'])}" if _known(row.get("ablation")) else ""
    settings = settings_text(row["variant"], str(row["settings"]) if _known(row.get("settings")) else "")
    seed = f"{row['repetition']} ({row['seed']})" if _known(row["seed"]) else str(row["repetition"])
    cells = [
        f"{dataset_title(results, row['dataset'])}, {row['features']}",
        f"{row['mode']}{switch}, {short_assignment(row['alignment'])}",
        settings,
        seed,
        "1, validation" if row["stage"] == 1 else "2, test",
        str(row["state"]),
        *(_number(row[metric], 100, 2) for metric in METRICS),
        _number(row["beta"], 1, 2),
        _number(row["epochs"], 1, 0),
    ]
    return Run(
        cells, about(row), str(row["run_id"]) if _known(row["run_id"]) else "", str(row["error"] or "")
    )


def _known(value: object) -> bool:
    return value is not None and value == value and value != ""


def _number(value: float, factor: float, digits: int) -> str:
    return NOTHING if pd.isna(value) else f"{factor * value:.{digits}f}"
