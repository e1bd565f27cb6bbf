"""Imports the caches of the published loader: the samples of several splits in one pickle.

``cache_files.py`` reads one. Class lists decide which class is in which split of a cache. Samples of classes
in none of its splits are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.groups import made_up_id
from benchmark.data.importing.cache_files import CachedSamples, read_cache
from benchmark.data.importing.class_files import ClassContent, check_ids, check_sequences, sorted_content
from benchmark.data.importing.class_lists import ClassLists
from benchmark.data.importing.findings import FindingLog
from benchmark.data.importing.importing import ImportPlan, Layout
from benchmark.data.importing.staging import StagedClass, Staging
from benchmark.data.store import MODALITIES
from benchmark.system.files import SourceFile, fingerprint
from benchmark.untrusted.pickles import UnreadableFile, unreadable


class Cached(Layout):
    """The caches of a feature set with its own layout. One cache is in memory at a time."""

    importer = "published caches"

    def __init__(self, plan: ImportPlan, lists: ClassLists, findings: FindingLog) -> None:
        super().__init__(plan, lists, findings)
        assert plan.places.own is not None  # only such a feature set has this form
        self._root = plan.places.root
        self._folder = self._root / plan.places.own.cache
        self._splits = plan.places.own.cache_files
        for name, splits in self._splits.items():
            if not (self._folder / name).is_file():
                findings.problem("missing cache", f"{self._shown(self._folder / name)} ({', '.join(splits)})")

    def _shown(self, path: Path) -> str:
        return self.plan.places.shown(path)

    def is_source_of(self, provenance: Mapping[str, Any]) -> bool:
        caches = [self._folder / name for name in self._splits]
        return self.is_recorded(provenance["files"], [*self.list_files, *caches])

    def header(self) -> dict[str, Any]:
        """The sample lists decide which names are usable, so they decide what is staged too."""
        listed = [fingerprint(path, self._root).sha256 for path in self.list_files]
        return {"card": self.plan.card.name, "form": "cache", "source": self._root.name, "lists": listed}

    def read(self, staging: Staging) -> list[StagedClass]:
        staged: list[StagedClass] = []
        for done, (name, splits) in enumerate(self._splits.items()):
            self.plan.progress("reading caches", done, len(self._splits))
            if (self._folder / name).is_file():
                staged += self._read_cache(self._folder / name, splits, staging)
        self.plan.progress("reading caches", len(self._splits), len(self._splits))
        return staged

    def _read_cache(self, path: Path, splits: Sequence[str], staging: Staging) -> list[StagedClass]:
        # Classes of the cache that an earlier import has read.
        wanted = [(split, label) for split in splits for label in self.lists.splits[split].classes]
        names = self.lists.names
        entries = {
            (split, label): staging.current(split, names[label], self._root, [path])
            for split, label in wanted
        }
        staged = [entry for entry in entries.values() if entry is not None]
        self.resumed += len(staged)
        for entry in staged:
            self._assign(entry, names.index(entry.name))
        if len(staged) == len(wanted):
            return staged

        # The others.
        try:
            source = fingerprint(path, self._root)
            cache = read_cache(path)
        except UnreadableFile as error:
            self.findings.unreadable(error, self._shown(path))
            return staged
        except Exception as error:  # unforeseen, or of the disk: the other caches are still read
            self.findings.unreadable(unreadable(path, error), self._shown(path))
            return staged
        self._check(path, cache, wanted)
        rows_of = _rows_by_label(cache.labels)
        for split, label in wanted:
            if entries[split, label] is None:
                content = self._class_content(path, cache, rows_of.get(label, []), split, label)
                if content is not None:
                    staged.append(staging.append(split, names[label], [source], content))
                    self._assign(staged[-1], label)
        return staged

    def _check(self, path: Path, cache: CachedSamples, wanted: Sequence[tuple[str, int]]) -> None:
        """Report class ids and class embeddings that do not fit the lists, and samples that are dropped."""
        shown, labels = self._shown(path), [label for _, label in wanted]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            what = f"{self.lists.names[label]} in two splits of {shown}, which does not separate them"
            self.findings.problem("class in two splits", what, "correct the class lists of the splits")
        unknown = sorted({label for label in cache.labels if not 0 <= label < len(self.lists.names)})
        if unknown:
            what = f"{shown}: class id {unknown[0]}, but there are {len(self.lists.names)} classes"
            fix = "give the lists and the table of class names that the cache was made with"
            self.findings.problem("lists of another dataset", what, fix)
        used = set(labels)
        dropped = sum(label not in used for label in cache.labels)
        if dropped:
            self.findings.note("samples of unlisted classes, dropped", f"{shown}: {dropped:,}", dropped)
        if self.plan.places.vectors is None and len(self.lists.vectors):
            text = cache.text
            same = len(text.vectors) == len(self.lists.vectors) and all(
                np.array_equal(*pair) for pair in zip(text.vectors, self.lists.vectors, strict=True)
            )
            if not same:
                fix = "give caches that were made together, or class files"
                what = f"{shown} has other class embeddings than the smallest cache"
                self.findings.problem("caches of different data", what, fix)

    def _class_content(
        self, path: Path, cache: CachedSamples, rows: Sequence[int], split: str, label: int
    ) -> ClassContent | None:
        """The samples of one class; None if there is a problem.

        They keep their names only if these are the listed ones. A cache has as many names as samples even if
        clips were dropped, so only the list shows that.
        """
        before, place = self.findings.problem_count, f"{split}/{self.lists.names[label]}"
        shown = f"{self._shown(path)}: {place}"
        if not rows:
            self.findings.problem("class without samples", shown)
            return None
        found = [cache.names[row] for row in rows]
        names = [name for name in found if name is not None]
        listed = [sample for sample, of in (self.lists.splits[split].samples or {}).items() if of == label]
        if sorted(names) != sorted(listed) or len(names) < len(found):
            names = [made_up_id(split, self.lists.names[label], i) for i in range(len(rows))]
        sequences, peaks = {}, {}
        for modality in MODALITIES:
            arrays = [cache.data[modality][row] for row in rows]
            sequences[modality], peaks[modality] = check_sequences(
                names, arrays, self.plan.dims[modality], "cache", f"{shown} ({modality})", self.findings
            )
        check_ids(dict.fromkeys(MODALITIES, names), shown, self.findings)
        if self.findings.problem_count > before:
            return None
        return sorted_content(names, sequences, peaks)

    def _assign(self, entry: StagedClass, label: int) -> None:
        """Give the samples their split and class. A name that another class has too is a problem."""
        for sample in entry.ids:
            if sample in self.samples:
                split, other = self.samples[sample]
                places = f"{split}/{self.lists.names[other]} and {entry.split}/{entry.name}"
                self.findings.problem("duplicate sample id", f"{sample} in {places}")
            self.samples.setdefault(sample, (entry.split, label))

    def records(self, sources: Sequence[SourceFile]) -> dict[str, Any]:
        lists = [fingerprint(path, self._root) for path in self.list_files]
        return {"files": [asdict(source) for source in (*lists, *dict.fromkeys(sources))]}


def _rows_by_label(labels: Sequence[int]) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return rows
