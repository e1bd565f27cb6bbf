"""Figures of a report and the sections that hold them, for Markdown and for the page alike."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from benchmark.figures.style import Figure, FigureCanvasAgg, FigureCanvasSVG, default_style, drawn
from benchmark.system.beside import reason_of

DPI = 200
"""Of PNG files."""
PIXELS = 90
"""Of a browser for an inch of a figure: its texts of 8 points are 10 pixels high then."""
WIDE = 8.0
"""Inches."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report with the numbers that it shows."""

    stem: str
    title: str
    draw: Callable[[], Figure]
    """Makes the figure; processes that save figures draw them, so that it must be one that they can import."""
    data: pd.DataFrame
    """Accuracies and importances are fractions."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """What it is about, as of a row of a table (``cells.about``), by which readers choose figures."""

    @property
    def caption(self) -> str:
        """Its title in one line."""
        return ", ".join(self.title.split("\n"))

    def markdown(self) -> str:
        """The line that shows it."""
        return f"![{self.caption}]({self.stem}.png)"


@dataclass(frozen=True)
class Picture:
    """A figure as a page shows it."""

    content: bytes
    """SVG or PNG."""
    width: int
    """In a browser's pixels, as ``height``: that at which its texts can be read."""
    height: int

    @property
    def wide(self) -> bool:
        """Whether a page gives it a line of its own, as figures with panels side by side need."""
        return self.width >= PIXELS * WIDE


@dataclass(frozen=True)
class Section:
    """Figures under a heading. Without figures and notes there is no section."""

    heading: str
    texts: Sequence[str]
    """Paragraphs above the figures."""
    figures: Sequence[ReportFigure]
    notes: Sequence[str] = ()
    """Paragraphs below them."""

    def only(self, stems: Container[str]) -> Section:
        """Itself with those of its figures that have these stems."""
        return replace(self, figures=[figure for figure in self.figures if figure.stem in stems])

    def markdown(self) -> list[str]:
        """Its paragraphs; none where it is empty."""
        if not self.figures and not self.notes:
            return []
        return [f"## {self.heading}", *self.texts, *(f.markdown() for f in self.figures), *self.notes]


def save_figure(figure: ReportFigure, folder: Path) -> Picture | str:
    """Draw a figure and write it and its numbers; returns the smaller of its two images, or why it could not be drawn.

    A figure that cannot be drawn leaves no file behind but its numbers.
    """
    names = [folder / f"{figure.stem}.{kind}" for kind in ("png", "svg")]
    figure.data.to_csv(folder / f"{figure.stem}.csv", index=False)
    try:
        with default_style():
            return _save(drawn(figure.draw), *names)
    except Exception as error:  # whatever it is, the report's other figures and its tables are written
        for file in names:
            file.unlink(missing_ok=True)
        return reason_of(error)


def _save(figure: Figure, png: Path, svg: Path) -> Picture:
    width, height = (round(PIXELS * float(inches)) for inches in figure.get_size_inches())
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")  # once: each of the two would do it again
    figure.dpi = DPI
    # ``savefig`` would draw each of the two twice
    FigureCanvasAgg(figure).print_png(png)  # type: ignore[no-untyped-call]
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return Picture(min(svg.read_bytes(), png.read_bytes(), key=len), width, height)
