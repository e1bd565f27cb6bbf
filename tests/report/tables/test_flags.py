"""Flags of published numbers are marks that every form of a table explains, and they decide what competes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.cells_of import row, said, tables_of
from support.html_of import read_page

from benchmark.report.page.page import highlights
from benchmark.report.results import published as module
from benchmark.report.results.collect import collect
from benchmark.report.results.published import FLAGS, Flag
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.latex import latex
from benchmark.report.tables.table import FLAG_MARKS, FLAG_TEXTS, notes_once, plain_table
from benchmark.report.write import write_report

UCF = {"dataset": "ucf", "alignment": "official", "variant": "published", "kind": "published"}
CLIP_CLAP = {**UCF, "features": "clip_clap"}
LOW, HIGH = [(0.4, 0.2 + x / 100) for x in range(5)], [(0.8, 0.6 + x / 100) for x in range(5)]
TRANSDUCTIVE = "all test samples together at the test"
LETTERS = {"ˢ": "s", "ᵗ": "t", "ⁿ": "n", "ᵖ": "p"}


def publish(folder: Path, flag: Flag) -> None:
    """One table with one number of TCAF."""
    given = "" if flag == "second_hand" else f"flags: [{flag}]\n"
    origin = "second-hand" if flag == "second_hand" else "paper"
    (folder / "a.yaml").write_text(
        f"paper: P\nshort: Paper\ntable: Table 7\norigin: {origin}\nfeatures: f\nalignment: official\n"
        f"mode: paper\nseeds: 1\n{given}results: {{ucf: {{tcaf: {{hm: 12.34, zsl: 23.45}}}}}}\n"
    )


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_is_shown_and_explained_in_markdown_latex_and_on_the_page(
    store: Any, unit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: Flag
) -> None:
    publish(tmp_path, flag)
    monkeypatch.setattr(module, "PUBLISHED_DIR", tmp_path)
    store.call([unit(**{**UCF, "features": "f"})])

    table = tables_of(collect(store.tracker))["gzsl"]
    write_report(store.tracker, tmp_path / "report")

    mark = FLAG_MARKS[flag]
    assert row(table, Settings="published")["HM published"].startswith(f"12.34{mark}")
    others = [other for other in FLAG_MARKS.values() if other != mark]
    explained = [note[0] for note in table.notes if note[0] in FLAG_MARKS.values()]
    assert explained == [mark], f"the others do not occur: {others}"
    legend = "Second-hand: Paper." if flag == "second_hand" else FLAG_TEXTS[flag]
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert f"12.34{mark}" in markdown
    assert f"{mark} {legend}" in markdown
    tex = (tmp_path / "report" / "gzsl.tex").read_text()
    sign = rf"\textsuperscript{{{LETTERS[mark]}}}" if mark in LETTERS else r"$^{\dagger}$"
    assert f"12.34{sign}" in tex
    assert f"{sign} {latex(legend)}" in tex
    assert tex.isascii()
    page = read_page((tmp_path / "report" / "index.html").read_text())
    assert any(cell.text.startswith(f"12.34{mark}") for cell in page.all("td"))
    assert any(note.text == f"{mark} {legend}" for note in page.all("p"))
    files = [pd.read_csv(tmp_path / "report" / f"{name}.csv") for name in ("gzsl", "references")]
    assert [list(f[c]) for f, c in zip(files, ("published_flags", "flags"), strict=True)] == [[flag]] * 2


def test_the_table_of_references_marks_the_method(store: Any, unit: Any) -> None:
    store.call([unit(**CLIP_CLAP, method="hspmoe"), unit(**CLIP_CLAP, method="avca")])

    table = tables_of(collect(store.tracker))["references"]

    assert list(table.cells["Method"]) == ["AVCAⁿᵖ", "hspmoeᵗᵖ"]
    assert [note[0] for note in table.notes[1:]] == ["ᵗ", "ⁿ", "ᵖ"]


def test_a_number_that_was_selected_on_test_is_comparable_with_no_row_of_ours(
    store: Any, unit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "selected_on_test")
    monkeypatch.setattr(module, "PUBLISHED_DIR", tmp_path)
    store.call([unit(scores=LOW, **{**UCF, "features": "f"})])

    tables = tables_of(collect(store.tracker))

    assert row(tables["gzsl"], Method="TCAF")["HM published"] == "12.34ˢ§"
    assert any("which has selection on validation data" in note for note in tables["gzsl"].notes)
    assert "HM − published" not in tables["intervals"].cells


def test_transductive_rows_never_take_bold_from_others_nor_get_it(store: Any, unit: Any) -> None:
    rivals = {"hspmoe": HIGH, "clipclap": LOW, "avca": [(0.3, u - 0.05) for _, u in LOW]}
    uses = {"hspmoe": TRANSDUCTIVE}
    store.call([unit(method=m, scores=s, uses=uses.get(m, ""), **CLIP_CLAP) for m, s in rivals.items()])

    results = collect(store.tracker)
    table = tables_of(results)["gzsl"]

    methods = list(table.cells["Method"])
    assert [m for m, bold in zip(methods, table.bold["S ours"], strict=True) if bold] == ["clipclap"]
    assert "hspmoeᵗ" in methods
    assert "Transductive rows compete with each other only." in said(table)
    assert f"Transductive: hspmoe ({TRANSDUCTIVE})." in said(table)
    (best,) = highlights(results)
    assert [who for _, _, who in best.lines] == ["clipclap, published"] * 2


def test_a_method_whose_run_used_no_test_samples_is_not_transductive(store: Any, unit: Any) -> None:
    """Its published number is; ours has another scale."""
    store.call([unit(method="hspmoe", **CLIP_CLAP)])

    table = tables_of(collect(store.tracker))["gzsl"]

    assert list(table.cells["Method"]) == ["hspmoe"]
    assert "Transductive: hspmoe" not in said(table)


def test_feature_sets_never_share_a_ranking(store: Any, unit: Any) -> None:
    """The lower of two rows is the best of its own features."""
    second = [(0.3, 0.1 + x / 100) for x in range(5)]
    store.call(
        [
            unit(method=m, scores=s, **{**UCF, "features": f})
            for f, scores in (("cls", (LOW, second)), ("clip_clap", (HIGH, LOW)))
            for m, s in zip(("avca", "cjme"), scores, strict=True)
        ]
    )

    results = collect(store.tracker)
    tables = [t for t in build_tables(results) if t.name == "gzsl"]

    assert [{key["features"] for key in t.keys} for t in tables] == [{"cls"}, {"clip_clap"}]
    best = [[list(t.cells["Method"])[i] for i in t.bold.index[t.bold["HM ours"]]] for t in tables]
    assert best == [["AVCA"], ["AVCA"]]
    assert [h.keys["features"] for h in highlights(results)] == ["cls", "clip_clap"]
    stated = ["pre-training of features clip_clap may contain test classes" in said(t) for t in tables]
    assert stated == [False, True]


def test_a_footnote_is_printed_once_for_the_tables_of_a_feature_set() -> None:
    def table(title: str, features: str, *notes: str) -> Any:
        return plain_table("gzsl", title, "", [], notes, keys=[{"features": features}])

    left = notes_once(
        [
            table("One: UCF", "cls", "¹ Note.", "Plain."),
            table("Two: UCF", "cls", "¹ Note.", "² Other."),
            table("Three: UCF", "cls", "Plain.", "² Other.", "¹ Another note."),
            table("Four: UCF", "main", "¹ Note."),
        ]
    )

    assert [list(t.notes) for t in left] == [
        ["¹ Note.", "Plain."],
        ["² Other.", "Notes (¹): see “One”."],
        ["¹ Another note.", "Notes: see “One”.", "Notes (²): see “Two”."],
        ["¹ Note."],
    ]


def test_the_note_of_a_method_is_in_a_report_once_and_in_each_latex_file(
    store: Any, unit: Any, tmp_path: Path
) -> None:
    store.call([unit(method="perceiver"), unit()])

    write_report(store.tracker, tmp_path)

    note = "Our adaptation to zero-shot learning"
    assert (tmp_path / "report.md").read_text().count(note) == 1
    assert (tmp_path / "index.html").read_text().count(note) == 1
    assert (tmp_path / "report.md").read_text().count("Notes (¹): see “Generalised zero-shot learning”.") == 2
    assert all(note in (tmp_path / f"{name}.tex").read_text() for name in ("gzsl", "zsl", "full"))
