"""Tables and captions, from a real store."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from support.cells_of import row, tables_of

from benchmark.errors import UsageError
from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables


def hm(seen: float, unseen: float) -> float:
    return 2 * seen * unseen / (seen + unseen)


def test_cells_are_mean_and_sample_deviation_over_seeds_in_percent(store: Any, unit: Any) -> None:
    store.call([unit(scores=[(0.4, 0.2), (0.5, 0.3), (0.45, 0.1)])])

    tables = tables_of(collect(store.tracker))

    hms = [100 * hm(0.4, 0.2), 100 * hm(0.5, 0.3), 100 * hm(0.45, 0.1)]
    cells = row(tables["gzsl"], Method="TCAF")
    assert cells["S"] == "45.00 ± 5.00"
    assert cells["U"] == "20.00 ± 10.00"
    assert cells["HM"] == f"{statistics.mean(hms):.2f} ± {statistics.stdev(hms):.2f}"
    assert row(tables["zsl"], Method="TCAF")["ZSL"] == "24.00 ± 12.00"
    full = row(tables["full"], Method="TCAF")
    assert (full["beta"], full["Seeds"], full["Epochs"]) == ("0.60 ± 0.20", "3", "5.0 ± 0.0")
    assert full["AUSUC"].startswith("7.33 ±"), "0.8 · (0.08 + 0.15 + 0.045) / 3"
    assert "over 3 seeds" in tables["gzsl"].caption


def test_one_seed_has_no_deviation(store: Any, unit: Any) -> None:
    store.call([unit(scores=[(0.4, 0.2)])])

    table = tables_of(collect(store.tracker))["gzsl"]

    assert row(table, Method="TCAF")["S"] == "40.00"
    assert "single seed" in table.caption


def test_the_best_of_each_column_is_bold_published_and_ours_apart(store: Any, unit: Any) -> None:
    ucf = {
        "dataset": "ucf",
        "features": "cls",
        "alignment": "official",
        "variant": "published",
        "kind": "published",
    }
    store.call(
        [
            unit(method="avgzslnet", scores=[(0.3, 0.5)], **ucf),
            unit(method="tcaf", scores=[(0.4, 0.2)], **ucf),
        ]
    )

    table = tables_of(collect(store.tracker))["gzsl"]

    bold = {(r["Method"], c) for r, b in zip(table.cells.to_dict("records"), table.bold.to_dict("records"), strict=True) for c in b if b[c]}  # fmt: skip # noqa: E501
    assert bold == {
        ("AVGZSLNet", "S published"),
        ("TCAF", "U published"),
        ("TCAF", "HM published"),
        ("TCAF", "S ours"),
        ("AVGZSLNet", "U ours"),
        ("AVGZSLNet", "HM ours"),
    }
    assert "**74.79**" in table.markdown()


def test_published_numbers_stand_beside_ours(store: Any, unit: Any) -> None:
    ucf = {
        "dataset": "ucf",
        "features": "cls",
        "alignment": "official",
        "variant": "published",
        "kind": "published",
    }
    store.call([unit(method="tcaf", tuned=[(0.5, 0.3)], trials=4, **ucf), unit(method="mine", **ucf)])

    tables = tables_of(collect(store.tracker))

    ours = row(tables["gzsl"], Method="TCAF", Settings="published")
    assert (ours["S published"], ours["U published"], ours["HM published"]) == ("67.14", "40.83", "50.78")
    assert row(tables["zsl"], Method="TCAF", Settings="published")["ZSL published"] == "44.64"
    assert row(tables["gzsl"], Method="TCAF", Settings="tuned")["HM published"] == ""
    assert row(tables["gzsl"], Method="mine")["HM published"] == "–"
    assert "Published: TCAF, ECCV 2022, Table 1 (single seed" in tables["gzsl"].caption
    assert any("30.22" in note and "27.99" in note for note in tables["gzsl"].notes)


def test_second_hand_numbers_are_marked_and_empty_published_columns_left_out(store: Any, unit: Any) -> None:
    store.call([unit(dataset="ucf", features="main", alignment="official", variant="published")])

    table = tables_of(collect(store.tracker))["gzsl"]

    assert row(table, Method="TCAF")["HM published"] == "31.72†"
    assert "S published" not in table.cells
    assert any(note.startswith("†") and "MSTR" in note for note in table.notes)


def test_data_without_published_numbers_have_no_published_columns(store: Any, unit: Any) -> None:
    store.call([unit()])

    assert list(tables_of(collect(store.tracker))["gzsl"].cells) == ["Method", "Settings", "S", "U", "HM"]


def test_several_data_sets_stand_in_one_table_and_can_be_cut_apart(store: Any, unit: Any) -> None:
    common = {"features": "cls", "alignment": "official", "variant": "published"}
    store.call(
        [unit(dataset=d, method=m, **common) for d in ("ucf", "activitynet") for m in ("tcaf", "avca")]
    )

    table = tables_of(collect(store.tracker))["gzsl"]

    assert list(table.cells["Method"]) == ["AVCA", "TCAF"]
    assert row(table, Method="TCAF")["UCF HM published"] == "50.78"
    assert row(table, Method="TCAF")["Activitynet HM published"] == "12.20"
    first, second = table.panels()
    assert [c for c in first.cells if "Activitynet" in c] == []
    assert [c for c in second.cells if "UCF" in c] == []
    assert list(second.cells["Method"]) == ["AVCA", "TCAF"]


def test_different_features_never_share_a_table(store: Any, unit: Any) -> None:
    store.call([unit(), unit(dataset="ucf", features="cls", alignment="official", variant="published")])

    tables = [t for t in build_tables(collect(store.tracker)) if t.name == "gzsl"]

    assert len(tables) == 2
    assert ["features native" in t.caption for t in tables] == [True, False]
    assert [any("published" in c for c in t.cells) for t in tables] == [False, True]


def test_mode_both_stands_side_by_side_with_rows_marked(store: Any, unit: Any) -> None:
    common = {"dataset": "ucf", "features": "cls", "variant": "published"}
    store.call(
        [
            unit(method=m, mode=mode, alignment=a, scores=[(s, 0.2)], **common)
            for m, s in (("tcaf", 0.4), ("avca", 0.3))
            for mode, a in (("paper", "official"), ("corrected", "by_name"))
        ]
    )

    table = tables_of(collect(store.tracker))["gzsl"]

    marks = list(zip(table.cells["Method"], table.cells["Protocol"], strict=True))
    assert marks == [
        (m, p) for m in ("AVCA", "TCAF") for p in ("paper, official text", "corrected, by_name text")
    ]
    assert row(table, Method="TCAF", Protocol="corrected, by_name text")["HM published"] == ""
    assert list(table.bold["S ours"]) == [False, False, True, True]
    assert "Modes paper and corrected" in table.caption


def test_captions_say_what_a_reader_must_know(store: Any, unit: Any) -> None:
    store.call(
        [
            unit(method="tcaf", caption="drawings of stamps", reduced=True, tuned=[(0.5, 0.3)] * 2, trials=3),
            unit(
                method="perceiver", caption="drawings of stamps", tuned=[(0.5, 0.3)] * 2, trials=3, epochs=9
            ),
        ]
    )

    table = tables_of(collect(store.tracker))["gzsl"]

    for part in (
        "Mode paper, text alignment by_name, features native.",
        "over 2 seeds",
        "Tuning budget: 3 trials",
        "8 epochs × 40 batches of 64 (TCAF)",
        "9 epochs × 40 batches of 64 (Perceiver)",
        "Stamps: drawings of stamps.",
        "Smaller model sizes than published: TCAF.",
    ):
        assert part in table.caption
    assert "Perceiver¹" in list(table.cells["Method"])
    assert any(note.startswith("¹ Our adaptation") for note in table.notes)


def test_generated_data_and_no_tuning_and_changed_switches_are_named(store: Any, unit: Any) -> None:
    store.call([unit(dataset="synthetic", kind="generated", params={"protocol.calibration": "corrected"})])

    caption = tables_of(collect(store.tracker))["gzsl"].caption

    assert "Synthetic: synthetic data." in caption
    assert "No tuning." in caption
    assert "calibration = corrected" in caption


def test_failed_jobs_are_counted_named_and_do_not_stop_the_others(store: Any, unit: Any) -> None:
    store.call([unit(scores=[(0.4, 0.2), None]), unit(method="avca", scores=[None, None])])

    results = collect(store.tracker)
    table = tables_of(results)["gzsl"]

    assert row(table, Method="TCAF")["S"] == "40.00‡"
    assert row(table, Method="AVCA")["S"] == "not run"
    assert "3 failed, 3 not run" in table.caption
    assert "AVCA on stamps, paper, default, seed 1, stages 1 and 2" in table.caption
    assert any(
        note.startswith("‡") and "TCAF on stamps, paper, default: 1 of 2" in note for note in table.notes
    )
    assert {p.reason for p in results.problems} == {"loss is not a number in epoch 3", "stage 1 is failed"}
    assert not table.bold.to_numpy().any(), "one method alone is not the best of anything"


def test_a_job_that_another_call_ran_counts(store: Any, unit: Any) -> None:
    first = store.call([unit(scores=[(0.4, 0.2)])])
    second = store.call([unit(scores=[(0.4, 0.2), (0.6, 0.2)])])

    results = collect(store.tracker, [second])

    assert first != second
    assert row(tables_of(results)["gzsl"], Method="TCAF")["S"] == "50.00 ± 14.14"


def test_calls_with_the_same_jobs_are_not_counted_twice(store: Any, unit: Any) -> None:
    ids = [store.call([unit(scores=[(0.4, 0.2)])]), store.call([unit(scores=[(0.4, 0.2), (0.6, 0.2)])])]

    full = row(tables_of(collect(store.tracker, ids))["full"], Method="TCAF")

    assert full["Seeds"] == "2"


def test_runs_of_different_settings_are_not_averaged(store: Any, unit: Any) -> None:
    ids = [
        store.call([unit(scores=[(0.4, 0.2)], epochs=2)]),
        store.call([unit(scores=[(0.6, 0.2)], epochs=50)]),
    ]

    table = tables_of(collect(store.tracker, ids))["gzsl"]

    assert row(table, Settings="default train.epochs=2")["S"] == "40.00"
    assert row(table, Settings="default train.epochs=50")["S"] == "60.00"


def test_stage_1_alone_gives_a_validation_table(store: Any, unit: Any) -> None:
    store.call([unit(), unit(method="avca")], stages="1")

    results = collect(store.tracker)
    tables = tables_of(results)

    assert set(tables) == {"validation"}
    assert row(tables["validation"], Method="TCAF")["S"] == "45.00 ± 7.07"
    assert row(tables["validation"], Method="TCAF")["Epochs"] == "5.0 ± 0.0"
    assert "without test" in tables["validation"].caption
    assert results.test.empty
    assert set(results.validation["split"]) == {"validation"}


def test_tuning_that_kept_the_starting_settings_is_told(store: Any, unit: Any) -> None:
    store.call([unit(tuned=[(0.4, 0.2), (0.5, 0.3)], trials=3, best_values={})])

    tables = tables_of(collect(store.tracker))

    assert any(
        note.startswith("No trial beat the untuned settings") and "TCAF" in note
        for note in tables["gzsl"].notes
    )
    assert row(tables["tuning"], Method="TCAF")["Best hyperparameters"] == "the untuned settings"
    assert row(tables["tuning"], Method="TCAF")["Trials"] == "3 (1 pruned, 0 failed)"


def test_a_store_without_calls_says_how_to_start_one(store: Any) -> None:
    with pytest.raises(UsageError, match="no benchmark run yet"):
        collect(store.tracker)


def test_an_unknown_call_is_answered_with_the_known_ones(store: Any, unit: Any) -> None:
    call = store.call([unit()])

    with pytest.raises(UsageError, match=f"no run 'zzz'.*{call}"):
        collect(store.tracker, ["zzz"])
    assert collect(store.tracker, [call[:8]]).calls[0].run_id == call


def test_a_call_without_results_says_why(store: Any, unit: Any) -> None:
    store.call([unit(scores=[None])])
    empty = store.call([], status="KILLED")

    with pytest.raises(UsageError, match=f"no results yet in benchmark run {empty}.*killed"):
        collect(store.tracker, [empty])
    with pytest.raises(UsageError, match="loss is not a number"):
        collect(
            store.tracker, [c.run_id for c in store.tracker.find(kind="benchmark_run") if c.run_id != empty]
        )


def test_a_call_that_only_tuned_gives_the_tuning_table(store: Any, unit: Any) -> None:
    store.call([unit(scores=[], trials=3, best_values={"lr": 0.000123})])

    tables = tables_of(collect(store.tracker))

    assert set(tables) == {"tuning"}
    assert row(tables["tuning"], Method="TCAF")["Best hyperparameters"] == "lr=0.000123"
    assert row(tables["tuning"], Method="TCAF")["Validation HM"] == "43.21"


def test_a_failed_study_is_a_lost_row_of_its_own(store: Any, unit: Any) -> None:
    call = store.call([unit()])
    entries = store.tracker.read_json(call, "jobs.json")
    lost = {**entries[0], "variant": "tuned", "job_key": "", "state": "failed", "error": "no trial finished"}
    store.tracker.log_json(call, [*entries, lost], "jobs.json")

    results = collect(store.tracker)

    assert row(tables_of(results)["gzsl"], Settings="tuned")["HM"] == "failed"
    assert [p.reason for p in results.problems] == ["no trial finished"]
