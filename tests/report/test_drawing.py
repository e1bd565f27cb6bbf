"""Figures do not depend on matplotlib's settings, and these cannot make its import fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support.checkout import PROJECT

from benchmark.figures.curves import MethodCurve, method_curves_figure, seen_unseen_figure
from benchmark.figures.style import default_style, drawn
from benchmark.report.sections import ReportFigure, save_figure

DRAW = """
import sys, pandas as pd
from pathlib import Path
from report.test_drawing import save
save(Path(sys.argv[1]))
"""
RC = (
    "font.family: No Such Font\nsavefig.dpi: 37\nfigure.facecolor: red\nlines.linewidth: 9\n"
    "backend: rubbish\nno.such.key: 1\n"
)


def save(file: Path) -> None:
    """Draw a curve as jobs and reports do."""
    points = pd.DataFrame({"beta": [0.0, 1.0, 2.0], "seen": [0.6, 0.5, 0.0], "unseen": [0.0, 0.4, 0.5]})
    with default_style():
        drawn(lambda: seen_unseen_figure(points, (0.1, 0.55), 0.4, "costs $5 and $6")).savefig(file)


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("usual") / "curve.png"
    save(file)
    return file.read_bytes()


@pytest.mark.parametrize("where", ["working directory", "variable", "configuration folder"])
def test_settings_from_outside_reach_no_figure_and_no_line_is_said_of_them(
    tmp_path: Path, usual: bytes, where: str
) -> None:
    """A process of its own: only the first import of matplotlib reads settings."""
    env = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (PROJECT, PROJECT / "tests")))
    place = tmp_path / "matplotlibrc"
    if where == "variable":
        place = tmp_path / "broken"
        env |= {"MATPLOTLIBRC": str(place)}
        place.write_bytes(b"font.family: caf\xe9\n")  # not UTF-8: matplotlib's import fails
    elif where == "configuration folder":
        place = tmp_path / "config" / "matplotlib" / "matplotlibrc"
        place.parent.mkdir(parents=True)
        place.write_text(RC, encoding="utf-8")
        env |= {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    else:
        place.write_text(RC, encoding="utf-8")
    words = [sys.executable, "-c", DRAW, str(tmp_path / "curve.png")]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "curve.png").read_bytes() == usual


def test_styles_that_other_code_of_the_process_has_set_reach_no_figure(tmp_path: Path, usual: bytes) -> None:
    import matplotlib  # not above: the processes of the other tests import this file

    with matplotlib.rc_context({"savefig.dpi": 37, "font.family": ["No Such Font"], "lines.linewidth": 9}):
        save(tmp_path / "curve.png")
        assert matplotlib.rcParams["savefig.dpi"] == 37
    assert (tmp_path / "curve.png").read_bytes() == usual


def test_a_figure_that_cannot_be_drawn_leaves_its_numbers_and_its_reason(tmp_path: Path) -> None:
    def fail() -> None:
        raise ValueError("no room")

    figure = ReportFigure("curve", "title", fail, pd.DataFrame({"beta": [1.0]}))  # type: ignore[arg-type]
    assert save_figure(figure, tmp_path) == "ValueError: no room"
    assert [f.name for f in tmp_path.iterdir()] == ["curve.csv"]


@pytest.mark.parametrize("count", [1, 6, 13])
def test_the_legend_of_the_curves_fits_below_the_title(count: int) -> None:
    points = pd.DataFrame({"beta": [0.0, 1.0, 2.0], "seen": [0.6, 0.5, 0.0], "unseen": [0.0, 0.4, 0.5]})
    curves = [MethodCurve("Attention fusion", points, (0.3, 0.5), style) for style in range(count)]
    title = "Seen-unseen curves: Stamps, features native, mode corrected, default settings, seed 0"
    with default_style():
        figure = drawn(lambda: method_curves_figure(curves, title))
        figure.canvas.draw()
        (legend,) = figure.legends
        box, heading = legend.get_window_extent(), figure._suptitle.get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= heading.y0 or box.x0 >= heading.x1
