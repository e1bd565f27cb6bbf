"""Both modes side by side, the group-disjoint test, and lost jobs of ablations."""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd
import pytest
from scipy import stats
from support.cells_of import row, said, tables_of

from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.means import ablation_effects
from benchmark.report.write import write_report

PAPER = {"mode": "paper", "alignment": "official"}
CORRECTED = {"mode": "corrected", "alignment": "by_name"}


def test_modes_stand_side_by_side_with_the_difference_seed_by_seed(
    store: Any, unit: Any, tmp_path: Any
) -> None:
    paper = [(0.4, 0.2), (0.5, 0.3), (0.6, 0.4), (0.5, 0.3), (0.5, 0.3)]
    corrected = [(0.3, 0.25), (0.6, 0.4), (0.4, 0.1), (0.5, 0.3), (0.45, 0.25)]
    store.call([unit(scores=paper, **PAPER), unit(scores=corrected, **CORRECTED)])

    table = tables_of(collect(store.tracker))["modes"]
    write_report(store.tracker, tmp_path)

    cells = row(table, Method="TCAF")
    differences = [-10, 10, -20, 0, -5]
    expected = stats.ttest_rel(*([100 * s for s, _ in mode] for mode in (corrected, paper)))
    low, high = expected.confidence_interval(0.95)
    assert (cells["S paper"], cells["S corrected"]) == ("50.00 ± 8.78", "45.00 ± 13.88")
    assert cells["S difference"] == f"{statistics.mean(differences):.2f} ± {(high - low) / 2:.2f}"
    assert cells["S difference"].startswith("-5.00 ± 13"), "paired by seed"
    assert cells["ZSL difference"].startswith("-4.80 ± "), "of 6, 12, -36, 0 and -6"
    assert (cells["Assignment"], cells["Seeds"]) == ("official → by_name", "5")
    assert not table.bold.to_numpy().any()
    for part in (
        "paired by seed",
        "corrected − paper in percentage points",
        "is the effect of all protocol flags together",
    ):
        assert part in said(table)
    numbers = pd.read_csv(tmp_path / "modes.csv").iloc[0]
    assert numbers["seen_difference"] == pytest.approx(-5)
    assert numbers["seen_difference_std"] == pytest.approx(statistics.stdev(differences))
    ends = (numbers["seen_difference_low"], numbers["seen_difference_high"])
    assert ends == pytest.approx((low, high), abs=1e-6)
    assert (numbers["method"], numbers["variant"], numbers["seeds"]) == ("tcaf", "default", 5)


def test_a_difference_of_modes_over_few_seeds_has_the_range_of_its_seeds(store: Any, unit: Any) -> None:
    store.call(
        [
            unit(scores=[(0.4, 0.2), (0.5, 0.3), (0.6, 0.4)], **PAPER),
            unit(scores=[(0.6, 0.25), (0.5, 0.4), (0.7, 0.1)], **CORRECTED),
        ]
    )

    table = tables_of(collect(store.tracker))["modes"]

    cells = row(table, Method="TCAF")
    assert (cells["S paper"], cells["S corrected"]) == ("50.00 (40.00 to 60.00)", "60.00 (50.00 to 70.00)")
    assert cells["S difference"] == "+10.00 (0.00 to 20.00)", "of 20, 0 and 10"
    assert cells["ZSL difference"] == "-6.00 (-36.00 to 12.00)", "of 6, 12 and -36"
    assert "In parentheses: the lowest and the highest seed." in said(table)


def test_the_difference_is_over_the_seeds_that_both_modes_have(store: Any, unit: Any) -> None:
    store.call([unit(scores=[(0.4, 0.2), None], **PAPER), unit(scores=[(0.5, 0.2), (0.9, 0.2)], **CORRECTED)])

    cells = row(tables_of(collect(store.tracker))["modes"], Method="TCAF")

    assert (cells["S paper"], cells["S corrected"]) == ("40.00", "50.00"), "both of the one seed"
    assert (cells["S difference"], cells["Seeds"]) == ("+10.00", "1")


def test_modes_without_a_seed_in_common_have_no_row(store: Any, unit: Any) -> None:
    store.call([unit(scores=[(0.4, 0.2), None], **PAPER), unit(scores=[None, (0.9, 0.2)], **CORRECTED)])

    assert "modes" not in tables_of(collect(store.tracker))


