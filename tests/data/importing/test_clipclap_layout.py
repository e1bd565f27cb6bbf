"""Importing ClipClap's layout, class files and caches: against what the published loader makes of them."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from support.clipclap import SMALL, make_clipclap_layout

from benchmark.data.cards import Card, load_cards
from benchmark.data.checks.audit import audit_lists
from benchmark.data.importing.class_lists import manual_names
from benchmark.data.importing.official_layout import ImportReport, import_official
from benchmark.data.importing.places import list_places
from benchmark.data.store import SPLITS, FeatureStore
from benchmark.errors import UsageError

FOLDERS = {"ucf": "UCF", "vggsound": "VGGSound", "activitynet": "ActivityNet"}
CARDS = load_cards()
Form = Literal["vectors", "cache"]
FORMS: tuple[Form, ...] = ("vectors", "cache")
Array = np.ndarray[Any, Any]


def take(dataset: str, source: Path, target: Path, form: Any = "auto", **options: Any) -> ImportReport:
    return import_official(CARDS[dataset], "clip_clap", source, target, form, **options)


# What the published loader makes of its layout

GOLDEN = [(dataset, form) for dataset in ("ucf", "activitynet") for form in FORMS]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    return shared / "golden" / "clipclap_layout"


@pytest.fixture(scope="module")
def imported(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ImportReport]:
    """Imports each golden folder in each form once."""
    reports: dict[tuple[str, str], ImportReport] = {}
    folder = tmp_path_factory.mktemp("golden")

    def report(dataset: str, form: str) -> ImportReport:
        if (dataset, form) not in reports:
            reports[dataset, form] = take(dataset, golden, folder / f"{dataset}-{form}.h5", form)
        return reports[dataset, form]

    return report


def samples_of(store: FeatureStore, split: str) -> dict[str, tuple[int, float, float]]:
    """Class id, sum of the audio and of the video vector by sample id."""
    section = store.open_test("by_name") if split in SPLITS[3:] else store.development("by_name")
    samples, rows = section.samples, section.samples.rows(split)
    sums = [np.asarray(x.means)[rows].astype(np.float64).sum(1) for x in (samples.audio, samples.video)]
    lists = (samples.labels[rows].tolist(), *(x.tolist() for x in sums))
    return dict(zip([samples.ids[row] for row in rows], zip(*lists, strict=True), strict=True))


def golden_samples(golden: Path, dataset: str, split: str) -> dict[str, tuple[int, float, float]]:
    """What the published loader has, under true names, or made-up ids where the file's are unusable."""
    folder = FOLDERS[dataset]
    facts = json.loads((golden / "expected.json").read_text())[folder]["parts"][split]
    arrays = np.load(golden / "data.npz")
    columns = [arrays[f"{folder}_{split}_{of}"].tolist() for of in ("label", "audio_sum", "video_sum")]
    rows = iter(zip(*columns, strict=True))
    expected = {}
    for name in sorted((name for name, fact in facts.items() if fact["listed"]), key=str.casefold):
        fact = facts[name]
        for i, true_name in enumerate(fact["true_names"]):
            made_up = f"{split}/{name}/{i:05d}"
            expected[true_name if fact["names_usable"] else made_up] = next(rows)
            assert len(fact["true_names"]) == fact["features"]
    assert next(rows, None) is None
    return expected


