"""Importing the official layout: names, counts, faults told at once, resuming after SIGKILL, doing nothing twice."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from filelock import FileLock

from benchmark.data.cards import load_cards
from benchmark.data.class_lists import ListPlaces, read_lists
from benchmark.data.official_layout import ImportReport, import_official
from benchmark.data.problems import MENDS, ImportProblems, ProblemLog
from benchmark.data.store import PARTS, FeatureStore
from benchmark.data.verify import verify_store
from benchmark.errors import UsageError

Folder = Any  # tests/data/conftest.py: OfficialFolder
PROJECT = Path(__file__).resolve().parents[2]
COMMA = "alligators, crocodiles hissing"
HANDSTAND = "HandStandPushups"


def take(folder: Folder, target: Path, **options: Any) -> ImportReport:
    return import_official(folder.card(), "cls", folder.parent, target, **options)


def frames_of(store: FeatureStore, modality: str, sample: str) -> np.ndarray[Any, Any]:
    section = store.open_test("corrected") if "stage_2" in sample else store.development("corrected")
    data = getattr(section.samples, modality)
    i = list(section.samples.ids).index(sample)
    return np.asarray(data.frames[data.offsets[i] : data.offsets[i + 1]])


# What an import makes


def test_every_frame_of_every_listed_class_arrives_under_its_id(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    expected = [sample for part in PARTS for sample, name in folder.listed(part) if name != "Gliding"]
    assert sorted(store.ids) == sorted(expected)
    for modality, dim in (("audio", 3), ("video", 5)):
        for part, name in (("stage_1_train", "Archery"), ("stage_2_test_unseen", "Fencing"), ("stage_2_test_seen", COMMA)):
            frames, ids = folder.read_pickle(modality, part, name)
            for x, sample in zip(frames, ids, strict=True):
                assert x.shape[1] == dim
                np.testing.assert_array_equal(frames_of(store, modality, sample), x)


def test_samples_stand_by_part_then_class_then_id(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    keys = list(zip(store.parts.tolist(), store.labels.tolist(), store.ids, strict=True))
    assert keys == sorted(keys)


def test_class_ids_follow_plain_sorting_of_all_classes(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    names = (folder.root / "class-split" / "all_class.txt").read_text().split("\n")
    assert store.class_names == sorted(filter(None, names)) != list(filter(None, names))


def test_names_are_joined_without_regard_to_case(folder: Folder, tmp_path: Path) -> None:
    for modality in ("audio", "video"):
        path = folder.path(modality, "stage_1_val_seen", HANDSTAND)
        path.rename(path.with_stem("handstandpushups"))
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    label = store.class_names.index("HandstandPushups")
    assert label in store.class_parts["stage_1_train"]
    assert int((store.labels == label).sum()) == 12
    assert store.vector_names[store.own_vector[label]] == "Handstand Pushups"


def test_class_names_with_commas_keep_their_samples_and_vector(folder: Folder, tmp_path: Path) -> None:
    report = take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    label = store.class_names.index(COMMA)
    assert int((store.labels == label).sum()) == 12
    assert store.vector_names[store.own_vector[label]] == "alligators hissing, crocodiles"
    assert report.parts["stage_1_train"].listed == 12


def test_official_alignment_takes_rows_by_manual_name_and_corrected_each_its_own(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    store = FeatureStore(tmp_path / "tiny.h5")
    vectors = np.load(folder.text, allow_pickle=True).item()
    archery = store.class_names.index("Archery")
    official, corrected = (store.development(a).classes.vectors[archery] for a in ("official", "corrected"))  # type: ignore[arg-type]
    np.testing.assert_array_equal(corrected, vectors["zz archery"])
    np.testing.assert_array_equal(official, vectors[sorted(vectors)[archery]])
    assert not np.array_equal(official, corrected)


def test_the_class_list_decides_and_the_report_counts_what_it_drops(folder: Folder, tmp_path: Path) -> None:
    report = take(folder, tmp_path / "tiny.h5")
    part = report.parts["stage_2_test_unseen"]
    assert (part.listed, part.dropped, part.found, part.expected) == (8, 4, 8, 8)
    assert {note.kind for note in report.notes} == {
        "listed samples of unlisted classes, dropped",
        "class files of unlisted classes, not read",
    }


def test_fewer_samples_than_listed_are_a_note(folder: Folder, tmp_path: Path) -> None:
    for modality in ("audio", "video"):
        folder.change(modality, "stage_1_train", "Archery", lambda frames, ids: (frames[:1], ids[:1]))
    report = take(folder, tmp_path / "tiny.h5")
    note = next(note for note in report.notes if note.kind == "fewer samples than listed")
    assert (note.count, note.examples) == (3, ("stage_1_train: 9 of 12",))


def test_without_a_sample_list_the_files_decide_and_a_note_says_so(folder: Folder, tmp_path: Path) -> None:
    (folder.lists / "stage_2_test_seen.csv").unlink()
    report = take(folder, tmp_path / "tiny.h5")
    assert report.parts["stage_2_test_seen"].listed is None
    assert report.parts["stage_2_test_seen"].found == 20
    assert "no sample list" in {note.kind for note in report.notes}


def test_other_counts_than_the_cards_are_a_note(folder: Folder, tmp_path: Path) -> None:
    card = folder.card()
    counts = card.features["cls"].model_copy(update={"samples": {"stage_1_train": 99}, "classes": {"stage_1_train": 98}})
    report = import_official(card.model_copy(update={"features": {"cls": counts}}), "cls", folder.root, tmp_path / "tiny.h5")
    note = next(note for note in report.notes if note.kind == "other counts than the card's")
    assert note.examples == ("stage_1_train: 12 samples, the card has 99", "stage_1_train: 3 classes, the card has 98")


def test_the_means_form_gives_the_means_of_the_sequences(folder: Folder, tmp_path: Path) -> None:
    sequences = take(folder, tmp_path / "sequences.h5")
    means = take(folder, tmp_path / "means.h5", form="means")
    assert (sequences.form, means.form) == ("sequences", "means")
    a, b = FeatureStore(tmp_path / "sequences.h5"), FeatureStore(tmp_path / "means.h5")
    assert (a.has_sequences, b.has_sequences) == (True, False)
    assert a.ids == b.ids
    for open_section in (FeatureStore.development, FeatureStore.open_test):
        x, y = (open_section(store, "corrected").samples for store in (a, b))
        np.testing.assert_allclose(x.audio.means, y.audio.means, atol=1e-6)
        np.testing.assert_allclose(x.video.means, y.video.means, atol=1e-6)
    with pytest.raises(UsageError, match="temporal means only"):
        _ = b.development("corrected").samples.audio.lengths


def test_auto_takes_means_where_there_are_no_sequences(folder: Folder, tmp_path: Path) -> None:
    folder.means.joinpath("text").mkdir()
    folder.text.rename(folder.means / "text" / folder.text.name)
    for path in folder.sequences.rglob("*.pkl"):
        path.unlink()
    assert take(folder, tmp_path / "tiny.h5").form == "means"


def test_float16_halves_the_frames_and_keeps_the_means(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "single.h5")
    take(folder, tmp_path / "half.h5", dtype="float16")
    a, b = (FeatureStore(tmp_path / f"{name}.h5").development("corrected").samples for name in ("single", "half"))
    assert a.audio.frames is not None
    assert b.audio.frames is not None
    assert (a.audio.frames.dtype, b.audio.frames.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(a.audio.frames, b.audio.frames, atol=2e-3)
    np.testing.assert_allclose(a.audio.means, b.audio.means, atol=1e-6)
    assert FeatureStore(tmp_path / "single.h5").digest != FeatureStore(tmp_path / "half.h5").digest


def test_the_folder_itself_or_its_parent_may_be_named(folder: Folder, tmp_path: Path) -> None:
    first = import_official(folder.card(), "cls", folder.parent, tmp_path / "a.h5")
    second = import_official(folder.card(), "cls", folder.root, tmp_path / "b.h5")
    assert first.digest == second.digest
    assert FeatureStore(tmp_path / "a.h5").provenance == FeatureStore(tmp_path / "b.h5").provenance


def test_the_provenance_names_each_file_with_its_hash_and_no_absolute_path(folder: Folder, tmp_path: Path) -> None:
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


# Faults


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


def _rewrite(path: Path, how: Callable[[str], str]) -> None:
    path.write_text(how(path.read_text()))


def _resave(folder: Folder, how: Callable[[dict[str, Any]], Any]) -> None:
    vectors = np.load(folder.text, allow_pickle=True).item()
    how(vectors)
    np.save(folder.text, vectors, allow_pickle=True)


def _first(folder: Folder, part: str, name: str, change: Callable[[Any], Any], modality: str = "audio") -> None:
    folder.change(modality, part, name, lambda frames, ids: ([change(frames[0]), *frames[1:]], ids))


def _missing_file(f: Folder) -> None:
    f.path("video", "stage_1_train", "Archery").unlink()


def _malicious(f: Folder) -> None:
    f.path("audio", "stage_1_train", HANDSTAND).write_bytes(pickle.dumps({"features": Payload(), "video_names": []}))


def _truncated(f: Folder) -> None:
    path = f.path("audio", "stage_1_train", COMMA)
    path.write_bytes(path.read_bytes()[:-40])


def _out_of_step(f: Folder) -> None:
    f.change("video", "stage_1_val_seen", "Archery", lambda frames, ids: (frames, [ids[1], ids[0], *ids[2:]]))


def _wrong_dimension(f: Folder) -> None:
    _first(f, "stage_1_val_seen", HANDSTAND, lambda x: x[:, :-1])


def _wrong_dtype(f: Folder) -> None:
    _first(f, "stage_1_val_seen", COMMA, lambda x: x.astype(int), "video")


def _nan(f: Folder) -> None:
    _first(f, "stage_1_val_unseen", "Bowling", lambda x: np.where(np.arange(x.size).reshape(x.shape) == 1, np.nan, x))


def _empty_sequence(f: Folder) -> None:
    _first(f, "stage_1_val_unseen", "cat, meowing", lambda x: x[:0])


def _class_without_samples(f: Folder) -> None:
    for modality in ("audio", "video"):
        f.change(modality, "stage_2_test_unseen", "Diving", lambda frames, ids: ([], []))


def _duplicate(f: Folder) -> None:
    taken = f.read_pickle("audio", "stage_2_test_unseen", "Fencing")[1][0]
    f.write_samples("stage_2_test_seen", [(taken, "Archery"), *f.listed("stage_2_test_seen")])
    for modality in ("audio", "video"):
        f.change(modality, "stage_2_test_seen", "Archery", lambda frames, ids: (frames, [taken, *ids[1:]]))


def _unlisted_sample(f: Folder) -> None:
    for modality in ("audio", "video"):
        f.change(modality, "stage_2_test_seen", "Bowling", lambda frames, ids: (frames, ["v_stray_g01_c01", *ids[1:]]))


def _wrong_structure(f: Folder) -> None:
    f.path("audio", "stage_2_test_seen", COMMA).write_bytes(pickle.dumps([np.ones((2, 3))]))


def _ambiguous(f: Folder) -> None:
    path = f.path("audio", "stage_2_test_unseen", "Fencing")
    path.with_stem("FENCING").write_bytes(path.read_bytes())


def _missing_list(f: Folder) -> None:
    (f.lists / "stage_2_test_seen.txt").unlink()


def _broken_list(f: Folder) -> None:
    _rewrite(f.lists / "stage_2_test_seen.csv", lambda text: text.replace("filename", "file"))


def _unknown_class(f: Folder) -> None:
    _rewrite(f.lists / "stage_2_test_seen.csv", lambda text: text + "v_x_g01_c01,Zorbing\n")


def _repeated_class(f: Folder) -> None:
    _rewrite(f.root / "class-split" / "all_class.txt", lambda text: text + "ARCHERY\n")


def _no_union(f: Folder) -> None:
    _rewrite(f.lists / "stage_2_train.csv", lambda text: "\n".join(text.splitlines()[:-1]) + "\n")


def _no_manual_name(f: Folder) -> None:
    _rewrite(f.names_file, lambda text: text.replace("Gliding,gliding\n", ""))


def _no_vector(f: Folder) -> None:
    _resave(f, lambda vectors: vectors.pop("gliding"))


def _too_large(f: Folder) -> None:
    _first(f, "stage_1_train", "Archery", lambda x: x * 0 + 1e6)


FAULTS: dict[str, Callable[[Any], None]] = {
    "missing class file": _missing_file,
    "refused pickle": _malicious,
    "unreadable file": _truncated,
    "audio and video out of step": _out_of_step,
    "wrong dimension": _wrong_dimension,
    "wrong dtype": _wrong_dtype,
    "not a number or infinite": _nan,
    "empty sequence": _empty_sequence,
    "class without samples": _class_without_samples,
    "duplicate sample id": _duplicate,
    "unlisted sample": _unlisted_sample,
    "wrong structure": _wrong_structure,
    "ambiguous class file": _ambiguous,
    "missing class list": _missing_list,
    "broken list": _broken_list,
    "unknown class name": _unknown_class,
    "repeated class name": _repeated_class,
    "stage_2_train is not the union": _no_union,
    "missing manual name": _no_manual_name,
    "missing word vector": _no_vector,
    "too large for float16": _too_large,
}


def test_every_kind_of_fault_is_tried_here() -> None:
    assert set(FAULTS) == set(MENDS)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_told_with_place_and_mend_and_nothing_is_imported(folder: Folder, tmp_path: Path, kind: str) -> None:
    FAULTS[kind](folder)
    with pytest.raises(ImportProblems) as caught:
        take(folder, tmp_path / "tiny.h5", dtype="float16")
    assert [problem.kind for problem in caught.value.problems] == [kind]
    assert caught.value.problems[0].mend == MENDS[kind]
    assert MENDS[kind] in str(caught.value)
    assert str(folder.root) in str(caught.value)
    assert not (tmp_path / "tiny.h5").exists()


def test_a_folder_with_ten_faults_gets_one_report_that_lists_ten(folder: Folder, tmp_path: Path) -> None:
    ten = list(FAULTS)[:10]
    for kind in ten:
        FAULTS[kind](folder)
    with pytest.raises(ImportProblems) as caught:
        take(folder, tmp_path / "tiny.h5")
    assert sorted(problem.kind for problem in caught.value.problems) == sorted(ten)
    assert all(f"  {n}. " in str(caught.value) for n in range(1, 11))


def test_many_faults_of_a_kind_are_counted_and_three_are_named(folder: Folder, tmp_path: Path) -> None:
    for name in ("Archery", COMMA):
        folder.change("audio", "stage_1_train", name, lambda frames, ids: ([x[:, :2] for x in frames], ids))
    with pytest.raises(ImportProblems, match="and 5 more") as caught:
        take(folder, tmp_path / "tiny.h5")
    assert (caught.value.problems[0].count, len(caught.value.problems[0].examples)) == (8, 3)
    assert caught.value.problems[0].examples[0].endswith("2, not 3")


def test_a_malicious_class_file_is_named_with_what_it_asked_for(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _malicious(folder)
    with pytest.raises(ImportProblems, match=r"audio/stage_1_train/HandStandPushups\.pkl: (posix|nt)\.system"):
        take(folder, tmp_path / "tiny.h5")
    assert not (tmp_path / "canary").exists()


def test_malicious_word_vectors_are_refused(folder: Folder, tmp_path: Path) -> None:
    _resave(folder, lambda vectors: vectors.update(gliding=Payload()))
    with pytest.raises(ImportProblems, match=r"refused pickle.*tiny_normed\.npy"):
        take(folder, tmp_path / "tiny.h5")


@pytest.mark.parametrize("fault", ["truncated", "huge", "linked", "vector"])
def test_faulty_means_are_told(folder: Folder, tmp_path: Path, fault: str) -> None:
    path = folder.means / "audio" / "stage_1_train" / "Archery.h5"
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:1500])
    else:
        with h5py.File(path, "a") as f:
            del f["data"]
            if fault == "huge":
                f.create_dataset("data", (10**9, 3), "f4", chunks=(1000, 3))
            elif fault == "linked":
                f["data"] = h5py.ExternalLink(str(folder.means / "audio/stage_1_train" / f"{COMMA}.h5"), "data")
            else:
                f["data"] = np.ones(4, "f4")
    with pytest.raises(ImportProblems, match=r"audio/stage_1_train/Archery\.h5") as caught:
        take(folder, tmp_path / "tiny.h5", form="means")
    assert len(caught.value.problems) == 1


def test_a_mended_folder_imports_and_reads_only_what_was_mended(folder: Folder, tmp_path: Path) -> None:
    digest = take(folder, tmp_path / "whole.h5").digest
    path = folder.path("audio", "stage_1_train", COMMA)
    whole = path.read_bytes()
    _truncated(folder)
    with pytest.raises(ImportProblems):
        take(folder, tmp_path / "tiny.h5")
    path.write_bytes(whole)
    report = take(folder, tmp_path / "tiny.h5")
    assert (report.digest, report.resumed) == (digest, 14)


def test_a_folder_that_is_not_there_is_told_with_how_to_obtain_it(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)no folder in the official layout.*Fetch them from nowhere"):
        import_official(folder.card(), "cls", tmp_path / "nowhere", tmp_path / "tiny.h5")


def test_features_that_are_not_there_are_told_with_where_they_were_looked_for(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)main_features_non_averaged.*main_features/.*Fetch them from nowhere"):
        import_official(folder.card(), "main", folder.root, tmp_path / "tiny.h5")


def test_a_card_without_official_layout_is_told(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no official layout"):
        import_official(folder.card().model_copy(update={"official": None}), "cls", folder.root, tmp_path / "tiny.h5")


def test_two_imports_to_one_file_do_not_run_at_once(folder: Folder, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".tiny.h5.import.lock"), pytest.raises(UsageError, match="another import"):
        take(folder, tmp_path / "tiny.h5")


# Doing nothing twice, and carrying on


def test_a_second_import_of_the_same_files_does_nothing(folder: Folder, tmp_path: Path) -> None:
    target = tmp_path / "tiny.h5"
    first = take(folder, target)
    written = target.stat()
    second = take(folder, target)
    assert (first.already, second.already) == (False, True)
    assert (second.digest, second.parts) == (first.digest, first.parts)
    assert (target.stat().st_ino, target.stat().st_mtime_ns) == (written.st_ino, written.st_mtime_ns)
    assert not (tmp_path / "tiny.h5.import").exists()


def test_a_touched_file_with_the_same_content_is_the_same_file(folder: Folder, tmp_path: Path) -> None:
    take(folder, tmp_path / "tiny.h5")
    os.utime(folder.path("audio", "stage_1_train", "Archery"), ns=(1, 1))
    assert take(folder, tmp_path / "tiny.h5").already


@pytest.mark.parametrize("change", ["frames", "vectors", "dtype", "form", "force", "damaged store"])
def test_what_changes_a_store_is_imported_again(folder: Folder, tmp_path: Path, change: str) -> None:
    target = tmp_path / "tiny.h5"
    options: dict[str, Any] = {}
    first = take(folder, target)
    if change == "frames":
        _first(folder, "stage_1_train", "Archery", lambda x: x + 1)
    elif change == "vectors":
        _resave(folder, lambda vectors: vectors.update(bowling=vectors["bowling"] + 1))
    elif change == "damaged store":
        target.write_bytes(target.read_bytes()[:1000])
    else:
        options = {"dtype": {"dtype": "float16"}, "form": {"form": "means"}, "force": {"force": True}}[change]
    again = take(folder, target, **options)
    assert not again.already
    assert (again.digest == first.digest) == (change in ("force", "damaged store"))
    assert take(folder, target, **{k: v for k, v in options.items() if k != "force"}).already


CHILD = """
import os, sys, time
from pathlib import Path
import benchmark.data.import_staging as staging
from benchmark.data.cards import Card
from benchmark.data.official_layout import import_official

