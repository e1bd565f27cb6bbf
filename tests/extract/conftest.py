"""A cheap extractor as a plug-in, and a small data set of real videos with its lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from extract.video_set import VideoSet

from benchmark.extract.extractor import EXTRACTORS

TINY = '''
"""An extractor of loudness and brightness."""
import numpy as np
import torch

from benchmark.extract.extractor import Clip, Extractor, Sound, WeightsFile, register


@register
class Tiny(Extractor):
    name, title, version = "tiny", "Tiny", 1
    audio_dim, video_dim = 2, 3
    audio_seconds = video_seconds = 0.5
    sound, clip = Sound(8000, 4000, 4000), Clip(10, 5, pad=True)
    weights_files = (WeightsFile("scale", "scale.pt", "two factors", "nowhere"),)

    def __init__(self, weights, quirks, device):
        super().__init__(weights, quirks, device)
        self.factors = weights["scale"]["factors"].numpy()

    @classmethod
    def expected(cls, weights):
        return {"factors": torch.empty(2, device="meta")}

    @classmethod
    def random(cls, weights):
        return {"factors": torch.tensor([1.0, 2.0])}

    def prepare(self, picture):
        return picture.mean((0, 1), dtype=np.float32)[:, None, None] / 255

    def audio(self, waveforms):
        return (np.abs(waveforms).mean(1, keepdims=True) * self.factors).astype(np.float32)

    def video(self, clips):
        return clips.mean((1, 3, 4))
'''


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A plug-in whose features are cheap; forgotten again afterwards."""
    path = tmp_path / "tiny_extractor.py"
    path.write_text(TINY)
    yield path
    EXTRACTORS.pop("tiny", None)


@pytest.fixture
def video_set(tmp_path: Path) -> VideoSet:
    """Nine videos of four classes, lists and word vectors."""
    made = VideoSet(tmp_path / "set")
    made.write()
    return made
