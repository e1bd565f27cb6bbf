"""Draws hyperparameter searches: trials of one, best values so far of several, importances. Figures are in
percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmark.figures.style import (
    COLOURS,
    GREY,
    Figure,
    MaxNLocator,
    colour_of,
    dash_of,
    empty_figure,
    marker_of,
    plain,
    single_panel,
)

HM_AXIS = "Validation HM (%)"
TRIAL_AXIS = "Trial"
FINISHED_AXIS = "Finished trials, including pruned ones"
TIME_AXIS = "Training and validation time of the trials"
IMPORTANCE_AXIS = "Importance (% of the variance that each hyperparameter explains alone)"
SETTING_AXIS = "Hyperparameter"
PANELS_A_ROW = 3


@dataclass(frozen=True)
class SearchCurve:
    """The search of a method."""

    title: str
    points: pd.DataFrame
    """Result of ``best_so_far``."""
    style: int
    """Number of the method; the same number always gets the same colour and marker."""


@dataclass(frozen=True)
class Panel:
    """The importances of a method."""

    title: str
    values: Mapping[str, float]
    """Hyperparameter -> fraction."""
    style: int = 0


def best_so_far(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with the cost and the best result of the study so far.

    Returns:
        The columns of ``trials``; ``finished``: finished trials so far, including pruned ones;
        ``seconds_so_far`` of all trials; ``best_so_far``: the highest validation HM of a finished trial, a
        fraction, missing before the first.
    """
    values = trials["value"].where(trials["state"] == "complete").astype(float)
    return trials.assign(
        finished=(trials["state"] != "failed").cumsum(),
        seconds_so_far=trials["seconds"].cumsum(),
        best_so_far=values.cummax().ffill(),
    )


def history_figure(trials: pd.DataFrame, title: str) -> Figure:
    """Draw the trials of one study: validation HM of each and the best so far, with pruned and failed trials
    marked.

    Args:
        trials: columns ``number``, ``state``, ``start``, ``value`` (highest validation HM, fraction) and
            ``seconds``.
    """
    figure, axes = single_panel(title, 6.4, 4.0)
    hm = 100 * trials["value"].astype(float)
    complete, pruned, failed = (trials["state"] == state for state in ("complete", "pruned", "failed"))
    best = 100 * best_so_far(trials)["best_so_far"]
    number, colour = trials["number"], COLOURS[0]
    line: dict[str, Any] = {"color": colour, "linewidth": 1.8, "drawstyle": "steps-post"}
    axes.plot(number, best, label="best so far", zorder=3, **line)
    shown = complete & ~trials["start"]
    axes.plot(number[shown], hm[shown], "o", color=colour, markersize=5, label="finished", zorder=4)
    if pruned.any():
        cross: dict[str, Any] = {"color": GREY, "markersize": 6, "mew": 1.4}
        axes.plot(number[pruned], hm[pruned], "x", label="pruned: highest of its epochs", zorder=4, **cross)
    if failed.any():
        tick: dict[str, Any] = {"color": GREY, "markersize": 10, "mew": 1.6}
        bottom = [0.02] * int(failed.sum())
        axes.plot(number[failed], bottom, "|", label="failed", transform=axes.get_xaxis_transform(), **tick)
    start = trials["start"] & complete
    if start.any():
        ring: dict[str, Any] = {"markersize": 9, "mfc": "none", "mec": "black", "mew": 1.5}
        axes.plot(number[start], hm[start], "D", label="untuned settings", zorder=5, **ring)
    axes.set(xlabel=TRIAL_AXIS, ylabel=HM_AXIS)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=3)
    return figure


def searches_figure(curves: Sequence[SearchCurve], title: str) -> Figure:
    """Draw the best validation HM so far of several methods, by number of trials and by time."""
    figure = empty_figure(title, 9.0, 4.2)
    by_trials, by_seconds = figure.subplots(1, 2, sharey=True)
    unit, seconds = _time_unit(max(float(c.points["seconds_so_far"].max()) for c in curves))
    for curve in curves:
        found = curve.points.dropna(subset=["best_so_far"])
        style: dict[str, Any] = {"color": colour_of(curve.style), "linestyle": dash_of(curve.style)}
        style |= {"marker": marker_of(curve.style), "mec": "white", "mew": 0.6}
        rises = found["best_so_far"].diff().fillna(1).gt(0).to_numpy().nonzero()[0].tolist()
        for axes, along in ((by_trials, found["finished"]), (by_seconds, found["seconds_so_far"] / seconds)):
            label = curve.title if axes is by_trials else None
            axes.plot(
                along, 100 * found["best_so_far"], drawstyle="steps-post", linewidth=1.6,
                markersize=6, markevery=rises, label=label, **style,
            )  # fmt: skip
    for axes, label in ((by_trials, FINISHED_AXIS), (by_seconds, f"{TIME_AXIS} ({unit})")):
        axes.set(xlabel=label, ylabel=HM_AXIS if axes is by_trials else "")
        axes.set_xlim(left=0)
        plain(axes)
    by_trials.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right center", fontsize=9, frameon=False, handlelength=2.6)
    return figure


def importances_figure(panels: Sequence[Panel], title: str) -> Figure:
    """Draw the importances of hyperparameters, a panel per method, the most important at the top."""
    columns = min(PANELS_A_ROW, len(panels))
    rows = -(-len(panels) // columns)
    tallest = max(len(p.values) for p in panels)
    figure = empty_figure(title, max(6.4, 3.4 * columns), rows * (0.9 + 0.26 * tallest) + 0.5)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, i + 1)
        named = sorted(panel.values.items(), key=lambda item: item[1])
        percents = [100 * value for _, value in named]
        bars = axes.barh([name for name, _ in named], percents, color=colour_of(panel.style), height=0.65)
        axes.bar_label(bars, [f"{p:.0f}" for p in percents], padding=2, fontsize=7)
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 25))
        axes.set_title(panel.title, fontsize=8.5, loc="left")
        plain(axes)
    figure.supxlabel(IMPORTANCE_AXIS, fontsize=8.5)
    figure.supylabel(SETTING_AXIS, fontsize=8.5)
    return figure


def _time_unit(longest: float) -> tuple[str, float]:
    """A readable unit for a number of seconds, and its length in seconds."""
    return ("h", 3600) if longest > 7200 else ("min", 60) if longest > 300 else ("s", 1)
