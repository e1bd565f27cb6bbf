"""Extractors and their weights: shapes, preparation of frames, quirks, and what files are refused."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from benchmark.errors import UsageError
from benchmark.extract import weights_files
from benchmark.extract.extractor import Extractor, find_extractor, load_extractors
from benchmark.extract.sets.cls import Cls
from benchmark.extract.sets.main import Main
from benchmark.extract.weights_files import given_files, read_file, read_weights


def unbuilt(kind: type[Extractor], *quirks: str) -> Any:
    """An extractor without its networks: enough to prepare frames."""
    extractor = object.__new__(kind)
    Extractor.__init__(extractor, {}, frozenset(quirks), "cpu")
    return extractor


def frame(height: int = 240, width: int = 320) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_the_extractors_of_both_published_sets_are_found() -> None:
    assert {"cls", "main"} <= load_extractors().keys()


def test_an_unknown_extractor_is_answered_with_near_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'main'"):
        find_extractor("mian")


def test_a_plug_in_is_one_file(tiny: Path) -> None:
    extractor = find_extractor("tiny", [tiny])
    assert (extractor.audio_dim, extractor.video_dim) == (2, 3)


def test_a_plug_in_without_an_extractor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nothing.py"
    path.write_text("x = 1\n")
    with pytest.raises(UsageError, match="registers no extractor"):
        load_extractors([path])


def test_only_the_networks_change_their_precision() -> None:
    extractor = unbuilt(Main)
    extractor.network = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)).eval()
    x = torch.randn(2, 8)
    wanted = extractor.run(extractor.network, x)
    extractor.use("bfloat16")
    found = extractor.run(extractor.network, x)
    assert [p.dtype for p in extractor.network.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() < 2e-2


def test_cls_prepares_a_frame_as_the_published_transforms_do() -> None:
    resized = np.asarray(Image.fromarray(frame()).resize((171, 128), Image.Resampling.BILINEAR), np.float32)
    wanted = resized[8:120, 30:142] / 255
    for channel, (mean, std) in enumerate([(0.43216, 0.22803), (0.394666, 0.22145), (0.37645, 0.216989)]):
        found = unbuilt(Cls).prepare(frame())[channel]
        np.testing.assert_allclose(found, (wanted[:, :, channel] - mean) / std, atol=1e-5)


def test_quirks_of_cls_turn_the_channels_round_and_wrap_the_values() -> None:
    plain = unbuilt(Cls)
    np.testing.assert_array_equal(unbuilt(Cls, "bgr").prepare(frame()), plain.prepare(frame()[:, :, ::-1]))
    wrapped = ((256 - frame().astype(int)) % 256).astype(np.uint8)
    np.testing.assert_array_equal(unbuilt(Cls, "inverted").prepare(frame()), plain.prepare(wrapped))


def test_the_quirk_of_the_own_rate_takes_frames_as_they_come() -> None:
    assert unbuilt(Cls).timing.rate == 25
    assert unbuilt(Cls, "own_rate").timing.rate is None


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (112, 200), (112, 112), (100, 60)])
def test_main_brings_the_short_side_to_112_and_crops_the_centre(height: int, width: int) -> None:
    prepared = unbuilt(Main).prepare(frame(height, width))
    assert prepared.shape == (3, 112, 112)
    bright = unbuilt(Main).prepare(np.full((height, width, 3), 255, np.uint8))
    np.testing.assert_allclose(bright, 0.55 / 0.225, rtol=1e-5)


SHAPES: list[tuple[type[Extractor], int, tuple[int, int]]] = [(Cls, 128, (16, 4096)), (Main, 512, (30, 512))]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "audio", "video"), SHAPES)
def test_random_weights_give_features_of_the_named_sizes(
    kind: Any, audio: int, video: tuple[int, int]
) -> None:
    weights = weights_files.random_weights(kind)
    assert weights.generated
    extractor = kind(weights.states, frozenset(), "cpu")
    rng = np.random.default_rng(0)
    sounds = extractor.audio(rng.uniform(-0.5, 0.5, (2, kind.sound.window)))
    clips = np.stack([[extractor.prepare(frame())] * video[0]])
    assert (sounds.shape, sounds.dtype) == ((2, audio), np.float32)
    assert not np.array_equal(sounds[0], sounds[1])
    features = extractor.video(clips.astype(np.float32))
    assert (features.shape, features.dtype) == ((1, video[1]), np.float32)
    assert np.isfinite(features).all()
    assert features.std() > 0
    again = kind(weights_files.random_weights(kind).states, frozenset(), "cpu")
    np.testing.assert_array_equal(again.video(clips.astype(np.float32)), features)


# Files of weights


def save_selavi(
    path: Path, change: Any = lambda state: state, prefix: str = "", **more: Any
) -> Mapping[str, torch.Tensor]:
    state = {name: torch.zeros(x.shape, dtype=x.dtype) for name, x in Main.expected("selavi").items()}
    content = {prefix + name: x for name, x in change(state).items()}
    torch.save({"model": content, "epoch": 150, **more}, path)
    return state


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_checkpoint_is_read_with_and_without_prefix(tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "selavi_vgg_sound.pth"
    state = save_selavi(path, lambda s: {**s, "mlp_v0.weight": torch.zeros(3)}, prefix)
    read, record = read_file(Main, Main.weights_files[0], path)
    assert read.keys() == state.keys()
    assert record == {
        "file": path.name,
        "size": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert read_weights(Main, given_files(Main, [str(tmp_path)])).record["selavi"] == record


FIRST = "video_network.base.stem.0.weight"
FAULTS: dict[str, tuple[Any, str]] = {
    "missing": (lambda s: {n: x for n, x in s.items() if n != FIRST}, f"missing {FIRST}"),
    "extra": (lambda s: {**s, "other": torch.zeros(1)}, "extra other"),
    "shape": (lambda s: {**s, FIRST: torch.zeros(3)}, r"is \[3\], not \[45, 3, 1, 7, 7\]"),
    "infinite": (lambda s: {**s, FIRST: torch.full((45, 3, 1, 7, 7), torch.inf)}, "is not finite"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, fault: str) -> None:
    change, message = FAULTS[fault]
    save_selavi(tmp_path / "w.pth", change)
    with pytest.raises(UsageError, match=message):
        read_file(Main, Main.weights_files[0], tmp_path / "w.pth")


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("touched"),))


def test_a_pickle_that_would_run_something_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_selavi(tmp_path / "w.pth", more=Evil())
    (tmp_path / "w.npz").write_bytes(pickle.dumps(Evil()))
    for needed, path in ((Main.weights_files[0], "w.pth"), (Cls.weights_files[1], "w.npz")):
        with pytest.raises(UsageError, match=r"refused|cannot be read"):
            read_file(Main if path == "w.pth" else Cls, needed, tmp_path / path)
    assert not (tmp_path / "touched").exists()


def test_principal_components_are_read_from_arrays(tmp_path: Path) -> None:
    path = tmp_path / "pca.npz"
    np.savez(path, pca_eigen_vectors=np.eye(128), pca_means=np.zeros((128, 1)))
    state, _ = read_file(Cls, Cls.weights_files[1], path)
    assert state["pca_means"].dtype == torch.float32
    np.savez(path, pca_eigen_vectors=np.eye(128), pca_means=np.array([Evil()]))
    with pytest.raises(UsageError, match=r"cannot be read as a \.npz"):
        read_file(Cls, Cls.weights_files[1], path)


def test_missing_weights_are_listed_with_where_they_were_published() -> None:
    with pytest.raises(UsageError, match=r"vggish_pca: .*\n.*c3d: .*DavideA(.|\n)*--random-weights"):
        read_weights(Cls, {})


@pytest.mark.parametrize(
    ("text", "message"), [("c3d=nowhere", "no such file"), ("3d=x", "did you mean"), ("nowhere", "NAME=FILE")]
)
def test_wrong_names_of_weights_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        given_files(Cls, [text])