card, source, target, stop = Card.model_validate_json(Path(sys.argv[1]).read_text()), *map(Path, sys.argv[2:4]), sys.argv[4]

def wait(place):
    if place == stop:
        print(place, flush=True)
        time.sleep(60)

synced = 0
def fsync(descriptor, sync=os.fsync):
    global synced
    synced += 1
    wait(f"before sync {synced}")
    sync(descriptor)

staging.os.fsync = fsync
import_official(card, "cls", source, target, progress=lambda what, done, total: wait(f"{what} {done}"))
print("ended", flush=True)
"""
# Where the child is killed -> classes that are resumed. Three syncs for each class: audio, video, journal; the first of all is
# the journal's header. A line that was written survives SIGKILL, synced or not. The last sync is the store's.
STOPS = {
    "before sync 1": 0,
    "before sync 2": 0,
    "before sync 3": 0,
    "before sync 4": 1,
    "before sync 15": 4,
    "before sync 16": 5,
    "reading classes 1": 1,
    "reading classes 14": 14,
    "writing the store 0": 15,
    "before sync 47": 15,
    "writing the store 1": 15,
}


def run_child(script: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def kill_at(folder: Folder, target: Path, stop: str) -> None:
    card = target.with_suffix(".json")
    card.write_text(folder.card().model_dump_json())
    child = run_child(CHILD, card, folder.parent, target, stop)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == stop
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


@pytest.mark.parametrize("stop", STOPS)
def test_a_killed_import_carries_on_to_the_same_digest(folder: Folder, tmp_path: Path, stop: str) -> None:
    undisturbed = take(folder, tmp_path / "undisturbed.h5")
    target = tmp_path / "killed.h5"
    kill_at(folder, target, stop)
    report = take(folder, target)
    assert report.digest == undisturbed.digest
    if stop == "writing the store 1":
        assert report.already
    else:
        assert report.resumed == STOPS[stop]
    assert verify_store(target, folder.card()) == []


@pytest.mark.parametrize("damage", ["torn journal line", "frames beyond the journal", "frames lost", "journal of another form"])
def test_damaged_staging_costs_time_and_no_correctness(folder: Folder, tmp_path: Path, damage: str) -> None:
    digest = take(folder, tmp_path / "undisturbed.h5").digest
    target = tmp_path / "killed.h5"
    kill_at(folder, target, "reading classes 5")
    staging = tmp_path / "killed.h5.import"
    journal = staging / "journal.jsonl"
    if damage == "torn journal line":
        journal.write_bytes(journal.read_bytes()[:-7])
    elif damage == "frames beyond the journal":
        with open(staging / "audio.f32", "ab") as f:
            f.write(b"torn")
    elif damage == "frames lost":
        os.truncate(staging / "video.f32", (staging / "video.f32").stat().st_size - 4)
    else:
        journal.write_bytes(journal.read_bytes().replace(b'"sequences"', b'"means"'))
    report = take(folder, target)
    resumed = {"frames beyond the journal": 5, "journal of another form": 0}.get(damage, 4)
    assert (report.digest, report.resumed) == (digest, resumed)


def test_a_source_that_changed_after_a_kill_is_read_again(folder: Folder, tmp_path: Path) -> None:
    target = tmp_path / "killed.h5"
    kill_at(folder, target, "reading classes 5")
    _first(folder, "stage_1_train", HANDSTAND, lambda x: x + 1)
    report = take(folder, target)
    undisturbed = take(folder, tmp_path / "undisturbed.h5")
    assert (report.digest, report.resumed) == (undisturbed.digest, 4)


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
    places = ListPlaces(official / "avgzsl_benchmark_datasets" / card.official.folder, features, card.official, [text])
    problems, notes = ProblemLog(), ProblemLog()
    lists = read_lists(places, 300, problems, notes)
    assert list(problems) == []
    assert len(lists.names) == classes
    differing = sum(not np.array_equal(lists.vectors[c], lists.vectors[lists.own_vector[c]]) for c in range(classes))
    assert differing == misaligned
    expected = card.features[features]
    for part in PARTS:
        assert len(lists.parts[part].classes) == expected.classes[part]
        assert len(lists.parts[part].kept()) == expected.samples[part]


@pytest.mark.slow
def test_a_trial_folder_with_published_lists_imports(shared: Path, tmp_path: Path) -> None:
    tool = shared / "tools" / "make_official_layout.py"
    subprocess.run([sys.executable, tool, tmp_path, "--dataset", "UCF", "--fraction", "0.02"], check=True)
    card = load_cards()["ucf"]
    reports = [import_official(card, "cls", tmp_path, tmp_path / f"{form}.h5", form=form) for form in ("sequences", "means")]  # type: ignore[arg-type]
    assert reports[0].parts == reports[1].parts
    assert reports[0].parts["stage_2_test_unseen"].dropped == 422
    findings = [finding for form in ("sequences", "means") for finding in verify_store(tmp_path / f"{form}.h5", card)]
    assert {finding.severity for finding in findings} == {"note"}


# Memory

LIMIT_MB = 2000
BIG_PARTS = {  # part -> (classes, samples of each): 100,500 samples
    "stage_1_train": (range(60), 1200),
    "stage_1_val_seen": (range(60), 130),
    "stage_1_val_unseen": (range(60, 90), 100),
    "stage_2_test_seen": (range(90), 150),
    "stage_2_test_unseen": (range(90, 120), 140),
}
BIG_CHILD = """
import resource, sys
from pathlib import Path
from benchmark.data.cards import load_cards
from benchmark.data.official_layout import import_official

