"""Reports hyperparameter searches: budgets, epochs saved by pruning, gains, best values so far,
importances."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from benchmark.figures.searches import Panel, SearchCurve, best_so_far
from benchmark.report.results.collect import UNIT, Results, UnitFacts, distinct
from benchmark.report.tables.means import method_ranks
from benchmark.report.tables.table import (
    NOTHING,
    Column,
    Table,
    plain_table,
    short_assignment,
    signed,
    spread_facts,
    spread_of,
)
from benchmark.tracking.schema import PARAMETER, Budget
from benchmark.uncertainty import spread

ONE_SEARCH = "Each tuned row is from one search: ± and intervals are over trainings, not over searches."
SEARCHES = "Tuned rows of several searches: a search with its trainings counts once, and ± is over searches."


def budget_of(unit: UnitFacts) -> Budget | None:
    """The budget of a unit's study; None without a finished one. For earlier stores, the trials that it
    ran."""
    if not unit.trials:
        return None
    study = unit.study or {}
    wanted = study.get("trials", 0)
    return Budget(None if wanted is None else max(unit.trials, wanted), study.get("timeout"))


def budget_facts(units: Sequence[UnitFacts]) -> list[str]:
    """The budgets of the methods, and whether they are equal."""
    whose: dict[Budget | None, dict[str, None]] = {}
    by_method: dict[str, list[UnitFacts]] = {}
    for unit in units:
        by_method.setdefault(unit.title, []).append(unit)
    for title, mine in by_method.items():
        alike = len({budget_of(u) for u in mine}) == 1
        for unit in mine:
            place = f"{title} on {unit.dataset_title} {unit.features}, {unit.mode}"
            whose.setdefault(budget_of(unit), {})[title if alike else place] = None
    if not set(whose) - {None}:
        return ["No tuning."]
    searches = SEARCHES if any(unit.further or unit.number for unit in units) else ONE_SEARCH
    if len(whose) == 1:
        budget = next(iter(whose))
        each = "search, " if searches == SEARCHES else ""
        place = f"{each}method, dataset and mode"
        return [f"Tuning budget: {budget} per {place}; selection by validation HM.", searches]
    if len(whose) == 2 and len(whose.get(None, ())) > 3:  # the other methods are few, and named
        whose = {**{k: v for k, v in whose.items() if k}, None: {"all others": None}}
    texts = [f"{budget or 'not tuned'} ({'; '.join(names)})" for budget, names in whose.items()]
    return [f"Budgets differ: {', '.join(texts)}; selection by validation HM.", searches]


def studies(results: Results) -> list[UnitFacts]:
    """The units with a finished study, in the order of tables; the newest of those that share a study.

    A unit with several searches is there once for each.
    """
    ranks = method_ranks(results)
    found: dict[tuple[object, ...], UnitFacts] = {}
    for unit in results.units:
        for number, study in enumerate([unit.study, *unit.further]):
            one = replace(unit, study=study, number=number, search=None, importances=None) if number else unit
            if study is not None:
                found.setdefault((unit.key, study["study"]), one)
    return sorted(found.values(), key=lambda u: (ranks[u.method], u.mode != "paper"))


def tuning_table(results: Results) -> Table | None:
    """The result and the cost of each study; None if nothing was tuned."""
    units = studies(results)
    if not units:
        return None
    text: dict[str, Callable[..., str]] = {
        "Method": lambda u, s: u.title,
        "Dataset": lambda u, s: f"{u.dataset_title}, {u.features}",
        "Mode": lambda u, s: f"{u.mode}, {short_assignment(u.alignment)}",
        "Budget": lambda u, s: str(budget_of(u)),
        "Trials": lambda u, s: f"{s['complete'] + s['pruned']} ({s['pruned']} pruned, {s['failed']} failed)",
        "Pruned": lambda u, s: f"{100 * s['pruned'] / max(1, s['complete'] + s['pruned']):.0f} %",
        "Epochs saved": lambda u, s: _saved(u),
        "Seconds": lambda u, s: NOTHING if u.search is None else f"{u.search['seconds'].sum():.0f}",
        "Best in search": lambda u, s: f"{100 * s['best_hm']:.2f} (trial {s['best_number']})",
        "Kept trial": lambda u, s: NOTHING if u.kept_trial is None else str(u.kept_trial),
        "Validation HM": lambda u, s: _over_seeds(_confirmed(s)),
        "Gain": lambda u, s: signed(_over_seeds(_gains(s))),
        "Gain in test HM": lambda u, s: signed(_over_seeds(_test_gains(results, u))),
        "Hyperparameters": lambda u, s: NOTHING if u.tuned_values is None else _values_text(u.tuned_values),
    }
    left = {"Method", "Dataset", "Mode", "Budget", "Hyperparameters"}
    columns = [
        Column(n, "" if n in left else "all", [make(u, u.study) for u in units]) for n, make in text.items()
    ]
    optional = {"Epochs saved", "Seconds", "Validation HM", "Gain", "Gain in test HM"}
    columns = [c for c in columns if c.header not in optional or set(c.texts) != {NOTHING}]
    over_seeds = [values for u in units for values in (_confirmed(u.study or {}), _test_gains(results, u))]
    caption = (
        "Each search maximises HM on the validation splits (in %) with its own seed; it uses no test data."
    )
    notes = [
        "Trial 0 has the untuned settings. Trials: finished ones, including pruned ones. "
        + _meaning({c.header for c in columns})
    ]
    facts = [*budget_facts(units), *spread_facts(pd.Series([len(values) for values in over_seeds]))]
    keys = [dict(zip(UNIT, u.key, strict=True)) for u in units]
    return plain_table("tuning", "Tuning", caption, columns, notes, screen=False, keys=keys, facts=facts)


def tuning_csv(results: Results) -> pd.DataFrame:
    """The numbers of ``tuning_table``, a row per study.

    Columns: ``UNIT``, ``study``, trials by state, ``seconds`` of all trials, ``best_trial``, in percent the
    search's validation HM of trial 0 (``start``) and of the best trial, in percentage points their ``gain``;
    ``kept_trial``, its validation HM (mean over ``confirmed_seeds`` and deviation) and its gain over trial 0;
    the gain in test HM (mean over ``test_seeds`` and deviation), and ``kept_hyperparameters`` as JSON. The
    kept trial and its hyperparameters are missing until the search is confirmed.
    """
    rows = []
    for unit in studies(results):
        s, values = unit.study or {}, unit.tuned_values
        start, gains = s.get("start_hm"), 100 * pd.Series(_test_gains(results, unit), dtype=float)
        again, ahead = (100 * pd.Series(v, dtype=float) for v in (_confirmed(s), _gains(s)))
        rows.append(
            {
                **dict(zip(UNIT, unit.key, strict=True)),
                "study": s["study"],
                **{f"trials_{state}": s[state] for state in ("complete", "pruned", "failed")},
                "seconds": None if unit.search is None else unit.search["seconds"].sum(),
                "best_trial": s["best_number"],
                "validation_HM_start_percent": None if start is None else 100 * start,
                "validation_HM_percent": 100 * s["best_hm"],
                "validation_HM_gain": None if start is None else 100 * (s["best_hm"] - start),
                "kept_trial": unit.kept_trial,
                "confirmed_HM_percent": again.mean(),
                "confirmed_HM_std_percent": again.std(ddof=1),
                "confirmed_HM_gain": ahead.mean(),
                "confirmed_HM_gain_std": ahead.std(ddof=1),
                "confirmed_seeds": len(again),
                "test_HM_gain": gains.mean(),
                "test_HM_gain_std": gains.std(ddof=1),
                "test_seeds": len(gains),
                "kept_hyperparameters": values if values is None else json.dumps(values),
            }
        )
    return pd.DataFrame(rows)


def _meaning(headers: set[str]) -> str:
    meanings = {
        "Epochs saved": "Epochs saved: epochs skipped by pruning, out of all planned epochs.",
        "Seconds": "Seconds: training and validation of all trials.",
        "Best in search": "Best in search: the highest of all trials, each a single training, so it is "
        "optimistic.",
        "Validation HM": "Validation HM: the kept trial, trained again with seeds that took no part in the "
        "search. Trial 0 and the best trials are trained again; the highest mean is kept, and trial 0 stays "
        "unless the gain, paired by seed, exceeds one standard error.",
        "Gain": "Gain: kept trial − trial 0 with these seeds, in percentage points.",
        "Gain in test HM": "Gain in test HM: tuned − untuned, paired by seed.",
    }
    return " ".join(text for header, text in meanings.items() if header in headers)


def _saved(unit: UnitFacts) -> str:
    """Epochs skipped by pruning."""
    if unit.search is None:
        return NOTHING
    finished = unit.search[unit.search["state"] != "failed"]
    pruned = finished[finished["state"] == "pruned"]
    saved = int((pruned["planned_epochs"] - pruned["epochs"]).sum())
    planned = int(finished["planned_epochs"].sum())
    return f"{saved} of {planned} ({100 * saved / max(1, planned):.0f} %)"


def _test_gains(results: Results, unit: UnitFacts) -> list[float]:
    """Test HM with tuned settings - with untuned ones, as a fraction, for each seed that has both."""
    mine = results.test[results.test["benchmark_run"] == unit.call]
    mine = mine[(mine[UNIT] == list(unit.key)).all(axis=1)]
    mine = mine[(mine["variant"] != "tuned") | (mine["study"] == unit.number)]
    done, tuned = mine[mine["state"] == "done"], mine["variant"] == "tuned"
    after, before = (
        done[which.loc[done.index]].set_index("seed")["hm"].astype(float) for which in (tuned, ~tuned)
    )
    return list((after - before).dropna())


def _confirmed(study: Mapping[str, Any], number: int | None = None) -> list[float]:
    """Validation HMs by seed of a trial, in the trainings that confirm a search; none if one of them failed.

    Args:
        number: of the trial; the kept one if None.
    """
    found = study.get("confirmation") or {}
    wanted = found.get("number") if number is None else number
    hms: Sequence[float] = next((c["hms"] for c in found.get("candidates", ()) if c["number"] == wanted), [])
    return [] if None in hms else list(hms)


def _gains(study: Mapping[str, Any]) -> list[float]:
    """Validation HM of the kept trial - that of trial 0, by seed; none if trial 0 is kept or failed."""
    kept, start = _confirmed(study), _confirmed(study, 0)
    if not kept or not start or (study.get("confirmation") or {}).get("number") == 0:
        return []
    return [after - before for after, before in zip(kept, start, strict=True)]


def _over_seeds(values: Sequence[float]) -> str:
    """Fractions, in percent."""
    x = 100 * pd.Series(values, dtype=float)
    low, high = spread(x)
    return spread_of({"": x.mean(), "_low": low, "_high": high, "seeds": len(x)}, "")


def _values_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items()) or "the untuned settings"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class StudyGroup:
    """The studies on a dataset, feature set and mode, as figures show them."""

    stem: str
    """``<dataset>-<features>-<mode>``, for file names."""
    title: str
    keys: Mapping[str, str]
    """``dataset``, ``features`` and ``mode``."""
    curves: Sequence[SearchCurve]
    panels: Sequence[Panel]
    evaluator: str
    without: Sequence[str]
    """Methods without importances, with the reason."""
    searches: pd.DataFrame
    """The trials of all methods, without their hyperparameters, with ``SearchCurve.points``' columns."""
    importances: pd.DataFrame
    """Columns ``method``, ``parameter``, ``importance`` (fraction), ``trials``, ``evaluator``, ``seed``."""


