"""Loss terms that several methods share. The losses of a single method are in its file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["WordSide", "distance_to", "tcaf_losses", "triplet"]


@dataclass(frozen=True)
class WordSide:
    """What the TCAF loss needs of the class embeddings of a batch."""

    text: Tensor
    """Class embeddings w of the labels, ``[B, D_w]``."""
    embedding: Tensor
    """Their projections theta_w, ``[B, d]``."""
    reconstruction: Tensor
    """Class embeddings decoded from theta_w, ``[B, D_w]``."""
    class_embeddings: Tensor
    """Projections theta_w of all training classes, ``[C, d]``."""
    label: Tensor
    """``[B]`` rows of ``class_embeddings``."""


def tcaf_losses(embedding: Tensor, reconstruction: Tensor, words: WordSide) -> dict[str, Tensor]:
    """The loss of TCAF (Mercea et al., ECCV 2022) for one embedding theta_o of the samples.

    - ``classification``: cross-entropy of the dot products of theta_o with all training classes;
    - ``regression``: MSE(theta_o, theta_w);
    - ``reconstruction``: MSE(w, D_o(theta_o)) + MSE(w, D_w(theta_w));
    - ``total``: their sum.

    Args:
        embedding: theta_o, ``[B, d]``.
        reconstruction: D_o(theta_o), ``[B, D_w]``.
        words: the class embeddings of the batch.
    """
    classification = functional.cross_entropy(embedding @ words.class_embeddings.T, words.label)
    regression = functional.mse_loss(embedding, words.embedding)
    decoded = functional.mse_loss(words.text, reconstruction) + functional.mse_loss(
        words.text, words.reconstruction
    )
    return {
        "total": classification + regression + decoded,
        "classification": classification,
        "regression": regression,
        "reconstruction": decoded,
    }


def triplet(
    anchor: Tensor, positive: Tensor, negative: Tensor, margin: float, reduction: str = "mean"
) -> Tensor:
    """T(a, p, n) = max(|a - p| - |a - n| + margin, 0) with Euclidean distances of rows ``[B, d]``.

    Returns the mean, or ``[B]`` with ``reduction="none"``.
    """
    return functional.triplet_margin_loss(anchor, positive, negative, margin=margin, reduction=reduction)


def distance_to(target: Tensor, x: Tensor) -> Tensor:
    """Mean Euclidean distance of the rows of ``x`` ``[B, d]`` to those of ``target`` ``[B, d]``.

    Values and gradients are those of the published code, a plain square root of the sum of squares, except
    for equal rows. Their gradient is zero here. In the published code it is NaN and ends the training.
    """
    distances: Tensor = torch.linalg.vector_norm(x - target, dim=1)
    return distances.mean()
