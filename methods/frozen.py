"""Frozen: the zero-shot baseline of features and class embeddings of the same pre-trained models.

    D(x, c) = 1 - (cos(v, t_v) + cos(a, t_a)) / 2

v and a are the means of the video and audio features, t_v and t_a the parts of the class embedding that are
in their spaces (CLIP and CLAP). Nothing is trained; beta is chosen on the validation splits, as for every
method. A method that trains on such features must be above it.

With CLIP alone (``modality=video``) this is zero-shot classification as in Radford et al., Learning
transferable visual models from natural language supervision, ICML 2021.
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import (
    Batch,
    Classes,
    Embeddings,
    Field,
    FitResult,
    Method,
    MethodConfig,
    Spec,
    TrainingData,
    TrainingLoop,
    register,
)
from methods.one_validation import validated_once

BIBTEX = """@inproceedings{radford2021learning,
  author    = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and
               Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and
               Krueger, Gretchen and Sutskever, Ilya},
  title     = {Learning Transferable Visual Models From Natural Language Supervision},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021},
}"""


@register(
    "frozen",
    title="Frozen",
    paper="zero-shot classification as in Radford et al.: Learning transferable visual models from natural "
    "language supervision, ICML 2021, of audio and video",
    bibtex=BIBTEX,
    inputs="mean",
    note="our baseline: cosine of the features with the texts of their own models, nothing is trained",
)
class Frozen(Method):
    """Cosines of features and texts."""

    class Config(MethodConfig):
        """Nothing is trained, so only the choice of modalities counts."""

        modality: Literal["both", "audio", "video"] = Field("both", description="modalities that count")

    published_grid = (1.0, 1001)  # nothing is published; the distances are between 0 and 2 and close together
    needs_text_parts = True

    def __init__(self, config: Config, spec: Spec) -> None:
        super().__init__(config, spec)
        used = torch.tensor([float(config.modality in ("both", m)) for m in ("video", "audio")])
        self.weights = nn.Parameter(used / used.sum(), requires_grad=False)
        """Of the cosines of video and audio."""

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """``total``: 0; ``fit`` needs no loss."""
        return {"total": self.weights.new_zeros(())}

    def embed(self, batch: Batch) -> Embeddings:
        """Output ``joint``: [v, a] of length 1 each, ``[B, D_v + D_a]``."""
        video, audio = (functional.normalize(x, dim=1) for x in (batch.video, batch.audio))
        return Embeddings({"joint": torch.cat([video, audio], dim=1)})

    def embed_classes(self, text: Tensor) -> Tensor:
        """[t_v, t_a] of length 1 each, times their weights, ``[C, D_v + D_a]``."""
        video, audio = (
            functional.normalize(text[:, self.spec.text_columns(modality)], dim=1)
            for modality in ("video", "audio")
        )
        return torch.cat([self.weights[0] * video, self.weights[1] * audio], dim=1)

    def distances(self, embeddings: Embeddings, classes: Tensor) -> dict[str, Tensor]:
        """1 minus the weighted mean of the cosines."""
        return {"joint": 1 - embeddings.outputs["joint"].float() @ classes.float().T}

    def fit(self, data: TrainingData, loop: TrainingLoop) -> FitResult:
        """Choose beta."""
        return validated_once(self, data, loop, time.perf_counter())
