"""Ray: workers on several machines that do tasks as ``scheduler.py`` directs. Only this module imports it.

Ray places the workers and notices lost ones. Results are in the tracking store and in Optuna's storage, so a
lost cluster or command is simply started again.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

from benchmark.errors import Terminated, UsageError
from benchmark.protocol.device import choose_device
from benchmark.running.events import Said
from benchmark.running.jobs import Plan
from benchmark.running.scheduler import POLL_SECONDS, Dispatcher, Message, WorkerSpec, do_task
from benchmark.running.tasks import Task, TaskResult
from benchmark.system.databases import sqlite_file
from benchmark.system.shipped_files import install

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
except ModuleNotFoundError:
    raise UsageError(f"--executor ray: Ray is not installed; {install('cluster')}") from None

GUIDE = "docs/how-to/cluster.md"
WAIT_SECONDS = 60.0
"""How long a cluster may take to come up."""


@dataclass(frozen=True)
class RayCluster:
    """Does tasks on a Ray cluster.

    Args:
        dispatcher: gives the tasks out.
        plan: the work.
        address: of the cluster, as ``ray.init`` takes it; None: the one in ``RAY_ADDRESS``, or a new one on
            this machine for as long as the benchmark run takes.
        jobs: how many tasks run together; None: as many as fit.
        gpus: share of a GPU for each task; None: a whole one if the jobs run on CUDA.
    """

    dispatcher: Dispatcher
    plan: Plan
    address: str | None = None
    jobs: int | None = None
    gpus: float | None = None

    def run(self, tasks: Sequence[Task], then: Callable[[Task, TaskResult], Sequence[Task]]) -> None:
        """Do the tasks and those that follow from them.

        Raises:
            UsageError: the cluster cannot be reached, or cannot do the jobs as they are planned.
            KeyboardInterrupt: the work was stopped; running tasks have ended at a checkpoint.
        """
        with _connection(self.address, self.say):
            # The share of a machine that each task gets.
            training = [unit.settings.train for unit in self.plan.units]
            planned = {choose_device(train.device).type for train in training}
            free_choice = any(train.device == "auto" for train in training)
            has_gpus = ray.cluster_resources().get("GPU", 0) > 0
            gpus = gpu_share(self.gpus, on_cuda="cuda" in planned, free_choice=free_choice, has_gpus=has_gpus)
            share = Share(max(train.threads for train in training), gpus)

            mailbox = _mailbox()
            with _shown(self.dispatcher, mailbox):
                self.dispatcher.run(_Pool(self, share, mailbox), tasks, then)

    def say(self, text: str) -> None:
        """Show a line to the user."""
        self.dispatcher.slot(0)(Said(text))


def gpu_share(wanted: float | None, *, on_cuda: bool, free_choice: bool, has_gpus: bool) -> float:
    """Share of a GPU that a task gets.

    The device is part of a job's key, so workers must use the kind of device that the run was planned for.

    Args:
        wanted: what the user asked for.
        on_cuda: whether the jobs were planned for CUDA.
        free_choice: whether the plan chose the device itself (``train.device=auto``).
        has_gpus: whether the cluster has GPUs.

    Raises:
        UsageError: plan, wish and cluster do not fit together.
    """
    if on_cuda and wanted == 0:
        raise UsageError("--gpus-per-job 0: the jobs are planned for CUDA; add --set train.device=cpu")
    if on_cuda:
        return 1.0 if wanted is None else wanted
    if wanted or (wanted is None and has_gpus and free_choice):
        raise UsageError(
            "the jobs are planned for the CPU, since this machine has no GPU that torch can use; start the "
            "command on a "
            "machine with one, or use the CPUs of the cluster with --gpus-per-job 0 --set train.device=cpu"
        )
    return 0.0


@dataclass(frozen=True)
class Share:
    """What a task needs of a machine."""

    cpus: int
    gpus: float

    def fits(self, resources: Mapping[str, float]) -> int:
        """How many tasks fit on a machine with these resources."""
        fit = int(resources.get("CPU", 0) // self.cpus)
        return min(fit, int(resources.get("GPU", 0) / self.gpus + 1e-6)) if self.gpus else fit


def check_storages(spec: WorkerSpec, hosts: set[str], *, tunes: bool) -> None:
    """Refuse SQLite files if several machines work: they break on shared file systems.

    Args:
        spec: has the addresses of the stores.
        hosts: names of the machines.
        tunes: whether Optuna's storage is used.

    Raises:
        UsageError: a storage is a SQLite file and there are several machines.
    """
    used = {"--tracking-uri": spec.tracking_uri, **({"--storage": spec.storage} if tunes else {})}
    wrong = [f"{option} {uri}" for option, uri in used.items() if sqlite_file(uri) is not None]
    if wrong and len(hosts) > 1:
        raise UsageError(
            f"{' and '.join(wrong)}: a SQLite file serves one machine, and this cluster has {len(hosts)} "
            f"({', '.join(sorted(hosts))}); give the address of a server, as {GUIDE} says"
        )


@contextmanager
def _connection(address: str | None, say: Callable[[str], None]) -> Iterator[None]:
    address = address or os.environ.get("RAY_ADDRESS") or "local"  # never one that happens to run here
    _await_cluster(address, say)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise UsageError(f"--ray-address {address}: cannot be used: {error} (see {GUIDE})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _await_cluster(address: str, say: Callable[[str], None]) -> None:
    """Wait until something listens at ``HOST:PORT``, since Ray waits many minutes; other forms go to Ray.

    Raises:
        UsageError: nothing does.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        return
    deadline, announced = time.monotonic() + WAIT_SECONDS, False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=WAIT_SECONDS).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise UsageError(
                    f"--ray-address {address}: no cluster is there ({error}); start one with `ray start "
                    f"--head`, see {GUIDE}"
                ) from error
        else:
            return
        if not announced:
            announced = True
            say(f"waiting for the Ray cluster at {address}")
        time.sleep(POLL_SECONDS)


