"""Extraction on devices: a process for each, in which several threads work on a video each.

The parent gives each thread its next video over a pipe of its own, and gets back what became of it. It does not decode or
compute itself, so that no video can end it: a process that dies costs the videos that it was working on, and another one takes
its place.
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
"""Unless the user says otherwise."""
SILENCE = 3600.0
"""Seconds: a process is ended when a video in it gives no sign of life for so long. One comes every few steps."""
ALIVE = "alive"


@dataclass(frozen=True)
class ExtractionSpec:
    """All that a process needs to know."""

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

    def build(self, device: str) -> Extractor:
        """The extractor on a device.

        Raises:
            UsageError: its weights are no longer those that the results are made with.
        """
        kind = find_extractor(self.extractor, self.plugins)
        loaded = load_weights(kind, self.weights, random=self.random_weights)
        if json.loads(json.dumps(identity(kind, loaded.record, self.quirks, self.precision))) != self.results.identity:
            raise UsageError("the extractor or its weights changed after the command was given; give it again")
        extractor = kind(loaded.states, self.quirks, device)
        extractor.use(self.precision)
        return extractor


def default_decoders(devices: Sequence[str]) -> int:
    """Videos that each device works on at a time: one on a CPU, whose cores the networks keep busy; else by the cores."""
    if "cpu" in devices:
        return 1
    return max(1, min(MOST_DECODERS, int(cpu_count()) // len(devices)))


def extract_on(
    plan: Plan, shard: Shard, spec: ExtractionSpec, devices: Sequence[str], decoders: int, progress: Progress
) -> Extracted:
    """Extract the videos of a shard that are not done yet.

    Args:
        devices: one process each; a device may be there more than once.
        decoders: videos that each process works on at a time, but for those whose process died before.

    Raises:
        UsageError: results cannot be written, or a process could not begin.
    """

    def work(videos: Sequence[Wanted], alone: bool) -> Iterator[tuple[Wanted, Outcome]]:
        return _Processes(spec, devices, 1 if alone else decoders).run(videos)

    return collect(plan, shard, spec.results, progress, work)


@dataclass
class _Slot:
    """A thread of a process, as the parent sees it."""

    device: str
    process: SpawnProcess
    ready: bool = False
    video: Wanted | None = None
    last_sign: float = 0.0
    """When it last message something, by the monotonic clock."""


class _Processes:
    """The processes of an extraction."""

    def __init__(self, spec: ExtractionSpec, devices: Sequence[str], decoders: int) -> None:
        self.spec, self.devices, self.decoders = spec, devices, decoders
        share = len(devices) * (1 if "cpu" in devices else decoders)
        self.threads = max(1, torch.get_num_threads() // share)
        self.slots: dict[Connection, _Slot] = {}
        self.silent: set[SpawnProcess] = set()

    def run(self, videos: Sequence[Wanted]) -> Iterator[tuple[Wanted, Outcome]]:
        left = deque(videos)
        try:
            for device in self.devices[: len(videos)]:
                self._start(device)
            while self.slots:
                for end in wait(list(self.slots), SILENCE / 60):
                    assert isinstance(end, Connection)
                    yield from self._listen(end, left)
                self._end_silent()
        finally:
            for process in {id(slot.process): slot.process for slot in self.slots.values()}.values():
                process.terminate()
                process.join()

    def _start(self, device: str) -> None:
        pairs = [SPAWN.Pipe() for _ in range(self.decoders)]
        process = SPAWN.Process(target=serve, args=(self.spec, device, self.threads, [theirs for _, theirs in pairs]))
        with _without_interrupts():
            process.start()
        for ours, theirs in pairs:
            theirs.close()
            self.slots[ours] = _Slot(device, process)

    def _listen(self, end: Connection, left: deque[Wanted]) -> Iterator[tuple[Wanted, Outcome]]:
        """Take what a thread has to say, and give it its next video; or see that its process died."""
        slot = self.slots[end]
        try:
            message = end.recv()
        except (EOFError, OSError):
            yield from self._died(end, left)
            return
        if isinstance(message, UsageError):
            raise message
        slot.last_sign = time.monotonic()
        if message == ALIVE:
            return
        slot.ready = True
        finished, slot.video = slot.video, left.popleft() if left else None
        try:
            end.send(slot.video)
        except OSError:  # it died just now, which the next look at the pipe says
            pass
        else:
            if slot.video is None:
                del self.slots[end]
        if finished is not None:
            yield finished, message

    def _end_silent(self) -> None:
        """End processes that hang; that they died is seen by their pipes."""
        for slot in self.slots.values():
            if slot.video is not None and time.monotonic() - slot.last_sign > SILENCE:
                self.silent.add(slot.process)
                slot.process.kill()

    def _died(self, end: Connection, left: deque[Wanted]) -> Iterator[tuple[Wanted, Outcome]]:
        slot = self.slots.pop(end)
        slot.process.join()
        code = f"exit code {slot.process.exitcode}"
        killed = slot.process.exitcode == -signal.SIGKILL and slot.process not in self.silent
        if slot.process in self.silent:
            code = f"ended after {SILENCE / 60:g} minutes without a sign of life"
        elif killed:
            code += ": killed, for example by the system for want of memory"
        if not slot.ready:
            raise UsageError(f"--device {slot.device}: its process died before its first video ({code})")
        if left and not any(other.process is slot.process for other in self.slots.values()):
            self._start(slot.device)
        if slot.video is not None:
            why = f"its process died ({code})"
            yield slot.video, failed(slot.video, self.spec.videos, self.spec.results, why, died=True, killed=killed)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that begin meanwhile do not hear Ctrl-C: the parent says when it is over."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def serve(spec: ExtractionSpec, device: str, threads: int, ends: Sequence[Connection]) -> None:
    """What a process does: a thread for each pipe."""
    end_with_parent()  # the next call may work on the same videos
    torch.set_num_threads(threads)
    try:
        extractor = spec.build(device)
    except Exception as error:
        for end in ends:
            end.send(error if isinstance(error, UsageError) else UsageError(f"--device {device}: {error}"))
        return
    slots = [threading.Thread(target=_work, args=(spec, extractor, end)) for end in ends]
    for slot in slots:
        slot.start()
    for slot in slots:
        slot.join()


def _alive(end: Connection) -> None:
    with suppress(OSError):  # the parent is gone, which ends this process
        end.send(ALIVE)


def _work(spec: ExtractionSpec, extractor: Extractor, end: Connection) -> None:
    """Work on one video after the other."""
    try:
        end.send(None)
        while (w := end.recv()) is not None:
            try:
                end.send(attempt(w, spec.videos, extractor, spec.results, partial(_alive, end)))
            except UsageError as error:
                end.send(error)
    except (EOFError, OSError):  # the parent is gone
        return
