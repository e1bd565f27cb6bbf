"""Imports features into a feature file. Each layout of the source has its own subclass of ``Layout``."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np
from filelock import Timeout

from benchmark.data.cards import Card, FeatureSetConfig
from benchmark.data.groups import is_made_up
from benchmark.data.importing.class_lists import ClassLists, read_lists
from benchmark.data.importing.findings import Finding, FindingLog, ImportProblems
from benchmark.data.importing.oddities import (
    list_oddities,
    missing_oddities,
    unit_oddities,
    unusable_oddities,
)
from benchmark.data.importing.places import Form, ListPlaces
from benchmark.data.importing.staging import StagedClass, StagedSequences, Staging
from benchmark.data.store import (
    MODALITIES,
    SPLITS,
    DamagedStore,
    FeatureStore,
    ModalityContent,
    StoreContent,
    refuse_open_store,
    write_store,
)
from benchmark.errors import UsageError
from benchmark.system.files import (
    SourceFile,
    check_replaceable,
    file_lock,
    outside_reason,
    raise_outside,
    remove_partials,
    unchanged,
)

log = logging.getLogger(__name__)

IMPORTER_VERSION = 1
FLOAT16_MAX = float(np.finfo(np.float16).max)
RECORDS = ("files", "extracted", "list_oddities", "unusable_names")
"""What the provenance holds of the sources, besides the identity."""
Progress = Callable[[str, int, int], None]
Dtype = Literal["float32", "float16"]


class ImportOptions(TypedDict, total=False):
    """Options of every import.

    - ``dtype`` of the stored time steps (float32).
    - ``force``: import again even if the feature file is current.
    - ``generated``: mark the features as synthetic.
    - ``progress`` is called with (what, done, total).
    """

    dtype: Dtype
    force: bool
    generated: bool
    progress: Progress


@dataclass(frozen=True)
class ImportPlan:
    """What to import, from where and to which feature file. Fields with defaults are ``ImportOptions``."""

    card: Card
    features: str
    places: ListPlaces
    """Where the lists and word vectors are."""
    source: str
    """Where the features are, for messages."""
    target: Path
    """The feature file. ``<target>.import`` keeps what was read until the file is written."""
    form: Form
    dtype: Dtype = "float32"
    force: bool = False
    generated: bool = False
    progress: Progress = lambda what, done, total: None

    @property
    def feature_set(self) -> FeatureSetConfig:
        return self.card.features[self.features]

    @property
    def dims(self) -> dict[str, int]:
        return {"audio": self.feature_set.audio.dim, "video": self.feature_set.video.dim}


@dataclass(frozen=True)
class ImportedSplit:
    """Counts of one split: in its lists, in its files, and expected by the dataset config."""

    classes: int
    expected_classes: int | None
    listed: int | None
    """Listed samples of listed classes; None without a sample list."""
    dropped: int
    """Listed samples of unlisted classes."""
    found: int
    expected: int | None


@dataclass(frozen=True)
class ImportReport:
    """What an import did."""

    target: Path
    form: Form
    dtype: Dtype
    digest: str
    already: bool
    """The feature file was current: nothing was done."""
    resumed: int
    """Classes of splits, or extracted files, that an earlier, interrupted import had read."""
    splits: Mapping[str, ImportedSplit]
    notes: Sequence[Finding]


class Layout(ABC):
    """Finds and reads the features of one layout. ``import_store`` makes one after reading the lists.

    It calls the methods in the order in which they are defined here. All of them report to ``findings``.
    """

    importer: ClassVar[str]
    """Name of the layout in the provenance of a feature file."""

    def __init__(self, plan: ImportPlan, lists: ClassLists, findings: FindingLog) -> None:
        self.plan, self.lists, self.findings = plan, lists, findings
        self.resumed = 0
        """Classes or files that an earlier, interrupted import had read."""
        self.samples: dict[str, tuple[str, int]] = {}
        """Split and class id of each sample; complete after ``read``."""
        self.list_files = [path for path in lists.files if path.is_relative_to(plan.places.root)]

    def identity(self) -> dict[str, Any]:
        """Everything that decides the feature file, except the content of the source files."""
        plan = self.plan
        generated = plan.generated or plan.card.kind == "generated"
        return {
            "importer": self.importer,
            "importer_version": IMPORTER_VERSION,
            "form": plan.form,
            "source": plan.places.root.name,
            "dims": {**plan.dims, "text": plan.feature_set.text_dim},
            **base_identity(plan.card, plan.features, plan.dtype, generated, self.lists),
        }

    @abstractmethod
    def is_source_of(self, provenance: Mapping[str, Any]) -> bool:
        """Whether a feature file with this provenance was made from the source files as they are now."""

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """What decides the staged features besides importer, feature set and dimensions."""

    @abstractmethod
    def read(self, staging: Staging) -> list[StagedClass]:
        """Stage all features that are not staged yet, except those with problems, so that all are found."""

    @abstractmethod
    def records(self, sources: Sequence[SourceFile]) -> dict[str, Any]:
        """What the provenance keeps of the source files; ``is_source_of`` compares it."""

    def is_recorded(self, files: Sequence[Mapping[str, Any]], paths: Sequence[Path]) -> bool:
        """Whether these are the recorded files, with the same content."""
        root, recorded = self.plan.places.root, [SourceFile(**file) for file in files]
        same = [file.path for file in recorded] == [path.relative_to(root).as_posix() for path in paths]
        return same and all(unchanged(file, root) for file in recorded)


def base_identity(
    card: Card, features: str, dtype: Dtype, generated: bool, lists: ClassLists
) -> dict[str, Any]:
    """Return what the identities of imports and extractions share; ``store_content`` reads it."""
    given = {"word_vectors": lists.vectors_record} if lists.vectors_record else {}
    return {"card": card.name, "features": features, "dtype": dtype, "generated": generated, **given}


def import_store(
    plan: ImportPlan, layout_of: Callable[[ImportPlan, ClassLists, FindingLog], Layout]
) -> ImportReport:
    """Import features into a feature file. An import that was killed continues where it stopped.

    Args:
        plan: what to import.
        layout_of: makes the layout that finds and reads the features.

    Raises:
        ImportProblems: problems of the lists and files, all of them.
        UsageError: another import is running, or the disk is full.
    """
    findings = FindingLog(plan.source)
    with only_import(plan.target):
        # The lists decide which features are wanted; the layout looks for their files.
        lists = read_lists(plan.places, plan.feature_set.text_dim, findings)
        layout = layout_of(plan, lists, findings)

        # A current feature file needs no import.
        identity = layout.identity()
        store = (
            current_store(plan.target, identity) if not findings.problem_count and not plan.force else None
        )
        already = store is not None and layout.is_source_of(store.provenance)
        if store is None or not already:
            store = _import(layout, identity)
    text = unit_oddities(plan.feature_set, lists.vector_names, lists.vectors)
    for found in (*text, *unusable_oddities(store.unusable_names)):
        findings.note(found.kind, f"{found.place}: {found.what}", found.count)
    counts = _split_counts(plan.feature_set, lists, store.counts, findings)
    return ImportReport(
        plan.target, plan.form, plan.dtype, store.digest, already, layout.resumed, counts, findings.notes
    )


def _import(layout: Layout, identity: Mapping[str, Any]) -> FeatureStore:
    """Stage, check and write everything."""
    plan, findings = layout.plan, layout.findings
    common = {"importer": layout.importer, "importer_version": IMPORTER_VERSION, "features": plan.features}
    staging = Staging(
        plan.target.with_name(f"{plan.target.name}.import"), common | layout.header(), plan.dims
    )
    staged = layout.read(staging)

    # All problems are known only now; with any, nothing is written.
    for entry in staged if plan.dtype == "float16" else ():
        for modality in MODALITIES:
            peak = entry.modality(modality).peak
            if peak > FLOAT16_MAX:
                place = "/".join(filter(None, (entry.split, entry.name)))
                findings.problem(
                    "too large for float16", f"{modality} of {place}: {peak:g}, beyond {FLOAT16_MAX:g}"
                )
    if findings.problem_count:
        raise ImportProblems(findings)

    # Write the feature file atomically; only then are the staged features needless.
    oddities = [
        *list_oddities(layout.lists),
        *missing_oddities(layout.lists, Counter(layout.samples[id_] for e in staged for id_ in e.ids)),
    ]
    unusable = _unusable_names(layout, staged)
    provenance = {
        **identity,
        **layout.records([source for entry in staged for source in entry.sources]),
        "list_oddities": [asdict(found) for found in oddities],
        **({"unusable_names": unusable} if unusable else {}),
    }
    plan.progress("writing the feature file", 0, 1)
    write_store(plan.target, _staged_content(layout, staged, staging, provenance), plan.dtype)
    plan.progress("writing the feature file", 1, 1)
    staging.remove()
    return FeatureStore(plan.target)


def _unusable_names(layout: Layout, staged: Sequence[StagedClass]) -> list[dict[str, Any]]:
    """Split, class and number of samples with made-up ids, which ``FeatureStore.unusable_names`` returns."""
    counts = Counter(layout.samples[id_] for entry in staged for id_ in entry.ids if is_made_up(id_))
    return [
        {"split": split, "class": layout.lists.names[label], "samples": count}
        for (split, label), count in sorted(counts.items())
    ]


def _staged_content(
    layout: Layout, staged: Sequence[StagedClass], staging: Staging, provenance: Mapping[str, Any]
) -> StoreContent:
    """Staged samples in the order of a feature file: by split, then class id, then sample id."""
    # ``order`` has the positions of the samples among the staged ones.
    ids = [sample for entry in staged for sample in entry.ids]
    keys = [(SPLITS.index(layout.samples[sample][0]), layout.samples[sample][1], sample) for sample in ids]
    order = sorted(range(len(ids)), key=keys.__getitem__)

    def modality(name: str) -> ModalityContent:
        places = [entry.modality(name) for entry in staged]
        lengths = np.array([n for place in places for n in place.lengths], np.int64)[order]
        inside = (np.cumsum([place.start, *place.lengths])[:-1] for place in places)
        starts = np.array([start for rows in inside for start in rows], np.int64)[order]
        frames: Any = StagedSequences(staging, name, starts, lengths)  # read by slices, as an array
        if layout.plan.form == "means":
            return ModalityContent(layout.plan.dims[name], means=frames)
        return ModalityContent(
            layout.plan.dims[name], frames=frames, offsets=np.concatenate([[0], np.cumsum(lengths)])
        )

    samples = [(ids[i], *layout.samples[ids[i]]) for i in order]
    return store_content(layout.lists, provenance, samples, modality("audio"), modality("video"))


def store_content(
    lists: ClassLists,
    provenance: Mapping[str, Any],
    samples: Sequence[tuple[str, str, int]],
    audio: ModalityContent,
    video: ModalityContent,
) -> StoreContent:
    """The content of a feature file.

    Args:
        lists: classes and word vectors.
        provenance: what the file is made of; has ``base_identity``.
        samples: id, split and class id of each sample, in the order of the file.
        audio: features of the samples.
        video: the same.
    """
    return StoreContent(
        dataset=provenance["card"],
        features=provenance["features"],
        generated=provenance["generated"],
        class_names=lists.names,
        class_splits={split: lists.splits[split].classes for split in SPLITS},
        vector_names=lists.vector_names,
        vectors=lists.vectors,
        own_vector=lists.own_vector,
        ids=[sample for sample, _, _ in samples],
        labels=np.array([label for _, _, label in samples], np.int64),
        splits=np.array([SPLITS.index(split) for _, split, _ in samples], np.uint8),
        audio=audio,
        video=video,
        provenance=provenance,
    )


@contextmanager
def only_import(
    target: Path, room: str = "an import needs about twice the size of its class files"
) -> Iterator[None]:
    """Lock a feature file while it is written, and turn errors of the disk into errors with a fix.

    Args:
        target: the feature file.
        room: how much space it needs on the disk, for the message.

    Raises:
        UsageError: another import is running, the disk is full, or the target is a folder or broken link.
        Unavailable: another program has the file open for writing, or the disk fails in another way.
    """
    check_replaceable(target)
    refuse_open_store(target)
    try:
        with file_lock(target.with_name(f".{target.name}.import.lock"), timeout=0):
            remove_partials(target)
            yield
    except Timeout:
        raise UsageError(
            f"{target}: another import or extraction to this file is running; wait for it to end"
        ) from None
    except (OSError, MemoryError) as error:
        reason = outside_reason(error, target)
        if reason is not None and reason.kind == "full":
            raise UsageError(
                f"{target}: the disk is full; {room}. Make room and repeat the command: it continues"
            ) from None
        raise_outside(error, Path(getattr(error, "filename", None) or target))
        raise


def current_store(target: Path, identity: Mapping[str, Any]) -> FeatureStore | None:
    """The feature file, if its provenance equals this identity. ``RECORDS`` are not compared."""
    if not target.is_file():
        return None
    try:
        store = FeatureStore(target)
        store.provenance["importer"]
    except (DamagedStore, KeyError) as error:
        log.warning(
            "%s exists but is not a feature file of an importer (%s); it will be replaced", target, error
        )
        return None
    found = {key: value for key, value in store.provenance.items() if key not in RECORDS}
    return store if found == json.loads(json.dumps(identity)) else None


def _split_counts(
    feature_set: FeatureSetConfig, lists: ClassLists, found: Mapping[str, int], findings: FindingLog
) -> dict[str, ImportedSplit]:
    """Count each split. Fewer samples than listed, and counts other than the expected ones, are notes."""
    counts = {}
    for split in SPLITS:
        listing, n = lists.splits[split], found[split]
        listed = None if listing.samples is None else len(listing.kept())
        expected_classes, expected = feature_set.classes.get(split), feature_set.samples.get(split)
        dropped = len(listing.samples or {}) - (listed or 0)
        counts[split] = ImportedSplit(len(listing.classes), expected_classes, listed, dropped, n, expected)
        if listed is not None and n < listed:
            findings.note("fewer samples than listed", f"{split}: {n:,} of {listed:,}", listed - n)
        if expected is not None and (listed if listed is not None else n) != expected:
            findings.note(
                "counts differ from the dataset config",
                f"{split}: {listed or n:,} samples, the config has {expected:,}",
            )
        if expected_classes is not None and len(listing.classes) != expected_classes:
            example = f"{split}: {len(listing.classes)} classes, the config has {expected_classes}"
            findings.note("counts differ from the dataset config", example)
    return counts
