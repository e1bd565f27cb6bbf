"""From what a benchmark run asks for to its units: methods, datasets, settings, ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmark.data.cards import Card, Cards, Preset, find_card, load_cards
from benchmark.data.locate import open_or_build
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method
from benchmark.registry import Registry, named_once
from benchmark.running.jobs import ALL_SWITCHES, TRAIN_FIELDS, Call, Unit
from benchmark.settings.resolve import parse_overrides, resolve, switches
from benchmark.settings.schema import Mode, TuningConfig
from benchmark.settings.search_space import Range, SearchSpace, range_problems


def plan_units(call: Call, registry: Registry, data_root: Path) -> list[Unit]:
    """The units of a call, data set by data set.

    Raises:
        UsageError: an unknown name or setting, missing features, or a method that the features cannot serve.
    """
    if not call.dataset.strip(", "):
        raise UsageError("--dataset: no data set is named")
    overrides = parse_overrides(call.settings, registry.methods)
    methods = registry.select(call.methods)
    if call.ablate is not None:
        _check_ablation(call, methods)
        call = call.model_copy(update={"trials": 0})
    units = []
    for name, card, preset, features, store in _open_stores(call, data_root, overrides.get("data", {})):
        for mode in call.modes:
            for method in methods:
                make = partial(_unit, call, method, registry.search_space(method), card, features, name, preset, store)
                unit = make(mode, overrides)
                units += [unit, *_ablations(call, unit, make, overrides)]
    return units


def plan_notes(call: Call, registry: Registry, units: Sequence[Unit]) -> list[str]:
    """What a call does otherwise than somebody may think who wrote it: values that are not used, a sentence each."""
    last = dict(_key_and_value(text) for text in call.settings)
    notes = [
        f"--set {key} is given more than once; the last one counts: {key}={last[key]}"
        for key in last
        if len({value for other, value in map(_key_and_value, call.settings) if other == key}) > 1
    ]
    methods = [*registry.methods, *registry.broken]
    for card in {unit.card.name: unit.card for unit in units}.values():
        for field, names in (("sizes", card.sizes), ("search", card.search)):
            notes += [
                f"data set {card.name}: {field}.{name} is not used, no method has this name: {near(name, methods)}"
                for name in names
                if name not in methods
            ]
        fields = {name for method in registry.methods.values() for name in [*method.Config.model_fields, *TRAIN_FIELDS]}
        for of, preset in card.presets.items():
            notes += [
                f"dataset {card.name}: presets.{of}.searched: no method has a setting {name!r}: {near(name, fields)}"
                for name in preset.searched or ()
                if name not in fields
            ]
    cards = load_cards()
    for name, space in {unit.method.name: registry.search_space(unit.method) for unit in units}.items():
        notes += _unused_settings(name, space, cards)
    return notes


def _key_and_value(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip(), value.strip()


def _unused_settings(method: str, space: SearchSpace, cards: Cards) -> Iterator[str]:
    """Published settings of data sets and feature sets that are not there."""
    broken = {name for card in cards.broken for name in card.names}
    for dataset, sets in space.published.items():
        if dataset in broken:
            continue
        if dataset not in cards:
            unknown = near(dataset, cards)
            yield f"search space of {method}: published.{dataset} is not used, no data set has this name: {unknown}"
            continue
        for features in sets:
            if features not in (known := cards[dataset].features):
                unknown = near(features, known)
                yield f"search space of {method}: published.{dataset}.{features}: no such feature set: {unknown}"


def _check_ablation(call: Call, methods: Sequence[type[Method]]) -> None:
    """Refuse an ablation that would not compare what it says."""
    if call.mode != "paper":
        raise UsageError(f"--ablate-protocol starts from mode paper; leave --mode {call.mode} away (its row is added)")
    if call.trials or call.timeout is not None:
        option = "use --trials 0" if call.trials else "leave --timeout away"
        raise UsageError(f"--ablate-protocol compares protocols under one setting and tunes nothing; {option}")
    if call.stages != "all":
        raise UsageError("--ablate-protocol needs both stages; leave --stages away")
    known = [*dict.fromkeys(s for m in methods for s in switches(m)), ALL_SWITCHES]
    unknown = [s for s in call.ablate or [] if s not in known]
    if unknown or not call.ablate:
        raise UsageError("\n".join(f"--ablate-protocol: no switch {s!r}: {near(s, known)}" for s in unknown or [""]))


def _ablations(call: Call, base: Unit, make: Callable[..., Unit], overrides: dict[str, dict[str, Any]]) -> list[Unit]:
    """The base unit with each switch corrected alone, and mode corrected at the end, as ``make(mode, overrides)`` makes them.

    Switches that are corrected already (the alignment of data without a published order, what ``--set`` fixed) are left out.
    """
    wanted = call.ablate or []
    state = base.settings.as_dict()["protocol"]
    units = []
    for switch in switches(base.method):
        if (switch in wanted or ALL_SWITCHES in wanted) and state[switch] not in ("corrected", "shuffled"):
            changed = {**overrides, "protocol": {**overrides.get("protocol", {}), switch: "corrected"}}
            units.append(replace(make("paper", changed), ablation=switch))
    if ALL_SWITCHES in wanted:
        units.append(replace(make("corrected", overrides), ablation=ALL_SWITCHES))
    return units


def _open_stores(
    call: Call, data_root: Path, data_settings: Mapping[str, Any]
) -> list[tuple[str, Card, Preset, str, FeatureStore]]:
    """The data sets of a call with their stores.

    Raises:
        UsageError: unknown or doubly named data sets, or missing features; of several data sets all that are missing.
    """
    cards, problems = load_cards(), list[str]()
    opened: list[tuple[str, Card, Preset, str, FeatureStore]] = []
    for name in named_once(call.dataset, "--dataset"):
        card, preset = find_card(name, cards)
        features, _ = card.feature_set(call.features)
        if any(other.name == card.name for _, other, _, _, _ in opened):
            raise UsageError(f"--dataset {call.dataset}: {name!r} is {card.name!r} once more; run them in two calls")
        try:
            store = open_or_build(card, features, data_root, in_memory=call.in_memory, overrides=data_settings)
        except UsageError as error:
            problems.append(str(error))
        else:
            opened.append((name, card, preset, features, store))
    if problems:
        raise UsageError("\n\n".join(problems))
    return opened


def _unit(
    call: Call,
    method: type[Method],
    space: SearchSpace,
    card: Card,
    features: str,
    name: str,
    preset: Preset,
    store: FeatureStore,
    mode: Mode,
    overrides: dict[str, dict[str, Any]],
) -> Unit:
    if method.inputs == "sequence":
        store.require_sequences(method.title)
    fixed = {*overrides.get(method.name, {}), *(f"train.{name}" for name in overrides.get("train", {}))}
    ranges = {key: r for key, r in search_ranges(method, space, card).items() if key not in fixed}
    if preset.searched is not None:
        ranges = {key: r for key, r in ranges.items() if key in preset.searched} or ranges
    settings = resolve(method, space, card, features, mode, overrides, preset)
    if settings.protocol.seen_test == "group_disjoint" and card.grouping is None:
        raise UsageError(f"protocol.seen_test=group_disjoint: {card.name} has no grouping rule; write `grouping` in its card")
    tuning = _tuning(call, preset, overrides.get("tuning", {}))
    option = f"--timeout {tuning.timeout:g}" if tuning.trials is None else f"--trials {tuning.trials}"
    if tuning.searches and not ranges:
        raise UsageError(
            f"{option}: {method.title} has no search space; write search_spaces/{method.name}.yaml, or use --trials 0"
        )
    outside = [k for k, v in settings.searchable().items() if k in ranges and not ranges[k].contains(v)]
    if tuning.searches and outside:
        listed = ", ".join(f"{k}={settings.searchable()[k]}" for k in outside)
        raise UsageError(
            f"{option}: {method.title} on {card.name} starts from {listed}, outside the search range; "
            f"widen the range in search_spaces/{method.name}.yaml (or `search` of the card), or fix the value with --set"
        )
    if tuning.searches and call.stages == "2":
        raise UsageError(f"--stages 2 with {option.split()[0]}: a study trains stage 1; use --stages all, or --trials 0")
    seeds = call.seeds or preset.seeds
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
        user_set=bool(overrides.get(method.name) or overrides.get("lengths")),
        tuning=tuning,
        plugins=[path.resolve() for path in call.plugins],
        repetitions=call.repetitions if call.repetitions is not None else list(range(seeds)),
        base_seed=call.base_seed,
    )


def _tuning(call: Call, preset: Preset, given: Mapping[str, Any]) -> TuningConfig:
    """How far a study goes, the same for every method.

    Args:
        given: settings of ``--set tuning.…``, which win.

    Raises:
        UsageError: seconds for no trials.
    """
    asked = {"trials": call.trials, "timeout": call.timeout, **given}
    if asked["trials"] is None:
        asked["trials"] = preset.trials or (0 if asked["timeout"] is None else None)
    tuning = TuningConfig.model_validate(asked)
    if not tuning.searches and tuning.timeout is not None:
        raise UsageError(
            f"--timeout {tuning.timeout:g} bounds a search, and --trials 0 asks for none; leave --trials away for a search of "
            "these seconds, or --timeout for none"
        )
    return tuning


def search_ranges(method: type[Method], space: SearchSpace, card: Card) -> dict[str, Range]:
    """Search ranges of the space, with those of the card in their place.

    Raises:
        UsageError: ranges of the card that are none, or that the method does not accept; all are listed.
    """
    own, place = card.search.get(method.name, {}), f"card {card.name} in datasets/: search.{method.name}"
    try:
        changed = {key: Range.model_validate(value) for key, value in own.items() if value is not None}
    except ValidationError as error:
        raise UsageError(validation_message(error, place)) from None
    problems = list(range_problems(place, changed, method))
    if problems:
        raise UsageError("\n".join(problems))
    return {k: r for k, r in {**space.search, **changed}.items() if own.get(k, r) is not None}
