"""Turns an audit into sentences and tables, in percent. ``audit_files.py`` writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.data.checks.audit import Audit, Leak, MisalignedClass
from benchmark.data.checks.feature_statistics import FeatureStatistics
from benchmark.data.importing.places import UNION_SPLIT
from benchmark.data.store import DEVELOPMENT_SPLITS

EXAMPLES = 3
SHORT: Mapping[str | int | float | None, str] = {
    "stage_1_train": "train",
    "stage_1_val_seen": "val seen",
    "stage_1_val_unseen": "val unseen",
    UNION_SPLIT: "train + val",
    "stage_2_test_seen": "test seen",
    "stage_2_test_unseen": "test unseen",
}
"""What a terminal calls the splits."""
WORDS = {
    "stage_1_train": "training",
    "stage_1_val_seen": "validation-seen",
    "stage_1_val_unseen": "validation-unseen",
    "stage_2_test_seen": "test-seen",
    "stage_2_test_unseen": "test-unseen",
}
Value = str | int | float | None


@dataclass(frozen=True)
class AuditTable:
    """One table, with the name of its CSV file."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    screen: Mapping[str, str] | None = None
    """Columns that a terminal shows, with short headings; None for tables that are only in the files."""

    def cells(self) -> list[list[str]]:
        """Return the rows as text: thousands separated, percent with one decimal."""
        return [
            [cell(value, column) for value, column in zip(row, self.columns, strict=True)]
            for row in self.rows
        ]

    def numeric(self) -> list[bool]:
        """Return for each column whether it has only numbers."""
        columns = [[row[i] for row in self.rows] for i in range(len(self.columns))]
        return [
            any(v is not None for v in values) and not any(isinstance(v, str) for v in values)
            for values in columns
        ]

    def on_screen(self) -> AuditTable:
        """Return the table for a terminal: fewer columns, and short names of the splits."""
        wanted = self.screen or {}
        places = [i for i, column in enumerate(self.columns) if column in wanted]
        rows = [
            [SHORT.get(row[i], row[i]) if isinstance(row[i], str) else row[i] for i in places]
            for row in self.rows
        ]
        return AuditTable(self.name, [self.columns[i] for i in places], rows, wanted)

    def headings(self) -> list[str]:
        """Return the short heading of each column."""
        return [(self.screen or {}).get(column, column) for column in self.columns]


def _same(*columns: str) -> dict[str, str]:
    """Map columns to headings of the same names."""
    return {column: column for column in columns}


@dataclass(frozen=True)
class AuditSection:
    """One section: a heading, sentences with the main numbers, and tables."""

    title: str
    sentences: Sequence[str]
    tables: Sequence[AuditTable]


