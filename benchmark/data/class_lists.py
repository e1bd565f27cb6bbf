"""The lists of the official layout: classes, parts, samples, word vectors, and how their names are joined.

Names are joined without regard to upper and lower case (``HandStandPushups`` and ``HandstandPushups`` are one class).
The id of a class is its index in the sorted ``all_class.txt``. No features are read here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark.data.cards import OfficialLayout
from benchmark.data.problems import ImportProblems, ProblemLog
from benchmark.data.store import DEVELOPMENT_PARTS, PARTS, Floats
from benchmark.data.unpickle import RefusedPickle, UnreadableFile, load_npy_dict
from benchmark.data.word_vectors import read_word_vectors, vectors_record

UNION_PART = "stage_2_train"


@dataclass
class PartList:
    """What the lists say of one part."""

    classes: list[int] = field(default_factory=list)
    """Sorted class ids of the ``.txt``, which decides."""
    samples: dict[str, int] | None = None
    """Sample id -> class id from the ``.csv``, unlisted classes included; None where there is no ``.csv``."""
    repeated: list[str] = field(default_factory=list)
    """Ids that the ``.csv`` lists more than once; the last row counts."""

    def kept(self) -> dict[str, int]:
        """Listed samples of listed classes."""
        listed = set(self.classes)
        return {sample: label for sample, label in (self.samples or {}).items() if label in listed}


@dataclass
class ClassLists:
    """All lists of a folder, with names turned into class ids."""

    names: list[str]
    """Sorted; the index is the class id."""
    parts: dict[str, PartList]
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
            label = by_name.get(name.casefold())
            if label is not None and name != self.names[label]:
                self.spellings.setdefault(name, []).append(place)


@dataclass(frozen=True)
class ListPlaces:
    """Where the lists of one feature set lie."""

    root: Path
    """The data set folder, which has ``class-split``."""
    features: str
    layout: OfficialLayout
    text_files: Sequence[Path]
    """Where the word vectors may lie, the preferred place first."""
    vectors: Path | None = None
    """File given for them instead, see ``word_vectors.py``."""

    @property
    def all_classes(self) -> Path:
        return self.root / "class-split" / "all_class.txt"

    def part(self, part: str, kind: str) -> Path:
        return self.root / "class-split" / f"{self.features}_split" / f"{part}.{kind}"

    def shown(self, path: Path) -> str:
        """A path as messages show it: relative to the data set folder, or in full where it lies elsewhere."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def list_files(self) -> list[Path]:
        """All list files that are there, word vectors included."""
        parts = [self.part(part, kind) for part in (*PARTS, UNION_PART) for kind in ("txt", "csv")]
        table = self.root / "class-split" / self.layout.names_file
        text = None if self.vectors else next((path for path in self.text_files if path.is_file()), None)
        files = [self.all_classes, table, *parts, *([text] if text else [])]
        return [path for path in files if path.is_file()]


def read_lists(places: ListPlaces, text_dim: int, problems: ProblemLog, notes: ProblemLog) -> ClassLists:
    """Read and join all lists of a feature set; faults go to ``problems``, oddities to ``notes``."""
    names = sorted(_lines(places, places.all_classes, problems))
    by_name = class_ids(names)
    for name in _repeated(names):
        problems.add("repeated class name", f"{places.shown(places.all_classes)}: {name}")
    lists = ClassLists(names, {}, places.list_files())
    for part in PARTS:
        lists.parts[part] = _read_part(places, part, lists, by_name, problems, notes)
    if places.part(UNION_PART, "txt").is_file():
        _check_union(places, _read_part(places, UNION_PART, lists, by_name, problems, notes), lists.parts, problems)
    _read_vectors(places, lists, text_dim, problems)
    return lists


def listed_samples(places: ListPlaces, lists: ClassLists, problems: ProblemLog) -> dict[str, tuple[str, int]]:
    """Listed sample of a listed class -> its part and class id; every part must have a list, and a sample stands in one."""
    found: dict[str, tuple[str, int]] = {}
    for part in PARTS:
        if lists.parts[part].samples is None:
            problems.add("missing sample list", places.shown(places.part(part, "csv")))
        for sample, label in lists.parts[part].kept().items():
            if sample in found:
                problems.add("duplicate sample id", f"{sample} in {found[sample][0]} and {part}")
            found.setdefault(sample, (part, label))
    return found


def manual_names(places: ListPlaces) -> list[str]:
    """The manual names of all classes, sorted: the names that word vectors have.

    Raises:
        ImportProblems: the class name table is missing or broken.
    """
    path = places.root / "class-split" / places.layout.names_file
    problems = ProblemLog()
    rows = None
    if path.is_file():
        rows = _table(places, path, ("original", "manual"), problems)
    else:
        problems.add("missing class list", places.shown(path))
    if rows is None:
        raise ImportProblems(str(places.root), list(problems))
    return sorted({manual for _, manual in rows})


def class_ids(names: Sequence[str]) -> dict[str, int]:
    """Folded name -> class id, of sorted names."""
    return {name.casefold(): i for i, name in enumerate(names)}


def _repeated(names: Iterable[str]) -> list[str]:
    counts = Counter(name.casefold() for name in names)
    return sorted(name for name, count in counts.items() if count > 1)


def _lines(places: ListPlaces, path: Path, problems: ProblemLog) -> list[str]:
    if not path.is_file():
        problems.add("missing class list", places.shown(path))
        return []
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        problems.add("unreadable file", f"{places.shown(path)}: {error}")
        return []


