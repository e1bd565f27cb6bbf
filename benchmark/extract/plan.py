"""List what to extract: the samples of a dataset's lists, and the video of each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.data.cards import Card
from benchmark.data.importing.class_lists import ClassLists, listed_samples, read_lists
from benchmark.data.importing.findings import FindingLog, ImportProblems
from benchmark.data.importing.places import list_places
from benchmark.data.names import composed, folded
from benchmark.data.store import SPLITS
from benchmark.errors import UsageError
from benchmark.extract.media.segments import Rule, Span, annotated_segments, named_clips

VIDEO_FILES = frozenset(
    {".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".flv", ".wmv", ".mpg", ".mpeg", ".ts", ".3gp", ".ogv"}
)
"""Extensions of video files, in lower case."""
WHOLE_NAMES = ("{}", "v_{}")
"""How the files of whole videos are named, by video id."""
SHOWN = 3
"""How many further files of the same name are listed."""


@dataclass(frozen=True)
class ProblemRow:
    """A row of the table of problems."""

    sample: str
    file: str
    what: str
    left_out: bool
    """Whether the sample has no features because of it; else it has features all the same."""


@dataclass(frozen=True)
class Wanted:
    """A listed sample and its video."""

    sample: str
    split: str
    label: int
    video: Path
    span: Span | None = None
    """The seconds of the video that are the sample; None for the whole video."""


@dataclass
class Plan:
    """All samples of the lists; ``rows`` lists those without a video."""

    root: Path
    """The dataset folder, which has ``class-split``."""
    videos: Path
    lists: ClassLists
    listed: list[str] = field(default_factory=list)
    """All listed samples of listed classes."""
    wanted: list[Wanted] = field(default_factory=list)
    """In the order of a feature file: by split, class id, sample id."""
    rows: list[ProblemRow] = field(default_factory=list)


def make_plan(
    card: Card, features: str, videos: Path, source: Path, vectors: Path | None, segments: Path | None = None
) -> Plan:
    """Read the lists of a feature set and find the videos of their samples.

    A sample without its own video may be cut from a whole one, by ``segments`` or by its id.

    Args:
        card: the dataset.
        features: name of the feature set.
        videos: folder of the videos, searched at any depth; a video is named after its sample.
        source: folder in the official layout, of which ``class-split`` and the class embeddings are read.
        vectors: file of the class embeddings, see ``word_vectors.py``; None for those of the layout.
        segments: file of the segments of whole videos, see ``extract/media/segments.py``.

    Raises:
        ImportProblems: all faults of the lists.
        UsageError: a folder or sample list is missing, the segments cannot be read, or no sample has a video.
    """
    if not videos.is_dir():
        raise UsageError(f"--videos {videos}: no such folder")
    rule = annotated_segments(segments) if segments is not None else named_clips(card)
    places = list_places(card, features, source, vectors)
    root = places.root
    findings = FindingLog(str(root))
    lists = read_lists(places, card.features[features].text_dim, findings)
    listed_samples(places, lists, findings)
    if findings.problem_count:
        raise ImportProblems(findings)
    plan = Plan(root, videos.resolve(), lists)
    _find_videos(plan, rule)
    if not plan.wanted:
        raise UsageError(
            f"--videos {videos}: no video of {len(plan.rows):,} listed samples; name videos after samples "
            f"({plan.rows[0].sample}.mp4, in any folder), or cut clips of whole ones "
            "(docs/reference/extraction.md)"
        )
    return plan


def _find_videos(plan: Plan, rule: Rule | None) -> None:
    """Fill ``listed``, ``wanted`` and ``rows`` of the plan."""
    by_name = _video_files(plan.videos)
    by_folded: dict[str, list[Path]] = {}
    for name, paths in by_name.items():
        by_folded.setdefault(folded(name), []).extend(paths)

    def named(name: str) -> list[Path]:
        return by_name.get(name) or by_folded.get(folded(name), [])

    for split in SPLITS:
        for sample, label in sorted(
            plan.lists.splits[split].kept().items(), key=lambda item: (item[1], item[0])
        ):
            # The sample's own video, or else the whole video that the rule cuts it from.
            plan.listed.append(sample)
            found = named(sample)
            cut = rule(sample) if rule and not found else None
            if cut is not None:
                found = [path for form in WHOLE_NAMES for path in named(form.format(cut.video))]
            if not found:
                whole = f", nor of the whole video {cut.video}" if cut else ""
                plan.rows.append(ProblemRow(sample, "", f"no video of this name{whole}", left_out=True))
                continue

            # A segment without a span leaves the sample out; other faults are noted.
            file = _shown(plan, found[0])
            if cut is not None and cut.span is None:
                plan.rows.append(ProblemRow(sample, file, cut.problem, left_out=True))
                continue
            if len(found) > 1:
                others = ", ".join(_shown(plan, path) for path in found[1 : 1 + SHOWN])
                others += f" and {len(found) - 1 - SHOWN:,} more" if len(found) - 1 > SHOWN else ""
                plan.rows.append(
                    ProblemRow(sample, file, f"not read, of the same name: {others}", left_out=False)
                )
            if cut is not None and cut.label and _letters(cut.label) != _letters(plan.lists.names[label]):
                other = f"the segment is annotated as {cut.label!r}"
                other += f", the sample is listed as {plan.lists.names[label]!r}"
                plan.rows.append(ProblemRow(sample, file, other, left_out=False))
            plan.wanted.append(Wanted(sample, split, label, found[0], cut.span if cut else None))


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, folded(name)))


def _shown(plan: Plan, path: Path) -> str:
    return path.relative_to(plan.videos).as_posix()


def _video_files(folder: Path) -> Mapping[str, list[Path]]:
    """File name without extension -> files, by path. A folder that links lead to again is searched once."""
    found: dict[str, list[Path]] = {}
    searched = set()
    for base, folders, names in os.walk(folder, followlinks=True):
        stat = os.stat(base)
        if (stat.st_dev, stat.st_ino) in searched:
            folders.clear()
            continue
        searched.add((stat.st_dev, stat.st_ino))
        folders.sort()
        for name in sorted(names):
            path = Path(base, name)
            if path.suffix.casefold() in VIDEO_FILES:
                found.setdefault(composed(path.stem), []).append(path)
    return found
