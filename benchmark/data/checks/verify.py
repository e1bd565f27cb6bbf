"""Checks a feature file on disk: whether it is consistent, and whether it fits the dataset config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmark.data.cards import Card
from benchmark.data.hdf5 import open_hdf5
from benchmark.data.importing.findings import Finding, FindingLog
from benchmark.data.importing.oddities import (
    NOT_UNIT,
    ODD_NORM,
    UNIT_TOLERANCE,
    ZEROS,
    unit_oddities,
    unusable_oddities,
    vector_oddities,
)
from benchmark.data.store import (
    BLOCK_BYTES,
    DEVELOPMENT_SPLITS,
    SPLITS,
    FeatureStore,
    Ints,
    Tables,
    content_digest,
)
from benchmark.errors import UsageError
from benchmark.system.files import raise_outside


def verify_store(path: Path, card: Card) -> list[Finding]:
    """Find everything that is wrong with a feature file; an empty list if nothing is.

    Recomputes both hashes and the temporal means. Looks for NaN and infinite values, duplicate samples,
    classes without samples, and labels outside their split. Counts other than the expected ones are notes.

    Raises:
        Unavailable: the feature file cannot be read for a reason outside its content.
    """
    findings = FindingLog(str(path))
    try:
        store = FeatureStore(path)
        tables = store.tables()
        _check_card(store, tables, card, findings)
        _check_samples(tables, findings)
        feature_set = card.features.get(store.features)
        text = unit_oddities(feature_set, tables.vector_names, tables.vectors) if feature_set else []
        for found in (*text, *unusable_oddities(store.unusable_names)):
            findings.note(found.kind, f"{found.place}: {found.what}", found.count)
        with open_hdf5(path) as f:
            _check_offsets(f, len(tables.ids), findings)
            if not findings.problem_count:
                unit = feature_set is not None and feature_set.unit_length
                _check_sequences(f, tables.ids, findings, unit=unit)
                _check_digests(f, store, tables, findings)
    except UsageError as error:
        findings.problem("unreadable feature file", str(error))
    except (OSError, MemoryError, KeyError, ValueError, IndexError, RuntimeError) as error:
        raise_outside(error, path)
        findings.problem("unreadable feature file", f"{path}: {error!s:.200}; import or build it again")
    return [*findings.problems, *findings.notes]


def _check_card(store: FeatureStore, tables: Tables, card: Card, findings: FindingLog) -> None:
    if store.dataset != card.name or store.features not in card.features:
        findings.problem(
            "another dataset",
            f"the file is of {store.dataset} ({store.features}), the dataset config of {card.name}",
        )
        return
    expected = card.features[store.features]
    dims = (("audio", store.audio_dim, expected.audio.dim), ("video", store.video_dim, expected.video.dim))
    for what, dim, wanted in (*dims, ("text", store.text_dim, expected.text_dim)):
        if dim != wanted:
            findings.problem("wrong dimension", f"{what}: {dim}, the config has {wanted}")
    for split in SPLITS:
        for what, n, counts in (
            ("classes", len(tables.class_splits[split]), expected.classes),
            ("samples", store.counts[split], expected.samples),
        ):
            if split in counts and n != counts[split]:
                findings.note(
                    "counts differ from the dataset config",
                    f"{split}: {n:,} {what}, the config has {counts[split]:,}",
                )


def _check_samples(tables: Tables, findings: FindingLog) -> None:
    for sample, count in Counter(tables.ids).items():
        if count > 1:
            findings.problem("duplicate sample id", f"{sample} ({count} times)")
    if len(tables.splits) and (
        int(tables.splits.max()) >= len(SPLITS) or bool(np.any(np.diff(tables.splits.astype(int)) < 0))
    ):
        findings.problem("samples out of order", "samples must be sorted by split, development splits first")
    if not np.isfinite(tables.vectors).all():
        findings.problem(
            "not a number or infinite",
            "class embeddings",
            fix="give other class embeddings and import it again",
        )
    known = range(len(tables.class_names))
    splits = {
        split: [label for label in ids.tolist() if label in known]
        for split, ids in tables.class_splits.items()
    }
    for odd in vector_oddities(
        tables.class_names, splits, tables.vector_names, tables.vectors, tables.own_vector.tolist()
    ):
        if odd.kind in (ZEROS, ODD_NORM):  # an audit reports the others
            findings.add(odd.severity, odd.kind, odd.what)
    for index, split in enumerate(SPLITS):
        found = set(tables.labels[tables.splits == index].tolist())
        listed = set(tables.class_splits[split].tolist())
        for label in sorted(listed - found):
            findings.problem("class without samples", f"{split}/{_name(tables, label)}")
        for label in sorted(found - listed):
            findings.problem("label outside its split", f"{split}/{_name(tables, label)}")


def _name(tables: Tables, label: int) -> str:
    return tables.class_names[label] if 0 <= label < len(tables.class_names) else f"class id {label}"


def _check_offsets(f: h5py.File, n: int, findings: FindingLog) -> None:
    for modality in ("audio", "video"):
        group = f[modality]
        if len(group["means"]) != n:
            findings.problem("lengths do not fit", f"{modality}: {len(group['means'])} means for {n} samples")
        if "frames" not in group:
            continue
        offsets = group["offsets"][:]
        ends = len(offsets) == n + 1 and offsets[0] == 0 and offsets[-1] == len(group["frames"])
        if not ends or bool(np.any(np.diff(offsets) < 1)):
            findings.problem(
                "lengths do not fit", f"{modality}: offsets do not bound the sequence of each sample"
            )


def _check_sequences(f: h5py.File, ids: Sequence[str], findings: FindingLog, *, unit: bool) -> None:
    """Look for values that are not finite, and for means that are not those of the sequences.

    Args:
        f: the feature file.
        ids: of all samples.
        findings: gets them.
        unit: whether time steps should be of length 1.
    """
    for modality in ("audio", "video"):
        means = f[modality]["means"]
        for start, stop, values, recomputed, furthest in _sample_blocks(f[modality], len(ids)):
            bad = ~np.isfinite(values)
            for i in np.flatnonzero(unit & (furthest > UNIT_TOLERANCE)):
                what = f"{modality}: {ids[start + int(i)]}, {furthest[i]:.2g} from it"
                findings.note(NOT_UNIT, what)
            for i in np.flatnonzero(bad):
                findings.problem("not a number or infinite", f"{modality}: {ids[start + int(i)]}")
            written = means[start:stop]
            close = np.isclose(written, recomputed, rtol=1e-4, atol=1e-5).all(1)
            for i in np.flatnonzero(~close & ~bad):
                findings.problem("means do not fit the sequences", f"{modality}: {ids[start + int(i)]}")


def _sample_blocks(group: h5py.Group, n: int) -> Iterator[tuple[int, int, Any, Any, Any]]:
    """Yield runs of samples: first, end; for each a value that is finite if all values are, its mean, and the
    largest difference of a time step's length from 1."""
    dim = group["means"].shape[1]
    offsets: Ints = group["offsets"][:] if "frames" in group else np.arange(n + 1, dtype=np.int64)
    data = group["frames" if "frames" in group else "means"]
    start = 0
    while start < n:
        stop = int(np.searchsorted(offsets, offsets[start] + BLOCK_BYTES // (dim * 8), side="right")) - 1
        stop = min(n, max(start + 1, stop))
        block = data[offsets[start] : offsets[stop]]
        bounds = offsets[start:stop] - offsets[start]
        with np.errstate(invalid="ignore", over="ignore"):
            sums = np.add.reduceat(block, bounds, axis=0, dtype=np.float64)
            lengths = np.sqrt(np.einsum("td,td->t", block, block, dtype=np.float64))
            furthest = np.maximum.reduceat(np.abs(lengths - 1), bounds)
        yield start, stop, sums.sum(1), sums / np.diff(offsets[start : stop + 1])[:, None], furthest
        start = stop


def _check_digests(f: h5py.File, store: FeatureStore, tables: Tables, findings: FindingLog) -> None:
    development = int(np.searchsorted(tables.splits, len(DEVELOPMENT_SPLITS)))
    for what, recorded, n, splits in (
        ("content", store.digest, len(tables.ids), SPLITS),
        ("development", store.development_digest, development, DEVELOPMENT_SPLITS),
    ):
        found = content_digest(f, n, splits)
        if found != recorded:
            example = f"{what}: {found[:12]} computed, {recorded[:12]} recorded"
            findings.problem("hash differs", f"{example}; the file was changed after it was written")
