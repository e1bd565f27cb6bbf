"""Why the published methods stay below a linear map on stamps: one change at a time, from one to the other.

    x = BatchNorm([x_a, x_v])
    z = f(x)                      f: one linear layer, or two with BatchNorm, ReLU and dropout between them
    t_c                           class embedding with length 1
    s_c = t_c or g(t_c)           fixed, or learned: g is Linear, BatchNorm, ReLU, dropout, and s_c has
                                  length 1 or its own length
    softmax: cross-entropy of -|z - s_c|^2 over all training classes
    triplet: max(1 + |z - s_label| - |z - s_other|, 0) with one random other class

``datasets/stamps/defaults.md`` has the command that runs the variants, and what they reach.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import Batch, Classes, Field, Spec, register
from methods.blocks import Dropout, labels_of
from methods.compatibility import Compatibility, CompatibilityConfig
from methods.linear import BIBTEX


class Variant(Compatibility):
    """A map of the features and one of the class embeddings, compared by Euclidean distance."""

    class Config(CompatibilityConfig):
        """The sizes of the published methods on stamps."""

        hidden: int = Field(128, ge=1, description="width of the hidden layer, if there is one")
        size: int = Field(300, ge=1, description="size of the common space, if the class side is learned")
        inner_dropout: float = Field(0.3, ge=0, lt=1, description="dropout of the learned layers")

    two_layers: ClassVar[bool] = True
    learned: ClassVar[bool] = False
    own_length: ClassVar[bool] = False
    triplet: ClassVar[bool] = False

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        inputs, size = spec.audio_dim + spec.video_dim, config.size if self.learned else spec.text_dim
        if self.two_layers:
            first = self._layer(inputs, config.hidden)
            self.map = nn.Sequential(*first, nn.Linear(config.hidden, size))  # type: ignore[assignment]
        else:
            self.map = nn.Linear(inputs, size, bias=False)
        self.classes = nn.Sequential(*(self._layer(spec.text_dim, size) if self.learned else ()))

    def _layer(self, inputs: int, outputs: int) -> list[nn.Module]:
        layers = [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
        return [*layers, Dropout(self.config.inner_dropout)]

    def embed_classes(self, text: Tensor) -> Tensor:
        """s, ``[C, d]``."""
        s: Tensor = self.classes(functional.normalize(text, dim=1))
        return s if self.own_length else functional.normalize(s, dim=1)

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """``total``: the softmax or the triplet loss."""
        label = labels_of(batch)
        distances = torch.cdist(self.mapped(batch), self.embed_classes(classes.text))
        if not self.triplet:
            return {"total": functional.cross_entropy(-(distances**2), label)}
        other = torch.randint_like(label, distances.shape[1] - 1)
        other = other + (other >= label)
        right, wrong = (distances.gather(1, which[:, None]) for which in (label, other))
        return {"total": torch.relu(1 + right - wrong).mean()}

    def ranking_loss(self, scores: Tensor, label: Tensor) -> Tensor:
        """Not used: ``loss`` is of distances."""
        raise NotImplementedError


def _register(name: str, title: str) -> type:
    return register(name, title=title, paper="", bibtex=BIBTEX, inputs="mean", note="a variant of Linear")


@_register("fixed", "Softmax, one layer, class embeddings fixed")
class Fixed(Variant):
    two_layers = False


@_register("fixed_two", "Softmax, class embeddings fixed")
class FixedTwo(Variant):
    pass


@_register("learned", "Softmax, class side learned, one length")
class Learned(Variant):
    learned = True


@_register("learned_length", "Softmax, class side learned, own lengths")
class LearnedLength(Variant):
    learned = own_length = True


@_register("fixed_triplet", "Triplets, class embeddings fixed")
class FixedTriplet(Variant):
    triplet = True


@_register("learned_triplet", "Triplets, class side learned, one length")
class LearnedTriplet(Variant):
    learned = triplet = True


@_register("learned_length_triplet", "Triplets, class side learned, own lengths")
class LearnedLengthTriplet(Variant):
    learned = own_length = triplet = True
