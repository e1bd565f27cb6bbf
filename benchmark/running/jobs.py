"""What a benchmark call asks for, and the jobs that follow from it: small frozen records that can be printed and hashed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError, field_validator

from benchmark.data.cards import Budget, Card, Cards, find_card, load_cards
from benchmark.data.locate import open_or_build
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method
from benchmark.protocol.stages import Stage, Task, derive_seed
from benchmark.protocol.training import choose_device
from benchmark.registry import Registry, code_version, named_once
from benchmark.settings.schema import (
    Mode,
    Range,
    Recipe,
    Settings,
    Sources,
    TrainConfig,
    TuningConfig,
    parse_overrides,
    range_problems,
    resolve,
    switches,
)
from benchmark.system.reading import Fields

Stages = Literal["1", "2", "all"]
BASE_SEED = 42
ALL_SWITCHES = "all"
TRAIN_FIELDS = [f"train.{name}" for name in TrainConfig.model_fields]


class Call(Fields):
    """A benchmark call. The options of the command line; a YAML file of these fields is a call too (``run --config``)."""

    methods: str = Field("all", description="comma-separated names, or all")
    dataset: str = Field("demo", description="comma-separated names of data sets")
    features: str | None = Field(None, description="feature set; the card's default if not given")
    mode: Literal["paper", "corrected", "both"] = "paper"
    stages: Stages = "all"
    seeds: int | None = Field(None, ge=1, le=10_000, description="repetitions; 1, or what the alias says")
    repetitions: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="these repetitions only, instead of seeds"
    )
    base_seed: int = Field(BASE_SEED, ge=0)
    trials: int | None = Field(
        None, ge=0, description="tuning trials per method; what the alias says, without limit where timeout bounds them, or 0"
    )
    timeout: float | None = Field(None, gt=0, description="seconds of trials in all after which a study starts no more")
    settings: list[str] = Field(default_factory=list, description="SECTION.FIELD=VALUE, as after --set")
    ablate: list[str] | None = Field(
        None, description="mode paper with each of these protocol switches corrected alone; all: every switch"
    )
    plugins: list[Path] = Field(default_factory=list)
    in_memory: bool = False

    @field_validator("repetitions", "ablate")
    @classmethod
    def _each_once(cls, values: list[Any] | None) -> list[Any] | None:
        twice = [value for i, value in enumerate(values or []) if value in (values or [])[:i]]
        if twice:
            raise ValueError(f"{twice[0]!r} is given twice; give it once")
        return values

    @property
    def modes(self) -> list[Mode]:
        """The modes to run."""
        return ["paper", "corrected"] if self.mode == "both" else [self.mode]


@dataclass(frozen=True)
class Unit:
    """A method on a data set in a mode: what a study tunes and a row of a table shows."""

    method: type[Method]
    ranges: Mapping[str, Range]
    """What a study searches."""
    card: Card
    features: str
    alias: str | None
    """The alias whose budget holds, as ``demo``."""
    data_settings: Mapping[str, Any]
    """Settings of generated data that differ from the card's."""
    store: FeatureStore
    mode: Mode
    settings: Settings
    user_set: bool
    """Whether ``--set`` changed settings of the method or its sequence lengths."""
    tuning: TuningConfig
    plugins: Sequence[Path]
    repetitions: Sequence[int]
    base_seed: int
    ablation: str = ""
    """The one switch that an ablation corrects, or ``all`` for mode corrected beside it; empty outside ablations."""

    @property
    def title(self) -> str:
        """``TCAF · ucf/cls · paper``, in an ablation with the switch that is corrected."""
        switch = f" with {self.ablation} corrected" if self.ablation not in ("", ALL_SWITCHES) else ""
        return f"{self.method.title} · {self.card.name}/{self.features} · {self.mode}{switch}"

    @property
    def variant(self) -> str:
        """What the untuned settings are: a paper's, defaults for these data, or changed with ``--set``.

        Epochs, batches and protocol switches stand in the captions and do not count as changed settings.
        """
        if self.user_set:
            return "user-set"
        return "published" if self.settings.published else "default"

    def job(self, stage: Stage, repetition: int, settings: Settings | None = None) -> Job:
        """One stage of one repetition."""
        return Job(self, stage, repetition, settings or self.settings)

    def identity(self) -> dict[str, Any]:
        """What the unit is, in words."""
        return {
            "dataset": self.card.name,
            "features": self.features,
            "mode": self.mode,
            "method": self.method.name,
            "ablation": self.ablation,
        }


