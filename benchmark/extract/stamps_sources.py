"""The features of ``stamps`` computed again: Debian's package of pictures and recordings, and the packaged encoders.

Which pictures and recordings belong to the data set, their classes, groups and the split of the classes are what
``datasets/stamps/stamps.npz`` says; the features in it are not looked at but to compare.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from benchmark.data.built.stamps import ARRAYS
from benchmark.data.importing.importing import Progress
from benchmark.data.store import Floats
from benchmark.errors import UsageError
from benchmark.extract.extractor import Extractor, Sound
from benchmark.extract.media.decode import UnreadableVideo, read_audio
from benchmark.extract.media.steps import batches, windows
from benchmark.extract.networks.sentences import sentence_vectors
from benchmark.extract.networks.squeezenet import prepare
from benchmark.extract.sets.packaged import Packaged
from benchmark.extract.weights_files import given_files, read_weights
from benchmark.system.files import replacing

PACKAGE_FOLDER = Path("usr/share/tuxpaint/stamps")
"""Of the pictures and recordings in Debian's package ``tuxpaint-stamps-default``."""
SVG_PIXELS = 320
MARGIN = 1.06
"""Side of the square that a picture is laid on, over its longer side."""
VIEWS = ((1.0, 0.5, 0.5), (0.75, 0.5, 0.5), (0.6, 0.35, 0.4), (0.6, 0.65, 0.6))
"""Side and centre of each view as fractions of the square; a mirrored whole is the last view."""
STEPS = 8
"""Of a recording: the first ones are kept."""
SHORTEST = 16_000
"""Samples: a shorter recording is followed by silence up to here."""
AGREEMENT = 0.99
"""Correlation from which on features count as the same."""
SOUND_ENDS = (".ogg", ".wav")
BYTE_MAX = 255


@dataclass(frozen=True)
class Agreement:
    """How far features that were computed again are the shipped ones."""

    features: str
    values: int
    correlation: float
    """Over all values, each dimension less its mean."""
    lowest: float
    """Of a row: a view, a step of sound, a class name."""


def rebuild(sources: Path, shipped: Path, target: Path, progress: Progress) -> list[Agreement]:
    """Compute all features and write them as ``stamps.npz`` is written.

    Args:
        sources: the folder ``stamps`` of Debian's package, or the one that the package was unpacked in.
        shipped: ``datasets/stamps/stamps.npz``.
        target: the file to write.
        progress: told what is done, how much, of how much.

    Raises:
        UsageError: a picture or recording is missing or damaged, there are others than the data set has, or a program, a
            library or weights are not installed.
    """
    folder = _stamps_folder(sources)
    with np.load(shipped, allow_pickle=False) as arrays:
        z: dict[str, NDArray[Any]] = {name: arrays[name] for name in arrays.files}
    recordings = _recordings(folder, z)
    weights = read_weights(Packaged, given_files(Packaged, []))
    extractor = Packaged(weights.states, frozenset(), "cpu")
    vectors = sentence_vectors([str(name) for name in z["class_names"]])
    views = _views(folder, [str(path) for path in z["image_path"]], extractor, progress)
    steps, lengths = _steps(recordings, extractor, progress)
    kept = _as_shipped(lengths, np.diff(z["audio_offset"]), recordings)
    found = {"visual": views, "audio": steps[kept]}
    agreements = [
        *(_agreement(name, values, _dequantised(z, name)) for name, values in found.items()),
        _agreement("text_minilm", vectors, z["text_minilm"].astype(np.float32)),
    ]
    for name, values in found.items():
        z |= _quantised(name, values)
    z["text_minilm"] = vectors.astype(z["text_minilm"].dtype)
    with replacing(target) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **z)
    return agreements


_VERSION = f"{ARRAYS} was made from tuxpaint-stamps-default 2022.06.04-1"


def _stamps_folder(sources: Path) -> Path:
    for folder in (sources / PACKAGE_FOLDER, sources):
        if (folder / "animals").is_dir():
            return folder
    raise UsageError(
        f"--from-sources {sources}: has no stamps of Tux Paint; install Debian's package tuxpaint-stamps-default and give "
        f"/{PACKAGE_FOLDER}, or unpack it and give the folder"
    )


def _recordings(folder: Path, z: Mapping[str, NDArray[Any]]) -> list[Path]:
    """The recording of each sample.

    Raises:
        UsageError: the folder has other recordings of these pictures than the data set has samples.
    """
    pictures, languages = [str(path) for path in z["image_path"]], [str(name) for name in z["languages"]]
    samples = [(pictures[i], languages[lang]) for i, lang in zip(z["sample_image"], z["sample_lang"], strict=True)]
    found = _descriptions(folder, pictures, languages)
    if samples != list(found):
        missing, others = sorted(set(samples) - set(found)), sorted(set(found) - set(samples))
        example = " ".join((missing or others or samples)[0])
        raise UsageError(
            f"{folder}: {len(missing):,} recordings are missing and {len(others):,} are there besides, among them {example}; "
            f"{_VERSION}"
        )
    return list(found.values())


