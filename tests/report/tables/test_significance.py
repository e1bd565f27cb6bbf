"""Intervals and tests of a report are those of its seeds, paired where they should be, corrected for their
number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support.cells_of import row, tables_of

from benchmark.report.results.collect import collect
from benchmark.report.results.published import published_for
from benchmark.report.tables.build import build_tables
from benchmark.report.tables.significance import _corrected, comparisons, intervals
from benchmark.report.write import write_report
from benchmark.tracking.benchmark_runs import ALL_RUNS
from benchmark.uncertainty import LEVEL

OURS = [(0.5, 0.30), (0.5, 0.33), (0.5, 0.31)]
OTHERS = [(0.5, 0.20), (0.5, 0.22), (0.5, 0.21)]
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
            unit("avca", scores=[(0.5, 0.3), (0.4, 0.2)]),
        ]
    )
    frame = comparisons(collect(store.tracker)).set_index(["method", "other"])
    expected = stats.ttest_rel(zsl(OTHERS), zsl(OURS))
    pair = frame.loc[("cjme", "tcaf")]
    assert pair["zsl_p"] == pytest.approx(expected.pvalue)
    assert (pair["zsl_low"], pair["zsl_high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert pair["zsl_difference"] == pytest.approx((zsl(OTHERS) - zsl(OURS)).mean())
    assert pair["zsl_p_holm"] == pytest.approx(5 * expected.pvalue), (
        "the second of three pairs in two metrics, behind its HM"
    )
    assert frame["seeds"].to_dict() == {("cjme", "avca"): 2, ("cjme", "tcaf"): 3, ("avca", "tcaf"): 2}


def test_marks_say_which_differences_are_significant(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS)])
    table = tables_of(collect(store.tracker))["comparisons"]
    found = row(table, Difference="CJME − TCAF")
    assert found["ZSL"].endswith("*")
    assert found["n"] == "3"
    assert "2 of 2 differences" in table.caption


def test_a_published_number_is_tested_where_it_is_comparable(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS, **UCF), unit("tcaf", scores=OURS, **{**UCF, "mode": "corrected"})])
    paper, corrected = intervals(collect(store.tracker)).to_dict("records")
    assert paper["zsl_published"] == corrected["zsl_published"]
    t = (zsl(OURS).mean() - paper["zsl_published"]) / (zsl(OURS).std(ddof=1) * (1 + 1 / 3) ** 0.5)
    assert paper["zsl_p"] == pytest.approx(2 * stats.t.sf(abs(t), 2))
    assert np.isnan(corrected["zsl_p"])
    table = tables_of(collect(store.tracker))["intervals"]
    assert row(table, Protocol="corrected, official text")["ZSL − published"] == "–"


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
    store.call([unit("tcaf", scores=OURS)])
    log_groups(store, [right([1] * 8), right([3] * 8), right([4] * 8)])
    line = intervals(collect(store.tracker)).iloc[0]
    assert line["zsl_samples_low"] < 100 * (0.2 + 0.6 + 0.8) / 3 < line["zsl_samples_high"]
    assert line["zsl_samples_low"] > 20
    assert line["samples_drawn"] == "groups"
    caption = tables_of(collect(store.tracker))["intervals"].caption
    assert "mean over the n seeds" in caption
    assert "groups of samples from the same source, by the dataset's rule `grouping` (Stamps)" in caption


def test_without_a_rule_the_caption_says_that_single_samples_are_drawn(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS[:1])])
    log_groups(store, [right([1, 0, 1, 1, 0], rule=None, samples=5)])
    table = tables_of(collect(store.tracker))["intervals"]
    assert "single samples, since the dataset has no rule `grouping` (Stamps)" in table.caption


def test_jobs_without_groups_say_so_and_have_no_interval_over_samples(store: Any, unit: Any) -> None:
    """The interval of some seeds would not belong to the mean of all."""
    store.call([unit("tcaf", scores=OURS)])
    log_groups(store, [right([1] * 8), right([3] * 8)])
    table = tables_of(collect(store.tracker))["intervals"]
    assert row(table, Method="TCAF")["ZSL 95 % over samples"] == "not recorded"
    assert "Not recorded: by jobs of earlier versions." in table.caption


def test_seeds_that_were_tested_on_different_samples_have_no_interval_over_samples(
    store: Any, unit: Any
) -> None:
    store.call([unit("tcaf", scores=OURS)])
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
    assert found["n"] == "1"
    assert " to " in found["HM 95 % over samples"]
    assert (found["HM 95 % over seeds"], found["HM p"], found["ZSL p"]) == ("–", "–", "–")
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


def test_with_two_seeds_the_caption_says_that_nearly_nothing_can_be_marked(store: Any, unit: Any) -> None:
    store.call([unit(m, scores=s[:2]) for m, s in (("tcaf", OURS), ("cjme", OTHERS))])
    assert (
        "At n = 2 almost nothing can be marked: the smallest of 2 p-values needs |t| > 25.5"
        in tables_of(collect(store.tracker))["comparisons"].caption
    )


def test_tuned_rows_say_that_their_search_is_not_in_their_scatter(store: Any, unit: Any) -> None:
    tuned = [unit(m, scores=s, tuned=s, trials=3) for m, s in (("tcaf", OURS), ("cjme", OTHERS))]
    store.call(tuned)
    tables = tables_of(collect(store.tracker))
    assert all(
        "from one search" in tables[name].caption
        for name in ("gzsl", "zsl", "full", "intervals", "comparisons", "tuning")
    )
    frame = comparisons(collect(store.tracker))
    assert frame[frame["slot"] == "tuned"][["hm_p", "zsl_p"]].isna().all(axis=None), (
        "the scatter of a search is not known"
    )
    assert frame[frame["slot"] != "tuned"][["hm_p", "zsl_p"]].notna().all(axis=None)
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS)])
    assert not any("from one search" in t.caption for t in build_tables(collect(store.tracker)))


def test_a_method_whose_default_settings_became_published_ones_has_each_seed_once(
    store: Any, unit: Any
) -> None:
    for variant in ("default", "published"):
        store.call([unit(m, scores=s, variant=variant) for m, s in (("tcaf", OURS), ("cjme", OTHERS))])
    results = collect(store.tracker, [ALL_RUNS])
    assert intervals(results)["seeds"].tolist() == [3, 3]
    assert comparisons(results)["seeds"].tolist() == [3]


def test_one_seed_without_anything_to_say_has_neither_table(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS[:1]), unit("cjme", scores=OTHERS[:1])])
    assert not {"intervals", "comparisons"} & {t.name for t in build_tables(collect(store.tracker))}


def test_released_weights_are_in_no_test(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS, **UCF), unit("cjme", scores=OTHERS, **UCF)])
    store.released(unit("tcaf", **UCF), (0.6, 0.3))
    assert len(comparisons(collect(store.tracker))) == 1
    assert len(intervals(collect(store.tracker))) == 2


def test_both_tables_have_their_csv(store: Any, unit: Any, tmp_path: Any) -> None:
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS)])
    names = {p.name for p in write_report(store.tracker, tmp_path / "report").files}
    assert {"intervals.csv", "comparisons.csv"} <= names


def test_one_seed_on_published_data_has_the_csv_of_intervals(store: Any, unit: Any, tmp_path: Any) -> None:
    store.call([unit("tcaf", scores=OURS[:1], **UCF)])
    files = {p.name: p for p in write_report(store.tracker, tmp_path / "report").files}
    line = pd.read_csv(files["intervals.csv"]).iloc[0]
    assert line["hm_to_published"] == pytest.approx(line["hm"] - line["hm_published"])
    assert "comparisons.csv" not in files
