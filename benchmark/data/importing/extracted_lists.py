"""Import of what the published extraction scripts wrote, before it was split: into a feature store, split by the sample lists.

Two forms are read, in one file or many: lists of ``[video, class index, audio, file name]``, and SeLaVi's pickle of a video,
``[[video], [audio], [class index], [file name]]``. The lists of the official layout say which sample is in which split and
class; class indices are not used. All faults of all files are told at once; a killed import carries on, file by file or, where
they are small, by groups of files. What one file holds is in ``extracted_files.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.cards import Card, FeatureSetCard
from benchmark.data.importing.class_lists import ClassLists, listed_samples, read_lists
from benchmark.data.importing.extracted_files import Samples, read_file
from benchmark.data.importing.importing import (
    FLOAT16_MAX,
    Dtype,
    ImportReport,
    Progress,
    earlier_store,
    only_import,
    split_counts,
    write_staged,
)
from benchmark.data.importing.oddities import list_oddities
from benchmark.data.importing.places import ListPlaces, list_places
from benchmark.data.importing.problems import ImportProblems, ProblemLog
from benchmark.data.importing.staging import StagedClass, StagedFrames, Staging
from benchmark.data.store import MODALITIES, SPLITS, FeatureStore, ModalityContent, StoreContent
from benchmark.errors import UsageError
from benchmark.system.files import SourceFile, fingerprint, unchanged
from benchmark.system.reading import is_junk
from benchmark.untrusted.pickles import unreadable

IMPORTER_VERSION = 1
RECORDS = ("files", "extracted", "list_oddities")
"""What the provenance holds besides the plan's identity."""
GROUP_BYTES = 64 * 2**20
"""Small files are read, and named in the journal, together until they have this size."""


@dataclass(frozen=True)
class _Plan:
    """What is to be imported, from where, to where."""

    card: Card
    features: str
    feature_set: FeatureSetCard
    root: Path
    base: Path
    """Folder that the paths of the extracted files are relative to."""
    groups: Sequence[Sequence[Path]]
    target: Path
    dtype: Dtype
    generated: bool

    @property
    def dims(self) -> dict[str, int]:
        return {"audio": self.feature_set.audio.dim, "video": self.feature_set.video.dim}

    @property
    def files(self) -> list[Path]:
        return [path for group in self.groups for path in group]

    def shown(self, path: Path) -> str:
        return path.relative_to(self.base).as_posix()

    def identity(self, lists: ClassLists) -> dict[str, Any]:
        """All that decides the store besides the content of the files."""
        given = {"word_vectors": lists.vectors_record} if lists.vectors_record else {}
        return {
            **given,
            "importer": "extracted lists",
            "importer_version": IMPORTER_VERSION,
            "card": self.card.name,
            "features": self.features,
            "form": "sequences",
            "dtype": self.dtype,
            "generated": self.generated,
            "source": self.root.name,
            "dims": {**self.dims, "text": self.feature_set.text_dim},
            "vectors": _digest((name, x.tobytes().hex()) for name, x in zip(lists.vector_names, lists.vectors, strict=True)),
        }


def import_extracted(
    card: Card,
    features: str | None,
    source: Path,
    extracted: Path,
    target: Path,
    dtype: Dtype = "float32",
    progress: Progress | None = None,
    *,
    vectors: Path | None = None,
    force: bool = False,
    generated: bool = False,
) -> ImportReport:
    """Import extracted features, split by the lists of a folder in the official layout.

    Args:
        card: the data set; its dimensions are checked, its counts compared.
        features: feature set (``cls``, ``main``); None for the card's default one.
        source: the data set folder (``.../UCF``), which has ``class-split``, or its parent.
        extracted: a file, or a folder all of whose files at any depth are read but for hidden ones.
        target: the store to write. ``<target>.import`` beside it keeps what was read until the store is written.
        dtype: of the stored frames.
        progress: called with (what, done, total).
        vectors: file of the word vectors, see ``word_vectors.py``; those of the layout are looked for if None.
        force: import again even where the store is there and its sources have not changed.
        generated: mark the store as holding generated data.

    Raises:
        ImportProblems: faults of the lists and files, all of them.
        UsageError: no such file, folder or feature set, another import is running, or the disk is full.
    """
    name, feature_set = card.feature_set(features)
    places = list_places(card, name, source, vectors)
    base, groups = _groups(extracted)
    plan = _Plan(card, name, feature_set, places.root, base, groups, target, dtype, generated or card.kind == "generated")
    with only_import(target):
        return _import(plan, places, progress or (lambda what, done, total: None), force)


