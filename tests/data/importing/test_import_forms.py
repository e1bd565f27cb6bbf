"""Class files, lists and names of other forms than the published ones are imported, or named."""

from __future__ import annotations

import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.import_folder import ARCHERY, Folder, digest, problem, rename, rewrite, vectors_of

from benchmark.data.names import is_file_name
from benchmark.data.store import FeatureStore


def objects(items: list[Any]) -> Any:
    """An array of objects, whatever their shapes."""
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


FORMS: dict[str, Callable[[list[Any], list[bytes]], Any]] = {
    "object array": lambda x, ids: {"features": objects(x), "video_names": objects(ids)},
    "objects of objects": lambda x, ids: {"features": [a.astype(object) for a in x], "video_names": ids},
    "tensors": lambda x, ids: {"features": [torch.from_numpy(a) for a in x], "video_names": ids},
    "transposed tensors": lambda x, ids: {
        "features": [torch.from_numpy(np.ascontiguousarray(a.T)).T for a in x],
        "video_names": ids,
    },
    "strided tensors": lambda x, ids: {
        "features": [torch.from_numpy(np.repeat(a, 2, axis=0))[::2] for a in x],
        "video_names": ids,
    },
    "parameters": lambda x, ids: {
        "features": [torch.nn.Parameter(torch.from_numpy(a)) for a in x],
        "video_names": ids,
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_class_files_of_another_form_give_the_same_store(folder: Folder, tmp_path: Path, form: str) -> None:
    expected = digest(folder, tmp_path / "plain.h5")
    rewrite(folder, FORMS[form])
    assert digest(folder, tmp_path / "other.h5") == expected


def test_sequences_of_one_length_in_an_array_of_objects_or_a_tensor_are_read(
    folder: Folder, tmp_path: Path
) -> None:
    def cut(frames: list[Any]) -> list[Any]:
        return [x[:1] for x in frames]

    rewrite(folder, lambda x, ids: {"features": cut(x), "video_names": ids})
    expected = digest(folder, tmp_path / "plain.h5")
    for name, turn in (
        ("objects", lambda x: np.array(x, object)),
        ("tensor", lambda x: torch.from_numpy(np.stack(x))),
    ):
        rewrite(folder, lambda x, ids, turn=turn: {"features": turn(cut(list(x))), "video_names": ids})
        assert digest(folder, tmp_path / f"{name}.h5") == expected
        rewrite(
            folder, lambda x, ids: {"features": [np.asarray(a, np.float32) for a in x], "video_names": ids}
        )


def test_bfloat16_is_read_as_float32(folder: Folder, tmp_path: Path) -> None:
    rewrite(
        folder, lambda x, ids: {"features": [torch.from_numpy(a).bfloat16() for a in x], "video_names": ids}
    )
    first = digest(folder, tmp_path / "bfloat16.h5")
    rewrite(folder, lambda x, ids: {"features": [t.float().numpy() for t in x], "video_names": ids})
    assert digest(folder, tmp_path / "float32.h5") == first


@pytest.mark.parametrize("file_form", ["NFC", "NFD"])
@pytest.mark.parametrize("list_form", ["NFC", "NFD"])
def test_accents_join_however_they_are_encoded(
    folder: Folder, tmp_path: Path, list_form: Any, file_form: Any
) -> None:
    name, sample, manual = "Féncing", "v_Féncing_1", "fencing, déjà vu"
    rename(folder, unicodedata.normalize(list_form, name), files=False)
    old = folder.read_pickle("audio", "stage_2_test_unseen", "Fencing")[1][0]
    for path in (folder.lists / "stage_2_test_unseen.csv", folder.names_file):
        text = path.read_text(encoding="utf-8").replace(old, sample).replace("a fencing bout", f'"{manual}"')
        path.write_text(unicodedata.normalize(list_form, text), encoding="utf-8")
    vectors = vectors_of(folder)
    vectors[unicodedata.normalize(file_form, manual)] = vectors.pop("a fencing bout")
    np.save(folder.text, vectors)  # type: ignore[arg-type]
    for modality, form in (("audio", file_form), ("video", list_form)):
        path = folder.path(modality, "stage_2_test_unseen", "Fencing")
        content = pickle.loads(path.read_bytes())
        content["video_names"] = [unicodedata.normalize(form, sample).encode(), *content["video_names"][1:]]
        path.with_stem(unicodedata.normalize(file_form, name)).write_bytes(pickle.dumps(content))
        path.unlink()
    digest(folder, tmp_path / "tiny.h5")
    tables = FeatureStore(tmp_path / "tiny.h5").tables()
    assert (name in tables.class_names, sample in tables.ids, manual in tables.vector_names) == (
        True,
        True,
        True,
    )


def test_a_class_with_a_slash_is_read_from_the_folder_in_its_name(folder: Folder, tmp_path: Path) -> None:
    rename(folder, "deep/Fencing")
    for form in ("sequences", "means"):
        digest(folder, tmp_path / f"{form}.h5", form=form)
        assert "deep/Fencing" in FeatureStore(tmp_path / f"{form}.h5").tables().class_names


@pytest.mark.parametrize("name", ["../../stage_1_train/Archery", "/etc/passwd", "a//b", "..", "."])
def test_a_class_name_never_leads_out_of_its_folder(folder: Folder, tmp_path: Path, name: str) -> None:
    assert not is_file_name(name)
    rename(folder, name, files=False)
    found = problem(folder, tmp_path / "tiny.h5")
    assert (found.kind, found.count) == ("missing class file", 2)
    assert found.fix.startswith("rename the class")


@pytest.mark.parametrize("name", ["Archery.PKL", "Archery.pickle", "Archery.pkl.gz", "Archery .pkl"])
def test_a_class_file_with_nearly_the_right_name_is_named(folder: Folder, tmp_path: Path, name: str) -> None:
    path = folder.path(*ARCHERY)
    path.rename(path.with_name(name))
    found = problem(folder, tmp_path / "tiny.h5")
    assert (found.kind, found.count) == ("missing class file", 1)
    assert found.what == f"audio/stage_1_train/Archery.pkl (there is {name!r}: rename or unpack it)"


def test_a_class_file_on_a_disk_that_is_not_mounted_is_named(folder: Folder, tmp_path: Path) -> None:
    path = folder.path(*ARCHERY)
    path.unlink()
    path.symlink_to(tmp_path / "disk" / "Archery.pkl")
    found = problem(folder, tmp_path / "tiny.h5")
    assert found.what.endswith(f"(a link to {tmp_path}/disk/Archery.pkl, which is not there: mount its disk)")


def test_a_list_with_a_column_twice_is_reported(folder: Folder, tmp_path: Path) -> None:
    path = folder.lists / "stage_1_train.csv"
    path.write_text(
        path.read_text(encoding="utf-8").replace("filename,label", "filename,label, filename"),
        encoding="utf-8",
    )
    assert "has the column 'filename' twice" in problem(folder, tmp_path / "tiny.h5").what


@pytest.mark.parametrize("sign", [";", "\t"])
def test_lists_with_another_sign_than_commas_are_shown(folder: Folder, tmp_path: Path, sign: str) -> None:
    path = folder.lists / "stage_1_train.csv"
    path.write_text(path.read_text(encoding="utf-8").replace(",", sign), encoding="utf-8")
    found = problem(folder, tmp_path / "tiny.h5")
    assert f"no column 'filename' in its first line {f'filename{sign}label'!r}" in found.what
    assert "CSV with commas" in found.fix


def test_blanks_around_the_names_of_columns_do_not_count(folder: Folder, tmp_path: Path) -> None:
    first = digest(folder, tmp_path / "first.h5")
    path = folder.lists / "stage_1_train.csv"
    path.write_text(
        path.read_text(encoding="utf-8").replace("filename,label", "filename , label "), encoding="utf-8"
    )
    assert digest(folder, tmp_path / "tiny.h5") == first
