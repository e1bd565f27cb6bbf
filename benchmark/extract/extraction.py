"""Extract videos one by one, so that each can resume and none can stop the others.

``plan.py`` lists the samples and their videos, ``media/decode.py`` decodes them, ``calls.py`` calls the
networks, ``devices.py`` runs the processes, and ``assembly.py`` writes the feature file from all results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.data.importing.importing import Progress
from benchmark.data.store import MODALITIES
from benchmark.errors import UsageError
from benchmark.extract.extractor import Extractor, Precision
from benchmark.extract.media.decode import UnreadableVideo, has_audio, read_audio
from benchmark.extract.media.footage import Footage
from benchmark.extract.media.segments import Span
from benchmark.extract.plan import Plan, ProblemRow, Wanted
from benchmark.extract.results import NotFinite, Outcome, ResultFolder, VideoFeatures
from benchmark.system.files import SourceFile, fingerprint, outside_reason

NO_AUDIO = "no audio"


@dataclass(frozen=True)
class Shard:
    """Every ``of``-th listed sample, starting with the ``number``-th; numbers start at 1."""

    number: int = 1
    of: int = 1

    @staticmethod
    def parse(text: str) -> Shard:
        """Read text such as ``3/16``.

        Raises:
            UsageError: it has another form.
        """
        first, slash, second = text.partition("/")
        if not (slash and first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
            raise UsageError(f"--shard {text}: give number and count, such as 3/16 for the third of sixteen")
        return Shard(int(first), int(second))

    def share(self, plan: Plan) -> Sequence[Wanted]:
        """Its videos. They follow from the lists alone, so that shards agree wherever the videos are."""
        mine = set(sorted(plan.listed)[self.number - 1 :: self.of])
        return [w for w in plan.wanted if w.sample in mine]


@dataclass
class Extracted:
    """The outcomes of the videos of one run."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """Sample id -> outcome of its video."""
    rows: list[ProblemRow] = field(default_factory=list)
    resumed: int = 0
    """Videos that an earlier run had finished."""

    @property
    def again(self) -> int:
        """Videos that the next run tries again."""
        return sum(outcome.attempts > 0 for outcome in self.outcomes.values())


Work = Callable[[Sequence[Wanted], bool], Iterator[tuple[Wanted, Outcome]]]


def identity(
    extractor: type[Extractor],
    weights: Mapping[str, Any],
    quirks: frozenset[str],
    precision: Precision = "float32",
    frames: int = 1,
) -> dict[str, Any]:
    """All that determines the features, except the videos.

    Args:
        weights: what is recorded of the weights.
        precision: of the networks; float32 is not recorded.
        frames: of a video, if the extractor chooses some; 1 is not recorded.
    """
    return {
        "extractor": extractor.name,
        "extractor_version": extractor.version,
        "dims": {"audio": extractor.audio_dim, "video": extractor.video_dim},
        "weights": {
            name: {k: v for k, v in record.items() if k != "file"} or record
            for name, record in weights.items()
        },
        "published_quirks": sorted(quirks),
        **({"precision": precision} if precision != "float32" else {}),
        **({"frames": frames} if frames != 1 else {}),
    }


def chosen_quirks(extractor: type[Extractor], named: Sequence[str], dataset: str) -> frozenset[str]:
    """The published quirks of a feature set, as named in its dataset config.

    Raises:
        UsageError: none is named, or the extractor cannot repeat one.
    """
    unknown = sorted(set(named) - extractor.quirks)
    if not named or unknown:
        what = f"the extractor cannot repeat {', '.join(unknown)}" if unknown else "its config has none"
        raise UsageError(
            f"--published-preprocessing: {dataset}, features {extractor.name}: {what}; omit the option"
        )
    return frozenset(named)


def collect(plan: Plan, shard: Shard, results: ResultFolder, progress: Progress, work: Work) -> Extracted:
    """Extract the videos of a shard that have no result yet, and return the outcomes of all its videos.

    Videos whose process died come last, one at a time, so that another death can be attributed to one of
    them.

    Args:
        work: extracts videos and yields each with its outcome. Its second argument says whether each process
            may only have one video at a time.

    Raises:
        UsageError: another process extracts the shard, or results cannot be written.
    """
    wanted = shard.share(plan)
    with results.alone(shard.number, shard.of, [w.sample for w in wanted]):
        return _collect(wanted, plan, results, progress, work)


def _collect(
    wanted: Sequence[Wanted], plan: Plan, results: ResultFolder, progress: Progress, work: Work
) -> Extracted:
    # What earlier runs finished is kept; what they could not finish is tried again.
    made = _known(wanted, plan, results, progress)
    left = [w for w in wanted if w.sample not in made or made[w.sample].attempts]
    died = {sample for sample, outcome in made.items() if outcome.deaths}
    others, suspects = [w for w in left if w.sample not in died], [w for w in left if w.sample in died]

    # Videos whose process dies in the first round join the second one, in which each is alone.
    done = 0
    progress("videos", done, len(left))
    for videos, alone in ((others, False), (suspects, True)):
        for w, outcome in work(videos, alone):
            made[w.sample] = outcome
            if outcome.deaths and not alone:
                suspects.append(w)
                continue
            done += 1
            progress("videos", done, len(left))
    # in the order of the lists, whichever was ready first
    outcomes = {w.sample: made[w.sample] for w in wanted}
    return Extracted(outcomes, _problem_rows(outcomes), len(wanted) - len(left))


def attempt(
    w: Wanted,
    root: Path,
    extractor: Extractor,
    results: ResultFolder,
    alive: Callable[[], None] = lambda: None,
) -> Outcome:
    """Extract a video and record its outcome, which may be a failure that the next run tries again.

    Args:
        w: the video.
        root: the folder that paths are relative to.
        extractor: computes its features.
        results: where they are written.
        alive: called every few time steps.

    Raises:
        UsageError: results cannot be written.
    """
    try:
        return _extract_one(w, root, extractor, results, alive)
    except UsageError:
        raise
    except Failed as error:
        return failed(w, root, results, str(error))
    except (Exception, SystemExit) as error:
        # a library may fail on one video in any way; the others continue
        return failed(w, root, results, f"{type(error).__name__}: {error!s:.120}")


def failed(
    w: Wanted, root: Path, results: ResultFolder, why: str, *, died: bool = False, killed: bool = False
) -> Outcome:
    """Record that a video failed for a reason that may pass: the next run tries it again.

    Args:
        w: the video.
        root: the folder that paths are relative to.
        results: where it is recorded.
        why: the reason.
        died: whether its process died. After a second death the video is left out until its file changes.
        killed: whether its process was killed, for which the video may not be the reason: it is always tried
            again.

    Raises:
        UsageError: it cannot be recorded.
    """
    before = results.read(w.sample, w.video, root, w.span)
    attempts, deaths = (before.attempts, before.deaths) if before else (0, 0)
    source = _glance(w.video, root)
    outcome = Outcome(w.sample, source, why, attempts=attempts + 1, deaths=deaths + died, span=w.span)
    if outcome.deaths > 1 and not killed:
        outcome = replace(outcome, problem=f"{why}, as before; left out until its file changes", attempts=0)
    with results.writing(w.sample) as (file, _):
        results.record(file, outcome)
    return outcome


def _glance(video: Path, root: Path) -> SourceFile:
    """The size and time of a file, without reading it, since reading may be what failed."""
    try:
        stat = video.stat()
    except OSError:
        return SourceFile(video.relative_to(root).as_posix(), 0, 0, "")
    return SourceFile(video.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns, "")


def recorded(plan: Plan, results: ResultFolder, progress: Progress) -> tuple[Extracted, list[Wanted]]:
    """The outcomes of all videos in earlier runs, and the videos that no run has tried."""
    outcomes = _known(plan.wanted, plan, results, progress)
    missing = [w for w in plan.wanted if w.sample not in outcomes]
    done = Extracted(outcomes, _problem_rows(outcomes))
    done.resumed = len(outcomes) - done.again
    return done, missing


def _known(
    wanted: Sequence[Wanted], plan: Plan, results: ResultFolder, progress: Progress
) -> dict[str, Outcome]:
    outcomes = {}
    for i, w in enumerate(wanted):
        progress("results", i, len(wanted))
        outcome = results.read(w.sample, w.video, plan.videos, w.span)
        if outcome is not None:
            outcomes[w.sample] = outcome
    return outcomes


def _problem_rows(outcomes: Mapping[str, Outcome]) -> list[ProblemRow]:
    """The faults of the videos, and why some have no features."""
    rows = []
    for outcome in outcomes.values():
        rows += [
            ProblemRow(outcome.sample, outcome.source.path, note, left_out=False) for note in outcome.notes
        ]
        if outcome.problem is not None:
            times = f" ({outcome.attempts} times)" if outcome.attempts > 1 else ""
            then = f"{times}; tried again next time" if outcome.attempts else ""
            rows.append(
                ProblemRow(outcome.sample, outcome.source.path, outcome.problem + then, left_out=True)
            )
    return rows


def _extract_one(
    w: Wanted, root: Path, extractor: Extractor, results: ResultFolder, alive: Callable[[], None]
) -> Outcome:
    try:
        source = fingerprint(w.video, root)
    except OSError as error:
        raise Failed(_cannot_be_read(w.video, error)) from None
    with results.writing(w.sample, alive) as (file, features):
        notes: list[str] = []
        silent = False
        try:
            silent = _compute(w.video, extractor, features, results.without_sound, notes, w.span)
        except Silent:
            features.clear()
            outcome = Outcome(w.sample, source, NO_AUDIO, tuple(notes), without_sound=results.without_sound)
        except (UnreadableVideo, NotFinite) as error:
            features.clear()
            outcome = Outcome(w.sample, source, str(error), tuple(notes))
        except OSError as error:  # of the system, the extractor or a library: not of the results
            raise Failed(_cannot_be_read(w.video, error)) from None
        else:
            outcome = _finished(w.sample, source, extractor, features, notes)
            outcome = replace(outcome, without_sound=results.without_sound if silent else None)
        outcome = replace(outcome, span=w.span)
        results.record(file, outcome)
    return outcome


def _cannot_be_read(video: Path, error: OSError) -> str:
    # an error that names another file is not about this video
    reason = outside_reason(error, video) if error.filename in (None, str(video)) else None
    return f"cannot be read: {reason}" if reason else f"{type(error).__name__}: {error!s:.120}"


def _finished(
    sample: str, source: SourceFile, extractor: Extractor, features: VideoFeatures, notes: list[str]
) -> Outcome:
    steps = {modality: features.steps(modality) for modality in MODALITIES}
    if not all(steps.values()):
        features.clear()
        short = " and ".join(modality for modality in MODALITIES if not steps[modality])
        return Outcome(sample, source, f"too short: {short} shorter than one time step", tuple(notes))
    if extractor.paired and steps["audio"] != steps["video"]:
        steps = dict.fromkeys(MODALITIES, min(steps.values()))
        features.cut(steps["audio"])
    return Outcome(sample, source, None, tuple(notes), steps, dict(features.peaks))


class Failed(Exception):
    """A video failed for a reason that may pass; the message is the reason."""


class Silent(Exception):
    """A video has no audio and is left out."""


def _compute(
    video: Path,
    extractor: Extractor,
    features: VideoFeatures,
    without_sound: str,
    notes: list[str],
    span: Span | None = None,
) -> bool:
    """Compute both sequences of a video or a span of it, a few time steps at a time.

    Returns:
        Whether it has no audio and got silence instead.

    Raises:
        UnreadableVideo: it has no frames.
        Silent: it has no audio and is left out.
    """
    if without_sound == "skip" and not has_audio(video):
        raise Silent

    # Frames -> clips -> features.
    clips = extractor.clips(Footage(video, notes.append, span))
    extractor.calls.compute("video", clips, partial(features.append, "video"))

    # Audio -> windows -> features.
    spec, heard = extractor.sound, _Count()
    blocks = read_audio(video, spec.rate, notes.append, span, sixteen_bit="sixteen_bit" in extractor.repeated)
    append = partial(features.append, "audio")
    extractor.calls.compute("audio", extractor.windows(heard.through(blocks)), append)
    if heard.samples:
        return False

    # An audio stream may be empty, too.
    if without_sound == "skip":
        raise Silent
    notes.append(f"{NO_AUDIO}: silence instead")
    seconds = features.steps("video") * extractor.video_seconds
    extractor.calls.compute("audio", extractor.windows(_silence(seconds, spec.rate)), append)
    return True


class _Count:
    """Counts the samples of a waveform that passes through."""

    samples = 0

    def through(self, blocks: Iterator[NDArray[np.float64]]) -> Iterator[NDArray[np.float64]]:
        for block in blocks:
            self.samples += len(block)
            yield block


def _silence(seconds: float, rate: int) -> Iterator[NDArray[np.float64]]:
    """Zeros, a second at a time."""
    left = round(seconds * rate)
    while left > 0:
        yield np.zeros(min(left, rate))
        left -= rate
