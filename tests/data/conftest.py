"""A tiny folder in the official layout, written from nothing, and ways to spoil it."""

from __future__ import annotations

import csv
import pickle
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmark.data.cards import Card

AUDIO_DIM, VIDEO_DIM, TEXT_DIM = 3, 5, 4
COMMA = "alligators, crocodiles hissing"
HANDSTAND = "HandstandPushups"  # spelt HandStandPushups in the lists of the splits, as in UCF
MANUAL = {  # sorted manual names have another order than sorted original names
    "Archery": "zz archery",
    "Bowling": "bowling",
    "Diving": "Diving",
    "Fencing": "a fencing bout",
    "Gliding": "gliding",
    HANDSTAND: "Handstand Pushups",
    COMMA: "alligators hissing, crocodiles",
    "cat, meowing": "cat",
}
TRAIN = ["Archery", "HandStandPushups", COMMA]
VAL_UNSEEN = ["Bowling", "cat, meowing"]
CLASSES = {
    "stage_1_train": TRAIN,
    "stage_1_val_seen": TRAIN,
    "stage_1_val_unseen": VAL_UNSEEN,
    "stage_2_train": TRAIN + VAL_UNSEEN,
    "stage_2_test_seen": TRAIN + VAL_UNSEEN,
    "stage_2_test_unseen": ["Diving", "Fencing"],
}
ONLY_SAMPLES = {"stage_2_test_unseen": ["Gliding"]}
"""Classes with listed samples that the class list leaves out."""
READ_SPLITS = [split for split in CLASSES if split != "stage_2_train"]


def sample_ids(split: str, name: str, n: int = 4) -> list[str]:
    """Ids in another order than the sorted one, as in published files."""
    stem = re.sub(r"\W", "", name)
    return [f"v_{stem}_{split}_g{i:02d}_c01" for i in reversed(range(n))]


class OfficialFolder:
    """The folder ``<parent>/Tiny`` with lists, word vectors and class files in both forms."""

    def __init__(
        self, parent: Path, features: str = "cls", seed: int = 0, written: Path | None = None
    ) -> None:
        """Write it, or copy one of these features that is written."""
        self.parent, self.root, self.features = parent, parent / "Tiny", features
        self.lists = self.root / "class-split" / f"{features}_split"
        self.sequences = self.root / "features" / f"{features}_features_non_averaged"
        self.means = self.root / "features" / f"{features}_features"
        self.text = self.sequences / "text" / "word_embeddings_tiny_normed.npy"
        self.names_file = self.root / "class-split" / "tiny_w2v_class_names.csv"
        self.rng = np.random.default_rng(seed)
        if written is not None:
            shutil.copytree(written, self.root)
            return
        self._write_lists()
        for split in READ_SPLITS:
            for name in CLASSES[split] + ONLY_SAMPLES.get(split, []):
                self.write_class(split, name, sample_ids(split, name))

    def _write_lists(self) -> None:
        self.lists.mkdir(parents=True)
        (self.root / "class-split" / "all_class.txt").write_text("\n".join(reversed(MANUAL)) + "\n")
        self.write_csv(self.names_file, ["original", "manual"], list(MANUAL.items()))
        for split, names in CLASSES.items():
            (self.lists / f"{split}.txt").write_text("\n".join(names) + "\n")
            self.write_samples(split, self.listed(split))
        vectors = {name: self.rng.normal(size=TEXT_DIM).astype("f4") for name in MANUAL.values()}
        self.text.parent.mkdir(parents=True)
        np.save(self.text, vectors, allow_pickle=True)  # type: ignore[arg-type]

    def listed(self, split: str) -> list[tuple[str, str]]:
        if split == "stage_2_train":
            return [row for p in READ_SPLITS[:3] for row in self.listed(p)]
        names = CLASSES[split] + ONLY_SAMPLES.get(split, [])
        return [(sample, name) for name in names for sample in sample_ids(split, name)]

    def write_samples(self, split: str, rows: Sequence[tuple[str, str]]) -> None:
        self.write_csv(self.lists / f"{split}.csv", ["filename", "label"], rows)

    @staticmethod
    def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        with open(path, "w", newline="") as f:
            csv.writer(f).writerows([header, *rows])

    def write_class(self, split: str, name: str, ids: Sequence[str]) -> None:
        for modality, dim in (("audio", AUDIO_DIM), ("video", VIDEO_DIM)):
            frames = [self.rng.normal(size=(int(self.rng.integers(1, 6)), dim)).astype("f4") for _ in ids]
            self.write_pickle(modality, split, name, frames, ids)
            path = self.means / modality / split / f"{name}.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as f:
                f["data"] = np.stack([x.mean(0) for x in frames])
                f["video_urls"] = np.array([i.encode() for i in ids])

    def path(self, modality: str, split: str, name: str) -> Path:
        return self.sequences / modality / split / f"{name}.pkl"

    def write_pickle(
        self, modality: str, split: str, name: str, frames: Sequence[Any], ids: Sequence[str]
    ) -> None:
        path = self.path(modality, split, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"features": list(frames), "video_names": [i.encode() for i in ids], "fps": [25] * len(ids)}
        path.write_bytes(pickle.dumps(content))

    def read_pickle(self, modality: str, split: str, name: str) -> tuple[list[Any], list[str]]:
        content = pickle.loads(self.path(modality, split, name).read_bytes())
        return content["features"], [i.decode() for i in content["video_names"]]

    def change(
        self,
        modality: str,
        split: str,
        name: str,
        how: Callable[[list[Any], list[str]], tuple[list[Any], list[str]]],
    ) -> None:
        """Rewrite a class file with ``how(frames, ids)``."""
        self.write_pickle(modality, split, name, *how(*self.read_pickle(modality, split, name)))

    def card(self) -> Card:
        splits = {split: len(names) for split, names in CLASSES.items()}
        features = {
            "description": "tiny",
            "audio": {"extractor": "none", "dim": AUDIO_DIM, "seconds": 0.96},
            "video": {"extractor": "none", "dim": VIDEO_DIM, "seconds": 0.64},
            "text_dim": TEXT_DIM,
            "classes": splits,
            "samples": {split: 4 * n for split, n in splits.items()},
        }
        layout = {"folder": "Tiny", "names_file": self.names_file.name, "text_file": self.text.name}
        return Card.model_validate(
            {
                "name": "tiny",
                "title": "Tiny",
                "kind": "published",
                "description": "tiny",
                "default_features": "cls",
                "features": {"cls": features, "main": features},
                "official": layout,
                "obtain": "Fetch them from nowhere.",
            }
        )


@pytest.fixture
def make_folder() -> Callable[..., OfficialFolder]:
    """Writes a folder in the official layout below a given parent."""
    return OfficialFolder


@pytest.fixture(scope="session")
def written_folder(tmp_path_factory: pytest.TempPathFactory) -> OfficialFolder:
    """A faultless folder in the official layout, which tests only read."""
    return OfficialFolder(tmp_path_factory.mktemp("official"))


@pytest.fixture
def folder(tmp_path: Path, written_folder: OfficialFolder) -> OfficialFolder:
    """A copy of it."""
    return OfficialFolder(tmp_path / "source", written=written_folder.root)
