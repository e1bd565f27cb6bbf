"""Reads word vectors of class names from fastText models (``.bin``), text files (``.vec``) and ``.npy``.

Of a model of many gigabytes, the words are scanned and only the needed rows are read. The callers decide
which names they need, and what to do about names without a vector.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from benchmark.data.store import Floats
from benchmark.data.vector_norms import nearly_zero
from benchmark.errors import UsageError
from benchmark.system.files import replacing
from benchmark.untrusted.arrays import load_npy_dict
from benchmark.untrusted.kinds import known_kind, likely_kind
from benchmark.untrusted.pickles import UnreadableFile, another_kind, unreadable

MAGIC = 793712314
VERSIONS = (11, 12)
SUPERVISED = 3
"""Number of the model kind with labels. Those of version 11 have no n-grams, whatever their header has."""
END_OF_SENTENCE = "</s>"
LONGEST_WORD = 2**16
"""Bytes; a file with a longer word is damaged."""
UNIT = 1e-6
"""Vectors whose norm differs from 1 by less are not divided by it, which would only add rounding."""

_HEADER = struct.Struct("<2i12id")
"""Magic, version; dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn,
lrUpdateRate, t."""
_DICTIONARY = struct.Struct("<3i2q")
"""Entries, words, labels, tokens, size of the index of pruned n-grams (-1: not pruned)."""
_ENTRY_END = 1 + 8 + 1
"""Bytes after a word: its zero byte, count, kind."""
_MATRIX = struct.Struct("<?2q")
"""Whether the input matrix is quantised; its rows and columns."""


def check_vectors_file(path: Path) -> Path:
    """Return the absolute path of the file of ``--vectors``.

    Raises:
        UsageError: there is no such file, or its suffix is not one that is read.
    """
    if path.suffix not in _READERS:
        raise UsageError(f"--vectors {path}: the file's name must end in {', '.join(_READERS)}")
    if not path.is_file():
        raise UsageError(f"--vectors {path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    return path.resolve()


def read_word_vectors(path: Path, names: Sequence[str], parts: Sequence[int] = ()) -> dict[str, Floats]:
    """Read vectors ``[D]`` float32 of names, divided by their norms, or each part by its own.

    ``.bin``: fastText's ``get_word_vector`` of the whole name, spaces included. ``.vec``: that of the name,
    else the mean of the unit vectors of its words, as fastText does for sentences. ``.npy``: all that it has.

    Args:
        path: a file that ``check_vectors_file`` has passed.
        names: of classes. The result lacks those without a vector, or with one of zeros or rounding errors.
        parts: sizes of the parts of a vector; empty if it has no parts.

    Raises:
        UnreadableFile: truncated, damaged, or not of the kind of its suffix.
        RefusedPickle: a ``.npy`` file needs more than arrays.
    """
    try:
        vectors = _READERS[path.suffix](path, names)
    except (OSError, MemoryError) as error:
        raise unreadable(path, error) from None
    missing = nearly_zero(vectors)
    return {
        name: _unit_parts(vector, parts).astype(np.float32)
        for name, vector in vectors.items()
        if name not in missing
    }


def vectors_record(path: Path, vectors: Mapping[str, Floats]) -> dict[str, Any]:
    """Return what a feature file records: name, size in bytes, sha256 of the vectors that were used."""
    sha = hashlib.sha256()
    for name in sorted(vectors):
        sha.update(f"{name}\0".encode() + np.asarray(vectors[name], "<f4").tobytes())
    return {"file": path.name, "size": path.stat().st_size, "sha256": sha.hexdigest()}


def _unit(vector: Floats) -> NDArray[np.float64]:
    """Divide a vector by its norm. Zeros and vectors that are not finite are returned unchanged."""
    x = np.asarray(vector, np.float64)
    norm = float(np.linalg.norm(x))
    return x if norm == 0 or abs(norm - 1) < UNIT or not np.isfinite(norm) else x / norm


def _unit_parts(vector: Floats, parts: Sequence[int]) -> NDArray[np.float64]:
    """Divide each part of a vector by its norm; the whole one if it does not have the size of its parts."""
    if len(vector) != sum(parts):
        return _unit(vector)
    return np.concatenate([_unit(part) for part in np.split(vector, np.cumsum(parts)[:-1])])


@dataclass(frozen=True)
class _Model:
    """Header of a fastText model, and the position of its input matrix."""

    dim: int
    minn: int
    maxn: int
    buckets: int
    """Number of rows of n-grams, which follow those of the words."""
    words: int
    ids: Mapping[str, int]
    """Wanted name that is a word of the model -> its row."""
    matrix: int
    """Byte at which the matrix starts."""

    def rows(self, name: str) -> list[int]:
        """Return the rows of the matrix whose mean is the vector of a name."""
        own = [self.ids[name]] if name in self.ids else []
        if name == END_OF_SENTENCE or not self.buckets:
            return own
        return own + [
            self.words + _hash(ngram.encode()) % self.buckets for ngram in _ngrams(name, self.minn, self.maxn)
        ]


def _model_vectors(path: Path, names: Sequence[str]) -> dict[str, Floats]:
    with open(path, "rb") as file:
        model = _read_model(path, file, names)
        found = {name: model.rows(name) for name in names}
        return {name: _mean(file, model, rows) for name, rows in found.items() if rows}


def _mean(file: BinaryIO, model: _Model, rows: Sequence[int]) -> Floats:
    total = np.zeros(model.dim)
    for row in rows:
        file.seek(model.matrix + row * model.dim * 4)
        total += np.frombuffer(file.read(model.dim * 4), "<f4")
    return total / len(rows)


def _read_model(path: Path, file: BinaryIO, names: Sequence[str]) -> _Model:
    # Header: kind of the file, dimension, and which n-grams are hashed.
    size = path.stat().st_size
    start = file.read(_HEADER.size)
    if len(start) < 4 or int.from_bytes(start[:4], "little") != MAGIC:
        fix = "give a .bin of fastText since 2017, or vectors of words as .vec or .npy"
        if foreign := likely_kind(start):
            raise another_kind(path, foreign, fix)
        raise UnreadableFile(path, f"not a fastText model: it does not begin with {MAGIC}", fix)
    if len(start) < _HEADER.size:
        raise _truncated(path, size, "settings")
    _, version, dim, _, _, _, _, _, _, kind, buckets, minn, maxn, _, _ = _HEADER.unpack(start)
    if version not in VERSIONS:
        raise UnreadableFile(
            path, f"a fastText model of version {version}, read are {VERSIONS}", "save it with fastText 0.9"
        )
    if version == 11 and kind == SUPERVISED:
        maxn = 0

    # Dictionary: the rows of the names; the input matrix follows it.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if size < _HEADER.size + _DICTIONARY.size:
            raise _truncated(path, size, "dictionary")
        entries, words, _, _, pruned = _DICTIONARY.unpack_from(data, _HEADER.size)
        ids, end = _word_rows(path, data, _HEADER.size + _DICTIONARY.size, entries, words, names)
        end += 8 * max(0, pruned)
        if end + _MATRIX.size > size:
            raise _truncated(path, size, "dictionary")
        quantised, rows, columns = _MATRIX.unpack_from(data, end)

    # Input matrix: float32 rows of words and n-grams.
    if quantised or pruned >= 0:
        raise UnreadableFile(
            path, "a quantised fastText model, whose rows are not read", "give the .bin that it was made from"
        )
    if dim <= 0 or columns != dim or min(words, buckets) < 0 or rows != words + buckets:
        what = f"a matrix of {rows} x {columns} for {words} words, {buckets} n-grams and dimension {dim}"
        raise UnreadableFile(path, f"damaged fastText model: {what}", "fetch it again")
    matrix = end + _MATRIX.size
    if matrix + rows * dim * 4 > size:
        raise _truncated(path, size, "input matrix")
    return _Model(dim, minn, maxn, buckets, words, ids, matrix)


def _truncated(path: Path, size: int, where: str) -> UnreadableFile:
    return UnreadableFile(
        path, f"truncated fastText model: it ends after {size:,} bytes, in its {where}", "fetch it again"
    )


def _word_rows(
    path: Path, data: mmap.mmap, start: int, entries: int, words: int, names: Sequence[str]
) -> tuple[dict[str, int], int]:
    """Find the rows of names that are words of the model, and the byte after its last entry.

    Of equal words the last one is used.
    """
    wanted = {name.encode(): name for name in names}
    found: dict[str, int] = {}
    for row in range(entries):
        end = data.find(b"\0", start, start + LONGEST_WORD)
        if end < 0 or end + _ENTRY_END > len(data):
            raise _truncated(path, len(data), f"dictionary, at entry {row:,} of {entries:,}")
        word = data[start:end]
        if word in wanted and row < words:  # labels follow the words
            found[wanted[word]] = row
        start = end + _ENTRY_END
    return found, start


def _ngrams(name: str, minn: int, maxn: int) -> list[str]:
    """Return the character n-grams of a name with its start and end marks, except the marks alone."""
    text = f"<{name}>"
    return [
        text[i : i + n]
        for i in range(len(text))
        for n in range(max(1, minn), min(maxn, len(text) - i) + 1)
        if not (n == 1 and i in (0, len(text) - 1))
    ]


def _hash(ngram: bytes) -> int:
    """Hash with 32-bit FNV-1a as fastText does: bytes are signed, so those from 128 on set upper bits."""
    value = 2166136261
    for byte in ngram:
        value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
    return value


def _text_vectors(path: Path, names: Sequence[str]) -> dict[str, Floats]:
    """Read a text file: a line with the count of words and the dimension, then a line for each word."""
    # A line is parsed only if its first word is needed: a file has millions.
    words = {word for name in names for word in (name, *name.split())}
    firsts = {word.split(" ")[0].encode() for word in words}
    found: dict[str, Floats] = {}
    with open(path, "rb") as file:
        count, dim = _text_header(path, file.readline())
        number = 0
        for number, line in enumerate(file, 1):
            if line.split(b" ", 1)[0] not in firsts:
                continue
            word, *numbers = line.rstrip().rsplit(b" ", dim)
            try:
                vector = np.array([float(x) for x in numbers])
            except ValueError:
                vector = np.zeros(0)
            if len(vector) != dim:
                raise UnreadableFile(
                    path, f"line {number + 1}: no word and {dim} numbers", "fetch the file again"
                )
            if (text := word.decode("utf-8", "replace")) in words:
                found[text] = vector
    if number != count:
        what = f"truncated: {number:,} words instead of the {count:,} of its first line"
        raise UnreadableFile(path, what, "fetch it again")

    # A name without a vector gets the mean of its words, if each of them has one.
    parts = {name: [name] if name in found else name.split() for name in names}
    return {
        name: found[name] if of == [name] else np.mean([_unit(found[word]) for word in of], 0)
        for name, of in parts.items()
        if of and all(word in found for word in of)
    }


def _text_header(path: Path, line: bytes) -> tuple[int, int]:
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or fields[1] == b"0":
        fix = "give a .vec file of fastText, a .bin or a .npy"
        if foreign := known_kind(line):
            raise another_kind(path, foreign, fix)
        expected = "its first line must be the count of words and the dimension"
        what = f"not a .vec file: {expected}, but is {line[:40]!r}"
        raise UnreadableFile(path, what, fix)
    return int(fields[0]), int(fields[1])


def write_word_vectors(path: Path, names: Sequence[str], vectors: Floats) -> None:
    """Write vectors ``[N, dim]`` of names in the published form: a dict in a ``.npy`` file."""
    found: Any = dict(zip(names, vectors, strict=True))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, found, allow_pickle=True)


def _npy_vectors(path: Path, names: Sequence[str]) -> dict[str, Floats]:
    return {**load_npy_dict(path)}


_READERS: Mapping[str, Callable[[Path, Sequence[str]], dict[str, Floats]]] = {
    ".bin": _model_vectors,
    ".vec": _text_vectors,
    ".npy": _npy_vectors,
}
