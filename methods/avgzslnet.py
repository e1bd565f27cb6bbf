"""AVGZSLNet: embeddings from which a shared decoder reconstructs the class embeddings.

    a = f_a(x_a), v = f_v(x_v), t = f_t(w)      Linear, BN, ReLU, dropout, Linear to ``[B, d]``
    dec(x) = normalised f_dec(x)                Linear, BN, ReLU, dropout, Linear, L2-normalised to ``[B,
    D_w]``

With T the triplet loss, n the sample of another class and L2 the mean Euclidean distance, the loss is the sum
of

- ``reconstruction``: L2(dec(t), w) + L2(dec(a), w) + L2(dec(v), w)
  + T(dec(t), dec(a), dec(a_n)) + T(dec(t), dec(v), dec(v_n));
- ``triplet``: T(t, m, m_n) + T(m, t, t_n) for m in {a, v}.

Evaluated by audio distance + video distance (output ``both``) to the f_t of the classes.

Reference: Mazumder, Singh, Parida, Namboodiri: AVGZSLNet: audio-visual generalized zero-shot learning by
reconstructing label features from multi-modal embeddings, WACV 2021, arXiv:2005.13402.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

from benchmark.method import Batch, Classes, Embeddings, Field, Method, MethodConfig, Spec, register
from methods.adaptations import TextLayerConfig, text_layer
from methods.blocks import (
    PERCEPTRON_LAYERS,
    Perceptron,
    module_names,
    negative_of,
    published_settings,
    rename_published,
    text_of,
)
from methods.losses import distance_to, triplet

BIBTEX = """@inproceedings{mazumder2021avgzslnet,
  author    = {Mazumder, Pratik and Singh, Pravendra and Parida, Kranti Kumar and Namboodiri, Vinay P.},
  title     = {{AVGZSLNet}: Audio-Visual Generalized Zero-Shot Learning by Reconstructing Label Features from
               Multi-Modal Embeddings},
  booktitle = {IEEE Winter Conference on Applications of Computer Vision (WACV)},
  year      = {2021},
}"""

PUBLISHED_FIELDS = {
    "lr": "lr",
    "plateau": "lr_scheduler",
    "hidden": "embeddings_hidden_size",
    "dropout": "embedding_dropout",
    "decoder_hidden": "decoder_hidden_size",
    "decoder_dropout": "decoder_dropout",
    "margin": "margin",
}
PUBLISHED_SWITCHES = {"embedding_use_bn": True, "decoder_use_bn": True, "normalize_decoder_outputs": True}
PUBLISHED_BLOCKS = {
    "triplet_net.embedding_net1.fc": "audio_net",
    "triplet_net.embedding_net2.fc": "video_net",
    "triplet_net.embedding_net3.fc": "text_net",
    "decoder_net.embedding_net.fc": "decoder",
}


@register(
    "avgzslnet",
    title="AVGZSLNet",
    paper="Mazumder, Singh, Parida, Namboodiri: AVGZSLNet: audio-visual generalized zero-shot learning by "
    "reconstructing label features from multi-modal embeddings, WACV 2021",
    bibtex=BIBTEX,
    inputs="mean",
)
class AvgzslNet(Method):
    """Embeddings regularised by reconstructing the class embedding."""

    class Config(TextLayerConfig):
        """Defaults: the published settings."""

        hidden: int = Field(1024, ge=1, description="hidden width of audio and video network")
        text_hidden: int = Field(300, ge=1, description="hidden width of the text network")
        embedding_dim: int = Field(64, ge=1, description="size of the common embedding space")
        dropout: float = Field(0.8, ge=0, lt=1, description="dropout of the three networks")
        decoder_hidden: int = Field(64, ge=1, description="hidden width of the decoder")
        decoder_dropout: float = Field(0.5, ge=0, lt=1, description="dropout of the decoder")
        margin: float = Field(1.0, gt=0, description="margin of the triplet losses")

    reported_output = "both"
    needs_negatives = True
    published_class = "AVGZSLNet"

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        self.audio_net = Perceptron(spec.audio_dim, c.hidden, c.embedding_dim, dropout=c.dropout)
        self.video_net = Perceptron(spec.video_dim, c.hidden, c.embedding_dim, dropout=c.dropout)
        self.text_layer, text = text_layer(spec.text_dim, c.text_layer)
        self.text_net = Perceptron(text, c.text_hidden, c.embedding_dim, dropout=c.dropout)
        self.decoder = Perceptron(c.embedding_dim, c.decoder_hidden, text, dropout=c.decoder_dropout)

    def decode(self, x: Tensor) -> Tensor:
        """Class embeddings of length 1, ``[B, D_w]``, from embeddings ``[B, d]``."""
        return functional.normalize(self.decoder(x), dim=-1)

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """Losses ``reconstruction`` and ``triplet`` as in the module's docstring."""
        other, margin = negative_of(batch), self.config.margin
        w, w_n = self.text_layer(text_of(batch)), self.text_layer(text_of(other))
        a, a_n = self.audio_net(batch.audio), self.audio_net(other.audio)
        v, v_n = self.video_net(batch.video), self.video_net(other.video)
        t, t_n = self.text_net(w), self.text_net(w_n)
        # Separate and in the published order, which decides the decoder's running statistics.
        dec_a, dec_v, dec_t, dec_a_n, dec_v_n = (self.decode(x) for x in (a, v, t, a_n, v_n))
        decoded = distance_to(w, dec_t) + distance_to(w, dec_a) + distance_to(w, dec_v)
        decoded = decoded + triplet(dec_t, dec_a, dec_a_n, margin) + triplet(dec_t, dec_v, dec_v_n, margin)
        near = triplet(t, a, a_n, margin) + triplet(a, t, t_n, margin)
        near = near + triplet(t, v, v_n, margin) + triplet(v, t, t_n, margin)
        return {"total": decoded + near, "reconstruction": decoded, "triplet": near}

    def embed(self, batch: Batch) -> Embeddings:
        """Outputs ``audio`` and ``video``, ``[B, d]`` each."""
        return Embeddings({"audio": self.audio_net(batch.audio), "video": self.video_net(batch.video)})

    def embed_classes(self, text: Tensor) -> Tensor:
        """f_t(w), ``[C, d]``."""
        out: Tensor = self.text_net(self.text_layer(text))
        return out

    def distances(self, embeddings: Embeddings, classes: Tensor) -> dict[str, Tensor]:
        """Euclidean distances ``[B, C]`` of the outputs, and ``both``: their sum."""
        outputs = super().distances(embeddings, classes)
        return {**outputs, "both": outputs["audio"] + outputs["video"]}

    @classmethod
    def published_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names: dict[str, str] = {}
        for published, ours in PUBLISHED_BLOCKS.items():
            names |= module_names(published, ours, PERCEPTRON_LAYERS)
        return rename_published(state, names)

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        return cls.Config(**published_settings(args, PUBLISHED_FIELDS, PUBLISHED_SWITCHES))
