"""Where the features of a batch come from, and on which device the batch is assembled.

On the CPU they are read from the memory map (``Host``). On another device they lie there if they fit
(``Resident``); otherwise the raw time steps of a batch are copied there (``Copied``). Both give it the same
bits, which it scales and normalises, so free memory decides no number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.data.store import BLOCK_BYTES, MODALITIES, ModalityData, Samples
from benchmark.method import Batch, Inputs

Ints = NDArray[np.int64]
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Cuts:
    """Which time steps are taken of each sample of a batch, and the common length after padding."""

    start: Ints
    """``[B]`` first time step."""
    length: Ints
    """``[B]`` number of time steps."""
    padded: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """``[B, T]``, True for real time steps."""
        found: NDArray[np.bool_] = np.arange(self.padded) < self.length[:, None]
        return found


class Source(Protocol):
    """Gives the features of samples as they are stored, in float32 on its device."""

    def means(self, samples: Samples, modality: str, rows: Ints) -> Tensor:
        """Temporal means ``[B, D]``."""

    def sequences(self, samples: Samples, modality: str, rows: Ints, cuts: Cuts) -> tuple[Tensor, Tensor]:
        """Features ``[B, T, D]`` with zeros after the end, and the mask ``[B, T]``."""

    def put(self, x: Tensor) -> Tensor:
        """A tensor of the host, on the device."""


class Host:
    """Reads the features from memory or its map, for the CPU."""

    pinned = False
    """Whether batches are made in memory that a GPU can read by itself."""

    def means(self, samples: Samples, modality: str, rows: Ints) -> Tensor:
        """Temporal means ``[B, D]``."""
        return self.put(torch.from_numpy(np.asarray(_data(samples, modality).means[rows], np.float32)))

    def sequences(self, samples: Samples, modality: str, rows: Ints, cuts: Cuts) -> tuple[Tensor, Tensor]:
        """Features ``[B, T, D]`` with zeros after the end, and the mask ``[B, T]``."""
        frames, offsets = _sequences(_data(samples, modality))
        x = self._empty((len(rows), cuts.padded, frames.shape[1]))
        for sample, first, length in zip(x.numpy(), offsets[rows] + cuts.start, cuts.length, strict=True):
            sample[:length] = frames[first : first + length]
            sample[length:] = 0
        return self.put(x), self.put(torch.from_numpy(cuts.mask))

    def put(self, x: Tensor) -> Tensor:
        """The tensor itself."""
        return x

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        if self.pinned:
            return torch.empty(shape, dtype=torch.float32, pin_memory=True)
        return torch.from_numpy(np.empty(shape, np.float32))


HOST = Host()


class Copied(Host):
    """Reads the features of a batch from memory or its map, and copies them without waiting."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pinned = device.type == "cuda"

    def put(self, x: Tensor) -> Tensor:
        """The tensor on the device; the copy may still be under way in the current stream."""
        return (x.pin_memory() if self.pinned else x).to(self.device, non_blocking=True)


class Resident(Copied):
    """Keeps the features of all samples on the device, and copies only the indices of a batch.

    Args:
        samples: the only ones whose features it gives.
        inputs: whether sequences or temporal means are needed.
        device: of the features.
    """

    def __init__(self, samples: Samples, inputs: Inputs, device: torch.device) -> None:
        super().__init__(device)
        self._features = {m: _copy(x, device) for m, x in _arrays(samples, inputs).items()}

    def means(self, samples: Samples, modality: str, rows: Ints) -> Tensor:
        """Temporal means ``[B, D]``."""
        return self._features[modality].index_select(0, self.put(torch.from_numpy(rows))).float()

    def sequences(self, samples: Samples, modality: str, rows: Ints, cuts: Cuts) -> tuple[Tensor, Tensor]:
        """Features ``[B, T, D]`` with zeros after the end, and the mask ``[B, T]``."""
        _, offsets = _sequences(_data(samples, modality))
        first, real = (offsets[rows] + cuts.start)[:, None], cuts.mask
        steps = np.where(real, first + np.arange(cuts.padded), first)  # padding reads a step that exists
        mask = self.put(torch.from_numpy(real))
        taken = self._features[modality].index_select(0, self.put(torch.from_numpy(steps.ravel())))
        x = taken.float().view(*real.shape, -1)
        return x.masked_fill_(~mask.unsqueeze(-1), 0), mask


def source_for(samples: Samples, inputs: Inputs, device: torch.device, share: float) -> Source:
    """Where batches for a device come from.

    Args:
        samples: from which batches are made.
        inputs: whether sequences or temporal means are needed.
        share: fraction of the free memory of a CUDA device that features may take.
    """
    if device.type == "cpu":
        return HOST
    if device.type == "cuda" and bytes_of(samples, inputs) <= share * torch.cuda.mem_get_info(device)[0]:
        return Resident(samples, inputs, device)
    return Copied(device)


def bytes_of(samples: Samples, inputs: Inputs) -> int:
    """Size of the features of samples on a device."""
    return sum(x.nbytes for x in _arrays(samples, inputs).values())


def _data(samples: Samples, modality: str) -> ModalityData:
    data: ModalityData = getattr(samples, modality)
    return data


def _sequences(data: ModalityData) -> tuple[Array, Ints]:
    if data.frames is None or data.offsets is None:
        raise ValueError("no sequences")
    return data.frames, data.offsets


def _arrays(samples: Samples, inputs: Inputs) -> Mapping[str, Array]:
    each = {m: _data(samples, m) for m in MODALITIES}
    return {m: x.means if inputs == "mean" else _sequences(x)[0] for m, x in each.items()}


def _copy(array: Array, device: torch.device) -> Tensor:
    """An array on a device, copied in blocks: a memory map is never read as a whole."""
    kind = torch.from_numpy(np.empty(0, array.dtype)).dtype
    copied = torch.empty(array.shape, dtype=kind, device=device)
    rows = max(1, BLOCK_BYTES // (array.shape[1] * array.dtype.itemsize))
    for start in range(0, len(array), rows):
        copied[start : start + rows] = torch.from_numpy(np.array(array[start : start + rows]))
    return copied


class CopyStream:
    """Has batches assembled on a stream of a CUDA device, while the step before runs on another one.

    Args:
        device: of the batches.
        cuda: stands for ``torch.cuda`` in tests.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.device, self.cuda = device, cuda
        self._stream = cuda.Stream(device)
        self._ready: deque[Any] = deque()

    def assemble(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, whose copies and kernels are in the stream of this object."""
        while True:
            with self.cuda.stream(self._stream):
                batch = next(batches, None)
                self._ready.append(self._stream.record_event())
            if batch is None:
                return
            yield batch

    def arrived(self, batch: Batch) -> Batch:
        """The next assembled batch; the current stream, not the host, waits until it is ready."""
        current = self.cuda.current_stream(self.device)
        current.wait_event(self._ready.popleft())
        for x in _tensors(batch):
            if x.is_cuda:
                x.record_stream(current)  # its memory is used again only after the step
        return batch


def _tensors(batch: Batch) -> Iterator[Tensor]:
    for value in vars(batch).values():
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Batch):
            yield from _tensors(value)
