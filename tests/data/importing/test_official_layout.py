"""Importing the official layout: names, order, counts, forms, published lists, and doing nothing twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_store import make_store

from benchmark.data.cards import load_cards
from benchmark.data.checks.verify import verify_store
from benchmark.data.importing.class_lists import read_lists
from benchmark.data.importing.findings import FindingLog
from benchmark.data.importing.official_layout import ImportReport, import_official
from benchmark.data.importing.places import ListPlaces
from benchmark.data.store import SPLITS, FeatureStore
from benchmark.errors import UsageError

Folder = Any  # tests/data/conftest.py: OfficialFolder
COMMA = "alligators, crocodiles hissing"
HANDSTAND = "HandStandPushups"


def take(folder: Folder, target: Path, **options: Any) -> ImportReport:
    return import_official(folder.card(), "cls", folder.parent, target, **options)


def frames_of(store: FeatureStore, modality: str, sample: str) -> np.ndarray[Any, Any]:
    section = store.open_test("by_name") if "stage_2" in sample else store.development("by_name")
    data = getattr(section.samples, modality)
    i = list(section.samples.ids).index(sample)
    return np.asarray(data.frames[data.offsets[i] : data.offsets[i + 1]])


# What an import makes


def test_every_frame_of_every_listed_class_arrives_under_its_id(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    expected = [sample for split in SPLITS for sample, name in folder.listed(split) if name != "Gliding"]
    assert sorted(store.tables().ids) == sorted(expected)
    for modality, dim in (("audio", 3), ("video", 5)):
        for split, name in (
            ("stage_1_train", "Archery"),
            ("stage_2_test_unseen", "Fencing"),
            ("stage_2_test_seen", COMMA),
        ):
            frames, ids = folder.read_pickle(modality, split, name)
            for x, sample in zip(frames, ids, strict=True):
                assert x.shape[1] == dim
                np.testing.assert_array_equal(frames_of(store, modality, sample), x)


def test_samples_are_sorted_by_split_then_class_then_id(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    keys = list(
        zip(store.tables().splits.tolist(), store.tables().labels.tolist(), store.tables().ids, strict=True)
    )
    assert keys == sorted(keys)


def test_class_ids_follow_plain_sorting_of_all_classes(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    names = (folder.root / "class-split" / "all_class.txt").read_text().split("\n")
    assert store.tables().class_names == sorted(filter(None, names)) != list(filter(None, names))


def test_names_are_joined_without_regard_to_case(folder: Folder, tmp_path: Path) -> None:
    for modality in ("audio", "video"):
        path = folder.path(modality, "stage_1_val_seen", HANDSTAND)
        path.rename(path.with_stem("handstandpushups"))
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    label = store.tables().class_names.index("HandstandPushups")
    assert label in store.tables().class_splits["stage_1_train"]
    assert int((store.tables().labels == label).sum()) == 12
    assert store.tables().vector_names[store.tables().own_vector[label]] == "Handstand Pushups"


def test_class_names_with_commas_keep_their_samples_and_vector(folder: Folder, tmp_path: Path) -> None:
    report = take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    label = store.tables().class_names.index(COMMA)
    assert int((store.tables().labels == label).sum()) == 12
    assert store.tables().vector_names[store.tables().own_vector[label]] == "alligators hissing, crocodiles"
    assert report.splits["stage_1_train"].listed == 12


def test_alignment_official_takes_rows_by_manual_name_and_by_name_each_class_its_own(
    folder: Folder, tmp_path: Path
) -> None:
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    vectors = np.load(folder.text, allow_pickle=True).item()
    archery = store.tables().class_names.index("Archery")
    official, corrected = (store.development(a).classes.vectors[archery] for a in ("official", "by_name"))
    np.testing.assert_array_equal(corrected, vectors["zz archery"])
    np.testing.assert_array_equal(official, vectors[sorted(vectors)[archery]])
    assert not np.array_equal(official, corrected)


def test_the_class_list_decides_and_the_report_counts_what_it_drops(folder: Folder, tmp_path: Path) -> None:
    report = take(folder, tmp_path / "tiny.h5")
    split = report.splits["stage_2_test_unseen"]
    assert (split.listed, split.dropped, split.found, split.expected) == (8, 4, 8, 8)
    assert {note.kind for note in report.notes} == {
        "listed samples of unlisted classes, dropped",
        "class files of unlisted classes, not read",
    }


def test_fewer_samples_than_listed_are_a_note(folder: Folder, tmp_path: Path) -> None:
    for modality in ("audio", "video"):
        folder.change(modality, "stage_1_train", "Archery", lambda frames, ids: (frames[:1], ids[:1]))
    report = take(folder, tmp_path / "tiny.h5")
    note = next(note for note in report.notes if note.kind == "fewer samples than listed")
    assert (note.count, note.what) == (3, "stage_1_train: 9 of 12")


def test_without_a_sample_list_the_files_decide_and_a_note_reports_it(folder: Folder, tmp_path: Path) -> None:
    (folder.lists / "stage_2_test_seen.csv").unlink()
    report = take(folder, tmp_path / "tiny.h5")
    assert report.splits["stage_2_test_seen"].listed is None
    assert report.splits["stage_2_test_seen"].found == 20
    assert "no sample list" in {note.kind for note in report.notes}


def test_other_counts_than_the_cards_are_a_note(folder: Folder, tmp_path: Path) -> None:
    card = folder.card()
    counts = card.features["cls"].model_copy(
        update={"samples": {"stage_1_train": 99}, "classes": {"stage_1_train": 98}}
    )
    report = import_official(
        card.model_copy(update={"features": {"cls": counts}}), "cls", folder.root, tmp_path / "tiny.h5"
    )
    note = next(note for note in report.notes if note.kind == "counts differ from the dataset config")
    assert (
        note.what
        == "stage_1_train: 12 samples, the config has 99; stage_1_train: 3 classes, the config has 98"
    )


def test_the_means_form_gives_the_means_of_the_sequences(folder: Folder, tmp_path: Path) -> None:
    sequences = take(folder, tmp_path / "sequences.h5")
    means = take(folder, tmp_path / "means.h5", form="means")
    assert (sequences.form, means.form) == ("sequences", "means")
    a, b = FeatureStore(tmp_path / "sequences.h5"), FeatureStore(tmp_path / "means.h5")
    assert (a.has_sequences, b.has_sequences) == (True, False)
    assert a.tables().ids == b.tables().ids
    for open_section in (FeatureStore.development, FeatureStore.open_test):
        x, y = (open_section(store, "by_name").samples for store in (a, b))
        np.testing.assert_allclose(x.audio.means, y.audio.means, atol=1e-6)
        np.testing.assert_allclose(x.video.means, y.video.means, atol=1e-6)
    with pytest.raises(UsageError, match="temporal means only"):
        _ = b.development("by_name").samples.audio.lengths


def test_auto_takes_means_where_there_are_no_sequences(folder: Folder, tmp_path: Path) -> None:
    folder.means.joinpath("text").mkdir()
    folder.text.rename(folder.means / "text" / folder.text.name)
    for path in folder.sequences.rglob("*.pkl"):
        path.unlink()
    assert take(folder, tmp_path / "tiny.h5").form == "means"


def test_float16_halves_the_frames_and_the_means_are_of_what_is_stored(
    folder: Folder, tmp_path: Path
) -> None:
    take(folder, tmp_path / "single.h5")
    take(folder, tmp_path / "half.h5", dtype="float16")
    a, b = (
        FeatureStore(tmp_path / f"{name}.h5").development("by_name").samples for name in ("single", "half")
    )
    assert a.audio.frames is not None
    assert b.audio.frames is not None
    assert (str(a.audio.frames.dtype), str(b.audio.frames.dtype)) == ("float32", "float16")
    np.testing.assert_allclose(a.audio.frames, b.audio.frames, atol=2e-3)
    assert b.audio.offsets is not None
    first = np.asarray(b.audio.frames[: b.audio.offsets[1]], np.float64).mean(0)
    np.testing.assert_allclose(b.audio.means[0], first, rtol=1e-6)
    assert not verify_store(tmp_path / "half.h5", folder.card())
    assert FeatureStore(tmp_path / "single.h5").digest != FeatureStore(tmp_path / "half.h5").digest


def test_the_folder_itself_or_its_parent_may_be_named(folder: Folder, tmp_path: Path) -> None:
    first = import_official(folder.card(), "cls", folder.parent, tmp_path / "a.h5")
    second = import_official(folder.card(), "cls", folder.root, tmp_path / "b.h5")
    assert first.digest == second.digest
    assert FeatureStore(tmp_path / "a.h5").provenance == FeatureStore(tmp_path / "b.h5").provenance


def test_the_provenance_names_each_file_with_its_hash_and_no_absolute_path(
    folder: Folder, tmp_path: Path
) -> None:
    take(folder, tmp_path / "tiny.h5")
    provenance = FeatureStore(tmp_path / "tiny.h5").provenance
    assert (provenance["source"], provenance["card"], provenance["form"]) == ("Tiny", "tiny", "sequences")
    assert len(provenance["files"]) == 2 + 12 + 1 + 2 * 15
    assert all(len(file["sha256"]) == 64 and file["size"] > 0 for file in provenance["files"])
    assert str(tmp_path) not in str(provenance)


def test_the_order_of_samples_in_the_files_changes_nothing(folder: Folder, tmp_path: Path) -> None:
    digest = take(folder, tmp_path / "a.h5").digest
    for modality in ("audio", "video"):
        folder.change(modality, "stage_1_train", "Archery", lambda frames, ids: (frames[::-1], ids[::-1]))
    assert take(folder, tmp_path / "b.h5").digest == digest


def test_an_imported_store_verifies(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    assert verify_store(tmp_path / "tiny.h5", folder.card()) == []


# Doing nothing twice


def test_a_second_import_of_the_same_files_does_nothing(folder: Folder, tmp_path: Path) -> None:
    target = tmp_path / "tiny.h5"
    first = take(folder, target)
    written = target.stat()
    second = take(folder, target)
    assert (first.already, second.already) == (False, True)
    assert (second.digest, second.splits) == (first.digest, first.splits)
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert not (tmp_path / "tiny.h5.import").exists()


def test_a_touched_file_with_the_same_content_is_the_same_file(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    os.utime(folder.path("audio", "stage_1_train", "Archery"), ns=(1, 1))
    assert take(folder, tmp_path / "tiny.h5").already


@pytest.mark.parametrize("change", ["frames", "vectors", "dtype", "form", "force", "damaged store"])
def test_what_changes_a_store_is_imported_again(folder: Folder, tmp_path: Path, change: str) -> None:
    target = tmp_path / "tiny.h5"
    all_options: dict[str, dict[str, Any]] = {
        "dtype": {"dtype": "float16"},
        "form": {"form": "means"},
        "force": {"force": True},
    }
    options = all_options.get(change, {})
    first = take(folder, target)
    if change == "frames":
        folder.change("audio", "stage_1_train", "Archery", lambda frames, ids: ([x + 1 for x in frames], ids))
    elif change == "vectors":
        vectors = np.load(folder.text, allow_pickle=True).item()
        vectors["bowling"] = vectors["bowling"] + 1
        np.save(folder.text, vectors, allow_pickle=True)
    elif change == "damaged store":
        target.write_bytes(target.read_bytes()[:1000])
    again = take(folder, target, **options)
    assert not again.already
    assert (again.digest == first.digest) == (change in ("force", "damaged store"))
    assert take(folder, target, **{k: v for k, v in options.items() if k != "force"}).already


def test_a_file_that_was_not_imported_is_replaced_with_a_warning(
    folder: Folder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_store(tmp_path / "tiny.h5")
    assert not take(folder, tmp_path / "tiny.h5").already
    assert "not a feature file of an importer ('importer'); it will be replaced" in caplog.text
    assert FeatureStore(tmp_path / "tiny.h5").dataset == "tiny"


# The published lists


@pytest.mark.parametrize(
    ("dataset", "misaligned", "classes"), [("ucf", 79, 101), ("vggsound", 205, 309), ("activitynet", 8, 200)]
)
@pytest.mark.parametrize("features", ["cls", "main"])
def test_published_lists_have_the_counts_of_the_card_and_the_published_misalignment(
    shared: Path, dataset: str, misaligned: int, classes: int, features: str
) -> None:
    card = load_cards()[dataset]
    assert card.official is not None
    official = shared / "official"
    text = official / "w2v_features" / card.official.text_file
    places = ListPlaces(
        official / "avgzsl_benchmark_datasets" / card.official.folder, features, card.official, [(text,)]
    )
    lists = read_lists(places, 300, findings := FindingLog("lists"))
    assert findings.problems == []
    assert len(lists.names) == classes
    differing = sum(
        not np.array_equal(lists.vectors[c], lists.vectors[lists.own_vector[c]]) for c in range(classes)
    )
    assert differing == misaligned
    expected = card.features[features]
    for split in SPLITS:
        assert len(lists.splits[split].classes) == expected.classes[split]
        assert len(lists.splits[split].kept()) == expected.samples[split]


@pytest.mark.slow
def test_a_trial_folder_with_published_lists_imports(shared: Path, tmp_path: Path) -> None:
    tool = shared / "tools" / "make_official_layout.py"
    subprocess.run([sys.executable, tool, tmp_path, "--dataset", "UCF", "--fraction", "0.02"], check=True)
    card = load_cards()["ucf"]
    reports = [
        import_official(card, "cls", tmp_path, tmp_path / f"{form}.h5", form=form)
        for form in ("sequences", "means")
    ]
    assert reports[0].splits == reports[1].splits
    assert reports[0].splits["stage_2_test_unseen"].dropped == 422
    findings = [
        finding for form in ("sequences", "means") for finding in verify_store(tmp_path / f"{form}.h5", card)
    ]
    assert {finding.severity for finding in findings} == {"note"}
