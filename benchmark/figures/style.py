"""Imports matplotlib with its own defaults, whatever the user's settings are. Only this module imports it.

Figures are drawn by Agg (PNG) or as SVG, without display or backend. Two things from outside could change
them: the settings that matplotlib reads at import (``MPLBACKEND``, ``MATPLOTLIBRC``, files ``matplotlibrc``),
and styles that other code of the process (a plug-in, a notebook) has set.
"""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

SETTINGS = ("MPLBACKEND", "MATPLOTLIBRC")
FILE = "matplotlibrc"


@contextmanager
def _unread_settings() -> Iterator[None]:
    """Let matplotlib read only its own settings while it is imported; invalid ones of the user could make it
    fail.

    A file in the working directory takes precedence over variables, so the directory is changed if there is
    one.
    """
    spec = find_spec("matplotlib")
    if "matplotlib" in sys.modules or spec is None or spec.origin is None:
        yield
        return
    own = Path(spec.origin).parent / "mpl-data"
    before = {name: os.environ.pop(name) for name in SETTINGS if name in os.environ}
    os.environ["MATPLOTLIBRC"] = str(own)
    in_the_way = os.path.exists(FILE) and not os.path.isdir(FILE)
    if in_the_way and "MPLCONFIGDIR" in os.environ:
        os.environ["MPLCONFIGDIR"] = os.path.abspath(os.environ["MPLCONFIGDIR"])
    try:
        with chdir(own) if in_the_way else nullcontext():
            yield
    finally:
        del os.environ["MATPLOTLIBRC"]
        os.environ.update(before)


logging.getLogger("matplotlib").setLevel(logging.ERROR)  # no messages on where it caches fonts
with _unread_settings():
    import matplotlib
    from matplotlib.axes import Axes as Axes
    from matplotlib.axis import Axis as Axis
    from matplotlib.backends.backend_agg import FigureCanvasAgg as FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG as FigureCanvasSVG
    from matplotlib.figure import Figure as Figure
    from matplotlib.lines import Line2D as Line2D
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter as LogFormatter
    from matplotlib.ticker import MaxNLocator as MaxNLocator


@contextmanager
def default_style() -> Iterator[None]:
    """Use matplotlib's defaults for figures that are made and written within; restore the previous style
    afterwards."""
    with matplotlib.rc_context(
        {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    ):
        yield


def drawn(draw: Callable[[], Figure]) -> Figure:
    """Make a figure whose texts are literal: dollar signs in names do not begin formulas."""
    figure = draw()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, distinguishable with any colour vision; without its yellow, which is too pale on
white."""
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FAINT, GREY = "#C4C4C4", "#707070"
LETTERS = 13.0
"""Characters of a heading per inch."""


def heading(figure: Figure, title: str) -> None:
    """Put a title above a figure, wrapped to its width."""
    room = int(LETTERS * float(figure.get_figwidth()))
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, room)]
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")


def empty_figure(title: str, width: float, height: float) -> Figure:
    """A figure with a heading; width and height are in inches."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    heading(figure, title)
    return figure


def single_panel(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with a heading and one plain panel; width and height are in inches."""
    figure = empty_figure(title, width, height)
    axes = figure.add_subplot()
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    """Remove the frame at the top and on the right, and use small tick labels."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def colour_of(style: int) -> str:
    """The colour of a method, by its number, in all figures."""
    return COLOURS[style % len(COLOURS)]


def dash_of(style: int) -> str | tuple[int, tuple[float, ...]]:
    """The dashes of a method; they distinguish methods of the same colour."""
    return DASHES[style // len(COLOURS) % len(DASHES)]


def marker_of(style: int) -> str:
    """The marker of a method; methods of the same colour have different markers."""
    return MARKERS[(style + style // len(COLOURS)) % len(MARKERS)]
