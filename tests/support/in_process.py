"""Extraction in the process of the test: others take seconds to begin, and what a test replaces is not
replaced in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.data.importing.importing import Progress
from benchmark.extract.devices import ExtractionSpec
from benchmark.extract.extraction import Extracted, Shard, attempt, collect
from benchmark.extract.plan import Plan, Wanted
from benchmark.extract.results import Outcome


def extract_here(
    plan: Plan, shard: Shard, spec: ExtractionSpec, devices: Sequence[str], decoders: int, progress: Progress
) -> Extracted:
    """``extract_on``, one video after the other."""
    extractor = spec.build(devices[0])

    def work(videos: Sequence[Wanted], alone: bool) -> Iterator[tuple[Wanted, Outcome]]:
        return ((w, attempt(w, spec.videos, extractor, spec.results)) for w in videos)

    return collect(plan, shard, spec.results, progress, work)
