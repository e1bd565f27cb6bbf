"""Reads the lists of the official layout: classes, splits, samples and class embeddings, but no features.

Names are joined regardless of case (``HandStandPushups`` and ``HandstandPushups`` are one class) and of how
accents are encoded. Lists must be UTF-8. The id of a class is its index in the sorted ``all_class.txt``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.importing.class_embeddings import read_embeddings
from benchmark.data.importing.findings import FindingLog, ImportProblems
from benchmark.data.importing.list_files import read_lines, read_table
from benchmark.data.importing.places import UNION_SPLIT, ListPlaces
from benchmark.data.names import folded
from benchmark.data.store import DEVELOPMENT_SPLITS, SPLITS, Floats


@dataclass
class SplitList:
    """The lists of one split."""

    classes: list[int] = field(default_factory=list)
    """Sorted class ids of the ``.txt``, which decides the classes of the split."""
    samples: dict[str, int] | None = None
    """Sample id -> class id from the ``.csv``, unlisted classes included; None without a ``.csv``."""
    repeated: list[str] = field(default_factory=list)
    """Ids that the ``.csv`` lists more than once; the last row is used."""
    readable: bool = True
    """Whether the lists that exist could be read: nothing is concluded from one that could not."""

    def kept(self) -> dict[str, int]:
        """Return the listed samples of listed classes."""
        listed = set(self.classes)
        return {sample: label for sample, label in (self.samples or {}).items() if label in listed}


@dataclass
class ClassLists:
    """All lists of a folder, with class ids in place of names."""

    names: list[str]
    """Sorted; the index is the class id."""
    splits: dict[str, SplitList]
    files: list[Path]
    """The files that were read."""
    vector_names: list[str] = field(default_factory=list)
    vectors: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    own_vector: list[int] = field(default_factory=list)
    vectors_record: dict[str, Any] | None = None
    """Name, size and hash of a file given with ``--vectors``, which is not in ``files``."""
    spellings: dict[str, list[str]] = field(default_factory=dict)
    """Spelling that differs from the class's name only in case -> the files with it."""

    def note_spellings(self, place: str, found: Iterable[str], by_name: Mapping[str, int]) -> None:
        """Record spellings of a file that differ from those in ``names``."""
        for name in sorted(set(found)):
            label = by_name.get(folded(name))
            if label is not None and name != self.names[label]:
                self.spellings.setdefault(name, []).append(place)


def read_lists(places: ListPlaces, text_dim: int, findings: FindingLog) -> ClassLists:
    """Read and join all lists of a feature set. Problems and notes go to ``findings``."""
    found = read_lines(places, places.all_classes, findings)
    names = sorted(found or ())
    by_name = {folded(name): i for i, name in enumerate(names)}
    for name in _repeated(names):
        findings.problem("repeated class name", f"{places.shown(places.all_classes)}: {name}")
    lists = ClassLists(names, {}, places.list_files())
    unknown = findings if found is not None else FindingLog("")  # every name, without a list of all
    for split in SPLITS:
        lists.splits[split] = _read_split(places, split, lists, by_name, findings, unknown)
    if places.split_file(UNION_SPLIT, "txt").is_file():
        union = _read_split(places, UNION_SPLIT, lists, by_name, findings, unknown)
        _check_union(places, union, lists.splits, findings)
    used = {label for split in lists.splits.values() for label in split.classes}
    found_text = read_embeddings(places, names, used, text_dim, findings)
    lists.vector_names, lists.vectors = found_text.names, found_text.vectors
    lists.own_vector, lists.vectors_record = found_text.own, found_text.record
    lists.note_spellings(places.shown(places.names_table), found_text.originals, by_name)
    return lists


def listed_samples(places: ListPlaces, lists: ClassLists, findings: FindingLog) -> dict[str, tuple[str, int]]:
    """Map the listed samples of listed classes to split and class id.

    A split without a sample list and a sample in two splits are problems.
    """
    found: dict[str, tuple[str, int]] = {}
    for split in SPLITS:
        if lists.splits[split].samples is None and not places.split_file(split, "csv").is_file():
            findings.problem("missing sample list", places.shown(places.split_file(split, "csv")))
        for sample, label in lists.splits[split].kept().items():
            if sample in found:
                findings.problem("duplicate sample id", f"{sample} in {found[sample][0]} and {split}")
            found.setdefault(sample, (split, label))
    return found


