"""The Python API gives what the command line gives, and refuses what cannot be meant."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_rel
from support.checkout import PROJECT
from support.tiny import TINY, Bench
from test_plugin import METHOD

import benchmark as gz
from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.data.checks.verify import verify_store
from benchmark.errors import JobError, UsageError
from benchmark.method import REGISTERED, Method
from benchmark.protocol.evaluation import Nearest

SETTINGS = dict(setting.split("=") for setting in TINY) | {"train.epochs": 1}


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, benchmark; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
    assert {*gz.__all__} <= {*dir(gz)}
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        gz.rum  # noqa: B018


def test_a_run_gives_the_numbers_of_the_command_and_leaves_nothing(bench: Bench) -> None:
    environment = dict(os.environ)
    found = gz.run(
        "cjme,avgzslnet", "synthetic", seeds=2, settings=SETTINGS, data_root=bench.data, progress=False
    )
    columns = ["method", "dataset", "features", "mode", "seed", "S", "U", "HM", "ZSL", "AUSUC", "beta"]
    assert [*found.metrics.columns][:11] == columns
    result = bench.run(bench.call("train.epochs=1", methods="cjme,avgzslnet", seeds=2))
    runs = bench.tracker.by_job_key(e.job_key for e in result.entries if e.stage == 2)
    assert sorted(found.metrics["HM"]) == sorted(100 * run.metrics["test/hm"] for run in runs.values())
    assert environment.items() <= os.environ.items()

    summary = found.summary().set_index("method")
    rows = found.metrics[found.metrics["method"] == "cjme"]
    assert summary.loc["cjme", "HM"] == pytest.approx(rows["HM"].mean())
    assert summary.loc["cjme", ["HM_low", "HM_high"]].tolist() == sorted(rows["HM"])
    curve = found.curve(seed=1, method="cjme")
    assert curve["S"].between(0, 100).all()
    assert (curve["beta"].diff().dropna() >= 0).all()
    with pytest.raises(UsageError, match="2 tests match"):
        found.curve(seed=1)
    assert found.recall().groupby("method").size().nunique() == 1
    folder = Path(found._tracker.artifacts).parent
    del found
    assert not folder.exists()


def test_runs_that_are_kept_are_continued_and_loaded(bench: Bench, tmp_path: Path) -> None:
    options: dict[str, Any] = {"settings": SETTINGS, "data_root": bench.data, "progress": False}
    first = gz.run("cjme", "synthetic", tracking=tmp_path / "runs", **options)
    again = gz.run("cjme", "synthetic", seeds=2, tracking=tmp_path / "runs", **options)
    loaded = gz.load_results(tmp_path / "runs")
    pd.testing.assert_frame_equal(loaded, again.metrics)
    assert first.metrics["HM"].tolist() == again.metrics["HM"].tolist()[:1]
    with pytest.raises(UsageError, match="no tracking store"):
        gz.load_results(tmp_path / "none")


def test_a_method_of_a_notebook_runs_and_is_not_kept(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook's module has no file, and what its class needs may be in other cells."""
    notebook = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", notebook)
    options: dict[str, Any] = {"settings": SETTINGS, "data_root": bench.data, "progress": False}

    def cell() -> type[Method]:
        exec(METHOD.replace('"plain"', '"typed"'), vars(notebook))
        found: type[Method] = vars(notebook)["Linear"]
        return found

    try:
        first = cell()
        assert gz.run(first, "synthetic", **options).metrics["method"].tolist() == ["typed"]
        for kept in ({"jobs": 2}, {"tracking": tmp_path / "runs"}):
            with pytest.raises(UsageError, match="defined in a notebook"):
                gz.run(first, "synthetic", **options, **kept)
        cell()
        with pytest.raises(UsageError, match="pass it as it is now"):
            gz.run(first, "synthetic", **options)
    finally:
        REGISTERED.pop("typed", None)


def test_an_edited_file_is_imported_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    try:
        for title in ("Before", "After"):
            path.write_text(METHOD.replace('"plain"', '"edited"').replace("Linear", title))
            assert gz.methods(path).set_index("name").loc["edited", "title"] == title
    finally:
        REGISTERED.pop("edited", None)


