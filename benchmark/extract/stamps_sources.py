"""Compute the features of ``stamps`` again, from Debian's package of images and recordings.

``datasets/stamps/stamps.npz`` lists the images, recordings, classes, groups and class split. Its features are
only used for comparison.
"""

from __future__ import annotations

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

from benchmark.data.built.stamps import ARRAYS, dequantised
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
from benchmark.system.files import fingerprint, replacing

PACKAGE_FOLDER = Path("usr/share/tuxpaint/stamps")
"""Folder of the images and recordings in Debian's package ``tuxpaint-stamps-default``."""
SVG_PIXELS = 320
MARGIN = 1.06
"""Side of the square that an image is placed on, relative to its longer side."""
VIEWS = ((1.0, 0.5, 0.5), (0.75, 0.5, 0.5), (0.6, 0.35, 0.4), (0.6, 0.65, 0.6))
"""Side and centre of each view, as fractions of the square; the last view is the mirrored square."""
STEPS = 8
"""The first time steps of a recording are kept."""
SHORTEST = 16_000
"""Samples: a shorter recording is padded with silence."""
AGREEMENT = 0.99
"""Lowest correlation at which features count as the same."""
SOUND_ENDS = (".ogg", ".wav")
BYTE_MAX = 255


@dataclass(frozen=True)
class Agreement:
    """How far the new features agree with the shipped ones."""

    features: str
    values: int
    correlation: float
    """Over all values, with the mean of each dimension subtracted."""
    lowest: float
    """The lowest of a row: a view, a time step of audio, or a class name."""