def manual_names(places: ListPlaces) -> list[str]:
    """Return the sorted names of all classes' embeddings: the manual names, or those of a feature set's own.

    Raises:
        ImportProblems: the class name table is missing or broken.
    """
    path = places.names_table
    findings = FindingLog(str(places.root))
    rows = None
    if path.is_file():
        rows = read_table(places, path, ("original", places.name_column), findings)
    else:
        findings.problem("missing class list", places.shown(path))
    if rows is None:
        raise ImportProblems(findings)
    return sorted({manual for _, manual in rows})


def _repeated(names: Iterable[str]) -> list[str]:
    counts = Counter(map(folded, names))
    return sorted(name for name, count in counts.items() if count > 1)


def _read_split(
    places: ListPlaces,
    split: str,
    lists: ClassLists,
    by_name: Mapping[str, int],
    findings: FindingLog,
    unknown_names: FindingLog,
) -> SplitList:
    # The .txt decides which classes the split has.
    lines = read_lines(places, places.split_file(split, "txt"), findings)
    listed = lines or []
    for name in _repeated(listed):
        findings.problem("repeated class name", f"{places.shown(places.split_file(split, 'txt'))}: {name}")
    lists.note_spellings(places.shown(places.split_file(split, "txt")), listed, by_name)
    found = SplitList(readable=lines is not None)
    found.classes = sorted(
        {by_name[folded(n)] for n in listed if _known(n, by_name, places, split, "txt", unknown_names)}
    )

    # The .csv lists the samples, also of classes that the split does not have.
    path = places.split_file(split, "csv")
    if not path.is_file():
        findings.note("no sample list", places.shown(path))
        return found
    rows = read_table(places, path, ("filename", "label"), findings)
    if rows is None:
        found.readable = False
        return found
    lists.note_spellings(places.shown(path), (label for _, label in rows), by_name)
    found.repeated = sorted(
        sample for sample, count in Counter(sample for sample, _ in rows).items() if count > 1
    )
    unknown = Counter(label for _, label in rows if folded(label) not in by_name)
    for label in unknown:
        _known(label, by_name, places, split, "csv", unknown_names)
    found.samples = {sample: by_name[folded(label)] for sample, label in rows if label not in unknown}

    # Samples of unlisted classes are dropped; without a readable .txt nothing is known of that.
    dropped = len(found.samples) - len(found.kept())
    if dropped and lines is not None:
        findings.note("listed samples of unlisted classes, dropped", f"{split}: {dropped:,}", dropped)
    return found


def _known(
    name: str, by_name: Mapping[str, int], places: ListPlaces, split: str, kind: str, findings: FindingLog
) -> bool:
    if folded(name) in by_name:
        return True
    findings.problem("unknown class name", f"{places.shown(places.split_file(split, kind))}: {name!r}")
    return False


def _check_union(
    places: ListPlaces, union: SplitList, splits: Mapping[str, SplitList], findings: FindingLog
) -> None:
    """Check that ``stage_2_train`` is the union of three other splits; nothing else is read of it."""
    development = [splits[split] for split in DEVELOPMENT_SPLITS]
    if not all(split.readable for split in (union, *development)):
        return  # already reported
    classes = {c for split in development for c in split.classes}
    if classes != set(union.classes):
        path, count = places.split_file(UNION_SPLIT, "txt"), len(classes ^ set(union.classes))
        findings.problem("stage_2_train is not the union", f"{places.shown(path)}: {count:,} classes differ")
    if union.samples is None or any(split.samples is None for split in development):
        return
    samples = {item for split in development for item in split.kept().items()}
    differing = samples ^ set(union.kept().items())
    if differing:
        example = f"{places.shown(places.split_file(UNION_SPLIT, 'csv'))}: {len(differing):,} samples differ"
        findings.problem("stage_2_train is not the union", f"{example}, among them {min(differing)[0]}")
