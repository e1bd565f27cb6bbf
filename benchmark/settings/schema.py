"""Settings: typed, validated, every default visible. What a mode means is written here as defaults of its switches.

Where a setting comes from, later ones winning: class default, published setting of the data set (``search_spaces/``),
sizes and training of the data set's card, the budget of an alias, mode ``corrected``, tuned values, ``--set``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from benchmark.data.built.synthetic import SyntheticConfig
from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method, MethodConfig
from benchmark.system.reading import Fields, parse_yaml, read_fields
from benchmark.system.shipped_files import shipped
from benchmark.tracking.schema import Budget

RECIPES_DIR = shipped("search_spaces")

Mode = Literal["paper", "corrected"]
Switch = Literal["paper", "corrected"]
Length = Literal["max"] | Annotated[int, Field(ge=1, le=100_000)]


class TrainConfig(Fields):
    """How long and on what a method trains."""

    epochs: int = Field(50, ge=1, le=10_000)
    batches_per_epoch: int = Field(300, ge=1, le=1_000_000)
    batch_size: int = Field(64, ge=2, le=65_536, description="BatchNorm needs at least two samples")
    eval_batch_size: int = Field(
        256, ge=1, le=65_536, description="samples embedded at once; changes no result beyond rounding"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["float32", "bfloat16", "float16"] = Field("float32", description="float16 and bfloat16: autocast")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of torch; part of the result, since it changes rounding")


class LengthConfig(Fields):
    """How sequences are brought to one length: padded to the longest of the batch, or cut and padded to n video steps."""

    train: Length = "max"
    test: Length = "max"
    train_cut: Literal["random", "centre"] = Field("random", description="evaluation always cuts in the centre")


class ProtocolConfig(Fields):
    """The published protocol, with a switch for each of its defects (``docs/protocol.md``)."""

    mode: Mode = "paper"
    text_alignment: Literal["official", "corrected", "shuffled"] = Field(
        "official", description="official: rows as published code uses them; shuffled: a control without meaning"
    )
    evaluation_times: Switch = Field(
        "paper", description="paper: positions 0, 1, 2, ... at evaluation; times restart after cuts"
    )
    extra_bn_pass: Switch = Field(
        "paper", description="paper: a second forward pass moves BatchNorm statistics after each step"
    )
    padding_in_bn: Switch = Field("paper", description="paper: padded steps enter the encoders' BatchNorm statistics")
    video_norm: Switch = Field(
        "paper", description="paper: video sequences are L2-normalised over time; corrected: over channels"
    )
    audio_scale: Switch = Field("paper", description="paper: audio sequences are divided by 255 in every feature set")
    length_rule: Switch = Field(
        "paper",
        description="paper: audio length n*s_v*s_a, cuts as published; corrected: n*s_v/s_a, audio cut where the video is "
        "(s: seconds a step)",
    )
    beta_view: Switch = Field("paper", description="paper: mean of the views' betas; corrected: beta of the reported view")
    calibration: Switch = Field("paper", description="paper: beta from the grid 0, 0.2, ..., 3; corrected: exact optimum")
    stage2_schedule: Switch = Field(
        "paper", description="paper: plateau on data trained on; corrected: replays stage 1's rates"
    )
    seen_test: Literal["published", "group_disjoint"] = Field(
        "published", description="group_disjoint: also reports S and HM without test-seen samples whose group is trained on"
    )


NOT_SWITCHES = ("mode", "seen_test")
"""Fields of the protocol that no mode changes."""


def switches(method: type[Method]) -> list[str]:
    """All that mode ``corrected`` switches: those of the protocol, then the method's own."""
    return [*(name for name in ProtocolConfig.model_fields if name not in NOT_SWITCHES), *own_switches(method)]


def own_switches(method: type[Method]) -> dict[str, str]:
    """Switches of defects that sit in the published method itself: ``<method>_<setting>`` -> setting."""
    return {f"{method.name}_{setting}": setting for setting in method.corrected_settings}


def protocol_for(mode: Mode, *, published_order: bool) -> dict[str, Any]:
    """Values of all protocol switches in a mode; data sets without a published order are always aligned correctly."""
    values: dict[str, Any] = {name: mode for name in ProtocolConfig.model_fields if name not in NOT_SWITCHES}
    values["mode"] = mode
    values["text_alignment"] = "official" if mode == "paper" and published_order else "corrected"
    return values


class TuningConfig(Fields):
    """Search for settings on the validation parts."""

    trials: int | None = Field(
        0,
        ge=0,
        le=100_000,
        description="finished trials in all, published settings included; 0: no tuning; null: timeout alone",
    )
    timeout: float | None = Field(None, gt=0, description="seconds of trials in all after which no further one starts")
    pruner: Literal["median", "hyperband", "none"] = "median"
    startup_trials: int = Field(5, ge=1, description="random trials before the sampler learns, and before anything is pruned")
    warmup_epochs: int = Field(3, ge=0, description="epochs before a trial may be pruned")
    parallel: int = Field(
        1, ge=1, le=1000, description="trials that may run at once, each drawn without the results of the others"
    )
    seed: int = Field(0, ge=0)

    @property
    def searches(self) -> bool:
        """Whether there is a study at all."""
        return self.trials != 0

    @property
    def budget(self) -> Budget:
        """What a study may use up."""
        return Budget(self.trials, self.timeout)


