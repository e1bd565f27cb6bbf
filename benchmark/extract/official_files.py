"""Write a feature file as a folder in the official layout, for users of other code."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmark.data.cards import Card, FeatureSetConfig, FeatureSetLayout
from benchmark.data.hdf5 import new_hdf5, open_hdf5
from benchmark.data.importing.places import FOLDER, SUFFIX, UNION_SPLIT, official_places
from benchmark.data.importing.word_vectors import write_word_vectors
from benchmark.data.names import NO_FILE_NAME, folded, is_file_name
from benchmark.data.store import DEVELOPMENT_SPLITS, MODALITIES, SPLITS, FeatureStore, Ints, Tables
from benchmark.errors import UsageError
from benchmark.system.files import outside_reason, replacing

SPLITS_OF: Mapping[str, Sequence[str]] = {
    **{split: (split,) for split in SPLITS},
    UNION_SPLIT: DEVELOPMENT_SPLITS,
}
"""Split of the layout -> splits of a feature file whose samples it has."""
PUBLISHED_RATE = 25
"""Frames a second in published files of one vector per sample, whatever the video has."""


def write_official(store: FeatureStore, root: Path, card: Card, rate: int, folder: Path) -> Path:
    """Write lists, class embeddings and features, with one class of one split in memory at a time.

    A feature set with its own layout gets one vector of each sample and modality, else sequences and means.

    Args:
        store: what is written.
        root: dataset folder whose ``class-split`` is copied.
        card: the dataset, with the names of the folders and files.
        rate: frames a second, recorded in the files of sequences; 0 if each video has its own rate.
        folder: where the dataset folder is created, or overwritten.

    Returns:
        The dataset folder.

    Raises:
        UsageError: the store has no sequences, or for an own layout longer ones than a time step; the folder
            cannot be written, or no file can have a class's name.
    """
    store.require_sequences("the official layout")
    own = card.features[store.features].layout
    if own is not None and not store.one_time_step:
        raise UsageError(
            f"--write-official-layout: the published layout of {store.features!r} has one vector per sample, "
            f"but {store.path} has sequences; omit the option, or --frames"
        )
    target = (folder / official_places(card).folder).resolve()
    try:
        if target != root.resolve():
            shutil.copytree(root / "class-split", target / "class-split", dirs_exist_ok=True)
        if own is not None:
            _write_vectors(store, card.features[store.features], own, target)
        else:
            _write_both_forms(store, official_places(card).text_file, rate, target)
    except OSError as error:
        why = outside_reason(error, target) or f"{error.strerror or error}; choose another folder"
        raise UsageError(f"{target}: cannot be written: {why}") from None
    return target


def _write_both_forms(store: FeatureStore, text_file: str, rate: int, target: Path) -> None:
    places = {form: target / "features" / name.format(store.features) for form, name in FOLDER.items()}
    tables = store.tables()
    for place in places.values():
        write_word_vectors(place / "text" / text_file, tables.vector_names, tables.vectors)
    with open_hdf5(store.path) as file:
        for split, name, rows in _class_files(tables, f"{store.features}_split", target):
            for modality in MODALITIES:
                frames = _frames(file[modality], rows)
                ids = [tables.ids[row].encode() for row in rows]
                at = Path(modality, split, name)
                _write_sequences(places["sequences"] / at, frames, ids, rate)
                _write_means(places["means"] / at, np.asarray(file[modality]["means"][rows]), ids)


def _write_vectors(
    store: FeatureStore, config: FeatureSetConfig, own: FeatureSetLayout, target: Path
) -> None:
    """Write one vector per sample, those of video in float16, and a file of each part of the embeddings."""
    base, tables = target / "features" / own.folder, store.tables()
    parts = np.split(tables.vectors, np.cumsum(list(config.text_parts.values()))[:-1], axis=1)
    for of, part in zip(config.text_parts, parts, strict=True):
        write_word_vectors(base / "text" / own.text_files[of], tables.vector_names, part)
    with open_hdf5(store.path) as file:
        for split, name, rows in _class_files(tables, own.lists, target):
            for modality in MODALITIES:
                dtype = np.float16 if modality == "video" else np.float32
                vectors = [frames[0].astype(dtype) for frames in _frames(file[modality], rows)]
                ids = [tables.ids[row].encode() for row in rows]
                _write_sequences(base / modality / split / name, vectors, ids, PUBLISHED_RATE)


def _class_files(tables: Tables, lists: str, target: Path) -> Iterator[tuple[str, str, Ints]]:
    """Split, class and rows of each class file.

    Raises:
        UsageError: no file can have a class's name.
    """
    for split, sources in SPLITS_OF.items():
        for name, rows in _classes(tables, lists, target, split, sources).items():
            if not is_file_name(name):
                raise UsageError(f"{target}: no file can be named as class {name!r}; {NO_FILE_NAME}")
            yield split, name, rows


def _classes(tables: Tables, lists: str, target: Path, split: str, sources: Sequence[str]) -> dict[str, Ints]:
    """Class, spelt as in the list of the split -> rows of its samples; only classes that have samples."""
    path = target / "class-split" / lists / f"{split}.txt"
    lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    spelt = {folded(line.strip()): line.strip() for line in lines}
    of_split = np.isin(tables.splits, [SPLITS.index(source) for source in sources])
    labels = np.unique(tables.labels[of_split])
    names = {int(label): tables.class_names[label] for label in labels}
    return {
        spelt.get(folded(name), name): np.flatnonzero(of_split & (tables.labels == label))
        for label, name in names.items()
    }


def _frames(group: h5py.Group, rows: Ints) -> list[Any]:
    offsets = group["offsets"]
    return [
        np.asarray(group["frames"][int(offsets[row]) : int(offsets[row + 1])], np.float32) for row in rows
    ]


def _write_sequences(path: Path, frames: Sequence[Any], ids: Sequence[bytes], rate: int) -> None:
    with (
        replacing(path.with_name(path.name + SUFFIX["sequences"])) as temporary,
        open(temporary, "wb") as file,
    ):
        pickle.dump({"features": list(frames), "video_names": list(ids), "fps": [rate] * len(ids)}, file)


def _write_means(path: Path, means: Any, ids: Sequence[bytes]) -> None:
    with new_hdf5(path.with_name(path.name + SUFFIX["means"])) as (file, _):
        file["data"] = means
        file["video_urls"] = np.array(ids)
