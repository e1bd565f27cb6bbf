"""Work that is done side by side: in what order, how often a task is tried, when to stop, and how a process does a task.

Who does the tasks is the engines' affair: ``processes.py`` (this machine) and ``cluster.py`` (Ray). Their processes have a
torch of their own with ``train.threads`` threads, plan the call by themselves, and read and write the shared storages; what
they are given and give back are small records. A process that dies takes its task's time with it and nothing else: the task is
given to another one, which goes on from the last checkpoint.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from benchmark import registry
from benchmark.errors import Unavailable, UsageError
from benchmark.method import EpochRecord
from benchmark.running.jobs import Call, Unit, call_key
from benchmark.running.planning import plan_units
from benchmark.running.runner import Runner
from benchmark.running.tasks import Display, Done, Ended, Task
from benchmark.running.worker import Worker
from benchmark.system.databases import expect
from benchmark.system.output import lasting_output
from benchmark.system.redaction import guard, hide
from benchmark.tracking.tracker import Tracker

ATTEMPTS = 3
"""How often a task is tried whose process dies, or that fails for reasons outside its jobs, before it counts as failed."""
POLL_SECONDS = 0.2
SHOWN_PER_SECOND = 5
"""Batches of a task that the display is told of."""

Message = tuple[tuple[int, int, int], str, tuple[object, ...]]
"""The order of a task, the method of its display to call, and the arguments."""


class Line(Protocol):
    """The line of a process to the call that it works for."""

    def tell(self, message: Message) -> None:
        """Tell of progress."""

    def halted(self) -> bool:
        """Whether the user asked to stop."""


class Crew(Protocol):
    """The processes of an engine while a call runs."""

    def room(self) -> int:
        """How many tasks may run at once, at the moment."""

    def submit(self, task: Task) -> Future[Done]:
        """Have a task done."""

    def halt(self) -> None:
        """Ask the running tasks to stop at their next checkpoint."""

    def loss(self, error: Exception) -> str | None:
        """How a process was lost, where the error of a task says that it was."""


@dataclass(frozen=True)
class WorkPlace:
    """All that a process needs to do tasks of a call; paths are absolute."""

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
class Desk:
    """Where a call's work is given out and comes back.

    Args:
        place: what the processes work on.
        lane: the display of a task, by its order.
        stop: whether the user asked to stop.
        lost: what a task gave that could not be done, or None where it is to be tried again; called with it and the reason.
    """

    place: WorkPlace
    lane: Callable[[Hashable], Display]
    stop: Callable[[], bool]
    lost: Callable[[Task, str], Done | None]

    @classmethod
    def of(
        cls,
        runner: Runner,
        call: Call,
        units: list[Unit],
        data_root: Path,
        lane: Callable[[Hashable], Display],
        *,
        tune_only: bool = False,
    ) -> Desk:
        """The desk for a call of a runner."""
        tracker = runner.tracker
        place = WorkPlace(
            call=call.model_copy(update={"plugins": [path.resolve() for path in call.plugins]}),
            key=call_key(call, units, tune_only),
            tune_only=tune_only,
            data_root=data_root.resolve(),
            runs_dir=runner.runs_dir.resolve(),
            tracking_uri=tracker.uri,
            artifacts=tracker.artifacts.resolve(),
            storage=runner.storage,
            retry_failed=runner.retry_failed,
        )
        return cls(place, lane, runner.stop, partial(runner.lost, call, units))

    def show(self, message: Message) -> None:
        """Pass on what a process tells to its lane of the display."""
        order, what, arguments = message
        getattr(self.lane(order), what)(*arguments)

    def run(self, crew: Crew, tasks: Sequence[Task], then: Callable[[Task, Done], Sequence[Task]]) -> None:
        """Have the tasks done and those that follow from them, the first in order first.

        Raises:
            KeyboardInterrupt: the work was stopped; running tasks have ended at a checkpoint.
        """
        waiting, running, attempts = list(tasks), dict[Future[Done], Task](), Counter[tuple[int, int, int]]()
        stopped = False
        while running or (waiting and not stopped):
            while waiting and not stopped and len(running) < crew.room():
                task = min(waiting, key=lambda t: t.order)
                waiting.remove(task)
                running[crew.submit(task)] = task
            ended, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in ended:
                task = running.pop(future)
                done = self._done(crew, task, future, attempts)
                if done is None:
                    waiting.append(task)
                elif not done.stopped:
                    waiting += then(task, done)
            if self.stop() and not stopped:
                stopped = True
                crew.halt()
        if stopped:
            raise KeyboardInterrupt

    def _done(self, crew: Crew, task: Task, future: Future[Done], attempts: Counter[tuple[int, int, int]]) -> Done | None:
        """What a task gave; None where it is to be done again."""
        try:
            return future.result()
        except Unavailable:  # it was waited for long enough
            raise
        except Exception as error:  # around a job, not in it: a locked database, say, which may be free the next time
            own = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
            reason = hide(crew.loss(error) or own)
        lane = self.lane(task.order)
        lane.clear()
        attempts[task.order] += 1
        if attempts[task.order] < ATTEMPTS:
            lane.say(f"{reason}; what it worked on is done again")
            return None
        attempts[task.order] = 0
        return self.lost(task, f"{reason} ({ATTEMPTS} times)")


@dataclass
class _Remote:
    """The display of a task in its process: tells the desk, of batches a few a second."""

    line: Line
    order: tuple[int, int, int]
    last: float = 0.0

    def _tell(self, what: str, *arguments: object) -> None:
        self.line.tell((self.order, what, arguments))

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

    def passed(self, jobs: int) -> None:
        self._tell("passed", jobs)

    def say(self, text: str) -> None:
        self._tell("say", text)

    def clear(self) -> None:
        self._tell("clear")


_workers: dict[str, Worker] = {}
"""The worker of this process, by the key of its call."""


def do_task(place: WorkPlace, task: Task, line: Line) -> Done:
    """Do a task in this process, which belongs to an engine.

    Raises:
        UsageError: this process comes to other jobs than the one that started the call.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the desk tells when to stop
    guard()
    display = _Remote(line, task.order)
    with lasting_output():  # a method may print, and this process has the streams of the command
        worker = _workers.get(place.key)
        if worker is None:
            worker = _workers[place.key] = _worker(place, display)
        try:
            return replace(worker, display=display, stop=line.halted).do(task)
        except KeyboardInterrupt:
            return Done(stopped=True)
        finally:
            display.clear()


def _worker(place: WorkPlace, display: Display) -> Worker:
    """The worker of a call that has opened both stores; where one is away by now, it is waited for."""
    units = plan_units(place.call, registry.load(place.call.plugins), place.data_root)
    if call_key(place.call, units, place.tune_only) != place.key:
        raise UsageError(
            "code, data, the version of torch or the device differ from those that this call was started with; start it again"
        )
    expect(place.storage)
    tracker = Tracker.waiting(place.tracking_uri, place.artifacts)
    places = (tracker, place.runs_dir, place.storage, display)
    return Worker(units, place.call.stages, *places, retry_failed=place.retry_failed)
