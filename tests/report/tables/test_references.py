"""Every number of ``reports/published/`` can be looked up in a report, with its source and origin."""

from __future__ import annotations

from typing import Any

import pandas as pd
from support.cells_of import said, tables_of

from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.report.write import write_report

UCF = {
    "dataset": "ucf",
    "features": "cls",
    "alignment": "official",
    "variant": "published",
    "kind": "published",
}


def test_numbers_of_every_origin_are_listed_papers_first(store: Any, unit: Any, tmp_path: Any) -> None:
    store.call([unit(**UCF), unit(method="mine", **UCF)])

    table = tables_of(collect(store.tracker))["references"]
    write_report(store.tracker, tmp_path)

    rows = [
        (r["Method"], r["S"], r["HM"], r["ZSL"], r["Source"], r["Origin"])
        for r in table.cells.to_dict("records")
    ]
    own = "user's own training"
    assert rows == [
        ("TCAF", "67.14", "50.78", "44.64", "TCAF, ECCV 2022, Table 1", "paper"),
        ("TCAF", "25.92", "30.22", "36.47", f"issue 2 of ExplainableML/TCAF-GZSL, {own}", "user's report"),
        ("TCAF", "–", "27.99", "28.42", f"issue 15 of ExplainableML/TCAF-GZSL, {own}", "user's report"),
    ]
    assert set(table.cells["Seeds"]) == {"1"}
    assert set(table.cells["Protocol"]) == {"paper, official assignment"}
    frame = pd.read_csv(tmp_path / "references.csv")
    assert list(frame["HM_percent"]) == [50.78, 30.22, 27.99]
    assert list(frame["origin"]) == ["paper", "user-report", "user-report"]
    assert frame["url"].str.startswith("https://").all()
    assert "`references.csv`" in (tmp_path / "report.md").read_text()


def test_second_hand_numbers_are_called_so(store: Any, unit: Any) -> None:
    store.call([unit(**{**UCF, "features": "main"})])

    table = tables_of(collect(store.tracker))["references"]

    assert list(table.cells["Origin"]) == ["second-hand"]
    assert "second-hand (not from the method's authors)" in said(table)


def test_feature_sets_are_listed_apart(store: Any, unit: Any) -> None:
    store.call([unit(**{**UCF, "features": f}) for f in ("cls", "main")])

    tables = [t for t in build_tables(collect(store.tracker)) if t.name == "references"]

    assert [list(t.cells["HM"]) for t in tables] == [["50.78", "30.22", "27.99"], ["31.72"]]


def test_generated_data_are_told_from_those_of_the_sources(store: Any, unit: Any) -> None:
    store.call([unit(**{**UCF, "kind": "generated"})])

    assert "synthetic (UCF); these numbers are not" in said(tables_of(collect(store.tracker))["references"])


def test_data_that_nobody_published_on_have_no_references(store: Any, unit: Any, tmp_path: Any) -> None:
    store.call([unit()])

    write_report(store.tracker, tmp_path)

    assert not (tmp_path / "references.csv").exists()


def test_long_tables_are_kept_off_the_screen(store: Any, unit: Any) -> None:
    store.call(
        [
            unit(tuned=[(0.5, 0.3)], trials=2, **UCF),
            unit(**{**UCF, "mode": "corrected", "alignment": "by_name"}),
        ]
    )

    shown = {t.name: t.screen for t in build_tables(collect(store.tracker))}

    assert shown == {
        "gzsl": True,
        "zsl": True,
        "modes": True,
        "full": False,
        "intervals": False,
        "tuning": False,
        "references": False,
    }
