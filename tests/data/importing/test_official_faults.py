"""Faults of a folder in the official layout: all are reported together, with place and fix; none runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from filelock import FileLock

from benchmark.data.importing.findings import FIXES, ImportProblems
from benchmark.data.importing.official_layout import ImportReport, import_official
from benchmark.errors import UsageError
from benchmark.untrusted.kinds import FETCH_AGAIN, FETCH_TRUSTED

Folder = Any  # tests/data/conftest.py: OfficialFolder
COMMA = "alligators, crocodiles hissing"
HANDSTAND = "HandStandPushups"


def take(folder: Folder, target: Path, **options: Any) -> ImportReport:
    return import_official(folder.card(), "cls", folder.parent, target, **options)


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


def _first(
    folder: Folder, split: str, name: str, change: Callable[[Any], Any], modality: str = "audio"
) -> None:
    folder.change(modality, split, name, lambda frames, ids: ([change(frames[0]), *frames[1:]], ids))


def _missing_file(f: Folder) -> None:
    f.path("video", "stage_1_train", "Archery").unlink()


def _malicious(f: Folder) -> None:
    f.path("audio", "stage_1_train", HANDSTAND).write_bytes(
        pickle.dumps({"features": Payload(), "video_names": []})
    )


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
    _first(
        f,
        "stage_1_val_unseen",
        "Bowling",
        lambda x: np.where(np.arange(x.size).reshape(x.shape) == 1, np.nan, x),
    )


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
        f.change(
            modality,
            "stage_2_test_seen",
            "Bowling",
            lambda frames, ids: (frames, ["v_stray_g01_c01", *ids[1:]]),
        )


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


def _zero_vector(f: Folder) -> None:
    _resave(f, lambda vectors: vectors.update({"a fencing bout": np.zeros(4, "f4")}))


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
    "missing class embedding": _no_vector,
    "class embedding of zeros": _zero_vector,
    "too large for float16": _too_large,
}


OWN_FIXES = {"refused pickle": FETCH_TRUSTED, "unreadable file": FETCH_AGAIN}
ELSEWHERE = {
    *("missing sample list", "averaged features"),  # tests/extract/test_plan.py, test_extracted_lists.py
    *("missing HDF5 filter", "missing class embeddings"),
    *("list that is not UTF-8", "too large for float32"),  # both lines: test_import_messages.py
    *("sequence in place of a vector", "missing cache"),  # test_clipclap_faults.py
}


def test_every_kind_of_fault_is_tried_here_or_there() -> None:
    assert set(FAULTS) - set(OWN_FIXES) | ELSEWHERE == set(FIXES)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_reported_with_place_and_fix_and_nothing_is_imported(
    folder: Folder, tmp_path: Path, kind: str
) -> None:
    FAULTS[kind](folder)
    with pytest.raises(ImportProblems) as caught:
        take(folder, tmp_path / "tiny.h5", dtype="float16")
    assert [problem.kind for problem in caught.value.problems] == [kind]
    fix = OWN_FIXES.get(kind) or FIXES[kind]
    assert caught.value.problems[0].fix == fix
    assert fix in str(caught.value)
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
    assert (caught.value.problems[0].count, caught.value.problems[0].what.count("2, not 3; ")) == (8, 3)


def test_a_malicious_class_file_is_named_with_what_it_asked_for(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _malicious(folder)
    with pytest.raises(
        ImportProblems, match=r"audio/stage_1_train/HandStandPushups\.pkl: (posix|nt)\.system"
    ):
        take(folder, tmp_path / "tiny.h5")
    assert not (tmp_path / "canary").exists()


def test_malicious_word_vectors_are_refused(folder: Folder, tmp_path: Path) -> None:
    _resave(folder, lambda vectors: vectors.update(gliding=Payload()))
    with pytest.raises(ImportProblems, match=r"refused pickle.*tiny_normed\.npy"):
        take(folder, tmp_path / "tiny.h5")


@pytest.mark.parametrize("fault", ["truncated", "huge", "linked", "vector"])
def test_faulty_means_are_reported(folder: Folder, tmp_path: Path, fault: str) -> None:
    path = folder.means / "audio" / "stage_1_train" / "Archery.h5"
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:1500])
    else:
        with h5py.File(path, "a") as f:
            del f["data"]
            if fault == "huge":
                f.create_dataset("data", (10**9, 3), "f4", chunks=(1000, 3))
            elif fault == "linked":
                f["data"] = h5py.ExternalLink(
                    str(folder.means / "audio/stage_1_train" / f"{COMMA}.h5"), "data"
                )
            else:
                f["data"] = np.ones(4, "f4")
    with pytest.raises(ImportProblems, match=r"audio/stage_1_train/Archery\.h5") as caught:
        take(folder, tmp_path / "tiny.h5", form="means")
    assert len(caught.value.problems) == 1


def test_a_fixed_folder_imports_and_reads_only_what_was_fixed(folder: Folder, tmp_path: Path) -> None:
    digest = take(folder, tmp_path / "whole.h5").digest
    path = folder.path("audio", "stage_1_train", COMMA)
    whole = path.read_bytes()
    _truncated(folder)
    with pytest.raises(ImportProblems):
        take(folder, tmp_path / "tiny.h5")
    path.write_bytes(whole)
    report = take(folder, tmp_path / "tiny.h5")
    assert (report.digest, report.resumed) == (digest, 14)


def test_a_folder_that_is_not_there_is_reported_with_how_to_obtain_it(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"(?s)no such folder.*Fetch them from nowhere"):
        import_official(folder.card(), "cls", tmp_path / "nowhere", tmp_path / "tiny.h5")


def test_features_that_are_not_there_are_reported_with_where_they_were_looked_for(
    folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(
        UsageError, match=r"(?s)main_features_non_averaged.*main_features/.*Fetch them from nowhere"
    ):
        import_official(folder.card(), "main", folder.root, tmp_path / "tiny.h5")


def test_a_dataset_without_official_layout_is_refused(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no official layout"):
        import_official(
            folder.card().model_copy(update={"official": None}), "cls", folder.root, tmp_path / "tiny.h5"
        )


def test_two_imports_to_one_file_do_not_run_together(folder: Folder, tmp_path: Path) -> None:
    with FileLock(tmp_path / ".tiny.h5.import.lock"), pytest.raises(UsageError, match="another import"):
        take(folder, tmp_path / "tiny.h5")
