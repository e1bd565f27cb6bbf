"""The lists of the official layout: classes, splits, samples, word vectors, and how their names are joined.

Names are joined without regard to upper and lower case (``HandStandPushups`` and ``HandstandPushups`` are one class), and to
how accents are encoded. Lists are read as UTF-8 and nothing else.
The id of a class is its index in the sorted ``all_class.txt``. No features are read here.
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
    """What the lists say of one split."""

    classes: list[int] = field(default_factory=list)
    """Sorted class ids of the ``.txt``, which decides."""
    samples: dict[str, int] | None = None
    """Sample id -> class id from the ``.csv``, unlisted classes included; None where there is no ``.csv``."""
    repeated: list[str] = field(default_factory=list)
    """Ids that the ``.csv`` lists more than once; the last row counts."""
    readable: bool = True
    """Whether both lists could be read, if they are there: nothing is concluded from one that could not."""

    def kept(self) -> dict[str, int]:
        """Listed samples of listed classes."""
        listed = set(self.classes)
        return {sample: label for sample, label in (self.samples or {}).items() if label in listed}


@dataclass
class ClassLists:
    """All lists of a folder, with names turned into class ids."""

    names: list[str]
    """Sorted; the index is the class id."""
    splits: dict[str, SplitList]
    files: list[Path]
    """The files that were read."""
    vector_names: list[str] = field(default_factory=list)
    vectors: Floats = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    own_vector: list[int] = field(default_factory=list)
    vectors_record: dict[str, Any] | None = None
    """What is known of the file that was given for the word vectors; it is not among ``files``."""
    spellings: dict[str, list[str]] = field(default_factory=dict)
    """Spelling that differs from the class's name in upper and lower case only -> the files that have it."""

    def note_spellings(self, place: str, found: Iterable[str], by_name: Mapping[str, int]) -> None:
        """Take down the spellings of a file that are not those of ``names``."""
        for name in sorted(set(found)):
            label = by_name.get(folded(name))
            if label is not None and name != self.names[label]:
                self.spellings.setdefault(name, []).append(place)


def read_lists(places: ListPlaces, text_dim: int, findings: FindingLog) -> ClassLists:
    """Read and join all lists of a feature set; problems and notes go to ``findings``."""
    found = _lines(places, places.all_classes, findings)
    names = sorted(found or ())
    by_name = class_ids(names)
    for name in _repeated(names):
        findings.problem("repeated class name", f"{places.shown(places.all_classes)}: {name}")
    lists = ClassLists(names, {}, places.list_files())
    unknown = findings if found is not None else FindingLog("")  # without the list of all classes, every name is unknown
    for split in SPLITS:
        lists.splits[split] = _read_split(places, split, lists, by_name, findings, unknown)
    if places.split_file(UNION_SPLIT, "txt").is_file():
        _check_union(places, _read_split(places, UNION_SPLIT, lists, by_name, findings, unknown), lists.splits, findings)
    _read_vectors(places, lists, text_dim, findings)
    return lists


