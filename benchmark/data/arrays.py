"""Makes a feature file and a dataset config from arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from benchmark.data.cards import CARDS_DIR, Card, load_cards, users_folder
from benchmark.data.groups import origin_rule
from benchmark.data.locate import store_path
from benchmark.data.samples import SPLITS
from benchmark.data.store import ModalityContent, StoreContent, write_store
from benchmark.errors import UsageError, near, validation_message
from benchmark.system import arguments
from benchmark.system.files import raise_outside, replacing
from benchmark.system.reading import NAME_RULE, is_name

SHORT = {split.partition("_")[2].partition("_")[2]: split for split in SPLITS}
"""``train``, ``val_seen``, ``val_unseen``, ``test_seen``, ``test_unseen``: their names in a feature file."""
FEATURES = "native"
MADE = "Made from arrays by gzsl-bench"
FIT = "must be [N, D], or an array [T, D] for each sample, with one D and at least one time step"


def from_arrays(
    name: str,
    *,
    audio: ArrayLike | Sequence[ArrayLike],
    video: ArrayLike | Sequence[ArrayLike],
    labels: Sequence[str] | ArrayLike,
    splits: Sequence[str],
    class_names: Sequence[str],
    class_embeddings: ArrayLike,
    ids: Sequence[str] | None = None,
    audio_seconds: float = 1.0,
    video_seconds: float = 1.0,
    grouping: str | None = None,
    title: str | None = None,
    data_root: Path | str = "data",
) -> str:
    """Make a dataset from arrays: its features ``<data_root>/<name>-native.h5`` and a dataset config.

    The config is ``datasets/<name>.yaml`` in the working folder. In a checkout of the project it is
    ``datasets/own/<name>.yaml``, which git ignores. ``run`` and the command line find the dataset by its name
    in the same working folder. A dataset that was made in this way before is replaced.

    Args:
        name: name of the dataset: lower-case letters, digits, hyphens and underscores.
        audio: a sequence ``[T, D]`` for each sample, of any lengths; or ``[N, D]``, a vector for each.
        video: the same; D and T may differ from those of ``audio``.
        labels: the class of each sample: its name, or its index in ``class_names``.
        splits: the split of each sample: ``train``, ``val_seen`` (classes of ``train``), ``val_unseen``
            (other classes), ``test_seen`` (classes of these three) or ``test_unseen`` (classes of no other
            split).
        class_names: a different name for each class.
        class_embeddings: ``[C, D_w]``, in the order of ``class_names``.
        ids: a name for each sample; ``0``, ``1`` and so on if None.
        audio_seconds: seconds between two time steps of ``audio``.
        video_seconds: seconds between two time steps of ``video``.
        grouping: regular expression whose first group, in an id, names the source of a sample, such as the
            video that a clip was cut from.
        title: name in tables; ``name`` if None.
        data_root: folder of the feature file.

    Returns:
        ``name``.

    Raises:
        UsageError: lengths or sizes do not fit, a value is not finite, a class or split is wrong, or the
            name is taken. Nothing is written then.
    """
    config = _config_place(name)
    of = f"dataset {name!r}:"
    place = store_path(arguments.path(f"{of} data_root", data_root, "a folder"), name, FEATURES)

    # Samples are sorted by split, classes by name.
    names = _class_names(of, class_names)
    split_of = _splits(of, as_list(f"{of} splits", splits))
    order = np.argsort(split_of, kind="stable")
    by_name = sorted(range(len(names)), key=names.__getitem__)
    sorted_names = [names[i] for i in by_name]
    label = np.argsort(by_name)[_labels(of, labels, names)]
    vectors = _class_embeddings(of, class_embeddings, len(names))
    rows = {"audio": _rows(f"{of} audio", audio), "video": _rows(f"{of} video", video)}
    sample_ids = _ids(of, range(len(order)) if ids is None else ids)
    counted = {"labels": len(label), "splits": len(order)}
    counted |= {**{modality: len(values) for modality, values in rows.items()}, "ids": len(sample_ids)}
    if len({*counted.values()}) > 1:
        raise UsageError(
            f"{of} all must have one entry for each sample: "
            + ", ".join(f"{what} {n}" for what, n in counted.items())
        )
    classes = {
        split: sorted({int(c) for c in label[split_of == index]}) for index, split in enumerate(SPLITS)
    }
    _check_classes(of, classes, sorted_names)
    contents = {modality: _content([values[i] for i in order]) for modality, values in rows.items()}

    # The config is checked before the feature file is written, and written after it.
    seconds = {"audio": audio_seconds, "video": video_seconds}
    sets: dict[str, Any] = {
        modality: {
            "extractor": "own",
            "dim": content.dim,
            "seconds": arguments.number(f"{of} {modality}_seconds", seconds[modality]),
        }
        for modality, content in contents.items()
    }
    written = {
        "name": str(name),
        "title": str(name) if title is None else arguments.text(f"{of} title", title),
        "kind": "real",
        "default_mode": "corrected",
        "description": f"{MADE}: {len(order)} samples of {len(names)} classes.",
        "default_features": FEATURES,
        **({} if grouping is None else {"grouping": grouping}),
        "features": {FEATURES: {"description": "own", **sets, "text_dim": vectors.shape[1]}},
    }
    _check_config(of, written, sample_ids, own_ids=ids is not None)
    content = StoreContent(
        dataset=str(name),
        features=FEATURES,
        generated=False,
        class_names=sorted_names,
        class_splits=classes,
        vector_names=sorted_names,
        vectors=vectors[by_name],
        own_vector=list(range(len(names))),
        ids=[sample_ids[i] for i in order],
        labels=np.asarray(label[order], np.int64),
        splits=split_of[order],
        **contents,
        provenance={"source": "from_arrays"},
    )
    for folder in (place.parent, config.parent):
        _make(folder)
    write_store(place, content)
    with replacing(config) as temporary:
        temporary.write_text(yaml.safe_dump(written, sort_keys=False), encoding="utf-8")
    return name


def _config_place(name: object) -> Path:
    """The path of the dataset config of a name that is free, or was given in this way before."""
    if not isinstance(name, str) or not is_name(name):
        raise UsageError(f"from_arrays: name: {NAME_RULE} (got {name!r:.80})")
    config, of_checkout = users_folder() / f"{name}.yaml", CARDS_DIR / f"{name}.yaml"
    if _is_file(config) and not _was_made(config):
        raise UsageError(f"dataset {name!r}: {config} was written by hand; choose another name")
    if config.parent != CARDS_DIR and _is_file(of_checkout) and _was_made(of_checkout):
        raise UsageError(f"dataset {name!r}: {of_checkout} has this name; move it to {config}, or remove it")
    cards = load_cards()
    taken = {*cards, *(preset for card in cards.values() for preset in card.presets)}
    if name in taken and not _is_file(config):
        raise UsageError(f"dataset {name!r}: the name is taken by a dataset of the project; choose another")
    return config


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def _was_made(config: Path) -> bool:
    """Whether a dataset config was written by ``from_arrays``."""
    try:
        return MADE.encode() in config.read_bytes()
    except OSError as error:
        raise UsageError(f"{config}: cannot be read ({error.strerror})") from None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise_outside(error, folder)
        raise UsageError(f"{folder}: cannot be made ({error.strerror}); name another folder") from None


def _class_names(of: str, given: Sequence[str]) -> list[str]:
    found = as_list(f"{of} class_names", given)
    if not found or not all(isinstance(one, str) for one in found):
        wrong = next((one for one in found if not isinstance(one, str)), given)
        raise arguments.refuse(f"{of} class_names", "texts, one for each class", wrong)
    names = [arguments.text(f"{of} class_names[{i}]", one) for i, one in enumerate(found)]
    if twice := _twice(names):
        raise UsageError(f"{of} class_names has {twice!r} twice; merge the classes or rename one")
    return names


def _twice(names: Sequence[str]) -> str | None:
    """The first name that was there before."""
    known: set[str] = set()
    for name in names:
        if name in known:
            return name
        known.add(name)
    return None


def _class_embeddings(of: str, given: ArrayLike, classes: int) -> NDArray[np.float32]:
    vectors = _finite(f"{of} class_embeddings", given)
    if vectors.ndim != 2 or len(vectors) != classes or not vectors.shape[1]:
        raise UsageError(
            f"{of} class_embeddings must be [{classes}, D], one row for each class "
            f"(got {list(vectors.shape)})"
        )
    return vectors


def _splits(of: str, splits: Sequence[str]) -> NDArray[np.uint8]:
    """``[N]`` index into ``SPLITS`` of each sample."""
    known = {**{split: i for i, split in enumerate(SPLITS)}, **{s: SPLITS.index(n) for s, n in SHORT.items()}}
    wrong = [str(split) for split in splits if not isinstance(split, str) or split not in known]
    if wrong:
        raise UsageError(f"{of} no split {wrong[0]!r}: {near(wrong[0], SHORT)}")
    return np.array([known[split] for split in splits], np.uint8)


def _labels(of: str, labels: Sequence[str] | ArrayLike, names: Sequence[str]) -> NDArray[np.int64]:
    """``[N]`` index into the class names of each sample."""
    given, known = as_array(f"{of} labels", labels), {one: i for i, one in enumerate(names)}
    if given.ndim != 1:
        raise UsageError(f"{of} labels must be a class for each sample (got an array {list(given.shape)})")
    if given.dtype.kind in "iu":
        wrong: list[Any] = [int(i) for i in np.unique(given) if not 0 <= i < len(names)]
        found = given.astype(np.int64)
    else:
        wrong = [one for one in dict.fromkeys(map(str, given.tolist())) if one not in known]
        found = np.array([known.get(str(one), 0) for one in given.tolist()], np.int64)
    if wrong:
        raise UsageError(
            f"{of} label {wrong[0]!r} is no class of class_names: labels are names of classes, or whole "
            f"numbers from 0 to {len(names) - 1}"
        )
    return found


def _ids(of: str, ids: Sequence[str] | Sequence[int]) -> list[str]:
    """Names of the samples, all different."""
    found = [
        str(one) if isinstance(one, (int, np.integer)) else arguments.text(f"{of} ids[{i}]", one)
        for i, one in enumerate(as_list(f"{of} ids", ids))
    ]
    if twice := _twice(found):
        raise UsageError(f"{of} ids must differ from each other: {twice!r} is there twice")
    return found


def _check_config(of: str, written: Mapping[str, Any], ids: Sequence[str], *, own_ids: bool) -> None:
    """Refuse fields that a dataset config cannot have, and a grouping rule that groups nothing."""
    try:
        card = Card.model_validate(written)
    except ValidationError as error:
        raise UsageError(validation_message(error, of.removesuffix(":"))) from None
    if card.grouping is None:
        return
    if not own_ids:
        raise UsageError(f"{of} grouping reads the ids of samples: pass ids too")
    rule = origin_rule(card)
    origins = {one: rule(one) for one in ids}
    if not any(origin.fits for origin in origins.values()):
        raise UsageError(f"{of} grouping {card.grouping!r} fits none of the ids, such as {ids[0]!r}")
    # A group in an optional part of the rule gives None.
    if nameless := [one for one, origin in origins.items() if not isinstance(origin.group, str)]:
        raise UsageError(f"{of} grouping {card.grouping!r} names no source in id {nameless[0]!r}")


def _rows(what: str, values: ArrayLike | Sequence[ArrayLike]) -> list[NDArray[np.float32]]:
    """The features of one modality: a vector or a sequence for each sample, checked."""
    rows = [_finite(f"{what}[{i}]", one) for i, one in enumerate(as_list(what, values))]
    for i, row in enumerate(rows):
        if (
            row.ndim not in (1, 2)
            or not row.size
            or (row.ndim, row.shape[-1])
            != (
                rows[0].ndim,
                rows[0].shape[-1],
            )
        ):
            first = "" if i == 0 else f", and {what.split()[-1]}[0] is {list(rows[0].shape)}"
            raise UsageError(f"{what} {FIT} ([{i}] is {list(row.shape)}{first})")
    return rows


def _content(rows: Sequence[NDArray[np.float32]]) -> ModalityContent:
    """The content of one modality, in the order of its samples."""
    dim = rows[0].shape[-1]
    if rows[0].ndim == 1:
        return ModalityContent(dim, means=np.stack(rows))
    return ModalityContent(dim, frames=np.concatenate(rows), offsets=np.cumsum([0, *map(len, rows)]))


def as_list(what: str, values: Any) -> list[Any]:
    """The rows of an array, tensor, data frame, set or other collection.

    Raises:
        UsageError: it is none: a single value, a text, or a mapping.
    """
    if hasattr(values, "detach"):
        values = _array_of(values)
    elif hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, (str, bytes, Mapping)):
        raise arguments.refuse(what, "a list or an array", values)
    try:
        return list(values)
    except TypeError:
        raise arguments.refuse(what, "a list or an array", values) from None


def _array_of(tensor: Any) -> NDArray[Any]:
    """The values of a tensor, wherever it is."""
    there = tensor.detach().cpu()
    try:
        found: NDArray[Any] = there.numpy()
    except TypeError:  # NumPy has no bfloat16
        found = there.float().numpy()
    return found


def as_array(what: str, values: Any) -> NDArray[Any]:
    """An array of arrays, tensors, data frames, sets or other collections.

    Raises:
        UsageError: the rows have different sizes, or there are none.
    """
    if type(values) is np.ndarray and values.ndim:  # others, such as masked arrays, are read row by row
        return values
    try:
        rows = [_array_of(row) if hasattr(row, "detach") else row for row in as_list(what, values)]
        return np.asarray(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{what}: cannot be read as an array ({error})") from None


def numbers(what: str, values: Any, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """Numbers of an array, as floats.

    Raises:
        UsageError: a value is a text, a date, a complex number or something else.
    """
    found = as_array(what, values)
    try:
        if found.dtype.kind in "biufO":
            return found.astype(dtype)
    except (TypeError, ValueError):  # an object
        pass
    raise UsageError(f"{what} must be numbers (got {found.dtype.type.__name__})")


def _finite(what: str, values: Any) -> NDArray[np.float32]:
    """Finite numbers of an array.

    Raises:
        UsageError: a value is no number, NaN, infinite, or too large for float32.
    """
    with np.errstate(over="ignore"):
        found = numbers(what, values, np.float32)
    if not np.isfinite(found).all():
        raise UsageError(
            f"{what} has a value that is not finite in float32 (NaN, infinite or above 3e38): "
            "replace it, or leave its sample or class out"
        )
    return found


def _check_classes(of: str, classes: Mapping[str, Sequence[int]], names: Sequence[str]) -> None:
    """Refuse splits whose classes contradict their names."""
    found = {short: {*classes[split]} for short, split in SHORT.items()}
    if empty := [short for short, ids in found.items() if not ids]:
        raise UsageError(f"{of} no sample is in split {empty[0]}; each of the five splits needs some")
    seen = found["train"] | found["val_unseen"]
    rules = (
        (found["val_seen"] - found["train"], "val_seen", "is no class of train"),
        (found["val_unseen"] & found["train"], "val_unseen", "is a class of train too"),
        (found["test_seen"] - seen, "test_seen", "is no class of train or val_unseen"),
        (found["test_unseen"] & seen, "test_unseen", "is a class of train or val_unseen too"),
    )
    for wrong, short, why in rules:
        if wrong:
            raise UsageError(f"{of} class {names[min(wrong)]!r} of {short} {why}")