class _Mailbox:
    """What workers send, and whether they should stop."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.asked = False

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def take(self) -> list[Message]:
        taken, self.messages = self.messages, []
        return taken

    def halt(self) -> None:
        self.asked = True

    def halted(self) -> bool:
        return self.asked


def _mailbox() -> Any:
    """A mailbox in a separate process of this machine, so that it is lost only with the command."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()


@contextmanager
def _shown(dispatcher: Dispatcher, mailbox: Any) -> Iterator[None]:
    """While entered, what workers send is shown."""
    over = threading.Event()

    def pump() -> None:
        last = False
        with suppress(ray.exceptions.RayError):  # the mailbox is lost with the connection, after Ctrl-C twice
            while not last:
                last = over.wait(POLL_SECONDS)
                for message in ray.get(mailbox.take.remote()):
                    dispatcher.show(message)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)


@dataclass
class _Pool:
    """The workers of a cluster during a benchmark run."""

    cluster: RayCluster
    share: Share
    mailbox: Any
    announced: bool = field(default=False, init=False)
    """Whether the user knows that nothing fits."""

    def room(self) -> int:
        """What fits on the machines that are there now; at least one, which waits for a machine."""
        machines = [node for node in ray.nodes() if node["Alive"]]
        tunes = any(unit.tuning.searches for unit in self.cluster.plan.units)
        check_storages(
            self.cluster.dispatcher.spec, {node["NodeManagerHostname"] for node in machines}, tunes=tunes
        )
        fit = sum(self.share.fits(node["Resources"]) for node in machines)
        if fit == 0 and not self.announced:
            self.announced = True
            need = f"{self.share.cpus} CPUs" + (f" and {self.share.gpus:g} GPUs" if self.share.gpus else "")
            self.cluster.say(f"waiting for a machine with {need} for a job")
        return max(1, min(fit, self.cluster.jobs or fit))

    def submit(self, task: Task) -> Future[TaskResult]:
        # the dispatcher counts and reports the attempts, so Ray makes none itself
        remote = ray.remote(_do).options(num_cpus=self.share.cpus, num_gpus=self.share.gpus, max_retries=0)
        spec, channel = self.cluster.dispatcher.spec, _Channel(self.mailbox)
        future: Future[TaskResult] = remote.remote(spec, task, channel, self.share.gpus).future()
        return future

    def halt(self) -> None:
        ray.get(self.mailbox.halt.remote())

    def loss(self, error: Exception) -> str | None:
        if isinstance(error, ray.exceptions.RayTaskError):
            cause = error.cause
            return str(cause) if isinstance(cause, UsageError) else f"{type(cause).__name__}: {cause}"
        if isinstance(error, ray.exceptions.RayError):
            return f"its worker was lost ({type(error).__name__})"
        return None


@dataclass(frozen=True)
class _Channel:
    mailbox: Any

    def send(self, message: Message) -> None:
        self.mailbox.send.remote(message)

    def halted(self) -> bool:
        return bool(ray.get(self.mailbox.halted.remote()))


def _do(spec: WorkerSpec, task: Task, channel: _Channel, gpus: float) -> TaskResult:
    """Do a task in this worker."""
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whatever Ray shows: the jobs are planned for the CPU
    signal.signal(signal.SIGTERM, _end)  # Ray's own handler raises what a method may raise too
    return do_task(spec, task, channel)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated(1)
