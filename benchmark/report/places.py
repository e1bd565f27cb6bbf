"""Finished jobs by what figures compare: one set of figures for each data set, features, mode, alignment, kind of settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from benchmark.report.results.collect import UNIT, Results, distinct, slot_of
from benchmark.report.results.released import RELEASED
from benchmark.report.tables.captions import dataset_title, method_title
from benchmark.report.tables.means import method_ranks

PLACE = [*UNIT[:-1], "slot"]


@dataclass(frozen=True)
class Series:
    """The finished jobs of a method with the same settings: what a curve, a bar or a panel shows."""

    method: str
    settings: str
    """What tells several of a method apart; empty where there is one."""
    title: str
    style: int
    """Number of the method; the same number always gets the same colour and marker."""
    jobs: pd.DataFrame
    """Rows of ``Results.test`` or ``Results.validation``, a seed each, in the order of repetitions."""


@dataclass(frozen=True)
class Place:
    """What methods are compared in."""

    dataset: str
    features: str
    mode: str
    alignment: str
    slot: str
    title: str
    """``Stamps (native), mode paper, by_name text, default settings``."""
    series: Sequence[Series]

    @property
    def keys(self) -> dict[str, str]:
        """What a figure of it is about, by which readers choose figures."""
        return {"dataset": self.dataset, "features": self.features, "mode": self.mode, "alignment": self.alignment}

    def stem(self, kind: str) -> str:
        """Name of a figure's files without the ending."""
        parts = (kind, self.dataset, self.features, self.mode, self.alignment, self.slot)
        return re.sub(r"[^\w.+-]", "-", "-".join(parts))


def places_of(results: Results, frame: pd.DataFrame) -> list[Place]:
    """The places of a frame with their methods in the order of tables.

    Args:
        frame: ``Results.test`` or ``Results.validation``.
    """
    done = frame[frame["state"] == "done"]
    slots = done.assign(slot=done["variant"].map(slot_of))
    return [_place(results, tuple(map(str, key)), group) for key, group in slots.groupby(PLACE, sort=False)]


def _place(results: Results, key: tuple[str, ...], group: pd.DataFrame) -> Place:
    dataset, features, mode, alignment, slot = key
    ranks, series = method_ranks(results), []
    for (method, settings), jobs in group.groupby(["method", "settings"]):
        name = " ".join([method_title(results, str(method)), *([str(settings)] if settings else [])])
        series.append(Series(str(method), str(settings), name, ranks[str(method)], jobs.sort_values("repetition")))
    series.sort(key=lambda s: s.style)
    generated = ", generated data" if "generated" in set(group["kind"]) else ""
    trained = "released weights" if slot == RELEASED else f"{' / '.join(distinct(group['variant']))} settings"
    title = f"{dataset_title(results, dataset)} ({features}{generated}), mode {mode}, {alignment} text, {trained}"
    return Place(dataset, features, mode, alignment, slot, title, series)
