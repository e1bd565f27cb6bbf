"""Draws seen-unseen curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from benchmark.figures.style import (
    COLOURS,
    FAINT,
    GREY,
    MARKERS,
    Axes,
    Figure,
    MaxNLocator,
    colour_of,
    dash_of,
    marker_of,
    single_panel,
)

UNSEEN_AXIS = "Unseen accuracy U (%)"
SEEN_AXIS = "Seen accuracy S (%)"


@dataclass(frozen=True)
class MethodCurve:
    """A method's seen-unseen curve, with the point that calibration chose."""

    title: str
    points: pd.DataFrame
    """Columns ``beta``, ``seen``, ``unseen``; accuracies are fractions."""
    chosen: tuple[float, float]
    """Unseen and seen accuracy at the calibrated beta, fractions."""
    style: int
    """Number of the method; the same number always gets the same colour and marker."""


def seen_unseen_figure(points: pd.DataFrame, chosen: tuple[float, float], beta: float, title: str) -> Figure:
    """Draw the seen-unseen curve of one model.

    Args:
        points: columns ``beta``, ``seen``, ``unseen``; accuracies are fractions.
        chosen: unseen and seen accuracy at the calibrated beta, fractions.
        beta: the calibrated beta.
        title: heading of the figure.
    """
    figure, axes = single_panel(title, 5.2, 4.4)
    seen, unseen = 100 * points["seen"].to_numpy(float), 100 * points["unseen"].to_numpy(float)
    hm = _harmonic_mean(seen, unseen)
    best = int(hm.argmax())
    u, s = 100 * chosen[0], 100 * chosen[1]
    axes.plot(unseen, seen, color=COLOURS[0], linewidth=1.8, label="all β", zorder=3)
    at = f"HM {float(_harmonic_mean(np.array([s]), np.array([u]))[0]):.2f} %"
    look: dict[str, Any] = {"color": COLOURS[0], "mec": "white", "mew": 0.8, "linestyle": "", "markersize": 9}
    axes.plot([u], [s], MARKERS[0], label=f"chosen on validation, β = {beta:.3g}: {at}", zorder=5, **look)
    label = f"oracle (upper bound), β = {float(points['beta'].iloc[best]):.3g}: HM {hm[best]:.2f} %"
    ring: dict[str, Any] = {"markersize": 9, "mfc": "none", "mec": "black", "mew": 1.4}
    axes.plot([unseen[best]], [seen[best]], "D", label=label, zorder=6, **ring)
    _frame(axes, max(unseen.max(), u), max(seen.max(), s))
    figure.legend(loc="outside lower center", fontsize=8, frameon=False, ncols=1)
    return figure


def best_of(points: pd.DataFrame) -> int:
    """Row of the point with the highest harmonic mean; the first of several."""
    return int(_harmonic_mean(points["seen"].to_numpy(float), points["unseen"].to_numpy(float)).argmax())


ENTRY = 0.39
"""Height in inches of a method's entry in the legend."""


def method_curves_figure(curves: Sequence[MethodCurve], title: str) -> Figure:
    """Draw the seen-unseen curves of several methods on one dataset.

    A filled marker is the point that calibration chose, a hollow diamond the highest harmonic mean of the
    curve.
    """
    figure, axes = single_panel(title, 7.2, max(4.4, 1.5 + ENTRY * len(curves)))
    for curve in curves:
        seen = 100 * curve.points["seen"].to_numpy(float)
        unseen = 100 * curve.points["unseen"].to_numpy(float)
        colour, dash, best = colour_of(curve.style), dash_of(curve.style), best_of(curve.points)
        chosen = (np.array([100 * curve.chosen[0]]), np.array([100 * curve.chosen[1]]))
        highest = float(_harmonic_mean(seen, unseen)[best])
        label = f"{curve.title}\nHM {_harmonic_mean(*chosen)[0]:.1f} %, oracle {highest:.1f} %"
        axes.plot(unseen, seen, color=colour, linestyle=dash, linewidth=1.6, zorder=3)
        look: dict[str, Any] = {"color": colour, "linestyle": dash, "mec": "white", "mew": 0.8}
        axes.plot(*chosen, marker=marker_of(curve.style), markersize=8, label=label, zorder=5, **look)
        axes.plot(
            [unseen[best]], [seen[best]], "D", markersize=6.5, mfc="white", mec=colour, mew=1.5, zorder=4
        )
    _frame(
        axes,
        max(100 * max(c.chosen[0], float(c.points["unseen"].max())) for c in curves),
        max(100 * max(c.chosen[1], float(c.points["seen"].max())) for c in curves),
    )
    axes.plot([], [], "o", color=GREY, markersize=8, label="chosen β (validation)")
    axes.plot([], [], "D", markersize=6.5, mfc="white", mec=GREY, mew=1.5, label="oracle β (upper bound)")
    figure.legend(loc="outside right center", fontsize=8.5, frameon=False, handlelength=2.6, labelspacing=0.8)
    return figure


def _frame(axes: Axes, unseen: float, seen: float) -> None:
    """Set axes from 0 to a little above the curves, and draw faint lines of equal harmonic mean."""
    right, top = (max(1.0, 1.06 * value) for value in (unseen, seen))
    axes.set(xlim=(0, right), ylim=(0, top), xlabel=UNSEEN_AXIS, ylabel=SEEN_AXIS)
    u, s = np.meshgrid(np.linspace(0, right, 200), np.linspace(0, top, 200))
    hm = _harmonic_mean(s, u)
    levels = [level for level in MaxNLocator(6).tick_values(0, float(hm.max())) if 0 < level < hm.max()]
    if levels:
        axes.contour(u, s, hm, levels=levels, colors=FAINT, linewidths=0.7, zorder=1)
    for level in levels:  # at the right end of the line, away from the curves
        at = level * right / (2 * right - level)
        look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "color": GREY}
        axes.annotate(f"HM {level:g}", (right, at), (2, 0), fontsize=6.5, **look)


def _harmonic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = a + b
    hm: np.ndarray = np.divide(2 * a * b, total, out=np.zeros_like(total, dtype=float), where=total > 0)
    return hm
