"""Feature set ``cls``: VGGish with its post-processing for audio, C3D for frames.

As in the descriptions of the published extraction (AVCA-GZSL, TCAF-GZSL): audio at 16 kHz, a time step per
0.96 s; frames at 25 a second, a time step per 16 frames, resized to 128 x 171 and cropped to 112 x 112. What
the published code did differently are its quirks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmark.extract.extractor import Clip, Extractor, Features, Sound, State, WeightsFile, register
from benchmark.extract.media.images import normalise, smooth_resize
from benchmark.extract.media.spectrograms import MEL_HOP, MEL_RATE, MEL_WINDOW, PATCH, log_mel_patches
from benchmark.extract.networks.building import network, random_state, skeleton
from benchmark.extract.networks.c3d import DIM as C3D_DIM
from benchmark.extract.networks.c3d import C3d
from benchmark.extract.networks.vggish import DIM as VGGISH_DIM
from benchmark.extract.networks.vggish import Postprocessing, Vggish

HEIGHT, WIDTH, CROP = 128, 171, 112
TOP, LEFT = 8, 30
"""Corner of the crop."""
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
NETWORKS = {"vggish": Vggish, "c3d": C3d}
COMPONENTS, MEANS = "pca_eigen_vectors", "pca_means"


@register
class Cls(Extractor):
    """VGGish and C3D, both trained with labels."""

    name = "cls"
    title = "VGGish and C3D"
    version = 1
    audio_dim, video_dim = VGGISH_DIM, C3D_DIM
    audio_seconds, video_seconds = 0.96, 0.64
    sound = Sound(MEL_RATE, window=(PATCH - 1) * MEL_HOP + MEL_WINDOW, hop=PATCH * MEL_HOP)
    clip = Clip(25, 16, pad=True)
    quirks = frozenset({"bgr", "inverted", "own_rate", "sixteen_bit"})
    weights_files = (
        WeightsFile(
            "vggish",
            "pytorch_vggish.pth",
            "VGGish",
            "github.com/tcvrick/audioset-vggish-tensorflow-to-pytorch (releases)",
        ),
        WeightsFile(
            "vggish_pca",
            "vggish_pca_params.npz",
            "principal components of VGGish",
            "github.com/tensorflow/models, research/audioset/vggish",
        ),
        WeightsFile("c3d", "c3d.pickle", "C3D trained on Sports-1M", "github.com/DavideA/c3d-pytorch"),
    )

    def __init__(self, weights: Mapping[str, State], quirks: frozenset[str], device: str) -> None:
        super().__init__(weights, quirks, device)
        self.vggish = network(Vggish, weights["vggish"], device)
        self.c3d = network(C3d, weights["c3d"], device)
        pca = weights["vggish_pca"]
        self.postprocess = Postprocessing(pca[COMPONENTS].float().numpy(), pca[MEANS].float().numpy())

    @classmethod
    def expected(cls, weights: str) -> State:
        if weights in NETWORKS:
            return skeleton(NETWORKS[weights])
        return {
            COMPONENTS: torch.empty(VGGISH_DIM, VGGISH_DIM, device="meta"),
            MEANS: torch.empty(VGGISH_DIM, 1, device="meta"),
        }

    @classmethod
    def random(cls, weights: str) -> State:
        if weights in NETWORKS:
            return random_state(NETWORKS[weights])
        return {COMPONENTS: torch.eye(VGGISH_DIM), MEANS: torch.zeros(VGGISH_DIM, 1)}

    def prepare(self, frame: NDArray[np.uint8]) -> Features:
        if "bgr" in self.repeated:
            frame = frame[:, :, ::-1]
        if "inverted" in self.repeated:
            frame = -frame  # modulo 256: 0 stays 0
        resized = smooth_resize(frame, HEIGHT, WIDTH)
        return normalise(resized[TOP : TOP + CROP, LEFT : LEFT + CROP], MEAN, STD)

    def audio(self, waveforms: NDArray[np.floating[Any]]) -> Features:
        patches = np.concatenate([log_mel_patches(waveform) for waveform in waveforms])
        embeddings = self.run(self.vggish, torch.from_numpy(patches)[:, None])
        return self.postprocess(embeddings).astype(np.float32)

    def video(self, clips: Features) -> Features:
        return self.run(self.c3d, torch.from_numpy(clips).transpose(1, 2))