def test_what_cannot_be_run_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine:
        pass

    with pytest.raises(UsageError, match="Mine is no registered method"):
        gz.run(Mine)  # type: ignore[arg-type]
    for options in ({"seeds": 0}, {"jobs": 0}):
        with pytest.raises(UsageError, match=rf"run: {next(iter(options))}:? must be .*at least 1 \(got 0\)"):
            gz.run("cjme", "synthetic", **options)

    def failing(*_: Any) -> None:
        raise ArithmeticError("too large")

    monkeypatch.setattr(registry.load().get("cjme"), "loss", failing)
    with pytest.raises(JobError, match="no job gave a result") as caught:
        gz.run("cjme", "synthetic", settings=SETTINGS, data_root=bench.data, progress=False)
    result = bench.run(bench.call("train.epochs=1", methods="cjme"))
    assert str(caught.value).splitlines()[1:] == [entry.failure for entry in result.failed]
    assert result.failed[0].failure.startswith("failed: cjme on synthetic (user-set, seed 0, stage 1): Arith")


def frame(*rows: tuple[str, list[float]], **columns: Any) -> pd.DataFrame:
    base = {"dataset": "d", "features": "f", "mode": "paper", "settings": "default", "study": 0, **columns}
    return pd.DataFrame(
        [
            {"method": m, "seed": s, "random_seed": str(s), "HM": v, **base}
            for m, values in rows
            for s, v in enumerate(values)
        ]
    )


def test_a_comparison_is_paired_and_infers_nothing_below_five_seeds() -> None:
    ours, theirs = [31.0, 29.0, 30.5, 33.0, 30.0], [28.0, 29.5, 27.0, 30.0, 28.0]
    found = gz.compare(frame(("a", ours), ("b", theirs)), "a", "b")
    expected = ttest_rel(ours, theirs)
    assert found.mean == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    few = gz.compare(frame(("a", ours[:4]), ("b", theirs)), "a", "b")
    assert (few.p, few.low, len(few.differences)) == (None, None, 4)
    assert "fewer than 5 seeds" in str(few)
    tuned = gz.compare(frame(("a", ours), ("b", theirs), settings="tuned"), "a", "b")
    assert (tuned.p, "one search" in str(tuned)) == (None, True)


def test_a_comparison_of_rows_that_differ_in_more_is_refused() -> None:
    both = pd.concat([frame(("a", [1.0])), frame(("a", [2.0]), mode="corrected"), frame(("b", [1.0]))])
    with pytest.raises(UsageError, match=r"the rows of a differ in mode \(paper, corrected\)"):
        gz.compare(both, "a", "b")
    pair = pd.concat([frame(("a", [1.0] * 6)), frame(("b", [2.0] * 6), mode="corrected")])
    with pytest.raises(UsageError, match=r"the methods differ in mode \(a paper, b corrected\)"):
        gz.compare(pair, "a", "b")
    twice = pd.concat([frame(("a", [1.0, 2.0]), ("b", [2.0, 2.0])), frame(("a", [3.0]))])
    with pytest.raises(UsageError, match="a has several rows for a seed"):
        gz.compare(twice, "a", "b")
    same = pd.concat([frame(("a", [1.0, 2.0]), ("b", [2.0, 2.0]))] * 2)
    assert len(gz.compare(same, "a", "b").differences) == 2
    with pytest.raises(UsageError, match="no rows of method 'c'"):
        gz.compare(both, "c", "b")
    with pytest.raises(UsageError, match="no metric 'hm'"):
        gz.compare(both, "a", "b", metric="hm")


@pytest.fixture
def distances() -> dict[str, Any]:
    random = np.random.default_rng(3)
    ids, seen = np.array([7, 2, 9, 4, 11]), np.array([9, 2, 7])
    labels = random.choice(ids, 60)
    table = random.normal(3, 1, (60, 5)) - 1.5 * (labels[:, None] == ids)
    return {"distances": table, "labels": labels, "class_ids": ids, "seen": seen}


def test_evaluate_is_the_protocol_of_the_benchmark(distances: dict[str, Any]) -> None:
    ids = np.sort(distances["class_ids"])
    columns = np.argsort(distances["class_ids"])
    table, seen = distances["distances"][:, columns], np.sort(distances["seen"])
    nearest = Nearest.of(table, ids, seen, distances["labels"])
    beta = nearest.curve().best_beta()
    expected = nearest.at(beta, exact=True)
    validation = tuple(distances[name] for name in ("distances", "labels", "class_ids", "seen"))
    found = gz.evaluate(**distances, calibrate_on=validation)
    assert found["beta"] == beta
    assert found[["S", "U", "HM", "ZSL", "AUSUC"]].tolist() == pytest.approx(
        [100 * x for x in (expected.seen, expected.unseen, expected.hm, expected.zsl, nearest.curve().ausuc)]
    )
    grid = gz.evaluate(**distances, calibrate_on=validation, calibration="grid")
    single = Nearest.of(table.astype(np.float32), ids, seen, distances["labels"])
    assert grid["beta"] == pytest.approx(float(single.best_on_grid().beta))
    assert gz.evaluate(**distances)["HM"] == pytest.approx(100 * nearest.at(0.0).hm)


