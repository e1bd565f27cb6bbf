"""Plans a benchmark run: methods, datasets, settings and search ranges of all units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.data.cards import Card, Cards, Preset, find_card, load_cards
from benchmark.data.groups import UNKNOWN_SOURCES
from benchmark.data.locate import open_or_build
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method
from benchmark.registry import ALL, Registry, named_once
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.jobs import Plan, Unit
from benchmark.settings.resolve import parse_overrides, resolve, switches
from benchmark.settings.schema import Mode, TrainConfig, TuningConfig
from benchmark.settings.search_space import Range, SearchSpace, range_problems
from benchmark.tracking.schema import EVERYTHING, WITHOUT

Opened = tuple[str, Card, Preset, str, FeatureStore]
"""A dataset: its name in the command, its config, the preset, the feature set and the feature file."""


def make_plan(run: BenchmarkRun, registry: Registry, data_root: Path, *, tune_only: bool = False) -> Plan:
    """Plan a benchmark run: its units, dataset by dataset.

    Raises:
        UsageError: an unknown name or setting, missing features, or a method that the features do not suit.
    """
    if not run.dataset.strip(", "):
        raise UsageError("--datasets: no dataset given")
    overrides = parse_overrides(run.settings, registry.methods)
    methods = registry.select(run.methods)
    methods += [control for control in registry.controls() if run.controls and control not in methods]

    # An ablation compares protocols under one setting, so it never tunes.
    asked = run
    if run.ablates:
        _check_ablation(run, methods, overrides)
        asked = run.model_copy(update={"trials": 0, "mode": "paper", "studies": 1})

    units: list[Unit] = []
    left_out: list[str] = []
    named = methods if run.methods != ALL else ()
    for opened in _open_stores(asked, data_root, overrides.get("data", {}), named):
        suited = methods
        if run.methods == ALL:
            suited, reasons = _suited(methods, opened)
            left_out += reasons
        for mode in asked.modes(opened[1].default_mode):
            for method in suited:
                make = partial(_unit, asked, method, registry.search_space(method), opened)
                unit = make(mode, overrides)
                units += [unit, *_ablations(asked, unit, make, overrides)]
    return Plan(run, units, tune_only, left_out)


def _suited(methods: Sequence[type[Method]], opened: Opened) -> tuple[list[type[Method]], list[str]]:
    """The methods that a dataset's features suit, and why the others are left out, a sentence per reason.

    Raises:
        UsageError: the features suit none.
    """
    name, card, preset, features, store = opened
    suited, reasons = list[type[Method]](), dict[str, list[str]]()
    for method in methods:
        reason = preset.omitted.get(method.name) or unsuited(method, card, features, store)
        if reason:
            reasons.setdefault(reason, []).append(method.title)
        else:
            suited.append(method)
    listed = [
        f"not run on {name} ({features}): {', '.join(titles)}. Reason: {why}"
        for why, titles in reasons.items()
    ]
    if not suited:
        raise UsageError("\n".join([f"{name}: no method suits its features {features!r}", *listed]))
    return suited, listed


def without_text_parts(method: type[Method], card: Card, features: str) -> str:
    """Why the class embeddings of a feature set do not suit a method; empty if they do."""
    if not method.needs_text_parts or card.features[features].text_parts:
        return ""
    known = [name for name, config in card.features.items() if config.text_parts]
    fix = f"use --features {known[0]}" if known else "the dataset has no such features"
    return f"needs class embeddings that are in the spaces of the features, as of CLIP and CLAP; {fix}"


def unsuited(method: type[Method], card: Card, features: str, store: FeatureStore) -> str:
    """Why the features of a dataset do not suit a method; empty if they do."""
    if reason := without_text_parts(method, card, features):
        return reason
    return store.without_sequences() if method.inputs == "sequence" else ""


def plan_notes(plan: Plan, registry: Registry) -> list[str]:
    """Values that a plan does not use although somebody wrote them, a sentence each."""
    given = [_key_and_value(text) for text in plan.run.settings]
    last = dict(given)
    notes = [*plan.left_out, *_short_sequences(plan.units)]
    notes += [
        f"--set {key} is given more than once; the last one counts: {key}={last[key]}"
        for key in last
        if len({value for other, value in given if other == key}) > 1
    ]
    methods = [*registry.methods, *registry.broken]
    for card in {unit.card.name: unit.card for unit in plan.units}.values():
        for field, names in (("sizes", card.sizes), ("search", card.search)):
            notes += [
                f"dataset {card.name}: {field}.{name} is not used, "
                f"no method has this name: {near(name, methods)}"
                for name in names
                if name not in methods
            ]
        train = [f"train.{name}" for name in TrainConfig.model_fields]
        fields = {
            name for method in registry.methods.values() for name in [*method.Config.model_fields, *train]
        }
        for of, preset in card.presets.items():
            notes += [
                f"dataset {card.name}: presets.{of}.searched: "
                f"no method has a setting {name!r}: {near(name, fields)}"
                for name in preset.searched or ()
                if name not in fields
            ]
            notes += [
                f"dataset {card.name}: presets.{of}.{field}: no method has the name {name!r}: "
                f"{near(name, methods)}"
                for field in ("tuned", "omitted")
                for name in getattr(preset, field) or ()
                if name not in methods
            ]
    cards = load_cards(files=plan.run.dataset_configs)
    used = {unit.card.name for unit in plan.units}
    notes += [broken.reason for broken in cards.broken if used & {*broken.names}]
    for name, space in {unit.method.name: registry.search_space(unit.method) for unit in plan.units}.items():
        notes += _unused_settings(name, space, cards)
    return notes


def _short_sequences(units: Sequence[Unit]) -> list[str]:
    """Sequence methods whose sequences have one time step."""
    titles: dict[str, list[str]] = {}
    for unit in units:
        if unit.method.inputs == "sequence" and unit.store.one_time_step:
            titles.setdefault(f"{unit.card.name}/{unit.features}", []).append(unit.method.title)
    signs = any(unit.settings.protocol.video_norm == "paper" for unit in units)
    effect = "; mode paper normalises it over time, which leaves the signs of video" if signs else ""
    return [
        f"{data} has one time step per clip: {', '.join(dict.fromkeys(names))} see one vector of each "
        f"modality{effect}"
        for data, names in titles.items()
    ]


def _key_and_value(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip(), value.strip()


def _unused_settings(method: str, space: SearchSpace, cards: Cards) -> Iterator[str]:
    """Published settings of datasets and feature sets that are not there."""
    broken = {name for card in cards.broken for name in card.names}
    for dataset, sets in space.published.items():
        if dataset in broken:
            continue
        if dataset not in cards:
            unknown = near(dataset, cards)
            place = f"search space of {method}: published.{dataset}"
            yield f"{place} is not used, no dataset has this name: {unknown}"
            continue
        for features in sets:
            if features not in (known := cards[dataset].features):
                unknown = near(features, known)
                place = f"search space of {method}: published.{dataset}.{features}"
                yield f"{place}: no such feature set: {unknown}"


def _check_ablation(
    run: BenchmarkRun, methods: Sequence[type[Method]], overrides: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse an ablation whose rows would differ in more than a flag or a part."""
    option = "--ablate-protocol" if run.ablate is not None else "--ablate-parts"
    if run.mode not in (None, "paper"):
        raise UsageError(f"{option} starts from mode paper: omit --mode {run.mode} (its row is added)")
    if run.trials or run.timeout is not None:
        fix = "use --trials 0" if run.trials else "omit --timeout"
        raise UsageError(f"{option} cannot be combined with tuning: {fix}")
    if run.stages != "all":
        raise UsageError(f"{option} needs both stages: omit --stages")
    if run.controls:
        raise UsageError(f"{option} compares protocols or parts, which controls do not: omit --controls")
    problems = []
    if run.ablate_parts is not None and not any(method.parts for method in methods):
        problems.append("--ablate-parts: none of the methods has parts to leave out; list --settings METHOD")
    for method in methods if run.ablate_parts is not None else ():
        changed = {name for fields in method.parts.values() for name in fields}
        problems += [
            f"--ablate-parts changes {name}: omit --set {method.name}.{name}"
            for name in sorted(changed & overrides.get(method.name, {}).keys())
        ]
    for option, asked, of, noun in (
        ("--ablate-protocol", run.ablate, switches, "flag"),
        ("--ablate-parts", run.ablate_parts, lambda method: method.parts, "part"),
    ):
        known = [*dict.fromkeys(name for method in methods for name in of(method)), EVERYTHING]
        unknown = [name for name in asked or [] if name not in known] or ([""] if asked == [] else [])
        problems += [f"{option}: no {noun} {name!r}: {near(name, known)}" for name in unknown]
    if problems:
        raise UsageError("\n".join(problems))


