"""Class files, lists and word vectors of other forms: they are read, or named for what they are, with the fix that fits."""

from __future__ import annotations

import errno
import gzip
import io
import os
import pickle
import re
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from benchmark.data.importing import class_files
from benchmark.data.importing.extracted_lists import import_extracted
from benchmark.data.importing.findings import Finding, ImportProblems
from benchmark.data.importing.official_layout import import_official
from benchmark.data.names import is_file_name
from benchmark.data.store import FeatureStore
from benchmark.errors import Unavailable
from benchmark.untrusted import pickles
from benchmark.untrusted.arrays import load_npy_dict, load_pickle
from benchmark.untrusted.pickles import RefusedPickle, UnreadableFile

Folder = Any  # tests/data/conftest.py: OfficialFolder
ARCHERY = ("audio", "stage_1_train", "Archery")


def digest(folder: Folder, target: Path, **options: Any) -> str:
    with warnings.catch_warnings(action="error"):
        return import_official(folder.card(), "cls", folder.parent, target, **options).digest


def problem(folder: Folder, target: Path, **options: Any) -> Finding:
    """The one kind of problem of an import."""
    with warnings.catch_warnings(action="error"), pytest.raises(ImportProblems) as caught:
        import_official(folder.card(), "cls", folder.parent, target, **options)
    assert not target.exists()
    (found,) = caught.value.problems
    return found


def rewrite(folder: Folder, how: Callable[[list[Any], list[bytes]], Any]) -> None:
    """Write all class files of sequences as ``how(frames, ids)``."""
    for path in folder.sequences.glob("*/*/*.pkl"):
        content = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps(how(content["features"], content["video_names"])))


def objects(items: list[Any]) -> Any:
    """An array of objects, whatever their shapes."""
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array


# Other forms that are read


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
    "parameters": lambda x, ids: {"features": [torch.nn.Parameter(torch.from_numpy(a)) for a in x], "video_names": ids},
}


@pytest.mark.parametrize("form", FORMS)
def test_class_files_of_another_form_give_the_same_store(folder: Folder, tmp_path: Path, form: str) -> None:
    expected = digest(folder, tmp_path / "plain.h5")
    rewrite(folder, FORMS[form])
    assert digest(folder, tmp_path / "other.h5") == expected


def test_sequences_of_one_length_in_an_array_of_objects_or_a_tensor_are_read(folder: Folder, tmp_path: Path) -> None:
    def cut(frames: list[Any]) -> list[Any]:
        return [x[:1] for x in frames]

    rewrite(folder, lambda x, ids: {"features": cut(x), "video_names": ids})
    expected = digest(folder, tmp_path / "plain.h5")
    for name, turn in (("objects", lambda x: np.array(x, object)), ("tensor", lambda x: torch.from_numpy(np.stack(x)))):
        rewrite(folder, lambda x, ids, turn=turn: {"features": turn(cut(list(x))), "video_names": ids})
        assert digest(folder, tmp_path / f"{name}.h5") == expected
        rewrite(folder, lambda x, ids: {"features": [np.asarray(a, np.float32) for a in x], "video_names": ids})


def test_bfloat16_is_read_as_float32(folder: Folder, tmp_path: Path) -> None:
    rewrite(folder, lambda x, ids: {"features": [torch.from_numpy(a).bfloat16() for a in x], "video_names": ids})
    first = digest(folder, tmp_path / "bfloat16.h5")
    rewrite(folder, lambda x, ids: {"features": [t.float().numpy() for t in x], "video_names": ids})
    assert digest(folder, tmp_path / "float32.h5") == first


def rename(folder: Folder, new: str, *, files: bool = True) -> None:
    """The class Fencing by another name, in lists and files; its samples and word vector keep their names."""
    for path in (folder.root / "class-split").rglob("*"):
        if path.is_file():
            path.write_text(re.sub("(?<!v_)Fencing", new, path.read_text(encoding="utf-8")), encoding="utf-8")
    for path in sorted((folder.root / "features").rglob("Fencing.*")) if files else ():
        target = path.parent / f"{new}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)


