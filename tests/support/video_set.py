"""A small dataset of real videos: lists in the official layout, word vectors, a card, and a video of each
sample."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from support.videos import Clip, write_video

from benchmark.data.cards import Card
from benchmark.data.store import DEVELOPMENT_SPLITS

NAMES = ["Archery", "Bowling", "Diving", "Fencing"]
CLASSES = {
    "stage_1_train": NAMES[:2],
    "stage_1_val_seen": NAMES[:2],
    "stage_1_val_unseen": NAMES[2:3],
    "stage_2_test_seen": NAMES[:3],
    "stage_2_test_unseen": NAMES[3:],
}
KINDS = [  # file name's end and what is in the file; samples take turns
    (".mp4", Clip()),
    (".avi", Clip(codec="mpeg4", sound="libmp3lame", rate=30)),
    (".webm", Clip(codec="libvpx", sound="libopus", sound_rate=48_000, rate=15, size=(96, 64))),
    (
        ".mov",
        Clip(codec="mjpeg", pixels="yuvj420p", sound="pcm_s16le", sound_rate=22_050, layout="mono", rate=24),
    ),
    (".mkv", Clip(rate=60, size=(48, 64))),
]
FEATURES = {  # sizes and seconds per step of audio and video
    "tiny": ((2, 0.5), (3, 0.5)),
    "cls": ((128, 0.96), (4096, 0.64)),
    "main": ((512, 1), (512, 1)),
    "clip_clap": ((1024, 1), (512, 1)),
}
TEXT_PARTS = {"clip_clap": {"video": 512, "audio": 1024}}
"""Parts of class embeddings in the space of the features; those of other feature sets are word vectors."""
LAYOUT = {
    "lists": "clip_clap_split",
    "names_file": "names.csv",
    "folder": "clip_clap_features",
    "text_files": {"video": "image_text.npy", "audio": "audio_text.npy"},
    "cache": "caches",
    "cache_files": {"all.pkl": list(CLASSES)},
}
"""Names in the published folder of clip_clap."""


class VideoSet:
    """The folder ``root`` with ``lists/`` and ``videos/``; ``samples`` has the split and class of each
    sample, ``quirks`` the published quirks that the card names.

    Args:
        root: where it lies.
        each: samples of each class in each split.
        seconds: length of the videos.
    """

    def __init__(self, root: Path, each: int = 1, seconds: float = 1.1) -> None:
        self.root, self.lists, self.videos = root, root / "lists", root / "videos"
        self.seconds = seconds
        self.quirks: list[str] = []
        self.samples = {
            f"v_{name}_g{number:02d}_c{i:02d}": (split, name)
            for number, (split, names) in enumerate(CLASSES.items())
            for name in names
            for i in range(each)
        }
        self.files: dict[str, Path] = {}

    def copied(self, root: Path) -> VideoSet:
        """The same data in another folder, whose files may be changed."""
        shutil.copytree(self.root, root)
        copy = VideoSet(root, seconds=self.seconds)
        copy.samples = dict(self.samples)
        copy.files = {sample: root / path.relative_to(self.root) for sample, path in self.files.items()}
        return copy

    def write(self) -> None:
        """Everything but broken or silent videos, which a test makes of these."""
        self._write_lists()
        for number, sample in enumerate(self.samples):
            end, clip = KINDS[number % len(KINDS)]
            self.write_video(sample, end, replace(clip, tone=200.0 + 50 * number))

    def write_video(self, sample: str, end: str, clip: Clip) -> Path:
        """Write the video of a sample, in place of the one that is there."""
        if sample in self.files:
            self.files[sample].unlink()

        def picture(seconds: float) -> NDArray[np.uint8]:
            rng = np.random.default_rng([len(sample), *sample.encode()])
            moving = np.roll(rng.integers(0, 255, (12, 16, 3), np.uint8), round(10 * seconds), 1)
            return np.kron(moving, np.ones((4, 4, 1), np.uint8))

        path = self.videos / self.samples[sample][1] / f"{sample}{end}"
        self.files[sample] = write_video(path, replace(clip, seconds=self.seconds, picture=picture))
        return self.files[sample]

    def _write_lists(self) -> None:
        lists = self.lists / "class-split"
        lists.mkdir(parents=True)
        (lists / "all_class.txt").write_text("\n".join(NAMES))
        self._write_csv(
            lists / "names.csv", ["original", "manual"], [(name, name.casefold()) for name in NAMES]
        )
        for features in FEATURES:
            folder = lists / f"{features}_split"
            folder.mkdir()
            for split, names in CLASSES.items():
                (folder / f"{split}.txt").write_text("\n".join(names))
                rows = [(sample, name) for sample, (of, name) in self.samples.items() if of == split]
                self._write_csv(folder / f"{split}.csv", ["filename", "label"], rows)
            union = [
                (sample, name) for sample, (of, name) in self.samples.items() if of in DEVELOPMENT_SPLITS
            ]
            (folder / "stage_2_train.txt").write_text("\n".join(NAMES[:3]))
            self._write_csv(folder / "stage_2_train.csv", ["filename", "label"], union)
        rng = np.random.default_rng(0)
        vectors = {name.casefold(): rng.normal(size=300).astype("f4") for name in NAMES}
        (self.lists / "w2v_features").mkdir()
        np.save(self.lists / "w2v_features" / "vectors.npy", vectors, allow_pickle=True)  # type: ignore[arg-type]

    @staticmethod
    def _write_csv(path: Path, header: list[str], rows: list[tuple[str, str]]) -> None:
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    def card(self) -> Card:
        def features(name: str) -> dict[str, object]:
            (audio, audio_seconds), (video, video_seconds) = FEATURES[name]
            return {
                "description": name,
                "audio": {"extractor": name, "dim": audio, "seconds": audio_seconds},
                "video": {"extractor": name, "dim": video, "seconds": video_seconds},
                "text_dim": sum(TEXT_PARTS[name].values()) if name in TEXT_PARTS else 300,
                "text_parts": TEXT_PARTS.get(name, {}),
                "layout": LAYOUT if name in TEXT_PARTS else None,
                "unit_length": name in TEXT_PARTS,
                "published_quirks": self.quirks,
            }

        return Card.model_validate(
            {
                "name": "sports",
                "title": "Sports",
                "kind": "real",
                "description": "Generated videos.",
                "default_features": "tiny",
                "features": {name: features(name) for name in FEATURES},
                "official": {"folder": "Sports", "names_file": "names.csv", "text_file": "vectors.npy"},
            }
        )
