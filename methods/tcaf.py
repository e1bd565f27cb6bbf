"""TCAF: temporal cross-attention of audio and video time steps.

A learnt class token and the tokens of both modalities (``blocks.TokenStage``) pass through L pre-norm layers.
A time step attends to the time steps of the *other* modality and to the class token, which attends to all:

    x <- x + MHA(LN(x)),  x <- x + FF(LN(x))   (one LN for both),   theta_o = O_proj(x[class])

with O_proj: P(dim, h_d, d). Loss: ``losses.tcaf_losses``. Shapes: tokens ``[B, 1 + T_a + T_v, dim]``,
theta_o ``[B, d]``. Evaluated by Euclidean distance of theta_o to theta_w = W_proj(w).

Reference: Mercea, Hummel, Koepke, Akata: Temporal and cross-modal attention for audio-visual zero-shot
learning, ECCV 2022, arXiv:2207.09966.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from benchmark.method import Field, MethodConfig, Spec, register
from methods.blocks import (
    AFFINE,
    ONE_LAYER,
    PADDED,
    TWO_LAYERS,
    Groups,
    SequenceConfig,
    SequenceMethod,
    Tokens,
    TransformerLayer,
    module_names,
    published_settings,
    rename_published,
)

BIBTEX = """@inproceedings{mercea2022tcaf,
  author    = {Mercea, Otniel-Bogdan and Hummel, Thomas and Koepke, A. Sophia and Akata, Zeynep},
  title     = {Temporal and cross-modal attention for audio-visual zero-shot learning},
  booktitle = {European Conference on Computer Vision (ECCV)},
  year      = {2022},
}"""

Sees = Literal["cross", "self", "all"]

TOKEN_STAGE = {
    "fourier_randn": "frequencies",
    "modal_embedding.weight": "modality",
    "pad_embedding.weight": "padding",
    **{f"fourier_embeddings.{x}": f"position.{x}" for x in AFFINE},
    **{f"out_proj_{m}.{x}": f"{m}.{x}" for m in ("audio", "video") for x in AFFINE},
}
PUBLISHED_FIELDS = {
    "lr": "lr",
    "plateau": "lr_scheduler",
    "encoder_hidden": "embeddings_hidden_size",
    "encoder_dropout": "embedding_dropout",
    "decoder_hidden": "decoder_hidden_size",
    "decoder_dropout": "decoder_dropout",
    "word_dropout": "additional_dropout",
    "dim": "transformer_dim",
    "depth": "transformer_depth",
    "heads": "transformer_heads",
    "dim_head": "transformer_dim_head",
    "mlp_dim": "transformer_mlp_dim",
    "dropout": "transformer_dropout",
    "token_size": "transformer_embedding_dim",
    "token_dropout": "transformer_embedding_dropout",
    "fourier_scale": "transformer_embedding_fourier_scale",
}
PUBLISHED_SWITCHES = {
    "rec_loss": True,
    "reg_loss": True,
    "cross_entropy_loss": True,
    "transformer_use_embedding_net": True,
    "transformer_use_class_token": True,
    "transformer_embedding_modality": True,
}


@register(
    "tcaf",
    title="TCAF",
    paper=(
        "Mercea, Hummel, Koepke, Akata: Temporal and cross-modal attention for audio-visual zero-shot "
        "learning, ECCV 2022"
    ),
    bibtex=BIBTEX,
    inputs="sequence",
)
class Tcaf(SequenceMethod):
    """Temporal and cross-modal attention framework."""

    class Config(SequenceConfig):
        """Defaults: the published settings for UCF, cls features."""

        depth: int = Field(6, ge=1, le=32, description="number of transformer layers")
        heads: int = Field(8, ge=1, description="attention heads")
        dim_head: int = Field(64, ge=1, description="width of a head")
        mlp_dim: int = Field(128, ge=1, description="hidden width of the feed-forwards")
        dropout: float = Field(0.3, ge=0, lt=1, description="dropout of the transformer layers")
        sees: Sees = Field(
            "cross", description="what a time step attends to: the other modality, its own, or all"
        )

    published_class = "Multimodal_Sequence_Transformer"

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        self.class_token = nn.Parameter(torch.randn(1, 1, c.dim))
        self.layers = nn.ModuleList(
            TransformerLayer(
                c.dim,
                heads=c.heads,
                dim_head=c.dim_head,
                mlp_dim=c.mlp_dim,
                dropout=c.dropout,
                shared_norm=True,
            )
            for _ in range(c.depth)
        )
        self.sample_projection = self.sample_projection_of(c.dim)

    def fuse(self, audio: Tokens, video: Tokens) -> dict[str, Tensor]:
        """theta_o from the class token, ``[B, d]``."""
        class_tokens = self.class_token[0].expand(len(audio.mask), -1).to(audio.x.dtype)
        groups = Groups.of(audio.mask, video.mask)
        masks = [attention_mask(kinds, self.config.sees) for kinds in groups.kinds]
        x = torch.cat([class_tokens, audio.x, video.x]).index_select(0, groups.rows)
        *layers, last = cast(list[TransformerLayer], list(self.layers))
        for layer in layers:
            x = layer.grouped(x, groups, masks)
        first = last.grouped(x, groups, masks, first_only=True)  # only the class token is used
        return {"joint": self.sample_projection(first.index_select(0, groups.back))}

    @classmethod
    def published_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a published checkpoint with our names.

        Raises:
            ValueError: tensors are missing or left over, or the two stored copies of the token stage differ.
        """
        depth = sum(name.endswith(".attn.to_q.weight") for name in state)
        names = _published_names(depth)
        copies = {f"position_encoder_block.{x}": f"audiovisual_embeddings.{x}" for x in TOKEN_STAGE}
        differing = [
            a for a, b in copies.items() if a in state and b in state and not torch.equal(state[a], state[b])
        ]
        if differing:
            raise ValueError(
                f"the two copies of the token stage differ in {differing}; the checkpoint is damaged"
            )
        ours = rename_published(state, {**names, **{a: f"copy of {b}" for a, b in copies.items()}})
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("copy of ")}
        for name in ("token_stage.audio.weight", "token_stage.video.weight"):
            ours[name] = ours[name].squeeze(-1)  # published as 1x1 convolutions
        return ours

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        settings = published_settings(args, PUBLISHED_FIELDS, PUBLISHED_SWITCHES)
        seen = [bool(args.get(f"use_{x}_attention", x == "cross")) for x in ("cross", "self")]
        if not any(seen):
            raise ValueError("published settings without self- and cross-attention are not supported")
        return cls.Config(**settings, sees="all" if all(seen) else "cross" if seen[0] else "self")


