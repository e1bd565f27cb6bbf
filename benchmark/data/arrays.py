"""Makes a feature file and a dataset config from arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray
from pydantic import ValidationError

from benchmark.data.cards import Card, load_cards
from benchmark.data.locate import store_path
from benchmark.data.samples import SPLITS
from benchmark.data.store import ModalityContent, StoreContent, write_store
from benchmark.errors import UsageError, near, validation_message
from benchmark.system.files import replacing

SHORT = {split.partition("_")[2].partition("_")[2]: split for split in SPLITS}
"""``train``, ``val_seen``, ``val_unseen``, ``test_seen``, ``test_unseen``: their names in a feature file."""
FEATURES = "native"
MADE = "Made from arrays by gzsl-bench"


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
    """Make a dataset from arrays: ``<data_root>/<name>-native.h5``, and its config ``datasets/<name>.yaml``.

    Both ``run`` and the command line find the dataset by its name in the same working folder. A dataset that
    was made in this way before is replaced.

    Args:
        audio, video: a sequence ``[T, D]`` for each sample, of any lengths; or ``[N, D]``, a vector for each.
        labels: the class of each sample: its name, or its index in ``class_names``.
        splits: the split of each sample: ``train``, ``val_seen`` (classes of ``train``), ``val_unseen``
            (other classes), ``test_seen`` (classes of these three) or ``test_unseen`` (classes of no other
            split).
        class_embeddings: ``[C, D_w]``, in the order of ``class_names``.
        ids: a name for each sample; ``0``, ``1`` and so on if None.
        audio_seconds, video_seconds: seconds between two time steps.
        grouping: regular expression whose first group, in an id, names the source of a sample, such as the
            video that a clip was cut from.
        title: name in tables; ``name`` if None.

    Returns:
        ``name``.

    Raises:
        UsageError: lengths or sizes do not fit, a value is not finite, a class or split is wrong, or the
            name is taken. Nothing is written then.
    """
    name, title = str(name), str(title or name)
    labels, splits, ids = as_list(labels), as_list(splits), None if ids is None else as_list(ids)
    place, config = store_path(Path(data_root), name, FEATURES), Path("datasets") / f"{name}.yaml"
    if config.exists() and MADE.encode() not in config.read_bytes():
        raise UsageError(f"dataset {name!r}: {config} was written by hand; choose another name")
    cards = load_cards()
    taken = {*cards, *(preset for card in cards.values() for preset in card.presets)}
    if name in taken and not config.exists():
        raise UsageError(f"dataset {name!r}: the name is taken by a dataset of the project; choose another")

    # Samples are sorted by split, classes by name.
    order_of_splits = _splits(name, splits)
    order = np.argsort(order_of_splits, kind="stable")
    names = as_list(class_names)
    if wrong := [one for one in names if not isinstance(one, str)]:
        raise UsageError(f"dataset {name!r}: class_names must be texts (got {wrong[0]!r})")
    by_name = sorted(range(len(names)), key=names.__getitem__)
    rank, sorted_names = np.argsort(by_name), [names[i] for i in by_name]
    label = rank[_labels(name, labels, names)]
    vectors = _numbers(name, "class_embeddings", class_embeddings)
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise UsageError(
            f"dataset {name!r}: class_embeddings must be [{len(names)}, D], one row for each class "
            f"(got {list(vectors.shape)})"
        )
    modalities = {
        of: _modality(name, of, values, order) for of, values in (("audio", audio), ("video", video))
    }
    counted = {"labels": len(label), "splits": len(order), **{of: n for of, (_, n) in modalities.items()}}
    sample_ids = [str(one) for one in (range(len(order)) if ids is None else ids)]
    counted["ids"] = len(sample_ids)
    if len({*counted.values()}) > 1:
        raise UsageError(
            f"dataset {name!r}: all must have one entry for each sample: "
            + ", ".join(f"{what} {n}" for what, n in counted.items())
        )
    if len({*sample_ids}) < len(sample_ids):
        raise UsageError(f"dataset {name!r}: ids must differ from each other")
    classes = {
        split: sorted({int(c) for c in label[order_of_splits == index]}) for index, split in enumerate(SPLITS)
    }
    _check_classes(name, classes, sorted_names)

    # The config is checked before the feature file is written, and written after it.
    contents = {of: content for of, (content, _) in modalities.items()}
    seconds = {"audio": float(audio_seconds), "video": float(video_seconds)}
    written: dict[str, Any] = {
        "name": name,
        "title": title,
        "kind": "real",
        "default_mode": "corrected",
    }
    written |= {"description": f"{MADE}: {len(order)} samples of {len(names)} classes."}
    written |= {"default_features": FEATURES, **({"grouping": grouping} if grouping else {})}
    sets = {of: {"extractor": "own", "dim": contents[of].dim, "seconds": seconds[of]} for of in contents}
    written["features"] = {FEATURES: {"description": "own", **sets, "text_dim": vectors.shape[1]}}
    try:
        Card.model_validate(written)
    except ValidationError as error:
        raise UsageError(validation_message(error, f"dataset {name!r}")) from None
    content = StoreContent(
        dataset=name,
        features=FEATURES,
        generated=False,
        class_names=sorted_names,
        class_splits=classes,
        vector_names=sorted_names,
        vectors=vectors[by_name],
        own_vector=list(range(len(names))),
        ids=[sample_ids[i] for i in order],
        labels=np.asarray(label[order], np.int64),
        splits=order_of_splits[order],
        **contents,
        provenance={"source": "from_arrays"},
    )
    text = yaml.safe_dump(written, sort_keys=False)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_store(place, content)
    config.parent.mkdir(exist_ok=True)
    with replacing(config) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return name


def _splits(name: str, splits: Sequence[str]) -> NDArray[np.uint8]:
    """``[N]`` index into ``SPLITS`` of each sample."""
    known = {**{split: i for i, split in enumerate(SPLITS)}, **{s: SPLITS.index(n) for s, n in SHORT.items()}}
    wrong = [str(split) for split in splits if not isinstance(split, str) or split not in known]
    if wrong:
        raise UsageError(f"dataset {name!r}: no split {wrong[0]!r}: {near(wrong[0], SHORT)}")
    return np.array([known[split] for split in splits], np.uint8)


def _labels(name: str, labels: Sequence[str] | ArrayLike, names: Sequence[str]) -> NDArray[np.int64]:
    """``[N]`` index into the class names of each sample."""
    if len({*names}) < len(names):
        twice = next(one for i, one in enumerate(names) if one in names[:i])
        raise UsageError(f"dataset {name!r}: class_names has {twice!r} twice")
    given, known = as_array(f"dataset {name!r}: labels", labels), {one: i for i, one in enumerate(names)}
    if given.ndim != 1:
        raise UsageError(
            f"dataset {name!r}: labels must be a class for each sample (got {list(given.shape)})"
        )
    if given.dtype.kind in "iu":
        wrong: list[Any] = [int(i) for i in np.unique(given) if not 0 <= i < len(names)]
        found = given.astype(np.int64)
    else:
        wrong = [one for one in dict.fromkeys(map(str, given.tolist())) if one not in known]
        found = np.array([known.get(str(one), 0) for one in given.tolist()], np.int64)
    if wrong:
        raise UsageError(f"dataset {name!r}: label {wrong[0]!r} is no class of class_names")
    return found


def _modality(
    name: str, of: str, values: ArrayLike | Sequence[ArrayLike], order: NDArray[np.intp]
) -> tuple[ModalityContent, int]:
    """The content of one modality in a new order of the samples, and their number."""
    rows = [_numbers(name, f"{of}[{i}]", one) for i, one in enumerate(as_list(values))]
    sizes = {(row.ndim, row.shape[-1] if row.ndim else 0) for row in rows}
    if len(sizes) != 1 or next(iter(sizes))[0] not in (1, 2) or not all(row.size for row in rows):
        raise UsageError(
            f"dataset {name!r}: {of} must be [N, D], or an array [T, D] for each sample, with one D"
        )
    ((dimensions, dim),) = sizes
    if len(rows) != len(order):  # reported with the other lengths
        return ModalityContent(dim), len(rows)
    rows = [rows[i] for i in order]
    if dimensions == 1:
        return ModalityContent(dim, means=np.stack(rows)), len(rows)
    offsets = np.cumsum([0, *map(len, rows)])
    return ModalityContent(dim, frames=np.concatenate(rows), offsets=offsets), len(rows)


def as_list(values: Any) -> list[Any]:
    """The rows of an array, tensor, data frame, set or anything else that can be iterated over."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu() if values.is_floating_point() else values.detach().cpu()
    return list(values.to_numpy() if hasattr(values, "to_numpy") else values)


