"""The recipes of docs/how-to/datasets.md, with the published lists and synthetic videos under the real names.

An extractor that reads times from the videos replaces the networks: the features of each sample are its
seconds.
"""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from extract.media.test_segments import annotate
from support.checkout import PROJECT
from support.in_process import extract_here
from support.videos import Clip, clock, write_video

from benchmark.cli import app
from benchmark.data.store import SPLITS, FeatureStore
from benchmark.extract import devices, extractor

GUIDE = PROJECT / "docs" / "how-to" / "datasets.md"
SEGMENTS = PROJECT / "docs" / "explanation" / "activitynet-segments.md"
FOLDERS = {"ucf": "UCF", "vggsound": "VGGSound", "activitynet": "ActivityNet"}
TELLS = Clip(picture=clock, rise=100.0, options={"g": "60"})
"""Pictures say their time, the tone is 440 Hz at first and rises by 100 a second."""

PLUGIN = '''
import numpy as np
from benchmark.extract.extractor import Clip, Extractor, Sound, register

@register
class Reads(Extractor):
    """Reads the time from frames and audio of `clock`, in features of the size of cls."""

    name, title, version = "cls", "Reads the time", 1
    audio_dim, video_dim, audio_seconds, video_seconds = 128, 4096, 0.96, 0.64
    sound, clip, weights_files = Sound(16_000, 15_360, 15_360), Clip(25, 16, True), ()
    expected = random = classmethod(lambda cls, weights: {})

    def prepare(self, frame):
        third = len(frame) // 3
        return np.float32([frame[:third].mean(), frame[-third:].mean(), 0])[:, None, None]

    def audio(self, waveforms):
        power = np.abs(np.fft.rfft(waveforms)) ** 2
        hertz = power @ np.fft.rfftfreq(waveforms.shape[1], 1 / 16_000) / power.sum(1)
        return self._wide((hertz - 440) / 100, self.audio_dim)  # seconds at the middle of the window

    def video(self, clips):
        whole, fraction = np.round((clips[:, 0, 0, 0, 0] - 20) / 10), (clips[:, 0, 1, 0, 0] - 20) / 200
        return self._wide(whole + fraction, self.video_dim)  # seconds of the first frame

    def _wide(self, seconds, dim):
        return np.pad(seconds[:, None], ((0, 0), (0, dim - 1))).astype(np.float32)
'''


class Recipe:
    """The published lists of a dataset, a folder for its videos, and its commands in the guide."""

    def __init__(self, name: str, shared: Path, root: Path) -> None:
        self.name, self.root, self.videos = name, root, root / "videos"
        self.lists = shared / "official" / "avgzsl_benchmark_datasets" / FOLDERS[name]
        self.plugin = root / "reads.py"
        self.plugin.write_text(PLUGIN)
        self.results = root / "data" / f"{name}-cls.h5.extract"
        self.store = root / "data" / f"{name}-cls.h5"
        self._listed: dict[str, dict[str, str]] = {}

    def listed(self, split: str) -> dict[str, str]:
        """Sample -> class, of the classes that the split has."""
        if split in self._listed:
            return self._listed[split]
        lists = self.lists / "class-split" / "cls_split"
        classes = {line.strip().casefold() for line in (lists / f"{split}.txt").read_text().splitlines()}
        with open(lists / f"{split}.csv", newline="") as file:
            rows = {row["filename"]: row["label"] for row in csv.DictReader(file)}
        self._listed[split] = {sample: label for sample, label in rows.items() if label.casefold() in classes}
        return self._listed[split]

    def chosen(self, wanted: Callable[[str], bool] = lambda sample: True, count: int = 2) -> dict[str, str]:
        """The first few samples of each split, and their classes."""
        found: dict[str, str] = {}
        for split in SPLITS:
            fitting = [(sample, label) for sample, label in self.listed(split).items() if wanted(sample)]
            found |= dict(fitting[:count])
        return found

    def extract(self, **places: Path) -> int:
        """Give the command of the guide, with other places, and trial weights; its exit code."""
        lines = [line for line in GUIDE.read_text().splitlines() if f" extract videos {self.name} " in line]
        words = shlex.split(lines[0])[2:]
        for option, place in {"videos": self.videos, "lists": self.lists, **places}.items():
            words[words.index(f"--{option}") + 1] = str(place)
        at = words.index("--weights")
        words[at : at + 2] = ["--random-weights", "--plugin", str(self.plugin)]
        return give(*words, "--data-root", self.root / "data")

    def rows(self) -> dict[str, str]:
        """Sample -> what, of the table of problems."""
        with open(self.results / "problems.csv", newline="") as file:
            return {row["sample"]: row["what"] for row in csv.DictReader(file)}

    def begins(self, sample: str) -> tuple[float, float]:
        """Seconds at which the audio and the frames of a sample begin in its video, by its features."""
        with h5py.File(self.results / f"{sample}.h5") as f:
            return float(f["audio"][0, 0]) - 0.48, float(f["video"][0, 0])


