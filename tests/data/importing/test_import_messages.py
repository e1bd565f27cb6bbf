"""Imports name files of another kind, broken lists and values, and outside reasons, each with a fix."""

from __future__ import annotations

import errno
import gzip
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from support.import_folder import ARCHERY, Folder, digest, problem, rename, rewrite, vectors_of

from benchmark.data.importing import class_files
from benchmark.data.importing.extracted_lists import import_extracted
from benchmark.data.importing.findings import ImportProblems
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import FeatureStore
from benchmark.errors import Unavailable
from benchmark.untrusted import pickles
from benchmark.untrusted.arrays import load_pickle
from benchmark.untrusted.pickles import UnreadableFile

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
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
        "a pointer of Git LFS",
        "git lfs pull",
    ),
    "git-annex": (b"/annex/objects/SHA256E-s1--ab.pkl\n", "a pointer of git-annex", "git annex get"),
    "page": (b"\n<!DOCTYPE html><title>Quota exceeded</title>", "a web page", "download the file"),
    "page without type": (b"<html><body>404", "a web page", "download the file"),
    "torch.save": (_saved({"x": torch.ones(3)}), "a file of torch.save", "pickle.dump"),
    "torch.save, old": (
        _saved(3, _use_new_zipfile_serialization=False),
        "a file of torch.save",
        "pickle.dump",
    ),
    "zip": (_zip(), "a zip archive", "unzip"),
    "npz": (_npz(), "a .npz archive", "docs/reference/official-layout.md"),
    "tar": (_tar(), "a tar archive", "tar -xf"),
    "text": (
        b"These are the features of ...\n\nContact me.",
        "plain text ('These are the features of ...')",
        "keep files",
    ),
    "umlauts": ("Die Merkmale für …\n".encode() * 100, "plain text", "keep files"),
    "JSON": (b'{"error": "quota"}', "plain text", "fetch the file itself"),
    "empty": (b"", "an empty file", "fetch or extract it again"),
    "zeros": (bytes(4096), "nothing but zero bytes", "fetch or extract it again"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file", ".h5 files"),
    "npy": (b"\x93NUMPY\x01\x00", "a .npy file", "docs/reference/official-layout.md"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG image", "keep files"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG image", "keep files"),
    "Parquet": (b"PAR1" + bytes(50), "a Parquet file", "docs/reference/official-layout.md"),
    "MP4": (b"\0\0\0\x20ftypisom" + bytes(50), "an MP4 or QuickTime video", "keep files"),
    "Matroska": (b"\x1aE\xdf\xa3" + bytes(50), "a Matroska or WebM video", "keep files"),
    "WAVE": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(50), "an AVI video or WAVE audio", "keep files"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named_and_not_called_damaged(
    folder: Folder, tmp_path: Path, kind: str
) -> None:
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


def test_a_filter_that_is_missing_is_named_with_the_package_that_has_it(
    folder: Folder, tmp_path: Path
) -> None:
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
    ("code", "fix"),
    [(errno.EIO, "dmesg"), (errno.EMFILE, "ulimit"), (errno.EACCES, "chmod"), (errno.ESTALE, "mount")],
)
def test_a_file_that_the_system_cannot_read_is_not_called_damaged(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, code: int, fix: str
) -> None:
    def fail(*arguments: object, **options: object) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(
        *((class_files.h5py, "File", fail) if form == "means" else (pickles.Interpreter, "load", fail))
    )
    found = problem(folder, tmp_path / "tiny.h5", form=form)
    assert found.kind == "unavailable file"
    assert fix in found.fix
    assert "again from" not in found.fix