report = import_official(load_cards()["vggsound"], "main", Path(sys.argv[1]), Path(sys.argv[2]),
                         progress=lambda what, done, total: print(what, done, flush=True))
print("digest", report.digest, report.resumed, sum(part.found for part in report.parts.values()))
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_big_folder(root: Path) -> int:
    """A folder like VGGSound's main features, of cheap noise; returns its bytes."""
    rng = np.random.default_rng(0)
    noise = rng.random((4096, 512), np.float32)
    card = load_cards()["vggsound"]
    assert card.official is not None
    split, features = root / "class-split", root / "features" / "main_features_non_averaged"
    (split / "main_split").mkdir(parents=True)
    (features / "text").mkdir(parents=True)
    names = [f"class {i:03d}" for i in range(120)]
    (split / "all_class.txt").write_text("\n".join(names))
    (split / card.official.names_file).write_text("original,manual\n" + "".join(f"{n},{n}\n" for n in names))
    np.save(features / "text" / card.official.text_file, dict.fromkeys(names, noise[0, :300]), allow_pickle=True)  # type: ignore[arg-type]
    total = 0
    for part, (classes, n) in BIG_PARTS.items():
        (split / "main_split" / f"{part}.txt").write_text("\n".join(names[c] for c in classes))
        rows = [f"{part}_{c}_{i:06d},{names[c]}\n" for c in classes for i in range(n)]
        (split / "main_split" / f"{part}.csv").write_text("filename,label\n" + "".join(rows))
        for modality, steps in (("audio", 6), ("video", 9)):
            (features / modality / part).mkdir(parents=True)
            for c in classes:
                starts = rng.integers(0, 4000, n)
                lengths = rng.integers(steps - 2, steps + 3, n)
                content = {
                    "features": [noise[s : s + t].copy() for s, t in zip(starts, lengths, strict=True)],
                    "video_names": [f"{part}_{c}_{i:06d}".encode() for i in range(n)],
                }
                path = features / modality / part / f"{names[c]}.pkl"
                with open(path, "wb") as f:
                    pickle.dump(content, f)
                total += path.stat().st_size
    return total