def attention_mask(kinds: Tensor, sees: Sees) -> Tensor:
    """Which token attends to which, bool ``[B, N, N]``.

    No token attends to padded tokens. Padded tokens attend to others, so no row is empty; their results are
    unused.

    Args:
        kinds: ``[B, N]``: 0 for the class token, 1 for audio, 2 for video, ``PADDED``.
        sees: as in ``Tcaf.Config``.
    """
    queries, keys = kinds[:, :, None], kinds[:, None, :]
    same, with_class = queries == keys, (queries == 0) | (keys == 0)
    pairs = {"cross": ~same | with_class, "self": same | with_class, "all": torch.ones_like(same)}[sees]
    return pairs & (keys != PADDED)


def _published_names(depth: int) -> dict[str, str]:
    """Published name -> our name of all tensors; the token stage by its second published name."""
    names = {"cls_token": "class_token"}
    two = {
        "A_enc": "audio_encoder",
        "V_enc": "video_encoder",
        "O_proj": "sample_projection",
        "D_o": "sample_decoder",
    }
    one = {"W_proj": "word_projection", "D_w": "word_decoder"}
    for blocks, layers in ((two, TWO_LAYERS), (one, ONE_LAYER)):
        for published, ours in blocks.items():
            names |= module_names(f"{published}.fc", ours, layers)
    names |= {f"audiovisual_embeddings.{x}": f"token_stage.{y}" for x, y in TOKEN_STAGE.items()}
    for i in range(depth):
        layer, ours = f"Audio_visual_transformer.layers.{i}", f"layers.{i}"
        names |= {
            f"{layer}.attn.to_{x[0]}.weight": f"{ours}.attention.{x}.weight"
            for x in ("query", "key", "value")
        }
        names |= {f"{layer}.attn.to_out.0.{x}": f"{ours}.attention.out.{x}" for x in AFFINE}
        names |= {f"{layer}.norm.{x}": f"{ours}.norms.0.{x}" for x in AFFINE}
        names |= module_names(f"{layer}.ff.net", f"{ours}.feed_forward", {"0": AFFINE, "3": AFFINE})
    return names
