"""What is wrong with a folder, collected over all of it and told at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmark.errors import UsageError

EXAMPLES = 3

MENDS: dict[str, str] = {
    "refused pickle": "fetch it again from a source you trust; nothing of it was run",
    "unreadable file": "the file is truncated or damaged: fetch or extract it again",
    "missing class list": "take class-split/ from the published code bases",
    "missing sample list": "take class-split/ from the published code bases; the lists say which videos are wanted",
    "missing class file": "extract or fetch the features of that class, for both modalities",
    "ambiguous class file": "keep one of the files that differ in upper and lower case only",
    "unknown class name": "every name of a list must be in class-split/all_class.txt",
    "repeated class name": "name each class once; upper and lower case do not count",
    "missing manual name": "add the class to the class name table",
    "missing word vector": "the word vectors must have the manual name of each class; a fastText .bin makes them of any name",
    "broken list": "sample lists are CSV with the columns filename and label, the name table with original and manual",
    "stage_2_train is not the union": "stage_2_train must list what the three stage_1 parts list",
    "audio and video out of step": "both files of a class must hold the same samples in the same order",
    "wrong structure": "see the user guide for what a file holds",
    "averaged features": "these are temporal means: give the file of sequences, which the scripts call no_averaged",
    "wrong dimension": "these are not the features that the card names; check --features and the extractor",
    "wrong dtype": "features are floating point arrays, [steps, dim] in sequences and [samples, dim] in means",
    "not a number or infinite": "extract the sample again",
    "too large for float16": "import with --dtype float32",
    "empty sequence": "extract the sample again, or take it out of both class files",
    "class without samples": "extract or fetch the features of that class",
    "duplicate sample id": "a sample may stand once, in one part; take the others out",
    "unlisted sample": "take it out of both class files, or mend the sample list",
}


@dataclass(frozen=True)
class Problem:
    """One kind of fault: how often it occurs, up to ``EXAMPLES`` examples, and what mends it."""

    kind: str
    count: int
    examples: Sequence[str]
    mend: str = ""
    omitted: int = 0
    """Occurrences that are not among the examples; an occurrence may count many samples."""

    def __str__(self) -> str:
        shown = "; ".join(self.examples)
        more = f"; and {self.omitted:,} more" if self.omitted else ""
        mend = f"\n      mend: {self.mend}" if self.mend else ""
        return f"{self.kind} ({self.count:,}): {shown}{more}{mend}"


class ImportProblems(UsageError):
    """All faults of a folder. ``problems`` has one entry for each kind."""

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
    """Collects faults and notes by kind, in the order in which the kinds first appear."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """One occurrence of a fault, which may concern ``count`` things; the first few examples are kept."""
        entry = self._kinds.setdefault(kind, _Kind())
        entry.count += count
        entry.occurrences += 1
        if len(entry.examples) < EXAMPLES:
            entry.examples.append(example)

    def extend(self, other: ProblemLog) -> None:
        """Take over all that another log has."""
        for kind, theirs in other._kinds.items():
            entry = self._kinds.setdefault(kind, _Kind())
            entry.count += theirs.count
            entry.occurrences += theirs.occurrences
            entry.examples += theirs.examples[: EXAMPLES - len(entry.examples)]

    def __bool__(self) -> bool:
        return bool(self._kinds)

    def __iter__(self) -> Iterator[Problem]:
        for kind, found in self._kinds.items():
            omitted = found.occurrences - len(found.examples)
            yield Problem(kind, found.count, tuple(found.examples), MENDS.get(kind, ""), omitted)
