"""Feature set ``main``: SeLaVi, with ResNet-9 for audio and R(2+1)D-18 for frames, trained without labels.

Source: Asano et al., Labelling unlabelled videos from scratch with multi-modal self-supervision, NeurIPS
    2020, arXiv
2006.13662. Prepared as in its code, with the settings of the published extraction: 44.1 kHz, 257 filters,
z-normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmark.extract.extractor import Clip, Extractor, Features, Sound, State, WeightsFile, register
from benchmark.extract.media.images import normalise, short_side
from benchmark.extract.media.spectrograms import BANK_RATE, log_filterbank
from benchmark.extract.networks.building import network, random_state, skeleton
from benchmark.extract.networks.r2plus1d import DIM as VIDEO_DIM
from benchmark.extract.networks.r2plus1d import R2plus1d18
from benchmark.extract.networks.resnet9 import DIM as AUDIO_DIM
from benchmark.extract.networks.resnet9 import ResNet9

CROP = 112
MEAN, STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
SPECTRUM_MEAN, SPECTRUM_STD = 1.93, 17.89


class _Base(nn.Module):
    """Puts a network under the name that it has in the checkpoint."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base


class Selavi(nn.Module):
    """Both networks under their names in the checkpoint, without the heads that assign clusters."""

    def __init__(self) -> None:
        super().__init__()
        self.video_network = _Base(R2plus1d18())
        self.audio_network = _Base(ResNet9())


@register
class Main(Extractor):
    """SeLaVi, trained on VGGSound."""

    name = "main"
    title = "SeLaVi"
    version = 1
    audio_dim, video_dim = AUDIO_DIM, VIDEO_DIM
    audio_seconds = video_seconds = 1.0
    sound = Sound(BANK_RATE, window=BANK_RATE, hop=BANK_RATE)
    clip = Clip(30, 30, pad=False)
    paired = True
    batch = 4
    weights_files = (
        WeightsFile(
            "selavi",
            "selavi_vgg_sound.pth",
            "SeLaVi trained on VGGSound",
            "github.com/facebookresearch/selavi (model zoo)",
            key="model",
            ignored=("mlp_",),
        ),
    )

    def __init__(self, weights: Mapping[str, State], quirks: frozenset[str], device: str) -> None:
        super().__init__(weights, quirks, device)
        networks: Any = network(Selavi, weights["selavi"], device)
        self.video_network: nn.Module = networks.video_network.base
        self.audio_network: nn.Module = networks.audio_network.base

    @classmethod
    def expected(cls, weights: str) -> State:
        return skeleton(Selavi)

    @classmethod
    def random(cls, weights: str) -> State:
        return random_state(Selavi)

    def prepare(self, frame: NDArray[np.uint8]) -> Features:
        resized = short_side(normalise(frame, MEAN, STD), CROP)
        top, left = (-(-(size - CROP) // 2) for size in resized.shape[1:])
        return resized[:, top : top + CROP, left : left + CROP]

    def audio(self, waveforms: NDArray[np.floating[Any]]) -> Features:
        # as the network was trained on
        sixteen_bit = np.clip(np.round(waveforms * 2**15), -(2**15), 2**15 - 1)
        spectra = np.stack([log_filterbank(waveform) for waveform in sixteen_bit])
        x = (torch.from_numpy(spectra)[:, None] - SPECTRUM_MEAN) / SPECTRUM_STD
        return self.run(self.audio_network, x)

    def video(self, clips: Features) -> Features:
        return self.run(self.video_network, torch.from_numpy(clips).transpose(1, 2))
