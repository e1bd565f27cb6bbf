"""Random streams: one for each purpose for which the harness draws random numbers.

The purpose is the first part of a stream's seed, so streams of different purposes never share numbers,
whatever their seeds and counters are. Model weights and the draws of a method use the generators that
``randomness.seed_everything`` seeds.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np


@unique
class Purpose(IntEnum):
    """What a stream is for. Numbers are never changed or used again."""

    POSITIVES = 1
    """Batches: classes and samples; seed of the repetition, epoch."""
    NEGATIVES = 2
    """Batches: samples of other classes; seed of the repetition, epoch."""
    CUTS = 3
    """Batches: starts of random cuts; seed of the repetition, epoch."""
    SHUFFLED_CLASSES = 5
    """Permutation of the class embeddings for text alignment ``shuffled``; seed of the repetition."""
    MAPPED_SAMPLES = 6
    """Test samples of an embedding map; seed of the repetition."""
    COUNTED_SAMPLES = 7
    """Test samples whose operations are counted; seed of the repetition."""
    BOOTSTRAP = 8
    """Resampled test samples; seed of the bootstrap."""
    SYNTHETIC_CLASSES = 9
    """Classes, codes and channels of synthetic data; seed of the data."""
    SYNTHETIC_AUDIO = 10
    """Audio of synthetic data; seed of the data."""
    SYNTHETIC_VIDEO = 11
    """Video of synthetic data; seed of the data."""
    EVALUATION_ORDER = 12
    """Order in which samples are evaluated, and which of them are scored again; seed of the repetition."""
    STAMPS_DIVISION = 20220604
    """Division of the dataset ``stamps`` into splits; class. The number defines that dataset."""


def stream(purpose: Purpose, seed: int, *counters: int) -> np.random.Generator:
    """The generator of a purpose; equal arguments give equal numbers.

    Args:
        purpose: what is drawn.
        seed: not negative.
        counters: such as an epoch. All streams of a purpose have the same number of counters.
    """
    return np.random.default_rng([purpose, seed, *counters])
