"""Resampling, spectrograms and networks: what must hold whatever the weights are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from benchmark.extract.media.resampling import Resampler
from benchmark.extract.media.spectrograms import (
    BANK_FFT,
    BANK_RATE,
    MEL_RATE,
    log_filterbank,
    log_mel_patches,
)
from benchmark.extract.networks.r2plus1d import R2plus1d18
from benchmark.extract.networks.resnet9 import ResNet9


def resampled(waveform: NDArray[np.float64], rate: int, wanted: int, cuts: list[int]) -> NDArray[np.float64]:
    resampler = Resampler(rate, wanted)
    blocks = np.split(waveform, sorted(min(cut, len(waveform)) for cut in cuts))
    return np.concatenate([*(resampler.push(block) for block in blocks), resampler.end()])


@settings(max_examples=25)
@given(
    rate=st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]),
    length=st.integers(0, 9000),
    cuts=st.lists(st.integers(0, 9000), max_size=6),
)
def test_blocks_of_any_size_resample_to_the_same_waveform(rate: int, length: int, cuts: list[int]) -> None:
    waveform = np.random.default_rng(length).standard_normal(length)
    whole = resampled(waveform, rate, 16_000, [])
    assert len(whole) == length * 16_000 // rate
    np.testing.assert_allclose(resampled(waveform, rate, 16_000, cuts), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_a_tone_keeps_pitch_and_loudness(rate: int) -> None:
    time, wanted = np.arange(rate) / rate, np.arange(16_000) / 16_000
    found = resampled(np.sin(2 * np.pi * 1000 * time), rate, 16_000, [])
    np.testing.assert_allclose(found[500:-500], np.sin(2 * np.pi * 1000 * wanted)[500:-500], atol=1e-3)


def test_a_tone_above_half_the_new_rate_vanishes() -> None:
    found = resampled(np.sin(2 * np.pi * 10_000 * np.arange(44_100) / 44_100), 44_100, 16_000, [])
    assert np.abs(found[500:-500]).max() < 1e-4


@pytest.mark.parametrize(("seconds", "patches"), [(0.9, 0), (0.975, 1), (1.9, 1), (3.3, 3)])
def test_log_mel_patches_last_096_seconds_and_the_rest_is_dropped(seconds: float, patches: int) -> None:
    assert log_mel_patches(np.zeros(round(seconds * MEL_RATE))).shape == (patches, 96, 64)


def test_silence_is_the_log_of_the_offset() -> None:
    np.testing.assert_allclose(log_mel_patches(np.zeros(MEL_RATE)), np.log(0.01), rtol=1e-6)


def plain_filterbank(waveform: NDArray[np.float64], filters: int) -> NDArray[np.float64]:
    """The definition, written as plainly as can be."""
    x = waveform.copy()
    x[1:] -= 0.97 * waveform[:-1]
    mels = [2595 * np.log10(1 + BANK_RATE / 2 / 700) * i / (filters + 1) for i in range(filters + 2)]
    edges = [int((BANK_FFT + 1) * 700 * (10 ** (mel / 2595) - 1) / BANK_RATE) for mel in mels]
    columns = []
    for start in range(0, len(x) - 881, 441):
        power = np.abs(np.fft.fft(x[start : start + 882], BANK_FFT)) ** 2 / BANK_FFT
        column = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            energy = sum(power[k] * (k - low) / (centre - low) for k in range(low, centre))
            energy += sum(power[k] * (high - k) / (high - centre) for k in range(centre, high))
            column.append(np.log(energy if energy else np.finfo(float).eps))
        columns.append(column)
    return np.array(columns).T


@pytest.mark.parametrize("filters", [40, 257])
def test_the_log_filterbank_follows_its_definition(filters: int) -> None:
    waveform = np.round(np.random.default_rng(0).standard_normal(BANK_RATE) * 3000)
    found = log_filterbank(waveform, filters)
    assert found.shape == (filters, 99)
    np.testing.assert_allclose(found, plain_filterbank(waveform, filters), rtol=1e-5, atol=1e-5)


PUBLISHED_SIZES = [
    (R2plus1d18, 31_505_325 - 513 * 400, "layer4.1.conv2.0.3.weight"),
    (ResNet9, 4_899_520, "layer4.0.bn2.bias"),
]
"""Parameters of torchvision's networks without the last layer; ResNet-9 has one input channel, not three."""


@pytest.mark.parametrize(("network", "parameters", "last"), PUBLISHED_SIZES)
def test_networks_of_selavi_have_the_published_sizes(
    network: type[nn.Module], parameters: int, last: str
) -> None:
    with torch.device("meta"):
        built = network()
    assert sum(p.numel() for p in built.parameters()) == parameters
    assert last in built.state_dict()


@pytest.mark.parametrize(("network", "shape"), [(R2plus1d18, (2, 3, 8, 56, 56)), (ResNet9, (2, 1, 257, 99))])
def test_networks_of_selavi_pool_to_512(network: type[nn.Module], shape: tuple[int, ...]) -> None:
    with torch.inference_mode():
        assert network().eval()(torch.randn(shape)).shape == (2, 512)
