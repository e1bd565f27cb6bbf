"""Reads and checks the feature files of one class: sequences, temporal means, or one vector per sample.

``official_layout.py`` decides which files are read, ``staging.py`` keeps what was read.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmark.data.groups import made_up_id
from benchmark.data.importing.findings import FIXES, FindingLog
from benchmark.data.importing.places import SUFFIX, Form
from benchmark.data.names import composed, folded
from benchmark.data.store import MODALITIES, Floats
from benchmark.system.files import outside_reason
from benchmark.untrusted.arrays import load_pickle
from benchmark.untrusted.kinds import first_bytes, likely_kind
from benchmark.untrusted.pickles import UnreadableFile, another_kind, unreadable

_SLACK = 16 * 2**20
FLOAT32_MAX = float(np.finfo(np.float32).max)
WIDENED = 4
"""The arrays of a file may be this many times its size: numbers of one byte become float32."""


@dataclass(frozen=True)
class ClassContent:
    """Checked samples of one class, sorted by id. Means and vectors are sequences of one time step here."""

    ids: list[str]
    sequences: Mapping[str, list[Floats]]
    """Modality -> one ``[t, dim]`` array for each sample."""
    peaks: Mapping[str, float]
    """Modality -> largest absolute value."""


def list_class_files(
    folder: Path, form: Form, classes: Iterable[str], findings: FindingLog
) -> dict[str, Path]:
    """Map the folded class names of a folder to their files, in sorted order.

    Args:
        folder: of a split and modality.
        form: decides which files are class files.
        classes: names of the classes. The file of ``a/b`` is in a folder ``a``.
        findings: gets files whose names differ in spelling only, and an unreadable folder.
    """
    deep = {folded(name) for name in classes if "/" in name}
    found: dict[str, Path] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        nested = sorted(path for path in folder.rglob("*/*") if path.is_file()) if deep else []
    except OSError as error:
        findings.unreadable(unreadable(folder, error), f"{folder.parent.name}/{folder.name}")
        return found
    for path in (*paths, *nested):
        name = folded(path.relative_to(folder).as_posix().removesuffix(SUFFIX[form]))
        if path.suffix != SUFFIX[form] or (path.parent != folder and name not in deep):
            continue
        if name in found:
            shown = f"{folder.parent.name}/{folder.name}/{path.relative_to(folder).as_posix()}"
            findings.problem("ambiguous class file", shown)
        found[name] = path
    return found


def read_class(
    paths: Mapping[str, Path],
    form: Form,
    dims: Mapping[str, int],
    root: Path,
    findings: FindingLog,
    *,
    split: str,
    name: str,
) -> ClassContent | None:
    """Read both files of a class. Returns None if there is a problem, which goes to ``findings``.

    Files of one vector per sample may have more names than vectors: the published scripts list the names of
    clips that they dropped too. All names of such a class are unusable, and ids of ``split`` and ``name`` are
    made up.
    """
    ids: dict[str, list[str]] = {}
    sequences: dict[str, list[Floats]] = {}
    peaks: dict[str, float] = {}
    before, unusable = findings.problem_count, False
    for modality in MODALITIES:
        shown = paths[modality].relative_to(root).as_posix()
        read = _read_file(paths[modality], form, shown, findings)
        if read is not None:
            ids[modality], arrays = read
            if len(ids[modality]) != len(arrays):
                unusable = True
                ids[modality] = [made_up_id(split, name, i) for i in range(len(arrays))]
            sequences[modality], peaks[modality] = check_sequences(
                ids[modality], arrays, dims[modality], form, shown, findings
            )
    if unusable:
        ids = {m: [made_up_id(split, name, i) for i in range(len(of))] for m, of in ids.items()}
    if len(ids) == len(MODALITIES):
        check_ids(ids, paths["audio"].relative_to(root).as_posix(), findings)
    if findings.problem_count > before:
        return None
    return sorted_content(ids["audio"], sequences, peaks)


def sorted_content(
    ids: Sequence[str], sequences: Mapping[str, Sequence[Floats]], peaks: Mapping[str, float]
) -> ClassContent:
    """Return the content of a class with its samples sorted by id."""
    order = sorted(range(len(ids)), key=ids.__getitem__)
    in_order = {modality: [sequences[modality][i] for i in order] for modality in MODALITIES}
    return ClassContent([ids[i] for i in order], in_order, peaks)


def _read_file(
    path: Path, form: Form, shown: str, findings: FindingLog
) -> tuple[list[str], Sequence[Any]] | None:
    try:
        ids, arrays = _read_means(path) if form == "means" else _read_pickle(path, form)
    except UnreadableFile as error:
        findings.unreadable(error, shown)
        return None
    except _WrongStructure as error:
        findings.problem("wrong structure", f"{shown}: {error}")
        return None
    except Exception as error:  # unforeseen: the other files are still read
        findings.unreadable(unreadable(path, error), shown)
        return None
    if len(ids) != len(arrays) and form != "vectors":
        findings.problem("wrong structure", f"{shown}: {len(ids)} names for {len(arrays)} samples")
        return None
    return ids, arrays


class _WrongStructure(Exception):
    """The file is readable but has other content than a class file."""


def _read_pickle(path: Path, form: Form) -> tuple[list[str], Sequence[Any]]:
    content = load_pickle(path)
    if not isinstance(content, dict) or not {"features", "video_names"} <= content.keys():
        keys = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise _WrongStructure(f"no dict with 'features' and 'video_names', but {keys!s:.80}")
    features, dimensions = content["features"], (2, 3) if form == "vectors" else (3,)
    if isinstance(features, np.ndarray) and (
        features.ndim in dimensions or (features.ndim == 1 and features.dtype.hasobject)
    ):
        features = list(features)
    if not isinstance(features, list | tuple):
        raise _WrongStructure(f"'features' is no list of arrays, but {type(features).__name__}")
    size = path.stat().st_size
    if sum(x.nbytes for x in features if isinstance(x, np.ndarray)) > WIDENED * size:
        raise _WrongStructure(f"its arrays repeat: they hold far more bytes than the file's {size:,}")
    return _names(content["video_names"]), features


def _read_means(path: Path) -> tuple[list[str], Sequence[Any]]:
    try:
        with h5py.File(path, "r", locking=False) as f:
            for name in ("data", "video_urls"):
                if not isinstance(f.get(name, getlink=True), h5py.HardLink) or not isinstance(
                    f[name], h5py.Dataset
                ):
                    raise _WrongStructure(f"no HDF5 dataset {name!r}")
                if f[name].external or f[name].is_virtual or f[name].nbytes > path.stat().st_size + _SLACK:
                    raise _WrongStructure(
                        f"HDF5 dataset {name!r} claims {f[name].nbytes:,} bytes outside the file"
                    )
            _need_filters(path, [f["data"], f["video_urls"]])
            data, names = f["data"][()], f["video_urls"][()]
    except (OSError, MemoryError, RuntimeError, KeyError, ValueError) as error:
        foreign = (
            None if outside_reason(error, path) or h5py.is_hdf5(path) else likely_kind(first_bytes(path))
        )
        if foreign is not None:
            raise another_kind(path, foreign) from None
        raise unreadable(path, error, f"truncated or damaged HDF5 file ({error!s:.100})") from None
    if not isinstance(data, np.ndarray) or data.ndim != 2:
        raise _WrongStructure(f"'data' is no [samples, dim] array, but has shape {np.shape(data)}")
    return _names(names), [data[i : i + 1] for i in range(len(data))]


def _need_filters(path: Path, tables: Sequence[h5py.Dataset]) -> None:
    """Check that the compression filters of HDF5 datasets are available.

    Raises:
        UnreadableFile: one is missing, also from the package hdf5plugin.
    """
    for table in tables:
        created = table.id.get_create_plist()
        for number, _, _, name in (created.get_filter(i) for i in range(created.get_nfilters())):
            if not h5py.h5z.filter_avail(number):
                with suppress(ImportError):  # the import registers its filters
                    importlib.import_module("hdf5plugin")
            if not h5py.h5z.filter_avail(number):
                called = f" ({name.decode(errors='replace')})" if name else ""
                needed = f"compressed with HDF5 filter {number}{called}, which is not installed"
                what = f"HDF5 dataset {table.name!r} is {needed}"
                raise UnreadableFile(path, what, FIXES["missing HDF5 filter"], "missing HDF5 filter")


def _names(names: Any) -> list[str]:
    names = names.tolist() if isinstance(names, np.ndarray) else names
    if not isinstance(names, list | tuple) or not all(isinstance(name, bytes | str) for name in names):
        raise _WrongStructure("its sample names are no list of strings or bytes")
    return [
        composed(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)) for name in names
    ]


def _numbers(x: Any) -> Any:
    """Convert an array of objects that are all floating point numbers; return anything else unchanged."""
    if (
        isinstance(x, np.ndarray)
        and x.dtype.hasobject
        and all(isinstance(v, float | np.floating) for v in x.flat)
    ):
        return x.astype(
            np.float32 if all(isinstance(v, np.float32 | np.float16) for v in x.flat) else np.float64
        )
    return x


def first_shapes(folder: Path, form: Form) -> dict[str, tuple[int, ...]]:
    """Return the shape of a sample by modality, of the smallest class file that can be read.

    A modality without such a file among its three smallest is omitted: an import reports why.
    """
    shapes = {}
    for modality in MODALITIES:
        paths = sorted(folder.glob(f"{modality}/*/*{SUFFIX[form]}"), key=lambda path: path.stat().st_size)
        for path in paths[:3]:
            with suppress(UnreadableFile, _WrongStructure, OSError):
                arrays = _read_pickle(path, form)[1]
                if len(arrays) and isinstance(arrays[0], np.ndarray):
                    shapes[modality] = arrays[0].shape
                    break
    return shapes


def check_sequences(
    ids: Sequence[str], arrays: Sequence[Any], dim: int, form: Form, shown: str, findings: FindingLog
) -> tuple[list[Floats], float]:
    """Return the arrays ``[t, dim]`` without a problem, and their largest absolute value."""
    good: list[Floats] = []
    peak = 0.0
    for sample, x in zip(ids, arrays, strict=True):
        place = f"{shown}: {sample}"
        x = _numbers(x)
        if form in ("vectors", "cache") and isinstance(x, np.ndarray) and x.ndim == 1:
            x = x[None]
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.ndim != 2:
            kind = f"{x.dtype} {list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
            findings.problem("wrong dtype", f"{place}: {kind}")
        elif x.shape[0] == 0:
            findings.problem("empty sequence", place)
        elif form in ("vectors", "cache") and x.shape[0] > 1:
            findings.problem("sequence in place of a vector", f"{place}: {x.shape[0]} time steps")
        elif x.shape[1] != dim:
            findings.problem("wrong dimension", f"{place}: {x.shape[1]}, not {dim}")
        else:
            low, high = x.min(), x.max()  # both are NaN if any value is
            largest = max(-float(low), float(high))
            if not (np.isfinite(low) and np.isfinite(high)):
                findings.problem("not a number or infinite", place)
            elif largest > FLOAT32_MAX:
                findings.problem("too large for float32", f"{place}: {max(-low, high):g}")
            peak = max(peak, largest)
            good.append(x)
    if not ids:
        findings.problem("class without samples", shown)
    return good, peak


def check_ids(ids: Mapping[str, list[str]], shown: str, findings: FindingLog) -> None:
    """Report samples that audio and video do not have in the same order, and ids that occur twice."""
    audio, video = ids["audio"], ids["video"]
    if audio != video:
        if len(audio) != len(video):
            how = f"{len(audio)} samples of audio, {len(video)} of video"
        elif sorted(audio) == sorted(video):
            how = "the same samples in another order"
        else:
            how = f"{len(set(audio) ^ set(video))} samples in one file only"
        findings.problem("audio and video out of step", f"{shown}: {how}")
    seen: set[str] = set()
    for sample in audio:
        if sample in seen:
            findings.problem("duplicate sample id", f"{sample} twice in {shown}")
        seen.add(sample)