@pytest.mark.parametrize("file_form", ["NFC", "NFD"])
@pytest.mark.parametrize("list_form", ["NFC", "NFD"])
def test_accents_join_however_they_are_encoded(folder: Folder, tmp_path: Path, list_form: Any, file_form: Any) -> None:
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
    assert (name in tables.class_names, sample in tables.ids, manual in tables.vector_names) == (True, True, True)


def test_a_class_with_a_slash_is_read_from_the_folder_that_its_name_says(folder: Folder, tmp_path: Path) -> None:
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


def test_a_list_with_a_column_twice_is_told(folder: Folder, tmp_path: Path) -> None:
    path = folder.lists / "stage_1_train.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("filename,label", "filename,label, filename"), encoding="utf-8")
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
    path.write_text(path.read_text(encoding="utf-8").replace("filename,label", "filename , label "), encoding="utf-8")
    assert digest(folder, tmp_path / "tiny.h5") == first


# Other kinds of files, by their first bytes


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "y")
    return buffer.getvalue()


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(3))
    return buffer.getvalue()


SOUND = pickle.dumps({"features": [], "video_names": []})
KINDS: dict[str, tuple[bytes, str, str]] = {
    "gzip": (gzip.compress(SOUND), "compressed with gzip", "gunzip"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a pointer of Git LFS", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s1--ab.pkl\n", "a pointer of git-annex", "git annex get"),
    "page": (b"\n<!DOCTYPE html><title>Quota exceeded</title>", "a web page", "download the file"),
    "page without type": (b"<html><body>404", "a web page", "download the file"),
    "torch.save": (_saved({"x": torch.ones(3)}), "a file of torch.save", "pickle.dump"),
    "torch.save, old": (_saved(3, _use_new_zipfile_serialization=False), "a file of torch.save", "pickle.dump"),
    "zip": (_zip(), "a zip archive", "unzip"),
    "npz": (_npz(), "a .npz archive", "docs/data.md"),
    "tar": (_tar(), "a tar archive", "tar -xf"),
    "text": (b"These are the features of ...\n\nContact me.", "plain text ('These are the features of ...')", "keep files"),
    "umlauts": ("Die Merkmale für …\n".encode() * 100, "plain text", "keep files"),
    "JSON": (b'{"error": "quota"}', "plain text", "fetch the file itself"),
    "empty": (b"", "an empty file", "fetch or extract it again"),
    "zeros": (bytes(4096), "nothing but zero bytes", "fetch or extract it again"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file", ".h5 files"),
    "npy": (b"\x93NUMPY\x01\x00", "a .npy file", "docs/data.md"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image", "keep files"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG image", "keep files"),
    "Parquet": (b"PAR1" + bytes(50), "a Parquet file", "docs/data.md"),
    "MP4": (b"\0\0\0\x20ftypisom" + bytes(50), "an MP4 or QuickTime video", "keep files"),
    "Matroska": (b"\x1aE\xdf\xa3" + bytes(50), "a Matroska or WebM video", "keep files"),
    "WAVE": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(50), "an AVI video or WAVE sound", "keep files"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named_and_not_called_damaged(folder: Folder, tmp_path: Path, kind: str) -> None:
    content, told, fix = KINDS[kind]
    folder.path(*ARCHERY).write_bytes(content)
    found = problem(folder, tmp_path / "tiny.h5")
    assert found.kind == "another kind of file"
    assert f"audio/stage_1_train/Archery.pkl: {told}" in found.what
    assert fix in found.fix
    extracted = tmp_path / "README.txt"
    extracted.write_bytes(content)
    with pytest.raises(ImportProblems) as caught:
        import_extracted(folder.card(), "cls", folder.parent, extracted, tmp_path / "tiny.h5")
    assert told in next(p for p in caught.value.problems if p.kind == "another kind of file").what


@pytest.mark.parametrize("kind", ["gzip", "Git LFS", "page", "torch.save", "text", "empty"])
def test_a_file_of_another_kind_in_place_of_means_is_named(folder: Folder, tmp_path: Path, kind: str) -> None:
    content, told, _ = KINDS[kind]
    (folder.means / "audio" / "stage_1_train" / "Archery.h5").write_bytes(content)
    found = problem(folder, tmp_path / "tiny.h5", form="means")
    assert found.kind == "another kind of file"
    assert told in found.what


@pytest.mark.parametrize("protocol", range(6))
def test_a_truncated_pickle_is_damaged_whatever_its_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "x.pkl"
    whole = pickle.dumps({"features": [np.ones((9, 9))], "video_names": [b"a"]}, protocol)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableFile, match="truncated or damaged pickle") as caught:
        load_pickle(path)
    assert caught.value.kind == "unreadable file"


def test_a_filter_that_is_missing_is_named_with_the_package_that_has_it(folder: Folder, tmp_path: Path) -> None:
    path = folder.means / "audio" / "stage_1_train" / "Archery.h5"
    with h5py.File(path, "a") as f:
        shape = f["data"].shape
        del f["data"]
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((1, shape[1]))
        created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
        data = h5py.h5d.create(f.id, b"data", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple(shape), created)
        for i in range(shape[0]):
            data.write_direct_chunk((i, 0), b"\x28\xb5\x2f\xfd" + bytes(20), 0)
    found = problem(folder, tmp_path / "tiny.h5", form="means")
    assert found.kind == "missing HDF5 filter"
    assert "compressed with HDF5 filter 32015" in found.what
    assert found.fix.startswith("pip install hdf5plugin")


# Reasons outside the files, and errors that nobody foresaw


@pytest.mark.parametrize("form", ["sequences", "means"])
@pytest.mark.parametrize(
    ("code", "fix"), [(errno.EIO, "dmesg"), (errno.EMFILE, "ulimit"), (errno.EACCES, "chmod"), (errno.ESTALE, "mount")]
)
def test_a_file_that_the_system_cannot_read_is_not_called_damaged(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, code: int, fix: str
) -> None:
    def fail(*arguments: object, **options: object) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((class_files.h5py, "File", fail) if form == "means" else (pickles.Interpreter, "load", fail)))
    found = problem(folder, tmp_path / "tiny.h5", form=form)
    assert found.kind == "unavailable file"
    assert fix in found.fix
    assert "again from" not in found.fix


