"""What all imports into a feature store have in common: the lock, the report, counts, and whether it is there already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import Timeout

from benchmark.data.cards import FeatureSetCard
from benchmark.data.importing.class_lists import ClassLists
from benchmark.data.importing.places import Form
from benchmark.data.importing.problems import Problem, ProblemLog
from benchmark.data.importing.staging import Staging
from benchmark.data.store import SPLITS, DamagedStore, FeatureStore, StoreContent, refuse_open_store, write_store
from benchmark.errors import UsageError
from benchmark.system.files import check_replaceable, file_lock, outside_reason, raise_outside, remove_partials

log = logging.getLogger(__name__)

FLOAT16_MAX = float(np.finfo(np.float16).max)
Progress = Callable[[str, int, int], None]
Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class SplitCount:
    """Counts of one split: what its lists say, what its files hold, what the card expects."""

    classes: int
    expected_classes: int | None
    listed: int | None
    """Listed samples of listed classes; None without a sample list."""
    dropped: int
    """Listed samples of unlisted classes."""
    found: int
    expected: int | None


@dataclass(frozen=True)
class ImportReport:
    """What an import did."""

    target: Path
    form: Form
    dtype: Dtype
    digest: str
    already: bool
    """The store was there, from the same files: nothing was done."""
    resumed: int
    """Classes of splits, or extracted files, that an earlier, interrupted import had read."""
    splits: Mapping[str, SplitCount]
    notes: Sequence[Problem]


@contextmanager
def only_import(target: Path, room: str = "an import needs about twice the size of its class files") -> Iterator[None]:
    """See that nobody else writes the store meanwhile, and say how to fix a disk that is full or fails.

    Args:
        target: the store.
        room: what it needs on the disk.

    Raises:
        UsageError: another import is running, the disk is full, or a folder or broken link is in the place of the store.
        Unavailable: another program has the store open for writing, or the disk fails in another way.
    """
    check_replaceable(target)
    refuse_open_store(target)
    try:
        with file_lock(target.with_name(f".{target.name}.import.lock"), timeout=0):
            remove_partials(target)
            yield
    except Timeout:
        raise UsageError(f"{target}: another import or extraction to this file is running; wait for it to end") from None
    except (OSError, MemoryError) as error:
        reason = outside_reason(error, target)
        if reason is not None and reason.kind == "full":
            raise UsageError(f"{target}: the disk is full; {room}. Make room and repeat the command: it continues") from None
        raise_outside(error, Path(getattr(error, "filename", None) or target))
        raise


def earlier_store(target: Path, identity: Mapping[str, Any], needed: str, records: Sequence[str]) -> FeatureStore | None:
    """The store, where it is there and its provenance is this identity, besides the records of its files.

    Args:
        target: the store.
        identity: all that decides it besides the content of the files.
        needed: what the provenance must hold besides: the record of the files.
        records: all that it may hold besides.
    """
    if not target.is_file():
        return None
    try:
        store = FeatureStore(target)
        store.provenance[needed]
    except (DamagedStore, KeyError) as error:
        log.warning("%s is there but is no store of this importer (%s); it will be replaced", target, error)
        return None
    return store if {key: value for key, value in store.provenance.items() if key not in records} == identity else None


def write_staged(target: Path, content: StoreContent, dtype: Dtype, staging: Staging, progress: Progress) -> str:
    """Write a store and remove what was staged for it; the digest of its content."""
    progress("writing the store", 0, 1)
    write_store(target, content, dtype)
    progress("writing the store", 1, 1)
    staging.remove()
    return FeatureStore(target).digest


def split_counts(
    feature_set: FeatureSetCard, lists: ClassLists, found: Sequence[int], notes: ProblemLog
) -> dict[str, SplitCount]:
    """Counts of each split; fewer samples than listed, and other counts than the card's, are notes."""
    counts = {}
    for split, n in zip(SPLITS, found, strict=True):
        listing = lists.splits[split]
        listed = None if listing.samples is None else len(listing.kept())
        expected_classes, expected = feature_set.classes.get(split), feature_set.samples.get(split)
        dropped = len(listing.samples or {}) - (listed or 0)
        counts[split] = SplitCount(len(listing.classes), expected_classes, listed, dropped, n, expected)
        if listed is not None and n < listed:
            notes.add("fewer samples than listed", f"{split}: {n:,} of {listed:,}", listed - n)
        if expected is not None and (listed if listed is not None else n) != expected:
            notes.add("other counts than the card's", f"{split}: {listed or n:,} samples, the card has {expected:,}")
        if expected_classes is not None and len(listing.classes) != expected_classes:
            example = f"{split}: {len(listing.classes)} classes, the card has {expected_classes}"
            notes.add("other counts than the card's", example)
    return counts
