"""Finds what is odd about the lists of a dataset: spellings, dropped samples, classes in wrong splits.

No features are needed. ``data/checks/audit.py`` finds leakage between splits and misaligned class embeddings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.data.cards import FeatureSetConfig
from benchmark.data.importing.class_lists import ClassLists
from benchmark.data.importing.findings import Finding, Severity
from benchmark.data.names import folded
from benchmark.data.store import DEVELOPMENT_SPLITS, SPLITS, Floats, Ints
from benchmark.data.vector_norms import odd_norms

DROPPED = "listed samples of an unlisted class, dropped"
MISSING = "listed samples without features"
UNUSABLE = "sample names unusable, ids made up"
NOT_UNIT = "not of length 1"
UNIT_TOLERANCE = 5e-3
"""Largest difference of a length from 1: float16 rounds the squares of 512 numbers to less."""
ZEROS, ODD_NORM = "class embedding of zeros", "class embedding of an odd norm"


@dataclass(frozen=True)
class SplitSamples:
    """The samples of one split that are used: without listed samples of unlisted classes."""

    ids: Sequence[str]
    labels: Ints
    """``[N]`` class ids."""


def list_oddities(lists: ClassLists) -> list[Finding]:
    """Find what only the lists show: spellings, samples dropped or listed twice, missing lists."""
    by_folded = {folded(name): name for name in lists.names}
    found = []
    for name, files in sorted(lists.spellings.items()):
        what, kind = f"{name}, the class is {by_folded[folded(name)]}", "name differs in upper and lower case"
        found.append(Finding("note", kind, ", ".join(files), what, len(files)))
    for split, listing in lists.splits.items():
        if listing.samples is None:
            found.append(Finding("note", "no sample list", split, "its samples are those of its files"))
            continue
        dropped = Counter(listing.samples.values()) - Counter(listing.kept().values())
        found += [Finding("note", DROPPED, split, lists.names[c], n) for c, n in sorted(dropped.items())]
        found += [Finding("problem", "sample listed twice", split, sample) for sample in listing.repeated]
    return found


def missing_oddities(lists: ClassLists, found: Mapping[tuple[str, int], int]) -> list[Finding]:
    """Find the classes of splits with fewer samples than listed.

    Args:
        lists: what is listed.
        found: number of samples by split and class id.
    """
    oddities = []
    for split, listing in lists.splits.items():
        for label, listed in sorted(Counter(listing.kept().values()).items()):
            missing = listed - found.get((split, label), 0)
            if missing > 0:
                what = f"{lists.names[label]}: {missing:,} of {listed:,}"
                oddities.append(Finding("note", MISSING, split, what, missing))
    return oddities


def unusable_oddities(entries: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Find the class files whose sample names are unusable, so that the source videos are unknown.

    Args:
        entries: ``FeatureStore.unusable_names``.
    """
    return [
        Finding("note", UNUSABLE, entry["split"], f"{entry['class']}: {entry['samples']:,}", entry["samples"])
        for entry in entries
    ]


def unit_oddities(feature_set: FeatureSetConfig, names: Sequence[str], vectors: Floats) -> list[Finding]:
    """Find class embeddings with a part that has not length 1, if the feature set has such parts.

    Args:
        feature_set: has the parts.
        names: names of the class embeddings.
        vectors: ``[K, D_w]`` in that order; no rows if they could not be read.
    """
    parts = {str(part): size for part, size in feature_set.text_parts.items()}
    parts = parts or {"whole": feature_set.text_dim}
    if not feature_set.unit_length or not len(vectors) or vectors.shape[1] != sum(parts.values()):
        return []
    oddities, start = [], 0
    for part, size in parts.items():
        lengths = np.linalg.norm(vectors[:, start : start + size].astype(np.float64), axis=1)
        for row in np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE)).tolist():
            what = f"{names[row]}, {part} part: {lengths[row]:.3g}"
            oddities.append(Finding("note", NOT_UNIT, "class embeddings", what))
        start += size
    return oddities


def class_oddities(
    names: Sequence[str],
    class_splits: Mapping[str, Sequence[int]],
    samples: Mapping[str, SplitSamples | None],
) -> list[Finding]:
    """Find classes and samples that do not fit their split, such as unseen classes that are trained on.

    Args:
        names: class names by id.
        class_splits: class ids of each split.
        samples: samples of each split; None if unknown.
    """
    return [
        *_class_sets(names, class_splits),
        *_without_samples(names, class_splits, samples),
        *_in_two_splits(samples),
    ]