def give(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        app.main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture
def recipe(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Recipe:
    monkeypatch.setattr(extractor, "EXTRACTORS", dict(extractor.EXTRACTORS))
    monkeypatch.setattr(devices, "extract_on", extract_here)
    return Recipe(request.param, shared, tmp_path)


def check(made: Recipe, begins: dict[str, float]) -> None:
    """Every sample with a video has features of its seconds, and the table of problems has all others."""
    store = FeatureStore(made.store)
    assert set(store.tables().ids) == begins.keys()
    missing = {sample for split in SPLITS for sample in made.listed(split)} - begins.keys()
    rows = made.rows()
    assert missing == {
        sample for sample in rows if "/" not in sample
    }  # the others are classes without a sample
    for sample, second in begins.items():
        assert made.begins(sample) == pytest.approx((second, second), abs=0.06)


@pytest.mark.parametrize("recipe", ["ucf"], indirect=True)
def test_ucf101(recipe: Recipe) -> None:
    chosen = recipe.chosen()
    chosen["v_HandStandPushups_g01_c01"] = "HandstandPushups"
    film = replace(TELLS, seconds=1.1, codec="mpeg4", sound="libmp3lame", size=(320, 240))
    for sample, label in chosen.items():
        write_video(recipe.videos / label / f"{sample}.avi", film)
    write_video(
        recipe.videos / "Billiards" / "v_Billiards_g01_c01.avi", film
    )  # a class of UCF101 that no list names
    assert recipe.extract() == 1
    check(recipe, dict.fromkeys(chosen, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["vggsound"], indirect=True)
def test_vggsound(recipe: Recipe) -> None:
    """Clips and whole videos, of both kinds some whose names begin with a dash."""
    videos = Counter(sample[:-7] for split in SPLITS for sample in recipe.listed(split))

    def soon(sample: str) -> bool:
        return 0 < int(sample[-6:]) < 9 and videos[sample[:-7]] == 1

    plain = recipe.chosen(lambda sample: soon(sample) and sample[0] != "-", 1)
    dashed = recipe.chosen(lambda sample: soon(sample) and sample[0] == "-", 1)
    begins = {}
    for number, sample in enumerate([*plain, *dashed]):
        second = float(sample[-6:])
        if number % 2:
            write_video(recipe.videos / f"{sample}.mp4", replace(TELLS, seconds=10, begins=second))
        else:
            write_video(recipe.videos / "whole" / f"{sample[:-7]}.mp4", replace(TELLS, seconds=second + 11))
        begins[sample] = second
    assert recipe.extract() == 1
    check(recipe, begins)
    with h5py.File(recipe.store) as f:
        assert set(np.diff(f["audio/offsets"][:])) == {10}
        assert set(np.diff(f["video/offsets"][:])) == {16}  # of 250 frames, the last one padded
    store = [recipe.name, "--features", "cls", "--data-root", recipe.root / "data"]
    assert give("data", "verify", *store) == 2  # nearly all classes are without a sample
    assert give("data", "audit", *store, "--out", recipe.root / "audit") == 0


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["activitynet"], indirect=True)
def test_activitynet(recipe: Recipe) -> None:
    names = recipe.lists / "class-split" / "activitynet_w2v_class_names.csv"
    with open(names, newline="") as file:
        manual = {row["original"]: row["manual"] for row in csv.DictReader(file)}
    chosen = recipe.chosen(lambda sample: sample.endswith(("_0", "_2")), 3)
    chosen |= recipe.chosen(lambda sample: sample[0] == "-", 1)
    begins: dict[str, float] = {}
    annotations: dict[str, list[tuple[float, float, str]]] = {}
    for number, (sample, label) in enumerate(chosen.items()):
        video, k = re.fullmatch(r"(.+)_(\d+)", sample).groups()  # type: ignore[union-attr]
        segments = annotations.setdefault(video, [(0.0, 0.5, manual[label])] * 30)
        segments[int(k)] = (begins.setdefault(sample, 1.24 + 0.1 * number), 4.0, manual[label])
        name, end = (f"v_{video}", "mp4") if number % 3 else (video, "mkv")
        write_video(recipe.videos / "train" / f"{name}.{end}", replace(TELLS, seconds=4.5))
    behind, absent, *_ = begins
    begins.pop(behind)
    annotations[behind[:11]][int(behind[12:])] = (300.0, 310.0, manual[chosen[behind]])
    begins.pop(absent)
    annotations[absent[:11]] = annotations[absent[:11]][:0]
    file = annotate(recipe.root / "activity_net.v1-3.min.json", **annotations)
    assert recipe.extract(segments=file) == 1
    check(recipe, {sample: second for sample, second in begins.items() if sample[:11] != absent[:11]})
    rows = recipe.rows()
    assert rows[behind] == "no frame from 300 s to 310 s: its frames end at 4.5 s"
    assert rows[absent].startswith("activity_net.v1-3.min.json has no segment")


@pytest.mark.parametrize(
    ("recipe", "count"), [("vggsound", 75_882), ("activitynet", 13_453)], indirect=["recipe"]
)
def test_addresses_of_all_videos_are_taken_from_the_lists(recipe: Recipe, count: int) -> None:
    line = next(
        x for x in GUIDE.read_text().splitlines() if x.startswith("grep") and f"/{FOLDERS[recipe.name]}/" in x
    )
    command = line.replace(
        f"/data/AVCA-GZSL/avgzsl_benchmark_datasets/{FOLDERS[recipe.name]}", shlex.quote(str(recipe.lists))
    )
    subprocess.run(["bash", "-c", command], cwd=recipe.root, check=True)
    found = (recipe.root / "videos.txt").read_text().splitlines()
    assert len(found) == count
    assert f"{count:,} videos" in GUIDE.read_text()
    assert all(re.fullmatch(r"https://www\.youtube\.com/watch\?v=[\w-]{11}", address) for address in found)


@pytest.mark.parametrize("recipe", ["activitynet"], indirect=True)
def test_the_documents_have_how_segments_are_numbered(recipe: Recipe) -> None:
    numbers: dict[str, set[int]] = {}
    classes: dict[str, set[str]] = {}
    for path in (recipe.lists / "class-split" / "cls_split").glob("stage_[12]_t*.csv"):
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                video, k = row["filename"].rsplit("_", 1)
                numbers.setdefault(video, set()).add(int(k))
                classes.setdefault(video, set()).add(row["label"])
    least, last = (Counter(f(of) for of in numbers.values()) for f in (min, max))
    unbroken = sum(of == set(range(len(of))) for of in numbers.values())
    told = [
        f"{least[0]:,}; the least number of the others is 1 ({least[1]} videos) or 2 ({least[2]})",
        f"{unbroken:,} |",
        f"{last[0]:,}, {last[1]:,}, {last[2]}, {last[3]}, {sum(last[k] for k in last if k > 3)}; the "
        f"highest is {max(last)}",
        f"have segments of two classes | {sum(len(of) == 2 for of in classes.values())},",
    ]
    assert [text for text in told if text not in SEGMENTS.read_text()] == []
    assert least.keys() == {0, 1, 2}
