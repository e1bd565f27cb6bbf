"""The Python API names the argument that it cannot take, before anything is trained or written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_api import birds, frame

import benchmark as gz
from benchmark.data.cards import load_cards
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.system import shipped_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": None}, "run: methods must be a name, a class, a list of these, or 'all' (got None)"),
        ({"methods": []}, "run: methods must be a name, a class, a list of these, or 'all' (got [])"),
        ({"methods": ["linear", ""]}, "run: methods must be"),
        ({"methods": ["linear", None]}, "run: methods must be"),
        ({"methods": {"linear": 1}}, "run: methods must be"),
        ({"dataset": None}, "run: dataset must be a name or a list of names (got None)"),
        ({"dataset": []}, "run: dataset must be"),
        ({"dataset": [5]}, "run: dataset must be"),
        ({"features": ""}, "run: features must be a text"),
        ({"mode": "Paper"}, "run: mode: must be 'paper', 'corrected' or 'both' (got 'Paper')"),
        ({"seeds": 0}, "run: seeds: must be at least 1 (got 0)"),
        ({"seeds": -1}, "run: seeds: must be at least 1 (got -1)"),
        ({"seeds": "5"}, "run: seeds: is a text, not a number"),
        ({"seeds": [0, 1]}, "run: seeds: must be a whole number"),
        ({"trials": -1}, "run: trials: must be at least 0"),
        ({"base_seed": None}, "run: base_seed: must be a whole number"),
        ({"settings": ["train.epochs=1"]}, "run: settings must be a mapping such as {'train.epochs': 2}"),
        ({"settings": {"train.epochs": object}}, "run: settings['train.epochs'] must be a number, a text"),
        ({"settings": {"train.epochs": None}}, "--set train.epochs=null: epochs: must be a whole number"),
        ({"settings": {"train.epochs": np.arange(2)}}, "--set train.epochs=[0, 1]: epochs: must be a whole"),
        ({"controls": None}, "run: controls: must be true or false"),
        ({"ablate_protocol": []}, "run: ablate_protocol must be a flag, a list of flags, or 'all' (got [])"),
        ({"ablate_protocol": True}, "run: ablate_protocol must be"),
        ({"plugins": None}, "run: plugins must be a path or a list of paths (got None)"),
        ({"plugins": "a\0b"}, "run: plugins: the character U+0000 is not allowed"),
        ({"plugins": "."}, "is a folder, not a file"),
        ({"dataset_configs": 5}, "run: dataset_configs must be a path"),
        ({"jobs": None}, "run: jobs must be a whole number of at least 1"),
        ({"jobs": 1.5}, "run: jobs must be a whole number of at least 1"),
        ({"jobs": True}, "run: jobs must be a whole number of at least 1"),
        ({"tracking": True}, "run: tracking must be a folder, or None (got True)"),
        ({"tracking": "http://localhost/"}, "run: tracking: is an address; name a folder"),
        ({"data_root": ""}, "run: data_root must be a folder"),
        ({"progress": "no"}, "run: progress must be True or False"),
    ],
)
def test_run_names_the_argument(folder: Path, options: dict[str, Any], message: str) -> None:
    given = {"methods": "linear", "dataset": "synthetic", **options}
    with pytest.raises(UsageError, match=re.escape(message)):
        gz.run(**given)
    assert not [*folder.glob("*.db")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gz.load_results(None), "load_results: tracking must be a folder"),  # type: ignore[arg-type]
        (lambda: gz.methods(5), "methods: plugins must be a path"),  # type: ignore[arg-type]
        (lambda: gz.describe(None), "describe: name must be the name of a method"),  # type: ignore[arg-type]
    ],
)
def test_others_name_the_argument(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


FRAME = frame(("a", [1.0, 2.0]), ("b", [2.0, 2.0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "a", "b"), "frame must be a frame such as result.metrics"),
        (([FRAME], "a", "b"), "join several by pandas.concat"),
        ((pd.DataFrame(), "a", "b"), "frame has no column 'method'"),
        ((FRAME.drop(columns="random_seed"), "a", "b"), "frame has no column 'random_seed'"),
        ((FRAME.assign(HM="x"), "a", "b"), "column 'HM' of frame must be numbers"),
        ((FRAME, None, "b"), "method must be the name of a method"),
        ((FRAME, "a", "a"), "other must be another method than 'a'"),
    ],
)
def test_compare_names_the_argument(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=f"compare: .*{message}"):
        gz.compare(*arguments)


DISTANCES = {
    "distances": np.random.default_rng(0).normal(size=(6, 4)),
    "labels": [0, 1, 2, 3, 0, 1],
    "class_ids": [0, 1, 2, 3],
    "seen": [0, 1],
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distances": None}, "distances must be a list or an array"),
        ({"distances": [["1"] * 4] * 6}, "distances must be numbers"),
        ({"distances": np.full((6, 4), 1j)}, "distances must be numbers"),
        ({"labels": [0, "a", 2, 3, 0, 1]}, "labels of distances must be all numbers or all texts"),
        ({"labels": "012301"}, "labels of distances must be a list"),
        ({"class_ids": [0, "a", 2, 3]}, "class_ids must be all numbers or all texts"),
        ({"class_ids": [None, 1, 2, 3]}, "class_ids must be all numbers or all texts"),
        ({"seen": 5}, "seen of distances must be a list"),
        ({"calibrate_on": 5}, "calibrate_on must be .distances, labels"),
        ({"beta": True}, "beta must be a finite number"),
    ],
)
def test_evaluate_names_the_argument(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"evaluate: {message}"):
        gz.evaluate(**{**DISTANCES, **changed})


def test_evaluate_takes_numbers_of_numpy_and_torch_in_their_precision() -> None:
    for beta in (np.float32(1), np.int64(1), torch.tensor(1.0)):
        assert gz.evaluate(**DISTANCES, beta=beta)["beta"] == 1.0  # type: ignore[arg-type]
    precise = torch.tensor(1e8 + 1 - np.eye(4))  # in float32 the ones are lost
    found = gz.evaluate(precise, torch.arange(4), torch.arange(4), seen=[0, 1])
    assert found[["S", "U", "ZSL"]].tolist() == [100, 100, 100]


def first(of: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Changes the first entry of an argument of ``from_arrays``."""
    return lambda g: {of: [value, *g[of][1:]]}


