"""Audits a dataset: misaligned class embeddings, leakage between splits, odd lists, counts, feature values.

An audit reads a feature file, or only the lists of the official layout. It changes nothing, and findings are
not errors. ``audit_report.py`` turns them into sentences and tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark.data.cards import Card
from benchmark.data.checks.feature_statistics import FeatureStatistics, feature_statistics
from benchmark.data.groups import Origin, is_made_up, origin_rule, relatives
from benchmark.data.importing.class_lists import read_lists
from benchmark.data.importing.findings import Finding, FindingLog, Severity
from benchmark.data.importing.importing import Progress
from benchmark.data.importing.oddities import (
    DROPPED,
    NOT_UNIT,
    ZEROS,
    SplitSamples,
    class_oddities,
    list_oddities,
    unit_oddities,
    unusable_oddities,
    vector_oddities,
)
from benchmark.data.importing.places import UNION_SPLIT, list_places
from benchmark.data.store import DEVELOPMENT_SPLITS, SPLITS, TEST_SPLITS, FeatureStore, Floats
from benchmark.errors import UsageError

COMPARED: Sequence[tuple[str, tuple[str, ...]]] = (
    ("stage_1_val_seen", ("stage_1_train",)),
    ("stage_1_val_unseen", ("stage_1_train",)),
    ("stage_2_test_seen", DEVELOPMENT_SPLITS),
    ("stage_2_test_unseen", DEVELOPMENT_SPLITS),
    ("stage_1_val_unseen", ("stage_1_val_seen",)),
    ("stage_2_test_unseen", ("stage_2_test_seen",)),
)
"""Evaluated splits and the training splits; then unseen splits and the seen ones evaluated with them."""
LeakRule = Literal["same source", "overlapping seconds"]


@dataclass(frozen=True)
class Material:
    """What is audited, from lists or from a feature file."""

    card: Card
    features: str
    source: str
    """The file or folder."""
    digest: str | None
    """Of the feature file; None for lists."""
    generated: bool
    class_names: Sequence[str]
    class_splits: Mapping[str, Sequence[int]]
    samples: Mapping[str, SplitSamples | None]
    """None for splits without a list of samples."""
    vector_names: Sequence[str]
    vectors: Floats
    """``[K, D_w]`` in the order of ``vector_names``; no rows if they could not be read."""
    own_vector: Sequence[int]
    from_lists: Sequence[Finding] | None
    """Findings about the lists; None for feature files without a record of them."""
    problems: Sequence[Finding] = ()
    """Problems of the lists that would stop an import."""
    text: Path | None = None
    """The file of the word vectors, if one was named."""
    unusable_names: Sequence[Mapping[str, Any]] = ()
    """``FeatureStore.unusable_names``: samples whose source videos are unknown."""


@dataclass(frozen=True)
class MisalignedClass:
    """A class that gets the embedding of another class under the official assignment."""

    name: str
    manual_name: str
    """Name of its own embedding."""
    vector_used: str
    """Name of the embedding that it gets."""
    vector_of: str
    """The class of that embedding; empty if it belongs to none."""
    splits: Sequence[str]
    vector_of_splits: Sequence[str]
    """Splits of the class whose embedding it gets."""
    cosine: float | None
    """Of its own embedding and the one that it gets; None if they could not be read."""


@dataclass(frozen=True)
class AlignedSplit:
    """Number of classes of a split that get the embedding of another class."""

    split: str
    classes: int
    misaligned: int

    @property
    def share(self) -> float:
        """Fraction of the classes of the split."""
        return self.misaligned / self.classes if self.classes else 0.0


@dataclass(frozen=True)
class AlignmentAudit:
    """The official class-to-embedding assignment, class by class."""

    reason: str
    """Why nothing is known; empty otherwise."""
    splits: Sequence[AlignedSplit]
    """All classes, those of the test splits, and each split."""
    classes: Sequence[MisalignedClass]


@dataclass(frozen=True)
class LeakingSample:
    """A sample with related samples (of the same source video) in other splits."""

    sample: str
    label: str
    group: str
    relatives: int
    relative: str
    """One of them, of the same class if possible; the one with the nearest start."""
    relative_split: str
    relative_label: str


@dataclass(frozen=True)
class Leak:
    """Samples of a split that are related to samples of other splits, by one rule."""

    rule: LeakRule
    split: str
    against: Sequence[str]
    samples: int
    related: Sequence[LeakingSample]
    unfit: int
    """Samples of the split whose ids the grouping rule does not match: their relatives are not found."""
    unfit_others: int
    """The same for the other splits."""
    known: bool
    """Whether the rule matches any id of the split and any of the others; otherwise relatives are unknown."""

    @property
    def share(self) -> float:
        """Fraction of the samples of the split."""
        return len(self.related) / self.samples if self.samples else 0.0

    @property
    def same_class(self) -> int:
        """Number of samples with a relative of the same class."""
        return sum(found.label == found.relative_label for found in self.related)

    @property
    def groups(self) -> int:
        """Number of sources of the samples with a relative."""
        return len({found.group for found in self.related})


@dataclass(frozen=True)
class LeakageAudit:
    """Leakage between splits by the grouping rule of the dataset config."""

    reason: str
    """Why nothing is known; empty otherwise."""
    leaks: Sequence[Leak]


@dataclass(frozen=True)
class SplitCount:
    """Counts of a split, and those that the dataset config expects; None if unknown."""

    split: str
    classes: int
    expected_classes: int | None
    samples: int | None
    expected_samples: int | None
    dropped: int | None
    """Listed samples of unlisted classes, which are not used."""

    @property
    def as_expected(self) -> bool:
        """Whether no known count differs from the dataset config."""
        pairs = ((self.classes, self.expected_classes), (self.samples, self.expected_samples))
        return all(found == wanted for found, wanted in pairs if found is not None and wanted is not None)


@dataclass(frozen=True)
class Audit:
    """All findings."""

    material: Material
    alignment: AlignmentAudit
    leakage: LeakageAudit
    oddities: Sequence[Finding]
    counts: Sequence[SplitCount]
    statistics: FeatureStatistics | None
    """None for lists, which have no features."""


def audit_store(card: Card, store: FeatureStore, progress: Progress | None = None) -> Audit:
    """Audit a feature file, including its feature values, which are read in blocks.

    Args:
        card: the dataset of the file.
        store: the file, of sequences or of means.
        progress: called with (what, samples done, samples in all).
    """
    recorded = store.provenance.get("list_oddities")
    if recorded is None and "importer" not in store.provenance:
        recorded = []  # built, not imported: no lists
    samples, tables = {}, store.tables()
    for index, split in enumerate(SPLITS):
        rows = np.flatnonzero(tables.splits == index)
        samples[split] = SplitSamples([tables.ids[int(row)] for row in rows], tables.labels[rows])
    material = Material(
        card=card,
        features=store.features,
        source=str(store.path),
        digest=store.digest,
        generated=store.generated,
        class_names=tables.class_names,
        class_splits={split: ids.tolist() for split, ids in tables.class_splits.items()},
        samples=samples,
        vector_names=tables.vector_names,
        vectors=tables.vectors,
        own_vector=tables.own_vector.tolist(),
        from_lists=None if recorded is None else [Finding(**found) for found in recorded],
        unusable_names=store.unusable_names,
    )
    feature_set = card.feature_set(store.features)[1]
    return _audit(
        material, feature_statistics(store, feature_set, progress or (lambda what, done, total: None))
    )


def audit_lists(card: Card, features: str | None, source: Path, text: Path | None = None) -> Audit:
    """Audit the lists of a folder in the official layout. No features are needed.

    Args:
        card: the dataset.
        features: feature set; None for the default of the dataset.
        source: the dataset folder (``.../UCF``) or its parent.
        text: file of the class embeddings, whole ones; looked for if None, see ``text_places``.

    Raises:
        UsageError: no such folder, feature set or file, or the folder has no lists of that feature set.
    """
    # Find the lists and the word vectors.
    name, feature_set = card.feature_set(features)
    if text is not None and not text.is_file():
        raise UsageError(f"--text {text}: no such file; give the .npy file of the class embeddings")
    places = list_places(card, name, source, None, text.resolve() if text is not None else None)
    root = places.root
    folder = places.split_file(SPLITS[0], "txt").parent
    if not folder.is_dir():
        raise UsageError(f"{root}: no lists of feature set {name!r}: looked for {places.shown(folder)}")

    # Read them; samples of unlisted classes are not used.
    findings = FindingLog("lists")
    lists = read_lists(places, feature_set.text_dim, findings)
    samples: dict[str, SplitSamples | None] = dict.fromkeys(SPLITS)
    for split, listing in lists.splits.items():
        if listing.samples is not None:
            kept = listing.kept()
            samples[split] = SplitSamples(list(kept), np.fromiter(kept.values(), np.int64, len(kept)))
    material = Material(
        card=card,
        features=name,
        source=f"lists of {source}",
        digest=None,
        generated=card.kind == "generated",
        class_names=lists.names,
        class_splits={split: listing.classes for split, listing in lists.splits.items()},
        samples=samples,
        vector_names=lists.vector_names,
        vectors=lists.vectors,
        own_vector=lists.own_vector,
        from_lists=list_oddities(lists),
        problems=[found for found in findings.problems if found.kind != ZEROS],  # vector_oddities finds those
        text=text,
    )
    return _audit(material, None)


def _audit(material: Material, statistics: FeatureStatistics | None) -> Audit:
    names, splits = material.class_names, material.class_splits
    oddities = [
        *material.problems,
        *(material.from_lists or ()),
        *unusable_oddities(material.unusable_names),
        *class_oddities(names, splits, material.samples),
        *vector_oddities(names, splits, material.vector_names, material.vectors, material.own_vector),
        *unit_oddities(material.card.features[material.features], material.vector_names, material.vectors),
    ]
    leakage, unfit = _leakage(material)
    oddities += [*unfit, *_not_unit(statistics)]
    return Audit(material, _alignment(material), leakage, oddities, _counts(material), statistics)


def _not_unit(statistics: FeatureStatistics | None) -> list[Finding]:
    """Find splits with time steps that are not of length 1, in feature sets whose time steps are."""
    return [
        Finding("note", NOT_UNIT, split.split, f"time steps of {split.modality}", split.not_unit)
        for split in (statistics.splits if statistics is not None else ())
        if split.not_unit
    ]


def _alignment(material: Material) -> AlignmentAudit:
    """Compare with the published loaders, which sort word vectors by name and give row k to class id k."""
    # Without all vectors or a published order there is nothing to compare.
    names, own = material.class_names, material.own_vector
    reason = ""
    if not material.card.published_order:
        reason = "no published order: each class gets its own embedding"
    elif not material.vector_names or len(own) != len(names):
        hint = f"named {material.text}" if material.text else "FILE names the file of the class embeddings"
        reason = f"some classes have no known class embedding, see the oddities; --text {hint}"
    elif len(material.vector_names) != len(names):
        reason = (
            f"{len(material.vector_names)} class embeddings for {len(names)} classes have no official order"
        )
    if reason:
        return AlignmentAudit(reason, [], [])

    # Class c gets row c. Equal vectors under two names do no harm.
    wrong = [c for c in range(len(names)) if own[c] != c and not _equal(material.vectors, own[c], c)]
    owner = {row: label for label, row in enumerate(own)}
    classes = []
    for label in wrong:
        rightful = owner.get(label)
        classes.append(
            MisalignedClass(
                names[label],
                material.vector_names[own[label]],
                material.vector_names[label],
                "" if rightful is None else names[rightful],
                _splits_of(material, label),
                () if rightful is None else _splits_of(material, rightful),
                _cosine(material.vectors, own[label], label),
            )
        )

    # Count them in all classes, the test classes and each split.
    sets = {"all classes": set(range(len(names)))}
    sets["test classes"] = {int(c) for split in TEST_SPLITS for c in material.class_splits[split]}
    sets |= {split: {int(c) for c in material.class_splits[split]} for split in SPLITS}
    splits = [AlignedSplit(split, len(ids), len(ids & set(wrong))) for split, ids in sets.items()]
    return AlignmentAudit("", splits, classes)


def _equal(vectors: Floats, row: int, other: int) -> bool:
    return len(vectors) > 0 and np.array_equal(vectors[row], vectors[other])


def _cosine(vectors: Floats, row: int, other: int) -> float | None:
    if not len(vectors):
        return None
    a, b = vectors[row].astype(np.float64), vectors[other].astype(np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else None


def _splits_of(material: Material, label: int) -> tuple[str, ...]:
    return tuple(split for split in SPLITS if label in material.class_splits[split])


def _leakage(material: Material) -> tuple[LeakageAudit, list[Finding]]:
    """Find the leaks of all compared splits, and the samples whose ids the grouping rule does not match."""
    card = material.card
    if card.grouping is None:
        return LeakageAudit("no grouping rule: add `grouping` to the dataset config", []), []
    origin = origin_rule(card)
    known = {split: samples for split, samples in material.samples.items() if samples is not None}
    origins = {split: [origin(sample) for sample in samples.ids] for split, samples in known.items()}

    # Ids that the rule does not match have unknown relatives. Made-up ids are found by unusable_oddities.
    unfit = []
    for split, samples in known.items():
        named = [pair for pair in zip(samples.ids, origins[split], strict=True) if not is_made_up(pair[0])]
        wrong = [sample for sample, found in named if not found.fits]
        if wrong:
            severity: Severity = "problem" if len(wrong) == len(named) else "note"
            kind = "ids that the grouping rule does not match"
            unfit.append(Finding(severity, kind, split, ", ".join(wrong[:3]), len(wrong)))

    # Compare each evaluated split with what is trained on, by each rule.
    rules: list[tuple[LeakRule, float | None]] = [("same source", None)]
    if card.overlap_seconds is not None:
        rules.append(("overlapping seconds", card.overlap_seconds))
    compared = [(split, against) for split, against in COMPARED if {split, *against} <= set(known)]
    leaks = []
    for rule, seconds in rules:
        for split, against in compared:
            found = relatives(origins[split], [o for other in against for o in origins[other]], seconds)
            leaks.append(_leak(material.class_names, rule, split, against, known, origins, found))
    return LeakageAudit("" if leaks else "no compared splits have lists of samples", leaks), unfit


def _leak(
    names: Sequence[str],
    rule: LeakRule,
    split: str,
    against: Sequence[str],
    known: Mapping[str, SplitSamples],
    origins: Mapping[str, Sequence[Origin]],
    related: Iterable[list[int]],
) -> Leak:
    """Make the leak of a split. ``related`` has the indices of each sample's relatives in ``against``."""
    samples = known[split]
    others = [(sample, other) for other in against for sample in known[other].ids]
    labels = np.concatenate([known[other].labels for other in against])
    leaking = []
    for sample, label, origin, indices in zip(
        samples.ids, samples.labels, origins[split], related, strict=True
    ):
        if indices:
            best = next((i for i in indices if labels[i] == label), indices[0])
            relative, other = others[best]
            leaking.append(
                LeakingSample(
                    sample, names[label], origin.group, len(indices), relative, other, names[labels[best]]
                )
            )
    fits = [
        [origin.fits for member in members for origin in origins[member]] for members in ((split,), against)
    ]
    some_fit = all(any(ids) or not ids for ids in fits)
    return Leak(
        rule, split, against, len(samples.ids), leaking, fits[0].count(False), fits[1].count(False), some_fit
    )


def _counts(material: Material) -> list[SplitCount]:
    expected = material.card.feature_set(material.features)[1]
    dropped: dict[str, int] | None = None
    if material.from_lists is not None:
        dropped = dict.fromkeys(SPLITS, 0)
        for found in material.from_lists:
            if found.kind == DROPPED:
                dropped[found.place] += found.count
    counts = []
    for split in (*SPLITS[: len(DEVELOPMENT_SPLITS)], UNION_SPLIT, *TEST_SPLITS):
        members = DEVELOPMENT_SPLITS if split == UNION_SPLIT else (split,)
        classes = {int(c) for member in members for c in material.class_splits[member]}
        found_samples = [
            None if (s := material.samples[member]) is None else len(s.ids) for member in members
        ]
        samples = None if None in found_samples else sum(n for n in found_samples if n is not None)
        counts.append(
            SplitCount(
                split, len(classes), expected.classes.get(split), samples, expected.samples.get(split),
                None if dropped is None else sum(dropped[member] for member in members),
            )
        )  # fmt: skip
    return counts
