"""Synthetic features in ClipClap's published layout: class files, caches of its loader, or both.

A clip's two vectors are the parts of its class's text embedding plus noise, all of length 1, so a method
that compares them recognises unseen classes.
"""

from __future__ import annotations

import csv
import pickle
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmark.data.cards import Card, FeatureSetLayout, load_cards
from benchmark.data.names import folded
from benchmark.data.store import DEVELOPMENT_SPLITS, SPLITS

UNION = "stage_2_train"
NOISE = 0.7
"""Length of the noise that is added to a vector of length 1."""
# Original name -> name of the class embedding. Sorted by the second names, classes have another order.
SMALL = {
    "Archery": "archery",
    "BalanceBeam": "balance beam",
    "cat, meowing": "cat meowing",
    "Drumming": "dog drumming",
    "HandstandPushups": "handstand pushups",
    "Longboarding": "zz longboarding",
    "Longjump": "long jump",
    "Rowing": "rowing",
    "Unlisted": "unlisted",
    "YoYo": "yo yo",
}
SMALL_SPLITS = {
    "stage_1_train": ["Archery", "HandStandPushups", "Longjump", "Rowing"],  # spelt as in UCF's lists
    "stage_1_val_unseen": ["BalanceBeam", "cat, meowing"],
    "stage_2_test_unseen": ["Drumming", "Longboarding", "YoYo"],
}
DROPPED = "Unlisted"
"""A class with clips in stage_2_test_unseen that its class list omits."""
Form = Literal["classes", "cache", "both"]
Drop = Mapping[tuple[str, str], Sequence[int]]


@dataclass
class _Lists:
    """Names and lists of a dataset."""

    keys: dict[str, str]
    """Class -> name of its embedding."""
    classes: dict[str, list[str]] = field(default_factory=dict)
    """Split -> its classes, spelt as in its list."""
    samples: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Split -> class, spelt as in the list -> its samples, also of classes that the class list omits."""

    def union(self) -> dict[str, list[str]]:
        """The samples of ``stage_2_train``."""
        found: dict[str, list[str]] = {}
        for split in DEVELOPMENT_SPLITS:
            for name, samples in self.samples[split].items():
                found[name] = found.get(name, []) + samples
        return found


def make_clipclap_layout(
    root: Path,
    dataset: str,
    *,
    lists: Path | None = None,
    form: Form = "both",
    drop: Drop | None = None,
    clips: int = 4,
    seed: int = 0,
) -> Path:
    """Write a dataset folder in ClipClap's layout, for ``data import DATASET --features clip_clap``.

    Args:
        root: where the dataset folder (``UCF``, ``VGGSound``, ``ActivityNet``) is made.
        dataset: ``ucf``, ``vggsound`` or ``activitynet``.
        lists: dataset folder whose ``class-split`` is used, cut to ``clips``; None for small lists.
        form: what is written: class files with text files, caches, or both.
        drop: (split, class as in the list) -> positions of listed clips that have no features. As in the
            published files, their names remain, and those of later clips shift.
        clips: samples of each class in each split, at most.
        seed: of features and class embeddings.

    Returns:
        The dataset folder.
    """
    card = load_cards()[dataset]
    layout = card.features["clip_clap"].layout
    assert layout is not None
    assert card.official is not None
    folder = root / card.official.folder
    found = _small_lists(dataset, clips) if lists is None else _cut_lists(lists, layout, clips)
    _write_lists(folder / "class-split", layout, found)
    writer = _Writer(folder, card, found, drop or {}, seed)
    if form in ("classes", "both"):
        writer.write_classes()
    if form in ("cache", "both"):
        writer.write_caches()
    return folder


def sample_name(dataset: str, stem: str, source: int, clip: int) -> str:
    """The name of a clip of a source video, by the dataset's rule."""
    if dataset == "ucf":
        return f"v_{stem}_g{source:02d}_c{clip:02d}"
    return f"{stem}{source:04d}_{clip:06d}" if dataset == "vggsound" else f"{stem}{source:04d}_{clip}"


def _small_lists(dataset: str, clips: int) -> _Lists:
    found, train = _Lists(dict(SMALL)), SMALL_SPLITS["stage_1_train"]
    for number, split in enumerate(SPLITS):
        seen = train if split == "stage_1_val_seen" else train + SMALL_SPLITS["stage_1_val_unseen"]
        found.classes[split] = SMALL_SPLITS.get(split, seen)
        names = [*found.classes[split], *([DROPPED] if split == SPLITS[-1] else [])]
        for name in names:
            stem = re.sub(r"\W", "", name)
            places = [_place(number, i) for i in range(clips)]
            found.samples.setdefault(split, {})[name] = [sample_name(dataset, stem, *at) for at in places]
    return found


def _place(split: int, clip: int) -> tuple[int, int]:
    """Source and number of a clip: two of each source, of which test-seen shares the first with training."""
    shared = clip < 2 and SPLITS[split] in ("stage_1_train", "stage_2_test_seen")
    return 0 if shared else 10 * split + clip // 2, 10 * split + clip


