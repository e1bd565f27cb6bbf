"""Extraction of a folder of real videos: the store, problems that stop nothing, shards, and going on after a kill."""

from __future__ import annotations

import csv
import errno
import gc
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from support.checkout import PROJECT
from support.fasttext_model import Model
from support.in_process import extract_here
from support.needs import encoders
from support.video_set import KINDS, VideoSet
from support.videos import Clip, write_video

from benchmark.cli import app
from benchmark.data import cards
from benchmark.data.checks.verify import verify_store
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import SPLITS, FeatureStore
from benchmark.errors import Unavailable, UsageError
from benchmark.extract import devices, extraction
from benchmark.extract.extraction import Shard, chosen_quirks
from benchmark.extract.extractor import Extractor
from benchmark.extract.results import ResultFolder
from benchmark.extract.sets.cls import Cls
from benchmark.extract.sets.main import Main
from benchmark.extract.sets.packaged import Packaged
from benchmark.untrusted.arrays import load_pickle


class Command:
    """The command ``extract`` on a set of videos with the tiny extractor, in the process of the test unless said otherwise."""

    def __init__(
        self, video_set: VideoSet, tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch, *, processes: bool = False
    ) -> None:
        self.video_set, self.tiny, self.data = video_set, tiny, data
        self.store = data / "sports-tiny.h5"
        self.results = data / "sports-tiny.h5.extract"
        monkeypatch.setattr(cards, "load_cards", lambda: {"sports": video_set.card()})
        if not processes:
            monkeypatch.setattr(devices, "extract_on", extract_here)

    def words(self, *more: object, weights: bool = True) -> list[str]:
        chosen = ["--random-weights"] if weights else []
        places = ["--videos", self.video_set.videos, "--lists", self.video_set.lists, "--data-root", self.data]
        return [str(w) for w in ("extract", "sports", *places, "--plugin", self.tiny, *chosen, *more)]

    def __call__(self, *more: object, code: int = 0, weights: bool = True) -> dict[str, Any]:
        """Give the command, check its exit code, and give what ``--json`` says."""
        file = self.data.parent / "out.json"
        file.unlink(missing_ok=True)
        with pytest.raises(SystemExit) as ended:
            app.main(self.words("--json", file, *more, weights=weights))
        assert (ended.value.code or 0) == code
        content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
        return content

    def problems(self, name: str = "problems.csv") -> dict[str, tuple[str, bool]]:
        """Sample -> what, and whether it is left out, of the table's file."""
        with open(self.results / name, newline="") as file:
            return {row["sample"]: (row["what"], row["left_out"] == "True") for row in csv.DictReader(file)}


def in_video(tiny: Path, *lines: str) -> None:
    """Let the plug-in's network of pictures begin with these lines."""
    head = "    def video(self, clips):  # [N, length, 3, H, W] -> [N, video_dim]\n"
    content = tiny.read_text()
    assert head in content
    tiny.write_text(content.replace(head, head + "".join(f"        {line}\n" for line in lines)))


