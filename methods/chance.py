"""Chance: what a method reaches that knows nothing. A control; nothing is trained.

    z = sin(f x R)        R: random ``[D_a + D_v, D_w]``, f so large that neighbours have unlike z

x are the temporal means of audio and video. A sample always has the same random direction.
So each of C classes is right for 1 / C of the samples on average (ZSL).
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import (
    Batch,
    Classes,
    Embeddings,
    FitResult,
    Method,
    MethodConfig,
    Spec,
    TrainingData,
    TrainingLoop,
    register,
)
from methods.one_validation import validated_once

FREQUENCY = 1e4
"""f in units of one over the length of x."""


@register(
    "chance",
    title="Chance",
    paper="",
    bibtex="",
    inputs="mean",
    note="control: random embeddings, nothing is trained",
)
class Chance(Method):
    """Random embeddings of samples."""

    control = "chance"

    class Config(MethodConfig):
        """There is nothing to set."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        random = torch.randn(spec.audio_dim + spec.video_dim, spec.text_dim)
        self.map = nn.Parameter(random, requires_grad=False)

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """``total``: 0; ``fit`` needs no loss."""
        return {"total": self.map.new_zeros(())}

    def embed(self, batch: Batch) -> Embeddings:
        """Output ``joint``: z, ``[B, D_w]``."""
        x = functional.normalize(torch.cat([batch.audio, batch.video], dim=1).double(), dim=1)
        with torch.autocast(x.device.type, enabled=False):
            return Embeddings({"joint": torch.sin(FREQUENCY * (x @ self.map.double())).float()})

    def embed_classes(self, text: Tensor) -> Tensor:
        """The class embeddings with length 1, ``[C, D_w]``."""
        return functional.normalize(text, dim=1)

    def fit(self, data: TrainingData, loop: TrainingLoop) -> FitResult:
        """Choose beta."""
        return validated_once(self, data, loop, time.perf_counter())
