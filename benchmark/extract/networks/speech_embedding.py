"""Google's speech embedding: 96-dimensional features of 0.78 s of audio. No other module imports LiteRT.

Source: Lin et al., Training keyword spotters with limited and synthesized speech data, ICASSP 2020, arXiv
    2002.01322,
in the form of github.com/dscripka/openWakeWord: one network computes a log-mel spectrogram, another the
embedding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import UsageError
from benchmark.system.shipped_files import install

DIM = 96
RATE = 16_000
FRAMES, BANDS = 76, 32
"""Size of the spectrogram that an embedding is computed from."""
FRAME, FRAME_HOP = 512, 160
"""Samples of a frame of the spectrogram, and between the beginnings of two frames."""
WINDOW = FRAME + (FRAMES - 1) * FRAME_HOP
"""Samples of a time step."""
HOP = 8 * FRAME_HOP
"""Samples between the beginnings of two time steps: 80 ms."""


class SpeechEmbedding:
    """Both networks, one after the other.

    Args:
        melspectrogram: content of ``melspectrogram.tflite``.
        embedding: content of ``embedding_model.tflite``.

    Raises:
        UsageError: LiteRT is not installed.
    """

    def __init__(self, melspectrogram: bytes, embedding: bytes) -> None:
        self._melspectrogram = _Network(melspectrogram)
        self._embedding = _Network(embedding)

    def __call__(self, waveforms: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Windows ``[N, 12512]`` in -1 to 1 -> ``[N, 96]``."""
        spectra = self._melspectrogram((waveforms * 2**15).astype(np.float32))
        # as in the training of the embedding
        scaled = spectra.reshape(len(waveforms), FRAMES, BANDS, 1) / 10 + 2
        return self._embedding(scaled.astype(np.float32)).reshape(len(waveforms), DIM)


class _Network:
    """A LiteRT network, for any number of inputs."""

    def __init__(self, content: bytes) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise UsageError(f"LiteRT is not installed: {install('encoders')}") from None
        self._interpreter: Any = Interpreter(model_content=content, num_threads=1)
        self._input: Any = self._interpreter.get_input_details()[0]["index"]
        self._output: Any = self._interpreter.get_output_details()[0]["index"]
        self._shape: tuple[int, ...] = ()

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        if x.shape != self._shape:
            self._interpreter.resize_tensor_input(self._input, x.shape, strict=True)
            self._interpreter.allocate_tensors()
            self._shape = x.shape
        self._interpreter.set_tensor(self._input, x)
        self._interpreter.invoke()
        out: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return out
