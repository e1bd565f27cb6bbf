"""Perceiver: learnt latents attend to audio and video tokens. Our adaptation to zero-shot learning.

Tokens as in TCAF (``blocks.TokenStage``). M learnt latents ``[M, dim]`` pass through K blocks, each with its
own weights, all pre-norm and with residuals:

    l <- l + CrossAttention(LN(l), LN(tokens)),   l <- l + GEGLU(LN(l)),
    l <- l + SelfAttention(LN(l)),                l <- l + GEGLU(LN(l))

    theta_o = O_proj(LN(mean over latents)),   O_proj: P(dim, h_d, d)

Loss and training: TCAF's. Evaluated by Euclidean distance of theta_o ``[B, d]`` to theta_w = W_proj(w). No
code of an adaptation was published: this is our own.

Reference: Jaegle et al.: Perceiver: general perception with iterative attention, ICML 2021, arXiv:2103.03206.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import Field, Spec, register
from methods.blocks import Attention, Dropout, SequenceConfig, SequenceMethod, Tokens

BIBTEX = """@inproceedings{jaegle2021perceiver,
  author    = {Jaegle, Andrew and Gimeno, Felix and Brock, Andrew and Zisserman, Andrew and Vinyals, Oriol
               and Carreira, Joao},
  title     = {Perceiver: General Perception with Iterative Attention},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021},
}"""


@register(
    "perceiver",
    title="Perceiver",
    paper="Jaegle et al.: Perceiver: general perception with iterative attention, ICML 2021",
    bibtex=BIBTEX,
    inputs="sequence",
    note="our adaptation to zero-shot learning: no code of the adapted version was published",
)
class Perceiver(SequenceMethod):
    """Latent bottleneck over the tokens of both modalities."""

    class Config(SequenceConfig):
        """Defaults: TCAF's published settings for UCF, cls features, and the Perceiver's own shape."""

        depth: int = Field(4, ge=1, le=32, description="number of blocks")
        latents: int = Field(16, ge=1, description="number of latents")
        cross_heads: int = Field(1, ge=1, description="heads of the cross-attention from the tokens")
        heads: int = Field(8, ge=1, description="heads of the self-attention of the latents")
        dim_head: int = Field(64, ge=1, description="width of a head, in both attentions")
        mlp_factor: int = Field(1, ge=1, description="hidden width of the feed-forwards in units of dim")
        dropout: float = Field(0.3, ge=0, lt=1, description="dropout of attention and feed-forwards")

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        latents = torch.empty(config.latents, config.dim)
        self.latents = nn.Parameter(nn.init.trunc_normal_(latents, std=0.02, a=-2.0, b=2.0))
        self.blocks = nn.ModuleList(PerceiverBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, bias=False)  # a BatchNorm follows, which cancels a bias
        self.sample_projection = self.sample_projection_of(config.dim)

    def fuse(self, audio: Tokens, video: Tokens) -> dict[str, Tensor]:
        """theta_o from the mean of the latents, ``[B, d]``."""
        tokens = torch.cat([audio.padded(), video.padded()], dim=1)
        mask = torch.cat([audio.mask, video.mask], dim=1).unsqueeze(1)
        x = self.latents.expand(len(tokens), -1, -1).to(tokens.dtype)
        for block in self.blocks:
            x = block(x, tokens, mask)
        return {"joint": self.sample_projection(self.norm(x.mean(dim=1)))}


class PerceiverBlock(nn.Module):
    """Cross-attention, feed-forward, self-attention, feed-forward; each pre-norm with a residual."""

    def __init__(self, config: Perceiver.Config) -> None:
        super().__init__()
        c = config
        self.token_norm = nn.LayerNorm(c.dim)
        self.norms = nn.ModuleList(nn.LayerNorm(c.dim) for _ in range(4))
        self.cross = Attention(c.dim, heads=c.cross_heads, dim_head=c.dim_head, dropout=c.dropout)
        self.cross_feed_forward = GatedFeedForward(c.dim, c.mlp_factor * c.dim, c.dropout)
        self.own = Attention(c.dim, heads=c.heads, dim_head=c.dim_head, dropout=c.dropout)
        self.own_feed_forward = GatedFeedForward(c.dim, c.mlp_factor * c.dim, c.dropout)

    def forward(self, latents: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Update latents ``[B, M, dim]`` from tokens ``[B, N, dim]``; ``mask`` ``[B, 1, N]``: real tokens."""
        x = latents + self.cross(self.norms[0](latents), self.token_norm(tokens), mask)
        x = x + self.cross_feed_forward(self.norms[1](x))
        x = x + self.own(self.norms[2](x))
        out: Tensor = x + self.own_feed_forward(self.norms[3](x))
        return out


class GatedFeedForward(nn.Module):
    """GEGLU: x * GELU(g) of a Linear's halves, dropout, Linear, dropout (Shazeer, arXiv:2002.05202)."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, 2 * hidden)
        self.leave = nn.Linear(hidden, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., dim]`` to ``[..., dim]``."""
        value, gate = self.enter(x).chunk(2, dim=-1)
        out: Tensor = self.dropout(self.leave(self.dropout(value * functional.gelu(gate))))
        return out
