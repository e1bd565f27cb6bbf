"""Norms of word vectors: zeros, which give a class no meaning, and norms that are far from those of the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.data.store import Floats

ZERO = 1e-6
"""Share of the usual norm up to which a word vector is taken for zeros: what is left of it is rounding."""
LEAST = 1e-18
"""Norm up to which a word vector is taken for zeros whatever the others are: its square is below what float32 holds exactly."""
FAR = 10.0
"""Times by which a norm may differ from the usual one."""


@dataclass(frozen=True)
class OddNorm:
    """A word vector whose norm is far from the usual one."""

    row: int
    name: str
    norm: float
    usual: float
    """The median of the norms that are not zero."""

    @property
    def is_zero(self) -> bool:
        """Whether it is zero, or nothing but rounding."""
        return self.norm <= max(LEAST, ZERO * self.usual)


def odd_norms(names: Sequence[str], vectors: Sequence[Floats] | Floats) -> Iterator[OddNorm]:
    """The word vectors with odd norms, in their order; those that are not finite are left out.

    Args:
        names: of the vectors.
        vectors: ``[K, D]``, or ``K`` vectors.
    """
    norms: NDArray[np.float64] = np.array([np.linalg.norm(np.asarray(v, np.float64)) for v in vectors])
    finite = norms[np.isfinite(norms)]
    usual = float(np.median(finite[finite > 0])) if (finite > 0).any() else 0.0
    for row, (name, norm) in enumerate(zip(names, norms.tolist(), strict=True)):
        if np.isfinite(norm) and (norm <= LEAST or not usual / FAR < norm < usual * FAR):
            yield OddNorm(row, name, norm, usual)


def nearly_zero(vectors: Mapping[str, Floats]) -> set[str]:
    """Names of the word vectors that are zero, or nothing but rounding."""
    return {odd.name for odd in odd_norms(list(vectors), list(vectors.values())) if odd.is_zero}