@dataclass(frozen=True)
class Job:
    """One stage of one repetition of a method with all settings resolved."""

    unit: Unit
    stage: Stage
    repetition: int
    settings: Settings

    @property
    def seed(self) -> int:
        """Seed of the repetition."""
        return derive_seed(self.unit.base_seed, self.unit.card.name, self.repetition)

    def identity(self) -> dict[str, Any]:
        """Everything that can change a number; the key is its hash."""
        store, settings = self.unit.store, self.settings.as_dict()
        if self.stage == 1:
            del settings["protocol"]["seen_test"]  # which test samples count is nothing to stage 1
        return {
            **({"grouping": self.unit.card.grouping} if self.stage == 2 else {}),  # which test samples belong together
            "settings": settings,
            "method": self.unit.method.name,
            "dataset": self.unit.card.name,
            "features": self.unit.features,
            "steps": {
                name: getattr(self.unit.card.features[self.unit.features], name).model_dump(exclude={"extractor"})
                for name in ("audio", "video")
            },
            "digest": store.development_digest if self.stage == 1 else store.digest,
            "seed": self.seed,
            "stage": self.stage,
            "code": code_version(self.unit.method),
            "device": choose_device(self.settings.train.device, self.settings.train.precision).type,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        }

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name the job."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def title(self) -> str:
        """``TCAF · ucf/cls · paper · seed 0 · stage 1``."""
        return f"{self.unit.title} · seed {self.repetition} · stage {self.stage}"

    def first_stage(self) -> Job:
        """The job whose epoch and beta this one uses."""
        return replace(self, stage=1)

    def task(self) -> Task:
        """The job as the protocol wants it."""
        features = self.unit.card.features[self.unit.features]
        return Task(self.unit.method, self.settings, features, self.unit.store, self.seed, self.unit.card)

    def call(self) -> Call:
        """The call that repeats this job alone."""
        return Call(
            methods=self.unit.method.name,
            dataset=self.unit.card.name,
            features=self.unit.features,
            mode=self.unit.mode,
            stages="1" if self.stage == 1 else "all",
            repetitions=[self.repetition],
            base_seed=self.unit.base_seed,
            trials=0,
            settings=[
                *(f"{key}={json.dumps(value)}" for key, value in self.settings.flat().items() if key != "protocol.mode"),
                *(f"data.{key}={json.dumps(value)}" for key, value in self.unit.data_settings.items()),
            ],
            plugins=[_from_here(path) for path in self.unit.plugins],
        )


