"""ESZSL: a linear map in closed form.

    W = (X^T X + gamma I)^-1 X^T Y S (S^T S + lambda I)^-1

X ``[N, D]`` holds the training samples, with columns of mean 0 and deviation 1; Y ``[N, C]`` is 1 at the
label and -1 elsewhere; S ``[C, D_w]`` holds the class embeddings, of length 1. Evaluated as in
``compatibility.py``.

One pass over the training samples and no gradient step: settings of training (epochs, batches, learning rate)
change nothing. gamma and lambda are in units of N and of C/D_w, so that they suit any dataset.

Reference: Romera-Paredes, Torr: An embarrassingly simple approach to zero-shot learning, ICML 2015.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import (
    Batch,
    Classes,
    Embeddings,
    Field,
    FitResult,
    Method,
    MethodConfig,
    Spec,
    TrainingData,
    TrainingLoop,
    register,
)
from methods.blocks import labels_of
from methods.compatibility import ADAPTED
from methods.one_validation import validated_once

BIBTEX = """@inproceedings{romera2015embarrassingly,
  author    = {Romera-Paredes, Bernardino and Torr, Philip H. S.},
  title     = {An Embarrassingly Simple Approach to Zero-Shot Learning},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2015},
}"""
BLOCK = 256
"""Samples that are read together."""


@register(
    "eszsl",
    title="ESZSL",
    paper="Romera-Paredes, Torr: An embarrassingly simple approach to zero-shot learning, ICML 2015",
    bibtex=BIBTEX,
    inputs="mean",
    note=ADAPTED,
)
class Eszsl(Method):
    """A linear map that ridge regression of both sides gives."""

    class Config(MethodConfig):
        """Defaults: ours."""

        gamma: float = Field(1.0, gt=0, description="regularisation of the features' side, in units of N")
        lam: float = Field(1.0, gt=0, description="regularisation of the classes' side, in units of C / D_w")

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        inputs = spec.audio_dim + spec.video_dim
        self.map = nn.Parameter(torch.zeros(inputs, spec.text_dim))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("deviation", torch.ones(inputs))

    def _standardised(self, batch: Batch) -> Tensor:
        """X, ``[B, D]``."""
        x = torch.cat([batch.audio, batch.video], dim=1)
        out: Tensor = (x - self.get_buffer("mean")) / self.get_buffer("deviation")
        return out

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """``total``: the squared error of X W S^T, a mean over samples and classes. ``fit`` needs no loss."""
        scores = self._standardised(batch) @ self.map @ self.embed_classes(classes.text).T
        return {"total": functional.mse_loss(scores, signs(labels_of(batch), scores.shape[1]))}

    def embed(self, batch: Batch) -> Embeddings:
        """Output ``joint``: X W, ``[B, D_w]``."""
        return Embeddings({"joint": self._standardised(batch) @ self.map})

    def embed_classes(self, text: Tensor) -> Tensor:
        """S, ``[C, D_w]``."""
        return functional.normalize(text, dim=1)

    @torch.no_grad()
    def fit(self, data: TrainingData, loop: TrainingLoop) -> FitResult:
        """Solve for W, in float64."""
        started, device = time.perf_counter(), self.map.device

        def samples() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in data.batches.each(BLOCK):
                yield torch.cat([batch.audio, batch.video], dim=1).to(device).double(), labels_of(batch)

        # Means and deviations of the features; a feature that never changes is left out.
        sums = [(len(x), x.sum(0)) for x, _ in samples()]
        count = sum(number for number, _ in sums)
        mean = torch.stack([total for _, total in sums]).sum(0) / count
        variance = torch.stack([(x - mean).square().sum(0) for x, _ in samples()]).sum(0) / count
        deviation = torch.where(variance > 0, variance.sqrt(), torch.inf)
        self.get_buffer("mean").copy_(mean)
        self.get_buffer("deviation").copy_(deviation)

        # X^T X and X^T Y S.
        s = self.embed_classes(data.batches.classes.text.to(device).double())
        inputs, size = len(mean), s.shape[1]
        xx, xys = mean.new_zeros(inputs, inputs), mean.new_zeros(inputs, size)
        for x, label in samples():
            x = (x - mean) / deviation
            xx += x.T @ x
            xys += x.T @ (signs(label.to(device), len(s)).double() @ s)

        # The two ridge regressions.
        xx.diagonal().add_(self.config.gamma * count)
        ss = s.T @ s
        ss.diagonal().add_(self.config.lam * len(s) / size)
        self.map.copy_(torch.linalg.solve(ss, torch.linalg.solve(xx, xys).T).T)

        return validated_once(self, data, loop, started)


def signs(label: Tensor, classes: int) -> Tensor:
    """Y: 1 at the label, -1 elsewhere, ``[B, C]``."""
    return 2.0 * functional.one_hot(label, classes) - 1.0