def with_ids(g: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"ids": [f"clip_{i}" for i in range(len(g["labels"]))], **changed}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: {"name": "Birds"}, "from_arrays: name: use lower-case letters"),
        (lambda g: {"name": None}, "from_arrays: name: use lower-case letters"),
        (lambda g: {"name": "b" * 300}, "from_arrays: name: use lower-case letters"),
        (lambda g: {"audio": None}, "audio must be a list or an array (got None)"),
        (first("audio", np.zeros((0, 10))), "at least one time step ([0] is [0, 10])"),
        (first("audio", np.zeros((3, 4))), "with one D and at least one time step ([1] is"),
        (first("audio", [[1j] * 10]), "audio[0] must be numbers"),
        (first("audio", [["1"] * 10]), "audio[0] must be numbers"),
        (first("audio", [[np.nan] * 10]), "audio[0] has a value that is not finite"),
        (lambda g: {"class_embeddings": g["class_embeddings"] * np.nan}, "class_embeddings has a value that"),
        (lambda g: {"labels": "abc"}, "labels must be a list or an array"),
        (first("labels", None), "label 'None' is no class of class_names: labels are names of classes, or"),
        (lambda g: {"splits": "train"}, "splits must be a list or an array"),
        (first("class_names", "a\0b"), "class_names[0]: the character U+0000 is not allowed"),
        (first("class_names", "\ud800"), "class_names[0]: the character U+D800 is not allowed"),
        (first("class_names", " "), "class_names[0] must be a text that is not empty"),
        (lambda g: {"class_names": None}, "class_names must be a list or an array"),
        (lambda g: {"ids": ["a"] * len(g["labels"])}, "ids must differ from each other: 'a' is there twice"),
        (lambda g: {"ids": ["a\0b", *with_ids(g)["ids"][1:]]}, "ids[0]: the character U+0000 is not allowed"),
        (lambda g: {"ids": [None, *with_ids(g)["ids"][1:]]}, "ids[0] must be a text"),
        (lambda g: {"audio_seconds": "1"}, "audio_seconds must be a finite number"),
        (lambda g: {"audio_seconds": -1}, "audio.seconds: must be greater than 0 (got -1.0)"),
        (lambda g: {"grouping": "[a"}, "grouping: is no regular expression"),
        (lambda g: {"grouping": "(a)"}, "grouping reads the ids of samples: pass ids too"),
        (lambda g: with_ids(g, grouping="(z)"), "grouping '(z)' fits none of the ids, such as 'clip_0'"),
        (lambda g: with_ids(g, grouping="clip|(z)"), "grouping 'clip|(z)' names no source in id 'clip_0'"),
        (lambda g: {"title": "a\nb"}, "title: the character U+000A is not allowed"),
        (lambda g: {"data_root": 5}, "data_root must be a folder"),
        (lambda g: {"data_root": "/etc/passwd"}, "/etc/passwd: a file, where a folder is expected"),
    ],
)  # fmt: skip
def test_from_arrays_names_the_argument_and_writes_nothing(folder: Path, change: Any, message: str) -> None:
    given = {"name": "birds", **birds()}
    with pytest.raises(UsageError, match=re.escape(message)):
        gz.datasets.from_arrays(**{**given, **change(given)})
    assert not [*folder.iterdir()]


def test_ids_of_a_tensor_are_its_numbers(folder: Path) -> None:
    given = birds(lengths=False)
    gz.datasets.from_arrays("birds", **given, ids=torch.arange(len(given["labels"])))
    assert FeatureStore(folder / "data" / "birds-native.h5").tables().ids[0].isdigit()


def test_in_a_checkout_a_config_of_arrays_is_not_among_those_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the shipped configs, with the working folder in it, is a checkout."""
    shipped = shipped_files.shipped("datasets")
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "ucf.yaml").write_text((shipped / "ucf.yaml").read_text())
    monkeypatch.setattr(shipped_files, "PACKAGE", tmp_path / "benchmark")
    monkeypatch.setattr("benchmark.data.arrays.CARDS_DIR", tmp_path / "datasets")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # it replaces what it made
        gz.datasets.from_arrays("birds", **birds())
    assert sorted(os.listdir(tmp_path / "datasets")) == ["own", "ucf.yaml"]
    assert os.listdir(tmp_path / "datasets" / "own") == ["birds.yaml"]
    assert load_cards(tmp_path / "datasets")["birds"].title == "birds"

    # One that an earlier version made among those that ship.
    earlier = tmp_path / "datasets" / "owls.yaml"
    text = (tmp_path / "datasets" / "own" / "birds.yaml").read_text()
    earlier.write_text(text.replace("name: birds", "name: owls"))
    with pytest.raises(UsageError, match=r"owls\.yaml has this name; move it to datasets/own/owls\.yaml"):
        gz.datasets.from_arrays("owls", **birds())