@pytest.mark.parametrize("form", ["sequences", "means"])
def test_an_error_that_nobody_foresaw_is_reported_as_such(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def fail(*arguments: object, **options: object) -> Any:
        raise ZeroDivisionError("of the reader")

    monkeypatch.setattr(
        *((class_files.h5py, "File", fail) if form == "means" else (pickles.Interpreter, "load", fail))
    )
    found = problem(folder, tmp_path / "tiny.h5", form=form)
    assert found.kind == "unforeseen error"
    assert found.fix.startswith("report it with this message")
    assert "unforeseen ZeroDivisionError: of the reader" in found.what


def test_two_fixes_of_one_kind_are_kept_apart(folder: Folder, tmp_path: Path) -> None:
    folder.path(*ARCHERY).write_bytes(KINDS["gzip"][0])
    folder.path("video", "stage_1_train", "Archery").write_bytes(KINDS["page"][0])
    with pytest.raises(ImportProblems) as caught:
        import_official(folder.card(), "cls", folder.parent, tmp_path / "tiny.h5")
    assert [p.kind for p in caught.value.problems] == ["another kind of file"] * 2
    assert len({p.fix for p in caught.value.problems}) == 2


# Values


def test_numbers_beyond_float32_differ_from_infinite_ones_without_a_warning(
    folder: Folder, tmp_path: Path
) -> None:
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
def test_a_byte_order_mark_and_line_ends_of_other_systems_do_not_matter(
    folder: Folder, tmp_path: Path, lines: str
) -> None:
    expected = digest(folder, tmp_path / "plain.h5")
    for path in (folder.root / "class-split").rglob("*"):
        if path.is_file():
            path.write_bytes(
                b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", lines.encode())
            )
    assert digest(folder, tmp_path / "marked.h5") == expected


def test_a_list_that_was_fetched_as_a_page_is_named(folder: Folder, tmp_path: Path) -> None:
    (folder.lists / "stage_1_train.csv").write_bytes(KINDS["page"][0])
    found = problem(folder, tmp_path / "tiny.h5")
    assert (found.kind, found.what) == (
        "another kind of file",
        "class-split/cls_split/stage_1_train.csv: a web page",
    )


def test_a_list_that_is_a_spreadsheet_is_to_be_saved_as_text(folder: Folder, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder.lists / "stage_1_train.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
    found = problem(folder, tmp_path / "tiny.h5")
    assert found.what.endswith("stage_1_train.csv: a document of an office program, such as a spreadsheet")
    assert found.fix == "save it as text, in a spreadsheet as CSV UTF-8"


# Word vectors


@pytest.mark.parametrize(
    "how",
    [lambda v: v.tolist(), lambda v: v[None], lambda v: tuple(v), torch.from_numpy, lambda v: v.astype("f8")],
)
def test_word_vectors_of_other_forms_are_read(
    folder: Folder, tmp_path: Path, how: Callable[[Any], Any]
) -> None:
    expected = digest(folder, tmp_path / "plain.h5")
    np.save(folder.text, {name: how(v) for name, v in vectors_of(folder).items()})  # type: ignore[arg-type]
    assert digest(folder, tmp_path / "other.h5") == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (np.ones((8, 4), "f4"), "an array [8, 4] without the names of its rows"),
        ({"a": np.ones((2, 4))}, "the class embedding of 'a' is no vector [D] of numbers but float64 [2, 4]"),
        ({"a": ["x", "y"]}, "the class embedding of 'a' is no vector [D] of numbers but list"),
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
    assert found.kind == "missing class embeddings"
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


# The store in which an import ends


def test_an_import_into_a_store_that_another_program_writes_to_is_refused_immediately(
    folder: Folder, tmp_path: Path
) -> None:
    digest(folder, tmp_path / "tiny.h5")
    before = (tmp_path / "tiny.h5").stat().st_ino
    with (
        h5py.File(tmp_path / "tiny.h5", "r+"),
        pytest.raises(Unavailable, match="another program has it open for writing"),
    ):
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


def test_a_store_that_cannot_be_read_is_not_replaced(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest(folder, tmp_path / "tiny.h5")
    before = (tmp_path / "tiny.h5").stat().st_ino

    def fail(*arguments: object, **options: object) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(Unavailable, match="disk or network drive failed"):
        import_official(folder.card(), "cls", folder.parent, tmp_path / "tiny.h5")
    assert (tmp_path / "tiny.h5").stat().st_ino == before
