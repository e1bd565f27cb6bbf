"""From defaults, search spaces, dataset configs and ``--set`` to the settings of a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError

from benchmark.data.built.synthetic import SyntheticConfig
from benchmark.data.cards import Card, Preset
from benchmark.errors import UsageError, near, validation_message
from benchmark.method import Method, MethodConfig, Use
from benchmark.settings.schema import LengthConfig, Mode, ProtocolConfig, TrainConfig, TuningConfig
from benchmark.settings.search_space import PublishedSettings, SearchSpace
from benchmark.system.reading import parse_yaml
from benchmark.tracking.schema import RENAMED_SWITCHES

NO_PRESET = Preset()
NOT_SWITCHES = ("mode", "seen_test", "grid")
"""Fields of the protocol that no mode changes."""


def switches(method: type[Method]) -> list[str]:
    """All that mode ``corrected`` changes: switches of the protocol, then the method's own."""
    return [
        *(name for name in ProtocolConfig.model_fields if name not in NOT_SWITCHES),
        *own_switches(method),
    ]


def own_switches(method: type[Method]) -> dict[str, str]:
    """Switches of known deviations in the published method itself: ``<method>_<setting>`` -> setting."""
    return {f"{method.name}_{setting}": setting for setting in method.corrected_settings}


def protocol_for(method: type[Method], mode: Mode, *, published_order: bool) -> dict[str, Any]:
    """The protocol of a method in a mode. Datasets without a published order are always aligned by name."""
    values: dict[str, Any] = {name: mode for name in ProtocolConfig.model_fields if name not in NOT_SWITCHES}
    values["mode"] = mode
    values["text_alignment"] = "official" if mode == "paper" and published_order else "by_name"
    values["grid"] = method.published_grid
    return values


@dataclass(frozen=True)
class Settings:
    """All settings of a job, validated. ``resolve`` makes them; they are part of the job's key."""

    method: str
    config: MethodConfig
    train: TrainConfig
    lengths: LengthConfig
    protocol: ProtocolConfig
    published: bool
    """Whether published settings exist for the dataset and feature set."""
    corrections: Mapping[str, Any] = field(default_factory=dict)
    """``Method.corrected_settings``: fields of the Config that are switches, and their corrected values."""
    uses: tuple[Use, ...] = ()
    """What the method uses as a transductive one with these hyperparameters, out of what it declares."""

    @classmethod
    def validated(
        cls, method: type[Method], layers: Mapping[str, Mapping[str, Any]], place: str, *, published: bool
    ) -> Self:
        """Settings from plain values.

        Args:
            layers: section -> field -> value, as ``as_dict`` returns them. Missing fields have their default.
            place: where the values come from, for messages.

        Raises:
            UsageError: a value does not fit; all are listed.
        """
        own = own_switches(method)
        try:
            config = method.Config.model_validate(layers.get(method.name, {}))
            return cls(
                method=method.name,
                config=config,
                uses=declared_uses(method, config),
                train=TrainConfig.model_validate(layers.get("train", {})),
                lengths=LengthConfig.model_validate(layers.get("lengths", {})),
                protocol=ProtocolConfig.model_validate(
                    {name: value for name, value in layers.get("protocol", {}).items() if name not in own}
                ),
                published=published,
                corrections=method.corrected_settings,
            )
        except ValidationError as error:
            raise UsageError(validation_message(error, place)) from None

    def as_dict(self, mode: Literal["json", "python"] = "json") -> dict[str, dict[str, Any]]:
        """Section -> field -> value, complete. The method's own switches are in ``protocol`` too."""
        own = {
            f"{self.method}_{setting}": "corrected" if getattr(self.config, setting) == value else "paper"
            for setting, value in self.corrections.items()
        }
        return {
            self.method: self.config.model_dump(mode=mode),
            "train": self.train.model_dump(mode=mode),
            "lengths": self.lengths.model_dump(mode=mode),
            "protocol": {**self.protocol.model_dump(mode=mode), **own},
        }

    def flat(self) -> dict[str, Any]:
        """``section.field`` -> value."""
        return {f"{s}.{k}": v for s, fields in self.as_dict().items() for k, v in fields.items()}

    def searchable(self) -> dict[str, Any]:
        """All that a study may search: fields of the method, and those of training as ``train.<field>``."""
        train = {f"train.{name}": value for name, value in self.train.model_dump().items()}
        return {**self.config.model_dump(), **train}

    def with_values(self, method: type[Method], values: Mapping[str, Any]) -> Settings:
        """The same settings with other hyperparameters (``lr`` of the method, ``train.batch_size``, ...).

        Raises:
            UsageError: the method or training does not accept them together.
        """
        layers = self.as_dict("python")
        for key, value in values.items():
            section, dot, name = key.rpartition(".")
            layers[section if dot else method.name][name] = value
        return self.validated(
            method, layers, f"searched settings of {method.title}", published=self.published
        )


