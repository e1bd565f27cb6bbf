"""WavCaps' HTSAT-BERT: 1024-dimensional embeddings of audio and texts, run by transformers.

Source: Mei et al., WavCaps, IEEE/ACM TASLP 2024, arXiv 2303.17395; HTSAT: Chen et al., HTS-AT, ICASSP 2022,
arXiv 2202.00874. The names of tensors are those of the published code (github.com/XinhaoMei/WavCaps,
``retrieval/``), whose checkpoint ``HTSAT_BERT_zero_shot.pt`` has them under the key ``model``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmark.errors import UsageError
from benchmark.extract.networks.tables import Shapes, linear, norm
from benchmark.system.shipped_files import install

DIM = 1024
RATE, SECONDS = 32_000, 10
FFT, HOP, LOW, HIGH, BANDS = 1024, 320, 50.0, 14_000.0, 64
"""The log-mel spectrogram: samples of a window and between two, lowest and highest frequency, bands."""
SMALLEST = 1e-10
"""Energies below it are raised to it before the logarithm."""
WIDTH, DEPTHS, WINDOW, PATCH = 96, (2, 2, 6, 2), 8, 4
"""HTSAT: width of the first stage, blocks of each, side of a window of attention, side of a patch."""
HEADS = (4, 8, 16, 32)
CLASSES = 527
BERT_LAYERS, BERT_WIDTH, TOKENS, POSITIONS = 12, 768, 30_522, 512
LONGEST = 30
"""Most tokens of a text, the first and last included."""
AUDIO, FRONT = "audio_encoder.audio_enc.", "audio_encoder.audio_enc.audio_feats_extractor."
TEXT = "text_encoder.text_encoder."
STFT, MEL = f"{FRONT}mel_trans.stft.conv_", f"{FRONT}log_trans.melW"
FRONT_TOLERANCE = 1e-3
"""Largest difference of the file's Fourier transform and mel filters from those that are computed here."""
UNUSED = (f"{AUDIO}tscam_conv.", f"{AUDIO}head.", f"{AUDIO}spec_augmenter.", "temp")
"""Beginnings of names that the file has and the embeddings do not need."""
UNUSED_ENDS = ("relative_position_index", "attn_mask", "embeddings.position_ids", "num_batches_tracked")
"""Ends of names of constants, some of which only older libraries saved."""


