"""The feature files of one class in the official layout, read and checked: pickled sequences or HDF5 temporal means.

Where files lie and which are wanted is in ``official_layout.py``; what becomes of the frames in ``import_staging.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from benchmark.data.problems import ProblemLog
from benchmark.data.store import Floats
from benchmark.data.unpickle import RefusedPickle, UnreadableFile, load_pickle

Form = Literal["sequences", "means"]
SUFFIX: Mapping[Form, str] = {"sequences": ".pkl", "means": ".h5"}
FOLDER: Mapping[Form, str] = {"sequences": "{}_features_non_averaged", "means": "{}_features"}
MODALITIES = ("audio", "video")
_SLACK = 16 * 2**20


@dataclass(frozen=True)
class ClassContent:
    """Checked samples of one class, sorted by id. Means are sequences of one step here."""

    ids: list[str]
    frames: Mapping[str, list[Floats]]
    """Modality -> one ``[t, dim]`` array for each sample."""
    peaks: Mapping[str, float]
    """Modality -> largest absolute value."""


def list_class_files(folder: Path, form: Form, problems: ProblemLog) -> dict[str, Path]:
    """Folded class name -> file, of a folder; sorted, as the order of a directory is undefined."""
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if path.suffix != SUFFIX[form] or not entry.is_file():
            continue
        if path.stem.casefold() in found:
            problems.add("ambiguous class file", f"{folder.parent.name}/{folder.name}/{path.name}")
        found[path.stem.casefold()] = path
    return found


def read_class(
    paths: Mapping[str, Path], form: Form, dims: Mapping[str, int], root: Path, problems: ProblemLog
) -> ClassContent | None:
    """Both files of a class; None where any fault was found, each of which is in ``problems``."""
    ids: dict[str, list[str]] = {}
    frames: dict[str, list[Floats]] = {}
    peaks: dict[str, float] = {}
    faults = ProblemLog()
    for modality in MODALITIES:
        shown = paths[modality].relative_to(root).as_posix()
        read = _read_file(paths[modality], form, shown, faults)
        if read is not None:
            ids[modality], arrays = read
            frames[modality], peaks[modality] = check_frames(ids[modality], arrays, dims[modality], form, shown, faults)
    if len(ids) == len(MODALITIES):
        _check_ids(ids, paths["audio"].relative_to(root).as_posix(), faults)
    problems.extend(faults)
    if faults:
        return None
    order = sorted(range(len(ids["audio"])), key=ids["audio"].__getitem__)
    sorted_frames = {modality: [frames[modality][i] for i in order] for modality in MODALITIES}
    return ClassContent([ids["audio"][i] for i in order], sorted_frames, peaks)


def _read_file(path: Path, form: Form, shown: str, faults: ProblemLog) -> tuple[list[str], Sequence[Any]] | None:
    try:
        ids, arrays = _read_sequences(path) if form == "sequences" else _read_means(path)
    except RefusedPickle as refusal:
        faults.add("refused pickle", f"{shown}: {refusal.name}")
        return None
    except UnreadableFile as error:
        faults.add("unreadable file", f"{shown}{str(error).removeprefix(str(path))}")
        return None
    except _WrongStructure as error:
        faults.add("wrong structure", f"{shown}: {error}")
        return None
    if len(ids) != len(arrays):
        faults.add("wrong structure", f"{shown}: {len(ids)} names for {len(arrays)} samples")
        return None
    return ids, arrays


class _WrongStructure(Exception):
    """The file is readable but does not hold what a class file holds."""


def _read_sequences(path: Path) -> tuple[list[str], Sequence[Any]]:
    content = load_pickle(path)
    if not isinstance(content, dict) or not {"features", "video_names"} <= content.keys():
        keys = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise _WrongStructure(f"no dict with 'features' and 'video_names', but {keys!s:.80}")
    features = content["features"]
    if isinstance(features, np.ndarray) and features.ndim == 3:
        features = list(features)
    if not isinstance(features, list | tuple):
        raise _WrongStructure(f"'features' is no list of arrays, but {type(features).__name__}")
    size = path.stat().st_size
    if sum(x.nbytes for x in features if isinstance(x, np.ndarray)) > size:
        raise _WrongStructure(f"its arrays repeat: they hold more bytes than the file's {size:,}")
    return _names(content["video_names"]), features


def _read_means(path: Path) -> tuple[list[str], Sequence[Any]]:
    try:
        with h5py.File(path, "r") as f:
            for name in ("data", "video_urls"):
                if not isinstance(f.get(name, getlink=True), h5py.HardLink) or not isinstance(f[name], h5py.Dataset):
                    raise _WrongStructure(f"no data set {name!r}")
                if f[name].external or f[name].is_virtual or f[name].nbytes > path.stat().st_size + _SLACK:
                    raise _WrongStructure(f"data set {name!r} claims {f[name].nbytes:,} bytes outside the file")
            data, names = f["data"][()], f["video_urls"][()]
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise UnreadableFile(f"{path}: truncated or damaged HDF5 file ({error!s:.100})") from None
    if not isinstance(data, np.ndarray) or data.ndim != 2:
        raise _WrongStructure(f"'data' is no [samples, dim] array, but has shape {np.shape(data)}")
    return _names(names), [data[i : i + 1] for i in range(len(data))]


def _names(names: Any) -> list[str]:
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, bytes | str) for name in names):
        raise _WrongStructure("its sample names are no list of strings or bytes")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]


def check_frames(
    ids: Sequence[str], arrays: Sequence[Any], dim: int, form: Form, shown: str, faults: ProblemLog
) -> tuple[list[Floats], float]:
    """The arrays ``[t, dim]`` that are as they should be, and the largest absolute value; faults of the others are told."""
    good: list[Floats] = []
    peak = 0.0
    for sample, x in zip(ids, arrays, strict=True):
        place = f"{shown}: {sample}"
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.ndim != 2:
            kind = f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
            faults.add("wrong dtype", f"{place}: {kind}")
        elif x.shape[0] == 0:
            faults.add("empty sequence", place)
        elif x.shape[1] != dim:
            faults.add("wrong dimension", f"{place}: {x.shape[1]}, not {dim}")
        else:
            low, high = float(x.min()), float(x.max())  # both are NaN where any value is
            if not (np.isfinite(low) and np.isfinite(high)) or max(-low, high) > np.finfo(np.float32).max:
                faults.add("not a number or infinite", place)
            peak = max(peak, -low, high)
            good.append(x)
    if not ids:
        faults.add("class without samples", shown)
    return good, peak


def _check_ids(ids: Mapping[str, list[str]], shown: str, faults: ProblemLog) -> None:
    audio, video = ids["audio"], ids["video"]
    if audio != video:
        if len(audio) != len(video):
            how = f"{len(audio)} samples of audio, {len(video)} of video"
        elif sorted(audio) == sorted(video):
            how = "the same samples in another order"
        else:
            how = f"{len(set(audio) ^ set(video))} samples in one file only"
        faults.add("audio and video out of step", f"{shown}: {how}")
    seen: set[str] = set()
    for sample in audio:
        if sample in seen:
            faults.add("duplicate sample id", f"{sample} twice in {shown}")
        seen.add(sample)
