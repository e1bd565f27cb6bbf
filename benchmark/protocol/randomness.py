"""Seeds, and the random states of torch, numpy and Python."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed all generators that a method may draw from: torch on all devices, numpy's global one, Python's."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_states() -> dict[str, Any]:
    """The states of these generators, in plain types that load without unpickling objects."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    name, keys, *rest = np.random.get_state(legacy=True)
    numpy = [name, np.asarray(keys).tolist(), *rest]
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": numpy, "python": random.getstate()}


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Restore the states of the generators."""
    torch.set_rng_state(states["torch"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    random.setstate(states["python"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def derive_seed(base: int, dataset: str, repetition: int) -> int:
    """The seed of a repetition: the same for both stages and all methods, independent of what else is run."""
    digest = hashlib.sha256(f"{base}/{dataset}/{repetition}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
