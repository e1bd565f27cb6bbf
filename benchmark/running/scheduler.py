"""Tasks in parallel: their order, how often one is tried, when to stop, and how a process does a task.

``processes.py`` (this machine) and ``cluster.py`` (Ray) provide the processes. Each has its own torch with
``train.threads`` threads, plans the benchmark run itself, and reads and writes the shared stores. Only small
records travel. If a process dies, its task goes to another one, which continues from the last checkpoint.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from benchmark import registry
from benchmark.errors import Unavailable, UsageError
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.events import BatchDone, Event, Idle, Said, Show
from benchmark.running.jobs import Plan
from benchmark.running.planning import make_plan
from benchmark.running.runner import Runner
from benchmark.running.stores import Stores
from benchmark.running.tasks import Task, TaskResult
from benchmark.running.worker import Worker
from benchmark.system.databases import expect
from benchmark.system.output import lasting_output
from benchmark.system.redaction import guard, hide
from benchmark.tracking.tracker import Tracker

ATTEMPTS = 3
"""How often a task is tried whose process dies, or that fails for reasons outside its jobs."""
POLL_SECONDS = 0.2
SHOWN_PER_SECOND = 5
"""Batches of a task that the terminal hears of."""

Message = tuple[tuple[int, int, int], Event]
"""The order of a task, and what happened in it."""


class Channel(Protocol):
    """From a process to the command that it works for."""

    def send(self, message: Message) -> None:
        """Send what happened."""

    def halted(self) -> bool:
        """Whether the user asked to stop."""


class Pool(Protocol):
    """The processes of an engine during a benchmark run."""

    def room(self) -> int:
        """How many tasks may run together at the moment."""

    def submit(self, task: Task) -> Future[TaskResult]:
        """Have a task done."""

    def halt(self) -> None:
        """Ask the running tasks to stop at their next checkpoint."""

    def loss(self, error: Exception) -> str | None:
        """How a process was lost, if the error of a task comes from that."""


@dataclass(frozen=True)
class WorkerSpec:
    """All that a process needs to do tasks of a plan; paths are absolute."""

    working_folder: Path
    """May have ``methods/``, ``datasets/`` and ``search_spaces/`` of the user."""
    run: BenchmarkRun
    key: str
    """The plan's key, which the process must come to by itself."""
    tune_only: bool
    data_root: Path
    runs_dir: Path
    tracking_uri: str
    artifacts: Path
    storage: str
    retry_failed: bool

    @classmethod
    def of(cls, runner: Runner, plan: Plan, data_root: Path) -> WorkerSpec:
        """The specification for a runner's processes."""
        tracker = runner.stores.tracker
        files = {
            name: [p.resolve() for p in getattr(plan.run, name)] for name in ("plugins", "dataset_configs")
        }
        return cls(
            working_folder=Path.cwd(),
            run=plan.run.model_copy(update=files),
            key=plan.key,
            tune_only=plan.tune_only,
            data_root=data_root.resolve(),
            runs_dir=runner.stores.runs_dir.resolve(),
            tracking_uri=tracker.uri,
            artifacts=tracker.artifacts.resolve(),
            storage=runner.stores.storage,
            retry_failed=runner.retry_failed,
        )

    def worker(self, show: Show) -> Worker:
        """The worker of a process. It has opened both stores; a store that is unavailable is waited for.

        Raises:
            UsageError: this process comes to other jobs than the one that started the benchmark run.
        """
        with suppress(OSError):  # another machine may lack it
            os.chdir(self.working_folder)
        plan = make_plan(self.run, registry.load(self.run.plugins), self.data_root, tune_only=self.tune_only)
        if plan.key != self.key:
            raise UsageError("code, data, torch version or device changed since the run started; restart it")
        expect(self.storage)
        stores = Stores(Tracker.waiting(self.tracking_uri, self.artifacts), self.storage, self.runs_dir)
        return Worker(plan, stores, show, retry_failed=self.retry_failed)