def shapes() -> Shapes:
    """The tensors of the published checkpoint that are used."""
    text = f"{TEXT}encoder.layer."
    found = {
        f"{STFT}real.weight": (FFT // 2 + 1, 1, FFT),
        f"{STFT}imag.weight": (FFT // 2 + 1, 1, FFT),
        MEL: (FFT // 2 + 1, BANDS),
        **norm(f"{AUDIO}bn0", BANDS),
        **dict.fromkeys((f"{AUDIO}bn0.running_mean", f"{AUDIO}bn0.running_var"), (BANDS,)),
        f"{AUDIO}patch_embed.proj.weight": (WIDTH, 1, PATCH, PATCH),
        f"{AUDIO}patch_embed.proj.bias": (WIDTH,),
        **norm(f"{AUDIO}patch_embed.norm", WIDTH),
        **_stages(),
        **norm(f"{AUDIO}norm", WIDTH * 2 ** (len(DEPTHS) - 1)),
        f"{TEXT}embeddings.word_embeddings.weight": (TOKENS, BERT_WIDTH),
        f"{TEXT}embeddings.position_embeddings.weight": (POSITIONS, BERT_WIDTH),
        f"{TEXT}embeddings.token_type_embeddings.weight": (2, BERT_WIDTH),
        **norm(f"{TEXT}embeddings.LayerNorm", BERT_WIDTH),
    }
    for layer in (f"{text}{i}." for i in range(BERT_LAYERS)):
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            found |= linear(f"{layer}attention.{part}", BERT_WIDTH, BERT_WIDTH)
        found |= norm(f"{layer}attention.output.LayerNorm", BERT_WIDTH)
        found |= linear(f"{layer}intermediate.dense", BERT_WIDTH, 4 * BERT_WIDTH)
        found |= linear(f"{layer}output.dense", 4 * BERT_WIDTH, BERT_WIDTH)
        found |= norm(f"{layer}output.LayerNorm", BERT_WIDTH)
    for name, width in (("audio_proj", WIDTH * 2 ** (len(DEPTHS) - 1)), ("text_proj", BERT_WIDTH)):
        found |= {**linear(f"{name}.0", width, DIM), **linear(f"{name}.2", DIM, DIM)}
    return found


def _stages() -> Shapes:
    found: dict[str, tuple[int, ...]] = {}
    for stage, depth in enumerate(DEPTHS):
        width, at = WIDTH * 2**stage, f"{AUDIO}layers.{stage}"
        for block in (f"{at}.blocks.{i}" for i in range(depth)):
            found |= {**norm(f"{block}.norm1", width), **norm(f"{block}.norm2", width)}
            found[f"{block}.attn.relative_position_bias_table"] = ((2 * WINDOW - 1) ** 2, HEADS[stage])
            found |= {**linear(f"{block}.attn.qkv", width, 3 * width)}
            found |= linear(f"{block}.attn.proj", width, width)
            found |= {
                **linear(f"{block}.mlp.fc1", width, 4 * width),
                **linear(f"{block}.mlp.fc2", 4 * width, width),
            }
        if stage + 1 < len(DEPTHS):
            found[f"{at}.downsample.reduction.weight"] = (2 * width, 4 * width)
            found |= norm(f"{at}.downsample.norm", 4 * width)
    return found


_RENAMED = (
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.output.dense."),
    (".attn.relative", ".attention.self.relative"),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
"""Names within HTSAT -> those of transformers."""


def _htsat_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """HTSAT's tensors under the names of transformers."""
    found: dict[str, Tensor] = {}
    for name, x in state.items():
        if not name.startswith(AUDIO) or name.startswith(FRONT):
            continue
        ours = name.removeprefix(AUDIO)
        for old, new in _RENAMED:
            ours = ours.replace(old, new)
        ours = f"audio_encoder.{ours.replace('bn0.', 'batch_norm.', 1) if ours.startswith('bn0.') else ours}"
        block, joint, kind = ours.partition(".attn.qkv.")
        if joint:
            for part, third in zip(("query", "key", "value"), x.chunk(3), strict=True):
                found[f"{block}.attention.self.{part}.{kind}"] = third
        else:
            found[ours] = x
    return found


def _library() -> Any:
    try:
        import transformers
        from transformers.audio_utils import mel_filter_bank  # noqa: F401
    except ImportError:
        raise UsageError(f"transformers runs WavCaps and is not installed: {install('encoders')}") from None
    return transformers


class _Projection(nn.Module):
    """``[N, width]`` -> ``[N, 1024]`` of norm 1."""

    def __init__(self, width: int, state: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, DIM), nn.ReLU(), nn.Linear(DIM, DIM))
        own = [n for n in state if n.startswith(f"{name}.")]
        self.layers.load_state_dict({n.removeprefix(f"{name}."): state[n] for n in own})

    def forward(self, x: Tensor) -> Tensor:
        return functional.normalize(self.layers(x), dim=-1)


class AudioEncoder(nn.Module):
    """Log-mel spectrograms ``[N, 1, 1001, 64]`` -> embeddings of norm 1, ``[N, 1024]``.

    Args:
        state: tensors under their published names, possibly with those of the text encoder.

    Raises:
        UsageError: transformers is not installed, or the weights belong to another spectrogram.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        library = _library()
        check_front_end(state)
        width = WIDTH * 2 ** (len(DEPTHS) - 1)
        config = library.ClapAudioConfig(
            window_size=WINDOW,
            num_mel_bins=BANDS,
            spec_size=256,
            patch_size=PATCH,
            patch_stride=[PATCH, PATCH],
            hidden_size=width,
            depths=list(DEPTHS),
            num_attention_heads=list(HEADS),
            patch_embeds_hidden_size=WIDTH,
            num_classes=CLASSES,
            num_hidden_layers=len(DEPTHS),
        )
        self.htsat = library.ClapAudioModel(config)
        constants = {n: x for n, x in self.htsat.state_dict().items() if n.endswith(UNUSED_ENDS)}
        self.htsat.load_state_dict({**constants, **_htsat_state(state)})
        self.projection = _Projection(width, state, "audio_proj")

    def forward(self, spectra: Tensor) -> Tensor:
        embeddings: Tensor = self.projection(self.htsat(input_features=spectra).pooler_output)
        return embeddings


class TextEncoder(nn.Module):
    """Token ids ``[N, T]``, padded with 0 -> embeddings of norm 1, ``[N, 1024]``.

    Args:
        state: tensors under their published names, possibly with those of the audio encoder.

    Raises:
        UsageError: transformers is not installed.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        library = _library()
        config = library.BertConfig(
            vocab_size=TOKENS,
            hidden_size=BERT_WIDTH,
            num_hidden_layers=BERT_LAYERS,
            num_attention_heads=BERT_WIDTH // 64,
            intermediate_size=4 * BERT_WIDTH,
            max_position_embeddings=POSITIONS,
        )
        self.bert = library.BertModel(config, add_pooling_layer=False)
        self.bert.load_state_dict({n.removeprefix(TEXT): x for n, x in state.items() if n.startswith(TEXT)})
        self.projection = _Projection(BERT_WIDTH, state, "text_proj")

    def forward(self, tokens: Tensor) -> Tensor:
        read = self.bert(input_ids=tokens, attention_mask=(tokens != 0).long()).last_hidden_state
        embeddings: Tensor = self.projection(read[:, 0])
        return embeddings


class Tokenizer:
    """Turns texts into token ids.

    Args:
        vocabulary: content of ``vocab.txt`` of bert-base-uncased, a token on each line.

    Raises:
        UsageError: transformers is not installed.
    """

    def __init__(self, vocabulary: bytes) -> None:
        lines = vocabulary.decode("utf-8").removesuffix("\n").split("\n")
        self._tokenizer = _library().BertTokenizer(vocab={token: i for i, token in enumerate(lines)})

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids ``[N, T]`` of at most 30 tokens; shorter texts are filled up with 0."""
        ids = self._tokenizer(
            list(texts), padding="longest", truncation=True, max_length=LONGEST, return_tensors="pt"
        )["input_ids"]
        assert isinstance(ids, Tensor)
        return ids


def log_mel(waveform: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """The log-mel spectrogram ``[1, 1001, 64]`` of ten seconds ``[320000]`` at 32 kHz, in decibels.

    Raises:
        UsageError: transformers, which computes it, is not installed.
    """
    _library()
    from transformers.audio_utils import spectrogram

    decibels: NDArray[np.float32] = spectrogram(
        np.asarray(waveform, np.float64),
        _hann(),
        frame_length=FFT,
        hop_length=HOP,
        power=2.0,
        center=True,
        pad_mode="reflect",
        mel_filters=_mel_filters(),
        mel_floor=SMALLEST,
        log_mel="dB",
        min_value=SMALLEST,
        dtype=np.float32,
    )
    return np.ascontiguousarray(decibels.T[None])


def _hann() -> NDArray[np.float64]:
    window: NDArray[np.float64] = 0.5 - 0.5 * np.cos(2 * np.pi / FFT * np.arange(FFT))  # periodic
    return window


@cache
def _mel_filters() -> NDArray[np.float64]:
    """Triangles of equal area, equidistant on Slaney's scale, ``[513, 64]``."""
    from transformers.audio_utils import mel_filter_bank

    filters: NDArray[np.float64] = mel_filter_bank(
        FFT // 2 + 1, BANDS, LOW, HIGH, RATE, norm="slaney", mel_scale="slaney"
    )
    return filters


def front_end() -> dict[str, Tensor]:
    """The Fourier transform and the mel filters as the published file stores them.

    Raises:
        UsageError: transformers, which makes the filters, is not installed.
    """
    _library()
    angles = 2 * np.pi / FFT * (np.outer(np.arange(FFT // 2 + 1), np.arange(FFT)) % FFT)
    waves = {"real": np.cos(angles), "imag": -np.sin(angles)}
    found: dict[str, Any] = {f"{STFT}{part}.weight": (x * _hann())[:, None] for part, x in waves.items()}
    return {name: torch.from_numpy(x).float() for name, x in {**found, MEL: _mel_filters()}.items()}


def check_front_end(state: Mapping[str, Tensor]) -> None:
    """Check that weights belong to the spectrogram that is computed here: their file has its constants.

    Raises:
        UsageError: they belong to another one.
    """
    for name, wanted in front_end().items():
        difference = float((state[name] - wanted).abs().max() / wanted.abs().max())
        if not difference <= FRONT_TOLERANCE:
            raise UsageError(
                f"weights of WavCaps: {name} differs by {difference:.2g} of its largest value from the "
                "spectrogram that is computed here; give the published HTSAT_BERT_zero_shot.pt"
            )


def random_vocabulary() -> bytes:
    """A vocabulary of letters, for dry runs: each letter of a text is a token."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.-'(),"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return "\n".join([*special, *letters, *(f"##{letter}" for letter in letters)]).encode()
