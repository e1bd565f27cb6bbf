"""Published numbers: the files of ``reports/published/``, read and checked. All of them are percent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from benchmark.errors import UsageError
from benchmark.report.results.released import RELEASED
from benchmark.system.reading import YAML_SUFFIXES, Fields, files_in, read_documents
from benchmark.system.shipped_files import shipped
from benchmark.tracking.schema import current_alignment

log = logging.getLogger(__name__)
PUBLISHED_DIR = shipped("reports", "published")
ROUNDING = 0.02
"""Largest distance of a printed HM from the HM of the printed S and U: papers round each by itself."""

Origin = Literal["paper", "readme", "second-hand", "user-report"]
PREFERENCE: tuple[Origin, ...] = ("paper", "readme", "second-hand")
"""Origins that count as published, the best first. What users report stands in notes and in the table of references."""
ORIGINS: tuple[Origin, ...] = (*PREFERENCE, "user-report")


class Numbers(Fields):
    """Results of a method on a data set, percent; None where the source does not give it."""

    seen: float | None = Field(None, ge=0, le=100)
    unseen: float | None = Field(None, ge=0, le=100)
    hm: float | None = Field(None, ge=0, le=100)
    zsl: float | None = Field(None, ge=0, le=100)

    @model_validator(mode="after")
    def _consistent(self) -> Numbers:
        if self.seen is not None and self.unseen is not None and self.hm is not None:
            expected = 2 * self.seen * self.unseen / (self.seen + self.unseen) if self.seen + self.unseen else 0.0
            if abs(expected - self.hm) > ROUNDING:
                raise ValueError(f"hm {self.hm} is not the harmonic mean of seen and unseen ({expected:.2f}): a typing error?")
        if all(value is None for value in (self.seen, self.unseen, self.hm, self.zsl)):
            raise ValueError("no number given")
        return self


class PublishedTable(Fields):
    """One table of a paper (or of another source), with what its numbers were measured on."""

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
    results: dict[str, dict[str, Numbers]] = Field(description="data set -> method -> numbers")


@dataclass(frozen=True)
class Published:
    """Numbers of a method on a data set and the table that they stand in."""

    numbers: Numbers
    source: PublishedTable

    @property
    def second_hand(self) -> bool:
        """Whether the numbers are not from the method's authors."""
        return self.source.origin == "second-hand"


def load_published(folder: Path = PUBLISHED_DIR) -> tuple[PublishedTable, ...]:
    """All published tables of a folder; a file may hold several YAML documents.

    A file with an error does not stop the others: ``published_problems`` has it.
    """
    return _read_published(folder)[0]


def published_problems(folder: Path = PUBLISHED_DIR) -> tuple[str, ...]:
    """What is wrong with the files whose numbers ``load_published`` leaves out, all errors of each."""
    return _read_published(folder)[1]


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
                    wrong += _problems(error, path)
        except UsageError as error:
            wrong.append(str(error))
        tables += found if not wrong else []
        problems += wrong
    for problem in problems:
        log.warning("published numbers left out: %s", problem)
    return tuple(tables), tuple(problems)


def _problems(error: ValidationError, path: Path) -> Iterable[str]:
    for e in error.errors():
        place: Sequence[Any] = e["loc"]
        yield f"{path}: {'.'.join(map(str, place)) or '(file)'}: {e['msg']} (got {str(e['input'])[:80]!r})"


def published_for(dataset: str, features: str, method: str, tables: Sequence[PublishedTable] | None = None) -> Published | None:
    """The published numbers of a method, those of a paper before any other origin; None where there are none."""
    found = _matching(dataset, features, method, PREFERENCE, tables)
    return min(found, key=lambda p: PREFERENCE.index(p.source.origin)) if found else None


def differences(row: Mapping[Any, Any], source: PublishedTable) -> list[str]:
    """What a row of a summary has otherwise than a published table of the same data set and features.

    Only where nothing differs can the two be compared: same mode and text alignment, no switch set against the mode, the real
    data, and the published settings. Released weights have those of their run folder, which count as the published ones only
    where their test says so.
    """
    found = [f"mode {row['mode']}"] if row["mode"] != source.mode else []
    found += [f"text alignment {row['alignment']}"] if row["alignment"] != source.alignment else []
    found += [row["switches"]] if row["switches"] else []
    found += ["generated data"] if row["kind"] == "generated" else []
    settings = "settings of the run folder" if row["variant"] == RELEASED else f"{row['variant']} settings"
    return found + ([] if row["as_published"] else [settings])


def user_reports_for(
    dataset: str, features: str, method: str, tables: Sequence[PublishedTable] | None = None
) -> list[Published]:
    """What users report of their own training of a published method."""
    return _matching(dataset, features, method, ("user-report",), tables)


def all_numbers_for(
    dataset: str, features: str, method: str, tables: Sequence[PublishedTable] | None = None
) -> list[Published]:
    """All numbers of a method whatever their origin, papers first, users' reports last."""
    found = _matching(dataset, features, method, ORIGINS, tables)
    return sorted(found, key=lambda p: ORIGINS.index(p.source.origin))


def method_order(tables: Sequence[PublishedTable] | None = None) -> list[str]:
    """Methods in the order in which published tables list them; the longest table leads."""
    lists = [list(r) for t in (load_published() if tables is None else tables) for r in t.results.values()]
    return list(dict.fromkeys(name for names in sorted(lists, key=len, reverse=True) for name in names))


def method_number(method: str) -> int:
    """Number of a method in figures of its own runs: its place in published tables, behind all of these where it has none."""
    order = method_order()
    return order.index(method) if method in order else len(order)


def _matching(
    dataset: str, features: str, method: str, origins: Sequence[Origin], tables: Sequence[PublishedTable] | None
) -> list[Published]:
    return [
        Published(table.results[dataset][method], table)
        for table in (load_published() if tables is None else tables)
        if table.features == features and table.origin in origins and method in table.results.get(dataset, {})
    ]
