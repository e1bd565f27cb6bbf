"""From defaults, search spaces, dataset configs and ``--set`` to the settings of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ValidationError

from benchmark.data.built.synthetic import SyntheticConfig
from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method, MethodConfig
from benchmark.settings.schema import LengthConfig, Mode, ProtocolConfig, TrainConfig, TuningConfig
from benchmark.settings.search_space import PublishedSettings, Recipe
from benchmark.system.reading import parse_yaml

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
