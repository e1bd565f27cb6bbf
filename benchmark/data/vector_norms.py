"""Class embeddings with odd norms: zeros, which give a class no meaning, and norms far from the usual one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.data.store import Floats

ZERO = 1e-6
"""Share of the usual norm up to which an embedding counts as zero, since what remains is rounding."""
LEAST = 1e-18
"""Norm up to which an embedding always counts as zero: float32 does not represent its square exactly."""
FAR = 10.0
"""Factor by which a norm may differ from the usual one."""


@dataclass(frozen=True)
class OddNorm:
    """A class embedding whose norm is far from the usual one."""

    row: int
    name: str
    norm: float
    usual: float
    """The median of the norms that are not zero."""

    @property
    def is_zero(self) -> bool:
        """Whether it is zero except for rounding."""
        return self.norm <= max(LEAST, ZERO * self.usual)


def odd_norms(names: Sequence[str], vectors: Sequence[Floats] | Floats) -> Iterator[OddNorm]:
    """The class embeddings with odd norms, in their order; embeddings that are not finite are omitted.

    Args:
        names: names of the embeddings.
        vectors: ``[K, D]``, or ``K`` vectors.
    """
    norms: NDArray[np.float64] = np.array([np.linalg.norm(np.asarray(v, np.float64)) for v in vectors])
    finite = norms[np.isfinite(norms)]
    usual = float(np.median(finite[finite > 0])) if (finite > 0).any() else 0.0
    for row, (name, norm) in enumerate(zip(names, norms.tolist(), strict=True)):
        if np.isfinite(norm) and (norm <= LEAST or not usual / FAR < norm < usual * FAR):
            yield OddNorm(row, name, norm, usual)


def nearly_zero(vectors: Mapping[str, Floats]) -> set[str]:
    """Names of the class embeddings that are zero except for rounding."""
    return {odd.name for odd in odd_norms(list(vectors), list(vectors.values())) if odd.is_zero}
