"""Loss terms that several methods share. Losses of a single method stand in that method's file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["WordSide", "distance_to", "tcaf_losses", "triplet"]


@dataclass(frozen=True)
class WordSide:
    """What the TCAF loss needs of the word vectors of a batch."""

    text: Tensor
    """Word vectors of the labels, ``[B, D_w]``."""
    embedding: Tensor
    """Their embeddings theta_w, ``[B, d]``."""
    reconstruction: Tensor
    """Word vectors decoded from theta_w, ``[B, D_w]``."""
    class_embeddings: Tensor
    """Embeddings of all training classes, ``[C, d]``."""
    label: Tensor
    """``[B]`` rows of ``class_embeddings``."""


def tcaf_losses(embedding: Tensor, reconstruction: Tensor, words: WordSide) -> dict[str, Tensor]:
    """The loss of TCAF (Mercea et al., ECCV 2022) for one embedding theta_o of the samples.

    - ``classification``: cross-entropy of the products of theta_o with all training classes;
    - ``regression``: MSE(theta_o, theta_w);
    - ``reconstruction``: MSE(w, D_o(theta_o)) + MSE(w, D_w(theta_w));
    - ``total``: their sum.

    Args:
        embedding: theta_o, ``[B, d]``.
        reconstruction: D_o(theta_o), ``[B, D_w]``.
        words: the word side of the batch.
    """
    classification = functional.cross_entropy(embedding @ words.class_embeddings.T, words.label)
    regression = functional.mse_loss(embedding, words.embedding)
    decoded = functional.mse_loss(words.text, reconstruction) + functional.mse_loss(words.text, words.reconstruction)
    return {
        "total": classification + regression + decoded,
        "classification": classification,
        "regression": regression,
        "reconstruction": decoded,
    }


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, reduction: str = "mean") -> Tensor:
    """T(a, p, n) = max(|a - p| - |a - n| + margin, 0) with Euclidean distances of rows ``[B, d]``.

    Returns the mean, or ``[B]`` with ``reduction="none"``.
    """
    return functional.triplet_margin_loss(anchor, positive, negative, margin=margin, reduction=reduction)


def distance_to(target: Tensor, x: Tensor) -> Tensor:
    """Mean Euclidean distance of the rows of ``x`` ``[B, d]`` to those of ``target`` ``[B, d]``.

    It is the plain square root of the sum of squares, as published, and so are its gradients. Rows that are equal have
    gradient zero here. The published square root gives NaN for them, which would end the training.
    """
    distances: Tensor = torch.linalg.vector_norm(x - target, dim=1)
    return distances.mean()
