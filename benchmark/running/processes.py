"""Processes of this machine that do the tasks of a call side by side (``scheduler.py`` says how)."""

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

from benchmark.running.scheduler import Desk, Message, WorkPlace, do_task
from benchmark.running.tasks import Done, Task
from benchmark.system.children import end_with_parent

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class LocalProcesses:
    """Does tasks in processes of this machine.

    Args:
        desk: gives the tasks out.
        jobs: how many processes.
    """

    desk: Desk
    jobs: int

    def run(self, tasks: Sequence[Task], then: Callable[[Task, Done], Sequence[Task]]) -> None:
        """Do the tasks and those that follow from them.

        Raises:
            KeyboardInterrupt: the work was stopped; running tasks have ended at a checkpoint.
        """
        with self._channel() as (events, halt), ProcessPool(self.jobs, initializer=end_with_parent, context=SPAWN) as pool:
            try:
                self.desk.run(_Pool(self.desk.place, self.jobs, pool, events, halt), tasks, then)
            except BaseException:
                pool.stop()  # type: ignore[no-untyped-call]
                raise

    @contextmanager
    def _channel(self) -> Iterator[tuple[Any, Any]]:
        """Where processes tell of progress, and where they see that they should stop.

        Both live in a process of their own, so that a killed process cannot hold a lock that others need.
        """
        manager = SyncManager(ctx=SPAWN)
        manager.start(_begin_manager)
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
            self.desk.show(message)


def _begin_manager() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@dataclass(frozen=True)
class _Pool:
    """The processes while a call runs."""

    place: WorkPlace
    jobs: int
    pool: ProcessPool
    events: Any
    asked: Any

    def room(self) -> int:
        return self.jobs

    def submit(self, task: Task) -> Future[Done]:
        future: Future[Done] = self.pool.schedule(do_task, args=[self.place, task, _Line(self.events, self.asked)])
        return future

    def halt(self) -> None:
        self.asked.set()

    def loss(self, error: Exception) -> str | None:
        if isinstance(error, ProcessExpired):
            return f"its process died (exit code {error.exitcode}; -9: killed, for example by the system for want of memory)"
        return None


@dataclass(frozen=True)
class _Line:
    events: Any
    asked: Any

    def tell(self, message: Message) -> None:
        self.events.put(message)

    def halted(self) -> bool:
        return bool(self.asked.is_set())