def as_array(what: str, values: Any) -> NDArray[Any]:
    """An array of arrays, tensors, data frames, sets or other collections.

    Raises:
        UsageError: the rows have different sizes.
    """
    try:
        rows = [
            np.asarray(as_list(row)) if hasattr(row, "detach") and row.ndim else row
            for row in as_list(values)
        ]
        return np.asarray(rows)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{what}: cannot be read as an array ({error})") from None


def _numbers(name: str, what: str, values: Any) -> NDArray[np.float32]:
    """Finite numbers of an array."""
    found = as_array(f"dataset {name!r}: {what}", values)
    try:
        numbers = found.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"dataset {name!r}: {what}: must be numbers ({error})") from None
    if not np.isfinite(numbers).all():
        raise UsageError(f"dataset {name!r}: {what} has a value that is not finite")
    return numbers


def _check_classes(name: str, classes: Mapping[str, Sequence[int]], names: Sequence[str]) -> None:
    """Refuse splits whose classes contradict their names."""
    found = {short: {*classes[split]} for short, split in SHORT.items()}
    if empty := [short for short, ids in found.items() if not ids]:
        raise UsageError(f"dataset {name!r}: no sample is in split {empty[0]}")
    seen = found["train"] | found["val_unseen"]
    rules = (
        (found["val_seen"] - found["train"], "val_seen", "is no class of train"),
        (found["val_unseen"] & found["train"], "val_unseen", "is a class of train too"),
        (found["test_seen"] - seen, "test_seen", "is no class of train or val_unseen"),
        (found["test_unseen"] & seen, "test_unseen", "is a class of train or val_unseen too"),
    )
    for wrong, short, why in rules:
        if wrong:
            raise UsageError(f"dataset {name!r}: class {names[min(wrong)]!r} of {short} {why}")