@pytest.mark.parametrize(("dataset", "form"), GOLDEN)
def test_each_listed_sample_has_its_class_and_vectors_under_its_name(
    imported: Callable[..., ImportReport], golden: Path, dataset: str, form: str
) -> None:
    store = FeatureStore(imported(dataset, form).target)
    for split in SPLITS:
        found, expected = samples_of(store, split), golden_samples(golden, dataset, split)
        assert found.keys() == expected.keys()
        for sample, (label, *sums) in expected.items():
            assert found[sample][0] == label
            np.testing.assert_allclose(found[sample][1:], sums, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dataset", "form"), GOLDEN)
def test_classes_get_the_published_rows_officially_and_their_own_by_name(
    imported: Callable[..., ImportReport], golden: Path, dataset: str, form: str
) -> None:
    store, arrays = FeatureStore(imported(dataset, form).target), np.load(golden / "data.npz")
    facts = json.loads((golden / "expected.json").read_text())[FOLDERS[dataset]]
    tables = store.tables()
    assert tables.class_names == facts["classes"]
    assert [tables.vector_names[row] for row in tables.own_vector] == facts["text_keys"]
    for alignment, name in (("official", "official"), ("by_name", "corrected")):
        rows = tables.vector_rows(alignment)  # type: ignore[arg-type]
        np.testing.assert_array_equal(tables.vectors[rows], arrays[f"{FOLDERS[dataset]}_text_{name}"])
    wrong = [label for label, row in enumerate(tables.own_vector.tolist()) if row != label]
    assert wrong == facts["misaligned_class_ids"]
    text_of = arrays[f"{FOLDERS[dataset]}_text_of_class_id"]
    np.testing.assert_array_equal(text_of[tables.own_vector], np.arange(len(text_of)))


@pytest.mark.parametrize(("dataset", "form"), GOLDEN)
def test_class_files_with_more_names_than_vectors_are_recorded_as_unusable(
    imported: Callable[..., ImportReport], golden: Path, dataset: str, form: str
) -> None:
    report = imported(dataset, form)
    facts = json.loads((golden / "expected.json").read_text())[FOLDERS[dataset]]["parts"]
    unusable = [
        {"split": split, "class": name, "samples": fact["features"]}
        for split in SPLITS
        for name, fact in facts[split].items()
        if not fact["names_usable"] and fact["listed"]
    ]
    assert FeatureStore(report.target).unusable_names == unusable
    notes = {note.kind: note.count for note in report.notes}
    samples = sum(entry["samples"] for entry in unusable)
    assert notes.get("sample names unusable, ids made up", 0) == samples == (7 if unusable else 0)


@pytest.mark.parametrize(("dataset", "form"), GOLDEN)
def test_classes_that_the_class_list_omits_are_dropped_with_a_note(
    imported: Callable[..., ImportReport], golden: Path, dataset: str, form: str
) -> None:
    report = imported(dataset, form)
    facts = json.loads((golden / "expected.json").read_text())[FOLDERS[dataset]]
    unlisted = {
        name: fact["features"]
        for name, fact in facts["parts"]["stage_2_test_unseen"].items()
        if not fact["listed"]
    }
    assert unlisted
    ids = FeatureStore(report.target).tables().ids
    for name in unlisted:
        assert not set(facts["parts"]["stage_2_test_unseen"][name]["true_names"]) & set(ids)
    notes = {note.kind: note.count for note in report.notes}
    kind = "samples of unlisted classes, dropped" if form == "cache" else None
    wanted = sum(unlisted.values()) if kind else 2 * len(unlisted)
    assert notes[kind or "class files of unlisted classes, not read"] == wanted
    cached = facts["cache"]["testcls_split.pkl"]
    assert sum(unlisted.values()) == cached["samples_in_file"] - cached["samples_of_listed_classes"]


@pytest.mark.parametrize("dataset", ["ucf", "activitynet"])
def test_class_files_and_caches_give_the_same_feature_file(
    imported: Callable[..., ImportReport], dataset: str
) -> None:
    assert imported(dataset, "vectors").digest == imported(dataset, "cache").digest


def test_a_vector_is_a_sequence_of_one_time_step_with_float16_as_it_is(
    imported: Callable[..., ImportReport], golden: Path
) -> None:
    store = FeatureStore(imported("ucf", "vectors").target)
    assert (store.has_sequences, store.audio_dim, store.video_dim, store.text_dim) == (True, 1024, 512, 1536)
    video = store.development("by_name").samples.video
    assert video.lengths.tolist() == [1] * len(video.lengths)
    assert video.frames is not None
    assert video.frames.dtype == np.float32
    np.testing.assert_array_equal(video.frames, video.frames.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(video.frames, video.means)


# Class embeddings of all classes


def text_folder(shared: Path, dataset: str, folder: Path) -> Path:
    """The published lists with marked class embeddings: the one of row k is e_k in both parts."""
    name, layout = FOLDERS[dataset], CARDS[dataset].features["clip_clap"].layout
    facts = json.loads((shared / "golden" / "clipclap_text" / "expected.json").read_text())[name]
    assert layout is not None
    assert (facts["names_file"], facts["key_column"]) == (layout.names_file, layout.name_column)
    root = folder / name
    shutil.copytree(
        shared / "official" / "avgzsl_benchmark_datasets" / name / "class-split", root / "class-split"
    )
    if "clip_class_names" in facts:
        with open(root / "class-split" / layout.names_file, "w", newline="") as file:
            rows = [[original, "", key] for original, key in facts["clip_class_names"].items()]
            csv.writer(file).writerows([["original", "manual", layout.name_column], *rows])
    keys = [fact["own_text_key"] for fact in facts["by_class"]]
    text = root / "features" / layout.folder / "text"
    text.mkdir(parents=True)
    for modality, dim in CARDS[dataset].features["clip_clap"].text_parts.items():
        rows = dict(zip(keys, np.eye(len(keys), dim, dtype="f4"), strict=True))
        np.save(text / layout.text_files[modality], rows, allow_pickle=True)  # type: ignore[arg-type]
    return root


@pytest.mark.parametrize("dataset", ["ucf", "vggsound", "activitynet"])
def test_published_lists_misalign_the_classes_that_the_published_loader_misaligns(
    shared: Path, tmp_path: Path, dataset: str
) -> None:
    facts = json.loads((shared / "golden" / "clipclap_text" / "expected.json").read_text())[FOLDERS[dataset]]
    no_leakage = {"grouping": None, "overlap_seconds": None}  # which takes seconds to look for
    card = CARDS[dataset].model_copy(update=no_leakage)
    audit = audit_lists(card, "clip_clap", text_folder(shared, dataset, tmp_path))
    used = {c.name: (c.manual_name, c.vector_used, c.vector_of) for c in audit.alignment.classes}
    expected = {
        fact["class"]: (fact["own_text_key"], fact["text_key_used"], fact["text_of_class"])
        for fact in facts["by_class"]
        if fact["own_text_key"] != fact["text_key_used"]
    }
    assert used == expected
    assert len(used) == facts["wrong"] == {"ucf": 0, "vggsound": 205, "activitynet": 8}[dataset]
    splits = {split.split: (split.classes, split.misaligned) for split in audit.alignment.splits}
    for split in SPLITS:
        assert splits[split] == (facts["parts"][split]["classes"], facts["parts"][split]["wrong"])
    assert all(count.as_expected for count in audit.counts)
    marked = np.load(shared / "golden" / "clipclap_text" / "data.npz")[f"{FOLDERS[dataset]}_text_of_class_id"]
    assert np.flatnonzero(marked != np.arange(len(marked))).tolist() == [
        fact["id"] for fact in facts["by_class"] if fact["class"] in used
    ]


def test_names_of_class_embeddings_are_those_of_the_feature_sets_own_column(tmp_path: Path) -> None:
    root = make_clipclap_layout(tmp_path, "ucf", clips=1)
    assert manual_names(list_places(CARDS["ucf"], "clip_clap", root, None)) == sorted(SMALL.values())


# Forms and other files


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A faultless folder of both forms, which tests only read."""
    return make_clipclap_layout(tmp_path_factory.mktemp("small"), "activitynet", clips=2)


def test_class_files_are_taken_before_caches_and_caches_alone_are_enough(small: Path, tmp_path: Path) -> None:
    report = take("activitynet", small, tmp_path / "both.h5")
    assert report.form == "vectors"
    shutil.copytree(small, tmp_path / "ActivityNet")
    shutil.rmtree(tmp_path / "ActivityNet" / "features")
    alone = take("activitynet", tmp_path, tmp_path / "cache.h5")
    assert (alone.form, alone.digest) == ("cache", report.digest)
    lists = audit_lists(CARDS["activitynet"], "clip_clap", tmp_path)  # class embeddings out of a cache
    assert [c.name for c in lists.alignment.classes] == [
        c.name for c in audit_lists(CARDS["activitynet"], "clip_clap", small).alignment.classes
    ]


@pytest.mark.parametrize("form", FORMS)
def test_an_import_is_not_repeated_and_keeps_its_notes(tmp_path: Path, form: Form) -> None:
    drop = {("stage_1_train", "Rowing"): [0]}
    root = make_clipclap_layout(tmp_path, "activitynet", clips=2, drop=drop)
    first, again = (take("activitynet", root, tmp_path / "x.h5", form) for _ in range(2))
    assert (first.already, again.already, again.digest) == (False, True, first.digest)
    unusable = "sample names unusable, ids made up"
    assert [note for note in again.notes if note.kind == unusable] == [
        note for note in first.notes if note.kind == unusable
    ]
    table = root / "class-split" / "activitynet_w2v_class_names.csv"
    table.write_text(table.read_text() + "\n")
    assert take("activitynet", root, tmp_path / "x.h5", "cache").already is False


def test_vectors_may_be_rows_of_one_array_or_sequences_of_one_time_step(small: Path, tmp_path: Path) -> None:
    digest = take("activitynet", small, tmp_path / "whole.h5").digest
    root = Path(shutil.copytree(small, tmp_path / "ActivityNet"))
    for i, path in enumerate(sorted(root.glob("features/*/*/*/*.pkl"))):
        content = pickle.loads(path.read_bytes())
        features = content["features"]
        content["features"] = np.stack(features) if i % 2 else [x[None] for x in features]
        path.write_bytes(pickle.dumps(content))
    assert take("activitynet", root, tmp_path / "rows.h5", "vectors").digest == digest
    for path in root.glob("_features_processed/*/*.pkl"):
        content = pickle.loads(path.read_bytes())
        for modality in ("audio", "video"):
            content[modality]["data"] = np.stack(content[modality]["data"])
        path.write_bytes(pickle.dumps(content))
    assert take("activitynet", root, tmp_path / "cached.h5", "cache").digest == digest


def test_names_in_another_case_are_joined(tmp_path: Path) -> None:
    root = make_clipclap_layout(tmp_path, "ucf", clips=2, form="classes")
    digest = take("ucf", root, tmp_path / "x.h5").digest
    for path in root.glob("features/*/*/*/HandStandPushups.pkl"):
        path.rename(path.with_stem("handstandpushups"))
    assert take("ucf", root, tmp_path / "y.h5").digest == digest


@pytest.mark.parametrize("form", FORMS)
def test_given_vectors_are_divided_by_the_norm_of_each_part(small: Path, tmp_path: Path, form: Form) -> None:
    own = {key: np.arange(1536.0, dtype="f4") + i for i, key in enumerate(SMALL.values())}
    np.save(tmp_path / "own.npy", own, allow_pickle=True)  # type: ignore[arg-type]
    take("activitynet", small, tmp_path / "x.h5", form, vectors=tmp_path / "own.npy")
    tables = FeatureStore(tmp_path / "x.h5").tables()
    for part in (tables.vectors[:, :512], tables.vectors[:, 512:]):
        np.testing.assert_allclose(np.linalg.norm(part, axis=1), 1, atol=1e-6)
    first = np.arange(512.0)
    row = tables.vectors[tables.vector_names.index("archery"), :512]
    np.testing.assert_allclose(row, first / np.linalg.norm(first), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_float16_halves_the_stored_time_steps(small: Path, tmp_path: Path, form: Form) -> None:
    take("activitynet", small, tmp_path / "x.h5", form, dtype="float16")
    frames = FeatureStore(tmp_path / "x.h5").development("by_name").samples.audio.frames
    assert frames is not None
    assert frames.dtype == np.float16


# The wrong feature set


def tcaf_folder(parent: Path, dims: tuple[int, int] = (128, 4096)) -> Path:
    """The features of ``cls`` in the folder that both code bases call the same."""
    root = make_clipclap_layout(parent, "ucf", clips=1, form="classes")
    for path in root.glob("features/*/*/*/*.pkl"):
        content = pickle.loads(path.read_bytes())
        dim = dims[0] if "audio" in path.parts else dims[1]
        content["features"] = [np.ones((3, dim), "f4") for _ in content["features"]]
        path.write_bytes(pickle.dumps(content))
    return root


def test_features_of_clip_clap_given_as_cls_are_named(small: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"cls_features_non_averaged: holds the features of 'clip_clap' \(one vector per sample, "
        r"audio 1024, video 512\), not of 'cls'; import them with --features clip_clap",
    ):
        import_official(CARDS["activitynet"], "cls", small, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_features_of_cls_given_as_clip_clap_are_named(tmp_path: Path) -> None:
    root = tcaf_folder(tmp_path)
    with pytest.raises(UsageError, match=r"\(sequences, audio 128, video 4096\).*--features cls$"):
        take("ucf", root, tmp_path / "x.h5")


def test_a_damaged_file_does_not_keep_the_wrong_feature_set_from_being_named(tmp_path: Path) -> None:
    root = tcaf_folder(tmp_path)
    next(root.glob("features/*/audio/*/Rowing.pkl")).write_bytes(b"\x80\x04")  # the smallest file
    with pytest.raises(UsageError, match=r"--features cls$"):
        take("ucf", root, tmp_path / "x.h5")


def test_a_form_of_another_feature_set_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'clip_clap' has no such form; choose from vectors, cache"):
        take("activitynet", small, tmp_path / "x.h5", "means")
    with pytest.raises(UsageError, match="'cls' has no such form; choose from sequences, means"):
        import_official(CARDS["ucf"], "cls", small, tmp_path / "x.h5", "cache")


def test_missing_features_are_reported_with_where_they_were_looked_for(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small / "class-split", tmp_path / "ActivityNet" / "class-split")
    with pytest.raises(UsageError) as caught:
        take("activitynet", tmp_path, tmp_path / "x.h5")
    for looked in ("features/cls_features_non_averaged/*/*/*.pkl", "trainingcls_split.pkl", "ClipClap-GZSL"):
        assert looked in str(caught.value)


def test_dataset_configs_hold_the_counts_of_cls(shared: Path) -> None:
    for name in FOLDERS:
        card: Card = CARDS[name]
        found, cls = card.features["clip_clap"], card.features["cls"]
        assert (found.classes, found.samples) == (cls.classes, cls.samples)
        assert found.text_parts == {"video": 512, "audio": 1024}
        assert list(found.text_parts) == ["video", "audio"]  # the order of the parts
        assert "unseen classes" in found.contamination
        assert "WavCaps" in found.licence
        assert found.layout is not None
        for file in (found.layout.names_file, "training,val,test", "word_embeddings"):
            assert file in card.obtain
