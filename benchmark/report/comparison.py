"""Groups finished jobs into comparisons: what one set of figures shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from benchmark.report.results.collect import UNIT, Results, distinct, slot_of, synthetic
from benchmark.report.results.released import RELEASED
from benchmark.report.tables.captions import dataset_title, method_title
from benchmark.report.tables.means import method_ranks
from benchmark.report.tables.table import short_assignment

COMPARED_IN = [*UNIT[:-1], "slot"]
"""Dataset, features, mode, alignment, and kind of hyperparameters."""


@dataclass(frozen=True)
class Series:
    """The finished jobs of a method with the same settings: one curve, bar or panel."""

    method: str
    settings: str
    """What distinguishes several series of a method; empty if there is only one."""
    title: str
    style: int
    """Number of the method; the same number always gets the same colour and marker."""
    jobs: pd.DataFrame
    """Rows of ``Results.test`` or ``Results.validation``, one per seed, by repetition."""


@dataclass(frozen=True)
class Comparison:
    """Methods that figures compare: all with the same dataset, features, mode, alignment and kind of
    hyperparameters."""

    dataset: str
    features: str
    mode: str
    alignment: str
    slot: str
    title: str
    """``Stamps, features native, mode paper, by_name assignment, default settings``."""
    series: Sequence[Series]
    """In the order of tables."""
    jobs: pd.DataFrame
    """The rows of all series."""

    @property
    def keys(self) -> dict[str, str]:
        """Values by which readers select figures."""
        return {name: getattr(self, name) for name in UNIT[:-1]}

    def stem(self, kind: str) -> str:
        """Name of a figure's files without suffix."""
        names = (kind, self.dataset, self.features, self.mode, self.alignment, self.slot)
        return re.sub(r"[^\w.+-]", "-", "-".join(names))


def comparisons_of(results: Results, frame: pd.DataFrame) -> list[Comparison]:
    """The comparisons of a frame. Controls have rows in tables and no figures.

    Args:
        frame: ``Results.test`` or ``Results.validation``.
    """
    done = frame[(frame["state"] == "done") & ~frame["method"].isin(results.controls)]
    slots = done.assign(slot=done["variant"].map(slot_of))
    return [
        _comparison(results, tuple(map(str, key)), group)
        for key, group in slots.groupby(COMPARED_IN, sort=False)
    ]


def _comparison(results: Results, key: tuple[str, ...], group: pd.DataFrame) -> Comparison:
    dataset, features, mode, alignment, slot = key
    ranks, series = method_ranks(results), []
    for (method, settings), jobs in group.groupby(["method", "settings"]):
        name = f"{method_title(results, str(method))} {settings}".strip()
        series.append(
            Series(str(method), str(settings), name, ranks[str(method)], jobs.sort_values("repetition"))
        )
    series.sort(key=lambda s: s.style)
    trained = "released weights" if slot == RELEASED else f"{' / '.join(distinct(group['variant']))} settings"
    data = f"{dataset_title(results, dataset)}, features {features}{synthetic(group)}"
    place = f"{data}, mode {mode}, {short_assignment(alignment)}"
    return Comparison(dataset, features, mode, alignment, slot, f"{place}, {trained}", series, group)
