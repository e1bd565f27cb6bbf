"""Table of costs: time and memory of training, size of models, operations per test sample."""

from __future__ import annotations

from typing import Any

import pandas as pd

from benchmark.report.results.collect import ROW, Results, once, records, slot_of
from benchmark.report.results.released import RELEASED
from benchmark.report.tables.captions import dataset_title, labels
from benchmark.report.tables.means import IDENTITY, method_ranks, order_rows
from benchmark.report.tables.table import NOTHING, Column, Table, about, plain_table
from benchmark.tracking.schema import Metric

COSTS = ("stage_1_minutes", "stage_2_minutes", "peak_memory_mib", Metric.PARAMETERS, Metric.FLOPS)


@once
def costs(results: Results) -> pd.DataFrame:
    """A row per method and kind of settings (``IDENTITY``): means over seeds.

    Columns: ``IDENTITY``, ``variant``, ``seeds``, and ``COSTS``: minutes of training and validation in each
    stage, peak memory of stage 2's process in MiB, trainable parameters, floating-point operations to embed a
    test sample. Rows without costs are omitted, and so are released weights, which were not trained here.
    """
    test, validation = _logged(results, results.test), _logged(results, results.validation)
    first = validation[[*ROW, "settings", "minutes"]].rename(columns={"minutes": "stage_1_minutes"})
    jobs = test.rename(columns={"minutes": "stage_2_minutes"}).merge(first, on=[*ROW, "settings"], how="left")
    jobs = jobs.dropna(subset=list(COSTS), how="all").assign(slot=jobs["variant"].map(slot_of))
    groups = jobs.groupby(IDENTITY, sort=False)
    frame = groups.agg(
        variant=("variant", "first"), seeds=("run_id", "nunique"), **{c: (c, "mean") for c in COSTS}
    )
    return order_rows(frame.reset_index(), method_ranks(results))


def _logged(results: Results, frame: pd.DataFrame) -> pd.DataFrame:
    """The finished jobs of a frame that were trained here, with their logged costs."""
    done = frame[(frame["state"] == "done") & (frame["variant"] != RELEASED)]
    metrics = [results.runs[key].metrics for key in done["job_key"]]
    return done.assign(
        minutes=[m.get(Metric.DURATION, float("nan")) / 60 for m in metrics],
        peak_memory_mib=[m.get(Metric.PEAK_MEMORY, float("nan")) for m in metrics],
        **{name: [m.get(name, float("nan")) for m in metrics] for name in (Metric.PARAMETERS, Metric.FLOPS)},
    )


def cost_table(results: Results, features: str) -> Table | None:
    """The costs on a feature set; None if none were logged."""
    frame = costs(results)
    mine = frame[frame["features"] == features]
    if mine.empty:
        return None
    lines = records(mine)
    columns = [
        *labels(results, lines, "Dataset?", "Method", "Settings", "Protocol?"),
        Column("Stage 1 (min)", "cost", [_minutes(r["stage_1_minutes"]) for r in lines]),
        Column("Stage 2 (min)", "cost", [_minutes(r["stage_2_minutes"]) for r in lines]),
        Column("Peak memory (MiB)", "cost", [_whole(r["peak_memory_mib"]) for r in lines]),
        Column("Parameters", "cost", [_whole(r[Metric.PARAMETERS]) for r in lines]),
        Column("MFLOPs per sample", "cost", [_millions(r[Metric.FLOPS]) for r in lines]),
        Column("Seeds", "cost", [str(r["seeds"]) for r in lines]),
    ]
    caption = "Time, memory, parameters and operations of each method, mean over seeds."
    notes = [
        "Stages: time of training and validation; it depends on the machine and its load, so compare only "
        "jobs of one machine. Peak memory: process of stage 2, including libraries and mapped features, plus "
        "the GPU. Parameters: trainable ones. MFLOPs: millions of floating-point operations to embed a test "
        "sample (only matrix products, attention and convolutions; a multiply-add counts as 2)."
    ]
    datasets = ", ".join(dict.fromkeys(dataset_title(results, r["dataset"]) for r in lines))
    title = f"Cost: {datasets}, features {features}"
    return plain_table("cost", title, caption, columns, notes, screen=False, keys=[about(r) for r in lines])


def _minutes(value: Any) -> str:
    return NOTHING if pd.isna(value) else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _whole(value: Any) -> str:
    return NOTHING if pd.isna(value) else f"{value:,.0f}"


def _millions(value: Any) -> str:
    return NOTHING if pd.isna(value) else f"{value / 1e6:,.3g}" if value < 1e9 else f"{value / 1e6:,.0f}"