class Range(Fields):
    """What a searched setting may become."""

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    step: float | None = Field(None, gt=0)
    log: bool = False
    choices: list[Any] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Range:
        if self.type == "categorical":
            if not self.choices or self.low is not None or self.high is not None:
                raise ValueError("a categorical range has choices and nothing else")
        elif self.low is None or self.high is None or self.low > self.high or self.choices is not None:
            raise ValueError("a numeric range needs low <= high and no choices")
        if self.log and (self.step is not None or (self.low or 0) <= 0):
            raise ValueError("a logarithmic range starts above 0 and has no step")
        return self

    def samples(self) -> dict[str, Any]:
        """What a setting must accept to be searched, by name: both ends and a value between them, or all choices."""
        if self.type == "categorical":
            return {f"choices[{i}]": choice for i, choice in enumerate(self.choices or [])}
        low, high = self.low or 0.0, self.high or 0.0
        if self.type == "int":
            return {"low": low, "high": high}
        between = min(high, low + self.step) if self.step else low + (high - low) / math.e  # no whole number by chance
        return {"low": low, "high": high, "between low and high": between}

    def contains(self, value: Any) -> bool:
        """Whether a value can be drawn from the range (steps apart)."""
        if self.type == "categorical":
            return value in (self.choices or [])
        return isinstance(value, (int, float)) and (self.low or 0) <= value <= (self.high or 0)


class PublishedSettings(Fields):
    """Settings of a paper for one data set and feature set."""

    config: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    lengths: dict[str, Any] = Field(default_factory=dict)


class Recipe(Fields):
    """A file of ``search_spaces/``: published settings and the ranges to search."""

    method: str
    published: dict[str, dict[str, PublishedSettings]] = Field(default_factory=dict)
    search: dict[str, Range] = Field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """All resolved settings of a job."""

    method: str
    config: MethodConfig
    train: TrainConfig
    lengths: LengthConfig
    protocol: ProtocolConfig
    published: bool
    """Whether published settings exist for the data set and feature set."""
    corrections: Mapping[str, Any] = field(default_factory=dict)
    """``Method.corrected_settings``: fields of the Config that are switches, and their corrected values."""

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Section -> field -> value, plain types, complete; the method's own switches stand with those of the protocol too."""
        own = {
            f"{self.method}_{setting}": "corrected" if getattr(self.config, setting) == value else "paper"
            for setting, value in self.corrections.items()
        }
        return {
            self.method: self.config.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
            "lengths": self.lengths.model_dump(mode="json"),
            "protocol": {**self.protocol.model_dump(mode="json"), **own},
        }

    def flat(self) -> dict[str, Any]:
        """``section.field`` -> value."""
        return {f"{s}.{k}": v for s, fields in self.as_dict().items() for k, v in fields.items()}

    def searchable(self) -> dict[str, Any]:
        """All that a study may search: fields of the method, and of training with ``train.`` before them."""
        train = {f"train.{name}": value for name, value in self.train.model_dump().items()}
        return {**self.config.model_dump(), **train}

    def with_values(self, values: Mapping[str, Any]) -> Settings:
        """The same with searched fields replaced (``lr`` of the method, ``train.batch_size``, ...)."""
        config = {k: v for k, v in values.items() if "." not in k}
        train = {k.removeprefix("train."): v for k, v in values.items() if k.startswith("train.")}
        return replace(
            self,
            config=type(self.config).model_validate({**self.config.model_dump(), **config}),
            train=TrainConfig.model_validate({**self.train.model_dump(), **train}),
        )


def load_recipe(path: Path, method: type[Method]) -> Recipe:
    """The recipe of a method, checked against its Config.

    Raises:
        UsageError: all errors of the file at once: YAML, unknown fields, ranges that do not hold the published value or that
            hold values which the method does not accept.
    """
    try:
        recipe = Recipe.model_validate(read_fields(path))
    except ValidationError as error:
        raise UsageError(validation_message(error, str(path))) from None
    problems = list(_recipe_problems(recipe, method))
    if problems:
        raise UsageError("\n".join(f"{path}: {p}" for p in problems))
    return recipe


def _recipe_problems(recipe: Recipe, method: type[Method]) -> Iterable[str]:
    if recipe.method != method.name:
        yield f"method: is {recipe.method!r}, expected {method.name!r}"
    yield from range_problems("search", recipe.search, method)
    for dataset, sets in recipe.published.items():
        for features, published in sets.items():
            place = f"published.{dataset}.{features}"
            for model, values in (
                (method.Config, published.config),
                (TrainConfig, published.train),
                (LengthConfig, published.lengths),
            ):
                try:
                    model.model_validate(values)
                except ValidationError as error:
                    yield validation_message(error, place)
            for key, value in published.config.items():
                if key in recipe.search and not recipe.search[key].contains(value):
                    yield f"{place}.config.{key}: the published value {value!r} lies outside the search range"


