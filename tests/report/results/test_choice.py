"""A report of a part of some calls holds that part and nothing else, and says so."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from benchmark.errors import UsageError
from benchmark.report.results.choice import Choice
from benchmark.report.results.collect import collect
from benchmark.report.write import write_report

UCF = {"dataset": "ucf", "features": "cls", "alignment": "official", "variant": "published"}


@pytest.fixture
def filled(store: Any, unit: Any) -> Any:
    """A store of two calls: two methods on two datasets, one of them in both modes."""
    store.call([unit("tcaf"), unit("avca", trials=3, tuned=[(0.5, 0.3)])])
    store.call(
        [unit(m, **{**UCF, "mode": mode}) for m in ("tcaf", "cjme") for mode in ("paper", "corrected")]
    )
    return store


def held(store: Any, calls: list[str] | None = None, **options: str | None) -> set[tuple[str, ...]]:
    test = collect(store.tracker, calls, Choice.of(**options)).test
    return set(test[["method", "dataset", "features", "mode"]].itertuples(index=False, name=None))


def test_all_calls_are_one_report(filled: Any) -> None:
    assert {row[1] for row in held(filled)} == {"ucf"}, "the newest call alone"
    assert {row[1] for row in held(filled, ["all"])} == {"ucf", "stamps"}
    assert {row[0] for row in held(filled, ["all"])} == {"tcaf", "avca", "cjme"}


def test_options_choose_together(filled: Any) -> None:
    assert held(filled, ["all"], methods="tcaf") == {
        ("tcaf", "stamps", "native", "paper"), ("tcaf", "ucf", "cls", "paper"),
        ("tcaf", "ucf", "cls", "corrected"),
    }  # fmt: skip
    assert held(filled, ["all"], methods="tcaf, avca", mode="paper", features="native") == {
        ("tcaf", "stamps", "native", "paper"), ("avca", "stamps", "native", "paper"),
    }  # fmt: skip
    assert held(filled, methods="all", mode="both") == held(filled)


def test_nothing_of_what_was_not_chosen_is_left(filled: Any, tmp_path: Any) -> None:
    report = write_report(filled.tracker, tmp_path, ["all"], choice=Choice.of(methods="tcaf", datasets="ucf"))

    results, text = report.results, (tmp_path / "report.md").read_text(encoding="utf-8")
    assert len(results.calls) == 1
    assert {u.method for u in results.units} == {"tcaf"}
    assert not (tmp_path / "tuning.tex").exists()
    assert set(pd.read_csv(tmp_path / "results.csv")["method"]) == {"tcaf"}
    assert "`--methods tcaf --datasets ucf`" in text
    assert "Stamps" not in text


@pytest.mark.parametrize("tag", ["preset", "alias"])
def test_a_preset_chooses_its_dataset_also_in_stores_that_call_it_alias(
    store: Any, unit: Any, tag: str
) -> None:
    call = store.call([unit("tcaf"), unit("avca", **UCF)])
    for run in store.tracker.find(kind="method", parent=call, method="tcaf"):
        store.tracker.tag(run.run_id, {tag: "demo"})

    assert {row[1] for row in held(store, datasets="demo")} == {"stamps"}


def test_released_weights_are_chosen_too(filled: Any, unit: Any) -> None:
    filled.released(unit("avca", **UCF), (0.5, 0.3))

    assert {row[0] for row in held(filled, methods="tcaf,avca")} == {"tcaf", "avca"}
    assert {row[0] for row in held(filled, methods="avca")} == {"avca"}, "though nothing else of the call is"
    assert "avca" not in {row[0] for row in held(filled, methods="tcaf")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"methods": "tcaff"}, "--methods: no 'tcaff' in these runs: did you mean 'tcaf'"),
        ({"datasets": "usf"}, "--datasets: no 'usf' in these runs: did you mean 'ucf'"),
        ({"features": "main"}, r"--features: no 'main' in these runs: .*choose from cls, native"),
        ({"mode": "papper"}, "did you mean 'paper'"),
        (
            {"methods": "avca", "mode": "corrected"},
            "--methods avca --mode corrected: no job of these benchmark runs matches all of them",
        ),
    ],
)
def test_names_that_the_calls_do_not_have_are_told(filled: Any, options: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        held(filled, ["all"], **options)


def test_all_wrong_names_are_told_at_once(filled: Any) -> None:
    with pytest.raises(UsageError, match=r"(?s)--methods.*--mode"):
        held(filled, methods="tcaff", mode="papper")
