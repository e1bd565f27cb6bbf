"""Pickled tensors that are none, or that claim more than their file has, are refused and run nothing."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.data.importing.cache_files import read_cache, read_cached_text
from benchmark.data.importing.class_files import first_shapes, read_class
from benchmark.data.importing.findings import FindingLog
from benchmark.data.store import MODALITIES
from benchmark.untrusted.arrays import load_npy_dict, load_pickle
from benchmark.untrusted.pickles import RefusedPickle, UnreadableFile


def _saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


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


STORAGE = torch.storage.TypedStorage(
    wrap_storage=torch.arange(6.0).untyped_storage(), dtype=torch.float32, _internal=True
)
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


@pytest.mark.parametrize("attack", TENSORS)
def test_tensors_in_clipclaps_files_are_refused_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "trainingcls_split.pkl"
    whole: dict[str, Any] = {"data": [np.ones(3, "f4")], "target": torch.zeros(1).long(), "url": ["b'a'"]}
    for part, field in (("audio", "target"), ("video", "data"), ("text", "data")):
        content = {name: dict(whole) for name in ("audio", "video", "text")}
        content[part][field] = TENSORS[attack]
        cache.write_bytes(pickle.dumps(content))
        for read in (read_cache, read_cached_text):
            with pytest.raises(UnreadableFile, match=r"trainingcls_split\.pkl"):
                read(cache)
    for modality in ("audio", "video"):
        path = tmp_path / modality / "stage_1_train" / "Archery.pkl"
        path.parent.mkdir(parents=True)
        path.write_bytes(pickle.dumps({"features": [TENSORS[attack]], "video_names": [b"a"]}))
    assert first_shapes(tmp_path, "vectors") == {}
    paths = {modality: tmp_path / modality / "stage_1_train" / "Archery.pkl" for modality in MODALITIES}
    found = FindingLog("class")
    dims = {"audio": 6, "video": 6}
    assert read_class(paths, "vectors", dims, tmp_path, found, split="stage_1_train", name="Archery") is None
    assert sum(problem.count for problem in found.problems) == 2
    assert not (tmp_path / "canary").exists()


def _npy(content: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, content, allow_pickle=True)
    return buffer.getvalue()


def test_many_views_of_one_tensor_cannot_claim_more_than_their_share(tmp_path: Path) -> None:
    path = tmp_path / "class.pkl"
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.ones(10**4).untyped_storage(), dtype=torch.float32, _internal=True
    )
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