def declared_uses(method: type[Method], config: MethodConfig) -> tuple[Use, ...]:
    """What a method uses with these hyperparameters.

    Raises:
        UsageError: it is not part of what the method declares.
    """
    uses = method.uses_with(config)
    if not isinstance(uses, (tuple, list)) or not set(uses) <= set(method.uses):
        raise UsageError(
            f"{method.title} ({method.__module__}): uses_with must return some of the declared uses "
            f"{method.uses!r}, got {uses!r}"
        )
    return tuple(uses)


SECTIONS: dict[str, type[BaseModel]] = {
    "data": SyntheticConfig,
    "train": TrainConfig,
    "lengths": LengthConfig,
    "protocol": ProtocolConfig,
    "tuning": TuningConfig,
}


def parse_overrides(texts: Sequence[str], methods: Mapping[str, type[Method]]) -> dict[str, dict[str, Any]]:
    """Parse and check the texts of ``--set``, ``section.field=value``, into section -> field -> value.

    Raises:
        UsageError: a text has another form, or an unknown section, field or value; similar names are given.
    """
    models: dict[str, type[BaseModel]] = {**SECTIONS, **{name: cls.Config for name, cls in methods.items()}}
    own = [name for method in methods.values() for name in own_switches(method)]
    parsed: dict[str, dict[str, Any]] = {}
    for text in texts:
        key, equals, raw = text.partition("=")
        section, dot, name = key.strip().partition(".")
        if not (equals and dot and section and name):
            raise UsageError(
                f"--set {text}: write it as SECTION.FIELD=VALUE, for example --set train.epochs=2"
            )
        name = RENAMED_SWITCHES.get(name, name) if section == "protocol" else name
        if (section, name) == ("protocol", "mode"):
            raise UsageError(f"--set {text}: use --mode, which sets all flags of the mode")
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
            # Fields that do not fit together may fit with another --set: ``Settings.validated`` checks them.
            if any(wrong["loc"] for wrong in error.errors()):
                raise UsageError(validation_message(error, f"--set {text}")) from None
        parsed.setdefault(section, {})[name] = value
    return parsed


def resolve(
    method: type[Method],
    space: SearchSpace,
    card: Card,
    features: str,
    mode: Mode,
    overrides: Mapping[str, Mapping[str, Any]],
    preset: Preset = NO_PRESET,
) -> Settings:
    """All settings of a method on a feature set of a dataset in a mode.

    Args:
        space: search space of the method, for its published settings.
        features: name of the feature set.
        overrides: checked ``--set`` values, section -> field -> value.
        preset: preset of the dataset config, for its settings of training.

    Raises:
        UsageError: a value of the dataset config, the search space or ``--set`` does not fit.
    """
    published = space.settings_for(card.name, features)
    base = published or PublishedSettings()
    of_mode = protocol_for(method, mode, published_order=card.published_order)
    protocol = {**of_mode, **overrides.get("protocol", {})}
    if method.control == "shuffled":
        protocol["text_alignment"] = "shuffled"
    corrected = {
        setting: method.corrected_settings[setting]
        for name, setting in own_switches(method).items()
        if protocol.get(name, mode) == "corrected"
    }
    # Later values win: published, of the dataset config, of the preset, of mode `corrected`, of `--set`.
    config = {**base.config, **card.sizes.get(method.name, {}), **corrected, **overrides.get(method.name, {})}
    train = {**base.train, **card.train, **preset.train, **overrides.get("train", {})}
    lengths = {**base.lengths, **overrides.get("lengths", {})}
    layers = {method.name: config, "train": train, "lengths": lengths, "protocol": protocol}
    place = f"settings of {method.name} on {card.name}"
    return Settings.validated(method, layers, place, published=published is not None and not published.note)