@dataclass(frozen=True)
class Dispatcher:
    """Gives tasks to the processes of an engine and takes their results.

    Args:
        spec: what the processes work on.
        slot: takes what happens in a task, by the task's order.
        stop: whether the user asked to stop.
        lost: the result of a task that could not be done, or None if it is to be tried again; called with the
            task and the reason.
    """

    spec: WorkerSpec
    slot: Callable[[Hashable], Show]
    stop: Callable[[], bool]
    lost: Callable[[Task, str], TaskResult | None]

    @classmethod
    def of(cls, runner: Runner, plan: Plan, data_root: Path, slot: Callable[[Hashable], Show]) -> Dispatcher:
        """The dispatcher for a plan of a runner."""
        return cls(WorkerSpec.of(runner, plan, data_root), slot, runner.stop, partial(runner.lost, plan))

    def show(self, message: Message) -> None:
        """Pass on what a process sends."""
        order, event = message
        self.slot(order)(event)

    def run(
        self, pool: Pool, tasks: Sequence[Task], then: Callable[[Task, TaskResult], Sequence[Task]]
    ) -> None:
        """Have the tasks done, and those that ``then`` returns for each finished one, in order.

        Raises:
            KeyboardInterrupt: the work was stopped; running tasks have ended at a checkpoint.
        """
        waiting, running = list(tasks), dict[Future[TaskResult], Task]()
        attempts = Counter[tuple[int, int, int]]()
        stopped = False
        while running or (waiting and not stopped):
            # Give out as many tasks as there is room for.
            while waiting and not stopped and len(running) < pool.room():
                task = min(waiting, key=lambda t: t.order)
                waiting.remove(task)
                running[pool.submit(task)] = task

            # Take the results of those that ended.
            ended, _ = wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in ended:
                task = running.pop(future)
                result = self._result(pool, task, future, attempts)
                if result is None:
                    waiting.append(task)
                elif not result.stopped:
                    waiting += then(task, result)

            if self.stop() and not stopped:
                stopped = True
                pool.halt()
        if stopped:
            raise KeyboardInterrupt

    def _result(
        self, pool: Pool, task: Task, future: Future[TaskResult], attempts: Counter[tuple[int, int, int]]
    ) -> TaskResult | None:
        """The result of a task; None if it is to be done again."""
        try:
            return future.result()
        except Unavailable:  # it was waited for long enough
            raise
        except Exception as error:
            # around a job, not in it: a locked database, say, which may be free the next time
            own = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
            reason = hide(pool.loss(error) or own)
        show = self.slot(task.order)
        show(Idle())
        attempts[task.order] += 1
        if attempts[task.order] < ATTEMPTS:
            show(Said(f"{reason}; its task is tried again"))
            return None
        attempts[task.order] = 0
        return self.lost(task, f"{reason} ({ATTEMPTS} times)")


@dataclass
class _Remote:
    """Takes what happens in a task's process and sends it to the dispatcher, of batches a few a second."""

    channel: Channel
    order: tuple[int, int, int]
    last: float = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, BatchDone):
            if time.monotonic() <= self.last + 1 / SHOWN_PER_SECOND:
                return
            self.last = time.monotonic()
        self.channel.send((self.order, event))


_workers: dict[str, Worker] = {}
"""The worker of this process, by the key of its plan."""


def do_task(spec: WorkerSpec, task: Task, channel: Channel) -> TaskResult:
    """Do a task in this process, which belongs to an engine.

    Raises:
        UsageError: this process comes to other jobs than the one that started the benchmark run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the dispatcher decides when to stop
    guard()
    show = _Remote(channel, task.order)
    with lasting_output():  # a method may print, and this process has the streams of the command
        worker = _workers.get(spec.key)
        if worker is None:
            worker = _workers[spec.key] = spec.worker(show)
        try:
            return replace(worker, show=show, stop=channel.halted).do(task)
        except KeyboardInterrupt:
            return TaskResult(stopped=True)
        finally:
            show(Idle())
