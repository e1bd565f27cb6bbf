"""Tables of what the protocol does to the numbers: both modes side by side, and each switch of an ablation alone."""

from __future__ import annotations

import pandas as pd

from benchmark.report.results.collect import Results, distinct, records
from benchmark.report.results.released import RELEASED
from benchmark.report.tables.captions import dataset_title, method_title, processors_sentence, seeds_sentence
from benchmark.report.tables.means import (
    ABLATED,
    LABELS,
    PUBLISHED_METRICS,
    ablation_effects,
    method_ranks,
    mode_effects,
    order_rows,
    settings_text,
)
from benchmark.report.tables.studies import ONE_SEARCH
from benchmark.report.tables.table import NOTHING, Column, Table, about, cell, difference, mean_and_deviation, plain_table


def modes_table(results: Results, frame: pd.DataFrame, features: str) -> Table | None:
    """Mode paper, mode corrected and their difference, of what was tested in both; None where nothing was.

    Args:
        frame: the stage-2 rows of the feature set.
    """
    effects = order_rows(mode_effects(frame, results.settings), method_ranks(results))
    if effects.empty:
        return None
    lines = records(effects)
    titles = [dataset_title(results, r["dataset"]) for r in lines]
    columns = [Column("Data set", "", titles)] if len(set(titles)) > 1 else []
    columns.append(Column("Method", "", [method_title(results, r["method"]) for r in lines]))
    columns.append(Column("Settings", "", [settings_text(r["variant"], r["settings"]) for r in lines]))
    columns.append(Column("Text", "", [f"{r['paper_alignment']} → {r['corrected_alignment']}" for r in lines]))
    columns.append(Column("Seeds", "", [str(r["seeds"]) for r in lines]))
    for metric in ("hm", "zsl", "seen", "unseen"):
        for name in ("paper", "corrected", "difference"):
            write = difference if name == "difference" else mean_and_deviation
            texts = [write(r[f"{metric}_{name}"], r[f"{metric}_{name}_std"]) for r in lines]
            columns.append(Column(f"{LABELS[metric]} {name}", LABELS[metric], texts))
    shown = frame[frame["dataset"].isin(effects["dataset"]) & frame["method"].isin(effects["method"])]
    generated = [dataset_title(results, name) for name in shown.loc[shown["kind"] == "generated", "dataset"]]
    caption = (
        "Mean per-class accuracy in % in mode paper and in mode corrected: mean ± standard deviation over the seeds that both "
        "have (column Seeds). Difference: corrected − paper in percentage points, seed by seed, then its mean and deviation "
        "over the same seeds. It sums the effects of all switches, text alignment included (column "
        f"Text: paper → corrected). Features {features}."
    )
    fixed = distinct(effects["switches"])
    caption += f" Fixed against a mode, so that their effect is not in it: {'; '.join(fixed)}." if fixed else ""
    caption += f" Generated data: {', '.join(distinct(generated))}." if generated else ""
    caption += " Released weights: one training, so that evaluation alone differs." if RELEASED in set(effects["slot"]) else ""
    processors = processors_sentence(results, shown)
    caption += f" {processors}" if processors else ""
    caption += f" {ONE_SEARCH}" if "tuned" in set(effects["slot"]) else ""
    notes = [
        f"{method_title(results, r['method'])} on {title}, {settings_text(r['variant'], r['settings'])}: the two modes differ "
        f"in more than switches ({r['other_settings']})."
        for r, title in zip(lines, titles, strict=True)
        if r["other_settings"]
    ]
    title = f"Modes side by side: {', '.join(distinct(titles))}, features {features}"
    return plain_table("modes", title, caption, columns, notes, keys=[about(r) for r in lines])


def ablation_tables(results: Results) -> list[Table]:
    """For each method of an ablation: the published protocol, each switch corrected alone, and all of them."""
    return [_ablation_table(results, effects) for _, effects in ablation_effects(results.ablation).groupby(ABLATED, sort=False)]


def _ablation_table(results: Results, effects: pd.DataFrame) -> Table:
    first = effects.iloc[0]
    dataset, method = str(first["dataset"]), str(first["method"])
    units = [u for u in results.units if [u.call, u.dataset, u.features, u.method] == first[ABLATED].tolist()]
    lines = [row for _, row in effects.iterrows()]
    names = {"": "none: mode paper", "all": "all: mode corrected"}
    columns = [Column("Corrected", "", [names.get(r["ablation"], r["ablation"]) for r in lines])]
    for metric in PUBLISHED_METRICS:
        columns.append(Column(LABELS[metric], "all", [cell(r, metric) for r in lines]))
    for metric in ("hm", "zsl"):
        texts = [difference(r[f"{metric}_effect"], r[f"{metric}_effect_std"]) for r in lines]
        texts = [NOTHING if r["ablation"] == "" else t for r, t in zip(lines, texts, strict=True)]
        columns.append(Column(f"Effect on {LABELS[metric]}", "all", texts))
    generated = " Generated data." if any(u.generated for u in units) else ""
    caption = (
        "Mean per-class accuracy in %. Each row is trained and tested by itself, with mode paper's settings but for the one "
        f"switch that it names (docs/protocol.md){'; the last row corrects all' if 'all' in set(effects['ablation']) else ''}. "
        f"{seeds_sentence(effects)} Effect: difference to the first row in percentage points, seed by seed, then its mean and "
        f"deviation; a row and its effect are over the seeds that both have.{generated}"
    )
    jobs = results.ablation[(results.ablation[ABLATED] == first[ABLATED].tolist()).all(axis=1)]
    processors = processors_sentence(results, jobs)
    caption += f" {processors}" if processors else ""
    notes = [
        f"{r['ablation']}: over the {r['seeds']} of {first['seeds']} seeds that both have. There the first row has "
        + " and ".join(f"{LABELS[m]} {mean_and_deviation(r[f'{m}_base'], r[f'{m}_base_std'])}" for m in ("hm", "zsl"))
        + "."
        for r in lines
        if r["seeds"] < first["seeds"] and not pd.isna(r["hm_effect"])
    ]
    place = f"{dataset_title(results, dataset)}, features {first['features']}"
    title = f"Protocol ablation: {method_title(results, method)}, {place}"
    return plain_table("ablation", title, caption, columns, notes, keys=[about(r) for r in lines])