@pytest.mark.parametrize("form", ["sequences", "means"])
def test_an_error_that_nobody_foresaw_is_told_as_such(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def fail(*arguments: object, **options: object) -> Any:
        raise ZeroDivisionError("of the reader")

    monkeypatch.setattr(*((class_files.h5py, "File", fail) if form == "means" else (pickles.Interpreter, "load", fail)))
    found = problem(folder, tmp_path / "tiny.h5", form=form)
    assert found.kind == "unforeseen error"
    assert found.fix.startswith("report it with this message")
    assert "unforeseen ZeroDivisionError: of the reader" in found.what


def test_two_fixes_of_one_kind_are_told_apart(folder: Folder, tmp_path: Path) -> None:
    folder.path(*ARCHERY).write_bytes(KINDS["gzip"][0])
    folder.path("video", "stage_1_train", "Archery").write_bytes(KINDS["page"][0])
    with pytest.raises(ImportProblems) as caught:
        import_official(folder.card(), "cls", folder.parent, tmp_path / "tiny.h5")
    assert [p.kind for p in caught.value.problems] == ["another kind of file"] * 2
    assert len({p.fix for p in caught.value.problems}) == 2


# Values


def test_numbers_beyond_float32_are_told_apart_from_infinite_ones_without_a_warning(folder: Folder, tmp_path: Path) -> None:
    rewrite(folder, lambda x, ids: {"features": [a.astype("f8") * 1e300 for a in x], "video_names": ids})
    assert problem(folder, tmp_path / "tiny.h5").kind == "too large for float32"
    rewrite(folder, lambda x, ids: {"features": [a * np.inf for a in x], "video_names": ids})
    assert problem(folder, tmp_path / "tiny.h5").kind == "not a number or infinite"


# Lists


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_lists_that_are_not_utf_8_are_named_and_nothing_is_concluded_from_them(
    folder: Folder, tmp_path: Path, encoding: str
) -> None:
    rename(folder, "Féncing")
    changed = 0
    for path in (folder.root / "class-split").rglob("*"):
        if path.is_file() and (encoding.startswith("utf") or "é" in path.read_text(encoding="utf-8")):
            path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
            changed += 1
    found = problem(folder, tmp_path / "tiny.h5")
    assert (found.kind, found.count) == ("list that is not UTF-8", changed)
    assert ("UTF-16" in found.what) == encoding.startswith("utf")
    assert "save it as UTF-8" in found.fix


@pytest.mark.parametrize("lines", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_line_ends_of_other_systems_do_not_matter(folder: Folder, tmp_path: Path, lines: str) -> None:
    expected = digest(folder, tmp_path / "plain.h5")
    for path in (folder.root / "class-split").rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", lines.encode()))
    assert digest(folder, tmp_path / "marked.h5") == expected


def test_a_list_that_was_fetched_as_a_page_is_named(folder: Folder, tmp_path: Path) -> None:
    (folder.lists / "stage_1_train.csv").write_bytes(KINDS["page"][0])
    found = problem(folder, tmp_path / "tiny.h5")
    assert (found.kind, found.what) == ("another kind of file", "class-split/cls_split/stage_1_train.csv: a web page")


def test_a_list_that_is_a_spreadsheet_is_to_be_saved_as_text(folder: Folder, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder.lists / "stage_1_train.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    found = problem(folder, tmp_path / "tiny.h5")
    assert found.what.endswith("stage_1_train.csv: a document of an office program, such as a spreadsheet")
    assert found.fix == "save it as text, in a spreadsheet as CSV UTF-8"


# Word vectors


def vectors_of(folder: Folder) -> dict[str, Any]:
    found: dict[str, Any] = np.load(folder.text, allow_pickle=True).item()
    return found


@pytest.mark.parametrize(
    "how", [lambda v: v.tolist(), lambda v: v[None], lambda v: tuple(v), torch.from_numpy, lambda v: v.astype("f8")]
)
def test_word_vectors_of_other_forms_are_read(folder: Folder, tmp_path: Path, how: Callable[[Any], Any]) -> None:
    expected = digest(folder, tmp_path / "plain.h5")
    np.save(folder.text, {name: how(v) for name, v in vectors_of(folder).items()})  # type: ignore[arg-type]
    assert digest(folder, tmp_path / "other.h5") == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (np.ones((8, 4), "f4"), "an array [8, 4] without the names of its rows"),
        ({"a": np.ones((2, 4))}, "the word vector of 'a' is no vector [D] of numbers but float64 [2, 4]"),
        ({"a": ["x", "y"]}, "the word vector of 'a' is no vector [D] of numbers but list"),
        ({0: np.ones(4)}, "a dict whose keys are no class names, such as 0"),
        ([np.ones(4)], "an array [1, 4] without"),
    ],
)
def test_word_vectors_of_a_wrong_form_get_the_form_that_is_wanted(
    folder: Folder, tmp_path: Path, content: Any, told: str
) -> None:
    np.save(folder.text, content, allow_pickle=True)
    found = problem(folder, tmp_path / "tiny.h5")
    assert told in found.what
    assert found.fix.startswith("save a dict of class name to vector")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda raw: raw[:40], "not a .npy file, or a truncated one"),
        (lambda raw: raw[:6] + b"\x03\x00" + raw[8:], "a .npy file of version 3.0, read are 1.0 and 2.0"),
        (lambda raw: b"word 0.1 0.2", "plain text ('word 0.1 0.2')"),
    ],
)
def test_a_damaged_file_of_word_vectors_is_not_called_another_kind(
    folder: Folder, tmp_path: Path, damage: Callable[[bytes], bytes], told: str
) -> None:
    folder.text.write_bytes(damage(folder.text.read_bytes()))
    found = problem(folder, tmp_path / "tiny.h5")
    assert told in found.what
    assert "out of the folder" not in found.fix


