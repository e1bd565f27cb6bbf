"""matplotlib as figures need it: its own defaults, no display, whatever the user's settings are. Nothing else imports it.

Figures are objects of their own, drawn by Agg (PNG) or as SVG, so that no backend is chosen. What could reach them from outside
are ``MPLBACKEND``, ``MATPLOTLIBRC`` and files ``matplotlibrc``, which matplotlib reads while it is imported, and styles that
other code of the process (a plug-in, a notebook) has set since.
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
    """While matplotlib is imported: it reads no settings but its own, so that wrong ones cannot stop it.

    A file in the working directory comes before all variables, so the directory is changed where there is one.
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


logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps its list of fonts is no concern of a benchmark's user
with _unread_settings():
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text
    from matplotlib.ticker import LogFormatter, MaxNLocator

__all__ = [
    "Axes",
    "Axis",
    "Figure",
    "FigureCanvasAgg",
    "FigureCanvasSVG",
    "Line2D",
    "LogFormatter",
    "MaxNLocator",
    "default_style",
    "drawn",
]


@contextmanager
def default_style() -> Iterator[None]:
    """Within it figures are made and written with matplotlib's defaults; what was set before holds again afterwards."""
    with matplotlib.rc_context({name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}):
        yield


def drawn(draw: Callable[[], Figure]) -> Figure:
    """Make a figure with texts as they are written: names may have dollar signs, which are no formulas."""
    figure = draw()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which is told apart with any colour vision; its yellow is left out, too pale on white."""
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FAINT, GREY = "#C4C4C4", "#707070"
LETTERS = 13.0
"""Of a heading, to the inch."""


def heading(figure: Figure, title: str) -> None:
    """Put a title above a figure, in as many lines as its width takes."""
    room = int(LETTERS * float(figure.get_figwidth()))
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, room)]
    figure.suptitle("\n".join(lines), fontsize=10, x=0.01, ha="left")


def plain(axes: Axes) -> None:
    """No frame on top and on the right, small numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def colour_of(style: int) -> str:
    """The colour of the method of this number (its place in tables), in all figures."""
    return COLOURS[style % len(COLOURS)]


def dash_of(style: int) -> str | tuple[int, tuple[float, ...]]:
    """Its dashes, which tell methods of one colour apart."""
    return DASHES[style // len(COLOURS) % len(DASHES)]


def marker_of(style: int) -> str:
    """Its marker; methods of one colour have different ones."""
    return MARKERS[(style + style // len(COLOURS)) % len(MARKERS)]
