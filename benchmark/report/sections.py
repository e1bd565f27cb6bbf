"""Figures of a report and their sections, for Markdown and for the page."""

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
"""Pixels of a browser per inch of a figure; text of 8 points is then 10 pixels high."""
WIDE = 8.0
"""Inches."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a report with its numbers."""

    stem: str
    title: str
    draw: Callable[[], Figure]
    """Draws the figure; other processes must be able to import it."""
    data: pd.DataFrame
    """Accuracies and importances are fractions."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Values by which readers select figures, as for rows of a table (``table.about``)."""

    @property
    def caption(self) -> str:
        """Its title in one line."""
        return ", ".join(self.title.split("\n"))

    def markdown(self) -> str:
        """The line of Markdown that shows it."""
        return f"![{self.caption}]({self.stem}.png)"


@dataclass(frozen=True)
class Image:
    """A drawn figure, as a page shows it."""

    content: bytes
    """SVG or PNG."""
    width: int
    """In pixels of a browser, as ``height``, large enough to read its text."""
    height: int

    @property
    def wide(self) -> bool:
        """Whether it takes the full width of a page, as figures with several panels need."""
        return self.width >= PIXELS * WIDE


@dataclass(frozen=True)
class Section:
    """Figures under a heading; without figures and notes the section is not shown."""

    heading: str
    texts: Sequence[str]
    """Paragraphs above the figures."""
    figures: Sequence[ReportFigure]
    notes: Sequence[str] = ()
    """Paragraphs below them."""
    leads: bool = False
    """Whether it is shown before the tables."""

    def only(self, stems: Container[str]) -> Section:
        """The section with only the figures of these stems."""
        return replace(self, figures=[figure for figure in self.figures if figure.stem in stems])

    def markdown(self) -> list[str]:
        """Its paragraphs; none if it is empty."""
        if not self.figures and not self.notes:
            return []
        return [f"## {self.heading}", *self.texts, *(f.markdown() for f in self.figures), *self.notes]


def save_figure(figure: ReportFigure, folder: Path) -> Image | str:
    """Draw a figure and write it as PNG, SVG and CSV.

    Returns:
        The smaller one of PNG and SVG, or the reason why the figure could not be drawn. Then only the CSV
        remains.
    """
    names = [folder / f"{figure.stem}.{kind}" for kind in ("png", "svg")]
    figure.data.to_csv(folder / f"{figure.stem}.csv", index=False)
    try:
        with default_style():
            return _save(drawn(figure.draw), *names)
    except Exception as error:  # the other figures and the tables are written nevertheless
        for file in names:
            file.unlink(missing_ok=True)
        return reason_of(error)


def _save(figure: Figure, png: Path, svg: Path) -> Image:
    width, height = (round(PIXELS * float(inches)) for inches in figure.get_size_inches())
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")  # once, not for PNG and SVG each
    figure.dpi = DPI
    # ``savefig`` would draw both twice
    FigureCanvasAgg(figure).print_png(png)  # type: ignore[no-untyped-call]
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None})  # type: ignore[no-untyped-call]
    return Image(min(svg.read_bytes(), png.read_bytes(), key=len), width, height)
