"""Web servers on this machine: started together, watched, and stopped with all their child processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.2
START_SECONDS = 120.0
"""Time in which a program has to answer."""
STOP_SECONDS = 8.0
"""Time in which programs have to stop before they are killed."""
LAST_LINES = 15


class ServerError(Exception):
    """A program ended unexpectedly, or does not answer. The message has its last lines of output."""


@dataclass(frozen=True, eq=False)
class Program:
    """A program that serves web pages.

    Args:
        name: name to show.
        words: the command line.
        port: the port on which it serves.
        path: path of a page that answers once the program is ready.
        environment: variables in addition to those of this process. Addresses with passwords belong here,
            since everybody on the machine can read command lines.
    """

    name: str
    words: Sequence[str]
    port: int
    path: str = "/"
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """The address of its pages."""
        return f"http://{LOOPBACK}:{self.port}"


class Servers:
    """Runs programs within its block, in sessions of their own: Ctrl-C reaches only this process."""

    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = programs
        self._folder = tempfile.TemporaryDirectory(prefix="gzsl-servers-")
        self._running: dict[Program, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Servers:
        try:
            for program in self.programs:
                with self._log(program).open("wb") as log:
                    self._running[program] = subprocess.Popen(
                        program.words,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **program.environment},
                        start_new_session=True,
                    )
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _log(self, program: Program) -> Path:
        return Path(self._folder.name) / f"{program.port}.log"

    def wait(self, stopping: Callable[[], bool], *, until_ready: bool = False) -> None:
        """Wait until ``stopping`` is true, or with ``until_ready`` until all programs answer.

        Raises:
            ServerError: a program ended, or did not answer in time.
        """
        started = time.monotonic()
        waited_for = set(self.programs) if until_ready else set()
        while not stopping():
            for program, process in self._running.items():
                if process.poll() is not None:
                    ended = f"{program.name} ended unexpectedly (exit code {process.returncode})"
                    raise ServerError(f"{ended}\n{self._tail(program)}")
            waited_for = {program for program in waited_for if not self._serves(program)}
            if until_ready and not waited_for:
                return
            if until_ready and time.monotonic() > started + START_SECONDS:
                late = min(waited_for, key=lambda program: program.port)
                raise ServerError(
                    f"{late.name} does not answer after {START_SECONDS:.0f} s\n{self._tail(late)}"
                )
            time.sleep(POLL_SECONDS)

    def _serves(self, program: Program) -> bool:
        """Whether this program answers, and not another one that took its port first."""
        if not answers(program.address + program.path):
            return False
        try:
            own = psutil.Process(self._running[program].pid)
            sockets = [s for p in (own, *own.children(recursive=True)) for s in p.net_connections("tcp")]
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # some systems do not reveal the sockets of processes
            return True
        return any(s.status == psutil.CONN_LISTEN and s.laddr.port == program.port for s in sockets)

    def _tail(self, program: Program) -> str:
        lines = self._log(program).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:]) or "(it printed nothing)"

    def _stop(self) -> None:
        """End all programs and their child processes, whatever session these are in."""
        # Ask all to end.
        processes: list[psutil.Process] = []
        for process in self._running.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                own = psutil.Process(process.pid)
                processes += [own, *own.children(recursive=True)]
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

        # Kill what is left, including processes that were started meanwhile.
        _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for left in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        for process in self._running.values():
            process.wait()
        self._folder.cleanup()


def answers(address: str, timeout: float = 2.0) -> bool:
    """Whether a page answers without an error."""
    import requests

    try:
        return requests.get(address, timeout=timeout).ok
    except requests.RequestException:
        return False


def is_free(port: int) -> bool:
    """Whether a program may listen on a port of this machine."""
    with socket.socket() as client:
        client.settimeout(1)
        # a program on all addresses may not keep us from binding
        if client.connect_ex((LOOPBACK, port)) == 0:
            return False
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port(usual: int, taken: Sequence[int] = ()) -> int:
    """The usual port, or another free one if it is in use."""
    if usual not in taken and is_free(usual):
        return usual
    while True:
        with socket.socket() as server:
            server.bind((LOOPBACK, 0))
            port = int(server.getsockname()[1])
        if port not in taken:
            return port
