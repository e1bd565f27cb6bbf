"""Random streams: every random draw of the harness, by its purpose.

A stream is seeded by its purpose first, so that no two draws of different purposes ever share numbers, whatever their seeds
and counters are. The weights of a model and what a method draws itself come from the generators that
``training.seed_everything`` seeds.
"""

from __future__ import annotations

from enum import IntEnum, unique

import numpy as np


@unique
class Purpose(IntEnum):
    """What a stream is for. A new purpose gets a new number; a number is never used again."""

    POSITIVES = 1
    """Batches: classes and samples; seed of the repetition, epoch."""
    NEGATIVES = 2
    """Batches: samples of other classes; seed of the repetition, epoch."""
    CUTS = 3
    """Batches: starts of random cuts; seed of the repetition, epoch."""
    SHUFFLED_CLASSES = 5
    """Permutation of class vectors in text alignment ``shuffled``; seed of the repetition."""
    MAPPED_SAMPLES = 6
    """Test samples of an embedding map; seed of the repetition."""
    COUNTED_SAMPLES = 7
    """Test samples whose operations are counted; seed of the repetition."""
    BOOTSTRAP = 8
    """Test samples drawn anew; seed of the bootstrap."""
    SYNTHETIC_CLASSES = 9
    """Classes, codes and channels of synthetic data; seed of the data."""
    SYNTHETIC_AUDIO = 10
    """Audio of synthetic data; seed of the data."""
    SYNTHETIC_VIDEO = 11
    """Video of synthetic data; seed of the data."""
    EVALUATION_ORDER = 12
    """Order in which samples are evaluated, and which of them are scored again; seed of the repetition."""
    STAMPS_DIVISION = 20220604
    """Division of ``stamps`` into splits; class. It is a split of that data set, and so its number stays."""


def stream(purpose: Purpose, seed: int, *counters: int) -> np.random.Generator:
    """The generator of a purpose; the same for the same arguments.

    Args:
        purpose: what is drawn.
        seed: not negative.
        counters: as an epoch; their number is the same for all streams of a purpose, which keeps these apart too.
    """
    return np.random.default_rng([purpose, seed, *counters])
