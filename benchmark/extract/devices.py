"""Extract on devices: one process for each, in which several threads work on one video each.

The parent sends each thread its next video over a pipe and receives the outcome. It neither decodes nor
computes, so that no video can end it. If a process dies, another one replaces it, and only the videos that it
was working on are affected.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch
from joblib import cpu_count

from benchmark.data.importing.importing import Progress
from benchmark.errors import UsageError
from benchmark.extract.extraction import Extracted, Shard, attempt, collect, failed, identity
from benchmark.extract.extractor import Extractor, Precision, find_extractor
from benchmark.extract.plan import Plan, Wanted
from benchmark.extract.results import Outcome, ResultFolder
from benchmark.extract.weights_files import load_weights
from benchmark.system.children import end_with_parent

SPAWN = get_context("spawn")
MOST_DECODERS = 8
"""Of one device, by default."""
SILENCE = 3600.0
"""Seconds without a sign from a video before its process is killed; one comes every few time steps."""
ALIVE = "alive"


@dataclass(frozen=True)
class ExtractionSpec:
    """All that a process needs to extract videos."""

    extractor: str
    plugins: Sequence[Path]
    weights: Sequence[str]
    """As the user gave them."""
    random_weights: bool
    quirks: frozenset[str]
    precision: Precision
    videos: Path
    """The folder that paths are relative to."""
    results: ResultFolder
    frames: int = 1
    """Frames of a video, if the extractor chooses some."""

    def build(self, device: str) -> Extractor:
        """The extractor on a device.

        Raises:
            UsageError: its weights are no longer those that the results are made with.
        """
        kind = find_extractor(self.extractor, self.plugins)
        loaded = load_weights(kind, self.weights, random=self.random_weights)
        now = identity(kind, loaded.record, self.quirks, self.precision, self.frames)
        made_with = json.loads(json.dumps(now))
        if made_with != self.results.identity:
            raise UsageError("the extractor or its weights changed while the command ran; repeat the command")
        extractor = kind(loaded.states, self.quirks, device)
        extractor.use(self.precision)
        extractor.frames = self.frames
        return extractor


def default_decoders(devices: Sequence[str]) -> int:
    """Videos in parallel on each device: one on a CPU, whose cores the networks use; else by the cores."""
    if "cpu" in devices:
        return 1
    return max(1, min(MOST_DECODERS, int(cpu_count()) // len(devices)))


def extract_on(
    plan: Plan, shard: Shard, spec: ExtractionSpec, devices: Sequence[str], decoders: int, progress: Progress
) -> Extracted:
    """Extract the videos of a shard that have no result yet.

    Args:
        devices: one process for each; a device may be listed more than once.
        decoders: videos that each process works on in parallel. Videos whose process died before are
            extracted one by one.

    Raises:
        UsageError: results cannot be written, or a process could not start.
    """

    def work(videos: Sequence[Wanted], alone: bool) -> Iterator[tuple[Wanted, Outcome]]:
        return _Processes(spec, devices, 1 if alone else decoders).run(videos)

    return collect(plan, shard, spec.results, progress, work)


@dataclass
class _Slot:
    """One thread of a process, as the parent sees it."""

    device: str
    process: SpawnProcess
    ready: bool = False
    video: Wanted | None = None
    last_sign: float = 0.0
    """When its last message came, by the monotonic clock."""


class _Processes:
    """The processes of an extraction, one for each device, with one slot for each pipe."""

    def __init__(self, spec: ExtractionSpec, devices: Sequence[str], decoders: int) -> None:
        self.spec, self.devices, self.decoders = spec, devices, decoders
        share = len(devices) * (1 if "cpu" in devices else decoders)
        self.threads = max(1, torch.get_num_threads() // share)
        self.slots: dict[Connection, _Slot] = {}
        self.silent: set[SpawnProcess] = set()

    def run(self, videos: Sequence[Wanted]) -> Iterator[tuple[Wanted, Outcome]]:
        """Extract videos, and yield each with its outcome as it comes."""
        left = deque(videos)
        try:
            for device in self.devices[: len(videos)]:
                self._start(device)
            while self.slots:
                for pipe in wait(list(self.slots), SILENCE / 60):
                    assert isinstance(pipe, Connection)
                    yield from self._receive(pipe, left)
                self._end_silent()
        finally:
            for process in {id(slot.process): slot.process for slot in self.slots.values()}.values():
                process.terminate()
                process.join()

    def _start(self, device: str) -> None:
        pairs = [SPAWN.Pipe() for _ in range(self.decoders)]
        process = SPAWN.Process(
            target=serve, args=(self.spec, device, self.threads, [theirs for _, theirs in pairs])
        )
        with _without_interrupts():
            process.start()
        for ours, theirs in pairs:
            theirs.close()
            self.slots[ours] = _Slot(device, process)

    def _receive(self, pipe: Connection, left: deque[Wanted]) -> Iterator[tuple[Wanted, Outcome]]:
        """Take the message of a thread, and send it its next video; or find that its process died."""
        slot = self.slots[pipe]

        # A closed pipe means a dead process; an error of the user ends the extraction.
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            yield from self._died(pipe, left)
            return
        if isinstance(message, UsageError):
            raise message
        slot.last_sign = time.monotonic()
        if message == ALIVE:
            return

        # Any other message is the outcome of the slot's video, or None from a thread that has started.
        slot.ready = True
        finished, slot.video = slot.video, left.popleft() if left else None
        try:
            pipe.send(slot.video)
        except OSError:  # it died just now, which the next look at the pipe finds
            pass
        else:
            if slot.video is None:
                del self.slots[pipe]
        if finished is not None:
            yield finished, message

    def _end_silent(self) -> None:
        """Kill processes that hang; ``_receive`` then finds them dead."""
        for slot in self.slots.values():
            if slot.video is not None and time.monotonic() - slot.last_sign > SILENCE:
                self.silent.add(slot.process)
                slot.process.kill()

    def _died(self, pipe: Connection, left: deque[Wanted]) -> Iterator[tuple[Wanted, Outcome]]:
        """Replace a process that died, and yield the video of this slot as failed."""
        slot = self.slots.pop(pipe)
        slot.process.join()

        # Why it died.
        code = f"exit code {slot.process.exitcode}"
        killed = slot.process.exitcode == -signal.SIGKILL and slot.process not in self.silent
        if slot.process in self.silent:
            code = f"ended after {SILENCE / 60:g} minutes without a sign of life"
        elif killed:
            code += ": killed, for example by the system when memory ran out"

        # A process that cannot start is an error; else the last of its slots starts another one.
        if not slot.ready:
            raise UsageError(
                f"--device {slot.device}: its worker process crashed before its first video ({code})"
            )
        if left and not any(other.process is slot.process for other in self.slots.values()):
            self._start(slot.device)
        if slot.video is not None:
            why = f"its worker process crashed ({code})"
            yield (
                slot.video,
                failed(slot.video, self.spec.videos, self.spec.results, why, died=True, killed=killed),
            )


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that start meanwhile ignore Ctrl-C: the parent ends them."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def serve(spec: ExtractionSpec, device: str, threads: int, pipes: Sequence[Connection]) -> None:
    """The main function of a process: one thread for each pipe."""
    end_with_parent()  # the next command may work on the same videos
    torch.set_num_threads(threads)
    try:
        extractor = spec.build(device)
    except Exception as error:
        for pipe in pipes:
            pipe.send(error if isinstance(error, UsageError) else UsageError(f"--device {device}: {error}"))
        return
    workers = [threading.Thread(target=_work, args=(spec, extractor, pipe)) for pipe in pipes]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _alive(pipe: Connection) -> None:
    with suppress(OSError):  # the parent is gone, which ends this process
        pipe.send(ALIVE)


def _work(spec: ExtractionSpec, extractor: Extractor, pipe: Connection) -> None:
    """Extract one video after another, as the parent sends them."""
    try:
        pipe.send(None)
        while (w := pipe.recv()) is not None:
            try:
                pipe.send(attempt(w, spec.videos, extractor, spec.results, partial(_alive, pipe)))
            except UsageError as error:
                pipe.send(error)
    except (EOFError, OSError):  # the parent is gone
        return