def test_missing_word_vectors_are_no_missing_class_list(folder: Folder, tmp_path: Path) -> None:
    folder.text.rename(folder.text.with_suffix(".npz"))
    found = problem(folder, tmp_path / "tiny.h5")
    assert found.kind == "missing word vectors"
    assert "cls_features_non_averaged/text/word_embeddings_tiny_normed.npy and" in found.what
    assert "--vectors FILE" in found.fix


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_word_vectors_that_are_not_finite_are_to_be_corrected_where_they_are(
    folder: Folder, tmp_path: Path, value: float
) -> None:
    np.save(folder.text, vectors_of(folder) | {"gliding": np.full(4, value)})  # type: ignore[arg-type]
    found = problem(folder, tmp_path / "tiny.h5")
    assert found.kind == "not a number or infinite"
    assert "'gliding'" in found.what
    assert found.fix.startswith(f"correct these vectors in {folder.text.relative_to(folder.root).as_posix()}")


def test_word_vectors_of_another_size_point_to_the_card(folder: Folder, tmp_path: Path) -> None:
    np.save(folder.text, {name: v[:3] for name, v in vectors_of(folder).items()})  # type: ignore[arg-type]
    found = problem(folder, tmp_path / "tiny.h5")
    assert (found.kind, found.count) == ("wrong dimension", 8)
    assert "text_dim" in found.fix


