"""What is wrong with lists, features or a feature file, or worth knowing: collected and reported together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from benchmark.errors import UsageError
from benchmark.untrusted.pickles import UnreadableFile

EXAMPLES = 3
"""Number of examples of each kind that are kept."""
Severity = Literal["problem", "note"]

FIXES: dict[str, str] = {
    "missing HDF5 filter": "pip install hdf5plugin, or write it without that: h5repack -f GZIP=4 OLD NEW",
    "missing class list": "take class-split/ from the published code bases",
    "missing sample list": "take class-split/ from the published code bases; its lists name the videos",
    "missing class embeddings": "put the file there, or name one with --vectors FILE",
    "list that is not UTF-8": "save it as UTF-8 (in a spreadsheet: as CSV UTF-8)",
    "missing class file": "extract or fetch the features of that class, for both modalities",
    "ambiguous class file": "keep one of the files whose names differ only in case or encoding of accents",
    "unknown class name": "every name of a list must be in class-split/all_class.txt",
    "repeated class name": "name each class once; case does not matter",
    "missing manual name": "add the class to the class name table",
    "missing class embedding": "add a vector of the manual name; a fastText .bin makes them of any name",
    "class embedding of zeros": "zeros carry no meaning: give a vector, or another file with --vectors FILE",
    "broken list": "lists are CSV with commas: columns filename, label of samples; original, manual of names",
    "stage_2_train is not the union": "stage_2_train must list what the three stage_1 splits list",
    "audio and video out of step": "both files of a class must have the same samples in the same order",
    "wrong structure": "docs/reference/official-layout.md describes the content of each file",
    "averaged features": "these are temporal means: give the sequences, which the scripts call no_averaged",
    "wrong dimension": "the dataset config expects other features: check --features and the extractor",
    "wrong dtype": "features are floating point arrays: sequences [time steps, dim], means [samples, dim]",
    "not a number or infinite": "extract the sample again",
    "too large for float32": "features are stored as float32: check the extractor, or scale them",
    "too large for float16": "import with --dtype float32",
    "sequence in place of a vector": "this feature set has one vector per sample: check --features",
    "missing cache": "give all of them, or class files with their class embeddings",
    "empty sequence": "extract the sample again, or remove it from both class files",
    "class without samples": "extract or fetch the features of that class",
    "duplicate sample id": "a sample may occur once, in one split: remove the others",
    "unlisted sample": "remove it from both class files, or correct the sample list",
}
"""How to fix a problem of a kind, unless the caller gives a better fix."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong or worth knowing. Imports, audits and ``data verify`` report these.

    A ``problem`` stops an import and makes a feature file unfit for use. A ``note`` changes nothing.
    Feature files keep the findings of their lists, so new fields need defaults.
    """

    severity: Severity
    kind: str
    place: str
    """Split, file or folder."""
    what: str
    """The class, sample or name that it is about, or the first few examples."""
    count: int = 1
    """How many classes, samples or files it concerns."""
    fix: str = ""

    def __str__(self) -> str:
        fix = f"\n      fix: {self.fix}" if self.fix else ""
        return f"{self.kind} ({self.count:,}): {self.what}{fix}"


@dataclass
class _Kind:
    count: int = 0
    occurrences: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        omitted = self.occurrences - len(self.examples)
        return "; ".join(self.examples) + (f"; and {omitted:,} more" if omitted else "")


class FindingLog:
    """Collects findings by kind and fix, in the order of their first occurrence, in bounded memory.

    Args:
        place: folder or file that they are about.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.problem_count = 0
        """Occurrences of problems; a caller sees from an earlier value whether there are new ones."""
        self._unreadable: set[str] = set()
        self._kinds: dict[tuple[Severity, str, str], _Kind] = {}

    def add(
        self, severity: Severity, kind: str, example: str, count: int = 1, fix: str | None = None
    ) -> None:
        """Add one occurrence.

        Args:
            severity: of the finding.
            kind: names what is found.
            example: where it is, and what exactly.
            count: how many things it concerns.
            fix: how to fix it; None for the fix of the kind in ``FIXES``.
        """
        entry = self._kinds.setdefault((severity, kind, FIXES.get(kind, "") if fix is None else fix), _Kind())
        entry.count += count
        entry.occurrences += 1
        if len(entry.examples) < EXAMPLES:
            entry.examples.append(example)
        self.problem_count += severity == "problem"

    def problem(self, kind: str, example: str, fix: str | None = None) -> None:
        self.add("problem", kind, example, fix=fix)

    def note(self, kind: str, example: str, count: int = 1) -> None:
        self.add("note", kind, example, count)

    def unreadable(self, error: UnreadableFile, place: str) -> None:
        """Add a file that cannot be read, with the fix of its error; once, also if it is read again."""
        example = f"{place}: {error.what}"
        if example not in self._unreadable:
            self._unreadable.add(example)
            self.problem(error.kind, example, error.fix)

    @property
    def problems(self) -> list[Finding]:
        return self._of("problem")

    @property
    def notes(self) -> list[Finding]:
        return self._of("note")

    def _of(self, wanted: Severity) -> list[Finding]:
        return [
            Finding(severity, kind, self.place, str(found), found.count, fix)
            for (severity, kind, fix), found in self._kinds.items()
            if severity == wanted
        ]


class ImportProblems(UsageError):
    """All problems of an import. ``problems`` has a finding for each kind and fix."""

    def __init__(self, findings: FindingLog) -> None:
        self.problems = findings.problems
        lines = "\n".join(f"  {n}. {problem}" for n, problem in enumerate(self.problems, 1))
        super().__init__(
            f"{findings.place}: {len(self.problems)} kinds of problems; nothing was imported\n{lines}"
        )
