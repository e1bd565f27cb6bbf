"""R(2+1)D-18: 512-dimensional features of clips.

Source: Tran et al., A closer look at spatiotemporal convolutions for action recognition, CVPR 2018, arXiv
    1711.11248.
The names in the state dict are those of torchvision's ``r2plus1d_18`` without the last layer, as SeLaVi
publishes it.
"""

from __future__ import annotations

from torch import Tensor, nn

DIM = 512


class R2plus1d18(nn.Module):
    """Clips ``[N, 3, T, H, W]`` -> the pooled output of the last block ``[N, 512]``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(3, 45, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
            nn.BatchNorm3d(45),
            nn.ReLU(),
            nn.Conv3d(45, 64, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(64),
            nn.ReLU(),
        )
        self.layer1 = _layer(64, 64, 1)
        self.layer2 = _layer(64, 128, 2)
        self.layer3 = _layer(128, 256, 2)
        self.layer4 = _layer(256, DIM, 2)
        self.avgpool = nn.AdaptiveAvgPool3d(1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        pooled: Tensor = self.avgpool(h).flatten(1)
        return pooled


class _FactorisedBlock(nn.Module):
    """A residual block of two convolutions, each factorised into one over space and one over time."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = inputs * outputs * 27 // (inputs * 9 + 3 * outputs)  # as many weights as one 3D convolution
        self.conv1 = nn.Sequential(
            _factorised(inputs, outputs, middle, stride), nn.BatchNorm3d(outputs), nn.ReLU()
        )
        self.conv2 = nn.Sequential(_factorised(outputs, outputs, middle, 1), nn.BatchNorm3d(outputs))
        self.relu = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm3d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        h: Tensor = self.relu(self.conv2(self.conv1(x)) + residual)
        return h


def _factorised(inputs: int, outputs: int, middle: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, middle, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(),
        nn.Conv3d(middle, outputs, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False),
    )


def _layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_FactorisedBlock(inputs, outputs, stride), _FactorisedBlock(outputs, outputs, 1))
