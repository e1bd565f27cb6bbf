"""Whether a report of tuned methods has every table and figure, with names on the axes and numbers beside,
and a page that a browser shows without complaint: ``python .ci/demo_report.py reports/demo``."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from support.reader import WIDTHS, Reader, chromium, served

AXES = {
    "curve": ("Unseen accuracy U (%)", "Seen accuracy S (%)"),
    "scores": ("HM (%)", "ZSL (%)"),
    "training": ("Epoch", "Training loss", "Validation HM (%)"),
    "recall": ("Cosine to the nearest seen class", "Recall among all classes (%)"),
    "embedding": ("t-SNE dimension 1", "t-SNE dimension 2"),
    "confusion": ("Predicted class", "True class"),
    "tuning": (
        "Finished trials, including pruned ones",
        "Validation HM (%)",
        "Training and validation time of the trials",
    ),
    "importances": (
        "Importance (% of the variance that each hyperparameter explains alone)",
        "Hyperparameter",
    ),
}
TABLES = ("gzsl", "zsl", "full", "intervals", "comparisons", "recall", "cost", "tuning")


def check(folder: Path) -> None:
    """Fail where something is missing."""
    for name in ("report.md", "index.html", "report.tex", "results.csv", "tuning.tex"):
        assert (folder / name).stat().st_size > 100, name
    for name in TABLES:
        assert len(pd.read_csv(folder / f"{name}.csv")), name
        assert list(folder.glob(f"{name}*.tex")), name
    page, text = ((folder / name).read_text(encoding="utf-8") for name in ("index.html", "report.md"))
    for figure, labels in AXES.items():
        found = sorted(folder.glob(f"{figure}-*.svg"))
        assert found, figure
        for svg in found:
            drawn = svg.read_text(encoding="utf-8")
            assert [label for label in labels if f"<!-- {label}" not in drawn] == [], svg
            assert (folder / f"{svg.stem}.png").read_bytes()[:4] == b"\x89PNG"
            assert len(pd.read_csv(folder / f"{svg.stem}.csv")), svg
            assert f"({svg.stem}.png)" in text
    assert page.count("<img ") == len(list(folder.glob("*.svg")))


def check_page(folder: Path) -> None:
    """Fail where a browser, wide or narrow, complains, asks for anything else, or does not sort or open what
    is clicked."""
    with served(folder) as address, chromium() as browser:
        for width in WIDTHS:
            reader = Reader(browser, f"{address}index.html", width)
            heads = reader.script(
                "return [...document.querySelectorAll('table thead tr:last-child th')].map((h) => "
                "h.innerText)"
            )
            at = [text.strip() for text in heads].index("HM")
            reader.press(f"table thead tr:last-child th:nth-child({at + 1}) button")
            means = [float(text.split()[0].rstrip("‡")) for text in reader.column(at)]
            assert means == sorted(means, reverse=True), means
            reader.press("a.runs")
            assert reader.script("return document.getElementById('panel').open"), width
            reader.press("#close")
            assert not reader.overflows(), width
            assert reader.complaints() == [], width
            assert reader.requests() == [f"{address}index.html"], width


if __name__ == "__main__":
    check(Path(sys.argv[1]))
    check_page(Path(sys.argv[1]))
    print(f"{sys.argv[1]}: all tables and figures are there")
