"""Dataset configs: the YAML files of ``datasets/``, checked. No features are read here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from benchmark.errors import UsageError, near, validation_message
from benchmark.system.reading import YAML_SUFFIXES, Fields, Name, files_in, read_fields, refuse_special
from benchmark.system.shipped_files import is_of_checkout, shipped

CARDS_DIR = shipped("datasets")


class ModalityConfig(Fields):
    """The config of one modality of a feature set."""

    extractor: str = Field(description="what made the features")
    dim: int = Field(gt=0, description="numbers per time step")
    seconds: float = Field(gt=0, description="seconds between two time steps; 1 if the index is the time")
    scale: float = Field(1.0, gt=0, description="feature sequences are divided by this")
    published_scale: float | None = Field(
        None, gt=0, description="what published code divides by, if it differs"
    )


SPLITS_OF_LISTS = (
    "stage_1_train", "stage_1_val_seen", "stage_1_val_unseen",
    "stage_2_train", "stage_2_test_seen", "stage_2_test_unseen",
)  # fmt: skip


def _listed(split: str) -> str:
    if split not in SPLITS_OF_LISTS:
        raise ValueError(f"no such split: {near(split, SPLITS_OF_LISTS)}")
    return split


Split = Annotated[str, AfterValidator(_listed)]
Quirk = Literal[
    "bgr", "inverted", "own_rate", "sixteen_bit",
    "claimed_middle", "early_middle", "blank_single", "template_slip",
]  # fmt: skip
"""A known deviation of the published extraction from its description (docs/reference/extraction.md)."""


class FeatureSetLayout(Fields):
    """The names in the published folder of a feature set with one vector per sample and modality.

    Such a feature set does not follow ``OfficialLayout``, except for the folder of the dataset.
    """

    lists: str = Field(description="folder of the lists, below `class-split/`")
    names_file: str = Field(description="table of class names, in `class-split/`")
    name_column: str = Field("manual", description="its column with the names of the class embeddings")
    folder: str = Field(description="folder of the class files, below `features/`")
    text_files: dict[Literal["audio", "video"], str] = Field(
        description="modality -> file of its part of the class embeddings, in `text/` of that folder"
    )
    cache: str = Field(description="folder of the published loader's caches, below the dataset's folder")
    cache_files: dict[str, tuple[str, ...]] = Field(
        description="file of the caches -> splits whose samples it holds"
    )

    @field_validator("cache_files")
    @classmethod
    def _of_splits(cls, files: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        held = [split for splits in files.values() for split in splits]
        wanted = [split for split in SPLITS_OF_LISTS if split != "stage_2_train"]
        if sorted(held) != sorted(wanted):
            raise ValueError(f"each of {', '.join(wanted)} must be in one file")
        return files


class FeatureSetConfig(Fields):
    """The config of a feature set, with the counts of its published lists."""

    description: str = Field(description="what the features are")
    audio: ModalityConfig = Field(description="the audio features")
    video: ModalityConfig = Field(description="the video features")
    text_dim: int = Field(gt=0, description="numbers per class embedding")
    text_parts: dict[Literal["audio", "video"], Annotated[int, Field(gt=0)]] = Field(
        default_factory=dict,
        description="parts of a class embedding that are in the space of a modality's features, with their "
        "sizes, in their order; empty if there are none, as with word2vec",
    )
    unit_length: bool = Field(
        False,
        description="whether time steps and parts of class embeddings are vectors of length 1; "
        "`data verify` and `data audit` check it",
    )
    classes: dict[Split, int] = Field(default_factory=dict, description="expected classes per split")
    samples: dict[Split, int] = Field(default_factory=dict, description="expected samples per split")
    published_quirks: tuple[Quirk, ...] = Field(
        (), description="what `extract --published-preprocessing` repeats"
    )
    layout: FeatureSetLayout | None = Field(
        None, description="names in its published folder; null: those of the dataset's official layout"
    )
    contamination: str = Field(
        "",
        description="which unseen classes the networks may have seen in their training, in one sentence; "
        "empty: nothing is known. Such results are no equals of those on other feature sets",
    )
    licence: str = Field("", description="licence of the networks and features, shown by `data info`")

    @model_validator(mode="after")
    def _text_parts_fit(self) -> Self:
        if self.text_parts and sum(self.text_parts.values()) != self.text_dim:
            raise ValueError(f"text_parts must add up to text_dim, {self.text_dim}")
        for modality, config in (("audio", self.audio), ("video", self.video)):
            if self.text_parts and self.text_parts.get(modality) != config.dim:  # type: ignore[call-overload]
                raise ValueError(f"text_parts.{modality} must be {modality}.dim, {config.dim}")
        if self.layout is not None and set(self.layout.text_files) != set(self.text_parts):
            raise ValueError("layout.text_files must name a file for each of text_parts")
        return self


class OfficialLayout(Fields):
    """The names of files in the published folder."""

    folder: str = Field(description="folder of the dataset")
    names_file: str = Field(description="table of original and manual class names")
    text_file: str = Field(description="class embeddings by manual name")


class Preset(Fields):
    """Settings that replace defaults under a name such as ``demo``. All are visible in the results."""

    train: dict[str, Any] = Field(default_factory=dict, description="training settings of the preset")
    trials: int = Field(0, ge=0, description="tuning trials per method; 0: no tuning")
    tuned: list[str] | None = Field(None, description="methods that are tuned; None: all")
    searched: list[str] | None = Field(
        None, description="settings to search; None, or none that a method has: all of its search space"
    )
    seeds: int = Field(1, ge=1, description="number of seeds")
    omitted: dict[str, str] = Field(
        default_factory=dict, description="methods that `--methods all` leaves out, each with the reason"
    )


class Card(Fields):
    """A dataset config: names, feature sets, origin, how to get the dataset, settings for it."""

    name: Name = Field(description="name on the command line and of the feature file")
    title: str = Field(description="name in tables")
    kind: Literal["published", "real", "generated"] = Field(
        description="generated: synthetic data, which captions mention"
    )
    description: str = Field(description="what the dataset is")
    caption: str = Field("", description="note on the dataset in captions of tables")
    published_order: bool = Field(
        False, description="whether there is an official text alignment, which mode paper uses"
    )
    default_mode: Literal["paper", "corrected"] = Field(
        "paper", description="mode of a run that names none; paper only makes sense for published numbers"
    )
    default_features: str = Field(description="feature set of runs that name none")
    features: dict[Name, FeatureSetConfig] = Field(description="feature sets by name")
    official: OfficialLayout | None = Field(
        None, description="names in the official layout; null: the dataset cannot be imported"
    )
    grouping: str | None = Field(
        None, description="regular expression; its first group in a sample id names the group"
    )
    overlap_seconds: float | None = Field(
        None, gt=0, description="length of a clip, if the second group of `grouping` is its start in seconds"
    )
    obtain: str = Field("", description="how to get the features, shown when they are missing")
    licence: str = Field("", description="licence of the data, shown by `data info`")
    builder: Literal["stamps", "synthetic"] | None = Field(
        None, description="builds the features at first use, without a download"
    )
    builder_options: dict[str, Any] = Field(default_factory=dict, description="options of the builder")
    sizes: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="method settings for this dataset"
    )
    search: dict[str, dict[str, dict[str, Any] | None]] = Field(
        default_factory=dict,
        description="method -> setting -> search range for this dataset; null: not searched",
    )
    train: dict[str, Any] = Field(default_factory=dict, description="training settings for this dataset")
    presets: dict[Name, Preset] = Field(
        default_factory=dict, description="other names, each with its own settings"
    )

    @model_validator(mode="before")
    @classmethod
    def _current(cls, written: Any) -> Any:
        """Read ``aliases``, as ``presets`` was called in version 0.1."""
        if not isinstance(written, dict) or "aliases" not in written:
            return written
        if "presets" in written:
            raise ValueError(
                "aliases is the earlier name of presets: move what it holds to presets and remove it"
            )
        return {"presets" if name == "aliases" else name: value for name, value in written.items()}

    @model_validator(mode="after")
    def _has_its_default_features(self) -> Self:
        if self.default_features not in self.features:
            name = self.default_features
            raise ValueError(f"default_features: no feature set {name!r}: {near(name, self.features)}")
        return self

    @field_validator("grouping")
    @classmethod
    def _grouping_is_a_rule(cls, grouping: str | None) -> str | None:
        try:
            groups = re.compile(grouping or "").groups
        except re.error as error:
            raise ValueError(
                f"is no regular expression: {error}; write a backslash before a sign that is meant"
            ) from None
        if grouping is not None and groups < 1:
            raise ValueError(
                "needs a group in parentheses: what the clips of one source video have in common"
            )
        return grouping

    @model_validator(mode="after")
    def _grouping_has_the_groups_that_are_read(self) -> Self:
        if self.overlap_seconds is not None and re.compile(self.grouping or "").groups < 2:
            raise ValueError(
                "overlap_seconds needs a second group in grouping: the start of a clip in seconds"
            )
        return self

    def feature_set(self, features: str | None) -> tuple[str, FeatureSetConfig]:
        """The named feature set, or the default one.

        Raises:
            UsageError: there is no such feature set; the known ones are listed.
        """
        name = features or self.default_features
        if name not in self.features:
            raise UsageError(
                f"dataset {self.name!r} has no feature set {name!r}: {near(name, self.features)}"
            )
        return name, self.features[name]


@dataclass(frozen=True)
class BrokenCard:
    """A file of ``datasets/`` that cannot be used."""

    path: Path
    reason: str
    """Names the file; a line for each error."""
    names: Sequence[str]
    """Names that refer to it: that in the file, that of the file, then its presets."""


class Cards(dict[str, Card]):
    """Dataset configs by name, and the files that cannot be used."""

    def __init__(self, cards: Mapping[str, Card], broken: Sequence[BrokenCard] = ()) -> None:
        super().__init__(cards)
        self.broken = broken


def users_folder() -> Path:
    """The folder of the user's dataset configs, which need not exist: ``datasets/`` in the working folder.

    In a checkout that is the project's; there it is ``datasets/own/``, which git ignores.
    """
    return Path("datasets", "own") if is_of_checkout(Path("datasets")) else Path("datasets")


def _place_of(path: Path) -> Path:
    """The absolute path, links followed; of a link that leads nowhere, its own."""
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):  # missing, unreadable, or a circle of links
        return path.absolute()


def load_cards(folder: Path = CARDS_DIR, files: Sequence[Path] = ()) -> Cards:
    """Read the dataset configs of a folder, of the user's folder, and some files, by name.

    A file that cannot be read, is not YAML, or has unknown or wrong fields, does not stop the others. Of two
    configs with one name, the one in ``folder`` counts, then the one whose file has that name.

    Args:
        files: dataset configs that must be usable.

    Raises:
        UsageError: one of ``files`` cannot be used.
    """
    shipped_ones, explicit = files_in(folder, *YAML_SUFFIXES), [_place_of(path) for path in files]
    found: dict[str, dict[Path, Card]] = {}
    broken, users = list[BrokenCard](), users_folder()
    try:
        users_ones = [_place_of(path) for path in files_in(users, *YAML_SUFFIXES)]
    except OSError as error:
        users_ones, name = [], f"{users.name}/"
        broken.append(BrokenCard(users, f"{users}: cannot be read ({error.strerror})", [name]))
    for path in dict.fromkeys([*shipped_ones, *users_ones, *explicit]):
        names = [path.stem]
        try:
            refuse_special(path)
            written = read_fields(path)
            presets = [*_texts(written.get("presets")), *_texts(written.get("aliases"))]
            names = [*_texts([written.get("name")]), *names, *presets]
            card = Card.model_validate(written)
        except UsageError as error:
            broken.append(BrokenCard(path, str(error), names))
        except ValidationError as error:
            broken.append(BrokenCard(path, validation_message(error, str(path)), names))
        else:
            found.setdefault(card.name, {})[path] = card
    cards = {}
    for name, owners in found.items():
        chosen = [path for path in owners if path in shipped_ones] or list(owners)
        chosen = [path for path in chosen if path.stem == name] if len(chosen) > 1 else chosen
        if len(chosen) == 1:
            cards[name] = owners[chosen[0]]
        for path in owners.keys() - set(chosen if len(chosen) == 1 else []):
            others = ", ".join(other.name for other in sorted(owners) if other != path)
            broken.append(
                BrokenCard(path, f"{path}: the name {name!r} is taken by {others}; choose another", [name])
            )
    if unusable := [each.reason for each in broken if each.path in explicit]:
        raise UsageError("\n".join(f"--dataset-config {reason}" for reason in unusable))
    return Cards(cards, sorted(broken, key=lambda b: b.path))


def _texts(values: Any) -> list[str]:
    listed = values if isinstance(values, (list, dict)) else ()
    return [value for value in listed if isinstance(value, str)]


def find_card(name: str, cards: Mapping[str, Card]) -> tuple[Card, Preset]:
    """The dataset config of a name or preset, and the preset (an empty one for a dataset's name).

    Raises:
        UsageError: no config has the name (similar names are given), its file cannot be used, or two configs
            have the preset.
    """
    if name in cards:
        return cards[name], Preset()
    owners = [card for card in cards.values() if name in card.presets]
    if len(owners) > 1:
        raise UsageError(
            f"{name!r} is a preset of {' and of '.join(card.name for card in owners)}; rename one of them"
        )
    if owners:
        return owners[0], owners[0].presets[name]
    broken = cards.broken if isinstance(cards, Cards) else ()
    for each in broken:
        if name in each.names:
            raise UsageError(f"dataset {name!r} cannot be used: {each.reason}")
    known = [*cards, *(preset for card in cards.values() for preset in card.presets)]
    unread = "".join(f"\nnot read: {each.reason}" for each in broken)
    raise UsageError(f"unknown dataset {name!r}: {near(name, known)}{unread}")