def rebuild(sources: Path, shipped: Path, target: Path, progress: Progress) -> list[Agreement]:
    """Compute all features, and write them in the form of ``stamps.npz``.

    Args:
        sources: the folder ``stamps`` of Debian's package, or the folder that the package was unpacked in.
        shipped: ``datasets/stamps/stamps.npz``.
        target: the file to write.
        progress: called with what is done, how much of it, and of how much.

    Raises:
        UsageError: images or recordings are missing, damaged or other ones than those of the dataset; or a
            program, library or weights are not installed.
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
        *(_agreement(name, values, dequantised(z, name)) for name, values in found.items()),
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
        f"--from-sources {sources}: has no stamps of Tux Paint; install Debian's package "
        f"tuxpaint-stamps-default and give /{PACKAGE_FOLDER}, or unpack it and give the folder"
    )


def _recordings(folder: Path, z: Mapping[str, NDArray[Any]]) -> list[Path]:
    """The recording of each sample.

    Raises:
        UsageError: the recordings of these images are not those of the dataset's samples.
    """
    images, languages = [str(path) for path in z["image_path"]], [str(name) for name in z["languages"]]
    rows = zip(z["sample_image"], z["sample_lang"], strict=True)
    samples = [(images[image], languages[language]) for image, language in rows]
    found = _descriptions(folder, images, languages)
    if samples != list(found):
        missing, others = sorted(set(samples) - set(found)), sorted(set(found) - set(samples))
        example = " ".join((missing or others or samples)[0])
        raise UsageError(
            f"{folder}: {len(missing):,} recordings are missing and {len(others):,} are unexpected, "
            f"among them {example}; {_VERSION}"
        )
    return list(found.values())


def _descriptions(
    folder: Path, images: Sequence[str], languages: Sequence[str]
) -> dict[tuple[str, str], Path]:
    """Image and language -> recording; of identical files only the first one."""
    found: dict[tuple[str, str], Path] = {}
    seen: set[str] = set()
    for image, language in product(images, languages):
        stem = f"{image}_desc" if language == "en" else f"{image}_desc_{language}"
        path = next((path for end in SOUND_ENDS if (path := folder / f"{stem}{end}").is_file()), None)
        if path is None:
            continue
        sha = fingerprint(path, folder).sha256
        if sha not in seen:
            found[image, language] = path
        seen.add(sha)
    return found


def _views(folder: Path, images: Sequence[str], extractor: Extractor, progress: Progress) -> Floats:
    """Features of the views of all images, ``[P, 5, 512]``."""
    found = []
    for i, image in enumerate(images):
        progress("images", i, len(images))
        prepared = np.stack([prepare(view) for view in _cut(_on_square(_open(folder, image)))])
        found.append(extractor.video(prepared[:, None]))
    return np.stack(found)


def _open(folder: Path, name: str) -> Image.Image:
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    try:
        if png.is_file():
            return Image.open(png)
        size = str(SVG_PIXELS)
        command = ["rsvg-convert", "--width", size, "--height", size, "--keep-aspect-ratio", str(svg)]
        return Image.open(io.BytesIO(subprocess.run(command, capture_output=True, check=True).stdout))
    except FileNotFoundError:
        raise UsageError(
            "rsvg-convert converts the SVG files and is missing: apt-get install librsvg2-bin"
        ) from None
    except (subprocess.CalledProcessError, UnidentifiedImageError, OSError):
        raise UsageError(
            f"{folder / name}: no readable image of this name (.png, .svg); {_VERSION}"
        ) from None


def _on_square(image: Image.Image) -> Image.Image:
    """The image in the middle of a white square."""
    image = image.convert("RGBA")
    side = int(MARGIN * max(image.size))
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.convert("RGB")


def _cut(square: Image.Image) -> Iterator[NDArray[np.uint8]]:
    pixels, side = np.asarray(square), square.width
    for size, x, y in VIEWS:
        edges = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
        left, top, right, bottom = (int(edge * side) for edge in edges)
        yield pixels[top:bottom, left:right]
    yield pixels[:, ::-1]


def _steps(recordings: Sequence[Path], extractor: Extractor, progress: Progress) -> tuple[Floats, list[int]]:
    """Features of the time steps of all recordings, ``[steps, 96]``, and the number of steps of each."""
    lengths: list[int] = []

    def cut() -> Iterator[NDArray[Any]]:
        for i, path in enumerate(recordings):
            progress("recordings", i, len(recordings))
            found = list(_first_windows(path, extractor.sound))
            lengths.append(len(found))
            yield from found

    return np.concatenate([extractor.audio(batch) for batch in batches(cut(), extractor.batch)]), lengths


def _first_windows(path: Path, spec: Sound) -> Iterator[NDArray[Any]]:
    """The first windows of a recording; the rest is not decoded."""
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


def _as_shipped(
    lengths: Sequence[int], shipped: NDArray[Any], recordings: Sequence[Path]
) -> NDArray[np.bool_]:
    """Which time steps are kept: a recording may have one more, which another resampler had cut off.

    Raises:
        UsageError: a recording has fewer, or more than one more.
    """
    more = np.array(lengths) - shipped
    wrong = np.flatnonzero((more < 0) | (more > 1))
    if len(wrong):
        i = wrong[0]
        raise UsageError(
            f"{recordings[i]}: has {lengths[i]} time steps, where {shipped[i]} are shipped; {_VERSION}"
        )
    return np.concatenate([np.arange(length) < n for length, n in zip(lengths, shipped, strict=True)])


def _quantised(name: str, values: Floats) -> dict[str, NDArray[Any]]:
    """Bytes, with the minimum and range of each dimension, as ``data/built/stamps.py`` reads them."""
    axes = tuple(range(values.ndim - 1))
    low = values.min(axes, keepdims=True)
    span = values.max(axes, keepdims=True) - low
    scaled = (values - low) / np.where(span > 0, span, 1) * BYTE_MAX
    return {name: np.round(scaled).astype(np.uint8), f"{name}_min": low, f"{name}_range": span}


def _agreement(name: str, found: Floats, shipped: Floats) -> Agreement:
    dim = found.shape[-1]
    a, b = (
        x.reshape(-1, dim).astype(np.float64) - x.reshape(-1, dim).mean(0, dtype=np.float64)
        for x in (found, shipped)
    )
    norms = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    rows = (a * b).sum(1) / np.where(norms > 0, norms, 1)
    return Agreement(
        name, a.size, float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())), float(rows.min())
    )