def _ablations(
    run: BenchmarkRun, base: Unit, make: Callable[..., Unit], overrides: dict[str, dict[str, Any]]
) -> list[Unit]:
    """The base unit with each protocol flag corrected alone, without each part, then mode corrected.

    Flags that are corrected already are omitted: the alignment of data without a published order, and
    what ``--set`` fixed. So are parts that the base does not have.

    Args:
        make: makes a unit of a mode and overrides.
    """
    wanted, parts = run.ablate or [], run.ablate_parts or []
    state = base.settings.as_dict()["protocol"]
    units = []
    for switch in switches(base.method):
        if (switch in wanted or EVERYTHING in wanted) and state[switch] in ("paper", "official"):
            value = "by_name" if switch == "text_alignment" else "corrected"
            changed = {**overrides, "protocol": {**overrides.get("protocol", {}), switch: value}}
            units.append(replace(make("paper", changed), ablation=switch))
    name = base.method.name
    for part, fields in base.method.parts.items():
        if part in parts or EVERYTHING in parts:
            unit = make("paper", {**overrides, name: {**overrides.get(name, {}), **fields}})
            if unit.settings.config != base.settings.config:
                units.append(replace(unit, ablation=f"{WITHOUT}{part}"))
    if EVERYTHING in wanted:
        units.append(replace(make("corrected", overrides), ablation=EVERYTHING))
    return units


