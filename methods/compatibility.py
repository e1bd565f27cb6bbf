"""A bilinear compatibility of samples and classes, which the linear baselines share.

    x = BatchNorm([x_a, x_v])               without affine parameters, ``[B, D_a + D_v]``
    z = W dropout(x)                        ``[B, D_w]``
    F(x, c) = z . t_c                       t_c: class embedding of length 1, ``[B, C]``

x_a and x_v are the temporal means of the features. Evaluated by the Euclidean distance of z to t_c: of one
sample it ranks the classes as F does, since all t_c have the same length.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import Batch, Classes, Embeddings, Field, Method, MethodConfig, Spec
from methods.blocks import Dropout, labels_of

__all__ = ["ADAPTED", "Compatibility", "CompatibilityConfig", "violations"]

ADAPTED = "our adaptation of an image method: audio and video as one concatenated mean"


class CompatibilityConfig(MethodConfig):
    """Nothing is published for these inputs; the defaults are ours."""

    weight_decay: float = Field(1e-5, ge=0, le=1, description="L2 penalty of Adam")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the normalised features")


class Compatibility(Method):
    """A linear map of the temporal means to the space of the class embeddings."""

    def __init__(self, config: CompatibilityConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        inputs = spec.audio_dim + spec.video_dim
        self.norm = nn.BatchNorm1d(inputs, affine=False)
        self.dropout = Dropout(config.dropout)
        self.map = nn.Linear(inputs, spec.text_dim, bias=False)

    def mapped(self, batch: Batch) -> Tensor:
        """z, ``[B, D_w]``."""
        z: Tensor = self.map(self.dropout(self.norm(torch.cat([batch.audio, batch.video], dim=1))))
        return z

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """``total``: the ranking loss of F over all training classes."""
        scores = self.mapped(batch) @ self.embed_classes(classes.text).T
        return {"total": self.ranking_loss(scores, labels_of(batch))}

    @abstractmethod
    def ranking_loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """The loss of F ``[B, C]`` and labels ``[B]``, a mean over the samples."""

    def embed(self, batch: Batch) -> Embeddings:
        """Output ``joint``: z."""
        return Embeddings({"joint": self.mapped(batch)})

    def embed_classes(self, text: Tensor) -> Tensor:
        """t, ``[C, D_w]``."""
        return functional.normalize(text, dim=1)


def violations(scores: Tensor, label: Tensor, margin: float) -> Tensor:
    """max(margin + F(x, c) - F(x, label), 0) of each class, 0 at the label, ``[B, C]``."""
    right = scores.gather(1, label[:, None])
    wrong = functional.one_hot(label, scores.shape[1]) == 0
    return torch.relu(margin + scores - right) * wrong
