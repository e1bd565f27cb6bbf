"""Table of published and reported numbers of a report's methods and datasets, of any origin."""

from __future__ import annotations

import pandas as pd

from benchmark.report.results.collect import Results, distinct, records
from benchmark.report.results.published import FLAGS, Published, all_numbers_for
from benchmark.report.tables.captions import dataset_title, labels
from benchmark.report.tables.means import LABELS, PUBLISHED_METRICS, method_ranks
from benchmark.report.tables.table import NOTHING, Column, Table, about, flag_lines, flag_marks, plain_table

ORIGIN_TEXTS = {"user-report": "user's report", "readme": "README"}


def references(results: Results) -> pd.DataFrame:
    """A row per source: dataset, features, method, S, U, HM and ZSL in percent, and where they come from."""
    ranks = method_ranks(results)
    rows = []
    for features in dict.fromkeys(u.features for u in results.units):
        mine = [u for u in results.units if u.features == features]
        methods = sorted({u.method for u in mine}, key=ranks.__getitem__)
        for dataset in dict.fromkeys(u.dataset for u in mine):
            rows += [
                _row(dataset, method, p)
                for method in methods
                for p in all_numbers_for(dataset, features, method)
            ]
    return pd.DataFrame(rows)


def _row(dataset: str, method: str, found: Published) -> dict[str, object]:
    source = found.source
    row: dict[str, object] = {"dataset": dataset, "features": source.features, "method": method}
    row |= {f"{LABELS[m]}_percent": getattr(found.numbers, m) for m in PUBLISHED_METRICS}
    row |= {"source": source.short, "table": source.table, "page": source.page, "origin": source.origin}
    row |= {"mode": source.mode, "alignment": source.alignment, "seeds": source.seeds}
    return row | {"paper": source.paper, "url": source.url, "flags": ", ".join(found.flags)}


def references_table(results: Results, features: str) -> Table | None:
    """The references of a feature set; None if there are none."""
    frame = references(results)
    lines = [r for r in records(frame) if r["features"] == features]
    if not lines:
        return None
    titles = [dataset_title(results, r["dataset"]) for r in lines]
    columns = labels(results, lines, "Dataset", "Method")
    marks = [flag_marks(flag for flag in FLAGS if flag in r["flags"].split(", ")) for r in lines]
    columns[-1].texts = [name + mark for name, mark in zip(columns[-1].texts, marks, strict=True)]
    for metric in PUBLISHED_METRICS:
        values = [r[f"{LABELS[metric]}_percent"] for r in lines]
        columns.append(Column(LABELS[metric], "all", [NOTHING if pd.isna(v) else f"{v:.2f}" for v in values]))
    columns.append(Column("Source", "", [f"{r['source']}, {r['table']}" for r in lines]))
    columns.append(Column("Origin", "", [ORIGIN_TEXTS.get(r["origin"], r["origin"]) for r in lines]))
    columns += labels(results, lines, "Protocol")
    columns.append(
        Column("Seeds", "all", [NOTHING if pd.isna(r["seeds"]) else f"{r['seeds']:.0f}" for r in lines])
    )
    generated = distinct(
        u.dataset_title
        for u in results.units
        if u.features == features and u.generated and u.dataset in {r["dataset"] for r in lines}
    )
    caption = (
        "Numbers that others published or reported for these methods, in %, on the published features; –: "
        "not reported."
    )
    notes = [
        "Origin: a paper, a README, second-hand (not from the method's authors), or a user's report of their "
        "own training. Protocol: see docs/explanation/comparability.md.",
        *flag_lines("".join(marks)),
    ]
    if generated:
        notes.append(
            f"The data of this report are synthetic ({', '.join(generated)}); these numbers are not."
        )
    title = f"Published and reported numbers: {', '.join(distinct(titles))}, features {features}"
    return plain_table(
        "references", title, caption, columns, notes, screen=False, keys=[about(r) for r in lines]
    )
