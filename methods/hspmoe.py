"""HSP-MoE: ClipClap on a sphere, with a mixture of experts and the frozen CLIP and CLAP distance.

With theta_o, theta_w of ClipClap, the raw features x = [v, a] and |y| for y divided by its length:

    base = |theta_o|                                            k = |theta_w|
    r    = softmax(router([|A v|, |B a|]))                      A, B: Linear
    m    = |r_1 |E_1([v, a])| + r_2 |E_2(v)| + r_3 |E_3(a)||    E: Linear, LayerNorm, GELU, dropout, Linear
    q    = |(base + m) / 2|

The loss is that of ClipClap with the products q . k / 0.1 in the cross-entropy, plus three small terms of the
raw features and texts:

- ``distribution`` (DP): KL of softmax(q . k / 2) to softmax(cos(x, w) / 2), times 4;
- ``relation`` (RP): MSE of q q^T and the cosines of x, without the diagonal;
- ``uniformity`` (HUP): log mean exp(-2 (2 - 2 cos(q_i, q_j))) over pairs of different classes, plus 8, at
  least 0.

Evaluated by (|q - k| + s ||x| - |w||) / 2 (FAR): half of the distance is that of the frozen models. The scale
s is the mean of the first distance over the mean of the second. Published: over all samples of the evaluated
split, so that the result of a test sample depends on the others (``far_scale=batch``, transductive). With
``far_scale=validation`` s is that of the validation samples, chosen with beta (inductive).

Each part can be switched off: ``sphere``, ``moe``, ``far``, ``dp``, ``rp``, ``hup``.

Reference: the code XPX-LQL/HSP-MoE-AVGZSL; no paper was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import (
    Batch,
    Classes,
    Embeddings,
    Field,
    MethodConfig,
    Use,
    euclidean,
    register,
)
from methods.blocks import AFFINE, Dropout, labels_of, module_names, published_settings
from methods.clipclap import PUBLISHED_FIELDS, PUBLISHED_SWITCHES, ClipClap

BIBTEX = """@misc{hspmoe,
  author       = {{XPX-LQL}},
  title        = {{HSP-MoE-AVGZSL}},
  howpublished = {Code on GitHub},
  note         = {No paper was found},
}"""
SWITCHES = {
    "sphere": "semantic_hyperspherical",
    "moe": "semantic_consensus_routing",
    "far": "semantic_far_fusion",
    "hup": "semantic_hup_loss",
}
"""Our switch -> published argument."""
FIELDS = PUBLISHED_FIELDS | {
    "temperature": "semantic_hyperspherical_temperature",
    "dp_weight": "semantic_distribution_weight",
    "rp_weight": "semantic_relation_weight",
    "hup_weight": "semantic_hup_weight",
    "moe_weight": "semantic_consensus_weight",
    "far_weight": "semantic_far_adapted_weight",
}
FIXED = PUBLISHED_SWITCHES | {
    "semantic_distill_weight": 0.0,
    "semantic_distill_mode": "both",
    "semantic_distill_temperature": 2.0,
    "semantic_radial_mode": "none",
    "semantic_hup_mode": "uniformity",
    "semantic_hup_temperature": 2.0,
    "semantic_hup_margin": 0.0,
    "semantic_hup_cross_class_only": True,
    "semantic_consensus_temperature": 1.0,
    "semantic_far_scale_raw": True,
    "av_fusion_module": False,
}
TEACHER_TEMPERATURE, UNIFORMITY = 2.0, 2.0
"""Of DP; of HUP."""
WIDTH, HIDDEN, ROUTER = 64, 128, (128, 32)
"""Output of an expert and of A and B; hidden width of an expert; hidden widths of the router."""


class Router(nn.Module):
    """The mixture of experts.

    Args:
        video_dim, audio_dim: sizes of the features.
        dropout: of experts and router.
    """

    def __init__(self, video_dim: int, audio_dim: int, dropout: float) -> None:
        super().__init__()

        def expert(inputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(inputs, HIDDEN),
                nn.LayerNorm(HIDDEN),
                nn.GELU(),
                Dropout(dropout),
                nn.Linear(HIDDEN, WIDTH),
            )

        self.video = nn.Linear(video_dim, WIDTH)
        self.audio = nn.Linear(audio_dim, WIDTH)
        self.both_expert = expert(video_dim + audio_dim)
        self.video_expert = expert(video_dim)
        self.audio_expert = expert(audio_dim)
        first, second = ROUTER
        self.router = nn.Sequential(
            nn.Linear(2 * WIDTH, first), nn.ReLU(), Dropout(dropout), nn.Linear(first, second), nn.ReLU(),
            nn.Linear(second, 3),
        )  # fmt: skip

    def forward(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Direction m ``[B, 64]`` and weights r ``[B, 3]`` of features ``[B, D_v]``, ``[B, D_a]``."""
        directions = [unit(self.video(video)), unit(self.audio(audio))]
        weights = self.router(torch.cat(directions, dim=1)).softmax(dim=1)
        experts = (self.both_expert(torch.cat([video, audio], dim=1)), self.video_expert(video),
                   self.audio_expert(audio))  # fmt: skip
        mixed = sum(weights[:, i : i + 1] * unit(expert) for i, expert in enumerate(experts))
        return unit(mixed), weights


