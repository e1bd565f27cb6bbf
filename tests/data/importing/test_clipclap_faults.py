"""Faults of ClipClap's layout, in class files and caches: all are reported together, and none runs."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from support.clipclap import make_clipclap_layout

from benchmark.data.cards import load_cards
from benchmark.data.importing.cache_files import read_cache
from benchmark.data.importing.extracted_lists import import_extracted
from benchmark.data.importing.findings import FIXES, ImportProblems
from benchmark.data.importing.official_layout import ImportReport, import_official
from benchmark.errors import UsageError
from benchmark.untrusted.kinds import FETCH_AGAIN, FETCH_TRUSTED
from benchmark.untrusted.pickles import UnreadableFile

CARD = load_cards()["activitynet"]
FEATURES = "features/cls_features_non_averaged"
CACHES = "_features_processed/cls_features_non_averaged"
Change = Callable[[Any], Any]


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clipclap_layout(tmp_path_factory.mktemp("written"), "activitynet", clips=2)


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    """A faultless folder of both forms, to be spoilt."""
    return Path(shutil.copytree(written, tmp_path / "ActivityNet"))


def take(root: Path, form: Literal["vectors", "cache"] = "vectors", **options: Any) -> ImportReport:
    return import_official(CARD, "clip_clap", root, root.parent / "x.h5", form, **options)


def problems(root: Path, form: Literal["vectors", "cache"] = "vectors", **options: Any) -> dict[str, str]:
    """What an import finds, by kind; nothing is left of it."""
    with pytest.raises(ImportProblems) as caught:
        take(root, form, **options)
    assert not (root.parent / "x.h5").exists()
    assert all(found.fix and found.fix in str(caught.value) for found in caught.value.problems)
    return {found.kind: found.what for found in caught.value.problems}


def class_file(root: Path, modality: str, split: str, name: str) -> Path:
    return root / FEATURES / modality / split / f"{name}.pkl"


def change(path: Path, how: Change) -> None:
    """Rewrite a pickle with what ``how`` makes of its content, or has changed in it."""
    content = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(content if (made := how(content)) is None else made))


def change_first(root: Path, modality: str, split: str, name: str, how: Change) -> None:
    """Replace the first vector of a class file."""
    change(
        class_file(root, modality, split, name),
        lambda content: content.update(features=[how(content["features"][0]), *content["features"][1:]]),
    )


# Class files


def _missing_file(root: Path) -> None:
    class_file(root, "video", "stage_1_train", "Archery").unlink()


def _malicious(root: Path) -> None:
    path = class_file(root, "audio", "stage_1_train", "HandStandPushups")
    path.write_bytes(pickle.dumps({"features": Payload(), "video_names": []}))


def _truncated(root: Path) -> None:
    path = class_file(root, "audio", "stage_1_train", "Longjump")
    path.write_bytes(path.read_bytes()[:-40])


def _out_of_step(root: Path) -> None:
    path = class_file(root, "video", "stage_1_train", "Rowing")
    change(path, lambda content: content.update(video_names=content["video_names"][::-1]))


def _wrong_dimension(root: Path) -> None:
    change_first(root, "audio", "stage_1_val_seen", "Archery", lambda x: x[:-1])


def _wrong_dtype(root: Path) -> None:
    change_first(root, "video", "stage_1_val_seen", "HandStandPushups", lambda x: x.astype(int))


def _nan(root: Path) -> None:
    change_first(root, "video", "stage_1_val_seen", "Longjump", lambda x: np.where(x == x[3], np.nan, x))


def _sequence(root: Path) -> None:
    change_first(root, "audio", "stage_1_val_unseen", "BalanceBeam", lambda x: np.stack([x, x]))


def _duplicate(root: Path) -> None:
    for modality in ("audio", "video"):
        path = class_file(root, modality, "stage_1_val_unseen", "cat, meowing")
        change(path, lambda content: content.update(video_names=content["video_names"][:1] * 2))


def _unlisted(root: Path) -> None:
    for modality in ("audio", "video"):
        path = class_file(root, modality, "stage_2_test_seen", "Archery")
        change(path, lambda content: content.update(video_names=[b"stray_0", *content["video_names"][1:]]))


def _wrong_structure(root: Path) -> None:
    class_file(root, "audio", "stage_2_test_seen", "Rowing").write_bytes(pickle.dumps([np.ones(1024)]))


def _no_samples(root: Path) -> None:
    for modality in ("audio", "video"):
        path = class_file(root, modality, "stage_2_test_unseen", "YoYo")
        change(path, lambda content: content.update(features=[], video_names=[]))


def _no_text_part(root: Path) -> None:
    (root / FEATURES / "text" / "wavcaps_word_embeddings_activitynet_normed.npy").unlink()


def _resave(root: Path, how: Callable[[dict[str, Any]], Any], part: str = "wavcaps_") -> None:
    path = root / FEATURES / "text" / f"{part}word_embeddings_activitynet_normed.npy"
    vectors = np.load(path, allow_pickle=True).item()
    how(vectors)
    np.save(path, vectors, allow_pickle=True)


FAULTS: dict[str, Callable[[Path], None]] = {
    "missing class file": _missing_file,
    "refused pickle": _malicious,
    "unreadable file": _truncated,
    "audio and video out of step": _out_of_step,
    "wrong dimension": _wrong_dimension,
    "wrong dtype": _wrong_dtype,
    "not a number or infinite": _nan,
    "sequence in place of a vector": _sequence,
    "duplicate sample id": _duplicate,
    "unlisted sample": _unlisted,
    "wrong structure": _wrong_structure,
    "class without samples": _no_samples,
    "missing class embeddings": _no_text_part,
    "missing class embedding": lambda root: _resave(root, lambda vectors: vectors.pop("rowing")),
}
OWN_FIXES = {"refused pickle": FETCH_TRUSTED, "unreadable file": FETCH_AGAIN}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_of_class_files_is_reported_with_its_fix(root: Path, kind: str) -> None:
    FAULTS[kind](root)
    with pytest.raises(ImportProblems) as caught:
        take(root)
    assert [(found.kind, found.fix) for found in caught.value.problems] == [
        (kind, OWN_FIXES.get(kind) or FIXES[kind])
    ]
    assert not (root.parent / "x.h5").exists()


def test_a_folder_with_ten_faults_gets_one_report_that_lists_ten(root: Path) -> None:
    ten = list(FAULTS)[:10]
    for kind in ten:
        FAULTS[kind](root)
    with pytest.raises(ImportProblems) as caught:
        take(root)
    assert sorted(found.kind for found in caught.value.problems) == sorted(ten)
    assert all(f"  {n}. " in str(caught.value) for n in range(1, 11))


def test_a_missing_part_of_the_text_is_named_with_the_part_that_is_there(root: Path) -> None:
    _no_text_part(root)
    found = problems(root)["missing class embeddings"]
    assert found.startswith(f"{FEATURES}/text/wavcaps_word_embeddings_activitynet_normed.npy")
    assert "beside it there is word_embeddings_activitynet_normed.npy" in found


def test_a_part_of_another_size_is_named_with_its_file(root: Path) -> None:
    _resave(root, lambda vectors: vectors.update(rowing=np.ones(300, "f4")), part="")
    found = problems(root)["wrong dimension"]
    assert "'rowing'" in found
    assert "text/word_embeddings_activitynet_normed.npy: 300, not 512" in found


def test_a_part_that_is_not_of_length_1_is_a_note(root: Path) -> None:
    _resave(root, lambda vectors: vectors.update(rowing=vectors["rowing"] * 2))
    notes = {note.kind: note.what for note in take(root).notes}
    assert notes["not of length 1"] == "class embeddings: rowing, audio part: 2"


def test_more_vectors_than_names_make_the_names_unusable_too(root: Path) -> None:
    for modality in ("audio", "video"):
        path = class_file(root, modality, "stage_1_train", "Rowing")
        change(path, lambda content: content.update(video_names=content["video_names"][:1]))
    notes = {note.kind: note.what for note in take(root).notes}
    assert notes["sample names unusable, ids made up"] == "stage_1_train: Rowing: 2"


def test_a_clip_that_only_one_modality_lacks_is_a_problem(root: Path) -> None:
    path = class_file(root, "video", "stage_1_train", "Rowing")
    change(path, lambda content: content.update(features=content["features"][1:]))
    found = problems(root)["audio and video out of step"]
    assert "2 samples of audio, 1 of video" in found


# Caches


def cache(root: Path, name: str = "training") -> Path:
    return root / CACHES / f"{name}cls_split.pkl"


def _of(part: str, **values: Any) -> Change:
    return lambda content: content[part].update(values)


def _both(name: str, how: Change) -> Change:
    """Changes a field of audio and video."""

    def changed(content: Any) -> None:
        for part in ("audio", "video"):
            content[part][name] = how(content[part][name])

    return changed


def _video_first(how: Change) -> Change:
    return lambda content: content["video"].update(
        data=[how(content["video"]["data"][0]), *content["video"]["data"][1:]]
    )


CACHE_FAULTS: dict[str, tuple[Change, str, str]] = {
    "hostile data": (_of("audio", data=Payload()), "refused pickle", "system"),
    "hostile text": (_of("text", data=[Payload()]), "refused pickle", "system"),
    "no dict": (lambda content: list(content), "wrong structure", "under 'audio', but list"),
    "no text": (lambda content: content.pop("text") and None, "wrong structure", "under 'text', but"),
    "data of numbers": (_of("audio", data=7), "wrong structure", "audio.data is no list of arrays, but 7"),
    "names of numbers": (_both("url", lambda of: [1] * len(of)), "wrong structure", "url holds no names"),
    "class ids of text": (_both("target", lambda of: ["1"] * len(of)), "wrong structure", "no class ids"),
    "text of two axes": (_of("text", data=[np.ones((2, 3), "f4")]), "wrong structure", "text.data holds"),
    "text without ids": (_of("text", target=torch.zeros(0).long()), "wrong structure", "for 0 class ids"),
    "fewer names": (_of("audio", url=np.array(["b'x'"])), "audio and video out of step", "1 and 8 names"),
    "other order": (
        lambda content: content["video"].update(target=content["video"]["target"].flip(0)),
        "audio and video out of step",
        "other class ids",
    ),
    "other names": (
        lambda content: content["video"].update(url=content["video"]["url"][::-1]),
        "audio and video out of step",
        "other names",
    ),
    "repeated": (
        lambda content: [content[m].update(data=[x] * 8) for m, x in
                         (("audio", np.ones((1, 2**16), "f4")), ("video", np.ones(512, "f2")))] and None,
        "wrong structure",
        "its arrays repeat",
    ),
    "wrong dimension": (_video_first(lambda x: x[1:]), "wrong dimension", "511, not 512"),
    "sequence": (_video_first(lambda x: np.stack([x, x])), "sequence in place of a vector", "2 time steps"),
    "not finite": (_video_first(lambda x: x * np.inf), "not a number or infinite", "stage_1_train/"),
    "unknown class": (_both("target", lambda of: of + 20), "lists of another dataset", "but there are 10"),
    "without a class": (_both("target", lambda of: of.clamp(min=3)), "class without samples", "Archery"),
    "other text": (
        lambda content: content["text"].update(data=[x[::-1].copy() for x in content["text"]["data"]]),
        "caches of different data",
        "other class embeddings than the smallest cache",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", CACHE_FAULTS)
def test_a_fault_of_a_cache_is_reported_and_nothing_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.chdir(root.parent)
    how, kind, what = CACHE_FAULTS[fault]
    change(cache(root), how)
    found = problems(root, "cache")
    assert kind in found
    assert what in found[kind]
    assert found[kind].count("trainingcls_split.pkl") == (fault != "other text")  # it is the smallest
    assert not Path("canary").exists()


def test_faults_of_several_caches_are_listed_together(root: Path) -> None:
    cache(root, "test").unlink()
    cache(root, "val").write_bytes(cache(root, "val").read_bytes()[:-30])
    change(cache(root), _video_first(lambda x: x[1:]))
    assert set(problems(root, "cache")) == {"missing cache", "unreadable file", "wrong dimension"}


def test_a_table_of_other_class_names_does_not_fit_a_cache(root: Path) -> None:
    table = root / "class-split" / "activitynet_w2v_class_names.csv"
    table.write_text(table.read_text().replace("rowing", "a rowing"))
    found = problems(root, "cache")["lists of another dataset"]
    assert "row 0 is of Archery, but 'a rowing' is not its name" in found
    table.write_text(table.read_text() + "More,more\n")
    assert "10 class embeddings for 11 names" in problems(root, "cache")["wrong structure"]


def test_a_class_in_two_splits_of_a_cache_is_a_problem(root: Path) -> None:
    path = root / "class-split" / "cls_split" / "stage_2_test_unseen.txt"
    path.write_text(path.read_text() + "Rowing\n")
    found = problems(root, "cache")
    assert found["class in two splits"].startswith(f"Rowing in two splits of {CACHES}/testcls_split.pkl")


def test_a_cache_without_sample_lists_has_unusable_names(root: Path) -> None:
    for split in ("stage_1_train", "stage_2_train"):
        (root / "class-split" / "cls_split" / f"{split}.csv").unlink()
    notes = {note.kind: note.count for note in take(root, "cache").notes}
    assert notes["sample names unusable, ids made up"] == 8


@pytest.mark.parametrize(
    ("written_as", "name"),
    [
        ("b'v_a_1'", "v_a_1"),
        ('b"it\'s"', "it's"),
        ("b'\\xc3\\xa9'", "é"),
        ("plain", "plain"),
        (b"bytes", "bytes"),
        ("b'a' + b'b'", None),
        ("b'a'.hex()'", None),
    ],
)
def test_names_of_a_cache_are_text_of_bytes(root: Path, written_as: Any, name: str | None) -> None:
    change(cache(root), _both("url", lambda of: [written_as] * len(of)))
    assert set(read_cache(cache(root)).names) == {name}


def test_a_cache_of_another_kind_of_file_is_named(root: Path) -> None:
    cache(root).write_bytes(b"<html>")
    with pytest.raises(UnreadableFile, match="a web page"):
        read_cache(cache(root))
    assert "a web page" in problems(root, "cache")["another kind of file"]


def test_raw_files_of_the_extraction_are_refused(root: Path) -> None:
    with pytest.raises(UsageError, match="raw files of feature set 'clip_clap' are not read"):
        import_extracted(CARD, "clip_clap", root, root, root.parent / "x.h5")
