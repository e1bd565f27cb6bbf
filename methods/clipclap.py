"""ClipClap: one embedding of the audio and video of CLIP and CLAP, aligned with the embedding of their texts.

    o = O_enc([v, a])        O_enc: P(D_v + D_a, D_e)        e = W_enc(w)           W_enc: P(D_w, D_e)
    theta_o = O_proj(o)      O_proj: P(D_e, h, d)            theta_w = W_proj(e)    W_proj: P(D_e, d)

with the class embedding w = [text of CLIP, text of CLAP] and the loss

- ``classification``: cross-entropy of the products theta_o . theta_w with all training classes;
- ``regression``: MSE(theta_o, theta_w);
- ``reconstruction``: MSE(e, D_o(theta_o)) + MSE(e, D_w(theta_w)), D_o: P(d, h, D_e), D_w: P(d, D_e). As
  published, e is not detached, so both terms also move W_enc.

Evaluated by Euclidean distance of theta_o ``[B, d]`` to theta_w, with 76 betas from 0 to 5 as published.

Reference: Kurzendörfer, Mercea, Koepke, Akata: Audio-visual generalized zero-shot learning using pre-trained
large multi-modal models, CVPR workshops 2024, arXiv:2404.06309.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.method import Batch, Classes, Embeddings, Field, Method, MethodConfig, Spec, register
from methods.blocks import (
    ONE_LAYER,
    TWO_LAYERS,
    Projection,
    labels_of,
    module_names,
    published_settings,
    rename_published,
    text_of,
)

BIBTEX = """@inproceedings{kurzendoerfer2024audio,
  author    = {Kurzend{\\"o}rfer, David and Mercea, Otniel-Bogdan and Koepke, A. Sophia and Akata, Zeynep},
  title     = {Audio-Visual Generalized Zero-Shot Learning Using Pre-Trained Large Multi-Modal Models},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition Workshops (CVPRW)},
  year      = {2024},
}"""

PUBLISHED_FIELDS = {
    "lr": "lr",
    "plateau": "lr_scheduler",
    "modality": "modality",
    "word_embeddings": "word_embeddings",
    "projection_hidden": "decoder_hidden_size",
    "projection_dropout": "decoder_dropout",
    "class_dropout": "additional_dropout",
}
PUBLISHED_SWITCHES = {
    "reg_loss": True,
    "rec_loss": True,
    "cross_entropy_loss": True,
    "use_wavcaps_embeddings": True,
    "embeddings_batch_norm": True,
    "optimizer": "adam",
}
PUBLISHED_BLOCKS = {
    "O_enc": ("sample_encoder", ONE_LAYER),
    "W_enc": ("class_encoder", ONE_LAYER),
    "O_proj": ("sample_projection", TWO_LAYERS),
    "D_o": ("sample_decoder", TWO_LAYERS),
    "W_proj": ("class_projection", ONE_LAYER),
    "D_w": ("class_decoder", ONE_LAYER),
}
EARLIER_NAMES = {"input_proj.": "O_enc.", "audio_proj.": "O_enc.", "w_emb.": "W_enc."}
"""Names in the weights that the authors distribute -> names in their code of today."""


@dataclass(frozen=True)
class Forward:
    """A training batch in the model, ``[B, ...]``."""

    theta_o: Tensor
    """``[B, d]``."""
    e: Tensor
    """Encoded class embeddings of the labels, ``[B, D_e]``."""
    decoded_o: Tensor
    """D_o(theta_o), ``[B, D_e]``."""
    theta_w: Tensor
    """``[B, d]``."""
    decoded_w: Tensor
    """D_w(theta_w), ``[B, D_e]``."""


@register(
    "clipclap",
    title="ClipClap",
    paper="Kurzendörfer, Mercea, Koepke, Akata: Audio-visual generalized zero-shot learning using "
    "pre-trained large multi-modal models, CVPR workshops 2024, arXiv:2404.06309",
    bibtex=BIBTEX,
    inputs="mean",
)
class ClipClap(Method):
    """Features and texts of CLIP and CLAP in one embedding space."""

    class Config(MethodConfig):
        """Defaults: the published settings for UCF."""

        lr: float = Field(7e-5, gt=0, le=1, description="learning rate of Adam")
        weight_decay: float = Field(1e-5, ge=0, le=1, description="L2 penalty of Adam")
        modality: Literal["both", "audio", "video"] = Field(
            "both", description="features and, unless both, the text of the same model"
        )
        word_embeddings: Literal["both", "clip", "wavcaps"] = Field(
            "both", description="which texts make the class embedding, if modality is both"
        )
        encoding_dim: int = Field(512, ge=1, description="width of both encodings (D_e)")
        embedding_dim: int = Field(64, ge=1, description="size of the common embedding space (d)")
        projection_hidden: int = Field(512, ge=1, description="hidden width of O_proj and D_o (h)")
        encoder_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of both encoders")
        projection_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of O_proj and D_o")
        class_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of W_proj and D_w")

    reported_output = "joint"
    published_class, released_class = "ClipClap_model", "Clip_model"
    published_features = "clip_clap"
    published_grid = (5.0, 76)
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "clip_text": {"word_embeddings": "wavcaps"},
        "clap_text": {"word_embeddings": "clip"},
        "audio": {"modality": "video"},
        "video": {"modality": "audio"},
    }
    needs_text_parts = True

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        c, inputs = config, {"video": spec.video_dim, "audio": spec.audio_dim}
        width = sum(size for name, size in inputs.items() if c.modality in ("both", name))
        encoder: dict[str, Any] = {"dropout": c.encoder_dropout}
        head: dict[str, Any] = {"hidden": c.projection_hidden, "dropout": c.projection_dropout}
        self.sample_encoder = Projection(width, c.encoding_dim, **encoder)
        text = self.text_columns()
        self.class_encoder = Projection(text.stop - text.start, c.encoding_dim, **encoder)
        self.build_router()
        self.sample_projection = Projection(c.encoding_dim, c.embedding_dim, **head)
        self.sample_decoder = Projection(c.embedding_dim, c.encoding_dim, **head)
        self.class_projection = Projection(c.encoding_dim, c.embedding_dim, dropout=c.class_dropout)
        self.class_decoder = Projection(c.embedding_dim, c.encoding_dim, dropout=c.class_dropout)

    def build_router(self) -> None:
        """Build what HSP-MoE adds. It is here because the order decides the initial random numbers."""

    def text_columns(self) -> slice:
        """The columns of a class embedding that are used."""
        part = {"clip": "video", "wavcaps": "audio"}.get(self.config.word_embeddings, "both")
        part = part if self.config.modality == "both" else self.config.modality
        return slice(0, self.spec.text_dim) if part == "both" else self.spec.text_columns(part)

    def features(self, batch: Batch) -> Tensor:
        """[v, a], or one of them, ``[B, D]``."""
        features = {"video": batch.video, "audio": batch.audio}
        used = [x for name, x in features.items() if self.config.modality in ("both", name)]
        return torch.cat(used, dim=1)

    def used_text(self, text: Tensor) -> Tensor:
        """w, the columns of class embeddings ``[C, D_w]`` that are used."""
        return text[:, self.text_columns()]

    def forward_batch(self, batch: Batch) -> Forward:
        """Pass a training batch through the model, in the published order, which decides dropout's draws."""
        o, e = self.sample_encoder(self.features(batch)), self.class_encoder(self.used_text(text_of(batch)))
        theta_o = self.sample_projection(o)
        decoded_o = self.sample_decoder(theta_o)
        theta_w = self.class_projection(e)
        return Forward(theta_o, e, decoded_o, theta_w, self.class_decoder(theta_w))

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """Losses ``classification``, ``regression`` and ``reconstruction``; see the module's docstring."""
        x = self.forward_batch(batch)
        scores = x.theta_o @ self.project_classes(classes.text).T
        parts = {"classification": functional.cross_entropy(scores, labels_of(batch)), **self.alignment(x)}
        return {"total": torch.stack(list(parts.values())).sum(), **parts}

    def alignment(self, x: Forward) -> dict[str, Tensor]:
        """Losses ``regression`` and ``reconstruction``."""
        return {
            "regression": functional.mse_loss(x.theta_o, x.theta_w),
            "reconstruction": functional.mse_loss(x.e, x.decoded_o) + functional.mse_loss(x.e, x.decoded_w),
        }

    def project_samples(self, batch: Batch) -> Tensor:
        """theta_o, ``[B, d]``."""
        out: Tensor = self.sample_projection(self.sample_encoder(self.features(batch)))
        return out

    def project_classes(self, text: Tensor) -> Tensor:
        """theta_w, ``[C, d]``."""
        out: Tensor = self.class_projection(self.class_encoder(self.used_text(text)))
        return out

    def embed(self, batch: Batch) -> Embeddings:
        """Output ``joint``: theta_o."""
        return Embeddings({"joint": self.project_samples(batch)})

    def embed_classes(self, text: Tensor) -> Tensor:
        """theta_w, ``[C, d]``."""
        return self.project_classes(text)

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Pass the batch through encoders and projections again, which changes the running statistics."""
        o, e = self.sample_encoder(self.features(batch)), self.class_encoder(self.used_text(text_of(batch)))
        self.sample_projection(o)
        self.class_projection(e)

    @classmethod
    def published_blocks(cls, state: Mapping[str, Tensor]) -> dict[str, str]:
        """Published name -> our name of all tensors that weights must have."""
        names: dict[str, str] = {}
        for published, (ours, layers) in PUBLISHED_BLOCKS.items():
            names |= module_names(f"{published}.fc", ours, layers)
        return names

    @classmethod
    def published_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return rename_published(current_names(state), cls.published_blocks(state))

    @classmethod
    def released_config(cls, state: Mapping[str, Tensor]) -> MethodConfig:
        shapes = {name: tuple(x.shape) for name, x in cls.published_state(state).items()}
        encoding, features = shapes["sample_encoder.0.weight"]
        text = shapes["class_encoder.0.weight"][1]
        variants = {
            (1536, 1536): {},
            (1536, 512): {"word_embeddings": "clip"},
            (1536, 1024): {"word_embeddings": "wavcaps"},
            (1024, 1024): {"modality": "audio"},
            (512, 512): {"modality": "video"},
        }
        if (features, text) not in variants:
            raise ValueError(f"no variant has {features} features and {text} numbers of text")
        hidden, embedding = shapes["sample_projection.0.weight"][0], shapes["sample_projection.4.weight"][0]
        sizes = {"encoding_dim": encoding, "projection_hidden": hidden, "embedding_dim": embedding}
        return cls.Config(**variants[features, text], **sizes)

    @classmethod
    def is_published_as(cls, args: Mapping[str, Any]) -> bool:
        return "semantic_hyperspherical" not in args

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        return cls.Config(**published_settings(args, PUBLISHED_FIELDS, PUBLISHED_SWITCHES))


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights of either naming with the names of the authors' code of today."""
    renamed = {}
    for name, tensor in state.items():
        earlier = next((old for old in EARLIER_NAMES if name.startswith(old)), "")
        renamed[EARLIER_NAMES.get(earlier, "") + name.removeprefix(earlier)] = tensor
    return renamed
