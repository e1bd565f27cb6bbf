"""Intervals and tests of a report are those of its seeds, paired where they should be, corrected for their
number."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.cells_of import row, said, tables_of

from benchmark.report.results.collect import collect
from benchmark.report.results.published import published_for
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.means import numbers_csv, summarise
from benchmark.report.tables.significance import (
    _corrected,
    comparisons,
    intervals,
    intervals_table,
    wins_tables,
)
from benchmark.report.tables.table import Table
from benchmark.report.write import write_report
from benchmark.tracking.benchmark_runs import ALL_RUNS
from benchmark.uncertainty import LEVEL

OURS = [(0.5, 0.30), (0.5, 0.33), (0.5, 0.31), (0.5, 0.32), (0.5, 0.29)]
OTHERS = [(0.5, 0.20), (0.5, 0.22), (0.5, 0.21), (0.5, 0.20), (0.5, 0.19)]
UCF = {
    "dataset": "ucf",
    "features": "cls",
    "alignment": "official",
    "variant": "published",
    "kind": "published",
}


def zsl(scores: list[tuple[float, float]]) -> np.ndarray[Any, Any]:
    """As ``FakeStore`` makes it, in percent."""
    return np.array([100 * 1.2 * unseen for _, unseen in scores])


def test_pairs_of_methods_are_tested_seed_by_seed(store: Any, unit: Any) -> None:
    store.call(
        [
            unit("tcaf", scores=OURS),
            unit("cjme", scores=OTHERS),
            unit("avca", scores=[(0.5, 0.3), (0.4, 0.2), (0.4, 0.1), (0.5, 0.2)]),
        ]
    )
    frame = comparisons(collect(store.tracker)).set_index(["method", "other"])
    expected = stats.ttest_rel(zsl(OTHERS), zsl(OURS))
    pair = frame.loc[("cjme", "tcaf")]
    assert pair["zsl_p"] == pytest.approx(expected.pvalue)
    assert (pair["zsl_low"], pair["zsl_high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert pair["zsl_difference"] == pytest.approx((zsl(OTHERS) - zsl(OURS)).mean())
    assert pair["hm_p"] < pair["zsl_p"]
    assert pair["hm_p_holm"] == pytest.approx(2 * pair["hm_p"]), "one pair in two metrics"
    assert pair["zsl_p_holm"] == pytest.approx(max(2 * pair["hm_p"], expected.pvalue))
    assert (pair["zsl_wins"], pair["zsl_losses"]) == (0, 5)
    assert frame["seeds"].to_dict() == {("cjme", "avca"): 4, ("cjme", "tcaf"): 5, ("avca", "tcaf"): 4}
    few = frame.loc[[("cjme", "avca"), ("avca", "tcaf")]]
    tests = [f"{m}_{name}" for m in ("hm", "zsl") for name in ("low", "high", "p", "p_holm")]
    assert few[tests].isna().all(axis=None), "four seeds allow no interval and no test"
    assert few["zsl_difference"].tolist() == pytest.approx([0.9, -13.8])
    assert few["zsl_wins"].tolist() == [2, 0]
    assert few["zsl_losses"].tolist() == [1, 3], "the other seeds are equal"


def test_marks_say_which_differences_are_significant(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS)])
    for table in wins_of(store):
        assert row(table, Method="TCAF") == {
            "Method": "TCAF", "vs CJME": "5/5*", "vs TCAF": "", "Better than": "1",
        }  # fmt: skip
        assert row(table, Method="CJME") == {
            "Method": "CJME", "vs CJME": "", "vs TCAF": "0/5", "Better than": "0",
        }  # fmt: skip
        assert "Holm's correction for 2 tests" in said(table)


def wins_of(store: Any, **about: str) -> list[Table]:
    """The matrices of wins, in HM and ZSL, whose rows are all about this."""
    tables = [t for t in build_tables(collect(store.tracker)) if t.name == "comparisons"]
    return [t for t in tables if all(key.items() >= about.items() for key in t.keys)]


def test_the_matrix_of_wins_counts_the_seeds_of_each_pair_both_ways(store: Any, unit: Any) -> None:
    """Of five seeds one is a tie of TCAF and AVCA; the two are not told apart, and CJME is below both."""
    tied = [OURS[0], (0.5, 0.30), (0.5, 0.30), (0.5, 0.34), (0.5, 0.30)]
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS), unit("avca", scores=tied)])

    tables = wins_of(store)

    assert [t.title for t in tables] == [
        f"Wins in {metric}: Stamps, features native, mode paper, by_name assignment"
        for metric in ("HM", "ZSL")
    ]
    for table, metric in zip(tables, ("HM", "ZSL"), strict=True):
        found = table.cells.set_index("Method")
        assert list(found) == ["vs CJME", "vs AVCA", "vs TCAF", "Better than"]
        assert list(found.index) == ["CJME", "AVCA", "TCAF"]
        assert found.loc["CJME"].tolist() == ["", "0/5", "0/5", "0"]
        assert found.loc["AVCA"].tolist() == ["5/5*", "", "2/5", "1"]
        assert found.loc["TCAF"].tolist() == ["5/5*", "2/5", "", "1"]
        assert said(table).startswith(f"{metric}: in how many of the seeds that both have")
        assert "Holm's correction for 6 tests" in said(table)
        assert not table.bold.to_numpy().any()
        assert not table.screen


@pytest.mark.parametrize("seed", range(3))
def test_wins_losses_and_ties_of_a_pair_are_all_its_seeds(store: Any, unit: Any, seed: int) -> None:
    """The matrix and its transpose leave the ties, and only a side with the higher mean has a mark."""
    random = np.random.default_rng(seed)
    scores = {m: [(0.5, random.integers(20, 24) / 100) for _ in range(6)] for m in ("tcaf", "cjme", "avca")}
    scores["avgzslnet"] = [(0.5, unseen + 0.2) for _, unseen in scores["tcaf"][::-1]]
    store.call([unit(m, scores=s) for m, s in scores.items()])

    _, table = wins_of(store)

    titles = {"TCAF": "tcaf", "CJME": "cjme", "AVCA": "avca", "AVGZSLNet": "avgzslnet"}
    found = table.cells.set_index("Method")
    for one, two in combinations(titles, 2):
        gaps = zsl(scores[titles[one]]) - zsl(scores[titles[two]])
        cells = found.loc[one, f"vs {two}"], found.loc[two, f"vs {one}"]
        assert [cell.rstrip("*") for cell in cells] == [f"{(gaps > 0).sum()}/6", f"{(gaps < 0).sum()}/6"]
        marked = [cell.endswith("*") for cell in cells]
        assert marked[0] <= (gaps.mean() > 0)
        assert marked[1] <= (gaps.mean() < 0)
    marks = [sum(cell.endswith("*") for cell in cells[1:-1]) for cells in table.cells.to_numpy()]
    assert found["Better than"].tolist() == [str(count) for count in marks]
    assert found.loc["AVGZSLNet", "Better than"] == "3"


def test_a_method_with_fewer_seeds_is_in_no_matrix_of_wins(store: Any, unit: Any) -> None:
    four = [unit("avca", scores=OURS[:4]), unit("cjme", scores=OTHERS)]
    store.call([unit("tcaf", scores=OURS), *four])
    assert [list(t.cells["Method"]) for t in wins_of(store)] == [["CJME", "TCAF"]] * 2
    store.call(four)
    assert wins_of(store) == []


def test_methods_keep_their_order_where_the_first_ones_share_few_seeds(store: Any, unit: Any) -> None:
    """CJME and AVCA share four seeds, and each shares five with TCAF."""
    eight = [OURS[i % 5] for i in range(8)]
    low = [(0.5, 0.15 + i / 100) for i in range(8)]
    store.call(
        [
            unit("tcaf", scores=eight),
            unit("cjme", scores=[*low[:6], None, None]),
            unit("avca", scores=[None, None, *low[2:]]),
        ]
    )
    assert comparisons(collect(store.tracker))["seeds"].tolist() == [4, 6, 6]
    _, table = wins_of(store)
    found = table.cells.set_index("Method")
    assert list(found.index) == ["CJME", "AVCA", "TCAF"]
    assert list(found) == ["vs CJME", "vs AVCA", "vs TCAF", "Better than"]
    assert (found.loc["CJME", "vs AVCA"], found.loc["AVCA", "vs CJME"]) == ("–", "–")


def test_each_place_and_kind_of_settings_has_matrices_of_its_own(store: Any, unit: Any) -> None:
    """They are corrected together, and each says for how many tests."""
    methods = (("tcaf", OURS), ("cjme", OTHERS))
    store.call(
        [
            unit(m, scores=s, mode=mode, **more)
            for m, s in methods
            for mode, more in (("paper", {}), ("corrected", {}))
        ]
        + [unit(m, scores=s, variant="user-set", params={"x": "1"}) for m, s in methods]
        + [unit(m, scores=s, features="main") for m, s in methods]
    )
    titles = [t.title for t in wins_of(store, features="native")]
    places = (
        "paper, by_name assignment, untuned",
        "corrected, by_name assignment, untuned",
        "paper, by_name assignment, user-set",
    )
    assert titles == [
        f"Wins in {metric}: Stamps, features native, mode {place} settings"
        for place in places
        for metric in ("HM", "ZSL")
    ]
    assert all("correction for 6 tests" in said(t) for t in wins_of(store, features="native"))
    main = wins_of(store, features="main")
    assert [t.title for t in main] == [
        f"Wins in {metric}: Stamps, features main, mode paper, by_name assignment" for metric in ("HM", "ZSL")
    ]
    assert all("correction for 2 tests" in said(t) for t in main)


@pytest.mark.parametrize("seeds", [1, 2, 4, 5])
def test_what_a_report_shows_of_so_many_seeds_and_what_it_leaves_out(
    store: Any, unit: Any, tmp_path: Any, seeds: int
) -> None:
    ours, others = OURS[:seeds], OTHERS[:seeds]
    store.call([unit("tcaf", scores=ours, **UCF), unit("cjme", scores=others, **UCF)])

    results = collect(store.tracker)
    tables = {t.name: t for t in build_tables(results)}
    files = {p.name: p for p in write_report(store.tracker, tmp_path / "report").files}

    # A cell is a mean with its interval from five seeds on; with two to four with the range.
    values = zsl(ours)
    low, high = stats.t.interval(0.95, seeds - 1, values.mean(), stats.sem(values)) if seeds > 1 else (0, 0)
    spread_text = {
        1: "",
        5: f" ± {(high - low) / 2:.2f}",
    }.get(seeds, f" ({values.min():.2f} to {values.max():.2f})")
    assert row(tables["zsl"], Method="TCAF")["ZSL ours"] == f"{values.mean():.2f}{spread_text}"
    numbers = pd.read_csv(files["zsl.csv"]).set_index("method").loc["tcaf"]
    ends = {1: (np.nan, np.nan), 5: (low, high)}.get(seeds, (values.min(), values.max()))
    assert numbers["ZSL_percent"] == pytest.approx(values.mean())
    assert (numbers["ZSL_low_percent"], numbers["ZSL_high_percent"]) == pytest.approx(
        ends, abs=1e-6, nan_ok=True
    )
    assert np.isnan(numbers["ZSL_std_percent"]) == (seeds == 1)

    # Captions say what they are, and how many seeds an interval needs.
    needed = "An interval or a test needs 5 seeds (--seeds 5)."
    for name in ("gzsl", "zsl", "full"):
        assert ("Ours: single seed." in said(tables[name])) is (seeds == 1)
        assert (needed in said(tables[name])) is (seeds < 5)
        assert ("95 % t-interval of the mean" in said(tables[name])) is (seeds == 5)

    # The table of intervals lists the seeds if there are too few, and has no test of them.
    line = row(tables["intervals"], Method="TCAF")
    listed = "–" if seeds == 1 else ", ".join(f"{v:.2f}" for v in values)
    assert line["ZSL over seeds"] == (f"{low:.2f} to {high:.2f}" if seeds == 5 else listed)
    assert (line["ZSL"], line["Seeds"]) == (f"{values.mean():.2f}", str(seeds))
    assert ("ZSL p" in line) is (seeds >= 5)
    assert line["HM − published"].endswith("*") is (seeds == 5)
    frame = intervals(results)
    tests = [f"{m}_{end}" for m in ("hm", "zsl") for end in ("low", "high", "p", "p_holm")]
    assert frame[tests].notna().all(axis=None) if seeds == 5 else frame[tests].isna().all(axis=None)
    assert "with n ≥ 5 seeds the 95 % t-interval of the mean" in said(tables["intervals"])
    assert ("needs |t| >" in said(tables["intervals"])) is (seeds == 5)

    # Methods are compared, and one is bold, from five seeds on.
    assert ("comparisons" in tables) is ("comparisons.csv" in files) is (seeds == 5)
    pairs = comparisons(results)[["hm_low", "hm_high", "hm_p", "zsl_p", "hm_p_holm", "zsl_p_holm"]]
    assert pairs.notna().all(axis=None) if seeds == 5 else pairs.isna().all(axis=None)
    bold = {name for name, table in tables.items() if table.bold.to_numpy().any()}
    assert bold == ({"gzsl", "zsl", "full"} if seeds == 5 else set())
    assert ("**" in files["report.md"].read_text(encoding="utf-8")) is (seeds == 5)


def test_a_published_number_is_tested_where_it_is_comparable(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS, **UCF), unit("tcaf", scores=OURS, **{**UCF, "mode": "corrected"})])
    paper, corrected = intervals(collect(store.tracker)).to_dict("records")
    assert paper["zsl_published"] == corrected["zsl_published"]
    t = (zsl(OURS).mean() - paper["zsl_published"]) / (zsl(OURS).std(ddof=1) * (1 + 1 / 5) ** 0.5)
    assert paper["zsl_p"] == pytest.approx(2 * stats.t.sf(abs(t), 4))
    assert np.isnan(corrected["zsl_p"])
    table = tables_of(collect(store.tracker))["intervals"]
    assert row(table, Protocol="corrected, official assignment")["ZSL − published"] == "–"


def right(*answers: list[int], rule: str | None = "^(g)_", samples: int = 5) -> dict[str, Any]:
    """What a job logs of its groups: a seen class, and unseen ones with these right answers in each group."""
    row = {
        "class": "seen",
        "group": "seen",
        "samples": [samples] * 4,
        "gzsl": [4, 3, 5, 4],
        "own_group": [5, 3, 5, 4],
    }
    unseen = [
        {"class": f"c{i}", "group": "unseen", "samples": [samples] * len(a), "gzsl": a, "own_group": a}
        for i, a in enumerate(answers)
    ]
    return {"grouping": rule, "classes": [row, *unseen]}


def log_groups(store: Any, logged: list[dict[str, Any]]) -> None:
    """Log the groups of the seeds of the only method, the first ones."""
    jobs = collect(store.tracker).test.sort_values("repetition")
    for run_id, groups in zip(jobs["run_id"], logged, strict=False):
        store.tracker.log_json(run_id, groups, "groups.json")


def test_the_interval_over_test_samples_is_that_of_the_mean_over_all_seeds(store: Any, unit: Any) -> None:
    """Seeds of 20, 60 and 80 % of an unseen class.

    The interval of the first alone does not hold their mean.
    """
    store.call([unit("tcaf", scores=OURS[:3])])
    log_groups(store, [right([1] * 8), right([3] * 8), right([4] * 8)])
    line = intervals(collect(store.tracker)).iloc[0]
    assert line["zsl_samples_low"] < 100 * (0.2 + 0.6 + 0.8) / 3 < line["zsl_samples_high"]
    assert line["zsl_samples_low"] > 20
    assert line["samples_drawn"] == "groups"
    caption = said(tables_of(collect(store.tracker))["intervals"])
    assert "mean over the n seeds" in caption
    assert "groups of samples from the same source, by the dataset's rule `grouping` (Stamps)" in caption


def test_without_a_rule_the_caption_says_that_single_samples_are_drawn(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS[:1])])
    log_groups(store, [right([1, 0, 1, 1, 0], rule=None, samples=5)])
    table = tables_of(collect(store.tracker))["intervals"]
    assert "since the dataset has no rule `grouping`, or some source videos are unknown (Stamps)" in said(
        table
    )


def test_jobs_without_groups_say_so_and_have_no_interval_over_samples(store: Any, unit: Any) -> None:
    """The interval of some seeds would not belong to the mean of all."""
    store.call([unit("tcaf", scores=OURS)])
    log_groups(store, [right([1] * 8), right([3] * 8)])
    table = tables_of(collect(store.tracker))["intervals"]
    assert row(table, Method="TCAF")["ZSL 95 % over samples"] == "not recorded"
    assert "Not recorded: by jobs of earlier versions." in said(table)


def test_seeds_that_were_tested_on_different_samples_have_no_interval_over_samples(
    store: Any, unit: Any
) -> None:
    store.call([unit("tcaf", scores=OURS[:3])])
    log_groups(store, [right([1] * 8), right([3] * 8), right([3] * 7)])
    assert row(tables_of(collect(store.tracker))["intervals"], Method="TCAF")["ZSL 95 % over samples"] == "–"


def test_one_seed_has_its_difference_to_published_numbers_and_no_test(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS[:1], **UCF), unit("cjme", scores=OTHERS[:1], **UCF)])
    first = collect(store.tracker).test.query("method == 'tcaf'").iloc[0]
    store.tracker.log_json(first["run_id"], right([2] * 8, [1] * 8), "groups.json")
    tables = tables_of(collect(store.tracker))
    found = row(tables["intervals"], Method="TCAF")
    theirs = published_for("ucf", "cls", "tcaf")
    assert theirs is not None
    assert found["Seeds"] == "1"
    assert " to " in found["HM 95 % over samples"]
    assert found["HM over seeds"] == "–"
    assert not {"HM p", "ZSL p"} & set(found)
    for label, ours, published in (
        ("S", 50, theirs.numbers.seen),
        ("U", 30, theirs.numbers.unseen),
        ("HM", 37.5, theirs.numbers.hm),
        ("ZSL", 36, theirs.numbers.zsl),
    ):
        assert published is not None
        assert float(found[f"{label} − published"]) == pytest.approx(ours - published, abs=0.0051)
    assert "comparisons" not in tables


def test_seen_and_unseen_accuracy_are_not_counted_as_tests(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS, **UCF), unit("cjme", scores=OTHERS, **UCF)])
    frame = intervals(collect(store.tracker))
    assert {c for c in frame if c.endswith("_p_holm")} == {"hm_p_holm", "zsl_p_holm"}
    assert frame["seen_to_published"].notna().all()
    both = frame[["hm_p", "zsl_p"]].to_numpy().min()
    assert frame[["hm_p_holm", "zsl_p_holm"]].to_numpy().min() == pytest.approx(4 * both), (
        "two methods in HM and ZSL"
    )


def test_all_tests_of_a_table_are_corrected_together_and_tables_apart(store: Any, unit: Any) -> None:
    """Two modes of one feature set stand in one table; another feature set has its own."""
    pairs = [unit(m, scores=s, **UCF) for m, s in (("tcaf", OURS), ("cjme", OTHERS))]
    modes = [unit(m, scores=s, **{**UCF, "mode": "corrected"}) for m, s in (("tcaf", OURS), ("cjme", OTHERS))]
    main = [unit(m, scores=s, **{**UCF, "features": "main"}) for m, s in (("tcaf", OURS), ("cjme", OTHERS))]
    store.call([*pairs, *modes, *main])
    frame = comparisons(collect(store.tracker)).sort_values(["features", "mode"])
    smallest = frame[["hm_p", "zsl_p"]].min(axis=1)
    assert frame[["hm_p_holm", "zsl_p_holm"]].min(axis=1).tolist() == pytest.approx(
        [4 * smallest.iloc[0]] * 2 + [2 * smallest.iloc[2]]
    )


@pytest.mark.parametrize("together", [0.0, 0.7])
def test_a_table_of_equal_methods_has_a_mark_in_one_of_twenty(together: float) -> None:
    """1,000 tables of six equal methods, five seeds: 15 pairs in two metrics that go together."""
    random, tables = np.random.default_rng(3), 1000
    hm, other = random.normal(size=(2, tables, 6, 5))
    scores = np.stack([hm, together * hm + (1 - together**2) ** 0.5 * other])
    one, two = np.triu_indices(6, 1)
    gaps = scores[:, :, one] - scores[:, :, two]
    p = 2 * stats.t.sf(abs(gaps.mean(-1) / (gaps.std(-1, ddof=1) / 5**0.5)), 4)
    frame = pd.DataFrame(
        {"features": np.repeat(np.arange(tables), 15), "hm_p": p[0].ravel(), "zsl_p": p[1].ravel()}
    )

    marked = (
        (_corrected(frame)[["hm_p_holm", "zsl_p_holm"]].min(axis=1) < LEVEL).groupby(frame["features"]).any()
    )

    assert 0.01 < marked.mean() < 0.06


def test_the_caption_says_which_t_a_mark_needs(store: Any, unit: Any) -> None:
    store.call([unit(m, scores=s, **UCF) for m, s in (("tcaf", OURS), ("cjme", OTHERS[:4]))])
    table = next(t for t in build_tables(collect(store.tracker)) if t.name == "intervals")
    needed = stats.t.isf(0.05 / 2 / 2, 4)
    assert f"At n = 5 the smallest of 2 p-values needs |t| > {needed:.1f} for a mark." in said(table)


def test_tuned_rows_say_that_their_search_is_not_in_their_scatter(store: Any, unit: Any) -> None:
    tuned = [unit(m, scores=s, tuned=s, trials=3) for m, s in (("tcaf", OURS), ("cjme", OTHERS))]
    store.call(tuned)
    tables = build_tables(collect(store.tracker))
    named = {t.name for t in tables if "from one search" in said(t)}
    assert named == {"gzsl", "zsl", "full", "intervals", "tuning"}
    wins = [t for t in tables if t.name == "comparisons"]
    assert [list(t.cells["Method"]) for t in wins] == [["CJME", "TCAF"]] * 2, "none of tuned settings"
    assert not any("tuned" in t.title for t in wins)
    frame = comparisons(collect(store.tracker))
    assert frame[frame["slot"] == "tuned"][["hm_p", "zsl_p"]].isna().all(axis=None), (
        "the scatter of a search is not known"
    )
    assert frame[frame["slot"] != "tuned"][["hm_p", "zsl_p"]].notna().all(axis=None)
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS)])
    assert not any("from one search" in said(t) for t in build_tables(collect(store.tracker)))


def test_a_method_whose_default_settings_became_published_ones_has_each_seed_once(
    store: Any, unit: Any
) -> None:
    for variant in ("default", "published"):
        store.call([unit(m, scores=s, variant=variant) for m, s in (("tcaf", OURS), ("cjme", OTHERS))])
    results = collect(store.tracker, [ALL_RUNS])
    assert intervals(results)["seeds"].tolist() == [5, 5]
    assert comparisons(results)["seeds"].tolist() == [5]


def test_one_seed_without_anything_to_say_has_neither_table(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS[:1]), unit("cjme", scores=OTHERS[:1])])
    assert not {"intervals", "comparisons"} & {t.name for t in build_tables(collect(store.tracker))}


def test_released_weights_are_in_no_test(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS, **UCF), unit("cjme", scores=OTHERS, **UCF)])
    store.released(unit("tcaf", **UCF), (0.6, 0.3))
    assert len(comparisons(collect(store.tracker))) == 1
    assert len(intervals(collect(store.tracker))) == 2


def test_both_tables_have_their_csv(store: Any, unit: Any, tmp_path: Any) -> None:
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS), unit("avca", scores=OURS[:4])])
    files = {p.name: p for p in write_report(store.tracker, tmp_path / "report").files}
    line = pd.read_csv(files["intervals.csv"]).set_index("method").loc["avca"]
    assert line["zsl_by_seed"] == "36.00, 39.60, 37.20, 38.40"
    pairs = pd.read_csv(files["comparisons.csv"]).set_index(["method", "other"])
    numbers = ["seeds", "zsl_wins", "zsl_losses"]
    assert pairs[numbers].to_dict("index") == {
        ("cjme", "avca"): {"seeds": 4, "zsl_wins": 0, "zsl_losses": 4},
        ("cjme", "tcaf"): {"seeds": 5, "zsl_wins": 0, "zsl_losses": 5},
        ("avca", "tcaf"): {"seeds": 4, "zsl_wins": 0, "zsl_losses": 0},
    }
    assert pairs["zsl_p"].notna().tolist() == [False, True, False]


def test_the_matrices_of_wins_are_latex_tables_of_their_own(store: Any, unit: Any, tmp_path: Any) -> None:
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS)])
    files = {p.name: p for p in write_report(store.tracker, tmp_path / "report").files}
    for number, metric in enumerate(("HM", "ZSL"), 1):
        text = files[f"comparisons-{number}.tex"].read_text()
        assert rf"\textbf{{Wins in {metric}: Stamps" in text
        assert "TCAF & 5/5* &  & 1" in text


def test_results_without_finished_jobs_have_frames_with_all_columns(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS)])
    whole = collect(store.tracker)
    empty = replace(whole, test=whole.test.iloc[:0])
    for make in (intervals, comparisons):
        assert list(make(empty)) == list(make(whole))
        assert make(empty).empty
    assert intervals_table(empty, "native", intervals(empty)) is None
    assert wins_tables(empty, "native", comparisons(empty)) == []
    summary = summarise(empty.test)
    assert list(numbers_csv(summary, ["hm"])) == list(numbers_csv(summarise(whole.test), ["hm"]))


def test_one_seed_on_published_data_has_the_csv_of_intervals(store: Any, unit: Any, tmp_path: Any) -> None:
    store.call([unit("tcaf", scores=OURS[:1], **UCF)])
    files = {p.name: p for p in write_report(store.tracker, tmp_path / "report").files}
    line = pd.read_csv(files["intervals.csv"]).iloc[0]
    assert line["hm_to_published"] == pytest.approx(line["hm"] - line["hm_published"])
    assert "comparisons.csv" not in files