def _groups(extracted: Path) -> tuple[Path, list[list[Path]]]:
    """The folder of the files, and the files in the order of their paths, small ones together."""
    if not extracted.exists():
        raise UsageError(f"--extracted {extracted}: no such file or folder; give what the extraction scripts wrote")
    base = (extracted if extracted.is_dir() else extracted.parent).resolve()
    files = [extracted.resolve()] if extracted.is_file() else sorted(path for path in base.rglob("*") if path.is_file())
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
        raise UsageError(f"--extracted {extracted}: holds no files; give the folder of the pickles, or one of them")
    return base, groups


def _import(plan: _Plan, places: ListPlaces, progress: Progress, force: bool) -> ImportReport:
    problems, notes = ProblemLog(), ProblemLog()
    lists = read_lists(places, plan.feature_set.text_dim, problems, notes)
    samples = listed_samples(places, lists, problems)
    if not problems and not force:
        store = _already(plan, lists)
        if store is not None:
            counts = split_counts(plan.feature_set, lists, list(store.counts.values()), notes)
            return ImportReport(plan.target, "sequences", plan.dtype, store.digest, True, 0, counts, list(notes))
    staging = Staging(plan.target.with_name(f"{plan.target.name}.import"), _header(plan, samples), plan.dims)
    reading = _Reading(plan, samples, staging, problems, notes)
    staged = reading.all(progress)
    _check(plan, lists, staged, reading.seen, samples, problems)
    counts = split_counts(
        plan.feature_set, lists, [sum(samples[s][0] == split for s in reading.seen) for split in SPLITS], notes
    )
    if problems:
        raise ImportProblems(f"{plan.base}, lists of {plan.root}", list(problems))
    digest = write_staged(plan.target, _content(plan, lists, staged, staging, samples), plan.dtype, staging, progress)
    return ImportReport(plan.target, "sequences", plan.dtype, digest, False, reading.resumed, counts, list(notes))


def _header(plan: _Plan, samples: Samples) -> dict[str, Any]:
    """All that decides what is staged: the lists too, since samples that they do not name are left out."""
    listed = hashlib.sha256(json.dumps(sorted(samples.items())).encode()).hexdigest()
    return {"importer": "extracted lists", "importer_version": IMPORTER_VERSION, "features": plan.features, "samples": listed}


class _Reading:
    """Reads groups of files into the staging; ``seen`` has the file of each listed sample that was met, faulty or not."""

    def __init__(self, plan: _Plan, samples: Samples, staging: Staging, problems: ProblemLog, notes: ProblemLog) -> None:
        self.plan, self.samples, self.staging, self.problems, self.notes = plan, samples, staging, problems, notes
        self.seen: dict[str, str] = {}
        self.resumed = 0
        """Files that an earlier import had read."""

    def all(self, progress: Progress) -> list[StagedClass]:
        """Every group that has no fault."""
        staged, done = [], 0
        for group in self.plan.groups:
            progress("reading files", done, len(self.plan.files))
            entry = self._group(group)
            staged += [entry] if entry else []
            done += len(group)
        progress("reading files", done, done)
        return staged

    def _group(self, group: Sequence[Path]) -> StagedClass | None:
        name = self.plan.shown(group[0])
        entry = self.staging.current("", name, self.plan.base, group)
        if entry is not None:
            for sample in entry.ids:
                self._see(sample, name, self.problems)
            self.resumed += len(group)
            return entry
        faults, sources = ProblemLog(), []
        with self.staging.appending() as appender:
            for path in group:
                place = self.plan.shown(path)
                try:
                    sources.append(fingerprint(path, self.plan.base))
                except OSError as error:
                    faults.add_unreadable(unreadable(path, error), place)
                    continue
                read_file(path, place, self.samples, self.plan.dims, self._see, appender.add, faults, self.notes)
            self.problems.extend(faults)
            return None if faults else appender.commit("", name, sources)

    def _see(self, sample: str, place: str, faults: ProblemLog) -> bool:
        """Take down where a sample stands; False where it stands elsewhere too."""
        if sample in self.seen:
            faults.add("duplicate sample id", f"{sample} in {self.seen[sample]} and {place}")
            return False
        self.seen[sample] = place
        return True