def listed_samples(places: ListPlaces, lists: ClassLists, findings: FindingLog) -> dict[str, tuple[str, int]]:
    """Listed sample of a listed class -> its split and class id; every split must have a list, and a sample stands in one."""
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
    """The manual names of all classes, sorted: the names that word vectors have.

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
    """Folded name -> class id, of sorted names."""
    return {folded(name): i for i, name in enumerate(names)}


def _repeated(names: Iterable[str]) -> list[str]:
    counts = Counter(map(folded, names))
    return sorted(name for name, count in counts.items() if count > 1)


def _lines(places: ListPlaces, path: Path, findings: FindingLog) -> list[str] | None:
    """The lines of a list that are not empty; None where it cannot be read."""
    if not path.is_file():
        findings.problem("missing class list", places.shown(path))
        return None
    text = _text(places, path, findings)
    return None if text is None else [line.strip() for line in text.splitlines() if line.strip()]


def _text(places: ListPlaces, path: Path, findings: FindingLog) -> str | None:
    """The content of a list in UTF-8, with or without a byte order mark; None where it is not that."""
    try:
        raw = path.read_bytes()
    except (OSError, MemoryError) as error:
        findings.unreadable(unreadable(path, error), places.shown(path))
        return None
    foreign = known_kind(raw[:START_BYTES])
    if foreign is not None:
        findings.unreadable(another_kind(path, foreign, "save it as text, in a spreadsheet as CSV UTF-8"), places.shown(path))
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
    """What a text is that is not UTF-8: of two or four bytes a character, or of one, such as Latin-1."""
    wide = raw.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in raw[:START_BYTES]
    return "UTF-16 or UTF-32, as spreadsheets save it" if wide else f"{found}, as in Latin-1 or Windows-1252"


def _table(places: ListPlaces, path: Path, columns: Sequence[str], findings: FindingLog) -> list[tuple[str, ...]] | None:
    """Rows of the named columns of a CSV file, None where it is broken; names contain commas, so only a parser will do."""
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
    lines = _lines(places, places.split_file(split, "txt"), findings)
    listed = lines or []
    for name in _repeated(listed):
        findings.problem("repeated class name", f"{places.shown(places.split_file(split, 'txt'))}: {name}")
    lists.note_spellings(places.shown(places.split_file(split, "txt")), listed, by_name)
    found = SplitList(readable=lines is not None)
    found.classes = sorted({by_name[folded(n)] for n in listed if _known(n, by_name, places, split, "txt", unknown_names)})
    path = places.split_file(split, "csv")
    if not path.is_file():
        findings.note("no sample list", places.shown(path))
        return found
    rows = _table(places, path, ("filename", "label"), findings)
    if rows is None:
        found.readable = False
        return found
    lists.note_spellings(places.shown(path), (label for _, label in rows), by_name)
    found.repeated = sorted(sample for sample, count in Counter(sample for sample, _ in rows).items() if count > 1)
    unknown = Counter(label for _, label in rows if folded(label) not in by_name)
    for label in unknown:
        _known(label, by_name, places, split, "csv", unknown_names)
    found.samples = {sample: by_name[folded(label)] for sample, label in rows if label not in unknown}
    dropped = len(found.samples) - len(found.kept())
    if dropped and lines is not None:
        findings.note("listed samples of unlisted classes, dropped", f"{split}: {dropped:,}", dropped)
    return found


def _known(name: str, by_name: Mapping[str, int], places: ListPlaces, split: str, kind: str, findings: FindingLog) -> bool:
    if folded(name) in by_name:
        return True
    findings.problem("unknown class name", f"{places.shown(places.split_file(split, kind))}: {name!r}")
    return False


def _check_union(places: ListPlaces, union: SplitList, splits: Mapping[str, SplitList], findings: FindingLog) -> None:
    """``stage_2_train`` is not read: it must be the union of the three splits that are."""
    development = [splits[split] for split in DEVELOPMENT_SPLITS]
    if not all(split.readable for split in (union, *development)):
        return  # which is told already
    classes = {c for split in development for c in split.classes}
    if classes != set(union.classes):
        example = f"{places.shown(places.split_file(UNION_SPLIT, 'txt'))}: {len(classes ^ set(union.classes)):,} classes differ"
        findings.problem("stage_2_train is not the union", example)
    if union.samples is None or any(split.samples is None for split in development):
        return
    samples = {item for split in development for item in split.kept().items()}
    differing = samples ^ set(union.kept().items())
    if differing:
        example = f"{places.shown(places.split_file(UNION_SPLIT, 'csv'))}: {len(differing):,} samples differ"
        findings.problem("stage_2_train is not the union", f"{example}, among them {min(differing)[0]}")


def _read_vectors(places: ListPlaces, lists: ClassLists, text_dim: int, findings: FindingLog) -> None:
    """Word vectors sorted by manual name, and for each class the row of its own."""
    names_file = places.root / "class-split" / places.layout.names_file
    path = places.vectors or next((path for path in places.text_files if path.is_file()), None)
    if not names_file.is_file():
        findings.problem("missing class list", places.shown(names_file))
    if path is None:
        findings.problem("missing word vectors", f"looked for {' and '.join(map(places.shown, places.text_files))}")
    if path is None or not names_file.is_file():
        return
    rows = _table(places, names_file, ("original", "manual"), findings)
    read: Mapping[str, Floats]
    try:
        read = read_word_vectors(path, [manual for _, manual in rows or ()]) if places.vectors else load_npy_dict(path)
    except UnreadableFile as error:
        if places.vectors is not None and error.kind == "unreadable file":
            findings.problem("unreadable word vectors", f"{places.shown(path)}: {error.what}", fix=error.fix)
        else:
            findings.unreadable(error, places.shown(path))
        return
    vectors = {composed(name): vector for name, vector in read.items()}
    wrong = _check_vectors(vectors, text_dim, places.shown(path), findings)
    lists.vector_names = sorted(vectors)
    lists.vectors_record = vectors_record(path, vectors) if places.vectors else None
    if vectors and not wrong:
        lists.vectors = np.stack([vectors[name] for name in lists.vector_names])
    if rows is not None:
        lists.note_spellings(places.shown(names_file), (original for original, _ in rows), class_ids(lists.names))
        lists.own_vector = _own_rows(lists, rows, findings)
    if not wrong and len(lists.own_vector) == len(lists.names):
        for odd in odd_norms(lists.vector_names, lists.vectors):
            _tell_norm(lists, odd, findings)


def _check_vectors(vectors: Mapping[str, Floats], text_dim: int, shown: str, findings: FindingLog) -> bool:
    """Whether word vectors have another size than the card's, or values that are no finite numbers; tells of each."""
    wrong = False
    for name in sorted(vectors):
        if len(vectors[name]) != text_dim:
            wrong = True
            fix = f"give word vectors of {text_dim} numbers (--vectors FILE), or correct text_dim in the card"
            findings.problem("wrong dimension", f"word vector {name!r}: {len(vectors[name])}, not {text_dim}", fix=fix)
        elif not np.isfinite(vectors[name]).all():
            fix = f"correct these vectors in {shown}, or give another file (--vectors FILE)"
            findings.problem("not a number or infinite", f"word vector {name!r} (or beyond float32)", fix=fix)
    return wrong


