"""Draws results: seeds with their means, training curves, recall of classes, embeddings, confusion.

Figures are in percent. ``report/explain.py`` makes their data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    Axis,
    Figure,
    Line2D,
    LogFormatter,
    MaxNLocator,
    colour_of,
    dash_of,
    empty_figure,
    marker_of,
    plain,
)

LOSS_AXIS = "Training loss"
HM_AXIS = "Validation HM (%)"
EPOCH_AXIS = "Epoch"
COSINE_AXIS = "Cosine to the nearest seen class"
RECALL_AXIS = "Recall among all classes (%)"
MAP_AXES = ("t-SNE dimension 1", "t-SNE dimension 2")
PREDICTED_AXIS, TRUE_AXIS = "Predicted class", "True class"
PANELS_A_ROW = 3
COLOURED_CLASSES = 2 * len(COLOURS)
"""Unseen classes with a colour and marker of their own in a map; nobody could distinguish more."""
LOGARITHMIC_FROM = 30
"""The axis of losses is logarithmic if the largest is this many times the smallest."""


@dataclass(frozen=True)
class Scores:
    """What the seeds of a method gave in one metric, percent."""

    seeds: Sequence[float]
    low: float
    """Lower end of the interval of their mean; NaN with few seeds."""
    high: float
    published: float
    """NaN if there is no comparable number."""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.seeds)) if len(self.seeds) else float("nan")


@dataclass(frozen=True)
class Row:
    """A method with its scores by metric."""

    title: str
    style: int
    values: Mapping[str, Scores]


@dataclass(frozen=True)
class Drawn:
    """The data of a method in a panel or curve."""

    title: str
    style: int
    data: pd.DataFrame
    """Columns as the function for the figure requires; accuracies are fractions."""


def scores_figure(methods: Sequence[Row], titles: Mapping[str, str], title: str) -> Figure:
    """Draw a panel for each metric, a row per method: a dot for each seed, their mean, its interval, and the
    published value as a diamond.

    Args:
        titles: titles of the metrics, by their names in ``Row.values``.
    """
    figure = empty_figure(title, 9.0, 1.7 + 0.36 * len(methods))
    at = np.arange(len(methods))
    diamond: dict[str, Any] = {"mfc": "white", "mec": "black", "mew": 1.3}
    mean: dict[str, Any] = {"marker": "|", "color": "black", "markersize": 15, "mew": 1.8, "linestyle": ""}
    band: dict[str, Any] = {"color": FAINT, "linewidth": 7, "solid_capstyle": "butt"}
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    for axes, (metric, name) in zip(
        np.atleast_1d(figure.subplots(1, len(titles), sharey=True)), titles.items(), strict=True
    ):
        right = _right_end([m.values[metric] for m in methods])
        for y, method in zip(at, methods, strict=True):
            found = method.values[metric]
            if np.isfinite(found.low):
                ends = np.clip([found.low, found.high], 0, 100)
                axes.plot(ends, [y, y], zorder=2, **band)
                if ends[1] > right:
                    axes.plot([right], [y], ">", color="black", markersize=5, mew=0, clip_on=False, zorder=5)
            axes.plot([found.mean], [y], zorder=3, **mean)

            # Dots are shifted in turn, so that equal seeds are not hidden.
            shifted = y + 0.14 * (np.arange(len(found.seeds)) % 3 - 1)
            look: dict[str, Any] = {"mfc": colour_of(method.style), "mec": "white", "mew": 0.5, "alpha": 0.85}
            axes.plot(found.seeds, shifted, "o", markersize=5.5, zorder=4, **look)
            if np.isfinite(found.published):
                axes.plot([found.published], [y], "D", markersize=6.5, zorder=5, **diamond)
            axes.annotate(f"{found.mean:.1f}", (1, y), (4, 0), fontsize=8, va="center", color=GREY, **beside)
        axes.set(xlabel=f"{name} (%)", xlim=(0, right), ylim=(len(methods) - 0.45, -0.55))
        axes.set_yticks(at, [m.title for m in methods])
        axes.grid(axis="x", color=FAINT, linewidth=0.5, zorder=0)
        axes.label_outer()
        plain(axes)

    # The legend names what occurs.
    shown = [m.values[metric] for m in methods for metric in titles]
    handles = [Line2D([], [], marker="o", linestyle="", color=GREY, markersize=5.5, label="a seed")]
    handles.append(Line2D([], [], label="mean", **{**mean, "markersize": 10}))
    if any(np.isfinite(s.low) for s in shown):
        handles.append(Line2D([], [], label="95 % interval of the mean", **band))
    if any(np.isfinite(s.published) for s in shown):
        handles.append(Line2D([], [], marker="D", linestyle="", label="published, same protocol", **diamond))
    figure.legend(handles=handles, loc="outside lower right", fontsize=8, frameon=False, ncols=len(handles))
    return figure


def _right_end(scores: Sequence[Scores]) -> float:
    """The right end of an axis: beyond the intervals, unless these are so wide that the rest would be
    tiny."""
    longest = max(1.0, float(np.nanmax([value for s in scores for value in (*s.seeds, s.published)])))
    highs = [s.high for s in scores if np.isfinite(s.high)]
    return min(
        100.0 if longest < 97 else 103.0, 1.05 * max(longest, min(max(highs, default=0.0), 2 * longest))
    )


def training_figure(methods: Sequence[Drawn], title: str) -> Figure:
    """Draw training loss and validation HM by epoch: means over seeds, with the range of the seeds as a band.

    Args:
        methods: columns ``epoch`` (from 1), and ``_mean``, ``_low`` and ``_high`` of ``loss`` and ``hm``
            (fraction).
    """
    figure = empty_figure(title, 9.6, 4.0)
    losses, scores = figure.subplots(1, 2)
    for method in methods:
        epochs, colour = method.data["epoch"], colour_of(method.style)
        look: dict[str, Any] = {"color": colour, "linestyle": dash_of(method.style), "linewidth": 1.5}
        if len(epochs) < 2:
            look |= {"marker": marker_of(method.style), "markersize": 5}
        for axes, name, factor in ((losses, "loss", 1), (scores, "hm", 100)):
            mean, low, high = (factor * method.data[f"{name}_{end}"] for end in ("mean", "low", "high"))
            axes.plot(epochs, mean, label=method.title if axes is losses else None, zorder=3, **look)
            axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
    values = pd.concat([m.data["loss_mean"] for m in methods]).dropna()
    if len(values) and values.min() > 0 and values.max() > LOGARITHMIC_FROM * values.min():
        losses.set_yscale("log")
        losses.yaxis.set_major_formatter(LogFormatter())
        losses.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    for axes, label in ((losses, LOSS_AXIS), (scores, HM_AXIS)):
        axes.set(xlabel=EPOCH_AXIS, ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        plain(axes)
    scores.set_ylim(bottom=0)
    figure.legend(loc="outside right center", fontsize=9, frameon=False, handlelength=2.6)
    return figure


def recall_figure(methods: Sequence[Drawn], title: str) -> Figure:
    """Draw the recall of unseen classes by their similarity to the nearest training class, a panel per
    method.

    Args:
        methods: columns ``nearest_seen_cosine`` and ``gzsl`` (fraction).
    """
    figure, panels = _panels(len(methods), 2.9, 2.7, title)
    low, high = _span(pd.concat([m.data["nearest_seen_cosine"] for m in methods]))
    top = 100 * max(0.01, max(float(m.data["gzsl"].max()) for m in methods))
    for axes, method in zip(panels, methods, strict=True):
        axes.plot(
            method.data["nearest_seen_cosine"], 100 * method.data["gzsl"], marker_of(method.style),
            linestyle="",
            color=colour_of(method.style), markersize=5.5, mec="white", mew=0.5, alpha=0.9, clip_on=False,
        )  # fmt: skip
        axes.set(xlim=(low, high), ylim=(-0.03 * top, 1.06 * top), xlabel=COSINE_AXIS, ylabel=RECALL_AXIS)
        axes.set_title(method.title, fontsize=8.5, loc="left")
        axes.grid(color=FAINT, linewidth=0.5, zorder=0)
    return figure


def map_figure(methods: Sequence[Drawn], title: str) -> Figure:
    """Draw test samples and class embeddings in two dimensions: unseen classes in colour, seen ones grey.

    Args:
        methods: columns ``kind`` (sample or class), ``class``, ``group`` (seen or unseen), ``x`` and ``y``.
    """
    figure, panels = _panels(len(methods), 3.2, 3.2, title)
    shown = coloured_classes(pd.concat([m.data for m in methods]))
    for axes, method in zip(panels, methods, strict=True):
        samples, classes = (method.data[method.data["kind"] == kind] for kind in ("sample", "class"))
        for frame, size, edge in ((samples, 3.6, 0.0), (classes, 7.5, 1.2)):
            seen, named = frame["group"] == "seen", frame["class"].isin(shown)
            mark, grey_size = ("o", size) if frame is samples else ("P", 5.0)
            rest = frame[~seen & ~named]
            grey: dict[str, Any] = {"markersize": grey_size, "mec": "white", "mew": 0.3}
            axes.plot(frame["x"][seen], frame["y"][seen], mark, color=FAINT, zorder=2, **grey)
            axes.plot(rest["x"], rest["y"], mark, color=GREY, zorder=3, **grey)

            for i, name in enumerate(shown):
                mine = frame[frame["class"] == name]
                look: dict[str, Any] = {"color": colour_of(i), "markersize": size, "mec": "black"}
                look |= {"mew": edge, "linestyle": "", "zorder": 4 if frame is samples else 5}
                axes.plot(mine["x"], mine["y"], _class_marker(i), **look)
        axes.set_title(method.title, fontsize=8.5, loc="left")
        axes.set(xlabel=MAP_AXES[0], ylabel=MAP_AXES[1], xticks=[], yticks=[])
        axes.margins(0.05)

    # legend, in as many columns as fit
    look = {"linestyle": "", "markersize": 5.5}
    handles = [
        Line2D([], [], marker=_class_marker(i), color=colour_of(i), label=_short(name), **look)
        for i, name in enumerate(shown)
    ]
    handles += _map_legend(pd.concat([m.data for m in methods]), shown)
    widest = 0.5 + 0.075 * max(len(str(h.get_label())) for h in handles)  # inches per entry
    columns = max(1, int(figure.get_figwidth() / widest))
    figure.legend(handles=handles, loc="outside lower left", fontsize=8, frameon=False, ncols=columns)
    return figure


def _map_legend(data: pd.DataFrame, shown: Sequence[str]) -> list[Line2D]:
    """Legend entries of grey and of large markers."""
    others = set(data.loc[data["group"] == "unseen", "class"]) - set(shown)
    classes = data[data["kind"] == "class"]
    look: dict[str, Any] = {"linestyle": "", "mec": "white", "mew": 0.3}
    entries = []
    if others:
        label = f"{len(others)} further unseen classes"
        entries.append(Line2D([], [], marker="o", color=GREY, markersize=5.5, label=label, **look))
    label = "samples of seen classes"
    entries.append(Line2D([], [], marker="o", color=FAINT, markersize=5.5, label=label, **look))
    if len(classes):
        own: dict[str, Any] = {**look, "mfc": GREY, "mec": "black", "mew": 1.2}
        label = "embedding of an unseen class"
        entries.append(Line2D([], [], marker="o", markersize=7.5, label=label, **own))
        label = "embedding of a seen class"
        entries.append(Line2D([], [], marker="P", color=FAINT, markersize=6, label=label, **look))
    return entries


def coloured_classes(data: pd.DataFrame) -> list[str]:
    """Unseen classes with a colour of their own in a map: those with the most samples, by name."""
    samples = data[(data["kind"] == "sample") & (data["group"] == "unseen")]
    counts = samples["class"].value_counts()
    ranked = sorted(counts.index, key=lambda name: (-counts[name], name))
    return sorted(map(str, ranked[:COLOURED_CLASSES]))


def _class_marker(number: int) -> str:
    """The marker of a class; classes of the same colour have different markers."""
    return MARKERS[number // len(COLOURS) % len(MARKERS)]


def confusion_figure(methods: Sequence[Drawn], title: str) -> Figure:
    """Draw the confusion matrix of the unseen classes, a panel per method.

    Neighbouring panels with the same classes name them once, on the left and below.

    Args:
        methods: square frames: true classes as index, predicted ones as columns; rows sum to 1.
    """
    # size of fonts and panels, by the number of classes and the length of their names
    size = max(len(m.data) for m in methods)
    font = 7.5 if size <= 16 else 6.5 if size <= 30 else 5.5
    longest = max(len(_short(name)) for m in methods for name in (*m.data.index, *m.data.columns))
    across = min(len(methods), PANELS_A_ROW if size <= 24 else 2)
    names = [list(m.data.index) for m in methods]
    down, alike = -(-len(methods) // across), all(mine == names[0] for mine in names)
    side, room = max(2.2, 0.115 * size) + 0.45, 0.3 + 0.6 * font * longest / 72
    width, height = (side + room / (count if alike else 1) for count in (across, down))
    figure, panels = _panels(len(methods), width, height, title, columns=across)

    # a matrix per method, with numbers if there is room
    for i, (axes, method) in enumerate(zip(panels, methods, strict=True)):
        shares = 100 * method.data.to_numpy(float)
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="equal", interpolation="none")
        below = i + across
        named = below >= len(methods) or names[i] != names[below]
        _name_classes(axes.xaxis, names[i], named=named, fontsize=font, rotation=90)
        _name_classes(axes.yaxis, names[i], named=i % across == 0 or names[i] != names[i - 1], fontsize=font)
        axes.tick_params(length=0)
        axes.set(xlabel=PREDICTED_AXIS, ylabel=TRUE_AXIS)
        axes.set_title(method.title, fontsize=8.5, loc="left")
        if size <= 12:
            for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
                colour = "white" if shares[row, column] > 55 else "black"
                text = f"{shares[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)

    shrink = min(0.6, 6 / figure.get_figheight())
    bar = figure.colorbar(image, ax=list(panels), location="right", shrink=shrink, aspect=30, pad=0.02)
    bar.set_label("Share of the true class's samples (%)", fontsize=8.5)
    bar.ax.tick_params(labelsize=8)
    return figure


def _name_classes(axis: Axis, names: Sequence[str], *, named: bool, **look: Any) -> None:
    """Label an axis with class names, or with nothing if the neighbour has them: drawing names takes most of
    the time."""
    if named:
        axis.set_ticks(range(len(names)), [_short(name) for name in names], **look)
    else:
        axis.set_ticks([])


def _short(name: str, limit: int = 26) -> str:
    """A class name, shortened for an axis."""
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _panels(
    count: int, width: float, height: float, title: str, columns: int = PANELS_A_ROW
) -> tuple[Figure, list[Axes]]:
    """A figure with panels of a given size in inches, row by row."""
    across = min(columns, count)
    rows = -(-count // across)
    figure = empty_figure(title, max(5.6, width * across), height * rows + 0.7)
    panels = [figure.add_subplot(rows, across, i + 1) for i in range(count)]
    for axes in panels:
        plain(axes)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    return figure, panels


def _span(values: pd.Series) -> tuple[float, float]:
    """A range slightly wider than that of the values."""
    low, high = float(values.min()), float(values.max())
    room = max(0.02, 0.06 * (high - low))
    return low - room, high + room