# Attacks by tensors


class Rebuilt:
    """Pickles as a tensor of this storage, offset, size and stride."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any) -> None:
        self.parts = (storage, offset, size, stride, False, {})

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.parts


class Loaded:
    """Pickles as the storage that these bytes are."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __reduce__(self) -> Any:
        return torch.storage._load_from_bytes, (self.raw,)


class Touch:
    def __reduce__(self) -> Any:
        return os.system, ("touch canary",)


def _bomb() -> bytes:
    """A zip archive as torch.save writes it, whose record is deflated to a thousandth."""
    buffer = io.BytesIO()
    saved = io.BytesIO(_saved(torch.zeros(2**20).untyped_storage()))
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return buffer.getvalue()


def _old(content: Any) -> bytes:
    return _saved(content, _use_new_zipfile_serialization=False)


STORAGE = torch.storage.TypedStorage(wrap_storage=torch.arange(6.0).untyped_storage(), dtype=torch.float32, _internal=True)
TENSORS: dict[str, Any] = {
    "beyond the end": Rebuilt(STORAGE, 3, (4,), (1,)),
    "by its stride": Rebuilt(STORAGE, 0, (2, 2), (5, 1)),
    "huge size": Rebuilt(STORAGE, 0, (10**12,), (0,)),
    "huge stride": Rebuilt(STORAGE, 0, (2,), (2**62,)),
    "negative stride": Rebuilt(STORAGE, 5, (2,), (-1,)),
    "negative offset": Rebuilt(STORAGE, -1, (2,), (1,)),
    "no stride": Rebuilt(STORAGE, 0, (2, 3), ()),
    "no numbers": Rebuilt(STORAGE, 0, (True, "x"), (1, 1)),
    "no storage": Rebuilt(b"abc", 0, (1,), (1,)),
    "no bytes": Rebuilt(Loaded("text"), 0, (1,), (1,)),
    "hostile storage": Rebuilt(Loaded(pickle.dumps(Touch(), 2)), 0, (1,), (1,)),
    "hostile saved file": Rebuilt(Loaded(_old(Touch())), 0, (1,), (1,)),
    "hostile saved archive": Rebuilt(Loaded(_saved(Touch())), 0, (1,), (1,)),
    "zip bomb": Rebuilt(Loaded(_bomb()), 0, (1,), (1,)),
    "a number for a storage": Rebuilt(Loaded(_old(7)), 0, (1,), (1,)),
    "truncated storage": Rebuilt(Loaded(_old(STORAGE)[:-10]), 0, (1,), (1,)),
}


