"""Several local processes that do the tasks of a call side by side.

Each has a torch of its own with ``train.threads`` threads, plans the call by itself, and reads and writes the shared storages;
what it is given and gives back are small records. A process that dies takes its task's time with it and nothing else: the task
is given to another one, which goes on from the last checkpoint.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

import psutil
from pebble import ProcessExpired, ProcessPool

from benchmark import registry
from benchmark.errors import Unavailable, UsageError
from benchmark.execution import Runner
from benchmark.jobs import Call, Unit, call_key, plan_units
from benchmark.method import EpochRecord
from benchmark.tracking import Tracker
from benchmark.worker import Display, Done, Ended, Task, Worker

ATTEMPTS = 3
"""How often a task is tried whose process dies, or that fails for reasons outside its jobs, before it counts as failed."""
POLL_SECONDS = 0.2
SHOWN_PER_SECOND = 5
"""Batches that a process tells the display of."""

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class WorkPlace:
    """All that a process needs to do tasks of a call."""

    call: Call
    key: str
    """The call's key, which the process must come to by itself."""
    tune_only: bool
    data_root: Path
    runs_dir: Path
    tracking_uri: str
    artifacts: Path
    storage: str
    retry_failed: bool


@dataclass(frozen=True)
class LocalProcesses:
    """Does tasks in processes of this machine.

    Args:
        place: what they work on.
        jobs: how many.
        lane: the display of a process, by its number.
        stop: whether the user asked to stop.
        lost: what a task gave that could not be done; called with it and the reason.
    """

    place: WorkPlace
    jobs: int
    lane: Callable[[int], Display]
    stop: Callable[[], bool]
    lost: Callable[[Task, str], Done]

    @classmethod
    def of(
        cls,
        runner: Runner,
        call: Call,
        units: list[Unit],
        data_root: Path,
        jobs: int,
        lane: Callable[[int], Display],
        *,
        tune_only: bool,
    ) -> LocalProcesses:
        """Processes for a call of a runner."""
        tracker = runner.tracker
        place = WorkPlace(
            call=call,
            key=call_key(call, units, tune_only),
            tune_only=tune_only,
            data_root=data_root,
            runs_dir=runner.runs_dir,
            tracking_uri=tracker.uri,
            artifacts=tracker.artifacts,
            storage=runner.storage,
            retry_failed=runner.retry_failed,
        )
        return cls(place, jobs, lane, runner.stop, partial(runner.lost, call, units))

    def run(self, tasks: Sequence[Task], then: Callable[[Task, Done], Sequence[Task]]) -> None:
        """Do the tasks and those that follow from them, the first in order first.

        Raises:
            KeyboardInterrupt: the work was stopped; running tasks have ended at a checkpoint.
        """
        waiting, running, attempts = list(tasks), dict[Future[Done], Task](), Counter[tuple[int, int, int]]()
        stopped = False
        with self._channel() as (events, halt), ProcessPool(self.jobs, context=SPAWN) as pool:
            try:
                while running or (waiting and not stopped):
                    while waiting and not stopped and len(running) < self.jobs:
                        task = min(waiting, key=lambda t: t.order)
                        waiting.remove(task)
                        running[pool.schedule(_do, args=[self.place, task, events, halt])] = task
                    ended, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                    for future in ended:
                        task = running.pop(future)
                        done = self._done(task, future, attempts)
                        if done is None:
                            waiting.append(task)
                        elif not done.stopped:
                            waiting += then(task, done)
                    if self.stop() and not stopped:
                        stopped = True
                        halt.set()
            except BaseException:
                pool.stop()  # type: ignore[no-untyped-call]
                raise
        if stopped:
            raise KeyboardInterrupt

    def _done(self, task: Task, future: Future[Done], attempts: Counter[tuple[int, int, int]]) -> Done | None:
        """What a task gave; None where it is to be done again."""
        try:
            return future.result()
        except ProcessExpired as error:
            reason = f"its process died (exit code {error.exitcode}; -9: killed, for example by the system for want of memory)"
        except Unavailable:
            raise
        except Exception as error:  # around a job, not in it: a locked database, say, which may be free the next time
            reason = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        attempts[task.order] += 1
        if attempts[task.order] < ATTEMPTS:
            self.lane(0).say(f"{reason}; what it worked on is done again")
            return None
        return self.lost(task, f"{reason} ({ATTEMPTS} times)")

    @contextmanager
    def _channel(self) -> Iterator[tuple[Any, Any]]:
        """Where processes tell of progress, and where they see that they should stop.

        Both live in a process of their own, so that a killed process cannot hold a lock that others need.
        """
        manager = SyncManager(ctx=SPAWN)
        manager.start(signal.signal, (signal.SIGINT, signal.SIG_IGN))
        events = manager.Queue()
        pump = threading.Thread(target=self._show, args=[events], daemon=True)
        pump.start()
        try:
            yield events, manager.Event()
        finally:
            events.put(None)
            pump.join(timeout=5)
            manager.shutdown()

    def _show(self, events: Any) -> None:
        """Pass on what processes tell to their lanes of the display."""
        seen: set[int] = set()
        while (message := events.get()) is not None:
            process, what, arguments = message
            if process not in seen:
                for dead in [p for p in seen if not psutil.pid_exists(p)]:
                    seen.discard(dead)
                    self.lane(dead).clear()
                seen.add(process)
            getattr(self.lane(process), what)(*arguments)


@dataclass
class _Remote:
    """The display of a process: tells the parent, of batches a few a second."""

    events: Any
    last: float = 0.0

    def _tell(self, what: str, *arguments: object) -> None:
        self.events.put((os.getpid(), what, arguments))

    def start(self, title: str, epochs: int, batches: int) -> None:
        self._tell("start", title, epochs, batches)

    def batch(self, epoch: int, batch: int, loss: float) -> None:
        if time.monotonic() > self.last + 1 / SHOWN_PER_SECOND:
            self.last = time.monotonic()
            self._tell("batch", epoch, batch, loss)

    def epoch(self, record: EpochRecord) -> None:
        self._tell("epoch", record)

    def end(self, ended: Ended) -> None:
        self._tell("end", ended)

    def say(self, text: str) -> None:
        self._tell("say", text)

    def clear(self) -> None:
        self._tell("clear")


_workers: dict[str, Worker] = {}
"""The worker of this process, by the key of its call."""


def _do(place: WorkPlace, task: Task, events: Any, halt: Any) -> Done:
    """Do a task in this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells when to stop
    worker = _workers.get(place.key)
    if worker is None:
        worker = _workers[place.key] = _worker(place, events, halt)
    try:
        return worker.do(task)
    except KeyboardInterrupt:
        return Done(stopped=True)


def _worker(place: WorkPlace, events: Any, halt: Any) -> Worker:
    units = plan_units(place.call, registry.load(place.call.plugins), place.data_root)
    if call_key(place.call, units, place.tune_only) != place.key:
        raise UsageError("code or data changed since this call was started; start it again")
    tracker = Tracker(place.tracking_uri, place.artifacts)
    places = (tracker, place.runs_dir, place.storage, _Remote(events))
    return Worker(units, place.call.stages, *places, halt.is_set, place.retry_failed)
