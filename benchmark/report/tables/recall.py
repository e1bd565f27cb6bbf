"""Tables of recall per class, with the similarity of its class embedding to the training classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmark.report.results.collect import UNIT, Results, once, records, slot_of
from benchmark.report.tables.captions import dataset_title, method_title, processors_sentence, settings_text
from benchmark.report.tables.means import IDENTITY, method_ranks, order_rows
from benchmark.report.tables.table import NOTHING, Column, Table, plain_table, short_assignment

RECALLS = ("gzsl", "own_group")
"""Recall among all classes at the calibrated beta, and among the classes of the same group (seen or
unseen)."""
SIMILAR = ("nearest_seen_class", "nearest_seen_cosine")


@once
def recall_by_class(results: Results) -> pd.DataFrame:
    """A row per method, kind of settings (``IDENTITY``) and class: means over seeds, in percent.

    Columns: ``IDENTITY``, ``variant``, ``class``, ``group`` (seen or unseen), ``samples`` in the test split,
    ``seeds``, for each of ``RECALLS`` its mean and ``_std``, and for unseen classes ``nearest_seen_class``
    and ``nearest_seen_cosine``. These are missing if seeds differ in them (shuffled text) or jobs did not log
    them.
    """
    names = ["samples", "seeds", *(f"{r}{end}" for r in RECALLS for end in ("", "_std")), *SIMILAR]
    columns = [*IDENTITY, "variant", "class", "group", *names]
    done = results.test[results.test["state"] == "done"]
    jobs = done.assign(slot=done["variant"].map(slot_of))[[*IDENTITY, "variant", "run_id"]]
    merged = jobs.merge(results.recall.astype({"run_id": object}), on="run_id")
    if merged.empty:
        return pd.DataFrame(columns=columns)
    groups = merged.groupby([*IDENTITY, "class", "group"], sort=False, dropna=False)
    frame = groups.agg(
        variant=("variant", "first"), samples=("samples", "first"), seeds=("run_id", "nunique")
    )
    for name in RECALLS:
        frame[name], frame[f"{name}_std"] = 100 * groups[name].mean(), 100 * groups[name].std(ddof=1)
    for name in SIMILAR:
        frame[name] = groups[name].first().where(groups[name].nunique() == 1)
    return order_rows(frame.reset_index()[columns], method_ranks(results))


def recall_tables(results: Results) -> list[Table]:
    """GZSL recall of the unseen classes: a table per dataset, features, mode and alignment, a column per
    method. Controls are left out."""
    frame = recall_by_class(results)
    unseen = frame[(frame["group"] == "unseen") & ~frame["method"].isin(results.controls)]
    return [
        _table(results, tuple(map(str, key)), rows) for key, rows in unseen.groupby(UNIT[:-1], sort=False)
    ]


def _table(results: Results, key: Sequence[str], rows: pd.DataFrame) -> Table:
    dataset, features, mode, alignment = key
    place = dict(zip(UNIT[:-1], key, strict=True))
    classes = rows.drop_duplicates("class").set_index("class").sort_index()
    columns = [
        Column("Unseen class", "", [str(name) for name in classes.index]),
        Column("Samples", "", [str(n) for n in classes["samples"]]),
    ]
    for name, mine in _by_column(results, rows).items():
        means = mine.set_index("class")["gzsl"].reindex(classes.index)
        columns.append(Column(name, "recall", [NOTHING if pd.isna(v) else f"{v:.1f}" for v in means]))
    if classes["nearest_seen_class"].notna().any():
        columns.append(
            Column("Nearest seen class", "", [NOTHING if pd.isna(v) else str(v) for v in classes[SIMILAR[0]]])
        )
        columns.append(
            Column("Cosine", "", [NOTHING if pd.isna(v) else f"{v:.2f}" for v in classes[SIMILAR[1]]])
        )
    low, high = int(rows["seeds"].min()), int(rows["seeds"].max())
    seeds = f"{high} seed{'s' * (high > 1)}" if low == high else f"{low} to {high} seeds"
    caption = (
        "Recall in % of each unseen class among all classes at the calibrated beta (GZSL), mean over "
        f"{seeds}."
    )
    notes = [
        "`recall.csv` also has deviations, the recall among unseen classes only (ZSL), and the seen classes."
    ]
    if classes["nearest_seen_class"].notna().any():
        notes.insert(
            0,
            "Nearest seen class: the training class whose embedding has the highest cosine with that of the "
            "class, under the same class-to-embedding assignment.",
        )
    done = results.test[(results.test[UNIT[:-1]] == list(key)).all(axis=1)]
    processors = processors_sentence(results, done)
    data = f"{dataset_title(results, dataset)}, features {features}"
    title = f"Recall of unseen classes: {data}, mode {mode}, {short_assignment(alignment)}"
    keys, facts = [place] * len(classes), [processors] if processors else []
    return plain_table("recall", title, caption, columns, notes, screen=False, keys=keys, facts=facts)


def _by_column(results: Results, rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each column by its header: the method, with its settings if there are several kinds."""
    several, found = rows["slot"].nunique() > 1, dict[str, pd.DataFrame]()
    for _, mine in rows.groupby(["method", "slot", "settings"], sort=False):
        first: dict[str, Any] = records(mine.head(1))[0]
        settings = settings_text(first["variant"] if several else "", first["settings"])
        header = f"{method_title(results, first['method'])} {settings}".strip()
        found[header if header not in found else f"{header} ({first['method']})"] = mine
    return found


def recall_csv(results: Results) -> pd.DataFrame:
    """``recall_by_class`` for CSV, with units in the names."""
    frame = recall_by_class(results)
    units = {f"{r}{end}": f"{r}{end}_percent" for r in RECALLS for end in ("", "_std")}
    rounded = frame.round(dict.fromkeys((*units, SIMILAR[1]), 6))
    return rounded.drop(columns="slot").rename(columns=units)
