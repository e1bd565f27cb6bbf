"""Reads the caches that the published loader of ClipClap writes: the samples of several splits in a pickle.

A cache is ``{audio, video, text: {data, target, url, fps}}``. ``data`` has a vector per sample, ``target``
its class id. ``url`` has names as text of the form ``b'name'``: after a clip that was dropped they are those
of other samples. ``text.data`` has a class embedding per row, sorted by name, ``text.target`` its class.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.names import composed
from benchmark.data.store import MODALITIES, Floats
from benchmark.untrusted.arrays import load_pickle
from benchmark.untrusted.pickles import UnreadableFile, shown

WIDENED = 4
"""The arrays of a file may be this many times its size: numbers of one byte become float32."""
STRUCTURE = "a cache is {audio, video, text: {data, target, url}} (docs/reference/official-layout.md)"
LONGEST_NAME = 1000
_BYTES = re.compile(r"""b(['"]).*\1""", re.DOTALL)


@dataclass(frozen=True)
class CachedText:
    """The class embeddings of a cache."""

    vectors: Sequence[Floats]
    """``K`` vectors ``[D_w]`` float32, sorted by the names of the embeddings, which are not in the file."""
    labels: Sequence[int]
    """``[K]`` class ids to which they belong."""


@dataclass(frozen=True)
class CachedSamples:
    """The samples of a cache, unchecked."""

    labels: Sequence[int]
    """``[N]`` class ids."""
    names: Sequence[str | None]
    """``[N]`` sample names; None for text that is no name."""
    data: Mapping[str, Sequence[Any]]
    """Modality -> ``N`` vectors."""
    text: CachedText


def read_cached_text(path: Path) -> CachedText:
    """Read the class embeddings of a cache.

    Raises:
        RefusedPickle: it asks for anything but plain data, arrays and tensors.
        UnreadableFile: it cannot be opened, is truncated or damaged, or is no cache.
    """
    return _text(path, _content(path))


def read_cache(path: Path) -> CachedSamples:
    """Read a cache. The whole file is in memory.

    Raises:
        RefusedPickle: it asks for anything but plain data, arrays and tensors.
        UnreadableFile: it cannot be opened, is truncated or damaged, or is no cache; or its audio and video
            are of other samples.
    """
    content = _content(path)
    data = {m: _vectors(path, f"{m}.data", content[m]["data"]) for m in MODALITIES}
    labels = {m: _class_ids(path, f"{m}.target", content[m]["target"]) for m in MODALITIES}
    names = {m: _names(path, f"{m}.url", content[m]["url"]) for m in MODALITIES}
    counts = [len(x[m]) for x in (data, labels, names) for m in MODALITIES]
    if len(set(counts)) != 1:
        what = "audio and video have {} and {} samples, {} and {} class ids, {} and {} names".format(*counts)
        raise UnreadableFile(path, what, STRUCTURE, "audio and video out of step")
    for part, values in (("class ids", labels), ("names", names)):
        if values["audio"] != values["video"]:
            what = f"audio and video have other {part}, or the same in another order"
            raise UnreadableFile(path, what, STRUCTURE, "audio and video out of step")
    arrays = [x for of in data.values() for x in of if isinstance(x, np.ndarray)]
    size = path.stat().st_size
    if sum(x.nbytes for x in arrays) > WIDENED * size:
        raise _wrong(path, f"its arrays repeat: they hold far more bytes than the file's {size:,}")
    return CachedSamples(labels["audio"], names["audio"], data, _text(path, content))


def _content(path: Path) -> dict[str, dict[str, Any]]:
    content = load_pickle(path)
    for part in (*MODALITIES, "text"):
        held = content.get(part) if isinstance(content, dict) else None
        if not isinstance(held, dict) or not {"data", "target", "url"} <= held.keys():
            there = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            what = f"no dict of data, target and url under {part!r}, but {there!s:.80}"
            raise _wrong(path, what)
    return {part: content[part] for part in (*MODALITIES, "text")}


def _text(path: Path, content: Mapping[str, Mapping[str, Any]]) -> CachedText:
    """The class embeddings. Numbers beyond float32 become infinite, which is reported later."""
    rows = _vectors(path, "text.data", content["text"]["data"])
    labels = _class_ids(path, "text.target", content["text"]["target"])
    good = all(isinstance(x, np.ndarray) and x.ndim == 1 and x.dtype.kind == "f" for x in rows)
    if not good or len(rows) != len(labels):
        what = f"text: {len(rows)} class embeddings for {len(labels)} class ids"
        if not good:
            what = "text.data holds something other than vectors [D] of floating point numbers"
        raise _wrong(path, what)
    with np.errstate(over="ignore"):
        return CachedText([x.astype(np.float32) for x in rows], labels)


def _vectors(path: Path, place: str, value: Any) -> Sequence[Any]:
    """A list of arrays, or the rows of one array."""
    if isinstance(value, np.ndarray) and (value.ndim >= 2 or (value.ndim == 1 and value.dtype.hasobject)):
        return list(value)
    if not isinstance(value, list | tuple):
        raise _wrong(path, f"{place} is no list of arrays, but {shown(value)}")
    return value


def _class_ids(path: Path, place: str, value: Any) -> list[int]:
    ids = value.tolist() if isinstance(value, np.ndarray) and value.dtype.kind in "iu" else value
    if not isinstance(ids, list | tuple) or not all(isinstance(x, int | np.integer) for x in ids):
        raise _wrong(path, f"{place} holds no class ids [N], but {shown(value)}")
    return [int(x) for x in ids]


def _names(path: Path, place: str, value: Any) -> list[str | None]:
    names = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, bytes | str) for name in names):
        raise _wrong(path, f"{place} holds no names, but {shown(value)}")
    return [_name(name) for name in names]


def _name(value: bytes | str) -> str | None:
    """A name, which the loader wrote as ``str(b"...")``; None if it cannot be read as such."""
    if isinstance(value, str) and len(value) <= LONGEST_NAME and _BYTES.fullmatch(value):
        try:
            value = ast.literal_eval(value)  # only builds literals, and of a short text
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return composed(value) if isinstance(value, str) else None


def _wrong(path: Path, what: str) -> UnreadableFile:
    return UnreadableFile(path, what, STRUCTURE, "wrong structure")