def _descriptions(folder: Path, pictures: Sequence[str], languages: Sequence[str]) -> dict[tuple[str, str], Path]:
    """Picture and language -> recording, of those that are the same file only the first one."""
    found: dict[tuple[str, str], Path] = {}
    seen: set[str] = set()
    for picture, language in product(pictures, languages):
        stem = f"{picture}_desc" if language == "en" else f"{picture}_desc_{language}"
        path = next((path for end in SOUND_ENDS if (path := folder / f"{stem}{end}").is_file()), None)
        if path is None:
            continue
        with open(path, "rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        if sha not in seen:
            found[picture, language] = path
        seen.add(sha)
    return found


def _views(folder: Path, pictures: Sequence[str], extractor: Extractor, progress: Progress) -> Floats:
    """``[P, 5, 512]``."""
    found = []
    for i, picture in enumerate(pictures):
        progress("pictures", i, len(pictures))
        prepared = np.stack([prepare(view) for view in _cut(_on_square(_open(folder, picture)))])
        found.append(extractor.video(prepared[:, None]))
    return np.stack(found)


def _open(folder: Path, picture: str) -> Image.Image:
    png, svg = folder / f"{picture}.png", folder / f"{picture}.svg"
    try:
        if png.is_file():
            return Image.open(png)
        size = str(SVG_PIXELS)
        command = ["rsvg-convert", "--width", size, "--height", size, "--keep-aspect-ratio", str(svg)]
        return Image.open(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout))
    except FileNotFoundError:
        raise UsageError(
            "rsvg-convert: drawings are rastered by it, and it is not installed: apt-get install librsvg2-bin"
        ) from None
    except (subprocess.CalledProcessError, UnidentifiedImageError, OSError):
        raise UsageError(f"{folder / picture}: has no picture of this name that can be read (.png, .svg); {_VERSION}") from None


def _on_square(picture: Image.Image) -> Image.Image:
    """A picture in the middle of a white square."""
    picture = picture.convert("RGBA")
    side = int(MARGIN * max(picture.size))
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.convert("RGB")


def _cut(square: Image.Image) -> Iterator[NDArray[np.uint8]]:
    pixels, side = np.asarray(square), square.width
    for part, x, y in VIEWS:
        left, top, right, bottom = (int(edge * side) for edge in (x - part / 2, y - part / 2, x + part / 2, y + part / 2))
        yield pixels[top:bottom, left:right]
    yield pixels[:, ::-1]


def _steps(recordings: Sequence[Path], extractor: Extractor, progress: Progress) -> tuple[Floats, list[int]]:
    """The steps of all recordings ``[steps, 96]``, and how many of them each has; windows of several are computed at once."""
    lengths: list[int] = []

    def cut() -> Iterator[NDArray[Any]]:
        for i, path in enumerate(recordings):
            progress("recordings", i, len(recordings))
            found = list(_first_windows(path, extractor.sound))
            lengths.append(len(found))
            yield from found

    return np.concatenate([extractor.audio(batch) for batch in batches(cut(), extractor.batch)]), lengths


def _first_windows(path: Path, spec: Sound) -> Iterator[NDArray[Any]]:
    """The windows of a recording, of which no more is decoded than they need."""
    needed = spec.window + (STEPS - 1) * spec.hop
    blocks, length = [np.zeros(0)], 0
    try:
        for block in read_audio(path, spec.rate, lambda note: None):
            blocks.append(block)
            length += len(block)
            if length >= needed:
                break
    except UnreadableVideo as error:
        raise UsageError(f"{path}: {error}; {_VERSION}") from None
    waveform = np.pad(np.concatenate(blocks), (0, max(0, SHORTEST - length)))
    return windows([waveform[:needed]], spec.window, spec.hop)


def _as_shipped(lengths: Sequence[int], shipped: NDArray[Any], recordings: Sequence[Path]) -> NDArray[np.bool_]:
    """Which steps are kept: a recording may have one more than was shipped, where a resampler had lost its end.

    Raises:
        UsageError: a recording has fewer steps, or more than one more.
    """
    more = np.array(lengths) - shipped
    wrong = np.flatnonzero((more < 0) | (more > 1))
    if len(wrong):
        i = wrong[0]
        raise UsageError(f"{recordings[i]}: has {lengths[i]} steps of sound, where {shipped[i]} are shipped; {_VERSION}")
    return np.concatenate([np.arange(length) < n for length, n in zip(lengths, shipped, strict=True)])


def _quantised(name: str, values: Floats) -> dict[str, NDArray[Any]]:
    """Bytes with the least value and the range of each dimension, as ``data/built/stamps.py`` reads them."""
    axes = tuple(range(values.ndim - 1))
    low = values.min(axes, keepdims=True)
    span = values.max(axes, keepdims=True) - low
    scaled = (values - low) / np.where(span > 0, span, 1) * BYTE_MAX
    return {name: np.round(scaled).astype(np.uint8), f"{name}_min": low, f"{name}_range": span}


def _dequantised(z: Mapping[str, NDArray[Any]], name: str) -> Floats:
    values: Floats = z[f"{name}_min"] + z[name].astype(np.float32) / BYTE_MAX * z[f"{name}_range"]
    return values


def _agreement(name: str, found: Floats, shipped: Floats) -> Agreement:
    dim = found.shape[-1]
    a, b = (x.reshape(-1, dim).astype(np.float64) - x.reshape(-1, dim).mean(0, dtype=np.float64) for x in (found, shipped))
    norms = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    rows = (a * b).sum(1) / np.where(norms > 0, norms, 1)
    return Agreement(name, a.size, float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())), float(rows.min()))