def _open_stores(
    run: BenchmarkRun, data_root: Path, data_settings: Mapping[str, Any], named: Sequence[type[Method]]
) -> list[Opened]:
    """The datasets of a benchmark run with their feature files.

    Args:
        named: methods that must suit the features.

    Raises:
        UsageError: a dataset is unknown or named twice, a named method needs other features, or features are
            missing; all missing ones are listed.
    """
    cards = load_cards(files=run.dataset_configs)
    problems, opened = list[str](), list[Opened]()
    for name in named_once(run.dataset, "--datasets"):
        card, preset = find_card(name, cards)
        features, _ = card.feature_set(run.features)
        if twin := next((other for other, its_card, _, _, _ in opened if its_card.name == card.name), None):
            raise UsageError(f"--datasets: {twin!r} and {name!r} are one dataset; list only one of them")
        for method in named:  # before missing features, which the method may not need
            if reason := without_text_parts(method, card, features):
                raise UsageError(f"{method.title} {reason}")
        try:
            store = open_or_build(card, features, data_root, in_memory=run.in_memory, overrides=data_settings)
        except UsageError as error:
            problems.append(str(error))
        else:
            opened.append((name, card, preset, features, store))
    if problems:
        raise UsageError("\n\n".join(problems))
    return opened


def _unit(
    run: BenchmarkRun,
    method: type[Method],
    space: SearchSpace,
    opened: Opened,
    mode: Mode,
    overrides: dict[str, dict[str, Any]],
) -> Unit:
    """A method on a dataset in a mode, with all settings resolved and checked.

    Raises:
        UsageError: the settings, the search ranges and what is asked for do not fit together.
    """
    name, card, preset, features, store = opened
    if reason := unsuited(method, card, features, store):
        raise UsageError(f"{method.title} {reason}")
    fixed = {*overrides.get(method.name, {}), *(f"train.{name}" for name in overrides.get("train", {}))}
    ranges = {key: r for key, r in search_ranges(method, space, card).items() if key not in fixed}
    if preset.searched is not None:
        ranges = {key: r for key, r in ranges.items() if key in preset.searched} or ranges
    settings = resolve(method, space, card, features, mode, overrides, preset)
    if settings.protocol.seen_test == "group_disjoint" and card.grouping is None:
        raise UsageError(
            f"protocol.seen_test=group_disjoint: {card.name} has no grouping rule; "
            "write `grouping` in its dataset config"
        )
    if settings.protocol.seen_test == "group_disjoint" and store.unusable_names:
        raise UsageError(f"{card.name} ({features}): {store.unusable_samples:,} samples {UNKNOWN_SOURCES}")
    tuning = _tuning(run, preset, method, overrides.get("tuning", {}), searchable=bool(ranges))
    option = f"--timeout {tuning.timeout:g}" if tuning.trials is None else f"--trials {tuning.trials}"
    if tuning.searches and not ranges:
        raise UsageError(
            f"{option}: {method.title} has no search space; "
            f"write search_spaces/{method.name}.yaml, or use --trials 0"
        )
    outside = [k for k, v in settings.searchable().items() if k in ranges and not ranges[k].contains(v)]
    if tuning.searches and outside:
        listed = ", ".join(f"{k}={settings.searchable()[k]}" for k in outside)
        raise UsageError(
            f"{option}: {method.title} on {card.name} starts from {listed}, outside the search range; "
            f"widen the range in search_spaces/{method.name}.yaml (or `search` of the dataset config), "
            "or fix the value with --set"
        )
    if tuning.searches and run.stages == "2":
        raise UsageError(
            f"--stages 2 cannot be combined with {option.split()[0]}: tuning needs stage 1; "
            "use --stages all, or --trials 0"
        )
    if run.studies > 1 and not tuning.searches and not method.control:
        raise UsageError(f"--studies {run.studies} needs tuning: set a budget, for example --trials 30")
    seeds = run.seeds or preset.seeds
    return Unit(
        method=method,
        ranges=ranges,
        card=card,
        features=features,
        preset=name if name != card.name else None,
        data_settings=overrides.get("data", {}),
        store=store,
        mode=mode,
        settings=settings,
        user_set=bool(overrides.get(method.name) or overrides.get("lengths"))
        or tuple(settings.protocol.grid) != method.published_grid,
        tuning=tuning,
        plugins=[path.resolve() for path in run.plugins],
        repetitions=run.repetitions if run.repetitions is not None else list(range(seeds)),
        base_seed=run.base_seed,
        studies=run.studies,
        settings_note=published.note if (published := space.settings_for(card.name, features)) else "",
    )


