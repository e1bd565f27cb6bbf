"""Writes the feature file from the results of all videos."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.data.cards import Card
from benchmark.data.importing.importing import (
    FLOAT16_MAX,
    Dtype,
    base_identity,
    current_store,
    only_import,
    store_content,
)
from benchmark.data.importing.oddities import list_oddities
from benchmark.data.store import SPLITS, DamagedStore, FeatureStore, ModalityContent, write_store
from benchmark.errors import UsageError
from benchmark.extract.plan import Plan, ProblemRow, Wanted
from benchmark.extract.results import Outcome, ResultFolder, ResultSequences
from benchmark.system.files import fingerprint

ASSEMBLY_VERSION = 1


@dataclass(frozen=True)
class Assembled:
    """The feature file of an extraction."""

    digest: str
    already: bool
    """The file was current: it was made from the same results."""
    splits: Mapping[str, int]
    """Samples of each split."""
    rows: Sequence[ProblemRow]
    """Classes that have no sample left."""


def refuse_to_spoil(target: Path, generated: bool) -> None:
    """Check that a trial does not replace real features.

    Raises:
        UsageError: it would.
    """
    if not generated or not target.is_file():
        return
    try:
        real = not FeatureStore(target).generated
    except DamagedStore:
        return  # the file is replaced
    if real:
        raise UsageError(
            f"{target}: has real features, which a trial must not replace; give another --data-root"
        )


def assemble(
    plan: Plan,
    card: Card,
    features: str,
    results: ResultFolder,
    outcomes: Mapping[str, Outcome],
    target: Path,
    *,
    dtype: Dtype = "float32",
    generated: bool = False,
) -> Assembled:
    """Write the feature file of all samples that have features.

    Args:
        plan: the samples and lists.
        card: the dataset.
        features: name of the feature set.
        results: the features of each video.
        outcomes: sample id -> what became of its video.
        target: the feature file; unchanged if it is current.
        dtype: of the stored time steps.
        generated: mark the features as synthetic.

    Raises:
        UsageError: a split has no sample, a value is too large for float16, another process writes this file,
            or the disk is full.
    """
    # Each split needs samples; classes without any are only reported.
    kept = [w for w in plan.wanted if w.sample in outcomes and outcomes[w.sample].problem is None]
    counts = {split: sum(w.split == split for w in kept) for split in SPLITS}
    empty = [split for split, count in counts.items() if not count]
    if empty:
        raise UsageError(
            f"{target}: not written: {', '.join(empty)} would have no sample; extract more videos"
        )
    rows = _classes_without_samples(plan, kept)
    _check_range([outcomes[w.sample] for w in kept], dtype)
    provenance = _provenance(
        plan, card, features, results, [outcomes[w.sample] for w in kept], dtype, generated
    )

    def modality(name: str) -> ModalityContent:
        dim = results.identity["dims"][name]
        # read by slices, as an array
        frames: Any = ResultSequences(results, name, [outcomes[w.sample] for w in kept], dim)
        return ModalityContent(dim, frames=frames, offsets=frames.offsets)

    # A current feature file is not written again.
    with only_import(target, "the feature file takes as much as the results of its videos"):
        store = current_store(target, provenance)
        if store is None:
            samples = [(w.sample, w.split, w.label) for w in kept]
            records = {"list_oddities": [asdict(found) for found in list_oddities(plan.lists)]}
            content = store_content(
                plan.lists, provenance | records, samples, modality("audio"), modality("video")
            )
            write_store(target, content, dtype)
            return Assembled(FeatureStore(target).digest, False, counts, rows)
    return Assembled(store.digest, True, counts, rows)


def _check_range(outcomes: Sequence[Outcome], dtype: str) -> None:
    large = [o.sample for o in outcomes if dtype == "float16" and max((o.peaks or {}).values()) > FLOAT16_MAX]
    if large:
        raise UsageError(
            f"too large for float16: {len(large):,} samples, among them {large[0]}; give --dtype float32"
        )


def _classes_without_samples(plan: Plan, kept: Sequence[Wanted]) -> list[ProblemRow]:
    found = {(w.split, w.label) for w in kept}
    return [
        ProblemRow(f"{split}/{plan.lists.names[label]}", "", "class without samples", left_out=True)
        for split in SPLITS
        for label in plan.lists.splits[split].classes
        if (split, label) not in found
    ]


def _provenance(
    plan: Plan,
    card: Card,
    features: str,
    results: ResultFolder,
    outcomes: Sequence[Outcome],
    dtype: Dtype,
    generated: bool,
) -> dict[str, Any]:
    """Return what the file is made from; of the videos only number and hash, as there may be many."""
    sha = hashlib.sha256()
    for outcome in outcomes:
        cut = f" {outcome.span.start!r} {outcome.span.end!r}" if outcome.span else ""
        sha.update(f"{outcome.sample} {outcome.source.sha256}{cut}\n".encode())
    lists = [
        fingerprint(path, plan.root if path.is_relative_to(plan.root) else path.parent)
        for path in plan.lists.files
    ]
    return {
        "importer": "extract",
        "importer_version": ASSEMBLY_VERSION,
        **base_identity(card, features, dtype, generated, plan.lists),
        **results.identity,
        "without_sound": results.without_sound,
        "videos": {"count": len(outcomes), "sha256": sha.hexdigest()},
        "lists": [{"path": f.path, "sha256": f.sha256} for f in lists],
    }
