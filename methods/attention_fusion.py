"""Attention fusion of audio and video. Our adaptation to audio-visual generalised zero-shot learning.

Tokens as in TCAF (``blocks.TokenStage``). Two unimodal branches

    a = P_a(mean of the real audio tokens),   v = P_v(mean of the real video tokens),   P: P(dim, h_d, d)

are mixed by a gate per output dimension:

    z = sigmoid(Linear([a, v])),   theta_o = z * a + (1 - z) * v        (all ``[B, d]``)

Loss: the TCAF loss of theta_o, of a and of v, with one sample decoder for the three. Each includes the terms
of the class embeddings. Evaluated by Euclidean distance of theta_o to theta_w = W_proj(w). No code of an
adaptation was published: this is our own.

Reference: Fayek, Kumar: Large scale audiovisual learning of sounds with weakly labeled data, IJCAI 2020,
arXiv:2006.01595.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.method import Spec, register
from methods.blocks import SequenceConfig, SequenceMethod, Tokens

BIBTEX = """@inproceedings{fayek2020large,
  author    = {Fayek, Haytham M. and Kumar, Anurag},
  title     = {Large Scale Audiovisual Learning of Sounds with Weakly Labeled Data},
  booktitle = {International Joint Conference on Artificial Intelligence (IJCAI)},
  year      = {2020},
}"""


@register(
    "attention_fusion",
    title="Attention fusion",
    paper="Fayek, Kumar: Large scale audiovisual learning of sounds with weakly labeled data, IJCAI 2020",
    bibtex=BIBTEX,
    inputs="sequence",
    note="our adaptation to zero-shot learning: no code of the adapted version was published",
)
class AttentionFusion(SequenceMethod):
    """Gated sum of two unimodal embeddings."""

    class Config(SequenceConfig):
        """Defaults: TCAF's published settings for UCF, cls features."""

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        self.audio_projection = self.sample_projection_of(config.dim)
        self.video_projection = self.sample_projection_of(config.dim)
        self.gate = nn.Linear(2 * config.embedding_dim, config.embedding_dim)

    def fuse(self, audio: Tokens, video: Tokens) -> dict[str, Tensor]:
        """theta_o and the embeddings of the two branches, each ``[B, d]``."""
        a, v = self.audio_projection(audio.mean()), self.video_projection(video.mean())
        z = torch.sigmoid(self.gate(torch.cat([a, v], dim=-1)))
        return {"joint": z * a + (1 - z) * v, "audio": a, "video": v}