def _cut_lists(source: Path, layout: FeatureSetLayout, clips: int) -> _Lists:
    """The lists of a folder, with the first samples of each class only."""
    table = source / "class-split" / layout.names_file
    if table.is_file():
        found = _Lists({row["original"]: row[layout.name_column] for row in _rows(table)})
    else:  # UCF's lists without ClipClap's own table of class names
        names = (source / "class-split" / "all_class.txt").read_text(encoding="utf-8").split("\n")
        found = _Lists({name: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name) for name in names if name})
    for split in SPLITS:
        path = source / "class-split" / layout.lists / split
        found.classes[split] = list(filter(None, path.with_suffix(".txt").read_text("utf-8").split("\n")))
        spelt = {folded(name): name for name in found.classes[split]}
        samples: dict[str, list[str]] = {}
        for row in _rows(path.with_suffix(".csv")):
            of = samples.setdefault(spelt.get(folded(row["label"]), row["label"]), [])
            of += [row["filename"]] if len(of) < clips else []
        found.samples[split] = samples
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write_lists(folder: Path, layout: FeatureSetLayout, found: _Lists) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / layout.lists).mkdir(parents=True)
    (folder / "all_class.txt").write_text("".join(f"{name}\n" for name in found.keys), encoding="utf-8")
    columns = list(dict.fromkeys(["original", "manual", layout.name_column]))
    rows = [[original, *[key] * (len(columns) - 1)] for original, key in found.keys.items()]
    _write_csv(folder / layout.names_file, columns, rows)
    union = [*found.classes["stage_1_train"], *found.classes["stage_1_val_unseen"]]
    for split in (*SPLITS, UNION):
        classes = union if split == UNION else found.classes[split]
        samples = found.union() if split == UNION else found.samples[split]
        (folder / layout.lists / f"{split}.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        listed = [[sample, name] for name, of in samples.items() for sample in of]
        _write_csv(folder / layout.lists / f"{split}.csv", ["filename", "label"], listed)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


class _Writer:
    """Writes the features of a folder."""

    def __init__(self, folder: Path, card: Card, lists: _Lists, drop: Drop, seed: int) -> None:
        layout = card.features["clip_clap"].layout
        assert layout is not None
        self._folder, self._layout, self._lists, self._drop, self._seed = folder, layout, lists, drop, seed
        self._dims = card.features["clip_clap"].text_parts
        self._names = sorted(lists.keys)
        self._ids = {folded(name): label for label, name in enumerate(self._names)}
        self.text = {
            m: {key: self._unit(n, m, key) for key in lists.keys.values()} for m, n in self._dims.items()
        }

    def _unit(self, dim: int, *key: object) -> np.ndarray[Any, Any]:
        rng = np.random.default_rng(zlib.crc32("/".join(map(str, (self._seed, *key))).encode()))
        x = rng.normal(size=dim)
        return (x / np.linalg.norm(x)).astype(np.float32)

    def _vector(self, modality: Any, name: str, sample: str) -> np.ndarray[Any, Any]:
        """The vector of a clip; float16 for video, as published."""
        key = self._lists.keys[self._names[self._ids[folded(name)]]]
        x = self.text[modality][key] + NOISE * self._unit(self._dims[modality], modality, sample)
        return (x / np.linalg.norm(x)).astype(np.float16 if modality == "video" else np.float32)

    def _classes(self, split: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Each class of a split: its name, all listed samples, and those with features."""
        samples = self._lists.union() if split == UNION else self._lists.samples[split]
        parts = DEVELOPMENT_SPLITS if split == UNION else (split,)
        for name, listed in samples.items():
            gone = {
                self._lists.samples[part][name][i] for part in parts for i in self._drop.get((part, name), ())
            }
            yield name, listed, [sample for sample in listed if sample not in gone]

    def write_classes(self) -> None:
        """Class files of all splits, and the two text files."""
        base = self._folder / "features" / self._layout.folder
        (base / "text").mkdir(parents=True, exist_ok=True)
        for modality, name in self._layout.text_files.items():
            content: Any = self.text[modality]
            np.save(base / "text" / name, content, allow_pickle=True)
        for split in (*SPLITS, UNION):
            for modality in self._dims:
                (base / modality / split).mkdir(parents=True, exist_ok=True)
            for name, listed, kept in self._classes(split):
                names = [np.bytes_(sample.encode()) for sample in listed]
                for modality in self._dims:
                    vectors = [self._vector(modality, name, sample) for sample in kept]
                    content = {"features": vectors, "fps": [25] * len(vectors), "video_names": names}
                    (base / modality / split / f"{name}.pkl").write_bytes(pickle.dumps(content))

    def write_caches(self) -> None:
        """The caches, train_val included, which nothing reads."""
        base = self._folder / self._layout.cache
        base.mkdir(parents=True, exist_ok=True)
        files = {**self._layout.cache_files, f"train_val{self._layout.lists}.pkl": (UNION,)}
        for file, splits in files.items():
            (base / file).write_bytes(pickle.dumps(self._cache(splits)))

    def _cache(self, splits: Sequence[str]) -> dict[str, Any]:
        classes = [found for split in splits for found in reversed(list(self._classes(split)))]
        labels = torch.tensor([self._ids[folded(name)] for name, _, kept in classes for _ in kept])
        # The loader takes the first names, also if a clip before the last one was dropped.
        names = [str(sample.encode()) for _, listed, kept in classes for sample in listed[: len(kept)]]
        common = {"target": labels, "url": np.array(names), "fps": [25] * len(names)}
        content: dict[str, Any] = {
            modality: {
                "data": [
                    self._vector(modality, name, sample) for name, _, kept in classes for sample in kept
                ],
                **common,
            }
            for modality in ("audio", "video")
        }
        keys = sorted(set(self._lists.keys.values()))
        owner = {self._lists.keys[name]: label for label, name in enumerate(self._names)}
        rows = [np.concatenate([self.text[modality][key] for modality in self._dims]) for key in keys]
        target = torch.tensor([owner[key] for key in keys])
        return content | {"text": {"data": rows, "target": target, "url": np.array([]), "fps": []}}
