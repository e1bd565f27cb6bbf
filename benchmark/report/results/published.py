"""Reads and checks the published numbers in ``reports/published/``. All of them are in percent."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

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


class Numbers(Fields):
    """Results of a method on a dataset, in percent; None if the source does not report it."""

    seen: float | None = Field(None, ge=0, le=100)
    unseen: float | None = Field(None, ge=0, le=100)
    hm: float | None = Field(None, ge=0, le=100)
    zsl: float | None = Field(None, ge=0, le=100)

    @model_validator(mode="after")
    def _consistent(self) -> Numbers:
        if self.seen is not None and self.unseen is not None and self.hm is not None:
            expected = (
                2 * self.seen * self.unseen / (self.seen + self.unseen) if self.seen + self.unseen else 0.0
            )
            if abs(expected - self.hm) > ROUNDING:
                raise ValueError(
                    f"hm {self.hm} is not the harmonic mean of seen and unseen ({expected:.2f}): a typing "
                    "error?"
                )
        if all(value is None for value in (self.seen, self.unseen, self.hm, self.zsl)):
            raise ValueError("no number given")
        return self


class PublishedTable(Fields):
    """One table of a paper or another source, with the protocol and features of its numbers."""

    paper: str
    short: str = Field(description="as a caption names it")
    table: str
    page: int | None = Field(None, ge=1)
    url: str | None = None
    origin: Origin
    features: str
    alignment: Annotated[Literal["official", "by_name"], BeforeValidator(current_alignment)]
    mode: Literal["paper", "corrected"]
    seeds: int = Field(ge=1)
    results: dict[str, dict[str, Numbers]] = Field(description="dataset -> method -> numbers")


@dataclass(frozen=True)
class Published:
    """Numbers of a method on a dataset, and the table that lists them."""

    numbers: Numbers
    source: PublishedTable

    @property
    def second_hand(self) -> bool:
        """Whether the numbers are not from the method's authors."""
        return self.source.origin == "second-hand"


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


def differences(row: Mapping[Any, Any], source: PublishedTable) -> list[str]:
    """How a row of a summary differs from a published table of the same dataset and features.

    The two are comparable only if nothing differs: mode, text alignment and protocol switches, real data, and
    the published settings. Released weights have the settings of their run folder. These count as the
    published ones only if their evaluation recorded it.
    """
    found = [f"mode {row['mode']}"] if row["mode"] != source.mode else []
    found += [f"text alignment {row['alignment']}"] if row["alignment"] != source.alignment else []
    found += [row["switches"]] if row["switches"] else []
    found += ["synthetic data"] if row["kind"] == "generated" else []
    settings = "settings of the run folder" if row["variant"] == RELEASED else f"{row['variant']} settings"
    return found + ([] if row["as_published"] else [settings])


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


def _matching(dataset: str, features: str, method: str, origins: Sequence[Origin]) -> list[Published]:
    return [
        Published(table.results[dataset][method], table)
        for table in load_published()
        if table.features == features and table.origin in origins and method in table.results.get(dataset, {})
    ]
