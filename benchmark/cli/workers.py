"""The options for where jobs run: in this process, in several processes, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from benchmark.errors import UsageError

if TYPE_CHECKING:
    from benchmark.running.events import Show
    from benchmark.running.jobs import Plan
    from benchmark.running.runner import Engine, Runner

Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Parallel worker processes; results do not depend on it. (default: 1; with Ray: as many as fit)",
    ),
]
Executor = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Where jobs run: on this machine, or on a Ray cluster (docs/how-to/cluster.md)."),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of the Ray cluster. (default: RAY_ADDRESS, or a new one on this machine)",
    ),
]
GpusPerJob = Annotated[
    float | None, typer.Option(min=0, help="GPUs per job; fractions are allowed. (default: 1 on CUDA)")
]


@dataclass(frozen=True)
class Workers:
    """The chosen options for where jobs run.

    Raises:
        UsageError: an option of Ray without Ray, or Ray is not installed.
    """

    jobs: Jobs = None
    executor: Executor = "local"
    ray_address: RayAddress = None
    gpus_per_job: GpusPerJob = None

    def __post_init__(self) -> None:
        for option, value in (("--ray-address", self.ray_address), ("--gpus-per-job", self.gpus_per_job)):
            if self.executor != "ray" and value is not None:
                raise UsageError(f"{option} needs --executor ray")
        if self.executor == "ray":
            import benchmark.running.cluster  # noqa: F401 - its error says what to install if Ray is missing

    def note(self, plan: Plan) -> str | None:
        """A note for the user before the jobs start: whether there are more threads than cores."""
        jobs, cores = self.jobs or 1, os.cpu_count() or 1
        threads = jobs * max(unit.settings.train.threads for unit in plan.units)
        if self.executor == "ray" or jobs == 1 or threads <= cores:
            return None
        return f"note: {jobs} jobs need {threads} threads on {cores} cores: each job will be slower"

    def engine(
        self, runner: Runner, plan: Plan, data_root: Path, slot: Callable[[Hashable], Show]
    ) -> Engine | None:
        """The engine that does the jobs; None for this process."""
        if self.executor == "local" and self.jobs in (None, 1):
            return None
        from benchmark.running.scheduler import Dispatcher

        dispatcher = Dispatcher.of(runner, plan, data_root, slot)
        if self.executor == "ray":
            from benchmark.running.cluster import RayCluster

            return RayCluster(dispatcher, plan, self.ray_address, self.jobs, self.gpus_per_job)
        from benchmark.running.processes import LocalProcesses

        return LocalProcesses(dispatcher, self.jobs or 1)
