"""Hyper-alignment, Hyper-single and Hyper-multiple: AVCA with one more term.

    loss = loss of AVCA + 1e-3 (L(h(phi_v), h(phi_a)) + L(h(phi_v_n), h(phi_a_n)))
    L(x, y) = MSE(Sim(x, x), Sim(y, y)), ``[B, B]``

phi_v, phi_a ``[B, dim]`` are AVCA's encodings before attention, n marks the samples of other classes. h clips
a row into the ball of curvature c and maps it to the tangent space at 0 by the logarithm:

    n = max(|x|, 1e-5),  y = x if n <= (1 - 1e-3) / sqrt(c), else scaled to that length
    h(x) = y / |y| artanh(sqrt(c) |y|) / sqrt(c)

- Hyper-alignment: c is fixed.
- Hyper-single: c = curvature * sigmoid(Linear([phi_v, phi_a])) of each sample.
- Hyper-multiple: K such curvatures, and L is their mean.

``similarity`` is the published version: in ``norm`` (2023-09 to 2024-07, the time of the published table of
curvatures) Sim is the outer product of the rows' lengths, since a division is missing; in ``cosine`` (since
2024-07) it is the cosine. In ``cosine`` the term does not depend on the curvature at all.

What the term does (docs/reference/methods-hyper.md): in 16 of the 18 published settings it is at most 3e-7
(``norm``), and at most 3e-4 of the encoders' gradient in ``cosine``. So a difference from AVCA is noise of
the seeds until runs show otherwise.

Reference: Hong, Hayder, Han, Fang, Harandi, Petersson: Hyperbolic audio-visual zero-shot learning, ICCV 2023,
arXiv:2308.12558.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import Field, MethodConfig, Spec, register
from methods.avca import Avca, Pass

BIBTEX = """@inproceedings{hong2023hyperbolic,
  author    = {Hong, Jie and Hayder, Zeeshan and Han, Junlin and Fang, Pengfei and Harandi, Mehrtash and
               Petersson, Lars},
  title     = {Hyperbolic Audio-Visual Zero-Shot Learning},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2023},
}"""
PAPER = (
    "Hong, Hayder, Han, Fang, Harandi, Petersson: Hyperbolic audio-visual zero-shot learning, ICCV 2023, "
    "arXiv:2308.12558"
)
SHORTEST, BORDER = 1e-5, 1e-3
"""Least length of a row; distance to the ball's border that clipping keeps, in units of the radius."""


class HyperConfig(Avca.Config):
    """Defaults: AVCA's, and the published code of today."""

    similarity: Literal["cosine", "norm"] = Field(
        "cosine", description="published version: cosine since July 2024; norm before, as in the paper's time"
    )
    curvature: float = Field(0.01, gt=0, description="curvature c, or its upper end if it is learnt")
    align_weight: float = Field(1e-3, ge=0, description="weight of the added term")


