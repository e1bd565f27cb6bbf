"""Linear: cross-entropy of the products of a linear map with the class embeddings.

    L = cross-entropy(F(x, .), label)        F: ``compatibility.py``

Nothing simpler learns from audio, video and class embeddings, so every other method should be above it.

Reference: the log-bilinear compatibility of Akata, Perronnin, Harchaoui, Schmid: Label-embedding for image
classification, TPAMI 2016, arXiv:1503.08677, with a softmax over the training classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from benchmark.method import register
from methods.compatibility import Compatibility, CompatibilityConfig

BIBTEX = """@article{akata2016label,
  author  = {Akata, Zeynep and Perronnin, Florent and Harchaoui, Zaid and Schmid, Cordelia},
  title   = {Label-Embedding for Image Classification},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume  = {38},
  number  = {7},
  pages   = {1425--1438},
  year    = {2016},
}"""


@register(
    "linear",
    title="Linear",
    paper="Akata, Perronnin, Harchaoui, Schmid: Label-embedding for image classification, TPAMI 2016, with a "
    "softmax",
    bibtex=BIBTEX,
    inputs="mean",
    note="our baseline: a linear map and a softmax over products with the class embeddings",
)
class LinearSoftmax(Compatibility):
    """A linear map trained by cross-entropy."""

    class Config(CompatibilityConfig):
        """Defaults: ours."""

    def ranking_loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy over the training classes."""
        return functional.cross_entropy(scores, label)
