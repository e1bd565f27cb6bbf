"""Extraction of a folder of real videos: the store, problems that stop nothing, no work done twice."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.extracting import Command
from support.fasttext_model import Model
from support.video_set import KINDS
from support.videos import Clip, write_video

from benchmark.cli import app
from benchmark.data import cards
from benchmark.data.checks.verify import verify_store
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import SPLITS, FeatureStore
from benchmark.errors import UsageError
from benchmark.extract.extraction import chosen_quirks
from benchmark.extract.extractor import Extractor
from benchmark.extract.sets.cls import Cls
from benchmark.extract.sets.main import Main
from benchmark.untrusted.arrays import load_pickle


def test_videos_of_all_kinds_become_a_store_without_faults(command: Command) -> None:
    said = command()
    assert (said["extracted"], said["resumed"], said["problems"]) == (9, 0, [])
    store = FeatureStore(command.store)
    assert verify_store(command.store, command.video_set.card()) == []
    assert store.digest == said["digest"]
    assert store.generated
    assert set(store.tables().ids) == command.video_set.samples.keys()
    for sample, split, label in zip(
        store.tables().ids, store.tables().splits, store.tables().labels, strict=True
    ):
        assert (SPLITS[split], store.tables().class_names[label]) == command.video_set.samples[sample]
    with h5py.File(
        command.store
    ) as f:  # 1.1 s: two time steps of audio, two or three of video, the last one padded
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
    np.testing.assert_allclose(
        video, [rng.integers(0, 255, (12, 16, 3), np.uint8).mean((0, 1)) / 255] * 2, atol=0.02
    )


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


def test_vectors_that_cannot_be_read_are_reported_before_any_video(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--vectors", command.data.parent / "wiki.bin", code=2)
    assert "no such file" in capsys.readouterr().err
    command("--vectors", Model(["archery"], quantised=True).write(command.data.parent / "wiki.bin"), code=2)
    assert "a quantised fastText model" in " ".join(capsys.readouterr().err.split())
    assert not command.results.exists()


def test_problems_are_reported_and_stop_nothing(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    made = command.video_set
    extra = {
        f"v_Archery_g00_c{i}": ("stage_1_train", "Archery")
        for i in ("silent", "empty", "foreign", "short", "cut", "missing")
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
    assert told[silent] == ("no audio", True)
    assert told[empty][0].startswith("cannot be opened")
    assert told[foreign][0].startswith("cannot be opened")
    assert told[short] == ("too short: audio shorter than one time step", True)
    assert "ends after" in told[cut][0]
    assert not told[cut][1]
    assert told[missing] == ("no video of this name", True)
    assert told[doubled] == (f"not read, of the same name: zz/{doubled}.mp4", False)
    assert len(said["problems"]) == len(told) + (
        "audio ends" in str(said["problems"]) and told[cut][0].startswith("audio")
    )
    assert set(FeatureStore(command.store).tables().ids) == made.samples.keys() - {
        silent,
        empty,
        foreign,
        short,
        missing,
    }
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
    assert command.problems() == {sample: ("no audio: silence instead", False)}
    assert len(FeatureStore(command.store).tables().ids) == 9
    with h5py.File(command.results / f"{sample}.h5") as f:
        np.testing.assert_array_equal(f["audio"][:], np.zeros((len(f["video"]), 2)))
    skipped = command(code=1)
    assert (skipped["extracted"], skipped["resumed"]) == (1, 8)  # the others do not depend on it
    assert command.problems()[sample] == ("no audio", True)
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


def test_a_trial_does_not_replace_real_features(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"factors": torch.tensor([3.0, 4.0])}, tmp_path / "scale.pt")
    real = command("--weights", tmp_path, weights=False)["digest"]
    command(code=2)
    assert "which a trial must not replace" in capsys.readouterr().err.replace("\n", " ")
    assert FeatureStore(command.store).digest == real
    command("--data-root", tmp_path / "trials")


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(
    command: Command, device: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--device", device, code=2)
    assert f"--device {device}: cannot be used" in capsys.readouterr().err


def test_features_that_are_not_finite_are_not_computed_again(command: Command) -> None:
    bad = next(iter(command.video_set.samples))
    command.video_set.write_video(
        bad, ".mov", Clip(codec="mjpeg", pixels="yuvj420p", sound="pcm_f32le", tone=float("nan"))
    )
    assert command(code=1)["extracted"] == 9
    assert command.problems()[bad] == ("audio features are not finite", True)
    assert command(code=1)["resumed"] == 9


def test_without_weights_nothing_is_extracted(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(code=2, weights=False)
    assert "scale: two factors, usually scale.pt, from nowhere" in capsys.readouterr().err
    assert not command.data.exists()


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
    found = load_pickle(
        root / "features" / "tiny_features_non_averaged" / "audio" / "stage_2_train" / "Archery.pkl"
    )
    listed = [
        s for s, (split, name) in made.samples.items() if name == "Archery" and split.startswith("stage_1")
    ]
    assert sorted(name.decode() for name in found["video_names"]) == sorted(listed)
    assert found["fps"] == [10] * len(listed)


def test_published_preprocessing_repeats_the_quirks_of_the_card(command: Command) -> None:
    quirks = 'quirks = frozenset({"own_rate", "sixteen_bit"})'
    command.tiny.write_text(
        command.tiny.read_text().replace("weights_files =", f"{quirks}\n    weights_files =", 1)
    )
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
    assert (len(features[0][1]), len(features[1][1])) == (
        3,
        7,
    )  # 11 frames at 10 a second, 33 at the video's own rate
    difference = np.abs(features[0][0] - features[1][0]).max()
    assert 0 < difference < 1e-4
    assert FeatureStore(command.store).provenance["published_quirks"] == ["own_rate", "sixteen_bit"]


def test_the_precision_decides_features_and_is_recorded(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command()
    assert "precision" not in FeatureStore(command.store).provenance
    assert command("--precision", "bfloat16", "--device", "cpu")["extracted"] == 9
    assert FeatureStore(command.store).provenance["precision"] == "bfloat16"
    command("--precision", "float16", "--device", "cpu", code=2)
    assert "no faster on a CPU" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(("extractor", "named"), [(Main, []), (Main, ["bgr"])])
def test_published_preprocessing_is_refused_where_there_is_none(
    extractor: type[Extractor], named: list[str]
) -> None:
    with pytest.raises(UsageError, match="omit the option"):
        chosen_quirks(extractor, named, "ucf")


def test_the_cards_name_quirks_that_the_extractor_knows() -> None:
    named = {
        name: cards.load_cards()[name].features["cls"].published_quirks
        for name in ("ucf", "vggsound", "activitynet")
    }
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
    words = [
        "extract",
        "weights",
        "tiny",
        "--plugin",
        str(command.tiny),
        "--weights",
        f"scale={tmp_path / 'scale.pt'}",
    ]
    with pytest.raises(SystemExit) as ended:
        app.main([*words, "--json"])
    assert not ended.value.code
    assert len(json.loads(capsys.readouterr().out)[0]["sha256"]) == 64
    torch.save({"factors": torch.zeros(3)}, tmp_path / "scale.pt")
    with pytest.raises(SystemExit) as ended:
        app.main(words)
    assert ended.value.code == 2
