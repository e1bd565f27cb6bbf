"""AVCA: audio and video attend to each other, one token each.

    phi_m   = m_enc(x_m)                 m_enc: P(D_m, h_e, dim), m in {a, v}
    [a, v]  = phi + Transformer(phi + position)            two tokens, position fixed at random
    theta_m = m_proj(m)                  m_proj: P(dim, h_d, d)
    theta_w = W_proj(w)                  P(D_w, d)
    rho_x   = D(theta_x), x in {a, v, w} P(d, D_w), shared;   m_rec: P(d, dim)

With T the triplet loss (margin 1) and n the sample of another class, the loss is the sum of

- ``triplet``: first * (T(theta_a, theta_w, theta_a_n) + T(theta_v, theta_w, theta_v_n))
  + second * (T(theta_w, theta_a, theta_w_n) + T(theta_w, theta_v, theta_w_n));
- ``reconstruction``: MSE(m_rec(theta_m), phi_m) for both m, MSE(w, rho_x) for all x,
  T(rho_w, rho_a, rho_a_n) + T(rho_w, rho_v, rho_v_n);
- ``regression``: MSE(theta_m, theta_w) for both m;
- ``cross``: T(theta_w, theta_m, theta_m_n) + T(theta_m, theta_w, theta_w_n) for both m.

Evaluated by Euclidean distance of theta_v ``[B, d]`` to theta_w.

Reference: Mercea, Riesch, Koepke, Akata: Audio-visual generalised zero-shot learning with cross-modal
attention and language, CVPR 2022, arXiv:2203.03598.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import Batch, Classes, Embeddings, Field, Method, MethodConfig, Spec, register
from methods.adaptations import TextLayerConfig, text_layer
from methods.blocks import (
    AFFINE,
    ONE_LAYER,
    TWO_LAYERS,
    Projection,
    TransformerLayer,
    module_names,
    negative_of,
    published_settings,
    rename_published,
    text_of,
)
from methods.losses import triplet

BIBTEX = """@inproceedings{mercea2022avca,
  author    = {Mercea, Otniel-Bogdan and Riesch, Lukas and Koepke, A. Sophia and Akata, Zeynep},
  title     = {Audio-visual Generalised Zero-shot Learning with Cross-modal Attention and Language},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022},
}"""

PUBLISHED_FIELDS = {
    "lr": "lr",
    "encoder_hidden": "embeddings_hidden_size",
    "encoder_dropout": "embedding_dropout",
    "projection_hidden": "decoder_hidden_size",
    "projection_dropout": "decoder_dropout",
    "decoder_dropout": "additional_dropout",
    "momentum": "momentum",
    "depth": "depth_transformer",
    "first_triplet": "first_additional_triplet",
    "second_triplet": "second_additional_triplet",
}
PUBLISHED_SWITCHES = {"reg_loss": True, "additional_triplets_loss": True}
PUBLISHED_BLOCKS = {
    "A_enc": ("audio_encoder", TWO_LAYERS),
    "V_enc": ("video_encoder", TWO_LAYERS),
    "A_proj": ("audio_projection", TWO_LAYERS),
    "V_proj": ("video_projection", TWO_LAYERS),
    "W_proj": ("word_projection", ONE_LAYER),
    "D": ("decoder", ONE_LAYER),
    "A_rec": ("audio_reconstruction", ONE_LAYER),
    "V_rec": ("video_reconstruction", ONE_LAYER),
}


@dataclass(frozen=True)
class Pass:
    """Everything that the loss needs of one forward pass, ``[B, .]`` each."""

    phi_a: Tensor
    phi_v: Tensor
    theta_a: Tensor
    theta_v: Tensor
    theta_w: Tensor
    rho_w: Tensor
    rho_a: Tensor
    rho_v: Tensor


@register(
    "avca",
    title="AVCA",
    paper="Mercea, Riesch, Koepke, Akata: Audio-visual generalised zero-shot learning with cross-modal "
    "attention and language, CVPR 2022",
    bibtex=BIBTEX,
    inputs="mean",
)
class Avca(Method):
    """Audio-visual cross-attention."""

    class Config(TextLayerConfig):
        """Defaults: the published settings for UCF, cls features."""

        weight_decay: float = Field(1e-5, ge=0, le=1, description="L2 penalty of Adam")
        dim: int = Field(300, ge=1, description="width of the two tokens")
        embedding_dim: int = Field(64, ge=1, description="size of the common embedding space")
        encoder_hidden: int = Field(512, ge=1, description="hidden width of the encoders (h_e)")
        encoder_dropout: float = Field(
            0.2, ge=0, lt=1, description="dropout of encoders and transformer (r_enc)"
        )
        projection_hidden: int = Field(512, ge=1, description="hidden width of the projections (h_d)")
        projection_dropout: float = Field(
            0.3, ge=0, lt=1, description="dropout of audio and video projection (r_proj)"
        )
        decoder_dropout: float = Field(
            0.5, ge=0, lt=1, description="dropout of word projection and decoders (r_dec)"
        )
        depth: int = Field(1, ge=1, le=32, description="number of transformer layers")
        heads: int = Field(3, ge=1, description="attention heads")
        dim_head: int = Field(100, ge=1, description="width of a head")
        mlp_dim: int = Field(64, ge=1, description="hidden width of the transformer's feed-forward")
        momentum: float = Field(
            0.99, gt=0, le=1, description="BatchNorm momentum of the last layer of two-layer blocks"
        )
        margin: float = Field(1.0, gt=0, description="margin of the triplet losses")
        first_triplet: float = Field(1.0, ge=0, description="weight of the triplets anchored at the samples")
        second_triplet: float = Field(1.0, ge=0, description="weight of the triplets anchored at the classes")

    reported_output = "video"
    needs_negatives = True
    published_class = "AVCA"

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        self.text_layer, text = text_layer(spec.text_dim, c.text_layer)
        encoder: dict[str, Any] = {
            "hidden": c.encoder_hidden,
            "dropout": c.encoder_dropout,
            "momentum": c.momentum,
        }
        self.audio_encoder = Projection(spec.audio_dim, c.dim, **encoder)
        self.video_encoder = Projection(spec.video_dim, c.dim, **encoder)
        self.register_buffer("position", torch.randn(2, c.dim))
        self.layers = nn.ModuleList(
            TransformerLayer(
                c.dim, heads=c.heads, dim_head=c.dim_head, mlp_dim=c.mlp_dim, dropout=c.encoder_dropout
            )
            for _ in range(c.depth)
        )
        head: dict[str, Any] = {
            "hidden": c.projection_hidden,
            "dropout": c.projection_dropout,
            "momentum": c.momentum,
        }
        self.audio_projection = Projection(c.dim, c.embedding_dim, **head)
        self.video_projection = Projection(c.dim, c.embedding_dim, **head)
        self.word_projection = Projection(text, c.embedding_dim, dropout=c.decoder_dropout)
        self.decoder = Projection(c.embedding_dim, text, dropout=c.decoder_dropout)
        self.audio_reconstruction = Projection(c.embedding_dim, c.dim, dropout=c.decoder_dropout)
        self.video_reconstruction = Projection(c.embedding_dim, c.dim, dropout=c.decoder_dropout)

    def cross_attend(self, phi_a: Tensor, phi_v: Tensor) -> tuple[Tensor, Tensor]:
        """Encodings ``[B, dim]`` of audio and video, plus what each gathered from the other."""
        phi = torch.stack([phi_a, phi_v], dim=1)
        x = phi + self.get_buffer("position")
        for layer in self.layers:
            x = layer(x)
        a, v = (phi + x).unbind(dim=1)
        return a, v

    def sample_embeddings(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """theta_a and theta_v, ``[B, d]`` each."""
        a, v = self.cross_attend(self.audio_encoder(batch.audio), self.video_encoder(batch.video))
        return self.audio_projection(a), self.video_projection(v)

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """Losses ``triplet``, ``reconstruction``, ``regression``, ``cross``; see the module's docstring."""
        text = self.text_layer(text_of(batch))
        positive, negative = self._pass_pair(batch, text)
        p, n, c = positive, negative, self.config
        phi_a_again, phi_v_again = self._reconstruct(p)

        def t(anchor: Tensor, near: Tensor, far: Tensor) -> Tensor:
            return triplet(anchor, near, far, c.margin)

        first = t(p.theta_a, p.theta_w, n.theta_a) + t(p.theta_v, p.theta_w, n.theta_v)
        second = t(p.theta_w, p.theta_a, n.theta_w) + t(p.theta_w, p.theta_v, n.theta_w)
        parts = {
            "triplet": c.first_triplet * first + c.second_triplet * second,
            "reconstruction": functional.mse_loss(phi_v_again, p.phi_v)
            + functional.mse_loss(phi_a_again, p.phi_a)
            + functional.mse_loss(text, p.rho_v)
            + functional.mse_loss(text, p.rho_a)
            + functional.mse_loss(text, p.rho_w)
            + t(p.rho_w, p.rho_a, n.rho_a)
            + t(p.rho_w, p.rho_v, n.rho_v),
            "regression": functional.mse_loss(p.theta_v, p.theta_w)
            + functional.mse_loss(p.theta_a, p.theta_w),
            "cross": t(p.theta_w, p.theta_v, n.theta_v)
            + t(p.theta_w, p.theta_a, n.theta_a)
            + t(p.theta_a, p.theta_w, n.theta_w)
            + t(p.theta_v, p.theta_w, n.theta_w),
            **self.added_terms(p, n),
        }
        return {"total": torch.stack(list(parts.values())).sum(), **parts}

    def added_terms(self, positive: Pass, negative: Pass) -> dict[str, Tensor]:
        """Terms that a method built on AVCA adds to the loss."""
        return {}

    def _pass_pair(self, batch: Batch, text: Tensor) -> tuple[Pass, Pass]:
        """Forward passes of positives and negatives.

        They are separate and in the published order, because the order decides the BatchNorm statistics.
        """
        other = negative_of(batch)
        pair = (batch, other)
        phi_a, phi_v = zip(
            *((self.audio_encoder(x.audio), self.video_encoder(x.video)) for x in pair), strict=True
        )
        theta_w = [self.word_projection(w) for w in (text, self.text_layer(text_of(other)))]
        rho_w = [self.decoder(x) for x in theta_w]
        a, v = zip(*(self.cross_attend(*phi) for phi in zip(phi_a, phi_v, strict=True)), strict=True)
        theta_v = [self.video_projection(x) for x in v]
        theta_a = [self.audio_projection(x) for x in a]
        rho_a = [self.decoder(x) for x in theta_a]
        rho_v = [self.decoder(x) for x in theta_v]
        positive, negative = (
            Pass(
                phi_a=phi_a[i],
                phi_v=phi_v[i],
                theta_a=theta_a[i],
                theta_v=theta_v[i],
                theta_w=theta_w[i],
                rho_w=rho_w[i],
                rho_a=rho_a[i],
                rho_v=rho_v[i],
            )
            for i in range(2)
        )
        return positive, negative

    def _reconstruct(self, positive: Pass) -> tuple[Tensor, Tensor]:
        """Encodings decoded from theta_a and theta_v, ``[B, dim]`` each."""
        phi_v, phi_a = (
            self.video_reconstruction(positive.theta_v),
            self.audio_reconstruction(positive.theta_a),
        )
        if self.training:  # no loss uses this; as published, it changes the running statistics
            with torch.no_grad():
                self.audio_projection(phi_a)
                self.video_projection(phi_v)
        return phi_a, phi_v

    def embed(self, batch: Batch) -> Embeddings:
        """The reported output, theta_v ``[B, d]``."""
        return Embeddings({"video": self.sample_embeddings(batch)[1]})

    def embed_classes(self, text: Tensor) -> Tensor:
        """theta_w, ``[C, d]``."""
        out: Tensor = self.word_projection(self.text_layer(text))
        return out

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Embed the positives again, as published, which changes the running statistics."""
        self.sample_embeddings(batch)
        self.word_projection(self.text_layer(text_of(batch)))

    @classmethod
    def published_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        depth = sum(name.endswith(".fn.to_qkv.weight") for name in state)
        names = {"pos_emb1D": "position"}
        for published, (ours_name, layers) in PUBLISHED_BLOCKS.items():
            names |= module_names(f"{published}.fc", ours_name, layers)
        for i in range(depth):
            attention, feed_forward, own = (
                f"cross_attention.layers.{i}.0",
                f"cross_attention.layers.{i}.1",
                f"layers.{i}",
            )
            names |= {f"{attention}.norm.{x}": f"{own}.norms.0.{x}" for x in AFFINE}
            names |= {f"{feed_forward}.norm.{x}": f"{own}.norms.1.{x}" for x in AFFINE}
            names |= {f"{attention}.fn.to_out.0.{x}": f"{own}.attention.out.{x}" for x in AFFINE}
            names |= {f"{attention}.fn.to_qkv.weight": f"{own}.attention.qkv"}
            names |= module_names(f"{feed_forward}.fn.net", f"{own}.feed_forward", {"0": AFFINE, "3": AFFINE})
        ours = rename_published(state, names)
        for i in range(depth):
            parts = ours.pop(f"layers.{i}.attention.qkv").chunk(3)
            ours |= {
                f"layers.{i}.attention.{x}.weight": w
                for x, w in zip(("query", "key", "value"), parts, strict=True)
            }
        return ours

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        settings = published_settings(args, PUBLISHED_FIELDS, PUBLISHED_SWITCHES)
        return cls.Config(**settings, plateau=True)  # the published code ignores ``lr_scheduler``
