"""Weights from run folders of the published code stand below the retrained rows, if tested on the report's
data."""

from __future__ import annotations

from typing import Any

import pytest
from support.cells_of import row, said, tables_of

from benchmark.errors import UsageError
from benchmark.report.results.collect import collect
from benchmark.report.write import write_report

UCF = {
    "dataset": "ucf",
    "features": "cls",
    "alignment": "official",
    "variant": "published",
    "kind": "published",
}


def test_released_weights_have_a_row_below_the_methods_others(store: Any, unit: Any) -> None:
    store.call([unit(tuned=[(0.5, 0.3)], trials=2, **UCF), unit(method="cjme", **UCF)])
    store.released(unit(**UCF), (0.6714, 0.4083))

    tables = tables_of(collect(store.tracker))

    for name in ("gzsl", "zsl", "full"):
        rows = list(zip(tables[name].cells["Method"], tables[name].cells["Settings"], strict=True))
        assert rows == [
            ("CJME", "published"),
            ("TCAF", "published"),
            ("TCAF", "tuned: one search, 1 training"),
            ("TCAF", "released weights"),
        ]
        (note,) = [note for note in tables[name].facts if note.startswith("Released weights")]
        assert "checkpoints of the published code, from its authors or a user, evaluated here" in note
    released = row(tables["gzsl"], Settings="released weights")
    assert (released["S ours"], released["S published"]) == ("67.14", ""), "the published number stands once"
    assert row(tables["zsl"], Settings="released weights")["ZSL ours"] == "49.00"
    full = row(tables["full"], Settings="released weights")
    assert (full["Beta"], full["Epochs"], full["Seeds"]) == ("1.40", "–", "1")
    caption = said(tables["gzsl"])
    assert "over 1 to 2 seeds" in caption, "of the retrained rows: 2 seeds, and 1 of the tuned"
    assert "? epochs" not in caption


def test_released_weights_do_not_compete_with_means_over_seeds(store: Any, unit: Any) -> None:
    store.call([unit(method="cjme", scores=[(0.3, 0.1)] * 5, **UCF), unit(scores=[(0.4, 0.2)] * 5, **UCF)])
    store.released(unit(**UCF), (0.9, 0.8))

    table = tables_of(collect(store.tracker))["gzsl"]

    assert list(table.bold["S ours"]) == [False, True, False]


def test_a_method_that_was_not_retrained_has_its_released_row_alone(store: Any, unit: Any) -> None:
    store.call([unit(method="cjme", **UCF)])
    store.released(unit(method="avca", **UCF), (0.6, 0.3))

    table = tables_of(collect(store.tracker))["gzsl"]

    assert list(table.cells["Method"]) == ["CJME", "AVCA"]
    assert row(table, Method="AVCA")["HM published"] == "41.34"


def test_the_newest_test_of_the_same_weights_counts_and_different_weights_are_told_apart(
    store: Any, unit: Any
) -> None:
    store.call([unit(**UCF)])
    store.released(unit(**UCF), (0.1, 0.1))
    store.released(unit(**UCF), (0.6, 0.3))
    store.released(unit(**UCF), (0.7, 0.3), weights="cccc3333dddd4444")
    store.released(unit(**UCF, params={"protocol.calibration": "corrected"}), (0.8, 0.3))

    table = tables_of(collect(store.tracker))["gzsl"]

    assert row(table, Settings="released weights aaaa1111")["S ours"] == "60.00"
    assert row(table, Settings="released weights cccc3333")["S ours"] == "70.00"
    assert row(table, Settings="released weights aaaa1111, calibration = corrected")["S ours"] == "80.00"


def test_tests_of_the_same_weights_under_other_settings_have_rows_of_their_own(store: Any, unit: Any) -> None:
    store.call([unit(**UCF)])
    one = {"train.precision": "32", "lengths.test": "60", "tcaf.layers": "6"}
    store.released(unit(**UCF, params=one), (0.1, 0.1))
    store.released(unit(**UCF, params={**one, "train.precision": "16"}), (0.6, 0.3))
    store.released(unit(**UCF, params={**one, "lengths.test": "300"}), (0.7, 0.3))
    store.released(unit(**UCF, params=one), (0.5, 0.3))

    table = tables_of(collect(store.tracker))["gzsl"]

    assert {
        r["Settings"]: r["S ours"] for r in table.cells.to_dict("records") if r["Settings"] != "published"
    } == {
        "released weights lengths.test=60, train.precision=32": "50.00",
        "released weights lengths.test=60, train.precision=16": "60.00",
        "released weights lengths.test=300, train.precision=32": "70.00",
    }


def test_modes_of_released_weights_that_were_tested_under_other_settings_say_so(
    store: Any, unit: Any
) -> None:
    store.call([unit(**UCF)])
    store.released(unit(**UCF, params={"train.precision": "32"}), (0.6, 0.3))
    corrected = {**UCF, "mode": "corrected", "alignment": "by_name"}
    store.released(unit(**corrected, params={"train.precision": "16"}), (0.5, 0.3))

    table = tables_of(collect(store.tracker))["modes"]

    assert table.notes[2:] == [
        "TCAF on UCF, released weights: the modes also differ in other settings (train.precision)."
    ]


