"""Word vectors from fastText models, text files and arrays: right numbers, little memory, clear refusals."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.fasttext_model import SUPERVISED, Model, write_text

from benchmark.data.cards import load_cards
from benchmark.data.importing.class_lists import read_lists
from benchmark.data.importing.findings import FindingLog, ImportProblems
from benchmark.data.importing.official_layout import import_official
from benchmark.data.importing.places import ListPlaces, text_places
from benchmark.data.importing.word_vectors import check_vectors_file, read_word_vectors
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.untrusted.pickles import UnreadableFile

Folder = Any  # tests/data/conftest.py: OfficialFolder
WORDS = ["</s>", "the", "archery", "ice", "hockey", "naïve", "猫", "a"]
NAMES = [
    "archery",
    "ice hockey",
    "alligators, crocodiles hissing",
    "naïve",
    "猫が鳴く",
    "猫",
    "a",
    "</s>",
    "Ünïcode wörds",
]


def unit(vector: NDArray[Any]) -> NDArray[Any]:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(
    ("minn", "maxn", "buckets"),
    [(3, 6, 50), (1, 3, 50), (2, 2, 7), (0, 3, 1000)],
    ids=["usual", "single", "pairs", "zero"],
)
def test_vectors_are_the_means_of_a_words_row_and_its_ngrams_divided_by_their_norm(
    tmp_path: Path, minn: int, maxn: int, buckets: int
) -> None:
    model = Model(WORDS, minn=minn, maxn=maxn, buckets=buckets)
    found = read_word_vectors(model.write(tmp_path / "m.bin"), NAMES)
    assert found.keys() == set(NAMES)
    for name in NAMES:
        expected = model.matrix[0] if name == "</s>" else model.vector(name)
        np.testing.assert_allclose(found[name], unit(expected), rtol=1e-6, atol=1e-7)
        assert found[name].dtype == np.float32


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12),
        max_size=5,
    ),
    minn=st.integers(0, 4),
    maxn=st.integers(1, 6),
)
def test_any_name_has_the_vector_of_the_definition(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], minn: int, maxn: int
) -> None:
    model = Model(list(dict.fromkeys(["the", *names[::2]])), minn=minn, maxn=maxn, buckets=31)
    found = read_word_vectors(model.write(tmp_path_factory.mktemp("m") / "m.bin"), names)
    for name in names:
        expected = model.matrix[0] if name == "</s>" else model.vector(name)
        if np.isnan(expected).any():
            assert name not in found
        elif name != "</s>":
            np.testing.assert_allclose(found[name], unit(expected), rtol=1e-5, atol=1e-6)


def test_without_ngrams_only_words_of_the_model_have_vectors(tmp_path: Path) -> None:
    model = Model(WORDS, minn=0, maxn=0, buckets=0)
    found = read_word_vectors(model.write(tmp_path / "m.bin"), NAMES)
    assert found.keys() == set(NAMES) & set(WORDS)
    np.testing.assert_allclose(found["archery"], unit(model.matrix[2]), rtol=1e-6)


def test_of_version_11_supervised_models_have_no_ngrams_and_labels_are_no_words(tmp_path: Path) -> None:
    model = Model(WORDS, labels=["__label__x"], version=11, kind=SUPERVISED)
    found = read_word_vectors(model.write(tmp_path / "m.bin"), ["archery", "__label__x", "unknown"])
    assert found.keys() == {"archery"}
    np.testing.assert_allclose(found["archery"], unit(model.matrix[2]), rtol=1e-6)


def test_the_matrix_is_not_read_as_a_whole(tmp_path: Path) -> None:
    model = Model([f"w{i}" for i in range(200)], dim=8, buckets=5)
    path = model.write(tmp_path / "m.bin")
    content = path.read_bytes()
    rows = 20_000_000  # 640 MB, all of it a hole of the file but the first rows
    at = content.index(model.matrix.tobytes()) - 16
    head = content[:at] + rows.to_bytes(8, "little") + content[at + 8 : at + 16] + model.matrix.tobytes()
    buckets = rows - len(model.words)
    path.write_bytes(head[: 8 + 4 * 8] + buckets.to_bytes(4, "little") + head[8 + 4 * 9 :])
    os.truncate(path, at + 16 + rows * 8 * 4)
    tracemalloc.start()
    try:
        found = read_word_vectors(path, ["w7", "ice hockey"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(
        found["w7"], unit(model.matrix[7]), rtol=1e-6
    )  # its n-grams are in the hole: zeros
    assert "ice hockey" not in found
    assert peak < 2**20


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(len(content) * share)]


@pytest.mark.parametrize(
    ("model", "spoil", "message"),
    [
        (Model(WORDS), lambda content: b"", "an empty file; fetch or extract it again"),
        (
            Model(WORDS, magic=1),
            bytes,
            r"not a fastText model: it does not begin with 793712314; give a \.bin",
        ),
        (Model(WORDS), gzip.compress, r"compressed with gzip; unpack it first \(gunzip\)"),
        (Model(WORDS, version=13), bytes, r"version 13, read are \(11, 12\); save it with fastText 0\.9"),
        (
            Model(WORDS),
            lambda content: content[:20],
            "truncated fastText model: it ends after 20 bytes, in its settings; fetch",
        ),
        (Model(WORDS), lambda content: content[:80], "in its dictionary; fetch it again"),
        (Model(WORDS), lambda content: content[:130], "in its dictionary, at entry 2 of 8"),
        (Model(WORDS), _cut(0.7), "in its input matrix"),
        (
            Model(WORDS, quantised=True),
            bytes,
            r"quantised fastText model.*give the \.bin that it was made from",
        ),
        (Model(WORDS, pruned=3), bytes, "quantised fastText model"),
        (Model(WORDS, pruned=2**60), bytes, "truncated fastText model"),
    ],
)
def test_what_is_no_whole_model_is_refused_with_name_and_fix(
    tmp_path: Path, model: Model, spoil: Callable[[bytes], bytes], message: str
) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(spoil(model.content()))
    with pytest.raises(UnreadableFile, match=rf"m\.bin: .*{message}"):
        read_word_vectors(path, NAMES)


def test_a_model_whose_numbers_do_not_fit_is_refused(tmp_path: Path) -> None:
    model = Model(WORDS)
    model.matrix = model.matrix[:-1]
    with pytest.raises(
        UnreadableFile,
        match="damaged fastText model: a matrix of 57 x 4 for 8 words, 50 n-grams and dimension 4",
    ):
        read_word_vectors(model.write(tmp_path / "m.bin"), NAMES)


# Text files and arrays


def test_a_text_file_gives_names_their_own_vector_or_the_mean_of_their_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = {w: rng.normal(size=3).astype("f4") for w in ["the", "ice", "hockey", "naïve", "ice skating"]}
    found = read_word_vectors(
        write_text(tmp_path / "v.vec", vectors),
        ["ice", "ice hockey", "ice skating", "naïve", "the unknown", "unknown"],
    )
    assert found.keys() == {"ice", "ice hockey", "ice skating", "naïve"}
    for name in ("ice", "ice skating", "naïve"):
        np.testing.assert_allclose(found[name], unit(vectors[name]), rtol=1e-4)
    np.testing.assert_allclose(
        found["ice hockey"], unit(unit(vectors["ice"]) + unit(vectors["hockey"])), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must be the count of words and the dimension, but is b''"),
        ("the 0.1 0.2\n", "first line must be"),
        ("3 2\nthe 1 2\nice 1 2\n", "truncated: 2 words instead of the 3 of its first line; fetch it again"),
        ("2 2\nthe 1 2\nice 1\n", "line 3: no word and 2 numbers"),
        ("1 2\nice 1 x\n", "line 2: no word and 2 numbers"),
    ],
)
def test_a_text_file_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.vec"
    path.write_text(text)
    with pytest.raises(UnreadableFile, match=rf"v\.vec: .*{message}"):
        read_word_vectors(path, ["ice"])


def test_an_array_file_is_divided_by_norms_and_unit_vectors_stay_as_they_are(tmp_path: Path) -> None:
    own = {"a": unit(np.arange(1, 5)).astype("f4"), "b": np.arange(4, dtype="f4"), "zeros": np.zeros(4, "f4")}
    np.save(tmp_path / "v.npy", own, allow_pickle=True)  # type: ignore[arg-type]
    found = read_word_vectors(tmp_path / "v.npy", [])
    assert found.keys() == {"a", "b"}
    np.testing.assert_array_equal(found["a"], own["a"])
    np.testing.assert_allclose(np.linalg.norm(found["b"]), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"), [("v.txt", r"must end in \.bin, \.vec, \.npy"), ("v.bin", "no such file")]
)
def test_other_files_are_refused_before_anything_is_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "v.txt").touch()
    with pytest.raises(UsageError, match=message):
        check_vectors_file(tmp_path / name)


# In an import


def take(folder: Folder, target: Path, vectors: Path) -> FeatureStore:
    import_official(folder.card(), "cls", folder.parent, target, vectors=vectors)
    return FeatureStore(target)


def test_an_import_takes_the_vectors_of_the_file_and_records_it(folder: Folder, tmp_path: Path) -> None:
    folder.text.unlink()
    model = Model(WORDS)
    store = take(folder, tmp_path / "s.h5", model.write(tmp_path / "wiki.bin"))
    tables = store.tables()
    assert tables.vector_names == sorted(tables.vector_names)
    for label, name in enumerate(tables.class_names):
        manual = tables.vector_names[tables.own_vector[label]]
        np.testing.assert_allclose(
            tables.vectors[tables.own_vector[label]], unit(model.vector(manual)), rtol=1e-5, atol=1e-6
        )
        assert name != manual or name == "Diving"
    record = store.provenance["word_vectors"]
    assert (record["file"], record["size"]) == ("wiki.bin", len(model.content()))


def test_an_import_is_done_again_only_where_the_vectors_differ(folder: Folder, tmp_path: Path) -> None:
    card, target, path = folder.card(), tmp_path / "s.h5", Model(WORDS).write(tmp_path / "wiki.bin")
    first = import_official(card, "cls", folder.parent, target, vectors=path)
    again = import_official(card, "cls", folder.parent, target, vectors=path)
    other = import_official(card, "cls", folder.parent, target, vectors=Model(WORDS, seed=1).write(path))
    layout = import_official(card, "cls", folder.parent, target)
    assert (again.already, again.digest) == (True, first.digest)
    assert not other.already
    assert not layout.already
    assert len({first.digest, other.digest, layout.digest}) == 3


def test_names_out_of_vocabulary_are_reported_together(folder: Folder, tmp_path: Path) -> None:
    path = Model(["Diving", "bowling"], minn=0, maxn=0, buckets=0).write(tmp_path / "wiki.bin")
    with pytest.raises(ImportProblems) as raised:
        take(folder, tmp_path / "s.h5", path)
    (problem,) = raised.value.problems
    assert (problem.kind, problem.count) == ("missing class embedding", 6)
    assert "a fastText .bin makes them of any name" in problem.fix


def test_a_dimension_other_than_the_cards_and_a_file_that_cannot_be_read_are_problems(
    folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(ImportProblems, match=r"wrong dimension \(8\): class embedding 'Diving': 6, not 4"):
        take(folder, tmp_path / "s.h5", Model(WORDS, dim=6).write(tmp_path / "wiki.bin"))
    with pytest.raises(
        ImportProblems, match=r"unreadable class embeddings \(1\): .*wiki\.bin: a quantised fastText model"
    ):
        take(folder, tmp_path / "s.h5", Model(WORDS, quantised=True).write(tmp_path / "wiki.bin"))


@pytest.mark.parametrize("name", ["ucf", "vggsound", "activitynet"])
def test_a_model_names_and_orders_the_vectors_as_the_published_files_do(
    shared: Path, tmp_path: Path, name: str
) -> None:
    card = load_cards()[name]
    assert card.official is not None
    root = shared / "official" / "avgzsl_benchmark_datasets" / card.official.folder
    texts = text_places(card, "cls", root)
    model = Model(WORDS, dim=300).write(tmp_path / "wiki.bin")
    published, made = (
        read_lists(
            ListPlaces(root, "cls", card.official, texts, vectors), 300, findings := FindingLog("lists")
        )
        for vectors in (None, model)
    )
    assert not findings.problems
    assert made.vector_names == published.vector_names
    assert made.own_vector == published.own_vector
    assert made.vectors.shape == published.vectors.shape
