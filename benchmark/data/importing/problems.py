"""What is wrong with a folder, collected over all of it and told at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmark.errors import UsageError
from benchmark.untrusted.pickles import UnreadableFile

EXAMPLES = 3

FIXES: dict[str, str] = {
    "missing HDF5 filter": "pip install hdf5plugin, or write the file again without it (h5repack -f GZIP=4 OLD NEW)",
    "missing class list": "take class-split/ from the published code bases",
    "missing sample list": "take class-split/ from the published code bases; the lists say which videos are wanted",
    "missing word vectors": "put the file there, or name one with --vectors FILE",
    "list that is not UTF-8": "save it as UTF-8 (in a spreadsheet: as CSV UTF-8)",
    "missing class file": "extract or fetch the features of that class, for both modalities",
    "ambiguous class file": "keep one of the files whose names differ in upper and lower case, or in accents' encoding, only",
    "unknown class name": "every name of a list must be in class-split/all_class.txt",
    "repeated class name": "name each class once; upper and lower case do not count",
    "missing manual name": "add the class to the class name table",
    "missing word vector": "the word vectors must have the manual name of each class; a fastText .bin makes them of any name",
    "word vector of zeros": "zeros give a class no meaning: give a vector of that name, or another file with --vectors FILE",
    "broken list": "lists are CSV with commas: samples in the columns filename and label, names in original and manual",
    "stage_2_train is not the union": "stage_2_train must list what the three stage_1 splits list",
    "audio and video out of step": "both files of a class must hold the same samples in the same order",
    "wrong structure": "see the user guide for what a file holds",
    "averaged features": "these are temporal means: give the file of sequences, which the scripts call no_averaged",
    "wrong dimension": "these are not the features that the card names; check --features and the extractor",
    "wrong dtype": "features are floating point arrays, [steps, dim] in sequences and [samples, dim] in means",
    "not a number or infinite": "extract the sample again",
    "too large for float32": "features are stored as float32: check the extractor, or scale them",
    "too large for float16": "import with --dtype float32",
    "empty sequence": "extract the sample again, or take it out of both class files",
    "class without samples": "extract or fetch the features of that class",
    "duplicate sample id": "a sample may stand once, in one split; take the others out",
    "unlisted sample": "take it out of both class files, or correct the sample list",
}
"""What fixes a problem of a kind, unless the problem itself knows better."""


@dataclass(frozen=True)
class Problem:
    """One kind of fault with one fix: how often it occurs, and up to ``EXAMPLES`` examples."""

    kind: str
    count: int
    examples: Sequence[str]
    fix: str = ""
    omitted: int = 0
    """Occurrences that are not among the examples; an occurrence may count many samples."""

    def __str__(self) -> str:
        shown = "; ".join(self.examples)
        more = f"; and {self.omitted:,} more" if self.omitted else ""
        fix = f"\n      fix: {self.fix}" if self.fix else ""
        return f"{self.kind} ({self.count:,}): {shown}{more}{fix}"


class ImportProblems(UsageError):
    """All faults of a folder. ``problems`` has one entry for each kind and fix."""

    def __init__(self, place: str, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        lines = "\n".join(f"  {n}. {problem}" for n, problem in enumerate(self.problems, 1))
        super().__init__(f"{place}: {len(self.problems)} kinds of problems; nothing was imported\n{lines}")


@dataclass
class _Kind:
    count: int = 0
    occurrences: int = 0
    examples: list[str] = field(default_factory=list)


class ProblemLog:
    """Collects faults and notes by kind and fix, in the order in which they first appear."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def add(self, kind: str, example: str, count: int = 1, fix: str | None = None) -> None:
        """One occurrence of a fault, which may concern ``count`` things; the first few examples are kept.

        Args:
            kind: names the fault.
            example: where it is, and what exactly.
            count: how many things it concerns.
            fix: what fixes it; None for what ``FIXES`` says of the kind.
        """
        entry = self._kinds.setdefault((kind, FIXES.get(kind, "") if fix is None else fix), _Kind())
        entry.count += count
        entry.occurrences += 1
        if len(entry.examples) < EXAMPLES:
            entry.examples.append(example)

    def add_unreadable(self, error: UnreadableFile, place: str) -> None:
        """A file that cannot be read, with the fix that fits."""
        self.add(error.kind, f"{place}: {error.what}", fix=error.fix)

    def extend(self, other: ProblemLog) -> None:
        """Take over all that another log has."""
        for key, theirs in other._kinds.items():
            entry = self._kinds.setdefault(key, _Kind())
            entry.count += theirs.count
            entry.occurrences += theirs.occurrences
            entry.examples += theirs.examples[: EXAMPLES - len(entry.examples)]

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __iter__(self) -> Iterator[Problem]:
        for (kind, fix), found in self._kinds.items():
            yield Problem(kind, found.count, tuple(found.examples), fix, found.occurrences - len(found.examples))