def test_modes_of_different_weights_are_not_paired(store: Any, unit: Any) -> None:
    store.call([unit(**UCF)])
    corrected = {**UCF, "mode": "corrected", "alignment": "by_name"}
    store.released(unit(**UCF), (0.6, 0.3))
    store.released(unit(**corrected), (0.5, 0.3), weights="cccc3333dddd4444")
    assert "modes" not in tables_of(collect(store.tracker))

    store.released(unit(**corrected), (0.4, 0.3))
    table = tables_of(collect(store.tracker))["modes"]
    assert row(table, Settings="released weights aaaa1111")["S difference"] == "-20.00"


@pytest.mark.parametrize(("tag", "mark"), [("true", ""), ("false", "§"), (None, "§")])
def test_released_weights_are_comparable_where_their_settings_are_known_to_be_the_published_ones(
    store: Any, unit: Any, tag: str | None, mark: str
) -> None:
    store.released(unit(**UCF), (0.6, 0.3), published_settings=tag)

    table = tables_of(collect(store.tracker))["gzsl"]

    assert row(table, Method="TCAF")["HM published"] == f"50.78{mark}"
    notes = [n for n in table.notes if n.startswith("§")]
    assert all(
        n.endswith("not comparable with this row, which has settings of the run folder.") for n in notes
    )
    assert len(notes) == len(mark)


def test_both_modes_of_released_weights_are_paired(store: Any, unit: Any) -> None:
    store.call([unit(**UCF)])
    store.released(unit(**UCF), (0.6, 0.3))
    store.released(unit(**{**UCF, "mode": "corrected", "alignment": "by_name"}), (0.5, 0.3))

    table = tables_of(collect(store.tracker))["modes"]

    cells = row(table, Settings="released weights")
    assert (cells["S paper"], cells["S corrected"], cells["S difference"]) == ("60.00", "50.00", "-10.00")
    assert "only the evaluation differs" in said(table)


def test_weights_tested_on_other_data_are_named_and_left_out(store: Any, unit: Any) -> None:
    store.call([unit(**UCF)])
    store.released(unit(**UCF, digest="otherdata"), (0.6, 0.3))

    results = collect(store.tracker)
    tables = tables_of(results)

    assert list(tables["gzsl"].cells["Settings"]) == ["published"]
    (note,) = [n for n in tables["gzsl"].facts if n.startswith("Omitted")]
    for part in ("TCAF (weights aaaa1111)", "UCF/cls, mode paper", "otherdat", "digest-o", "evaluate"):
        assert part in note
    assert not any("Released weights:" in n for n in tables["gzsl"].facts)


def test_an_older_test_on_the_reports_data_counts_before_a_newer_one_on_other_data(
    store: Any, unit: Any
) -> None:
    store.call([unit(**UCF)])
    store.released(unit(**UCF), (0.6, 0.3))
    store.released(unit(**UCF, digest="otherdata"), (0.1, 0.1))

    table = tables_of(collect(store.tracker))["gzsl"]

    assert row(table, Settings="released weights")["S ours"] == "60.00"
    assert not any(n.startswith("Omitted") for n in table.facts)


def test_where_calls_have_different_data_the_row_names_its_own(store: Any, unit: Any) -> None:
    calls = [store.call([unit(**UCF, digest=d, params={"x": d})]) for d in ("firstdata", "otherdata")]
    store.released(unit(**UCF, digest="firstdata"), (0.6, 0.3))

    table = tables_of(collect(store.tracker, calls))["gzsl"]

    assert row(table, Settings="released weights digest=firstdat")["S ours"] == "60.00"


@pytest.mark.parametrize("other", [{"dataset": "activitynet"}, {"features": "main"}])
def test_data_and_features_that_the_report_does_not_test_stay_out(
    store: Any, unit: Any, other: dict[str, str]
) -> None:
    store.call([unit(**UCF)])
    store.released(unit(**{**UCF, **other}), (0.6, 0.3))

    assert set(collect(store.tracker).test["variant"]) == {"published"}


def test_our_own_weights_are_the_retrained_rows_already(store: Any, unit: Any) -> None:
    store.call([unit(**UCF)])
    store.released(unit(**UCF), (0.6, 0.3), origin="ours")

    assert set(collect(store.tracker).test["variant"]) == {"published"}


@pytest.mark.painted
def test_a_report_of_released_weights_alone_is_whole(store: Any, unit: Any, tmp_path: Any) -> None:
    store.released(unit(**UCF), (0.6714, 0.4083))
    store.released(unit(method="avca", **UCF), (0.6, 0.3))
    run = store.released(unit(**UCF), (0.6714, 0.4083))

    report = write_report(store.tracker, tmp_path)

    names = {p.name for p in tmp_path.iterdir()}
    assert {"report.md", "gzsl.csv", "zsl.csv", "full.csv", "results.csv", "references.csv"} <= names
    assert {f"curve-ucf-cls-paper-official-released.{end}" for end in ("csv", "png", "svg")} <= names
    text = (tmp_path / "report.md").read_text()
    for part in (
        "released weights",
        "stage A and stage B",
        "`aaaa1111bbbb2222`",
        "`digest-of-ucf`",
        f"`{run}`",
    ):
        assert part in text
    assert row(next(t for t in report.tables if t.name == "gzsl"), Method="TCAF")["HM published"] == "50.78"
    assert "seeds" not in said(next(t for t in report.tables if t.name == "zsl")).split("Published:")[0]
    assert report.failed == []


def test_an_id_of_a_call_is_still_needed_to_exist(store: Any, unit: Any) -> None:
    store.released(unit(**UCF), (0.6, 0.3))

    with pytest.raises(UsageError, match="no benchmark run yet"):
        collect(store.tracker, ["zzz"])
