"""A plain writer of fastText models, and the vectors that follow from its definition: neither knows how they
are read."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SKIPGRAM, SUPERVISED = 2, 3


def _c_hash(text: bytes) -> int:
    """FNV-1a in 32-bit arithmetic of C: a char is signed."""
    value = np.uint32(2166136261)
    with np.errstate(over="ignore"):
        for char in np.frombuffer(text, np.int8):
            value = np.uint32(value ^ np.uint32(np.int32(char).view(np.uint32))) * np.uint32(16777619)
    return int(value)


@dataclass
class Model:
    """A model of random numbers; every field of the file may be set."""

    words: list[str]
    dim: int = 4
    minn: int = 3
    maxn: int = 6
    buckets: int = 50
    labels: list[str] = field(default_factory=list)
    magic: int = 793712314
    version: int = 12
    kind: int = SKIPGRAM
    quantised: bool = False
    pruned: int = -1
    seed: int = 0

    def __post_init__(self) -> None:
        rows = len(self.words) + self.buckets
        self.matrix: NDArray[np.float32] = (
            np.random.default_rng(self.seed).normal(size=(rows, self.dim)).astype("<f4")
        )

    def content(self) -> bytes:
        settings = [self.dim, 5, 5, 5, 5, 1, 2, self.kind, self.buckets, self.minn, self.maxn, 100]
        out = (
            struct.pack("<ii", self.magic, self.version)
            + struct.pack("<12i", *settings)
            + struct.pack("<d", 1e-4)
        )
        entries = [(word, 0) for word in self.words] + [(label, 1) for label in self.labels]
        out += struct.pack("<iii", len(entries), len(self.words), len(self.labels))
        out += struct.pack("<qq", 10_000, self.pruned)
        for text, kind in entries:
            out += text.encode() + b"\0" + struct.pack("<q", 7) + struct.pack("<b", kind)
        for i in range(max(0, min(self.pruned, 3))):
            out += struct.pack("<ii", i, i)
        out += (
            struct.pack("<?", self.quantised) + struct.pack("<qq", *self.matrix.shape) + self.matrix.tobytes()
        )
        output = np.zeros((len(entries), self.dim), "<f4")
        return out + struct.pack("<?", False) + struct.pack("<qq", *output.shape) + output.tobytes()

    def write(self, path: Path) -> Path:
        path.write_bytes(self.content())
        return path

    def vector(self, name: str) -> NDArray[np.float64]:
        """The mean of the rows of a word and of its n-grams, as bytes.

        A character begins where no continuation byte is.
        """
        rows = [self.words.index(name)] if name in self.words else []
        data = f"<{name}>".encode()
        starts = [i for i, byte in enumerate(data) if byte & 0xC0 != 0x80]
        ends = [*starts[1:], len(data)]
        for i, start in enumerate(starts):
            for length in range(1, self.maxn + 1):
                if i + length > len(starts) or length < self.minn:
                    continue
                end = ends[i + length - 1]
                if length == 1 and (start == 0 or end == len(data)):
                    continue
                rows.append(len(self.words) + _c_hash(data[start:end]) % self.buckets)
        return self.matrix[rows].astype(np.float64).mean(0) if rows else np.full(self.dim, np.nan)


def write_text(path: Path, vectors: Mapping[str, NDArray[np.float32]], count: int | None = None) -> Path:
    """A ``.vec`` file as fastText writes it, with a blank at the end of each line."""
    dim = len(next(iter(vectors.values())))
    lines = [f"{len(vectors) if count is None else count} {dim}"]
    lines += [f"{word} {' '.join(f'{float(x):.6g}' for x in vector)} " for word, vector in vectors.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
