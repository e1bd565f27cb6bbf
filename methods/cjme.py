"""CJME: coordinated joint multimodal embeddings with a modality attention.

    a = f_a(x_a), v = f_v(x_v), t = f_t(w)      Linear, BN, ReLU, dropout, Linear, ReLU to ``[B, d]``
    alpha = sigmoid(Linear(BN([x_a, x_v])))     ``[B]``, weight of video

With T the triplet loss and n the sample of another class, the loss is the sum of

- ``triplet``: mean of (1 - alpha_i) T_j(t, a, a_n) + alpha_i T_j(t, v, v_n). As published it is over all
  pairs (i, j) (``pairing="outer"``), a known deviation: alpha of one sample weights the triplets of all.
  ``"sample"``: over i = j;
- ``alignment``: MSE(a, v);
- ``attention``: MSE(alpha, s), where s in {0, 1/2, 1} is the modality with the lower entropy H of softmax(a
  C^T) and softmax(v C^T) over the training classes C = f_t(text): 0 (audio) if H_v - H_a > 0.1, 1 (video) if
  H_a - H_v > 0.1, otherwise 1/2.

Evaluated by (1 - h) * audio distance + h * video distance (output ``both``), h = 1 if alpha >= 1/2, else 0.

Reference: Parida, Matiyali, Guha, Sharma: Coordinated joint multimodal embeddings for generalized
audio-visual zero-shot classification and retrieval of videos, WACV 2020, arXiv:1910.08732.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import Batch, Classes, Embeddings, Field, Method, MethodConfig, Spec, register
from methods.adaptations import TextLayerConfig, text_layer
from methods.blocks import (
    AFFINE,
    BATCH_NORM,
    PERCEPTRON_LAYERS,
    Perceptron,
    module_names,
    negative_of,
    published_settings,
    rename_published,
    text_of,
)
from methods.losses import triplet

BIBTEX = """@inproceedings{parida2020cjme,
  author    = {Parida, Kranti Kumar and Matiyali, Neeraj and Guha, Tanaya and Sharma, Gaurav},
  title     = {Coordinated Joint Multimodal Embeddings for Generalized Audio-Visual Zero-shot Classification
               and Retrieval of Videos},
  booktitle = {IEEE Winter Conference on Applications of Computer Vision (WACV)},
  year      = {2020},
}"""

PUBLISHED_FIELDS = {
    "lr": "lr",
    "plateau": "lr_scheduler",
    "hidden": "embeddings_hidden_size",
    "dropout": "dropout_baselines",
    "margin": "margin",
}
PUBLISHED_BLOCKS = {
    "triplet_net.embedding_net1.fc": ("audio_net", PERCEPTRON_LAYERS),
    "triplet_net.embedding_net2.fc": ("video_net", PERCEPTRON_LAYERS),
    "triplet_net.embedding_net3.fc": ("text_net", PERCEPTRON_LAYERS),
    "attention_model": ("attention", {"0": BATCH_NORM, "1": AFFINE}),
}


@register(
    "cjme",
    title="CJME",
    paper="Parida, Matiyali, Guha, Sharma: Coordinated joint multimodal embeddings for generalized "
    "audio-visual zero-shot classification and retrieval of videos, WACV 2020",
    bibtex=BIBTEX,
    inputs="mean",
)
class Cjme(Method):
    """Coordinated joint multimodal embeddings."""

    class Config(TextLayerConfig):
        """Defaults: the published settings for UCF, cls features."""

        hidden: int = Field(1024, ge=1, description="hidden width of audio and video network")
        text_hidden: int = Field(300, ge=1, description="hidden width of the text network")
        embedding_dim: int = Field(64, ge=1, description="size of the common embedding space")
        dropout: float = Field(0.2, ge=0, lt=1, description="dropout of the three networks")
        margin: float = Field(1.0, gt=0, description="margin of the triplet losses")
        entropy_margin: float = Field(
            0.1, ge=0, description="difference of entropies (nats) that makes a modality surer"
        )
        pairing: Literal["outer", "sample"] = Field(
            "outer", description="whose attention weights a triplet: every sample's (published) or its own"
        )

    reported_output = "both"
    needs_negatives = True
    published_class = "CJME"
    corrected_settings: ClassVar[Mapping[str, Any]] = {"pairing": "sample"}

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        c, inputs = config, spec.audio_dim + spec.video_dim
        self.text_layer, text = text_layer(spec.text_dim, c.text_layer)
        self.audio_net = Perceptron(
            spec.audio_dim, c.hidden, c.embedding_dim, dropout=c.dropout, last_relu=True
        )
        self.video_net = Perceptron(
            spec.video_dim, c.hidden, c.embedding_dim, dropout=c.dropout, last_relu=True
        )
        self.text_net = Perceptron(text, c.text_hidden, c.embedding_dim, dropout=c.dropout, last_relu=True)
        self.attention = nn.Sequential(nn.BatchNorm1d(inputs), nn.Linear(inputs, 1))

    def modality_attention(self, batch: Batch) -> Tensor:
        """alpha, the weight of video, in (0, 1), ``[B]``."""
        logit: Tensor = self.attention(torch.cat([batch.audio, batch.video], dim=-1))
        return torch.sigmoid(logit).squeeze(-1)

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """Losses ``triplet``, ``alignment`` and ``attention`` as in the module's docstring."""
        # Embeddings of the samples, their negatives and their classes.
        other, margin = negative_of(batch), self.config.margin
        a, a_n = self.audio_net(batch.audio), self.audio_net(other.audio)
        v, v_n = self.video_net(batch.video), self.video_net(other.video)
        t = self.embed_classes(text_of(batch))
        if (
            self.training
        ):  # no loss uses the negatives' classes; as published, they change the running statistics
            with torch.no_grad():
                self.embed_classes(text_of(other))

        # Triplets, weighted by the modality attention.
        alpha = self.modality_attention(batch)
        near_a, near_v = (
            triplet(t, a, a_n, margin, reduction="none"),
            triplet(t, v, v_n, margin, reduction="none"),
        )
        if self.config.pairing == "outer":  # the mean over all pairs is a product of means
            triplets = (1 - alpha).mean() * near_a.mean() + alpha.mean() * near_v.mean()
        else:
            triplets = ((1 - alpha) * near_a + alpha * near_v).mean()

        # The attention learns which modality is surer of the class.
        with torch.no_grad():
            surer = surer_modality(a, v, self.embed_classes(classes.text), self.config.entropy_margin)
        parts = {
            "triplet": triplets,
            "alignment": functional.mse_loss(a, v),
            "attention": functional.mse_loss(alpha, surer.to(alpha.dtype)),
        }
        return {"total": torch.stack(list(parts.values())).sum(), **parts}

    def embed(self, batch: Batch) -> Embeddings:
        """Outputs ``audio`` and ``video`` ``[B, d]``, and the hard attention as gate ``[B]``."""
        gate = (self.modality_attention(batch) >= 0.5).float()
        return Embeddings(
            {"audio": self.audio_net(batch.audio), "video": self.video_net(batch.video)}, gate=gate
        )

    def embed_classes(self, text: Tensor) -> Tensor:
        """f_t(w), ``[C, d]``."""
        out: Tensor = self.text_net(self.text_layer(text))
        return out

    def distances(self, embeddings: Embeddings, classes: Tensor) -> dict[str, Tensor]:
        """Euclidean distances ``[B, C]`` of the outputs, and ``both``: that of the gated modality.

        Raises:
            ValueError: the embeddings have no gate.
        """
        if embeddings.gate is None:
            raise ValueError("CJME's distances need the gate that its embed() returns")
        outputs, h = super().distances(embeddings, classes), embeddings.gate.unsqueeze(-1)
        return {**outputs, "both": (1 - h) * outputs["audio"] + h * outputs["video"]}

    @classmethod
    def published_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names: dict[str, str] = {}
        for published, (ours, layers) in PUBLISHED_BLOCKS.items():
            names |= module_names(published, ours, layers)
        return rename_published(state, names)

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        return cls.Config(**published_settings(args, PUBLISHED_FIELDS, {"embedding_use_bn": True}))


def surer_modality(audio: Tensor, video: Tensor, classes: Tensor, margin: float) -> Tensor:
    """s ``[B]``: 0 if audio has less entropy by more than ``margin`` nats, 1 if video has, else 1/2.

    Args:
        audio, video: embeddings ``[B, d]``.
        classes: class embeddings ``[C, d]``.
    """
    h_a, h_v = (_entropy(x.float() @ classes.float().T) for x in (audio, video))
    return 0.5 + 0.5 * (h_a - h_v > margin).float() - 0.5 * (h_v - h_a > margin).float()


def _entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, ``[B]``."""
    log_p = logits.log_softmax(dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)