def cell(value: Value, column: str = "") -> str:
    """Return a value as a table shows it; ``-`` for None."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1f}" if column.endswith("(%)") else f"{value:.4g}"


def audit_title(audit: Audit) -> str:
    """Return ``UCF-GZSL (cls)``, or ``Synthetic (native, synthetic data)``."""
    generated = ", synthetic data" if audit.material.generated else ""
    return f"{audit.material.card.title} ({audit.material.features}{generated})"


def audit_sections(audit: Audit) -> list[AuditSection]:
    """Return all sections in order."""
    return [_alignment(audit), _leakage(audit), _oddities(audit), _counts(audit), _features(audit)]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _alignment(audit: Audit) -> AuditSection:
    title, found = "Class embeddings under the official assignment", audit.alignment
    if found.reason:
        return AuditSection(title, [_sentence(found.reason)], [])
    every, test = found.splits[:2]
    sentences = [
        f"{every.misaligned} of {every.classes} classes get the embedding of another class "
        f"({100 * every.share:.1f} %), among them {test.misaligned} of the {test.classes} test classes."
    ]

    # Errors that matter most: unseen classes, and their embeddings in training.
    unseen = [c for c in found.classes if "stage_2_test_unseen" in c.splits]
    if unseen:
        examples = "; ".join(_gets(c) for c in unseen[:EXAMPLES])
        sentences.append(f"Test-unseen classes: {examples}{'; ...' if len(unseen) > EXAMPLES else '.'}")
    lent = [
        c
        for c in found.classes
        if c.splits and "stage_2_test_unseen" in c.vector_of_splits and "stage_1_train" in c.splits
    ]
    if lent:
        sentences.append(
            f"Training classes that get the embedding of a test-unseen class: {len(lent)} ({_gets(lent[0])})."
        )
    screen = {"split": "classes of", **_same("classes", "misaligned", "share (%)")}
    shares = [(p.split, p.classes, p.misaligned, _percent(p.share)) for p in found.splits]
    rows = []
    for c in found.classes:
        splits = (", ".join(c.splits), ", ".join(c.vector_of_splits))
        rows.append((c.name, c.manual_name, c.vector_used, c.vector_of or None, c.cosine, *splits))
    named = ("class", "manual name", "vector used", "vector of class", "cosine")
    misaligned = AuditTable("misaligned", (*named, "splits", "splits of that class"), rows)
    alignment = AuditTable("alignment", tuple(screen), shares, screen)
    return AuditSection(title, sentences, [alignment, misaligned])


def _gets(found: MisalignedClass) -> str:
    return f'{found.name} gets "{found.vector_used}"'


def _against(splits: Sequence[str]) -> str:
    return UNION_SPLIT if tuple(splits) == DEVELOPMENT_SPLITS else ", ".join(splits)


def _leakage(audit: Audit) -> AuditSection:
    title, found, card = "Leakage between splits", audit.leakage, audit.material.card
    if found.reason:
        return AuditSection(title, [_sentence(found.reason)], [])

    # The headline is leakage into the test splits; then the rules.
    sentences = [
        _leak_sentence(leak)
        for leak in found.leaks
        if leak.split.startswith("stage_2") and len(leak.against) > 1
    ]
    unknown = sum(int(entry["samples"]) for entry in audit.material.unusable_names)
    if unknown:
        sentences.append(
            f"The source videos of {unknown:,} samples are unknown: their names are unusable, since clips of "
            "their class were dropped. More samples may share a source than are counted."
        )
    sentences.append(f"Same source: ids with the same first group of {card.grouping}")
    if card.overlap_seconds is not None:
        sentences.append(
            f"Overlapping seconds: clips of one source that start less than {card.overlap_seconds:g} s apart."
        )

    # One table of counts, and one with every sample that has relatives.
    rows = []
    for leak in found.leaks:
        place = (leak.rule, leak.split, _against(leak.against), leak.samples)
        rows.append((*place, *_leak_counts(leak), leak.unfit, _leak_example(leak)))
    listed = [
        (leak.rule, leak.split, _against(leak.against), s.sample, s.label, s.group, s.relatives, s.relative,
         s.relative_split, s.relative_label)
        for leak in found.leaks
        for s in leak.related
    ]  # fmt: skip
    shown = ("rule", "split", "against", "samples", "related", "share (%)", "same class", "sources")
    sample = ("sample", "class", "source", "relatives", "relative", "its split", "its class")
    tables = [
        AuditTable("leakage", (*shown, "unfit ids", "example"), rows, _same(*shown)),
        AuditTable("leaking_samples", (*shown[:3], *sample), listed),
    ]
    return AuditSection(title, sentences, tables)


def _leak_sentence(leak: Leak) -> str:
    how = "share their source with" if leak.rule == "same source" else "overlap in time with"
    example = f", such as {leak.related[0].sample} with {leak.related[0].relative}" if leak.related else ""
    share = (
        f"{len(leak.related):,} of {leak.samples:,} {WORDS[leak.split]} samples ({100 * leak.share:.1f} %)"
    )
    found = share if leak.known else f"Unknown how many of {leak.samples:,} {WORDS[leak.split]} samples"
    counts = {"of their ids": leak.unfit, "of the ids of training and validation": leak.unfit_others}
    misses = " and ".join(f"{count:,} {ids}" for ids, count in counts.items() if count)
    unfit = f"; the grouping rule does not match {misses}" if misses else ""
    return f"{found} {how} a training or validation sample{example}{unfit}."


def _leak_counts(leak: Leak) -> tuple[Value, ...]:
    """Return the counts of related samples, share in percent, of the same class, and of sources."""
    return (
        (len(leak.related), _percent(leak.share), leak.same_class, leak.groups) if leak.known else (None,) * 4
    )


def _leak_example(leak: Leak) -> str | None:
    return f"{leak.related[0].sample} and {leak.related[0].relative}" if leak.related else None


def _oddities(audit: Audit) -> AuditSection:
    problems = sum(found.severity == "problem" for found in audit.oddities)
    sentences = [f"{len(audit.oddities)} findings, {problems} of them problems."]
    if audit.material.from_lists is None:
        sentences.append(
            "Spellings and dropped samples are unknown: this file was imported before imports recorded their "
            "lists. Audit the lists with --from DIR, or import again with --force."
        )
    rows = [(found.severity, found.kind, found.place, found.count, found.what) for found in audit.oddities]
    columns = ("severity", "kind", "place", "count", "what")
    return AuditSection("Oddities", sentences, [AuditTable("oddities", columns, rows, _same(*columns))])


def _counts(audit: Audit) -> AuditSection:
    differing = [count.split for count in audit.counts if not count.as_expected]
    known = any(
        count.expected_classes is not None or count.expected_samples is not None for count in audit.counts
    )
    sentences = [
        "All counts match the dataset config." if known else "The dataset config has no expected counts."
    ]
    if differing:
        sentences = [f"Counts differ from the dataset config: {', '.join(differing)}."]
    dropped = sum(count.dropped or 0 for count in audit.counts if count.split != UNION_SPLIT)
    if dropped:
        sentences.append(
            f"{dropped:,} listed samples are dropped: their class is not a class of their split."
        )
    rows = []
    for c in audit.counts:
        counts = (c.classes, c.expected_classes, c.samples, c.expected_samples, c.dropped)
        rows.append((c.split, *counts, "" if c.as_expected else "differs"))
    columns = ("split", "classes", "expected classes", "samples", "expected samples", "dropped", "note")
    table = AuditTable("counts", columns, rows, {**_same(*columns), "note": ""})
    return AuditSection("Counts", sentences, [table])


def _features(audit: Audit) -> AuditSection:
    found = audit.statistics
    if found is None:
        return AuditSection(
            "Feature values", ["Unknown: lists have no features. Audit an imported feature file."], []
        )

    # Tables: values, lengths of sequences, and copies.
    tables = [_values(found)]
    if found.form == "sequences":
        tables.append(_lengths(found))
    copies = [(i, d.modality, s, split, label, "yes" if d.zero else "no")
              for i, d in enumerate(found.duplicates, 1)
              for s, split, label in zip(d.samples, d.splits, d.classes, strict=True)]  # fmt: skip
    tables.append(
        AuditTable("duplicates", ("group", "modality", "sample", "split", "class", "all zero"), copies)
    )
    return AuditSection("Feature values", _feature_sentences(found), tables)


def _values(found: FeatureStatistics) -> AuditTable:
    columns = (
        "split", "modality", "samples", "steps", "min", "max", "mean", "zeros (%)", "NaN", "infinite",
        "bad samples", "zero steps", "zero samples", "copies within split", "copies across splits", "example",
    )  # fmt: skip
    rows = [
        (p.split, p.modality, p.samples, p.steps if p.lengths else None, p.minimum, p.maximum, p.mean,
         _percent(p.zeros), p.nan, p.infinite, p.bad_samples, p.zero_steps, p.zero_samples,
         p.duplicates_within, p.duplicates_across,
         p.examples[0] if p.examples else None)
        for p in found.splits
    ]  # fmt: skip
    screen = {
        **_same("split", "modality", "min", "max", "mean", "zeros (%)", "NaN", "infinite", "zero steps"),
        "copies within split": "copies: within",
        "copies across splits": "across",
    }
    return AuditTable("features", columns, rows, screen)


def _lengths(found: FeatureStatistics) -> AuditTable:
    heads = ("min", "5 %", "median", "95 %", "max")
    steps, seconds = ([f"{head} [{unit}]" for head in heads] for unit in ("steps", "s"))
    rows: list[Sequence[Value]] = [
        [p.split, p.modality, *p.lengths, *p.seconds]
        for p in found.splits
        if p.lengths is not None and p.seconds is not None
    ]
    screen = {**_same("split", "modality"), **dict(zip([*steps, *seconds], [*heads, *heads], strict=True))}
    screen |= {steps[0]: "steps: min", seconds[0]: "seconds: min"}
    return AuditTable("lengths", ("split", "modality", *steps, *seconds), rows, screen)


def _feature_sentences(found: FeatureStatistics) -> list[str]:
    def of_modality(modality: str) -> str:
        splits = [p for p in found.splits if p.modality == modality]
        bad, zero = sum(p.bad_samples for p in splits), sum(p.zero_samples for p in splits)
        return f"{modality} {bad:,} and {zero:,}"

    sentences = [
        f"Statistics of {found.form}. Samples with values that are not finite, and samples of only zeros: "
        f"{of_modality('audio')}, {of_modality('video')}."
    ]
    if found.form == "means":
        sentences.append("The feature file has temporal means only, so there are no lengths.")
    for modality, words in (("both", "audio and video"), ("audio", "audio"), ("video", "video")):
        groups = [d for d in found.duplicates if d.modality == modality]
        if groups:
            first = max(groups, key=lambda d: (len(set(d.splits)) > 1, not d.zero))
            samples = sum(len(d.samples) for d in groups)
            crossing = sum(len(set(d.splits)) > 1 for d in groups)
            sentences.append(
                f"Identical {words}: {samples:,} samples in {len(groups):,} groups, {crossing:,} across "
                f"splits; such as {first.samples[0]} and {first.samples[1]}."
            )
    if not found.duplicates:
        sentences.append("No two samples have the same content.")
    return sentences
