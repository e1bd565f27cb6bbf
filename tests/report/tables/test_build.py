"""Tables and captions, from a real store."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from scipy import stats
from support.cells_of import row, said, tables_of

from benchmark.errors import UsageError
from benchmark.report.results.collect import collect
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.table import Column, Sample, Table, best, plain_table

FIVE = [(0.4, 0.2), (0.5, 0.3), (0.45, 0.1), (0.42, 0.22), (0.48, 0.18)]
RANGE = "In parentheses: the lowest and the highest seed. An interval or a test needs 5 seeds (--seeds 5)."
HALF = "±: half the width of the 95 % t-interval of the mean."


def hm(seen: float, unseen: float) -> float:
    return 2 * seen * unseen / (seen + unseen)


def bold_in(table: Table) -> set[tuple[str, str]]:
    """Method and column of each bold cell."""
    methods = table.cells["Method"]
    return {(m, c) for i, m in enumerate(methods) for c in table.cells if table.bold.iloc[i][c]}


def test_cells_are_mean_and_half_of_its_interval_over_seeds_in_percent(store: Any, unit: Any) -> None:
    store.call([unit(scores=FIVE)])

    tables = tables_of(collect(store.tracker))

    def expected(values: list[float], digits: int = 2) -> str:
        low, high = stats.t.interval(0.95, 4, statistics.mean(values), stats.sem(values))
        return f"{statistics.mean(values):.{digits}f} ± {(high - low) / 2:.{digits}f}"

    cells = row(tables["gzsl"], Method="TCAF")
    assert cells["S"] == expected([100 * seen for seen, _ in FIVE]) == "45.00 ± 5.12"
    assert cells["U"] == expected([100 * unseen for _, unseen in FIVE])
    assert cells["HM"] == expected([100 * hm(*score) for score in FIVE])
    assert row(tables["zsl"], Method="TCAF")["ZSL"] == expected([120 * unseen for _, unseen in FIVE])
    full = row(tables["full"], Method="TCAF")
    assert full["Beta"] == expected([0.4 + 0.2 * i for i in range(5)])
    assert (full["Seeds"], full["Epochs"]) == ("5", "5.0 ± 0.0")
    assert full["AUSUC"] == expected([80 * seen * unseen for seen, unseen in FIVE])
    assert f"Mean over 5 seeds. {HALF}" in said(tables["gzsl"])
    assert "In parentheses" not in said(tables["gzsl"])


@pytest.mark.parametrize("seeds", [2, 4])
def test_cells_of_fewer_seeds_are_mean_lowest_and_highest(store: Any, unit: Any, seeds: int) -> None:
    scores = FIVE[:seeds]
    store.call([unit(scores=scores)])

    tables = tables_of(collect(store.tracker))

    def expected(values: list[float]) -> str:
        return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    cells = row(tables["gzsl"], Method="TCAF")
    assert cells["S"] == expected([100 * seen for seen, _ in scores])
    assert cells["HM"] == expected([100 * hm(*score) for score in scores])
    full = row(tables["full"], Method="TCAF")
    assert full["Beta"] == expected([0.4 + 0.2 * i for i in range(seeds)])
    assert (full["Seeds"], full["Epochs"]) == (str(seeds), "5.0 (5.0 to 5.0)")
    assert f"Mean over {seeds} seeds. {RANGE}" in said(tables["gzsl"])
    assert "±" not in said(tables["gzsl"])


def test_one_seed_is_shown_as_it_is(store: Any, unit: Any) -> None:
    store.call([unit(scores=[(0.4, 0.2)])])

    tables = tables_of(collect(store.tracker))

    assert row(tables["gzsl"], Method="TCAF")["S"] == "40.00"
    full = row(tables["full"], Method="TCAF")
    assert (full["HM"], full["Beta"], full["Epochs"]) == ("26.67", "0.40", "5")
    assert "Single seed." in said(tables["gzsl"])
    assert not any(sentence in said(tables["gzsl"]) for sentence in (HALF, RANGE))


def test_seeds_that_failed_do_not_count_towards_an_interval(store: Any, unit: Any) -> None:
    store.call([unit(scores=[*FIVE[:4], None]), unit(method="avca", scores=FIVE)])

    table = tables_of(collect(store.tracker))["gzsl"]

    assert row(table, Method="TCAF")["S"] == "44.25 (40.00 to 50.00)‡"
    assert row(table, Method="AVCA")["S"] == "45.00 ± 5.12"
    assert f"Mean over 5 seeds (fewer where a run failed). {HALF} {RANGE}" in said(table)


def test_a_number_that_some_seeds_lack_has_a_mean_alone_and_is_not_bold(store: Any, unit: Any) -> None:
    """The number of seeds of its row is not its own, so a range could be taken for an interval."""
    store.call([unit(scores=[(0.6, 0.2)] * 5), unit(method="avca", scores=[(0.4, 0.2)] * 5)])
    results = collect(store.tracker)
    best = results.test.index[results.test["method"] == "tcaf"]
    assert ("TCAF", "S") in bold_in(tables_of(results)["gzsl"])
    results.test.loc[best[0], "seen"] = float("nan")

    table = tables_of(results)["gzsl"]

    assert row(table, Method="TCAF")["S"] == "60.00"
    assert row(table, Method="TCAF")["U"] == "20.00 ± 0.00"
    assert ("TCAF", "S") not in bold_in(table)


@pytest.mark.parametrize("seeds", [4, 5])
def test_the_best_of_each_column_is_bold_from_five_seeds_on(store: Any, unit: Any, seeds: int) -> None:
    ucf = {
        "dataset": "ucf",
        "features": "cls",
        "alignment": "official",
        "variant": "published",
        "kind": "published",
    }
    near = [0.00, 0.01, -0.01, 0.02, -0.02][:seeds]
    store.call(
        [
            unit(method="avgzslnet", scores=[(0.3 + x, 0.5 - x) for x in near], **ucf),
            unit(method="tcaf", scores=[(0.4 + x, 0.2 - x) for x in near], **ucf),
        ]
    )

    table = tables_of(collect(store.tracker))["gzsl"]

    clear = {("TCAF", "S ours"), ("AVGZSLNet", "U ours"), ("AVGZSLNet", "HM ours")}
    assert bold_in(table) == (clear if seeds == 5 else set()), "published numbers are never bold"
    assert ("Bold: the highest mean of a column and all means" in said(table)) is (seeds == 5)
    assert f"**{row(table, Method='TCAF')['S ours']}**" in table.markdown() or seeds < 5
    assert "**74.79**" not in table.markdown()


def test_all_within_noise_of_the_best_are_bold_and_none_if_all_are(store: Any, unit: Any) -> None:
    """In S one method is clearly below two others; in U noise may have put any one below the others."""
    scatter = [0.00, 0.02, -0.02, 0.04, -0.04]

    def scores(seen: float, unseen: float) -> list[tuple[float, float]]:
        return [(seen + x, unseen + x) for x in scatter]

    means = {"tcaf": (0.50, 0.21), "avca": (0.49, 0.20), "cjme": (0.30, 0.205)}
    p = [
        stats.ttest_ind(*([s for s, _ in scores(*means[m])] for m in ("tcaf", other)), equal_var=False).pvalue
        for other in ("avca", "cjme")
    ]
    assert p[0] > 0.05 > p[1]
    store.call([unit(m, scores=scores(*mean)) for m, mean in means.items()])

    tables = tables_of(collect(store.tracker))

    assert {cell for cell in bold_in(tables["gzsl"]) if cell[1] != "HM"} == {("TCAF", "S"), ("AVCA", "S")}
    assert bold_in(tables["zsl"]) == set()
    assert "Bold" not in said(tables["zsl"])


def test_tuned_rows_are_never_bold_and_do_not_take_it_from_others(store: Any, unit: Any) -> None:
    store.call(
        [
            unit(scores=[(0.5, 0.3)] * 5, tuned=[(0.9, 0.8)] * 5, trials=3),
            unit(method="avca", scores=[(0.4, 0.2)] * 5),
        ]
    )

    table = tables_of(collect(store.tracker))["gzsl"]

    tuned = row(table, Settings="tuned: one search, 5 trainings")
    assert (tuned["S"], tuned["HM"]) == ("90.00 ± 0.00", "84.71 ± 0.00")
    assert [list(table.bold[c]) for c in ("S", "U", "HM")] == [[False, True, False]] * 3
    assert list(table.cells["Settings"]) == ["default", "default", "tuned: one search, 5 trainings"]


def test_best_needs_two_rivals_and_a_difference() -> None:
    def sample(mean: float, deviation: float = 1.0, seeds: int = 5) -> Sample:
        return Sample(mean, deviation, seeds)

    together = [("paper",)] * 3
    high, near, low = sample(50), sample(49.5), sample(40)
    assert best([high, low, sample(30)], together) == [True, False, False]
    assert best([low, near, high], together) == [False, True, True]
    assert best([high, near, sample(49)], together) == [False] * 3
    assert best([high, None, None], together) == [False] * 3
    assert best([None, high, low], together) == [False, True, False]
    assert best([high, near, low], [("paper",), ("corrected",), ("corrected",)]) == [False, True, False]
    assert best([], together) == [False] * 3
    # Means that do not differ at all, and means without any scatter.
    assert best([sample(50, 0), sample(50, 0), sample(49.9, 0)], together) == [True, True, False]


def test_published_numbers_stand_beside_ours(store: Any, unit: Any) -> None:
    ucf = {
        "dataset": "ucf",
        "features": "cls",
        "alignment": "official",
        "variant": "published",
        "kind": "published",
    }
    store.call([unit(method="tcaf", tuned=[(0.5, 0.3)], trials=4, **ucf), unit(method="mine", **ucf)])
    tuned = "tuned: one search, 1 training"

    tables = tables_of(collect(store.tracker))

    ours = row(tables["gzsl"], Method="TCAF", Settings="published")
    assert (ours["S published"], ours["U published"], ours["HM published"]) == ("67.14", "40.83", "50.78")
    assert row(tables["zsl"], Method="TCAF", Settings="published")["ZSL published"] == "44.64"
    assert row(tables["gzsl"], Method="TCAF", Settings=tuned)["HM published"] == ""
    assert row(tables["gzsl"], Method="mine")["HM published"] == "–"
    assert "Published: TCAF, ECCV 2022, Table 1 (single seed" in said(tables["gzsl"])
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
    assert ["features native" in said(t) for t in tables] == [True, False]
    assert [any("published" in c for c in t.cells) for t in tables] == [False, True]


def test_mode_both_stands_side_by_side_with_rows_marked(store: Any, unit: Any) -> None:
    common = {"dataset": "ucf", "features": "cls", "variant": "published"}
    store.call(
        [
            unit(method=m, mode=mode, alignment=a, scores=[(s, 0.2)] * 5, **common)
            for m, s in (("tcaf", 0.4), ("avca", 0.3))
            for mode, a in (("paper", "official"), ("corrected", "by_name"))
        ]
    )

    table = next(t for t in build_tables(collect(store.tracker)) if t.name == "gzsl")

    marks = list(zip(table.cells["Method"], table.cells["Protocol"], strict=True))
    assert marks == [
        (m, p)
        for m in ("AVCA", "TCAF")
        for p in ("paper, official assignment", "corrected, by_name assignment")
    ]
    assert row(table, Method="TCAF", Protocol="corrected, by_name assignment")["HM published"] == ""
    assert list(table.bold["S ours"]) == [False, False, True, True]
    assert "Modes paper and corrected" in said(table)


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
        "Mode paper, class-to-embedding assignment by_name, features native.",
        "over 2 seeds",
        "Tuning budget: 3 trials",
        "8 epochs × 40 batches of 64 (TCAF)",
        "9 epochs × 40 batches of 64 (Perceiver)",
        "Stamps: drawings of stamps.",
        "Smaller model sizes than published: TCAF.",
    ):
        assert part in said(table)
    assert "Perceiver¹" in list(table.cells["Method"])
    assert any(note.startswith("¹ Our adaptation") for note in table.notes)


def test_generated_data_and_no_tuning_and_changed_switches_are_named(store: Any, unit: Any) -> None:
    store.call([unit(dataset="synthetic", kind="generated", params={"protocol.calibration": "corrected"})])

    caption = said(tables_of(collect(store.tracker))["gzsl"])

    assert "Synthetic: synthetic data." in caption
    assert "No tuning." in caption
    assert "calibration = corrected" in caption


def test_failed_jobs_are_counted_named_and_do_not_stop_the_others(store: Any, unit: Any) -> None:
    store.call([unit(scores=[(0.4, 0.2), None]), unit(method="avca", scores=[None, None])])

    results = collect(store.tracker)
    table = tables_of(results)["gzsl"]

    assert row(table, Method="TCAF")["S"] == "40.00‡"
    assert row(table, Method="AVCA")["S"] == "not run"
    assert "3 failed, 3 not run" in said(table)
    assert "AVCA on stamps, paper, default, seed 1, stages 1 and 2" in said(table)
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
    assert row(tables_of(results)["gzsl"], Method="TCAF")["S"] == "50.00 (40.00 to 60.00)"


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


def test_tuned_rows_name_their_trainings_and_then_what_they_differ_in(store: Any, unit: Any) -> None:
    ids = [
        store.call([unit(scores=[], tuned=[(0.4, 0.2)] * n, trials=3, epochs=epochs)])
        for n, epochs in ((1, 2), (3, 50))
    ]

    table = tables_of(collect(store.tracker, ids))["gzsl"]

    assert sorted(table.cells["Settings"]) == [
        "tuned: one search, 1 training, train.epochs=2",
        "tuned: one search, 3 trainings, train.epochs=50",
    ]


def test_stage_1_alone_gives_a_validation_table(store: Any, unit: Any) -> None:
    store.call([unit(), unit(method="avca")], stages="1")

    results = collect(store.tracker)
    tables = tables_of(results)

    assert set(tables) == {"validation"}
    assert row(tables["validation"], Method="TCAF")["S"] == "45.00 (40.00 to 50.00)"
    assert row(tables["validation"], Method="TCAF")["Epochs"] == "5.0 (5.0 to 5.0)"
    assert "without test" in said(tables["validation"])
    assert results.test.empty
    assert set(results.validation["split"]) == {"validation"}


def test_tuning_that_kept_the_untuned_settings_is_told_and_has_no_row_of_its_own(
    store: Any, unit: Any
) -> None:
    """Its jobs are those of the untuned row, so a second row would show the same runs again."""
    both = [(0.4, 0.2), (0.5, 0.3)]
    store.call(
        [unit(tuned=both, trials=3, best_values={}), unit(method="avca", tuned=[(0.5, 0.3)] * 2, trials=3)]
    )

    results = collect(store.tracker)
    tables = tables_of(results)

    fact = "No trial beat the untuned hyperparameters, so there is no tuned row: TCAF."
    for name in ("gzsl", "zsl", "full"):
        rows = list(zip(tables[name].cells["Method"], tables[name].cells["Settings"], strict=True))
        assert rows == [
            ("AVCA", "default"), ("AVCA", "tuned: one search, 2 trainings"), ("TCAF", "default"),
        ]  # fmt: skip
        assert fact in tables[name].facts
    assert results.test["job_key"].is_unique
    assert results.validation["job_key"].is_unique
    assert row(tables["tuning"], Method="TCAF")["Hyperparameters"] == "the untuned settings"
    assert row(tables["tuning"], Method="TCAF")["Gain in test HM"] == "–"
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
    assert row(tables["tuning"], Method="TCAF")["Hyperparameters"] == "lr=0.000123"
    assert row(tables["tuning"], Method="TCAF")["Best in search"] == "43.21 (trial 2)"


def test_a_failed_study_is_a_lost_row_of_its_own(store: Any, unit: Any) -> None:
    call = store.call([unit()])
    entries = store.tracker.read_json(call, "jobs.json")
    lost = {**entries[0], "variant": "tuned", "job_key": "", "state": "failed", "error": "no trial finished"}
    store.tracker.log_json(call, [*entries, lost], "jobs.json")

    results = collect(store.tracker)

    assert row(tables_of(results)["gzsl"], Settings="tuned")["HM"] == "failed"
    assert [p.reason for p in results.problems] == ["no trial finished"]


def test_a_table_without_any_result_is_empty() -> None:
    labels, results = Column("Method", "", ["TCAF", "AVCA"]), Column("HM", "all", ["–", ""])
    assert plain_table("gzsl", "", "", [labels, results]).is_empty
    assert not plain_table("gzsl", "", "", [labels, results, Column("ZSL", "all", ["–", "failed"])]).is_empty