def _class_sets(names: Sequence[str], class_splits: Mapping[str, Sequence[int]]) -> Iterator[Finding]:
    classes = {split: set(map(int, ids)) for split, ids in class_splits.items()}
    train, val_seen, val_unseen, test_seen, test_unseen = (classes[split] for split in SPLITS)
    development = set.union(*(classes[split] for split in DEVELOPMENT_SPLITS))
    for split, kind, wrong in (
        ("stage_1_val_unseen", "unseen class is trained on", val_unseen & train),
        ("stage_2_test_unseen", "unseen class is trained on", test_unseen & development),
        ("stage_1_val_seen", "seen class is not trained on", val_seen - train),
        ("stage_2_test_seen", "seen class is not trained on", test_seen - development),
    ):
        for label in sorted(wrong):
            yield Finding("problem", kind, split, names[label])
    for split, kind, missing in (
        ("stage_1_val_seen", "training class is not validated", train - val_seen),
        ("stage_2_test_seen", "training class is not tested", development - test_seen),
    ):
        for label in sorted(missing):
            yield Finding("note", kind, split, names[label])
    unused = sorted(set(range(len(names))) - development - test_seen - test_unseen)
    if unused:
        examples = ", ".join(names[label] for label in unused[:3]) + (", ..." if len(unused) > 3 else "")
        yield Finding("note", "classes in no split", "all classes", examples, len(unused))


def _without_samples(
    names: Sequence[str],
    class_splits: Mapping[str, Sequence[int]],
    samples: Mapping[str, SplitSamples | None],
) -> Iterator[Finding]:
    for split in SPLITS:
        found = samples[split]
        if found is not None:
            for label in sorted({int(c) for c in class_splits[split]} - set(found.labels.tolist())):
                yield Finding("problem", "class without samples", split, names[label])


def _in_two_splits(samples: Mapping[str, SplitSamples | None]) -> Iterator[Finding]:
    places: dict[str, list[str]] = {}
    for split in SPLITS:
        found = samples[split]
        for sample in found.ids if found is not None else ():
            places.setdefault(sample, []).append(split)
    for sample, splits in places.items():
        if len(splits) > 1:
            yield Finding("problem", "sample in two splits", ", ".join(splits), sample, len(splits))


def vector_oddities(
    names: Sequence[str],
    class_splits: Mapping[str, Sequence[int]],
    vector_names: Sequence[str],
    vectors: Floats,
    own_vector: Sequence[int],
) -> Iterator[Finding]:
    """Find word vectors that several classes or no class have, that are equal, or of odd norms.

    Zeros are a problem if a class of a split has them: they carry no meaning.

    Args:
        names: class names by id.
        class_splits: class ids of each split.
        vector_names: sorted names of the word vectors.
        vectors: ``[K, D_w]`` in that order; no rows if they could not be read.
        own_vector: for each class id the row of its word vector.
    """
    # Word vectors of several classes, and of none.
    users: dict[int, list[str]] = {}
    for label, row in enumerate(own_vector):
        users.setdefault(int(row), []).append(names[label])
    for row, classes in sorted(users.items()):
        if len(classes) > 1:
            yield Finding(
                "note", "classes share a class embedding", vector_names[row], ", ".join(classes), len(classes)
            )
    if own_vector:
        for row in sorted(set(range(len(vector_names))) - set(users)):
            yield Finding("note", "class embedding of no class", "class embeddings", vector_names[row])

    # Word vectors that are equal under several names.
    equal: dict[bytes, list[str]] = {}
    for name, vector in zip(vector_names, vectors, strict=False):
        equal.setdefault(np.ascontiguousarray(vector).tobytes(), []).append(name)
    for group in equal.values():
        if len(group) > 1:
            yield Finding("note", "equal class embeddings", "class embeddings", ", ".join(group), len(group))

    # Norms that are zero, or far from the usual one.
    used = {names[int(label)] for labels in class_splits.values() for label in labels}
    for odd in odd_norms(vector_names, vectors) if len(vectors) else ():
        classes = users.get(odd.row, [])
        owners = ", ".join(classes) or "of no class"
        what = f"{odd.name} ({owners}): norm {odd.norm:.2g}, {odd.usual:.2g} is usual"
        severity: Severity = "problem" if odd.is_zero and used & set(classes) else "note"
        yield Finding(severity, ZEROS if odd.is_zero else ODD_NORM, "class embeddings", what)
