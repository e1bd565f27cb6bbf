"""Intervals and tests of a report are those of its seeds, paired where they should be, corrected for their number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from report.cells_of import row, tables_of
from scipy import stats

from benchmark.report.collect import collect
from benchmark.report.published import published_for
from benchmark.report.significance import comparisons, intervals
from benchmark.report.tables import build_tables
from benchmark.report.write import write_report

OURS = [(0.5, 0.30), (0.5, 0.33), (0.5, 0.31)]
OTHERS = [(0.5, 0.20), (0.5, 0.22), (0.5, 0.21)]
UCF = {"dataset": "ucf", "features": "cls", "alignment": "official", "variant": "published", "kind": "published"}


def zsl(scores: list[tuple[float, float]]) -> np.ndarray[Any, Any]:
    """As ``FakeStore`` makes it, in percent."""
    return np.array([100 * 1.2 * unseen for _, unseen in scores])


def test_pairs_of_methods_are_tested_seed_by_seed(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS), unit("cjme", scores=OTHERS), unit("avca", scores=[(0.5, 0.3), (0.4, 0.2)])])
    frame = comparisons(collect(store.tracker)).set_index(["method", "other"])
    expected = stats.ttest_rel(zsl(OTHERS), zsl(OURS))
    pair = frame.loc[("cjme", "tcaf")]
    assert pair["zsl_p"] == pytest.approx(expected.pvalue)
    assert (pair["zsl_low"], pair["zsl_high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert pair["zsl_difference"] == pytest.approx((zsl(OTHERS) - zsl(OURS)).mean())
    assert pair["zsl_p_holm"] == pytest.approx(3 * expected.pvalue), "the smallest of three"
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
    assert paper["zsl_p"] == pytest.approx(stats.ttest_1samp(zsl(OURS), paper["zsl_published"]).pvalue)
    assert np.isnan(corrected["zsl_p"])
    table = tables_of(collect(store.tracker))["intervals"]
    assert row(table, Protocol="corrected, official text")["ZSL − published"] == "–"


def test_the_interval_over_test_samples_is_the_first_seeds(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS)])
    results = collect(store.tracker)
    first = results.test.sort_values("repetition").iloc[0]
    store.tracker.log_metrics(first["run_id"], {"bootstrap/hm_low": 0.31, "bootstrap/hm_high": 0.45})
    table = tables_of(collect(store.tracker))["intervals"]
    assert row(table, Method="TCAF")["HM 95 % over samples"] == "31.00 to 45.00"
    assert row(table, Method="TCAF")["ZSL 95 % over samples"] == "–"


def test_one_seed_has_its_difference_to_published_numbers_and_no_test(store: Any, unit: Any) -> None:
    store.call([unit("tcaf", scores=OURS[:1], **UCF), unit("cjme", scores=OTHERS[:1], **UCF)])
    results = collect(store.tracker)
    first = results.test[results.test["method"] == "tcaf"].iloc[0]
    store.tracker.log_metrics(first["run_id"], {"bootstrap/hm_low": 0.31, "bootstrap/hm_high": 0.45})
    tables = tables_of(collect(store.tracker))
    found = row(tables["intervals"], Method="TCAF")
    theirs = published_for("ucf", "cls", "tcaf")
    assert theirs is not None
    assert found["n"] == "1"
    assert found["HM 95 % over samples"] == "31.00 to 45.00"
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
    assert frame["zsl_p_holm"].min() == pytest.approx(2 * frame["zsl_p"].min())


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