def test_an_ablation_and_its_effect_are_over_the_seeds_that_both_have(store: Any, unit: Any) -> None:
    """Of the switch alone one seed of three has a result.

    Of the other one a seed that the first row has not.
    """
    place = {
        "benchmark_run": "c",
        "dataset": "ucf",
        "features": "cls",
        "method": "tcaf",
        "zsl": 0.1,
        "unseen": 0.1,
        "seen": 0.1,
        "ausuc": 0.1,
    }
    jobs = [
        ("", [0.10, 0.20, 0.60, None]),
        ("video_norm", [0.15, None, None, None]),
        ("calibration", [None, None, None, 0.5]),
    ]
    frame = pd.DataFrame(
        [
            {
                **place,
                "ablation": ablation,
                "repetition": i,
                "seed": i,
                "hm": hm,
                "state": "failed" if hm is None else "done",
            }
            for ablation, scores in jobs
            for i, hm in enumerate(scores)
        ]
    )

    base, one, other = ablation_effects(frame).to_dict("records")

    assert (base["seeds"], base["hm"], base["hm_effect"]) == (3, pytest.approx(30), 0)
    assert (one["seeds"], one["hm"], one["hm_base"]) == (1, pytest.approx(15), pytest.approx(10))
    assert one["hm_effect"] == pytest.approx(one["hm"] - one["hm_base"])
    assert (other["seeds"], other["hm"]) == (1, pytest.approx(50))
    assert pd.isna(other["hm_effect"]), "no seed in common"


def test_each_data_set_and_kind_of_settings_is_paired_with_itself(store: Any, unit: Any) -> None:
    store.call(
        [
            unit(
                dataset=d,
                method="avca",
                scores=[(s, 0.2)],
                tuned=[(s + 0.1, 0.2)],
                trials=2,
                kind=kind,
                **mode,
            )
            for mode, more in ((PAPER, 0.0), (CORRECTED, 0.05))
            for d, s, kind in (("ucf", 0.3 + more, "published"), ("synthetic", 0.5 + 2 * more, "generated"))
        ]
    )

    table = tables_of(collect(store.tracker))["modes"]

    found = {
        (r["Dataset"], r["Settings"]): (r["S paper"], r["S difference"])
        for r in table.cells.to_dict("records")
    }
    assert found == {
        ("UCF", "default"): ("30.00", "+5.00"),
        ("UCF", "tuned: one search, 1 training"): ("40.00", "+5.00"),
        ("Synthetic", "default"): ("50.00", "+10.00"),
        ("Synthetic", "tuned: one search, 1 training"): ("60.00", "+10.00"),
    }
    assert "Synthetic data: Synthetic." in said(table)


def test_modes_that_differ_in_more_than_switches_say_so(store: Any, unit: Any) -> None:
    switch = {"protocol.tcaf_pairing": "x", "tcaf.pairing": "x"}
    calls = [
        store.call([unit(epochs=5, params=switch, **PAPER)]),
        store.call([unit(epochs=9, params={**switch, "tcaf.pairing": "y"}, **CORRECTED)]),
    ]

    table = tables_of(collect(store.tracker, calls))["modes"]

    assert table.notes[1:] == [
        "TCAF on Stamps, default: the modes also differ in other settings (train.epochs)."
    ]


def test_a_switch_that_is_fixed_in_both_modes_is_named(store: Any, unit: Any) -> None:
    fixed = {"protocol.calibration": "corrected"}
    store.call([unit(params=fixed, **PAPER), unit(params=fixed, **CORRECTED)])

    table = tables_of(collect(store.tracker))["modes"]

    assert "Set in both modes, so without effect here: calibration = corrected." in said(table)
    assert list(table.cells["Settings"]) == ["default calibration = corrected in mode paper"]


def test_runs_that_differ_in_switches_alone_are_paired_and_told_apart(store: Any, unit: Any) -> None:
    calls = [
        store.call([unit(scores=[(0.4, 0.2)], **PAPER), unit(scores=[(0.5, 0.2)], **CORRECTED)]),
        store.call([unit(scores=[(0.3, 0.2)], params={"protocol.calibration": "corrected"}, **PAPER)]),
    ]

    table = tables_of(collect(store.tracker, calls))["modes"]

    found = dict(zip(table.cells["Settings"], table.cells["S difference"], strict=True))
    assert found == {"default": "+10.00", "default calibration = corrected in mode paper": "+20.00"}


def test_modes_of_several_calls_are_paired_where_their_settings_are_equal(store: Any, unit: Any) -> None:
    calls = [
        store.call(
            [unit(epochs=2, scores=[(0.4, 0.2)], **PAPER), unit(epochs=2, scores=[(0.5, 0.2)], **CORRECTED)]
        ),
        store.call([unit(epochs=3, scores=[(0.9, 0.2)], **PAPER)]),
    ]

    table = tables_of(collect(store.tracker, calls))["modes"]

    assert list(table.cells["Settings"]) == ["default train.epochs=2"], "three epochs have no partner"
    assert (table.cells["S paper"][0], table.cells["S corrected"][0]) == ("40.00", "50.00")
    assert table.notes[1:] == []