def test_evaluate_takes_tensors_and_names_in_any_order(distances: dict[str, Any]) -> None:
    expected = gz.evaluate(**distances)
    order = np.array([3, 0, 4, 1, 2])
    moved = {**distances, "distances": distances["distances"][:, order]}
    moved["class_ids"] = distances["class_ids"][order]
    pd.testing.assert_series_equal(gz.evaluate(**moved), expected)
    tensors = {name: torch.tensor(value, requires_grad=value.dtype == float) for name, value in moved.items()}
    pd.testing.assert_series_equal(gz.evaluate(**tensors), expected)
    assert gz.evaluate(**{**moved, "seen": {*distances["seen"].tolist()}})["HM"] == expected["HM"]
    frames = {n: pd.DataFrame(v) if n == "distances" else pd.Series(v) for n, v in moved.items()}
    pd.testing.assert_series_equal(gz.evaluate(**frames), expected)
    named = {n: v if n == "distances" else [f"class {i:02}" for i in v] for n, v in moved.items()}
    pd.testing.assert_series_equal(gz.evaluate(**named), expected)


def test_evaluate_keeps_the_precision_of_distances() -> None:
    """In float32 the ones below are lost."""
    found = gz.evaluate(1e8 + 1 - np.eye(4), [0, 1, 2, 3], [0, 1, 2, 3], seen=[0, 1])
    assert found[["S", "U", "ZSL"]].tolist() == [100, 100, 100]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class_ids": [7, 2, 9, 4, 4]}, "a column for each of C different class ids"),
        ({"labels": [5] * 60}, "5 in labels of distances is not in class_ids"),
        ({"labels": [7] * 59}, "60 rows for 59 labels"),
        ({"seen": [1]}, "1 in seen of distances is not in class_ids"),
        ({"seen": [7, 2, 9, 4, 11]}, "unseen"),
        ({"distances": np.full((60, 5), np.nan)}, "finite"),
        ({"calibration": "none"}, "calibration must be exact or grid"),
        ({"seen": [True, False, True, False, True]}, "must be a list of class ids"),
        ({"labels": [7] * 60}, "samples of seen and of unseen classes"),
        ({"labels": [[7]] * 60}, "labels of distances must be a list"),
        ({"beta": float("nan")}, "beta must be a finite number"),
        ({"distances": [[1.0, 2.0], [1.0]]}, "cannot be read as an array"),
    ],
)
def test_evaluate_refuses_what_does_not_fit(
    distances: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        gz.evaluate(**{**distances, **changed})


def birds(lengths: bool = True) -> dict[str, Any]:
    """Features of 12 classes that their embeddings predict, in the order in which somebody has them."""
    random = np.random.default_rng(0)
    names = [f"bird {i}" for i in range(12)]
    embeddings = random.normal(size=(12, 8))
    counts = {"train": 6, "val_seen": 2, "val_unseen": 3, "test_seen": 2, "test_unseen": 4}
    of = {"train": range(6), "val_seen": range(6), "val_unseen": range(6, 9), "test_seen": range(9)}
    rows = [(c, s) for s, n in counts.items() for c in of.get(s, range(9, 12)) for _ in range(n)]
    random.shuffle(rows)
    labels = np.array([c for c, _ in rows])
    means = embeddings[labels] @ random.normal(size=(8, 10)) + random.normal(size=(len(rows), 10))
    audio = [m + random.normal(size=(random.integers(2, 6), 10)) for m in means]
    return {
        "audio": audio if lengths else means,
        "video": [x[:, :6] for x in audio] if lengths else means[:, :6],
        "labels": [names[c] for c in labels],
        "splits": [s for _, s in rows],
        "class_names": names,
        "class_embeddings": embeddings,
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_arrays_become_a_dataset_without_a_fault_that_trains(folder: Path) -> None:
    given = birds()
    assert gz.datasets.from_arrays("birds", **given) == "birds"
    store = folder / "data" / "birds-native.h5"
    assert verify_store(store, load_cards()["birds"]) == []
    found = gz.run("tcaf,eszsl", "birds", settings=SETTINGS, progress=False)
    assert found.metrics["mode"].tolist() == ["corrected"] * 2
    assert found.metrics.set_index("method").loc["eszsl", "ZSL"] > 60  # chance is 33

    # A row of a class keeps its class, whatever the order.
    tables = registry_tables(store)
    for i, sample in enumerate(tables.ids):
        assert tables.class_names[tables.labels[i]] == given["labels"][int(sample)]
    rows = tables.vectors[tables.own_vector]
    expected = np.asarray(given["class_embeddings"])[
        [given["class_names"].index(n) for n in tables.class_names]
    ]
    np.testing.assert_allclose(rows, expected, rtol=1e-6)


def registry_tables(store: Path) -> Any:
    from benchmark.data.store import FeatureStore

    return FeatureStore(store).tables()


def test_arrays_of_means_and_numbers_for_labels_do_too(folder: Path) -> None:
    given = birds(lengths=False)
    given["labels"] = np.array([given["class_names"].index(name) for name in given["labels"]])
    gz.datasets.from_arrays("birds", **given)
    gz.datasets.from_arrays(np.str_("birds"), **given, title=np.str_("Birds"), audio_seconds=np.float32(1))
    assert load_cards()["birds"].title == "Birds"
    assert verify_store(folder / "data" / "birds-native.h5", load_cards()["birds"]) == []
    with pytest.raises(UsageError, match="TCAF needs sequences"):
        gz.run("tcaf", "birds", settings=SETTINGS, progress=False)


def without(values: list[Any], index: int) -> list[Any]:
    return values[:index] + values[index + 1 :]


def mixed_up(given: dict[str, Any]) -> list[str]:
    """The labels, except an unseen test class that is one of training."""
    both = zip(given["labels"], given["splits"], strict=True)
    return ["bird 0" if split == "test_unseen" else name for name, split in both]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {"labels": without(g["labels"], 0)}, "one entry for each sample: labels"),
        (lambda g: {"audio": without(g["audio"], 0)}, r"one entry for each sample: .*audio"),
        (lambda g: {"audio": [g["audio"][0].T, *g["audio"][1:]]}, "audio must be"),
        (lambda g: {"video": [g["video"][0] * np.nan, *g["video"][1:]]}, r"video\[0\] has a value"),
        (lambda g: {"splits": ["tran", *g["splits"][1:]]}, "no split 'tran': did you mean 'train'"),
        (lambda g: {"labels": ["cat", *g["labels"][1:]]}, "label 'cat' is no class of class_names"),
        (lambda g: {"class_names": [*g["class_names"][:-1], "bird 0"]}, "class_names has 'bird 0' twice"),
        (lambda g: {"class_embeddings": g["class_embeddings"][1:]}, r"class_embeddings must be \[12, D\]"),
        (lambda g: {"splits": ["train"] * len(g["splits"])}, "no sample is in split val_seen"),
        (lambda g: {"labels": mixed_up(g)}, "class 'bird 0' of test_unseen is a class of train"),
        (lambda g: {"class_names": [*range(12)]}, "class_names must be texts"),
        (lambda g: {"class_embeddings": [[1.0], [1.0, 2.0]]}, "class_embeddings: cannot be read as an array"),
        (lambda g: {"video": [["a"]] * len(g["labels"])}, "must be numbers"),
        (lambda g: {"ids": ["a"] * len(g["labels"])}, "ids must differ"),
        (lambda g: {"grouping": "("}, "grouping: is no regular expression"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_written(
    folder: Path, change: Any, message: str
) -> None:
    given = birds()
    with pytest.raises(UsageError, match=message):
        gz.datasets.from_arrays("birds", **{**given, **change(given)})
    assert not [*folder.iterdir()]


def test_arrays_take_no_name_of_another_dataset(folder: Path) -> None:
    for name in ("ucf", "demo"):
        with pytest.raises(UsageError, match=f"{name!r}: the name is taken by a dataset of the project"):
            gz.datasets.from_arrays(name, **birds())
    (folder / "datasets").mkdir()
    (folder / "datasets" / "birds.yaml").write_text("name: birds\n")
    with pytest.raises(UsageError, match="written by hand"):
        gz.datasets.from_arrays("birds", **birds())


def test_methods_and_settings_are_listed() -> None:
    settings = gz.describe("tcaf").set_index("name")
    assert settings.loc["tcaf.lr", "search"]
    assert settings["description"].all()
    assert "train.epochs" in gz.describe("train")["name"].tolist()
    with pytest.raises(UsageError, match="did you mean 'tcaf'"):
        gz.describe("tcav")
    assert {"tcaf", "linear"} <= {*gz.methods()["name"]}
