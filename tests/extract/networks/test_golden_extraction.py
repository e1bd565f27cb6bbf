"""The networks and the audio front end against numbers of the published implementations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import need
from torch import nn

from benchmark.extract.media.resampling import Resampler
from benchmark.extract.media.spectrograms import MEL_RATE, log_mel_patches
from benchmark.extract.networks.c3d import C3d
from benchmark.extract.networks.vggish import Postprocessing, Vggish


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    folder = shared / "golden" / "extraction"
    if not folder.is_dir():
        need(f"golden numbers not found in {folder} (set GZSL_SHARED)")
    return folder


def arrays(golden: Path, name: str) -> Mapping[str, Any]:
    return dict(np.load(golden / f"{name}.npz"))


def generated(network: nn.Module) -> nn.Module:
    """The weights of config.json: a formula of the parameter's name and the element's number."""
    state = {}
    for name, like in network.state_dict().items():
        x = np.arange(like.numel(), dtype=np.float64)
        x = np.sin(12.9898 * x + 78.233 * len(name)) * 43758.5453
        x = 2 * (x - np.floor(x)) - 1
        fan = like.numel() // like.shape[0] if like.ndim > 1 else like.numel()
        x *= np.sqrt(6 / fan) * (1 if like.ndim > 1 else 0.05)
        state[name] = torch.from_numpy(x.astype(np.float32)).reshape(like.shape)
    network.load_state_dict(state)
    return network.eval()


def relative(found: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


def test_log_mel_patches_are_the_published_ones(golden: Path) -> None:
    data = arrays(golden, "audio")
    found = log_mel_patches(data["wave_16k"])
    np.testing.assert_allclose(found, data["log_mel_examples_16k"], rtol=0, atol=1e-4)


def test_stereo_at_another_rate_gives_the_published_log_mel_patches(golden: Path) -> None:
    data = arrays(golden, "audio")
    stereo = np.stack([data["wave_44k"], 0.5 * data["wave_44k"]])
    resampler = Resampler(44_100, MEL_RATE)
    waveform = np.concatenate([resampler.push(stereo.mean(0)), resampler.end()])
    found = log_mel_patches(waveform)
    np.testing.assert_allclose(found, data["log_mel_examples_44k_stereo_half"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("network", "entry"), [(Vggish, "vggish_state"), (C3d, "c3d_state")])
def test_parameters_have_the_published_names_and_shapes(
    golden: Path, network: type[nn.Module], entry: str
) -> None:
    published = json.loads((golden / "config.json").read_text())[entry]
    with torch.device("meta"):
        assert {name: list(x.shape) for name, x in network().state_dict().items()} == published


@pytest.mark.slow
def test_vggish_gives_the_published_embeddings(golden: Path) -> None:
    data = arrays(golden, "audio")
    with torch.inference_mode():
        found = generated(Vggish())(torch.from_numpy(data["log_mel_examples_16k"])[:, None])
    assert relative(found, data["vggish_embedding"]) < 1e-3


def test_postprocessing_gives_the_published_bytes(golden: Path) -> None:
    data, pca = arrays(golden, "audio"), arrays(golden, "pca")
    found = Postprocessing(pca["pca_eigen_vectors"], pca["pca_means"])(data["postprocess_input"])
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, data["postprocess_output"])


@pytest.mark.slow
def test_c3d_gives_the_published_fc7(golden: Path) -> None:
    data = arrays(golden, "video")
    with torch.inference_mode():
        found = generated(C3d())(torch.from_numpy(data["clip"].astype(np.float32)))
    assert relative(found, data["c3d_fc7"]) < 1e-3