@pytest.mark.parametrize("attack", TENSORS)
def test_tensors_that_are_none_are_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "class.pkl"
    path.write_bytes(pickle.dumps({"features": [TENSORS[attack]], "video_names": [b"a"]}))
    with pytest.raises(UnreadableFile, match=r"class\.pkl"):
        load_pickle(path)
    path.write_bytes(_npy({"a": TENSORS[attack]}))
    with pytest.raises(UnreadableFile, match=r"class\.pkl"):
        load_npy_dict(path)
    assert not (tmp_path / "canary").exists()


def _npy(content: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, content, allow_pickle=True)
    return buffer.getvalue()


def test_many_views_of_one_tensor_cannot_claim_more_than_their_share(tmp_path: Path) -> None:
    path = tmp_path / "class.pkl"
    storage = torch.storage.TypedStorage(wrap_storage=torch.ones(10**4).untyped_storage(), dtype=torch.float32, _internal=True)
    turned = [Rebuilt(storage, 0, (100, 100), (1, 100)) for _ in range(1000)]
    path.write_bytes(pickle.dumps({"features": turned, "video_names": [b"a"] * len(turned)}))
    assert path.stat().st_size < 3 * 40_000
    with pytest.raises(RefusedPickle, match="times the memory of the file"):
        load_pickle(path)


def test_an_array_of_objects_is_plain_data(tmp_path: Path) -> None:
    path = tmp_path / "class.pkl"
    path.write_bytes(pickle.dumps(np.array([{}, None, [1]], object)))
    assert load_pickle(path).tolist() == [{}, None, [1]]
    path.write_bytes(pickle.dumps(np.array([Touch()], object)))
    with pytest.raises(RefusedPickle, match="system"):
        load_pickle(path)


# The store in which an import ends


def test_an_import_into_a_store_that_another_program_writes_to_is_refused_at_once(folder: Folder, tmp_path: Path) -> None:
    digest(folder, tmp_path / "tiny.h5")
    before = (tmp_path / "tiny.h5").stat().st_ino
    with h5py.File(tmp_path / "tiny.h5", "r+"), pytest.raises(Unavailable, match="another program has it open for writing"):
        import_official(folder.card(), "cls", folder.parent, tmp_path / "tiny.h5", force=True)
    assert (tmp_path / "tiny.h5").stat().st_ino == before
    assert not (tmp_path / "tiny.h5.import").exists()


def test_an_import_writes_through_a_link(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "other disk").mkdir()
    (tmp_path / "tiny.h5").symlink_to(tmp_path / "other disk" / "store.h5")
    first = digest(folder, tmp_path / "tiny.h5")
    folder.change(*ARCHERY, lambda frames, ids: ([x + 1 for x in frames], ids))
    second = digest(folder, tmp_path / "tiny.h5", force=True)
    assert (tmp_path / "tiny.h5").is_symlink()
    assert FeatureStore(tmp_path / "other disk" / "store.h5").digest == second != first
    assert [p.name for p in (tmp_path / "other disk").iterdir()] == ["store.h5"]


def test_a_store_that_cannot_be_read_is_not_replaced(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest(folder, tmp_path / "tiny.h5")
    before = (tmp_path / "tiny.h5").stat().st_ino

    def fail(*arguments: object, **options: object) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(Unavailable, match="disk or network drive failed"):
        import_official(folder.card(), "cls", folder.parent, tmp_path / "tiny.h5")
    assert (tmp_path / "tiny.h5").stat().st_ino == before
