"""Reads and checks the published numbers in ``reports/published/``. All of them are in percent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from benchmark.errors import UsageError, validation_message
from benchmark.report.results.released import RELEASED
from benchmark.system.reading import YAML_SUFFIXES, Fields, files_in, read_documents
from benchmark.system.shipped_files import shipped
from benchmark.tracking.schema import current_alignment

log = logging.getLogger(__name__)
PUBLISHED_DIR = shipped("reports", "published")
ROUNDING = 0.02
"""Largest difference between a printed HM and the HM of the printed S and U, since papers round all three."""

Origin = Literal["paper", "readme", "second-hand", "user-report"]
PREFERENCE: tuple[Origin, ...] = ("paper", "readme", "second-hand")
"""Origins that count as published, best first. User reports are in notes and in the table of references
only."""
ORIGINS: tuple[Origin, ...] = (*PREFERENCE, "user-report")

Flag = Literal[
    "second_hand",
    "selected_on_test",
    "transductive",
    "no_public_code",
    "pretraining_may_contain_test_classes",
]
"""What limits the meaning of a published number; tables show it as a mark."""
DERIVED: Flag = "second_hand"
"""The flag that follows from the origin, so that files do not list it."""
FLAGS: tuple[Flag, ...] = get_args(Flag)
UNRANKED: tuple[Flag, ...] = ("selected_on_test", "transductive")
"""Flags of numbers that are never the best among numbers without them."""
UNKNOWN = "unknown"
"""Mode or alignment that a source does not name; such numbers are comparable with no row."""


def _known_flag(value: Any) -> Any:
    if value == DERIVED:
        raise ValueError(f"{DERIVED} is not written here; it follows from `origin: second-hand`")
    if value not in FLAGS:
        known = ", ".join(flag for flag in FLAGS if flag != DERIVED)
        raise ValueError(f"unknown flag; known are {known}")
    return value


GivenFlag = Annotated[Flag, BeforeValidator(_known_flag)]


class Numbers(Fields):
    """Results of a method on a dataset, in percent; None if the source does not report it."""

    seen: float | None = Field(None, ge=0, le=100, description="S, percent")
    unseen: float | None = Field(None, ge=0, le=100, description="U, percent")
    hm: float | None = Field(None, ge=0, le=100, description="HM, percent")
    zsl: float | None = Field(None, ge=0, le=100, description="ZSL, percent")
    as_printed: bool = Field(False, description="true: in the source too, hm does not fit seen and unseen")

    @model_validator(mode="after")
    def _consistent(self) -> Numbers:
        if self.seen is not None and self.unseen is not None and self.hm is not None:
            expected = (
                2 * self.seen * self.unseen / (self.seen + self.unseen) if self.seen + self.unseen else 0.0
            )
            if abs(expected - self.hm) > ROUNDING and not self.as_printed:
                raise ValueError(
                    f"hm {self.hm} is not the harmonic mean of seen and unseen ({expected:.2f}): a typing "
                    "error? If the source has these numbers, add as_printed: true"
                )
        if all(value is None for value in (self.seen, self.unseen, self.hm, self.zsl)):
            raise ValueError("no number given")
        return self


class MethodFacts(Fields):
    """What a source or the files as a whole state about a method."""

    title: str = Field("", description="its name in tables; one file suffices for all")
    flags: tuple[GivenFlag, ...] = Field((), description="flags of its numbers in this table")


class PublishedTable(Fields):
    """One table of a paper or another source, with the protocol and features of its numbers."""

    paper: str = Field(description="authors, title and venue, or what the source is")
    short: str = Field(description="the source as a caption names it")
    table: str = Field(description="where in the source")
    page: int | None = Field(None, ge=1, description="page in the source")
    year: int | None = Field(None, ge=1990, description="of the source; null if unknown")
    url: str | None = Field(None, description="address of the source")
    origin: Origin = Field(description="who prints the numbers; second-hand: who did not measure them")
    features: str = Field(description="feature set of the dataset config")
    alignment: Annotated[Literal["official", "by_name", "unknown"], BeforeValidator(current_alignment)] = (
        Field(description="class-to-embedding assignment")
    )
    mode: Literal["paper", "corrected", "unknown"] = Field(description="protocol of the numbers")
    seeds: int | None = Field(ge=1, description="null if the source does not name them")
    flags: tuple[GivenFlag, ...] = Field((), description="flags of all numbers of the table")
    methods: dict[str, MethodFacts] = Field(default_factory=dict, description="titles and flags of methods")
    datasets: dict[str, str] = Field(default_factory=dict, description="titles of datasets")
    results: dict[str, dict[str, Numbers]] = Field(description="dataset -> method -> numbers")


@dataclass(frozen=True)
class Published:
    """Numbers of a method on a dataset, and the table that lists them."""

    numbers: Numbers
    source: PublishedTable
    method: str

    @property
    def second_hand(self) -> bool:
        """Whether somebody quotes the numbers who did not measure them."""
        return self.source.origin == "second-hand"

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Its flags, those of its table and the derived one, in the order of ``FLAGS``."""
        facts = self.source.methods.get(self.method)
        given = {*self.source.flags, *(facts.flags if facts else ())}
        given |= {DERIVED} if self.second_hand else set()
        return tuple(flag for flag in FLAGS if flag in given)

    @property
    def ranked(self) -> bool:
        """Whether it may be the best of published numbers."""
        return self.source.origin != "user-report" and not set(UNRANKED) & set(self.flags)


