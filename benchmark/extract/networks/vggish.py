"""VGGish: 128-dimensional features of log-mel patches, and their conversion to bytes by principal components.

Source: Hershey et al., CNN architectures for large-scale audio classification, ICASSP 2017, arXiv 1609.09430.
    The
names in the state dict are those of the published PyTorch port. ``extract/media/spectrograms.py`` computes
the patches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

DIM = 128
CHANNELS = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0)
"""Channels of each convolution; 0 is a pooling."""
CLIP = 2.0
"""Components are clipped to this absolute value before they become bytes."""


class Vggish(nn.Module):
    """Log-mel patches ``[N, 1, 96, 64]`` -> embeddings ``[N, 128]``, none of them negative."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = 1
        for channels in CHANNELS:
            if channels:
                layers += [nn.Conv2d(size, channels, 3, padding=1), nn.ReLU()]
                size = channels
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = [nn.Linear(6 * 4 * size, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
        self.fc = nn.Sequential(*hidden, nn.Linear(4096, DIM), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.features(x)
        # channels last, as in the original network
        embedding: Tensor = self.fc(maps.permute(0, 2, 3, 1).flatten(1))
        return embedding


@dataclass(frozen=True)
class Postprocessing:
    """Projects embeddings onto published principal components, and converts the result to bytes.

    Args:
        components: ``[128, 128]`` float32, one component per row.
        means: ``[128, 1]`` float32.
    """

    components: NDArray[np.float32]
    means: NDArray[np.float32]

    def __call__(self, embeddings: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Embeddings ``[N, 128]`` -> ``[N, 128]`` in 0 to 255."""
        projected = np.dot(self.components, embeddings.T - self.means).T
        scaled: NDArray[np.float32] = (np.clip(projected, -CLIP, CLIP) + CLIP) * (255 / (2 * CLIP))
        return scaled.astype(np.uint8)
