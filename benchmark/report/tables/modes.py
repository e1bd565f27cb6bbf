"""Tables of the effect of the protocol: both modes, and an ablation of its switches."""

from __future__ import annotations

import pandas as pd

from benchmark.report.results.collect import Results, distinct, records
from benchmark.report.results.released import RELEASED
from benchmark.report.tables.captions import (
    dataset_title,
    labels,
    method_title,
    processors_sentence,
    seeds_facts,
    settings_text,
)
from benchmark.report.tables.means import (
    ABLATED,
    LABELS,
    PUBLISHED_METRICS,
    ablation_effects,
    method_ranks,
    mode_effects,
    order_rows,
)
from benchmark.report.tables.studies import ONE_SEARCH
from benchmark.report.tables.table import (
    FLAG_MARKS,
    FLAG_TEXTS,
    NOTHING,
    Column,
    Table,
    about,
    cell,
    plain_table,
    signed,
    spread_facts,
    spread_of,
)
from benchmark.tracking.schema import Tag, ablation_words


def modes_table(results: Results, frame: pd.DataFrame, features: str) -> Table | None:
    """Modes paper and corrected and their difference; None if nothing was tested in both.

    Args:
        frame: stage-2 rows of the feature set.
    """
    effects = order_rows(mode_effects(frame, results.settings), method_ranks(results))
    if effects.empty:
        return None
    lines = records(effects)
    titles = [dataset_title(results, r["dataset"]) for r in lines]
    columns = labels(results, lines, "Dataset?", "Method", "Settings")
    columns.append(
        Column("Assignment", "", [f"{r['paper_alignment']} → {r['corrected_alignment']}" for r in lines])
    )
    columns.append(Column("Seeds", "", [str(r["seeds"]) for r in lines]))
    for metric in ("hm", "zsl", "seen", "unseen"):
        for name in ("paper", "corrected", "difference"):
            texts = [spread_of(r, f"{metric}_{name}") for r in lines]
            texts = list(map(signed, texts)) if name == "difference" else texts
            columns.append(Column(f"{LABELS[metric]} {name}", LABELS[metric], texts))
    shown = frame[frame["dataset"].isin(effects["dataset"]) & frame["method"].isin(effects["method"])]
    generated = [dataset_title(results, name) for name in shown.loc[shown["kind"] == "generated", "dataset"]]
    caption = (
        "Mean per-class accuracy in % in modes paper and corrected, over the seeds that both have (column "
        "Seeds)."
    )
    notes = [
        "Difference: corrected − paper in percentage points, paired by seed. It is the effect of all "
        "protocol flags together, including the class-to-embedding assignment (column Assignment: paper → "
        "corrected)."
    ]
    fixed = distinct(effects["switches"])
    notes += [f"Set in both modes, so without effect here: {'; '.join(fixed)}."] if fixed else []
    notes += [f"Synthetic data: {', '.join(distinct(generated))}."] if generated else []
    if RELEASED in set(effects["slot"]):
        notes.append("Released weights: one training, so only the evaluation differs.")
    processors = processors_sentence(results, shown)
    facts = [*spread_facts(effects["seeds"]), *([processors] if processors else [])]
    facts += [ONE_SEARCH] if "tuned" in set(effects["slot"]) else []
    mark, both = FLAG_MARKS["transductive"], {r["method"] for r in lines}
    for method in distinct(u.method for u in results.units if u.method in both):
        modes = {u.mode for u in results.units if u.method == method and u.tag(Tag.METHOD_USES)}
        if modes and features in {u.features for u in results.units if u.method == method}:
            name, listed = method_title(results, method), " and ".join(sorted(modes))
            notes.append(f"{mark} {name} is transductive in mode {listed}.")
    notes += [
        f"{method_title(results, r['method'])} on {title}, {settings_text(r['variant'], r['settings'])}: "
        f"the modes also differ in other settings ({r['other_settings']})."
        for r, title in zip(lines, titles, strict=True)
        if r["other_settings"]
    ]
    title = f"Comparison of modes: {', '.join(distinct(titles))}, features {features}"
    keys = [about(r) for r in lines]
    return plain_table("modes", title, caption, columns, notes, keys=keys, facts=facts)


