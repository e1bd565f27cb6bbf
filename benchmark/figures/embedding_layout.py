"""Computes maps of embeddings in two dimensions. Jobs log theirs; reports compute those of earlier jobs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

STEPS = 500
"""Steps of t-SNE, half of them with early exaggeration, as its authors advise. If settings here change,
change the number in ``Artifact.EMBEDDING_MAP`` (``tracking/schema.py``) too, so that reports compute the maps
of earlier jobs again."""


def flat_map(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Map embeddings to two dimensions by t-SNE.

    Args:
        frame: columns ``kind``, ``class``, ``group``, ``e0``, ``e1``, ... (``Artifact.EMBEDDING``).

    Returns:
        Columns ``kind``, ``class``, ``group``, ``x``, ``y`` (three decimals); None if there are fewer than
        three embeddings, if all are the same, or if a value is not finite.
    """
    values = frame.filter(regex=r"^e\d+$").to_numpy(np.float64)
    if len(values) < 3 or not np.isfinite(values).all() or not np.ptp(values, axis=0).any():
        return None
    flat = _tsne(values).round(3)
    return frame[["kind", "class", "group"]].assign(x=flat[:, 0], y=flat[:, 1])


def _tsne(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE  # the import takes a second
    from threadpoolctl import threadpool_limits

    start = "pca" if min(values.shape) > 1 else "random"
    perplexity = min(30.0, (len(values) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init=start, learning_rate="auto", max_iter=STEPS, random_state=0)
    with threadpool_limits(1):  # results do not depend on the number of cores, and busy cores do not delay it
        return np.asarray(tsne.fit_transform(values), np.float64)