@pytest.fixture
def command(video_set: VideoSet, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(video_set, tiny, tmp_path / "data", monkeypatch)


def test_videos_of_all_kinds_become_a_store_without_faults(command: Command) -> None:
    said = command()
    assert (said["extracted"], said["resumed"], said["problems"]) == (9, 0, [])
    store = FeatureStore(command.store)
    assert verify_store(command.store, command.video_set.card()) == []
    assert store.digest == said["digest"]
    assert store.generated
    assert set(store.tables().ids) == command.video_set.samples.keys()
    for sample, split, label in zip(store.tables().ids, store.tables().splits, store.tables().labels, strict=True):
        assert (SPLITS[split], store.tables().class_names[label]) == command.video_set.samples[sample]
    with h5py.File(command.store) as f:  # 1.1 s: two steps of sound, two or three of pictures, the last one padded
        assert set(np.diff(f["audio/offsets"][:])) == {2}
        assert set(np.diff(f["video/offsets"][:])) <= {2, 3}


def test_features_are_those_of_the_video(command: Command) -> None:
    sample = next(iter(command.video_set.samples))
    command.video_set.seconds = 1.0
    command.video_set.write_video(sample, ".mov", Clip(codec="mjpeg", pixels="yuvj420p", sound="pcm_s16le"))
    command()
    with h5py.File(command.results / f"{sample}.h5") as f:
        audio, video = f["audio"][:], f["video"][:]
    loudness = 0.375 * 2 / np.pi  # mean of a rectified sine, of channels of 0.5 and 0.25
    np.testing.assert_allclose(audio, [[loudness, 2 * loudness]] * 2, rtol=1e-2)
    rng = np.random.default_rng([len(sample), *sample.encode()])
    np.testing.assert_allclose(video, [rng.integers(0, 255, (12, 16, 3), np.uint8).mean((0, 1)) / 255] * 2, atol=0.02)


def test_word_vectors_come_from_a_given_model(command: Command) -> None:
    (command.video_set.lists / "w2v_features" / "vectors.npy").unlink()
    model = Model(["archery"], dim=300)
    said = command("--vectors", model.write(command.data.parent / "wiki.bin"))
    store = FeatureStore(command.store)
    assert store.tables().vector_names == ["archery", "bowling", "diving", "fencing"]
    for name, vector in zip(store.tables().vector_names, store.tables().vectors, strict=True):
        expected = model.vector(name)
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), rtol=1e-5, atol=1e-6)
    assert store.provenance["word_vectors"]["file"] == "wiki.bin"
    again = command("--vectors", Model(["archery"], dim=300, seed=1).write(command.data.parent / "wiki.bin"))
    assert (again["resumed"], again["digest"] == said["digest"]) == (9, False)