def load_published() -> tuple[PublishedTable, ...]:
    """All tables in ``PUBLISHED_DIR``; a file may hold several YAML documents.

    Files with errors are omitted: ``published_problems`` lists the errors.
    """
    return _read_published(PUBLISHED_DIR)[0]


def published_problems() -> tuple[str, ...]:
    """All errors of the files that ``load_published`` omits."""
    return _read_published(PUBLISHED_DIR)[1]


@cache
def _read_published(folder: Path) -> tuple[tuple[PublishedTable, ...], tuple[str, ...]]:
    tables: list[PublishedTable] = []
    problems: list[str] = []
    for path in files_in(folder, *YAML_SUFFIXES):
        found: list[PublishedTable] = []
        wrong: list[str] = []
        try:
            for document in read_documents(path):
                try:
                    found.append(PublishedTable.model_validate(document))
                except ValidationError as error:
                    wrong += validation_message(error, str(path)).splitlines()
        except UsageError as error:
            wrong.append(str(error))
        tables += found if not wrong else []
        problems += wrong
    for problem in problems:
        log.warning("published numbers omitted: %s", problem)
    return tuple(tables), tuple(problems)


def published_for(dataset: str, features: str, method: str) -> Published | None:
    """The published numbers of a method, preferably from a paper; None if there are none."""
    found = _matching(dataset, features, method, PREFERENCE)
    return min(found, key=lambda p: PREFERENCE.index(p.source.origin)) if found else None


def differences(row: Mapping[Any, Any], published: Published) -> list[str]:
    """How a row of a summary differs from a published number of the same dataset, features and method.

    The two are comparable only if nothing differs: mode, class-to-embedding assignment and protocol switches,
    real data, the published settings, and selection on validation. Released weights have the settings of
    their run folder. These count as the published ones only if their evaluation recorded it.
    """
    source = published.source
    found = [f"mode {row['mode']}"] if row["mode"] != source.mode else []
    found += [assignment_text(row["alignment"])] if row["alignment"] != source.alignment else []
    found += ["selection on validation data"] if "selected_on_test" in published.flags else []
    found += [row["switches"]] if row["switches"] else []
    found += ["synthetic data"] if row["kind"] == "generated" else []
    settings = "settings of the run folder" if row["variant"] == RELEASED else f"{row['variant']} settings"
    return found + ([] if row["as_published"] else [settings])


def assignment_text(alignment: str) -> str:
    """``class-to-embedding assignment official``."""
    return f"class-to-embedding assignment {alignment}"


def user_reports_for(dataset: str, features: str, method: str) -> list[Published]:
    """Results that users report after training a published method themselves."""
    return _matching(dataset, features, method, ("user-report",))


def all_numbers_for(dataset: str, features: str, method: str) -> list[Published]:
    """All numbers of a method of any origin, papers first, user reports last."""
    found = _matching(dataset, features, method, ORIGINS)
    return sorted(found, key=lambda p: ORIGINS.index(p.source.origin))


def method_order() -> list[str]:
    """Methods in the order of the published tables; the longest table comes first."""
    lists = [list(methods) for table in load_published() for methods in table.results.values()]
    return list(dict.fromkeys(name for names in sorted(lists, key=len, reverse=True) for name in names))


def every_published() -> list[tuple[str, Published]]:
    """All numbers of all tables, each with its dataset, in the order of the files."""
    return [
        (dataset, Published(numbers, table, method))
        for table in load_published()
        for dataset, methods in table.results.items()
        for method, numbers in methods.items()
    ]


def published_titles() -> tuple[dict[str, str], dict[str, str]]:
    """The titles of methods and of datasets that the files give, by name; the first file counts."""
    methods: dict[str, str] = {}
    datasets: dict[str, str] = {}
    for table in load_published():
        for name, facts in table.methods.items():
            if facts.title:
                methods.setdefault(name, facts.title)
        for name, title in table.datasets.items():
            datasets.setdefault(name, title)
    return methods, datasets


def flagged_features(features: str, flag: Flag) -> bool:
    """Whether a table of a feature set has a flag, which then is one of the features themselves."""
    return any(table.features == features and flag in table.flags for table in load_published())


def _matching(dataset: str, features: str, method: str, origins: Sequence[Origin]) -> list[Published]:
    return [
        Published(table.results[dataset][method], table, method)
        for table in load_published()
        if table.features == features and table.origin in origins and method in table.results.get(dataset, {})
    ]
