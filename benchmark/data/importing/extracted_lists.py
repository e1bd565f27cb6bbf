"""The output of the published extraction scripts, before it was split; the sample lists split it.

The lists of the official layout give the split and class of each sample; class indices are not used.
``extracted_files.py`` reads one file and describes its two forms.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from benchmark.data.cards import Card
from benchmark.data.importing.class_lists import ClassLists, listed_samples
from benchmark.data.importing.extracted_files import read_file
from benchmark.data.importing.findings import FindingLog
from benchmark.data.importing.importing import ImportOptions, ImportPlan, ImportReport, Layout, import_store
from benchmark.data.importing.places import list_places
from benchmark.data.importing.staging import StagedClass, Staging
from benchmark.data.store import SPLITS
from benchmark.errors import UsageError
from benchmark.system.files import SourceFile, fingerprint
from benchmark.system.reading import is_junk
from benchmark.untrusted.pickles import unreadable

GROUP_BYTES = 64 * 2**20
"""Small files are read, and named in the journal, together until they have this size."""


def import_extracted(
    card: Card,
    features: str | None,
    source: Path,
    extracted: Path,
    target: Path,
    *,
    vectors: Path | None = None,
    **options: Unpack[ImportOptions],
) -> ImportReport:
    """Import extracted features, split by the lists of a folder in the official layout.

    Args:
        card: the dataset; its dimensions are checked, its counts compared.
        features: feature set (``cls``, ``main``); None for the default of the dataset.
        source: the dataset folder (``.../UCF``), which has ``class-split``, or its parent.
        extracted: a file, or a folder, of which all files at any depth are read, except hidden ones.
        target: the feature file to write.
        vectors: file of the word vectors, see ``word_vectors.py``; None to look for those of the layout.
        options: see ``ImportOptions``.

    Raises:
        ImportProblems: problems of the lists and files, all of them.
        UsageError: no such file, folder or feature set, one whose raw files are not read, another import is
            running, or the disk is full.
    """
    name, feature_set = card.feature_set(features)
    if feature_set.layout is not None:
        raise UsageError(
            f"--extracted: raw files of feature set {name!r} are not read; omit the option and give the "
            "folder of its class files or caches with --from"
        )
    places = list_places(card, name, source, vectors)
    base, groups = _groups(extracted)
    plan = ImportPlan(card, name, places, f"{base}, lists of {places.root}", target, "sequences", **options)
    return import_store(plan, partial(_Extracted, base=base, groups=groups))


def _groups(extracted: Path) -> tuple[Path, list[list[Path]]]:
    """The folder of the files, and the files in the order of their paths, small ones together."""
    if not extracted.exists():
        raise UsageError(
            f"--extracted {extracted}: no such file or folder; give what the extraction scripts wrote"
        )
    base = (extracted if extracted.is_dir() else extracted.parent).resolve()
    files = [extracted.resolve()]
    if not extracted.is_file():
        files = sorted(path for path in base.rglob("*") if path.is_file())
    groups: list[list[Path]] = []
    room = 0
    for path in files:
        if extracted.is_dir() and any(map(is_junk, path.relative_to(base).parts)):
            continue
        if room <= 0:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(path)
        room -= path.stat().st_size
    if not groups:
        raise UsageError(
            f"--extracted {extracted}: holds no files; give the folder of the pickles, or one of them"
        )
    return base, groups


class _Extracted(Layout):
    """Groups of files below the folder ``base``."""

    importer = "extracted lists"

    def __init__(
        self,
        plan: ImportPlan,
        lists: ClassLists,
        findings: FindingLog,
        base: Path,
        groups: Sequence[Sequence[Path]],
    ) -> None:
        super().__init__(plan, lists, findings)
        self._base, self._groups = base, groups
        self._files = [path for group in groups for path in group]
        self.samples = listed_samples(plan.places, lists, findings)
        self._seen: dict[str, str] = {}
        """Listed sample -> its file, whether or not the sample has a problem."""

    def _shown(self, path: Path) -> str:
        return path.relative_to(self._base).as_posix()

    def identity(self) -> dict[str, Any]:
        named = zip(self.lists.vector_names, self.lists.vectors, strict=True)
        return {**super().identity(), "vectors": _digest((name, x.tobytes().hex()) for name, x in named)}

    def is_source_of(self, provenance: Mapping[str, Any]) -> bool:
        if not self.is_recorded(provenance["files"], self.list_files):
            return False
        recorded, stats = provenance["extracted"], ((self._shown(path), path.stat()) for path in self._files)
        if recorded["stat"] == _digest((name, s.st_size, s.st_mtime_ns) for name, s in stats):
            return True
        now = (fingerprint(path, self._base) for path in self._files)
        return bool(recorded["sha256"] == _digest((source.path, source.sha256) for source in now))

    def header(self) -> dict[str, Any]:
        """The lists decide what is staged too, since samples that they do not name are omitted."""
        return {"samples": hashlib.sha256(json.dumps(sorted(self.samples.items())).encode()).hexdigest()}

    def read(self, staging: Staging) -> list[StagedClass]:
        staged, done = [], 0
        for group in self._groups:
            self.plan.progress("reading files", done, len(self._files))
            entry = self._read_group(group, staging)
            staged += [entry] if entry else []
            done += len(group)
        self.plan.progress("reading files", done, done)
        found = {self.samples[sample] for sample in self._seen}
        for split in SPLITS:
            for label in self.lists.splits[split].classes:
                if (split, label) not in found:
                    self.findings.problem("class without samples", f"{split}/{self.lists.names[label]}")
        return staged

    def _read_group(self, group: Sequence[Path], staging: Staging) -> StagedClass | None:
        name = self._shown(group[0])
        entry = staging.current("", name, self._base, group)
        if entry is not None:
            for sample in entry.ids:
                self._see(sample, name)
            self.resumed += len(group)
            return entry
        before, sources = self.findings.problem_count, []
        with staging.appending() as appender:
            for path in group:
                place = self._shown(path)
                try:
                    sources.append(fingerprint(path, self._base))
                except OSError as error:
                    self.findings.unreadable(unreadable(path, error), place)
                    continue
                read_file(path, place, self.samples, self.plan.dims, self._see, appender.add, self.findings)
            return None if self.findings.problem_count > before else appender.commit("", name, sources)

    def _see(self, sample: str, place: str) -> bool:
        """Record the file of a sample; False if another file or place has it too."""
        if sample in self._seen:
            self.findings.problem("duplicate sample id", f"{sample} in {self._seen[sample]} and {place}")
            return False
        self._seen[sample] = place
        return True

    def records(self, sources: Sequence[SourceFile]) -> dict[str, Any]:
        """Of the extracted files only their number and hashes, since there may be a hundred thousand."""
        return {
            "files": [asdict(fingerprint(path, self.plan.places.root)) for path in self.list_files],
            "extracted": {
                "count": len(sources),
                "bytes": sum(source.size for source in sources),
                "sha256": _digest((source.path, source.sha256) for source in sources),
                "stat": _digest((source.path, source.size, source.mtime_ns) for source in sources),
            },
        }


def _digest(facts: Iterator[tuple[Any, ...]]) -> str:
    sha = hashlib.sha256()
    for fact in facts:
        sha.update(f"{' '.join(map(str, fact))}\n".encode())
    return sha.hexdigest()
