"""Tables as LaTeX: escaping, heads, long tables, and that pdflatex takes them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.tiny import need

from benchmark.report.tables.latex import LONG, latex, latex_files, latex_table, table_names
from benchmark.report.tables.table import Table
from benchmark.report.write import write_report

ODD = "Größe_β & <b>100%</b> {x} $y$ #1 ~^ a|b \\n é ± 中 🎧 `--jobs 2` “q” İ ﬁ"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("14.40 ± 6.75", r"14.40 $\pm$ 6.75"),
        ("-0.25 to 42.19", "$-$0.25 to 42.19"),
        ("lr=1e-05, 2026-01-02", "lr=1e-05, 2026-01-02"),
        ("Fusion¹", r"Fusion\textsuperscript{1}"),
        ("1.23‡", r"1.23$^{\ddagger}$"),
        ("a & b_c 5 % {#$}", r"a \& b\_c 5 \% \{\#\$\}"),
        ("HM − published · 2 × 3 – x", r"HM $-$ published $\cdot$ 2 $\times$ 3 -- x"),
        ("`evaluate --json`", r"\texttt{evaluate -{}-json}"),
        ("C:\\x ~ ^", r"C:\textbackslash{}x \textasciitilde{} \textasciicircum{}"),
        ("Größe é", r"Gr{\"{o}}{\ss}e {\'{e}}"),
        ("中", "[U+4E2D]"),
    ],
)
def test_signs_are_written_so_that_latex_prints_them(text: str, expected: str) -> None:
    assert latex(text) == expected


def test_all_text_becomes_plain_ascii() -> None:
    assert latex(ODD + "".join(map(chr, range(32, 0x2300)))).isascii()


def _table(rows: int = 2, **changes: Any) -> Table:
    names = ["Method", "UCF S", "UCF HM", "VGG HM"]
    cells = pd.DataFrame([["A", "1.00", "2.00 ± 0.10", "3.00"]] * rows, columns=names, dtype=object)
    bold = pd.DataFrame(False, index=cells.index, columns=names)
    bold.iloc[0, 2] = True
    keys = [{"features": "cls"}] * rows
    return replace(
        Table("gzsl", "Title", "Caption.", cells, bold, ["", "UCF", "UCF", "VGG"], ["¹ Note."], keys=keys),
        **changes,
    )


def test_data_sets_head_their_columns_and_the_best_is_bold() -> None:
    text = latex_table(_table(), "gzsl")

    assert r" & \multicolumn{2}{c}{UCF} & \multicolumn{1}{c}{VGG} \\" in text
    assert r"\cmidrule(lr){2-3}\cmidrule(lr){4-4}" in text
    assert "\nMethod & S & HM & HM \\\\\n" in text
    assert text.count(r"\textbf{2.00 $\pm$ 0.10}") == 1
    for part in (
        r"\begin{table}",
        r"\toprule",
        r"\label{tab:gzsl}",
        r"\textbf{Title.} Caption.",
        r"\textsuperscript{1} Note.",
    ):
        assert part in text


def test_a_long_table_may_break_across_pages_and_repeats_its_head() -> None:
    text = latex_table(_table(LONG + 1), "gzsl")

    assert r"\begin{longtable}{lrrr}" in text
    assert text.count(r"\multicolumn{2}{c}{UCF}") == 2
    assert r"\multicolumn{4}{l}{\tablename~\thetable, continued}" in text


def test_groups_of_columns_that_are_too_wide_together_stand_below_one_another() -> None:
    wide = [
        f"{group} {name}"
        for group in ("HM", "ZSL", "S")
        for name in ("paper, which is long", "corrected, which is long", "d")
    ]
    cells = pd.DataFrame([["A", *(["1.00 ± 0.10"] * 9)]] * 2, columns=["Method", *wide], dtype=object)
    groups = ["", *(name.split()[0] for name in wide)]
    table = _table(cells=cells, bold=cells == "bold", groups=groups)

    text = latex_table(table, "modes")

    assert text.count(r"\begin{tabular}") == 2
    assert text.count(r"\begin{table}") == text.count(r"\caption") == 1
    heads = [line for line in text.splitlines() if line.startswith("Method & ")]
    assert [len(line.split("&")) for line in heads] == [7, 4]
    assert heads[1].startswith("Method & S paper")


def test_tables_of_several_feature_sets_get_names_of_their_own() -> None:
    other = _table(keys=[{"features": "main"}])

    assert table_names([_table(), replace(_table(), name="zsl")]) == ["gzsl", "zsl"]
    assert table_names([_table(), other]) == ["gzsl-cls", "gzsl-main"]
    assert table_names([_table(), _table(), _table(name="zsl")]) == ["gzsl-1", "gzsl-2", "zsl"]
    modes = [
        _table(keys=[{"dataset": "ucf", "features": "cls", "mode": mode}]) for mode in ("paper", "corrected")
    ]
    assert table_names(modes) == ["gzsl-ucf-cls-paper", "gzsl-ucf-cls-corrected"]
    assert set(latex_files([_table(), other])) == {"gzsl-cls.tex", "gzsl-main.tex", "report.tex"}


def compile_tex(folder: Path, file: str) -> str:
    """Compile a document; returns the log."""
    if shutil.which("pdflatex") is None:
        need("pdflatex: apt-get install texlive-latex-base texlive-latex-recommended")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", file]
    for _ in range(2):  # a second time for the widths of long tables
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
        assert done.returncode == 0, done.stdout[-3000:]
    return (folder / file).with_suffix(".log").read_text(errors="replace")


@pytest.mark.slow
def test_the_document_of_a_report_compiles_and_nothing_sticks_out(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    ucf = {"dataset": "ucf", "features": "main", "variant": "published", "trials": 3, "caption": ODD}
    paper, corrected = (
        {"mode": "paper", "alignment": "official"},
        {"mode": "corrected", "alignment": "by_name"},
    )
    scores = {m: [(s + i / 50, 0.3) for i in range(5)] for m, s in ((ODD, 0.4), ("perceiver", 0.3))}
    units = [
        unit(method=m, scores=five, tuned=[(0.5, 0.3), (0.4, 0.3)], **ucf, **p)
        for m, five in scores.items()
        for p in (paper, corrected)
    ]
    store.call(
        [*units, unit(dataset="vggsound", features="main", scores=[(0.4, 0.2), None], **corrected), unit()]
    )

    write_report(store.tracker, tmp_path / "report")

    log = compile_tex(tmp_path / "report", "report.tex")
    assert "Wins in ZSL" in (tmp_path / "report" / "comparisons-4.tex").read_text()
    assert "Overfull \\hbox" not in log
    assert "LaTeX Error" not in log


@pytest.mark.slow
@pytest.mark.parametrize("rows", [3, 90])
def test_a_table_compiles_in_a_paper_with_the_packages_that_it_names(rows: int, tmp_path: Path) -> None:
    text = latex_table(_table(rows, title=ODD, caption=ODD, notes=[ODD]), "gzsl")
    packages = text.splitlines()[0].partition("{")[2].partition("}")[0]
    (tmp_path / "gzsl.tex").write_text(text)
    head = rf"\documentclass{{article}}\usepackage{{{packages}}}"
    paper = rf"{head}\begin{{document}}See \ref{{tab:gzsl}}.\input{{gzsl}}\end{{document}}"
    (tmp_path / "paper.tex").write_text(paper)

    log = compile_tex(tmp_path, "paper.tex")

    assert "undefined" not in log
