"""C3D: 4096-dimensional features of clips of 16 frames.

Source: Tran et al., Learning spatiotemporal features with 3D convolutional networks, ICCV 2015, arXiv
    1412.0767. The
names in the state dict are those of the published PyTorch port of the weights trained on Sports-1M.
"""

from __future__ import annotations

from torch import Tensor, nn

DIM = 4096
SPORTS_1M_CLASSES = 487


class C3d(nn.Module):
    """Clips ``[N, 3, 16, 112, 112]`` -> the second fully connected layer after its ReLU, ``[N, 4096]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _convolution(3, 64)
        self.conv2 = _convolution(64, 128)
        self.conv3a = _convolution(128, 256)
        self.conv3b = _convolution(256, 256)
        self.conv4a = _convolution(256, 512)
        self.conv4b = _convolution(512, 512)
        self.conv5a = _convolution(512, 512)
        self.conv5b = _convolution(512, 512)
        self.fc6 = nn.Linear(8192, DIM)
        self.fc7 = nn.Linear(DIM, DIM)
        self.fc8 = nn.Linear(DIM, SPORTS_1M_CLASSES)  # not used, but in the published weights
        self.relu = nn.ReLU()
        self.first_pool = nn.MaxPool3d((1, 2, 2))
        self.pool = nn.MaxPool3d(2)
        self.last_pool = nn.MaxPool3d(2, padding=(0, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        relu = self.relu
        h = self.first_pool(relu(self.conv1(x)))
        h = self.pool(relu(self.conv2(h)))
        h = self.pool(relu(self.conv3b(relu(self.conv3a(h)))))
        h = self.pool(relu(self.conv4b(relu(self.conv4a(h)))))
        h = self.last_pool(relu(self.conv5b(relu(self.conv5a(h)))))
        fc7: Tensor = relu(self.fc7(relu(self.fc6(h.flatten(1)))))
        return fc7


def _convolution(inputs: int, outputs: int) -> nn.Conv3d:
    return nn.Conv3d(inputs, outputs, 3, padding=1)