def _tell_norm(lists: ClassLists, odd: OddNorm, findings: FindingLog) -> None:
    """A word vector of zeros is a problem if a class of a split has it; other odd norms are notes."""
    used = {label for split in lists.splits.values() for label in split.classes}
    classes = [lists.names[label] for label in sorted(used) if lists.own_vector[label] == odd.row]
    what = f"{odd.name!r} (classes: {', '.join(classes)})" if classes else f"{odd.name!r} (of no class)"
    if odd.is_zero and classes:
        findings.problem("word vector of zeros", f"{what}: norm {odd.norm:.2g}, {odd.usual:.2g} is usual")
    else:
        findings.note("word vector of an odd norm", f"{what}: norm {odd.norm:.2g}, {odd.usual:.2g} is usual")


def _own_rows(lists: ClassLists, rows: Iterable[tuple[str, ...]], findings: FindingLog) -> list[int]:
    manual = {folded(original): name for original, name in rows}
    row_of = {name: row for row, name in enumerate(lists.vector_names)}
    own = []
    for name in lists.names:
        if folded(name) not in manual:
            findings.problem("missing manual name", name)
        elif manual[folded(name)] not in row_of:
            findings.problem("missing word vector", f"{name} ({manual[folded(name)]!r})")
        else:
            own.append(row_of[manual[folded(name)]])
    return own
