"""The files of ``search_spaces/``: published settings of a method and the ranges to search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from benchmark.errors import UsageError, near, validation_message, wrong_value
from benchmark.method import Method
from benchmark.settings.schema import LengthConfig, TrainConfig
from benchmark.system.reading import Fields, read_fields, refuse_special
from benchmark.system.shipped_files import shipped

SEARCH_SPACES_DIR = shipped("search_spaces")


class Range(Fields):
    """The range of a hyperparameter."""

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
        """Values that the setting must accept, by name: both ends and one between, or all choices."""
        if self.type == "categorical":
            return {f"choices[{i}]": choice for i, choice in enumerate(self.choices or [])}
        low, high = self.low or 0.0, self.high or 0.0
        if self.type == "int":
            return {"low": low, "high": high}
        # Divided by e, so that the value is not a whole number by chance.
        between = min(high, low + self.step) if self.step else low + (high - low) / math.e
        return {"low": low, "high": high, "between low and high": between}

    def contains(self, value: Any) -> bool:
        """Whether a value is in the range, whatever its step."""
        if self.type == "categorical":
            return value in (self.choices or [])
        return isinstance(value, (int, float)) and (self.low or 0) <= value <= (self.high or 0)


class PublishedSettings(Fields):
    """The settings of a paper for one feature set of a dataset."""

    config: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    lengths: dict[str, Any] = Field(default_factory=dict)
    note: str = ""
    """What is ours in these settings. With a note they do not count as published, and tables show it."""


class SearchSpace(Fields):
    """A file of ``search_spaces/``: published settings of a method and the ranges to search."""

    method: str
    published: dict[str, dict[str, PublishedSettings]] = Field(default_factory=dict)
    search: dict[str, Range] = Field(default_factory=dict)

    def settings_for(self, dataset: str, features: str) -> PublishedSettings | None:
        """The published settings for a feature set of a dataset; None if there are none."""
        return self.published.get(dataset, {}).get(features)


def load_search_space(path: Path, method: type[Method]) -> SearchSpace:
    """Read the search space of a method and check it against its Config.

    Raises:
        UsageError: the file has errors, all of which are listed: YAML, unknown fields, ranges without the
            published value, ranges with values that the method does not accept.
    """
    refuse_special(path)
    try:
        space = SearchSpace.model_validate(read_fields(path))
    except ValidationError as error:
        raise UsageError(validation_message(error, str(path))) from None
    problems = list(_search_space_problems(space, method))
    if problems:
        raise UsageError("\n".join(f"{path}: {p}" for p in problems))
    return space


def _search_space_problems(space: SearchSpace, method: type[Method]) -> Iterable[str]:
    if space.method != method.name:
        yield f"method: is {space.method!r}, expected {method.name!r}"
    yield from range_problems("search", space.search, method)
    for dataset, sets in space.published.items():
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
                if key in space.search and not space.search[key].contains(value):
                    yield f"{place}.config.{key}: the published value {value!r} is outside the search range"


def range_problems(place: str, ranges: Mapping[str, Range], method: type[Method]) -> Iterable[str]:
    """The errors of search ranges: unknown settings, and values that the method or training does not accept.

    Each value is tried alone. Values that do not fit together fail their trial.

    Args:
        place: where the ranges are from, for messages.
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
                wrong = [wrong_value(e) for e in error.errors() if e["loc"][:1] == (name,)]
                if wrong:
                    owner = "training" if model is TrainConfig else method.title
                    yield (
                        f"{place}.{key}: {which}: {wrong[0]}; "
                        f"search only values that {owner} accepts for {name!r}, "
                        "or change the limits of its Config"
                    )