def _table(places: ListPlaces, path: Path, columns: Sequence[str], problems: ProblemLog) -> list[tuple[str, ...]] | None:
    """Rows of the named columns of a CSV file, None where it is broken; names contain commas, so only a parser will do."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return list(zip(*(table[column].str.strip() for column in columns), strict=True))
    except KeyError as error:
        problems.add("broken list", f"{places.shown(path)}: no column {error}")
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        problems.add("broken list", f"{places.shown(path)}: {error!s:.120}")
    return None


def _read_part(
    places: ListPlaces, part: str, lists: ClassLists, by_name: Mapping[str, int], problems: ProblemLog, notes: ProblemLog
) -> PartList:
    listed = _lines(places, places.part(part, "txt"), problems)
    for name in _repeated(listed):
        problems.add("repeated class name", f"{places.shown(places.part(part, 'txt'))}: {name}")
    lists.note_spellings(places.shown(places.part(part, "txt")), listed, by_name)
    found = PartList()
    found.classes = sorted({by_name[n.casefold()] for n in listed if _known(n, by_name, places, part, "txt", problems)})
    path = places.part(part, "csv")
    if not path.is_file():
        notes.add("no sample list", places.shown(path))
        return found
    rows = _table(places, path, ("filename", "label"), problems)
    if rows is None:
        return found
    lists.note_spellings(places.shown(path), (label for _, label in rows), by_name)
    found.repeated = sorted(sample for sample, count in Counter(sample for sample, _ in rows).items() if count > 1)
    unknown = Counter(label for _, label in rows if label.casefold() not in by_name)
    for label in unknown:
        _known(label, by_name, places, part, "csv", problems)
    found.samples = {sample: by_name[label.casefold()] for sample, label in rows if label not in unknown}
    dropped = len(found.samples) - len(found.kept())
    if dropped:
        notes.add("listed samples of unlisted classes, dropped", f"{part}: {dropped:,}", dropped)
    return found


def _known(name: str, by_name: Mapping[str, int], places: ListPlaces, part: str, kind: str, problems: ProblemLog) -> bool:
    if name.casefold() in by_name:
        return True
    problems.add("unknown class name", f"{places.shown(places.part(part, kind))}: {name!r}")
    return False


def _check_union(places: ListPlaces, union: PartList, parts: Mapping[str, PartList], problems: ProblemLog) -> None:
    """``stage_2_train`` is not read: it must be the union of the three parts that are."""
    development = [parts[part] for part in DEVELOPMENT_PARTS]
    classes = {c for part in development for c in part.classes}
    if classes != set(union.classes):
        example = f"{places.shown(places.part(UNION_PART, 'txt'))}: {len(classes ^ set(union.classes)):,} classes differ"
        problems.add("stage_2_train is not the union", example)
    if union.samples is None or any(part.samples is None for part in development):
        return
    samples = {item for part in development for item in part.kept().items()}
    differing = samples ^ set(union.kept().items())
    if differing:
        example = f"{places.shown(places.part(UNION_PART, 'csv'))}: {len(differing):,} samples differ"
        problems.add("stage_2_train is not the union", f"{example}, among them {min(differing)[0]}")


def _read_vectors(places: ListPlaces, lists: ClassLists, text_dim: int, problems: ProblemLog) -> None:
    """Word vectors sorted by manual name, and for each class the row of its own."""
    names_file = places.root / "class-split" / places.layout.names_file
    path = places.vectors or next((path for path in places.text_files if path.is_file()), None)
    if not names_file.is_file():
        problems.add("missing class list", places.shown(names_file))
    if path is None:
        problems.add("missing class list", f"word vectors: {' or '.join(map(places.shown, places.text_files))}")
    if path is None or not names_file.is_file():
        return
    rows = _table(places, names_file, ("original", "manual"), problems)
    vectors: Mapping[str, Floats]
    try:
        vectors = read_word_vectors(path, [manual for _, manual in rows or ()]) if places.vectors else load_npy_dict(path)
    except RefusedPickle as refusal:
        problems.add("refused pickle", f"{places.shown(path)}: {refusal.name}")
        return
    except UnreadableFile as error:
        kind = "unreadable word vectors" if places.vectors else "unreadable file"
        problems.add(kind, str(error).replace(str(path), places.shown(path)))
        return
    wrong = [name for name in sorted(vectors) if len(vectors[name]) != text_dim]
    for name in wrong:
        problems.add("wrong dimension", f"word vector {name!r}: {len(vectors[name])}, not {text_dim}")
    for name in sorted(vectors):
        if not np.isfinite(vectors[name]).all():
            problems.add("not a number or infinite", f"word vector {name!r}")
    lists.vector_names = sorted(vectors)
    lists.vectors_record = vectors_record(path, vectors) if places.vectors else None
    if vectors and not wrong:
        lists.vectors = np.stack([vectors[name] for name in lists.vector_names])
    if rows is not None:
        lists.note_spellings(places.shown(names_file), (original for original, _ in rows), class_ids(lists.names))
        lists.own_vector = _own_rows(lists, rows, problems)


def _own_rows(lists: ClassLists, rows: Iterable[tuple[str, ...]], problems: ProblemLog) -> list[int]:
    manual = {original.casefold(): name for original, name in rows}
    row_of = {name: row for row, name in enumerate(lists.vector_names)}
    own = []
    for name in lists.names:
        if name.casefold() not in manual:
            problems.add("missing manual name", name)
        elif manual[name.casefold()] not in row_of:
            problems.add("missing word vector", f"{name} ({manual[name.casefold()]!r})")
        else:
            own.append(row_of[manual[name.casefold()]])
    return own