def test_what_no_mode_changes_is_no_switch(store: Any, unit: Any) -> None:
    calls = [
        store.call([unit(params={"protocol.seen_test": s}, **mode)])
        for s, mode in (("published", PAPER), ("group_disjoint", CORRECTED))
    ]

    table = tables_of(collect(store.tracker, calls))["modes"]

    assert table.notes[1:] == [
        "TCAF on Stamps, default: the modes also differ in other settings (protocol.seen_test)."
    ]


def test_one_mode_alone_has_nothing_beside_it(store: Any, unit: Any) -> None:
    store.call([unit(**PAPER), unit(method="avca", **CORRECTED)])

    assert "modes" not in tables_of(collect(store.tracker))


def test_feature_sets_have_tables_of_modes_of_their_own(store: Any, unit: Any) -> None:
    store.call([unit(features=f, **mode) for mode in (PAPER, CORRECTED) for f in ("main", "cls")])

    tables = [t for t in build_tables(collect(store.tracker)) if t.name == "modes"]

    assert [t.title.split(", ")[-1] for t in tables] == ["features main", "features cls"]
    assert [len(t.cells) for t in tables] == [1, 1]


def test_group_disjoint_results_stand_beside_the_published_split(
    store: Any, unit: Any, tmp_path: Any
) -> None:
    some = {"samples": 12, "classes": 5, "seen": 0.25, "hm": 0.22}
    store.call(
        [
            unit(dataset="stamps", scores=[(0.4, 0.2), (0.6, 0.2)], disjoint=some),
            unit(dataset="ucf", scores=[(0.4, 0.2)], disjoint={"samples": 0, "classes": 0}),
        ]
    )

    table = tables_of(collect(store.tracker))["disjoint"]
    write_report(store.tracker, tmp_path)

    stamps, ucf = (row(table, Dataset=name) for name in ("Stamps", "UCF"))
    assert stamps["S published split"] == "50.00 (40.00 to 60.00)"
    assert stamps["S disjoint"] == "25.00 (25.00 to 25.00)"
    assert (stamps["HM disjoint"], stamps["Remaining samples"], stamps["Remaining classes"]) == (
        "22.00 (22.00 to 22.00)",
        "12",
        "5",
    )
    assert (ucf["S disjoint"], ucf["HM disjoint"], ucf["Remaining samples"]) == (
        "none remain",
        "none remain",
        "0",
    )
    assert ucf["S published split"] == "40.00"
    frame = pd.read_csv(tmp_path / "disjoint.csv").set_index("dataset")
    assert frame.loc["stamps", "S_disjoint_percent"] == pytest.approx(25)
    assert frame.loc["ucf", "disjoint_samples"] == 0
    assert pd.isna(frame.loc["ucf", "S_disjoint_percent"])


def test_only_rows_that_were_tested_so_are_in_the_disjoint_table(
    store: Any, unit: Any, tmp_path: Any
) -> None:
    asked = unit(scores=[(0.4, 0.2), None], disjoint={"samples": 1, "classes": 1, "seen": 0.5, "hm": 0.3})
    store.call([asked, unit(method="avca")])

    table = tables_of(collect(store.tracker))["disjoint"]

    assert list(table.cells["Method"]) == ["TCAF"]
    assert table.cells["S disjoint"][0] == "50.00‡", "a lost seed of a row counts as planned"


def test_nothing_is_said_of_a_disjoint_test_that_no_job_made(store: Any, unit: Any, tmp_path: Any) -> None:
    store.call([unit()])

    write_report(store.tracker, tmp_path)

    assert not (tmp_path / "disjoint.csv").exists()
    assert "without a relative" not in (tmp_path / "report.md").read_text()


def test_lost_jobs_of_an_ablation_are_named_but_not_in_the_other_tables(
    store: Any, unit: Any, tmp_path: Any
) -> None:
    call = store.call([unit()])
    entries = store.tracker.read_json(call, "jobs.json")
    lost = {"job_key": "lost", "state": "failed", "error": "loss is not a number", "ablation": "video_norm"}
    store.tracker.log_json(call, [*entries, {**entries[0], **lost, "stage": 1}], "jobs.json")

    report = write_report(store.tracker, tmp_path)

    where = "TCAF on stamps/native, mode paper, ablation video_norm, default settings, seed 0, stage 1"
    assert report.failed == [f"{where}: failed: loss is not a number"]
    assert all("Failed or not run" not in said(t) for t in report.tables)
