"""Embeddings in two dimensions, for the maps of a report: jobs lay out and log theirs, reports do it where a job did not."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

STEPS = 500
"""Of t-SNE: half of them with exaggerated attraction, as its authors advise. A change of the settings here needs another
number in ``Artifact.EMBEDDING_MAP`` (``tracking/schema.py``), so that reports compute the maps of earlier jobs again."""


def flat_map(frame: pd.DataFrame) -> pd.DataFrame | None:
    """Embeddings in two dimensions by t-SNE: columns ``kind``, ``class``, ``group``, ``x``, ``y`` (three decimals).

    Args:
        frame: ``embedding.csv``: columns ``kind``, ``class``, ``group``, ``e0``, ``e1``, ...

    Returns:
        None where there is nothing to see: fewer than three embeddings, all the same, or a value that is no number.
    """
    values = frame.filter(regex=r"^e\d+$").to_numpy(np.float64)
    if len(values) < 3 or not np.isfinite(values).all() or not np.ptp(values, axis=0).any():
        return None
    flat = _tsne(values).round(3)
    return frame[["kind", "class", "group"]].assign(x=flat[:, 0], y=flat[:, 1])


def _tsne(values: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE  # a second to import
    from threadpoolctl import threadpool_limits

    start = "pca" if min(values.shape) > 1 else "random"
    perplexity = min(30.0, (len(values) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init=start, learning_rate="auto", max_iter=STEPS, random_state=0)
    with threadpool_limits(1):  # sums do not depend on the number of cores then, and busy machines are not waited for
        return np.asarray(tsne.fit_transform(values), np.float64)