@pytest.fixture
def big_tmp(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once; pytest would keep nine gigabytes of three runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_samples_import_in_two_gigabytes_killed_once(big_tmp: Path) -> None:
    tmp_path = big_tmp
    size = write_big_folder(tmp_path / "VGGSound")
    assert size > 2.5e9
    target = tmp_path / "big.h5"
    started = time.monotonic()
    child = run_child(BIG_CHILD, tmp_path, target)
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip() == "reading classes 150":
            peak_of_killed = _peak_kb(child.pid)
            child.kill()
            break
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    killed = time.monotonic()
    child = run_child(BIG_CHILD, tmp_path, target)
    lines = child.communicate()[0].splitlines()
    assert child.returncode == 0
    _, digest, resumed, found = lines[-2].split()
    peak_mb = max(peak_of_killed, int(lines[-1].split()[1])) / 1024
    seconds = time.monotonic() - started
    print(f"{size / 1e9:.2f} GB, peak {peak_mb:.0f} MB, {killed - started:.1f} s to the kill, {seconds:.1f} s, digest {digest}")
    assert (int(found), int(resumed) >= 150) == (100_500, True)
    assert peak_mb < LIMIT_MB < size / 2**20
    assert not (tmp_path / "big.h5.import").exists()
    findings = verify_store(target, load_cards()["vggsound"])
    assert {finding.severity for finding in findings} == {"note"}


def _peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