def range_problems(place: str, ranges: Mapping[str, Range], method: type[Method]) -> Iterable[str]:
    """What is wrong with search ranges: unknown settings, and ends or choices that the method or training does not accept.

    Each value is tried alone. Values that do not fit together fail their trial.

    Args:
        place: where the ranges stand, for the messages.
    """
    fields = [*method.Config.model_fields, *(f"train.{name}" for name in TrainConfig.model_fields)]
    for key, searched in ranges.items():
        if key not in fields:
            yield f"{place}.{key}: {method.title} has no such setting; {near(key, fields)}"
            continue
        model: type[BaseModel] = TrainConfig if key.startswith("train.") else method.Config
        name = key.removeprefix("train.")
        for which, value in searched.samples().items():
            try:
                model.model_validate({name: value})
            except ValidationError as error:
                wrong = [e["msg"] for e in error.errors() if e["loc"][:1] == (name,)]
                if wrong:
                    owner = "training" if model is TrainConfig else method.title
                    yield (
                        f"{place}.{key}: {which}: {wrong[0]} (got {value!r}); "
                        f"search only values that {owner} accepts for {name!r}, or change the limits of its Config"
                    )


SECTIONS: dict[str, type[BaseModel]] = {
    "data": SyntheticConfig,
    "train": TrainConfig,
    "lengths": LengthConfig,
    "protocol": ProtocolConfig,
    "tuning": TuningConfig,
}


def parse_overrides(texts: Sequence[str], methods: Mapping[str, type[Method]]) -> dict[str, dict[str, Any]]:
    """``section.field=value`` texts of ``--set`` as section -> field -> value, checked.

    Raises:
        UsageError: not of that form, or an unknown section, field or value; near names are given.
    """
    models: dict[str, type[BaseModel]] = {**SECTIONS, **{name: cls.Config for name, cls in methods.items()}}
    own = [name for method in methods.values() for name in own_switches(method)]
    parsed: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, raw = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and section and name):
            raise UsageError(f"--set {text}: write it as SECTION.FIELD=VALUE, for example --set train.epochs=2")
        if (section, name) == ("protocol", "mode"):
            raise UsageError(f"--set {text}: use --mode, which sets all switches of the mode")
        if section not in models:
            raise UsageError(f"--set {text}: no section {section!r}: {near(section, models)}")
        fields = [*models[section].model_fields, *(own if section == "protocol" else [])]
        if name not in fields:
            raise UsageError(f"--set {text}: {section!r} has no setting {name!r}: {near(name, fields)}")
        try:
            value = parse_yaml(raw, f"--set {text}")
            if name in models[section].model_fields:
                models[section].model_validate({name: value})
            elif value not in ("paper", "corrected"):
                raise UsageError(f"--set {text}: {name} is paper or corrected")
        except ValidationError as error:
            raise UsageError(validation_message(error, f"--set {text}")) from None
        parsed.setdefault(section, {})[name] = value
    return parsed


@dataclass(frozen=True)
class Sources:
    """Where the settings of a data set come from, besides the recipe of the method."""

    dataset: str
    features: str
    published_order: bool
    sizes: Mapping[str, Mapping[str, Any]]
    train: Mapping[str, Any]


def resolve(
    method: type[Method],
    recipe: Recipe | None,
    sources: Sources,
    mode: Mode,
    overrides: Mapping[str, Mapping[str, Any]],
) -> Settings:
    """All settings of a method on a data set in a mode.

    Raises:
        UsageError: a value of the card, recipe or ``--set`` does not fit; all are listed.
    """
    published = (recipe.published if recipe else {}).get(sources.dataset, {}).get(sources.features)
    base = published or PublishedSettings()
    switched = {**protocol_for(mode, published_order=sources.published_order), **overrides.get("protocol", {})}
    corrected = {
        setting: method.corrected_settings[setting]
        for name, setting in own_switches(method).items()
        if switched.get(name, mode) == "corrected"
    }
    layers: dict[str, dict[str, Any]] = {
        method.name: {
            **base.config,
            **sources.sizes.get(method.name, {}),
            **corrected,
            **overrides.get(method.name, {}),
        },
        "train": {**base.train, **sources.train, **overrides.get("train", {})},
        "lengths": {**base.lengths, **overrides.get("lengths", {})},
        "protocol": {name: value for name, value in switched.items() if name in ProtocolConfig.model_fields},
    }
    try:
        return Settings(
            method=method.name,
            config=method.Config.model_validate(layers[method.name]),
            train=TrainConfig.model_validate(layers["train"]),
            lengths=LengthConfig.model_validate(layers["lengths"]),
            protocol=ProtocolConfig.model_validate(layers["protocol"]),
            published=published is not None,
            corrections=method.corrected_settings,
        )
    except ValidationError as error:
        raise UsageError(validation_message(error, f"settings of {method.name} on {sources.dataset}")) from None