def _tuning(
    run: BenchmarkRun,
    preset: Preset,
    method: type[Method],
    given: Mapping[str, Any],
    *,
    searchable: bool,
) -> TuningConfig:
    """How far a hyperparameter search goes, the same for every method that is tuned.

    Args:
        given: settings of ``--set tuning.…``, which win.
        searchable: whether the method has a search space; a preset does not tune one that has none.

    Raises:
        UsageError: seconds for no trials.
    """
    if method.control:
        return TuningConfig(trials=0)
    asked = {"trials": run.trials, "timeout": run.timeout, **given}
    if asked["trials"] is None:
        tuned = searchable and (preset.tuned is None or method.name in preset.tuned)
        of_preset = preset.trials if tuned else 0
        asked["trials"] = of_preset or (0 if asked["timeout"] is None else None)
    tuning = TuningConfig.model_validate(asked)
    if not tuning.searches and tuning.timeout is not None:
        raise UsageError(
            f"--timeout {tuning.timeout:g} needs tuning, but --trials 0 disables it; omit one of them"
        )
    return tuning


def search_ranges(method: type[Method], space: SearchSpace, card: Card) -> dict[str, Range]:
    """Search ranges of the space, with those of the card in their place.

    Raises:
        UsageError: ranges of the card that are none, or that the method does not accept; all are listed.
    """
    own, place = card.search.get(method.name, {}), f"dataset config {card.name}: search.{method.name}"
    try:
        changed = {key: Range.model_validate(value) for key, value in own.items() if value is not None}
    except ValidationError as error:
        raise UsageError(validation_message(error, place)) from None
    problems = list(range_problems(place, changed, method))
    if problems:
        raise UsageError("\n".join(problems))
    return {k: r for k, r in {**space.search, **changed}.items() if own.get(k, r) is not None}