@register(
    "hspmoe",
    title="HSP-MoE",
    paper="code XPX-LQL/HSP-MoE-AVGZSL; no paper was found",
    bibtex=BIBTEX,
    inputs="mean",
    uses=("test_samples",),
)
class HspMoe(ClipClap):
    """ClipClap on a sphere with experts and the frozen distance."""

    class Config(ClipClap.Config):
        """Defaults: the settings of the published table (the script's own defaults are others)."""

        sphere: bool = Field(True, description="embeddings of length 1, cross-entropy with a temperature")
        moe: bool = Field(True, description="mixture of experts")
        far: bool = Field(True, description="mix in the distance of the frozen features and texts (FAR)")
        dp: bool = Field(True, description="distribution term (DP)")
        rp: bool = Field(True, description="relation term (RP)")
        hup: bool = Field(True, description="uniformity term (HUP)")
        far_scale: Literal["batch", "validation"] = Field(
            "batch",
            description="samples whose mean distances give the scale of FAR: batch is all samples of the "
            "evaluated split, as published (transductive); validation is the validation samples",
        )
        temperature: float = Field(0.1, gt=0, description="temperature of the cross-entropy on the sphere")
        moe_weight: float = Field(0.5, ge=0, le=1, description="weight of the mixture in q")
        far_weight: float = Field(0.5, ge=0, le=1, description="weight of the trained distance in FAR")
        dp_weight: float = Field(1e-3, ge=0, description="weight of the distribution term")
        rp_weight: float = Field(2e-4, ge=0, description="weight of the relation term")
        hup_weight: float = Field(2e-4, ge=0, description="weight of the uniformity term")
        router_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of experts and router")

        @model_validator(mode="after")
        def _parts_fit(self) -> Self:
            if self.moe and (self.modality, self.embedding_dim) != ("both", WIDTH):
                raise ValueError(f"moe needs modality=both and embedding_dim={WIDTH}; or set moe=false")
            if self.moe and not self.sphere:
                raise ValueError("moe mixes directions: it needs sphere=true; or set moe=false")
            one_text = self.modality == "both" and self.word_embeddings != "both"
            if one_text and (self.far or self.dp):
                raise ValueError(
                    "far and dp compare features with their own texts: they need word_embeddings=both; "
                    "or set far=false and dp=false"
                )
            return self

    released_class = ""
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sphere_and_moe": {"sphere": False, "moe": False},
        **{name: {name: False} for name in ("moe", "far", "dp", "rp", "hup")},
    }
    corrected_settings: ClassVar[Mapping[str, Any]] = {"far_scale": "validation"}

    def build_router(self) -> None:
        config, spec = self.config, self.spec
        if config.moe:
            self.router = Router(spec.video_dim, spec.audio_dim, config.router_dropout)

    @classmethod
    def uses_with(cls, config: Any) -> tuple[Use, ...]:
        return cls.uses if config.far and config.far_scale == "batch" else ()

    def on_sphere(self, theta: Tensor) -> Tensor:
        """Embeddings ``[N, d]``, of length 1 unless ``sphere`` is off."""
        return unit(theta) if self.config.sphere else theta

    def mixed(self, theta_o: Tensor, batch: Batch) -> Tensor:
        """q, ``[B, d]``."""
        base = self.on_sphere(theta_o)
        if not self.config.moe:
            return base
        weight = self.config.moe_weight
        return unit((1 - weight) * base + weight * self.router(batch.video, batch.audio)[0])

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """ClipClap's losses on the sphere and, in training, DP, RP and HUP with their weights."""
        x, c = self.forward_batch(batch), self.config
        q = self.mixed(x.theta_o, batch)
        k = self.on_sphere(self.project_classes(classes.text))
        scores, label = q @ k.T, labels_of(batch)
        temperature = c.temperature if c.sphere else 1.0
        parts = {"classification": functional.cross_entropy(scores / temperature, label), **self.alignment(x)}
        if self.training:
            raw = unit(self.features(batch))
            if c.dp:
                parts["distribution"] = c.dp_weight * distribution(
                    scores, raw @ unit(self.used_text(classes.text)).T
                )
            if c.rp:
                parts["relation"] = c.rp_weight * relation(q, raw)
            if c.hup:
                parts["uniformity"] = c.hup_weight * uniformity(q, label)
        return {"total": torch.stack(list(parts.values())).sum(), **parts}

    def embed(self, batch: Batch) -> Embeddings:
        """Output ``joint``: [q, |x|], ``[B, d + D]``; only q without FAR."""
        q = self.mixed(self.project_samples(batch), batch)
        return Embeddings({"joint": torch.cat([q, unit(self.features(batch))], 1) if self.config.far else q})

    def embed_classes(self, text: Tensor) -> Tensor:
        """[k, |w|], ``[C, d + D]``; only k without FAR."""
        k = self.on_sphere(self.project_classes(text))
        return torch.cat([k, unit(self.used_text(text))], dim=1) if self.config.far else k

    def summarise(self, embeddings: Embeddings, classes: Tensor) -> dict[str, float]:
        """``far_scale``: s, the mean of the trained distance over the mean of the frozen one."""
        if not self.config.far:
            return {}
        adapted, raw = self._both_distances(embeddings, classes)
        return {"far_scale": float(adapted.mean() / raw.mean().clamp(min=1e-12))}

    def distances(self, embeddings: Embeddings, classes: Tensor) -> dict[str, Tensor]:
        """Euclidean, with FAR the weighted mean with the scaled frozen distance."""
        if not self.config.far:
            return super().distances(embeddings, classes)
        adapted, raw = self._both_distances(embeddings, classes)
        weight = self.config.far_weight
        return {"joint": weight * adapted + (1 - weight) * self.summary["far_scale"] * raw}

    def _both_distances(self, embeddings: Embeddings, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Distances ``[B, C]`` of q to k, and of |x| to |w|."""
        x, size = embeddings.outputs["joint"], self.config.embedding_dim
        return euclidean(x[:, :size], classes[:, :size]), euclidean(x[:, size:], classes[:, size:])

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        super().after_step(batch)
        if self.config.moe:
            self.router(batch.video, batch.audio)  # draws of dropout, as published

    @classmethod
    def published_blocks(cls, state: Mapping[str, Tensor]) -> dict[str, str]:
        block, linears = "semantic_consensus", {"0": AFFINE, "1": AFFINE, "4": AFFINE}
        names = super().published_blocks(state)
        if not any(name.startswith(f"{block}.") for name in state):  # trained without experts
            return names
        for published, ours in {
            "multimodal_experts.0": "both_expert",
            "singlemodal_experts.0": "video_expert",
            "singlemodal_experts.1": "audio_expert",
        }.items():
            names |= module_names(f"{block}.{published}", f"router.{ours}", linears)
        names |= module_names(f"{block}.router", "router.router", {"0": AFFINE, "3": AFFINE, "5": AFFINE})
        for modality in ("video", "audio"):
            names |= {f"{block}.{modality}_router_proj.{x}": f"router.{modality}.{x}" for x in AFFINE}
        return names

    @classmethod
    def is_published_as(cls, args: Mapping[str, Any]) -> bool:
        return "semantic_hyperspherical" in args

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        settings = published_settings(args, FIELDS | SWITCHES, FIXED)
        settings |= {"dp": settings.get("dp_weight", 1) > 0, "rp": settings.get("rp_weight", 1) > 0}
        return cls.Config(**settings)


def unit(x: Tensor) -> Tensor:
    """Rows ``[N, d]`` of length 1."""
    return functional.normalize(x, dim=-1)


def distribution(scores: Tensor, cosines: Tensor) -> Tensor:
    """DP: KL of the products q . k ``[B, C]`` to the cosines of raw features and texts ``[B, C]``."""
    student = (scores / TEACHER_TEMPERATURE).log_softmax(dim=1)
    teacher = (cosines.detach() / TEACHER_TEMPERATURE).softmax(dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean") * TEACHER_TEMPERATURE**2


def relation(q: Tensor, raw: Tensor) -> Tensor:
    """RP: MSE of the cosines of q ``[B, d]`` and of raw features ``[B, D]``, without the diagonal."""
    return functional.mse_loss(without_diagonal(q @ q.T), without_diagonal(raw @ raw.T).detach())


def without_diagonal(x: Tensor) -> Tensor:
    """The elements of ``[B, B]`` that are not on the diagonal, row by row, ``[B * (B - 1)]``."""
    size = len(x)
    return x.flatten()[1:].view(size - 1, size + 1)[:, :-1].flatten()


def uniformity(q: Tensor, label: Tensor) -> Tensor:
    """HUP of q ``[B, d]`` and labels ``[B]``; 0 for a batch of one class."""
    if q.device.type != "cpu":
        return uniformity_on_device(q, label)
    pairs = label[:, None] != label[None, :]
    if not pairs.any():
        return q.sum() * 0
    squared = 2 - 2 * (q @ q.T)[pairs]
    mean = torch.logsumexp(-UNIFORMITY * squared, dim=0) - math.log(len(squared))
    return (mean + 4 * UNIFORMITY).clamp(min=0)


def uniformity_on_device(q: Tensor, label: Tensor) -> Tensor:
    """``uniformity`` without a choice by numbers of the device, for which the host would wait."""
    pairs = label[:, None] != label[None, :]
    count = pairs.sum()
    closeness = -UNIFORMITY * (2 - 2 * (q @ q.T))
    kept = closeness.masked_fill(~pairs & (count > 0), -math.inf)  # of one class: no infinite gradient
    mean = torch.logsumexp(kept.flatten(), dim=0) - count.clamp(min=1).log()
    return torch.where(count > 0, (mean + 4 * UNIFORMITY).clamp(min=0), q.sum() * 0)