def ablation_tables(results: Results) -> list[Table]:
    """A table per method of an ablation: the published protocol, each switch corrected alone, and all of
    them."""
    effects = ablation_effects(results.ablation)
    tables = []
    for _, rows in effects.groupby(ABLATED, sort=False):
        place = rows.iloc[0][["benchmark_run", "dataset", "features"]]
        same = (effects[list(place.index)] == place).all(axis=1) & (effects["method"] == FROZEN)
        frozen = effects[same & (effects["ablation"] == "")].assign(ablation=FROZEN)
        if rows.iloc[0]["method"] == FROZEN and len(rows) == 1:  # it is in the tables of the others
            continue
        tables.append(_ablation_table(results, rows, frozen if rows.iloc[0]["method"] != FROZEN else None))
    return tables


FROZEN = "frozen"
"""The method that stands first in an ablation of others: what they add to the frozen features."""


def _ablation_table(results: Results, effects: pd.DataFrame, frozen: pd.DataFrame | None) -> Table:
    first = effects.iloc[0]
    dataset, method = str(first["dataset"]), str(first["method"])
    units = [u for u in results.units if [u.call, u.dataset, u.features, u.method] == first[ABLATED].tolist()]
    before = [row for _, row in frozen.iterrows()] if frozen is not None else []
    lines = [*before, *(row for _, row in effects.iterrows())]
    names = {"": "nothing: mode paper", "all": "all flags corrected: mode corrected"}
    names[FROZEN] = "frozen features, no training: mode paper"
    jobs = results.ablation[(results.ablation[ABLATED] == first[ABLATED].tolist()).all(axis=1)]
    uses = dict(zip(jobs["ablation"], jobs["uses"], strict=True))
    mark = FLAG_MARKS["transductive"]
    changed = [
        (names.get(r["ablation"]) or ablation_words(r["ablation"])) + mark * bool(uses.get(r["ablation"]))
        for r in lines
    ]
    columns = [Column("Changed", "", changed)]
    for metric in PUBLISHED_METRICS:
        columns.append(Column(LABELS[metric], "all", [cell(r, metric) for r in lines]))
    for metric in ("hm", "zsl"):
        texts = [signed(spread_of(r, f"{metric}_effect")) for r in lines]
        compared = [r["ablation"] not in ("", FROZEN) for r in lines]
        texts = [t if effect else NOTHING for t, effect in zip(texts, compared, strict=True)]
        columns.append(Column(f"Effect on {LABELS[metric]}", "all", texts))
    generated = " Synthetic data." if any(u.generated for u in units) else ""
    last = "; the last row corrects all" if "all" in set(effects["ablation"]) else ""
    caption = (
        "Mean per-class accuracy in %; each row is trained and tested in mode paper with one flag corrected "
        f"(docs/reference/protocol.md) or one part of the method left out{last}."
    )
    notes = [
        "Effect: difference to mode paper in percentage points, paired by seed. A row and its effect are "
        f"over the seeds that both have.{generated}"
    ]
    notes += [f"{mark} {FLAG_TEXTS['transductive']}"] if any(uses.values()) else []
    notes += distinct(f"{u.title}: {u.tag(Tag.METHOD_NOTE)}." for u in units if u.tag(Tag.METHOD_NOTE))
    processors = processors_sentence(results, jobs)
    facts = [*seeds_facts(effects), *([processors] if processors else [])]
    notes += [
        f"{r['ablation']}: over the {r['seeds']} of {first['seeds']} seeds that both have. There mode paper "
        "has " + " and ".join(f"{LABELS[m]} {spread_of(r, f'{m}_base')}" for m in ("hm", "zsl")) + "."
        for r in lines
        if r["seeds"] < first["seeds"] and not pd.isna(r["hm_effect"])
    ]
    place = f"{dataset_title(results, dataset)}, features {first['features']}"
    title = f"Ablation: {method_title(results, method)}, {place}"
    keys = [about(r) for r in lines]
    return plain_table("ablation", title, caption, columns, notes, keys=keys, facts=facts)
