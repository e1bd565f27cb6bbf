"""How methods that were made for word vectors take the longer class embeddings of CLIP and CLAP.

One trainable layer on the class embedding replaces the word vector. Kurzendörfer et al. (CVPR
workshops 2024) report such rows; width and code of their layer are not published, so ours is an adaptation:
P(D_w, 300), 300 being the size of a word vector.
"""

from __future__ import annotations

from torch import nn

from benchmark.method import Field, MethodConfig
from methods.blocks import Projection

__all__ = ["TextLayerConfig", "text_layer"]


class TextLayerConfig(MethodConfig):
    """Hyperparameters of a method that can have such a layer."""

    text_layer: int = Field(
        0, ge=0, description="width of a trainable layer on the class embeddings; 0: none, as published"
    )


def text_layer(inputs: int, width: int) -> tuple[nn.Module, int]:
    """The layer, which maps class embeddings ``[C, inputs]`` to ``[C, width]``, and the size of its result.

    With width 0 it returns its input.
    """
    return (Projection(inputs, width), width) if width else (nn.Identity(), inputs)
