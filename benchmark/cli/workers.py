"""The options that say who does the jobs of a call: this process, several processes, or a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.running.jobs import Call, Unit
    from benchmark.running.runner import Engine, Runner
    from benchmark.running.tasks import Display

Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that work side by side: 1, with ray as many as fit. The numbers are those of one."),
]
Executor = Annotated[
    Literal["local", "ray"], typer.Option(help="Who does the jobs: this machine, or a Ray cluster (docs/cluster.md).")
]
RayAddress = Annotated[str | None, typer.Option(help="Ray cluster, HOST:PORT; else RAY_ADDRESS, or a new one on this machine.")]
GpusPerJob = Annotated[
    float | None, typer.Option(min=0, help="GPUs of a cluster that a job gets, such as 0.5; 1 on CUDA if not given.")
]


@dataclass(frozen=True)
class Workers:
    """Who does the jobs of a call, as the options say.

    Raises:
        UsageError: an option of Ray without Ray, or Ray is not installed.
    """

    executor: Literal["local", "ray"]
    jobs: int | None
    ray_address: str | None
    gpus_per_job: float | None

    def __post_init__(self) -> None:
        for option, value in (("--ray-address", self.ray_address), ("--gpus-per-job", self.gpus_per_job)):
            if self.executor != "ray" and value is not None:
                raise UsageError(f"{option} is of use with --executor ray only")
        if self.executor == "ray":
            import benchmark.running.cluster  # noqa: F401 - says what to install where Ray is missing

    def note(self, units: list[Unit]) -> str | None:
        """What the user should know before the jobs start."""
        jobs, cores = self.jobs or 1, os.cpu_count() or 1
        threads = jobs * max(unit.settings.train.threads for unit in units)
        if self.executor == "ray" or jobs == 1 or threads <= cores:
            return None
        return f"note: {jobs} jobs want {threads} threads, this machine has {cores} cores: each job will be slower"

    def engine(
        self,
        runner: Runner,
        call: Call,
        units: list[Unit],
        data_root: Path,
        lane: Callable[[Hashable], Display],
        *,
        tune_only: bool,
    ) -> Engine | None:
        """Who does the jobs; None for this process."""
        if self.executor == "local" and self.jobs in (None, 1):
            return None
        from benchmark.running.scheduler import Desk

        desk = Desk.of(runner, call, units, data_root, lane, tune_only=tune_only)
        if self.executor == "ray":
            from benchmark.running.cluster import RayCluster

            return RayCluster(desk, units, self.ray_address, self.jobs, self.gpus_per_job)
        from benchmark.running.processes import LocalProcesses

        return LocalProcesses(desk, self.jobs or 1)