class Hyper(Avca):
    """AVCA with the added term; subclasses say what the curvature is."""

    Config = HyperConfig

    published_class = "Hyper_AVCA"
    parts: ClassVar[Mapping[str, Mapping[str, Any]]] = {"hyperbolic": {"align_weight": 0.0}}
    framework: ClassVar[str]
    """Name in the published arguments."""

    def curvatures(self, phi_v: Tensor, phi_a: Tensor) -> Tensor:
        """Curvatures of encodings ``[B, dim]``, ``[B, K]`` or ``[1, 1]``."""
        raise NotImplementedError

    def added_terms(self, positive: Pass, negative: Pass) -> dict[str, Tensor]:
        """``hyperbolic``: the added term with its weight."""
        terms = [self.alignment(x.phi_v, x.phi_a) for x in (positive, negative)]
        return {"hyperbolic": self.config.align_weight * torch.stack(terms).sum()}

    def alignment(self, phi_v: Tensor, phi_a: Tensor) -> Tensor:
        """L of encodings ``[B, dim]``, the mean over the curvatures."""
        similarities = SIMILARITIES[self.config.similarity]
        each = []
        # Near the border of the ball half precision has no numbers left.
        with torch.autocast(phi_v.device.type, enabled=False):
            for c in full(self.curvatures(full(phi_v), full(phi_a))).split(1, dim=1):  # type: ignore[no-untyped-call]
                video, audio = (similarities(log_map(full(x), c)) for x in (phi_v, phi_a))
                each.append(functional.mse_loss(video, audio))
        return torch.stack(each).mean()

    @classmethod
    def published_state(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {name: x for name, x in state.items() if name.startswith("fusenet1.")}
        others = {name: x for name, x in state.items() if name not in own}
        expected = {f"fusenet1.{x}" for x in ("weight", "bias")} if cls.framework != ALIGNMENT else set()
        if missing := sorted(expected - own.keys()):
            raise ValueError(f"published state dict does not fit: missing {missing}")
        # Hyper-alignment's published weights have the layer too, unused.
        kept = {name.replace("fusenet1", "curvature_of"): x for name, x in own.items() if name in expected}
        return super().published_state(others) | kept

    @classmethod
    def is_published_as(cls, args: Mapping[str, Any]) -> bool:
        return args.get("hyper_framework") == cls.framework

    @classmethod
    def published_config(cls, args: Mapping[str, Any]) -> MethodConfig:
        names = {"curvature": "curvature", "similarity": "similarity", "curvature_count": "num_curvature"}
        known = {
            ours: args[name]
            for ours, name in names.items()
            if name in args and ours in cls.Config.model_fields
        }
        base = super().published_config(args).model_dump(exclude=set(known))
        return cls.Config(**{**base, **known})


ALIGNMENT = "Hyper-alignment"


@register("hyper_alignment", title="Hyper-alignment", paper=PAPER, bibtex=BIBTEX, inputs="mean")
class HyperAlignment(Hyper):
    """One fixed curvature."""

    framework = ALIGNMENT

    def curvatures(self, phi_v: Tensor, phi_a: Tensor) -> Tensor:
        # Through float32, as published. Filled on the device: a copy would make the host wait.
        return phi_v.new_full((1, 1), self.config.curvature, dtype=torch.float32).to(phi_v.dtype)


class LearntCurvature(Hyper):
    """Curvatures of each sample, from its encodings."""

    def __init__(self, config: HyperConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.curvature_of = nn.Linear(2 * config.dim, self.count())

    def count(self) -> int:
        """K."""
        return 1

    def curvatures(self, phi_v: Tensor, phi_a: Tensor) -> Tensor:
        logits: Tensor = self.curvature_of(torch.cat([phi_v, phi_a], dim=1))
        return torch.sigmoid(logits) * float(self.config.curvature)


@register("hyper_single", title="Hyper-single", paper=PAPER, bibtex=BIBTEX, inputs="mean")
class HyperSingle(LearntCurvature):
    """A learnt curvature."""

    framework = "Hyper-single"


@register("hyper_multiple", title="Hyper-multiple", paper=PAPER, bibtex=BIBTEX, inputs="mean")
class HyperMultiple(LearntCurvature):
    """Several learnt curvatures."""

    class Config(HyperConfig):
        """Defaults: as above."""

        curvature_count: int = Field(2, ge=1, le=64, description="number of curvatures (K)")

    framework = "Hyper-multiple"

    def count(self) -> int:
        count: int = self.config.curvature_count
        return count


def full(x: Tensor) -> Tensor:
    """``x`` in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def log_map(x: Tensor, curvature: Tensor) -> Tensor:
    """Rows ``[B, d]``, clipped into the ball, in the tangent space at 0.

    Args:
        curvature: ``[B, 1]`` or ``[1, 1]``.
    """
    root = curvature.sqrt()
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(SHORTEST)
    longest = (1 - BORDER) / root
    inside = torch.where(length > longest, x / length * longest, x)
    length = torch.linalg.vector_norm(inside, dim=1, keepdim=True).clamp_min(SHORTEST)
    out: Tensor = inside / length / root * torch.atanh(root * length)
    return out


def lengths(x: Tensor) -> Tensor:
    """Products of the lengths of all pairs of rows, ``[B, B]``."""
    norm = torch.linalg.vector_norm(x, dim=1)
    return torch.outer(norm, norm)


def cosines(x: Tensor) -> Tensor:
    """Cosines of all pairs of rows, ``[B, B]``."""
    unit = functional.normalize(x, dim=1)
    return torch.mm(unit, unit.T)


SIMILARITIES = {"norm": lengths, "cosine": cosines}
