"""Reads the lists of the official layout: classes, splits, samples and word vectors, but no features.

Names are joined regardless of case (``HandStandPushups`` and ``HandstandPushups`` are one class) and of how
accents are encoded. Lists must be UTF-8. The id of a class is its index in the sorted ``all_class.txt``.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.data.importing.findings import FindingLog, ImportProblems
from benchmark.data.importing.places import UNION_SPLIT, ListPlaces
from benchmark.data.importing.word_vectors import read_word_vectors, vectors_record
from benchmark.data.names import composed, folded
from benchmark.data.store import DEVELOPMENT_SPLITS, SPLITS, Floats
from benchmark.data.vector_norms import OddNorm, odd_norms
from benchmark.untrusted.arrays import load_npy_dict
from benchmark.untrusted.kinds import START_BYTES, known_kind
from benchmark.untrusted.pickles import UnreadableFile, another_kind, unreadable


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
    found = _lines(places, places.all_classes, findings)
    names = sorted(found or ())
    by_name = class_ids(names)
    for name in _repeated(names):
        findings.problem("repeated class name", f"{places.shown(places.all_classes)}: {name}")
    lists = ClassLists(names, {}, places.list_files())
    unknown = findings if found is not None else FindingLog("")  # every name, without a list of all
    for split in SPLITS:
        lists.splits[split] = _read_split(places, split, lists, by_name, findings, unknown)
    if places.split_file(UNION_SPLIT, "txt").is_file():
        union = _read_split(places, UNION_SPLIT, lists, by_name, findings, unknown)
        _check_union(places, union, lists.splits, findings)
    _read_vectors(places, lists, text_dim, findings)
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
    """Return the sorted manual names of all classes, which are the names of the word vectors.

    Raises:
        ImportProblems: the class name table is missing or broken.
    """
    path = places.root / "class-split" / places.layout.names_file
    findings = FindingLog(str(places.root))
    rows = None
    if path.is_file():
        rows = _table(places, path, ("original", "manual"), findings)
    else:
        findings.problem("missing class list", places.shown(path))
    if rows is None:
        raise ImportProblems(findings)
    return sorted({manual for _, manual in rows})


def class_ids(names: Sequence[str]) -> dict[str, int]:
    """Map folded names to class ids, given the sorted names."""
    return {folded(name): i for i, name in enumerate(names)}


def _repeated(names: Iterable[str]) -> list[str]:
    counts = Counter(map(folded, names))
    return sorted(name for name, count in counts.items() if count > 1)


def _lines(places: ListPlaces, path: Path, findings: FindingLog) -> list[str] | None:
    """Return the lines of a list that are not empty; None if it cannot be read."""
    if not path.is_file():
        findings.problem("missing class list", places.shown(path))
        return None
    text = _text(places, path, findings)
    return None if text is None else [line.strip() for line in text.splitlines() if line.strip()]


def _text(places: ListPlaces, path: Path, findings: FindingLog) -> str | None:
    """Return the text of a list in UTF-8, with or without a byte order mark; None if it is anything else."""
    try:
        raw = path.read_bytes()
    except (OSError, MemoryError) as error:
        findings.unreadable(unreadable(path, error), places.shown(path))
        return None
    foreign = known_kind(raw[:START_BYTES])
    if foreign is not None:
        findings.unreadable(
            another_kind(path, foreign, "save it as text, in a spreadsheet as CSV UTF-8"), places.shown(path)
        )
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"byte 0x{raw[error.start]:02x} in line {raw[: error.start].count(10) + 1:,}"
        findings.problem("list that is not UTF-8", f"{places.shown(path)}: {_encoding(raw, what)}")
        return None
    if "\0" in text:
        findings.problem("list that is not UTF-8", f"{places.shown(path)}: {_encoding(raw, 'zero bytes')}")
        return None
    return composed(text)


def _encoding(raw: bytes, found: str) -> str:
    """Guess the encoding of a text that is not UTF-8, for the message."""
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:START_BYTES]
    return "UTF-16 or UTF-32, as spreadsheets save it" if wide else f"{found}, as in Latin-1 or Windows-1252"


def _table(
    places: ListPlaces, path: Path, columns: Sequence[str], findings: FindingLog
) -> list[tuple[str, ...]] | None:
    """Return the named columns of a CSV file row by row; None if it is broken. Names contain commas."""
    text = _text(places, path, findings)
    if text is None:
        return None
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        table.columns = table.columns.str.strip()
        if twice := [column for column in columns if (table.columns == column).sum() > 1]:
            raise ValueError(f"its first line has the column {twice[0]!r} twice")
        return list(zip(*(table[column].str.strip() for column in columns), strict=True))
    except KeyError as error:
        what = f"no column {error} in its first line {text.splitlines()[0][:60]!r}"
        findings.problem("broken list", f"{places.shown(path)}: {what}")
    except ValueError as error:  # pandas' parser errors are ValueErrors
        findings.problem("broken list", f"{places.shown(path)}: {error!s:.120}")
    return None


def _read_split(
    places: ListPlaces,
    split: str,
    lists: ClassLists,
    by_name: Mapping[str, int],
    findings: FindingLog,
    unknown_names: FindingLog,
) -> SplitList:
    # The .txt decides which classes the split has.
    lines = _lines(places, places.split_file(split, "txt"), findings)
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
    rows = _table(places, path, ("filename", "label"), findings)
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


def _read_vectors(places: ListPlaces, lists: ClassLists, text_dim: int, findings: FindingLog) -> None:
    """Read the word vectors, sorted by manual name, and find the row of each class."""
    names_file = places.root / "class-split" / places.layout.names_file
    path = places.vectors or next((path for path in places.text_files if path.is_file()), None)
    if not names_file.is_file():
        findings.problem("missing class list", places.shown(names_file))
    if path is None:
        findings.problem(
            "missing class embeddings", f"looked for {' and '.join(map(places.shown, places.text_files))}"
        )
    if path is None or not names_file.is_file():
        return

    # Read the vectors: of a given file those of the manual names, of the layout all.
    rows = _table(places, names_file, ("original", "manual"), findings)
    read: Mapping[str, Floats]
    try:
        names = [manual for _, manual in rows or ()]
        read = read_word_vectors(path, names) if places.vectors else load_npy_dict(path)
    except UnreadableFile as error:
        if places.vectors is not None and error.kind == "unreadable file":
            findings.problem(
                "unreadable class embeddings", f"{places.shown(path)}: {error.what}", fix=error.fix
            )
        else:
            findings.unreadable(error, places.shown(path))
        return

    # Sort them by name, and join them with the classes.
    vectors = {composed(name): vector for name, vector in read.items()}
    wrong = _check_vectors(vectors, text_dim, places.shown(path), findings)
    lists.vector_names = sorted(vectors)
    lists.vectors_record = vectors_record(path, vectors) if places.vectors else None
    if vectors and not wrong:
        lists.vectors = np.stack([vectors[name] for name in lists.vector_names])
    if rows is not None:
        lists.note_spellings(
            places.shown(names_file), (original for original, _ in rows), class_ids(lists.names)
        )
        lists.own_vector = _own_rows(lists, rows, findings)

    # Norms are compared only if every class has a vector.
    if not wrong and len(lists.own_vector) == len(lists.names):
        for odd in odd_norms(lists.vector_names, lists.vectors):
            _report_norm(lists, odd, findings)


def _check_vectors(vectors: Mapping[str, Floats], text_dim: int, shown: str, findings: FindingLog) -> bool:
    """Return whether there are word vectors of a wrong size or with values that are not finite."""
    wrong = False
    for name in sorted(vectors):
        if len(vectors[name]) != text_dim:
            wrong = True
            fix = f"give vectors of {text_dim} numbers (--vectors FILE), or correct the config's text_dim"
            findings.problem(
                "wrong dimension", f"class embedding {name!r}: {len(vectors[name])}, not {text_dim}", fix=fix
            )
        elif not np.isfinite(vectors[name]).all():
            fix = f"correct these vectors in {shown}, or give another file (--vectors FILE)"
            findings.problem(
                "not a number or infinite", f"class embedding {name!r} (or beyond float32)", fix=fix
            )
    return wrong


def _report_norm(lists: ClassLists, odd: OddNorm, findings: FindingLog) -> None:
    """Report an odd norm. Zeros are a problem if a class of a split has the vector; all else is a note."""
    used = {label for split in lists.splits.values() for label in split.classes}
    classes = [lists.names[label] for label in sorted(used) if lists.own_vector[label] == odd.row]
    what = f"{odd.name!r} (classes: {', '.join(classes)})" if classes else f"{odd.name!r} (of no class)"
    if odd.is_zero and classes:
        findings.problem("class embedding of zeros", f"{what}: norm {odd.norm:.2g}, {odd.usual:.2g} is usual")
    else:
        findings.note(
            "class embedding of an odd norm", f"{what}: norm {odd.norm:.2g}, {odd.usual:.2g} is usual"
        )


def _own_rows(lists: ClassLists, rows: Iterable[tuple[str, ...]], findings: FindingLog) -> list[int]:
    manual = {folded(original): name for original, name in rows}
    row_of = {name: row for row, name in enumerate(lists.vector_names)}
    own = []
    for name in lists.names:
        if folded(name) not in manual:
            findings.problem("missing manual name", name)
        elif manual[folded(name)] not in row_of:
            findings.problem("missing class embedding", f"{name} ({manual[folded(name)]!r})")
        else:
            own.append(row_of[manual[folded(name)]])
    return own