def study_groups(results: Results) -> list[StudyGroup]:
    """The studies with logged trials, by dataset, feature set and mode."""
    groups: dict[tuple[str, str, str], list[UnitFacts]] = {}
    for unit in studies(results):
        if unit.search is not None:
            groups.setdefault((unit.dataset, unit.features, unit.mode), []).append(unit)
    return [_group(results, units) for units in groups.values()]


def _group(results: Results, units: Sequence[UnitFacts]) -> StudyGroup:
    first, ranks, names = units[0], method_ranks(results), _names(units)
    curves, panels, searches, importances, without = [], [], [], [], []
    for unit, name in zip(units, names, strict=True):
        points = best_so_far(unit.search if unit.search is not None else pd.DataFrame())
        curves.append(SearchCurve(name, points, ranks[unit.method]))
        searches.append(
            points.drop(columns=[c for c in points if str(c).startswith(PARAMETER)]).assign(method=name)
        )
        found: Mapping[str, Any] = unit.importances or {"reason": "not logged"}
        values = found.get("values")
        if isinstance(values, Mapping) and values:
            panels.append(Panel(f"{name}, {found['trials']} finished trials", values, ranks[unit.method]))
            rows = pd.DataFrame({"parameter": list(values), "importance": list(values.values())})
            facts = {key: found[key] for key in ("trials", "evaluator", "seed")}
            importances.append(rows.assign(method=name, **facts))
        else:
            without.append(f"{name} ({found.get('reason')})")
    place = f"{first.dataset_title}, features {first.features}, mode {first.mode}"
    return StudyGroup(
        stem=re.sub(r"[^\w.+-]", "-", f"{first.dataset}-{first.features}-{first.mode}"),
        title=place,
        keys={"dataset": first.dataset, "features": first.features, "mode": first.mode},
        curves=curves,
        panels=panels,
        evaluator=", ".join(distinct(str((u.importances or {}).get("evaluator", "")) for u in units)),
        without=without,
        searches=_method_first(searches),
        importances=_method_first(importances),
    )


def _method_first(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not frames:
        return pd.DataFrame()
    whole = pd.concat(frames, ignore_index=True)
    return whole[["method", *(c for c in whole if c != "method")]]


def _names(units: Sequence[UnitFacts]) -> list[str]:
    """A unique name for each study of a group: the method's, if needed with alignment or study."""
    titles = [u.title for u in units]
    aligned = [
        f"{t}, {short_assignment(u.alignment)}" if titles.count(t) > 1 else t
        for t, u in zip(titles, units, strict=True)
    ]
    return [
        f"{n}, study {u.study['study'][-8:]}" if aligned.count(n) > 1 and u.study else n
        for n, u in zip(aligned, units, strict=True)
    ]