def test_vectors_that_cannot_be_read_are_told_before_any_video(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("--vectors", command.data.parent / "wiki.bin", code=2)
    assert "no such file" in capsys.readouterr().err
    command("--vectors", Model(["archery"], quantised=True).write(command.data.parent / "wiki.bin"), code=2)
    assert "a quantised fastText model" in " ".join(capsys.readouterr().err.split())
    assert not command.results.exists()


def test_problems_are_told_and_stop_nothing(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    made = command.video_set
    extra = {
        f"v_Archery_g00_c{i}": ("stage_1_train", "Archery") for i in ("silent", "empty", "foreign", "short", "cut", "missing")
    }
    made.samples |= extra
    for path in (made.lists / "class-split" / "tiny_split").glob("stage_[12]_train.csv"):
        path.write_text(path.read_text().rstrip() + "".join(f"\n{sample},Archery" for sample in extra) + "\n")
    silent, empty, foreign, short, cut, missing = extra
    made.write_video(silent, ".mp4", Clip(sound=None))
    (made.videos / f"{empty}.mp4").write_bytes(b"")
    (made.videos / f"{foreign}.avi").write_text("<html>not found</html>" * 100)
    write_video(made.videos / f"{short}.mp4", Clip(seconds=0.3))
    content = made.write_video(cut, *KINDS[1]).read_bytes()
    made.files[cut].write_bytes(content[: len(content) * 2 // 3])
    doubled = next(iter(made.samples))
    write_video(made.videos / "zz" / f"{doubled}.mp4", Clip(seconds=0.3))
    said = command(code=1)
    told = command.problems()
    assert told[silent] == ("no sound", True)
    assert told[empty][0].startswith("cannot be opened")
    assert told[foreign][0].startswith("cannot be opened")
    assert told[short] == ("too short: audio of less than one step", True)
    assert "ends after" in told[cut][0]
    assert not told[cut][1]
    assert told[missing] == ("no video of this name", True)
    assert told[doubled] == (f"not read, of the same name: zz/{doubled}.mp4", False)
    assert len(said["problems"]) == len(told) + ("audio ends" in str(said["problems"]) and told[cut][0].startswith("audio"))
    assert set(FeatureStore(command.store).tables().ids) == made.samples.keys() - {silent, empty, foreign, short, missing}
    assert command(code=1)["digest"] == said["digest"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        app.main(command.words())
    screen = capsys.readouterr().out
    assert "no video of this name" in screen
    assert "is there already" in screen


def test_silent_videos_get_zero_sound_if_the_user_says_so(command: Command) -> None:
    sample = next(iter(command.video_set.samples))
    command.video_set.write_video(sample, ".mp4", Clip(sound=None))
    said = command("--no-sound", "zeros")
    assert command.problems() == {sample: ("no sound: zero sound instead", False)}
    assert len(FeatureStore(command.store).tables().ids) == 9
    with h5py.File(command.results / f"{sample}.h5") as f:
        np.testing.assert_array_equal(f["audio"][:], np.zeros((len(f["video"]), 2)))
    skipped = command(code=1)
    assert (skipped["extracted"], skipped["resumed"]) == (1, 8)  # the others do not depend on it
    assert command.problems()[sample] == ("no sound", True)
    assert command.problems()["stage_1_train/Archery"] == ("class without samples", True)
    assert command("--no-audio", "zeros")["digest"] == said["digest"]


def test_a_split_without_any_sample_is_no_store(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for sample, (split, _) in command.video_set.samples.items():
        if split == "stage_2_test_unseen":
            command.video_set.files[sample].unlink()
    command(code=2)
    assert "stage_2_test_unseen would have no sample" in capsys.readouterr().err.replace("\n", " ")
    assert not command.store.exists()
    assert len(command.problems()) == 1


def test_what_is_done_is_not_done_again(command: Command) -> None:
    first = command()
    again = command()
    assert (again["extracted"], again["resumed"], again["digest"]) == (0, 9, first["digest"])


def test_a_changed_video_is_extracted_again(command: Command) -> None:
    first = command()
    sample = next(iter(command.video_set.samples))
    command.video_set.write_video(sample, ".mp4", Clip(sound_rate=32_000, tone=1000))
    second = command()
    assert (second["extracted"], second["resumed"]) == (1, 8)
    assert second["digest"] != first["digest"]


def test_other_weights_extract_everything_again(command: Command, tmp_path: Path) -> None:
    command()
    torch.save({"factors": torch.tensor([3.0, 4.0])}, tmp_path / "scale.pt")
    said = command("--weights", tmp_path, weights=False)
    assert (said["extracted"], said["resumed"]) == (9, 0)
    store = FeatureStore(command.store)
    assert not store.generated
    assert len(store.provenance["weights"]["scale"]["sha256"]) == 64


def test_a_trial_does_not_replace_real_features(command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"factors": torch.tensor([3.0, 4.0])}, tmp_path / "scale.pt")
    real = command("--weights", tmp_path, weights=False)["digest"]
    command(code=2)
    assert "which a trial must not replace" in capsys.readouterr().err.replace("\n", " ")
    assert FeatureStore(command.store).digest == real
    command("--data-root", tmp_path / "trials")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(command: Command, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    command("--device", device, code=2)
    assert f"--device {device}: cannot be used" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_done(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    compute, begun = extraction._compute, 0

    def interrupted(*arguments: Any) -> bool:
        nonlocal begun
        begun += 1
        if begun == 4:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(extraction, "_compute", interrupted)
    command(code=130)
    assert not command.store.exists()
    assert command()["resumed"] == 3


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SystemExit("out of memory")])
def test_a_video_on_which_a_library_fails_stops_nothing_and_is_tried_again(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    compute = extraction._compute
    bad = next(iter(command.video_set.samples))

    def failing(video: Path, *arguments: Any) -> bool:
        if video.stem == bad:
            raise error
        return compute(video, *arguments)

    monkeypatch.setattr(extraction, "_compute", failing)
    assert command(code=1)["extracted"] == 8
    assert command.problems()[bad] == (f"{type(error).__name__}: out of memory; tried again next time", True)
    command(code=1)
    assert command.problems()[bad] == (f"{type(error).__name__}: out of memory (2 times); tried again next time", True)
    monkeypatch.setattr(extraction, "_compute", compute)
    again = command()
    assert (again["extracted"], again["resumed"]) == (1, 8)


def test_a_video_that_fails_each_time_does_not_prevent_the_merge(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = next(iter(command.video_set.samples))
    command.video_set.files[bad].unlink()
    command.video_set.files[bad].symlink_to("nowhere.mp4")  # cannot even be looked at
    codes = [command("--shard", f"{i}/2", code=code)["extracted"] for i, code in ((1, 1), (2, 0))]
    assert codes == [4, 4]
    said = " ".join(capsys.readouterr().out.split())
    assert "shard 1/2 is done but for 1 videos that failed in a way that may not last: the same command tries them" in said
    merged = command("--merge", code=1)
    assert (merged["extracted"], merged["resumed"]) == (0, 8)
    what, left_out = command.problems()[bad]
    why = "cannot be read: a link to nowhere.mp4, which is not there; mount its disk, or remove the link"
    assert (what, left_out) == (f"{why}; tried again next time", True)
    assert set(FeatureStore(command.store).tables().ids) == command.video_set.samples.keys() - {bad}
    assert "without --merge, tries them again" in " ".join(capsys.readouterr().out.split())


def test_results_that_cannot_be_read_for_now_are_not_extracted_again(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = next(iter(command.video_set.samples))
    results = ResultFolder(command.results, {}, "skip")
    video = command.video_set.files[sample]
    assert results.read(sample, video, video.parent) is None  # there is none yet
    results.folder.mkdir(parents=True)
    results.path(sample).write_bytes(b"damaged")
    assert results.read(sample, video, video.parent) is None

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(Unavailable, match=r"too many files are open; raise the limit \(ulimit -n\)"):
        results.read(sample, video, video.parent)


def test_a_file_that_an_extractor_misses_is_no_fault_of_the_results(command: Command) -> None:
    bad = next(iter(command.video_set.samples))
    in_video(command.tiny, "if clips.max() > 0.99:", "    open('no such table')")
    write_video(command.video_set.files[bad], Clip(picture=lambda seconds: np.full((48, 64, 3), 255, np.uint8)))
    assert command(code=1)["extracted"] == 8
    what = "FileNotFoundError: [Errno 2] No such file or directory: 'no such table'; tried again next time"
    assert command.problems()[bad] == (what, True)


def test_a_full_disk_is_told_in_a_line_and_leaves_nothing_behind(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)  # where HDF5 complains
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (100, 3000):  # in the first file, at once and later
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            command(code=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert f"{command.results}: cannot be written (File too large); make room" in capsys.readouterr().err.replace("\n", "")
        assert not list(command.results.glob("*.h5*"))
        assert not list(command.results.glob(".*.partial"))
    gc.collect()
    assert ignored == []
    assert command()["extracted"] == 9


def test_features_that_are_not_finite_are_not_computed_again(command: Command) -> None:
    bad = next(iter(command.video_set.samples))
    command.video_set.write_video(bad, ".mov", Clip(codec="mjpeg", pixels="yuvj420p", sound="pcm_f32le", tone=float("nan")))
    assert command(code=1)["extracted"] == 9
    assert command.problems()[bad] == ("audio features are not finite", True)
    assert command(code=1)["resumed"] == 9


def test_without_weights_nothing_is_extracted(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(code=2, weights=False)
    assert "scale: two factors, usually scale.pt, from nowhere" in capsys.readouterr().err
    assert not command.data.exists()


def test_shards_merge_to_the_store_of_one_extraction(command: Command, tmp_path: Path) -> None:
    digest = command("--work", tmp_path / "whole")["digest"]
    command.store.unlink()
    done = [command("--shard", f"{i}/3")["extracted"] for i in (1, 2)]
    command("--merge", code=2)
    assert not command.store.exists()
    done.append(command("--shard", "3/3")["extracted"])
    assert done == [3, 3, 3]
    said = command("--merge")
    assert (said["digest"], said["extracted"]) == (digest, 0)


def test_each_shard_has_a_table_of_problems_of_its_own(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = sorted(command.video_set.samples)
    for sample in (first, second):
        command.video_set.files[sample].write_bytes(b"")
    for number in (1, 2):
        command("--shard", f"{number}/2", code=1)
        assert f"{5 - number} videos extracted and 1 left out; results of" in " ".join(capsys.readouterr().out.split())
    for number, sample in ((1, first), (2, second)):
        assert command.problems(f"problems-{number}-of-2.csv").keys() == {sample}
    assert not (command.results / "problems.csv").exists()
    command("--merge", code=1)
    assert "7 videos extracted and 2 left out, 9 of them by earlier calls" in " ".join(capsys.readouterr().out.split())
    assert command.problems().keys() >= {first, second}


def test_two_calls_do_not_work_on_the_same_videos(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    held = ResultFolder(command.results, {}, "skip")
    with held.alone(2, 3, []):
        command("--shard", "2/3", code=2)
        said = " ".join(capsys.readouterr().err.split())
        assert f"shard 2/3 is being extracted already (process {os.getpid()} on " in said
        assert said.endswith("wait for that to end, or stop it")
        command(code=2)
        assert "shard 2/3 is being extracted already" in " ".join(capsys.readouterr().err.split())
        assert command("--shard", "1/3")["extracted"] == 3
    with held.alone(1, 1, []):
        command("--shard", "2/3", code=2)
        assert "all videos are being extracted already" in " ".join(capsys.readouterr().err.split())
    assert command()["extracted"] == 6


def test_a_shard_removes_what_killed_processes_left_of_its_own_videos_only(command: Command) -> None:
    mine, other = sorted(command.video_set.samples)[:2]
    left = [command.results / f".{sample}.h5.123.partial" for sample in (mine, other)]
    command.results.mkdir(parents=True)
    for path in left:
        path.touch()
    command("--shard", "1/2")
    assert [path.exists() for path in left] == [False, True]


def test_the_official_layout_is_imported_to_the_same_store(command: Command, tmp_path: Path) -> None:
    made = command.video_set
    split = made.lists / "class-split" / "tiny_split"
    for path in split.iterdir():  # spelt otherwise than in all_class.txt, as in the lists of UCF
        path.write_text(path.read_text().replace(",Bowling", ",BowLing").replace("Bowling\n", "BowLing\n"))
    said = command("--write-official-layout", tmp_path / "official")
    root = tmp_path / "official" / "Sports"
    assert said["official"] == str(root)
    report = import_official(made.card(), "tiny", root, tmp_path / "sequences.h5", form="sequences")
    assert report.digest == said["digest"]
    import_official(made.card(), "tiny", tmp_path / "official", tmp_path / "means.h5", form="means")
    with h5py.File(tmp_path / "means.h5") as means, h5py.File(command.store) as store:
        for modality in ("audio", "video"):
            np.testing.assert_array_equal(means[modality]["means"][:], store[modality]["means"][:])
    found = load_pickle(root / "features" / "tiny_features_non_averaged" / "audio" / "stage_2_train" / "Archery.pkl")
    listed = [s for s, (split, name) in made.samples.items() if name == "Archery" and split.startswith("stage_1")]
    assert sorted(name.decode() for name in found["video_names"]) == sorted(listed)
    assert found["fps"] == [10] * len(listed)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0"])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="such as 3/16"):
        Shard.parse(text)


def test_published_preprocessing_repeats_the_quirks_of_the_card(command: Command) -> None:
    quirks = 'quirks = frozenset({"own_rate", "sixteen_bit"})'
    command.tiny.write_text(command.tiny.read_text().replace("weights_files =", f"{quirks}\n    weights_files =", 1))
    command.video_set.quirks = ["own_rate", "sixteen_bit"]
    sample = next(iter(command.video_set.samples))
    command.video_set.write_video(sample, ".mov", Clip(codec="mpeg4", rate=30, sound="pcm_f32le"))
    features = {}
    for more in ([], ["--published-preprocessing"]):
        official = command.data / f"official{len(more)}"
        assert command(*more, "--write-official-layout", official)["extracted"] == 9
        sequences = official / "Sports" / "features" / "tiny_features_non_averaged" / "video"
        written = load_pickle(sequences / "stage_2_train" / "Archery.pkl")
        assert set(written["fps"]) == {0 if more else 10}  # 0: each video has its own
        with h5py.File(command.results / f"{sample}.h5") as f:
            features[len(more)] = f["audio"][:], f["video"][:]
    assert (len(features[0][1]), len(features[1][1])) == (3, 7)  # 11 pictures at 10 a second, 33 at the video's own rate
    difference = np.abs(features[0][0] - features[1][0]).max()
    assert 0 < difference < 1e-4
    assert FeatureStore(command.store).provenance["published_quirks"] == ["own_rate", "sixteen_bit"]


def test_the_precision_decides_features_and_is_recorded(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command()
    assert "precision" not in FeatureStore(command.store).provenance
    assert command("--precision", "bfloat16", "--device", "cpu")["extracted"] == 9
    assert FeatureStore(command.store).provenance["precision"] == "bfloat16"
    command("--precision", "float16", "--device", "cpu", code=2)
    assert "a CPU is no faster with it" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(("extractor", "named"), [(Main, []), (Main, ["bgr"])])
def test_published_preprocessing_is_refused_where_there_is_none(extractor: type[Extractor], named: list[str]) -> None:
    with pytest.raises(UsageError, match="leave the option out"):
        chosen_quirks(extractor, named, "ucf")


def test_the_cards_name_quirks_that_the_extractor_knows() -> None:
    named = {name: cards.load_cards()[name].features["cls"].published_quirks for name in ("ucf", "vggsound", "activitynet")}
    assert named == {
        "ucf": ("bgr", "inverted", "own_rate", "sixteen_bit"),
        "vggsound": ("bgr", "inverted", "sixteen_bit"),
        "activitynet": ("bgr", "sixteen_bit"),
    }
    for quirks in named.values():
        assert chosen_quirks(Cls, quirks, "any") == set(quirks)


@pytest.mark.parametrize("name", ["cls", "main"])
def test_needed_weights_are_listed_with_names_and_shapes(name: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        app.main(["extract", "weights", name, "--json", str(tmp_path / "out.json")])
    assert not ended.value.code
    listed = {entry["name"]: entry for entry in json.loads((tmp_path / "out.json").read_text())}
    if name == "cls":
        assert listed["c3d"]["tensors"]["fc8.weight"] == [487, 4096]
        assert listed["vggish_pca"]["tensors"] == {"pca_eigen_vectors": [128, 128], "pca_means": [128, 1]}
    else:
        assert listed["selavi"]["tensors"]["audio_network.base.conv1.weight"] == [64, 1, 7, 7]


def test_a_given_file_is_checked_and_its_sha256_shown(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"factors": torch.tensor([3.0, 4.0])}, tmp_path / "scale.pt")
    words = ["extract", "weights", "tiny", "--plugin", str(command.tiny), "--weights", f"scale={tmp_path / 'scale.pt'}"]
    with pytest.raises(SystemExit) as ended:
        app.main([*words, "--json"])
    assert not ended.value.code
    assert len(json.loads(capsys.readouterr().out)[0]["sha256"]) == 64
    torch.save({"factors": torch.zeros(3)}, tmp_path / "scale.pt")
    with pytest.raises(SystemExit) as ended:
        app.main(words)
    assert ended.value.code == 2


# Kills

CHILD = """
import sys, time
from pathlib import Path
from benchmark.cli import app
from benchmark.data import cards
from benchmark.extract import devices, extraction, results
from support.in_process import extract_here

card, stop = cards.Card.model_validate_json(Path(sys.argv[1]).read_text()), sys.argv[2]
cards.load_cards = lambda: {"sports": card}
begun = 0

def wait(place):
    if place == stop:
        print(place, flush=True)
        time.sleep(60)

compute = extraction._compute
def slow(*arguments):
    global begun
    begun += 1
    compute(*arguments)
    wait(f"computed {begun}")

record = results.ResultFolder.record
def recording(self, file, outcome):
    record(self, file, outcome)
    file.flush()
    wait(f"recorded {begun}")

extraction._compute = slow
results.ResultFolder.record = recording
devices.extract_on = extract_here
app.main(sys.argv[3:])
"""


def kill_at(command: Command, stop: str) -> None:
    card = command.data.parent / "card.json"
    card.write_text(command.video_set.card().model_dump_json())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (PROJECT, PROJECT / "tests")))}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(card), stop, *command.words()], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == stop
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


@pytest.mark.slow
def test_an_extraction_killed_three_times_gives_the_same_store(command: Command, tmp_path: Path) -> None:
    undisturbed = command("--work", tmp_path / "undisturbed")["digest"]
    command.store.unlink()
    for stop in ("computed 2", "recorded 3", "computed 1"):
        kill_at(command, stop)
        assert not command.store.exists()
    assert list(command.results.glob(".*.partial"))
    said = command()
    assert (said["digest"], said["resumed"], said["extracted"]) == (undisturbed, 3, 6)
    assert not list(command.results.glob(".*.partial"))


# Memory

WITHOUT_NETWORKS = """
import numpy as np
from benchmark.extract.extractor import Extractor
from benchmark.extract.sets.cls import Cls

class WithoutNetworks(Cls):
    def __init__(self):
        Extractor.__init__(self, {}, frozenset(), "cpu")

    def audio(self, waveforms):
        return np.ones((len(waveforms), self.audio_dim), np.float32)

    def video(self, clips):
        return np.ones((len(clips), self.video_dim), np.float32)

extractor = WithoutNetworks()
"""
PACKAGED = """
import torch
from benchmark.extract.sets.packaged import Packaged
from benchmark.extract.weights_files import load_weights

torch.set_num_threads(1)
extractor = Packaged(load_weights(Packaged, [], random=False).states, frozenset(), "cpu")
"""
LONG = """
import sys
from pathlib import Path
from benchmark.extract import extraction
from benchmark.extract.results import ResultFolder

with ResultFolder(Path(sys.argv[2]), {}, "skip").writing("long") as (file, features):
    extraction._compute(Path(sys.argv[1]), extractor, features, "skip", [])
    status = Path("/proc/self/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    print(features.steps("audio"), features.steps("video"), peak)
"""


def steps_and_peak(extractor: str, clip: Clip, folder: Path) -> tuple[int, int, float]:
    """Steps of sound and of pictures of a video, and the most memory in MB that a process of its own took."""
    path = write_video(folder / f"{clip.seconds:g}.mkv", clip)
    command = [sys.executable, "-c", extractor + LONG, str(path), str(folder / "results")]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    audio, video, peak = map(int, done.stdout.split())
    return audio, video, peak / 1024


@pytest.mark.slow
def test_a_video_of_ten_minutes_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    peaks = []
    for seconds in (20, 600):
        clip = Clip(seconds=seconds, rate=5, size=(320, 240), codec="mpeg4", sound="pcm_s16le")
        audio, video, peak = steps_and_peak(WITHOUT_NETWORKS, clip, tmp_path)
        assert audio == (seconds * 16_000 - 15_600) // 15_360 + 1
        assert video == -(-seconds * 25 // 16)
        peaks.append(peak)
    print(f"peak {peaks[0]:.0f} MB and {peaks[1]:.0f} MB")
    assert peaks[1] < peaks[0] + 25  # its sound is 38 MB as floats, its pictures at 25 a second 3,456 MB


@pytest.mark.slow
def test_nor_does_it_with_real_networks(tmp_path: Path) -> None:
    encoders()
    peaks = []
    for seconds in (20, 400):
        clip = Clip(seconds=seconds, rate=4, codec="mpeg4", sound="pcm_s16le", sound_rate=16_000, layout="mono")
        audio, video, peak = steps_and_peak(PACKAGED, clip, tmp_path)
        assert audio == (seconds * 16_000 - Packaged.sound.window) // Packaged.sound.hop + 1
        assert video == 2 * seconds
        peaks.append(peak)
    print(f"peak {peaks[0]:.0f} MB and {peaks[1]:.0f} MB")
    assert peaks[1] < peaks[0] + 40  # its prepared pictures are 490 MB, its sound 51 MB as floats
