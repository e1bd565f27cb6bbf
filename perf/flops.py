"""Floating-point operations that a training step of TCAF needs, without padding and unused results.

A multiply-add counts as 2. Matrix products and attention count; element-wise work does not.
``tests/perf/test_measuring.py`` compares the formula with torch's counter on a batch without padding, in
which only the last layer has unused results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.inspection import cpu_attention
from benchmark.method import Spec


def tcaf_step(
    config: Any, spec: Spec, audio_steps: Sequence[int], video_steps: Sequence[int], classes: int
) -> float:
    """Operations of forward and backward for a batch whose samples have these numbers of time steps.

    The backward of a product costs two products, or one if the input needs no gradient (features, class
    embeddings, times).
    """
    c, batch = config, len(audio_steps)
    leaves, inside = _embedding(c, spec, audio_steps, video_steps)
    leaves += (batch + classes) * spec.text_dim * c.embedding_dim  # word projections
    inside += batch * (c.embedding_dim * c.decoder_hidden + c.decoder_hidden * spec.text_dim)  # D_o
    inside += batch * c.embedding_dim * (spec.text_dim + classes)  # D_w and cross-entropy
    return 2.0 * (2 * leaves + 3 * inside)


def tcaf_embedding(config: Any, spec: Spec, audio_steps: Sequence[int], video_steps: Sequence[int]) -> float:
    """Operations of the forward pass for samples that are embedded for an evaluation."""
    return 2.0 * sum(_embedding(config, spec, audio_steps, video_steps))


def _embedding(c: Any, spec: Spec, audio_steps: Sequence[int], video_steps: Sequence[int]) -> tuple[int, int]:
    """Multiply-adds of embedding samples: products whose input needs no gradient, and the others."""
    batch, audio, video = len(audio_steps), sum(audio_steps), sum(video_steps)
    tokens, inner = batch + audio + video, c.heads * c.dim_head
    leaves = (audio * spec.audio_dim + video * spec.video_dim) * c.encoder_hidden
    leaves += (audio + video) * c.token_size**2  # of the positions
    inside = (audio + video) * (c.encoder_hidden * c.dim + (c.dim + c.token_size) * c.dim)
    feed_forward = 2 * c.dim * c.mlp_dim
    inside += (c.depth - 1) * tokens * (4 * c.dim * inner + feed_forward)
    pairs = [pairs_of(a, v, c.sees) for a, v in zip(audio_steps, video_steps, strict=True)]
    inside += (c.depth - 1) * 2 * inner * sum(pairs)
    # The last layer computes only the class token.
    inside += batch * (4 * c.dim * inner + feed_forward) + 2 * c.heads * c.dim * tokens
    inside += batch * (c.dim * c.decoder_hidden + c.decoder_hidden * c.embedding_dim)  # O_proj
    return leaves, inside


def pairs_of(audio: int, video: int, sees: str) -> int:
    """Number of token pairs of a sample that attend to each other, including the class token."""
    steps = {"cross": 2 * audio * video, "self": audio**2 + video**2, "all": (audio + video) ** 2}[sees]
    return steps + 2 * (audio + video) + 1


def counter() -> FlopCounterMode:
    """Torch's counter, with the CPU's attention: its backward counts as two forwards."""

    forward = cpu_attention()
    backward = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)

    def twice(_: object, *arguments: Any, **options: Any) -> int:
        return 2 * sum(count(*arguments, **options) for count in forward.values())

    return FlopCounterMode(
        display=False, custom_mapping={**forward, **({} if backward is None else {backward: twice})}
    )
