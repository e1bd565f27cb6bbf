"""Reads PyTorch tensors in untrusted pickles as numpy arrays, never larger than the stored numbers."""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from benchmark.untrusted.pickles import ALLOWED, Call, Refusal, is_shape, shown


def _storage(raw: object) -> NDArray[np.generic]:
    """The numbers of a tensor, which PyTorch pickles as a file within the file; no code of it is run.

    Types that numpy lacks, such as bfloat16, become float32, which can represent all their values.
    """
    import torch

    if not isinstance(raw, bytes):
        raise Refusal(f"a tensor of {shown(raw)}")
    if raw.startswith(b"PK"):  # PyTorch pickles no tensors as zip archives, which could unpack to any size
        raise Refusal("a tensor in a zip archive")
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # typed storages are deprecated
            storage = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
            if not isinstance(storage, torch.storage.TypedStorage):
                raise Refusal(f"a tensor of {type(storage).__name__}")
            if storage.nbytes() > len(raw):  # type: ignore[no-untyped-call]
                raise Refusal("a tensor that claims more numbers than its bytes hold")
            numbers = torch.tensor([], dtype=storage.dtype).set_(storage)
        if numbers.is_floating_point() and numbers.dtype not in (torch.float16, torch.float32, torch.float64):
            numbers = numbers.float()
        return np.array(numbers.numpy())  # a copy, whose size is counted
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise Refusal(named[1] if named else "a tensor that is none") from None
    except (RuntimeError, AssertionError, AttributeError, TypeError) as error:
        raise ValueError(f"a tensor that cannot be read, {error!s:.100}") from None


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> NDArray[np.generic]:
    """A view of a storage, possibly transposed, that has no more numbers than the storage."""
    if (
        isinstance(storage, np.ndarray)
        and type(offset) is int
        and offset >= 0
        and is_shape(size)
        and is_shape(stride)
    ):
        assert isinstance(size, tuple)  # is_shape
        assert isinstance(stride, tuple)
        count = math.prod(size)
        # Position of the last number that the view reads.
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=False)) if count else 0
        if len(stride) == len(size) and count <= storage.size and last < max(1, storage.size):
            if not count:
                return np.zeros(size, storage.dtype)
            steps = [step * storage.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
            return np.asarray(np.lib.stride_tricks.as_strided(storage[offset:], size, steps), order="C")
    repeats = (
        " (write x.contiguous(), if it repeats them)" if isinstance(stride, tuple) and 0 in stride else ""
    )
    raise Refusal(
        f"a tensor of size {shown(size)} and stride {shown(stride)}, which its numbers do not fill{repeats}"
    )


def _parameter(tensor: object, *_: object) -> object:
    """The tensor of a parameter of a network."""
    if not isinstance(tensor, np.ndarray):
        raise Refusal(f"a parameter of {shown(tensor)}")
    return tensor


WITH_TENSORS: Mapping[tuple[str, str], object] = {
    **ALLOWED,
    ("torch.storage", "_load_from_bytes"): Call(_storage),
    ("torch._utils", "_rebuild_tensor_v2"): Call(_tensor),
    ("torch._utils", "_rebuild_parameter"): Call(_parameter),
}
