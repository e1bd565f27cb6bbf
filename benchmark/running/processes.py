"""Processes of this machine that do tasks in parallel, as ``scheduler.py`` directs."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from typing import Any

from pebble import ProcessExpired, ProcessPool

from benchmark.running.scheduler import Dispatcher, Message, WorkerSpec, do_task
from benchmark.running.tasks import Task, TaskResult
from benchmark.system.children import end_with_parent

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class LocalProcesses:
    """Does tasks in processes of this machine.

    Args:
        dispatcher: gives the tasks out.
        jobs: how many processes.
    """

    dispatcher: Dispatcher
    jobs: int

    def run(self, tasks: Sequence[Task], then: Callable[[Task, TaskResult], Sequence[Task]]) -> None:
        """Do the tasks and those that follow from them.

        Raises:
            KeyboardInterrupt: the work was stopped; running tasks have ended at a checkpoint.
        """
        with (
            self._channel() as (events, halt),
            ProcessPool(self.jobs, initializer=end_with_parent, context=SPAWN) as pool,
        ):
            try:
                self.dispatcher.run(_Pool(self.dispatcher.spec, self.jobs, pool, events, halt), tasks, then)
            except BaseException:
                pool.stop()  # type: ignore[no-untyped-call]
                raise

    @contextmanager
    def _channel(self) -> Iterator[tuple[Any, Any]]:
        """The queue of events, and the flag that asks to stop.

        Both are in a separate process, so that a killed process cannot hold a lock that others need.
        """
        manager = SyncManager(ctx=SPAWN)
        manager.start(_start_manager)
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
        while (message := events.get()) is not None:
            self.dispatcher.show(message)


def _start_manager() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@dataclass(frozen=True)
class _Pool:
    """The processes during a benchmark run."""

    spec: WorkerSpec
    jobs: int
    pool: ProcessPool
    events: Any
    asked: Any

    def room(self) -> int:
        return self.jobs

    def submit(self, task: Task) -> Future[TaskResult]:
        future: Future[TaskResult] = self.pool.schedule(
            do_task, args=[self.spec, task, _Channel(self.events, self.asked)]
        )
        return future

    def halt(self) -> None:
        self.asked.set()

    def loss(self, error: Exception) -> str | None:
        if isinstance(error, ProcessExpired):
            meaning = "-9: killed, for example by the system for want of memory"
            return f"its process died (exit code {error.exitcode}; {meaning})"
        return None


@dataclass(frozen=True)
class _Channel:
    events: Any
    asked: Any

    def send(self, message: Message) -> None:
        self.events.put(message)

    def halted(self) -> bool:
        return bool(self.asked.is_set())