def _from_here(path: Path) -> Path:
    """A path below the working folder as seen from there, so that a project may be moved with its runs; else as it is."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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
    for name, card, budget, features, store in _open_stores(call, data_root, overrides.get("data", {})):
        for mode in call.modes:
            for method in methods:
                make = partial(_unit, call, method, registry.recipe(method), card, features, name, budget, store)
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
        for alias, budget in card.aliases.items():
            notes += [
                f"data set {card.name}: aliases.{alias}.searched: no method has a setting {name!r}: {near(name, fields)}"
                for name in budget.searched or ()
                if name not in fields
            ]
    cards = load_cards()
    for name, recipe in {unit.method.name: registry.recipe(unit.method) for unit in units}.items():
        notes += _unused_settings(name, recipe, cards) if recipe else []
    return notes


def _key_and_value(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key.strip(), value.strip()


def _unused_settings(method: str, recipe: Recipe, cards: Cards) -> Iterator[str]:
    """Published settings of data sets and feature sets that are not there."""
    broken = {name for card in cards.broken for name in card.names}
    for dataset, sets in recipe.published.items():
        if dataset in broken:
            continue
        if dataset not in cards:
            yield f"recipe of {method}: published.{dataset} is not used, no data set has this name: {near(dataset, cards)}"
            continue
        for features in sets:
            if features not in (known := cards[dataset].features):
                yield f"recipe of {method}: published.{dataset}.{features}: no such feature set: {near(features, known)}"


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
) -> list[tuple[str, Card, Budget | None, str, FeatureStore]]:
    """The data sets of a call with their stores.

    Raises:
        UsageError: unknown or doubly named data sets, or missing features; of several data sets all that are missing.
    """
    cards, problems = load_cards(), list[str]()
    opened: list[tuple[str, Card, Budget | None, str, FeatureStore]] = []
    for name in named_once(call.dataset, "--dataset"):
        card, budget = find_card(name, cards)
        features, _ = card.feature_set(call.features)
        if any(other.name == card.name for _, other, _, _, _ in opened):
            raise UsageError(f"--dataset {call.dataset}: {name!r} is {card.name!r} once more; run them in two calls")
        try:
            store = open_or_build(card, features, data_root, in_memory=call.in_memory, overrides=data_settings)
        except UsageError as error:
            problems.append(str(error))
        else:
            opened.append((name, card, budget, features, store))
    if problems:
        raise UsageError("\n\n".join(problems))
    return opened


def _unit(
    call: Call,
    method: type[Method],
    recipe: Recipe | None,
    card: Card,
    features: str,
    name: str,
    budget: Budget | None,
    store: FeatureStore,
    mode: Mode,
    overrides: dict[str, dict[str, Any]],
) -> Unit:
    if method.inputs == "sequence":
        store.require_sequences(method.title)
    budget = budget or Budget()
    train = {**card.train, **budget.train}
    fixed = {*overrides.get(method.name, {}), *(f"train.{name}" for name in overrides.get("train", {}))}
    ranges = {key: r for key, r in search_ranges(method, recipe, card).items() if key not in fixed}
    if budget.searched is not None:
        ranges = {key: r for key, r in ranges.items() if key in budget.searched} or ranges
    settings = resolve(method, recipe, Sources(card.name, features, card.published_order, card.sizes, train), mode, overrides)
    if settings.protocol.seen_test == "group_disjoint" and card.grouping is None:
        raise UsageError(f"protocol.seen_test=group_disjoint: {card.name} has no grouping rule; write `grouping` in its card")
    tuning = _tuning(call, budget, overrides.get("tuning", {}))
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
    seeds = call.seeds or budget.seeds
    return Unit(
        method=method,
        ranges=ranges,
        card=card,
        features=features,
        alias=name if name != card.name else None,
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


def _tuning(call: Call, budget: Budget, given: Mapping[str, Any]) -> TuningConfig:
    """How far a study goes, the same for every method.

    Args:
        given: settings of ``--set tuning.…``, which win.

    Raises:
        UsageError: seconds for no trials.
    """
    asked = {"trials": call.trials, "timeout": call.timeout, **given}
    if asked["trials"] is None:
        asked["trials"] = budget.trials or (0 if asked["timeout"] is None else None)
    tuning = TuningConfig.model_validate(asked)
    if not tuning.searches and tuning.timeout is not None:
        raise UsageError(
            f"--timeout {tuning.timeout:g} bounds a search, and --trials 0 asks for none; leave --trials away for a search of "
            "these seconds, or --timeout for none"
        )
    return tuning


def search_ranges(method: type[Method], recipe: Recipe | None, card: Card) -> dict[str, Range]:
    """Search ranges of the recipe, with those of the card in their place.

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
    return {k: r for k, r in {**(recipe.search if recipe else {}), **changed}.items() if own.get(k, r) is not None}


def call_key(call: Call, units: list[Unit], tune_only: bool) -> str:
    """Names a call by the work it asks for: the same work continues the same record."""
    work = [
        [unit.job(2, repetition).key for repetition in unit.repetitions]
        + [unit.mode, unit.tuning.model_dump(), unit.alias]
        + ([{k: r.model_dump() for k, r in unit.ranges.items()}] if unit.tuning.searches else [])
        for unit in units
    ]
    text = json.dumps([work, call.stages, tune_only, call.dataset], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