def _check(
    plan: _Plan,
    lists: ClassLists,
    staged: Sequence[StagedClass],
    seen: Mapping[str, str],
    samples: Samples,
    problems: ProblemLog,
) -> None:
    """What shows only across files: classes without a sample; and what float16 cannot hold."""
    found = {samples[sample] for sample in seen}
    for split in SPLITS:
        for label in lists.splits[split].classes:
            if (split, label) not in found:
                problems.add("class without samples", f"{split}/{lists.names[label]}")
    for entry in staged:
        for modality in MODALITIES:
            peak = entry.modality(modality).peak
            if plan.dtype == "float16" and peak > FLOAT16_MAX:
                problems.add("too large for float16", f"{modality} of {entry.name}: {peak:g}, beyond {FLOAT16_MAX:g}")


def _already(plan: _Plan, lists: ClassLists) -> FeatureStore | None:
    """The store, where it is there and made from these files as they are now."""
    store = earlier_store(plan.target, plan.identity(lists), "extracted", RECORDS)
    if store is None:
        return None
    files = [SourceFile(**recorded) for recorded in store.provenance["files"]]
    same = [f.path for f in files] == [path.relative_to(plan.root).as_posix() for path in _inside(plan, lists)]
    if not same or not all(unchanged(recorded, plan.root) for recorded in files):
        return None
    recorded = store.provenance["extracted"]
    stats = ((plan.shown(path), path.stat()) for path in plan.files)
    if recorded["stat"] == _digest((name, s.st_size, s.st_mtime_ns) for name, s in stats):
        return store
    now = (fingerprint(path, plan.base) for path in plan.files)
    return store if recorded["sha256"] == _digest((source.path, source.sha256) for source in now) else None


def _inside(plan: _Plan, lists: ClassLists) -> list[Path]:
    """The lists that were read. Word vectors beside the data set folder are not among them: the identity has their digest."""
    return [path for path in lists.files if path.is_relative_to(plan.root)]


def _digest(facts: Iterator[tuple[Any, ...]]) -> str:
    sha = hashlib.sha256()
    for fact in facts:
        sha.update(f"{' '.join(map(str, fact))}\n".encode())
    return sha.hexdigest()


def _content(plan: _Plan, lists: ClassLists, staged: Sequence[StagedClass], staging: Staging, samples: Samples) -> StoreContent:
    """Staged samples in the order of the store: by split, then class id, then sample id."""
    ids = [sample for entry in staged for sample in entry.ids]
    order = sorted(range(len(ids)), key=lambda i: (SPLITS.index(samples[ids[i]][0]), samples[ids[i]][1], ids[i]))
    ids = [ids[i] for i in order]

    def modality(name: str) -> ModalityContent:
        lengths = np.array([n for entry in staged for n in entry.modality(name).lengths], np.int64)
        inside = [np.cumsum([entry.modality(name).start, *entry.modality(name).lengths])[:-1] for entry in staged]
        starts, lengths = np.concatenate(inside)[order], lengths[order]
        frames: Any = StagedFrames(staging, name, starts.tolist(), (starts + lengths).tolist())  # read by slices, as an array
        return ModalityContent(plan.dims[name], frames=frames, offsets=np.concatenate([[0], np.cumsum(lengths)]))

    return StoreContent(
        dataset=plan.card.name,
        features=plan.features,
        generated=plan.generated,
        class_names=lists.names,
        class_splits={split: lists.splits[split].classes for split in SPLITS},
        vector_names=lists.vector_names,
        vectors=lists.vectors,
        own_vector=lists.own_vector,
        ids=ids,
        labels=np.array([samples[sample][1] for sample in ids], np.int64),
        splits=np.array([SPLITS.index(samples[sample][0]) for sample in ids], np.uint8),
        audio=modality("audio"),
        video=modality("video"),
        provenance={**plan.identity(lists), **_records(plan, lists, [s for entry in staged for s in entry.sources])},
    )


def _records(plan: _Plan, lists: ClassLists, sources: Sequence[SourceFile]) -> dict[str, Any]:
    """Files that were read; of the extracted ones their number and digests, since there may be a hundred thousand."""
    return {
        "files": [asdict(fingerprint(path, plan.root)) for path in _inside(plan, lists)],
        "extracted": {
            "count": len(sources),
            "bytes": sum(source.size for source in sources),
            "sha256": _digest((source.path, source.sha256) for source in sources),
            "stat": _digest((source.path, source.size, source.mtime_ns) for source in sources),
        },
        "list_oddities": [asdict(found) for found in list_oddities(lists)],
    }
