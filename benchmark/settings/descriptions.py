"""Describes the settings that ``--set`` accepts: default, allowed values, meaning, and search range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from benchmark.method import Method
from benchmark.settings.resolve import own_switches
from benchmark.settings.schema import TrainConfig
from benchmark.settings.search_space import Range

NO_RANGES: Mapping[str, Range] = {}


@dataclass(frozen=True)
class Setting:
    """A setting."""

    name: str
    """``section.field``."""
    default: Any
    allowed: str
    """Its bounds or choices."""
    description: str
    search: str = ""
    """The range that tuning searches; empty if it is not searched."""


def settings_of(
    section: str, model: type[BaseModel], ranges: Mapping[str, Range] = NO_RANGES
) -> list[Setting]:
    """The settings of a section.

    Args:
        model: its fields.
        ranges: the search space of a method; searched settings of training are added.
    """
    found = [*_settings(section, model, ranges)]
    train = {key.removeprefix("train."): r for key, r in ranges.items() if key.startswith("train.")}
    return found + [s for s in _settings("train", TrainConfig, train) if s.search]


def switches_of(method: type[Method]) -> list[Setting]:
    """The method's own protocol flags."""
    return [
        Setting(
            f"protocol.{name}",
            "paper",
            "paper, corrected",
            f"corrected: {setting} is {method.corrected_settings[setting]}",
        )
        for name, setting in own_switches(method).items()
    ]


def _settings(section: str, model: type[BaseModel], ranges: Mapping[str, Range]) -> Iterator[Setting]:
    for name, schema in model.model_json_schema()["properties"].items():
        search = range_text(ranges[name]) if name in ranges else ""
        default = model.model_fields[name].get_default(call_default_factory=True)
        yield Setting(f"{section}.{name}", default, allowed(schema), schema.get("description", ""), search)


def allowed(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " or ".join(allowed(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    kind = {"boolean": "true, false", "null": "null"}.get(schema.get("type", ""), schema.get("type", "any"))
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{kind}, {low:g} to {high:,}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema]
    return ", ".join([kind, *bounds])


def range_text(searched: Range) -> str:
    """A search range in words: ``0.0001 to 0.01, logarithmic``."""
    if searched.type == "categorical":
        return ", ".join(map(str, searched.choices or []))
    step = f", step {searched.step:g}" if searched.step else ""
    return f"{searched.low:g} to {searched.high:g}{step}{', logarithmic' if searched.log else ''}"
