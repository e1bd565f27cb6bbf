"""ResNet-9 for spectrograms: one residual block per stage, one input channel.

Source: He et al., Deep residual learning for image recognition, CVPR 2016, arXiv 1512.03385, as used for
    audio by
SeLaVi (arXiv 2006.13662). The names in the state dict are those of torchvision's ResNets, without the last
layer.
"""

from __future__ import annotations

from torch import Tensor, nn

DIM = 512


class ResNet9(nn.Module):
    """Spectrograms ``[N, 1, filters, frames]`` -> the pooled output of the last block ``[N, 512]``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(_Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2))
        self.layer3 = nn.Sequential(_Block(128, 256, 2))
        self.layer4 = nn.Sequential(_Block(256, DIM, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        pooled: Tensor = self.avgpool(h).flatten(1)
        return pooled


class _Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = x if self.downsample is None else self.downsample(x)
        h: Tensor = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + residual)
        return h
