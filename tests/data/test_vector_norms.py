"""Class embeddings of zeros and of odd norms are reported by imports, ``data verify`` and ``data audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_store import CLASS_SPLITS, make_store, own_card

from benchmark.data.cards import load_cards
from benchmark.data.checks.audit import audit_lists, audit_store
from benchmark.data.checks.verify import verify_store
from benchmark.data.importing.class_lists import read_lists
from benchmark.data.importing.findings import FindingLog, ImportProblems
from benchmark.data.importing.official_layout import import_official
from benchmark.data.importing.places import ListPlaces
from benchmark.data.importing.word_vectors import read_word_vectors
from benchmark.data.vector_norms import nearly_zero, odd_norms

Folder = Any  # tests/data/conftest.py: OfficialFolder


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_norms_are_compared_with_the_usual_one_whatever_the_scale(scale: float) -> None:
    factors = [1, 1, 1, 0, 1e-9, 0.01, 100, 0.2, 5, np.nan, np.inf]
    vectors = scale * np.outer(factors, [0.6, 0.8]).astype("f8")
    found = {odd.name: odd.is_zero for odd in odd_norms([str(f) for f in factors], vectors)}
    assert found == {"0": True, "1e-09": True, "0.01": False, "100": False}
    assert nearly_zero({str(f): v for f, v in zip(factors, vectors, strict=True)}) == {"0", "1e-09"}


def test_nothing_but_zeros_is_zeros() -> None:
    assert nearly_zero({"a": np.zeros(3), "b": np.zeros(3)}) == {"a", "b"}
    assert nearly_zero({}) == set()
    tiny = {
        "a": np.full(3, 1e-30),
        "b": np.full(3, 2e-30),
    }  # all of them, so that none is odd beside the others
    assert nearly_zero(tiny) == {"a", "b"}


def change(folder: Folder, **vectors: Any) -> None:
    found = np.load(folder.text, allow_pickle=True).item()
    np.save(folder.text, found | vectors, allow_pickle=True)


def take(folder: Folder, target: Path, **options: Any) -> Any:
    return import_official(folder.card(), "cls", folder.parent, target, **options)


@pytest.mark.parametrize("factor", [0.0, 1e-12])
def test_a_class_whose_word_vector_is_zero_is_not_imported_and_named(
    folder: Folder, tmp_path: Path, factor: float
) -> None:
    change(folder, bowling=np.full(4, factor, "f4"))
    with pytest.raises(
        ImportProblems, match=r"class embedding of zeros \(1\): 'bowling' \(classes: Bowling\)"
    ) as caught:
        take(folder, tmp_path / "tiny.h5")
    assert "--vectors FILE" in caught.value.problems[0].fix


def test_zeros_of_no_class_and_odd_norms_are_notes(folder: Folder, tmp_path: Path) -> None:
    change(folder, unused=np.zeros(4, "f4"), gliding=np.zeros(4, "f4"), bowling=np.full(4, 1000, "f4"))
    notes = [
        note
        for note in take(folder, tmp_path / "tiny.h5").notes
        if note.kind == "class embedding of an odd norm"
    ]
    assert notes[0].count == 3  # no split has the class Gliding
    assert "'bowling' (classes: Bowling)" in notes[0].what


def test_an_audit_of_lists_tells_zeros_as_a_problem(folder: Folder) -> None:
    change(folder, bowling=np.zeros(4, "f4"))
    audit = audit_lists(folder.card(), "cls", folder.parent)
    assert {o.severity for o in audit.oddities if o.kind == "class embedding of zeros"} == {"problem"}


def test_a_store_with_zeros_is_reported_by_verify_and_audit(tmp_path: Path) -> None:
    vectors = np.eye(4, dtype="f4") * np.array([[0], [1], [500], [1]], "f4")
    path = tmp_path / "own.h5"
    store = make_store(path, vectors=vectors)
    found = {finding.severity: str(finding) for finding in verify_store(path, own_card())}
    assert found["problem"].startswith("class embedding of zeros (1): ant (ant): norm 0, 1 is usual")
    assert found["note"].startswith("class embedding of an odd norm (1): cat (cat): norm 5e+02")
    audit = {(o.severity, o.kind) for o in audit_store(own_card(), store).oddities}
    assert {("problem", "class embedding of zeros"), ("note", "class embedding of an odd norm")} <= audit


def test_zeros_of_a_class_of_no_split_are_a_note(tmp_path: Path) -> None:
    vectors = np.concatenate([np.eye(4), np.zeros((1, 4))]).astype("f4")
    names = ["ant", "bee", "cat", "dog", "eel"]
    make_store(
        tmp_path / "own.h5", class_names=names, vector_names=names, vectors=vectors, own_vector=range(5)
    )
    assert 4 not in {label for labels in CLASS_SPLITS.values() for label in labels}
    assert {finding.severity for finding in verify_store(tmp_path / "own.h5", own_card())} == {"note"}


@pytest.mark.parametrize("value", [0.0, 1e-12])
def test_a_given_file_has_no_vector_for_a_name_whose_vector_is_zero(
    folder: Folder, tmp_path: Path, value: float
) -> None:
    vectors = np.load(folder.text, allow_pickle=True).item() | {"bowling": np.full(4, value, "f4")}
    np.save(tmp_path / "v.npy", vectors)
    assert "bowling" not in read_word_vectors(tmp_path / "v.npy", [])
    with pytest.raises(ImportProblems, match=r"missing class embedding \(1\): Bowling \('bowling'\)"):
        take(folder, tmp_path / "tiny.h5", vectors=tmp_path / "v.npy")


@pytest.mark.parametrize("name", ["ucf", "vggsound", "activitynet"])
def test_the_published_word_vectors_have_no_odd_norm(shared: Path, name: str) -> None:
    card = load_cards()[name]
    assert card.official is not None
    root = shared / "official" / "avgzsl_benchmark_datasets" / card.official.folder
    places = ListPlaces(
        root, "cls", card.official, [(shared / "official" / "w2v_features" / card.official.text_file,)]
    )
    lists = read_lists(places, 300, findings := FindingLog("lists"))
    assert not findings.problems
    assert not [note for note in findings.notes if "norm" in note.kind]
    assert not list(odd_norms(lists.vector_names, lists.vectors))
