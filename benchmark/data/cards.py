"""Dataset cards: what a YAML file in ``datasets/`` says of a data set, checked. No features are read here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmark.errors import UsageError, near, validation_message
from benchmark.shipped_files import shipped

CARDS_DIR = shipped("datasets")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModalityCard(_Strict):
    """One modality of a feature set."""

    extractor: str
    dim: int = Field(gt=0)
    seconds: float = Field(gt=0, description="seconds between two steps; 1 where the index is the time")
    scale: float = Field(1.0, gt=0, description="features are divided by this")
    published_scale: float | None = Field(None, gt=0, description="what published code divides by, where it differs")


Quirk = Literal["bgr", "inverted", "own_rate", "sixteen_bit"]
"""What the published extraction of some features did besides what is described of it (docs/extraction.md)."""


class FeatureSetCard(_Strict):
    """One feature set of a data set, with the counts that its published lists have."""

    description: str
    audio: ModalityCard
    video: ModalityCard
    text_dim: int = Field(gt=0)
    classes: dict[str, int] = Field(default_factory=dict, description="expected classes per part")
    samples: dict[str, int] = Field(default_factory=dict, description="expected samples per part")
    published_quirks: tuple[Quirk, ...] = Field((), description="what `extract --published-preprocessing` repeats")


class OfficialLayout(_Strict):
    """Where the published folder keeps things."""

    folder: str
    names_file: str
    text_file: str


class Budget(_Strict):
    """What an alias such as ``demo`` runs: settings that replace defaults, all of them visible in the results."""

    train: dict[str, Any] = Field(default_factory=dict)
    trials: int = Field(0, ge=0)
    searched: list[str] | None = Field(
        None, description="names of the settings that studies search; None, or none of a method's: its whole space"
    )
    seeds: int = Field(1, ge=1)


class Card(_Strict):
    """A data set: names, feature sets, where it comes from, how to get it."""

    name: str
    title: str
    kind: Literal["published", "real", "generated"]
    description: str
    caption: str = Field("", description="what a table's caption must say of these data")
    published_order: bool = Field(False, description="whether an official text alignment exists, which mode paper uses")
    default_features: str
    features: dict[str, FeatureSetCard]
    official: OfficialLayout | None = None
    grouping: str | None = Field(None, description="regular expression; its first group in a sample id is the leak group")
    overlap_seconds: float | None = Field(
        None, gt=0, description="length of a clip, where the second group of `grouping` is the second at which it starts"
    )
    obtain: str = Field("", description="what to fetch or extract, shown when the features are missing")
    licence: str = ""
    builder: Literal["stamps", "synthetic"] | None = Field(None, description="built at first use, without a download")
    builder_options: dict[str, Any] = Field(default_factory=dict)
    sizes: dict[str, dict[str, Any]] = Field(default_factory=dict, description="method settings for these data")
    search: dict[str, dict[str, dict[str, Any] | None]] = Field(
        default_factory=dict, description="method -> setting -> search range for these data; null: not searched"
    )
    train: dict[str, Any] = Field(default_factory=dict, description="training settings for these data")
    aliases: dict[str, Budget] = Field(default_factory=dict, description="other names, each with a budget of its own")

    @model_validator(mode="after")
    def _grouping_has_the_groups_that_are_read(self) -> Self:
        try:
            groups = re.compile(self.grouping or "").groups
        except re.error as error:
            raise ValueError(f"grouping is no regular expression: {error}") from None
        if self.grouping is not None and groups < 1:
            raise ValueError("grouping needs a group in parentheses: what the samples of one source have in common")
        if self.overlap_seconds is not None and groups < 2:
            raise ValueError("overlap_seconds needs a second group in grouping: the second at which a clip starts")
        return self

    def feature_set(self, features: str | None) -> tuple[str, FeatureSetCard]:
        """The named feature set, or the default one.

        Raises:
            UsageError: there is no such feature set; the known ones are named.
        """
        name = features or self.default_features
        if name not in self.features:
            raise UsageError(f"data set {self.name!r} has no feature set {name!r}: {near(name, self.features)}")
        return name, self.features[name]


def load_cards(folder: Path = CARDS_DIR) -> dict[str, Card]:
    """All cards of a folder by name.

    Raises:
        UsageError: a file is not YAML, has unknown or wrong fields (all are listed), or two cards share a name.
    """
    cards: dict[str, Card] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            card = Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except yaml.YAMLError as error:
            raise UsageError(f"{path}: not valid YAML: {error}") from None
        except ValidationError as error:
            raise UsageError(validation_message(error, str(path))) from None
        if card.name in cards:
            raise UsageError(f"{path}: the name {card.name!r} is taken by another card; choose another")
        cards[card.name] = card
    return cards


def find_card(name: str, cards: dict[str, Card]) -> tuple[Card, Budget | None]:
    """The card of a name or alias, and the alias's budget.

    Raises:
        UsageError: no card has the name; near ones are named.
    """
    if name in cards:
        return cards[name], None
    for card in cards.values():
        if name in card.aliases:
            return card, card.aliases[name]
    known = [*cards, *(alias for card in cards.values() for alias in card.aliases)]
    raise UsageError(f"unknown data set {name!r}: {near(name, known)}")
