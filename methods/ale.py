"""ALE: a linear map trained by hinge losses that count more where the right class ranks high.

    r(x) = number of c != label with margin + F(x, c) > F(x, label),   l(r) = 1 + 1/2 + ... + 1/r
    L    = mean over samples of l(r)/r * sum over c != label of max(margin + F(x, c) - F(x, label), 0)

F: ``compatibility.py``; a sample with r = 0 has the loss 0. An image method on concatenated temporal means:
our adaptation, like that of AVCA's Table 2, whose code was not published.

Reference: Akata, Perronnin, Harchaoui, Schmid: Label-embedding for image classification, TPAMI 2016,
arXiv:1503.08677.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.method import Field, register
from methods.compatibility import ADAPTED, Compatibility, CompatibilityConfig, violations
from methods.linear import BIBTEX


@register(
    "ale",
    title="ALE",
    paper="Akata, Perronnin, Harchaoui, Schmid: Label-embedding for image classification, TPAMI 2016",
    bibtex=BIBTEX,
    inputs="mean",
    note=ADAPTED,
)
class Ale(Compatibility):
    """A linear map trained by weighted approximate ranking."""

    class Config(CompatibilityConfig):
        """Defaults: ours."""

        margin: float = Field(1.0, gt=0, description="margin by which the right class shall lead")

    def ranking_loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """Hinge losses of the wrong classes, weighted by l(r)/r."""
        hinges = violations(scores, label, self.config.margin)
        rank = (hinges > 0).sum(1)
        weights = 1 / torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
        summed = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
        return (summed[rank] / rank.clamp(min=1) * hinges.sum(1)).mean()
