"""Share of the training time that the harness adds (tracking, study, checkpoints, progress): below 2 %.

Run with ``make bench`` or ``python -m perf.overhead``; ``-h`` lists the options. It runs a trial of a study
of TCAF at its published sizes for UCF (``cls``). Features are synthetic with UCF's dimensions, lengths and
numbers of validation samples. SQLite stores and live progress bars are real.

A few short epochs are measured. Each function of the harness is timed without the other timed functions that
it calls, and its time is assigned to a batch, an epoch or the job. The share at the published length is
computed from these: (job + epochs * (epoch + batches * batch)) of the harness / epochs * (validation +
batches * batch) of the training. The result is rather too high than too low, since it includes the first
calls of the stores. A separate thread draws progress bars. Its CPU time per second of training counts, since
it cannot slow the training by more. Connecting to the stores and opening the data are not included, since a
process does these once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.live import Live
from tabulate import tabulate

from benchmark import registry
from benchmark.cli.progress import LiveDisplay, Slot
from benchmark.data.cards import load_cards
from benchmark.method import Method
from benchmark.protocol import finite, seal, stages, training
from benchmark.running import worker
from benchmark.running.benchmark_run import BenchmarkRun
from benchmark.running.jobs import Plan, Unit
from benchmark.running.planning import make_plan
from benchmark.running.runner import Runner
from benchmark.running.stores import Stores
from benchmark.settings.resolve import resolve
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.tracker import Tracker
from benchmark.tuning import study
from perf.sizes import LIKE_UCF

VALIDATED_LIKE_UCF = {
    "val_seen_samples": 12,
    "val_unseen_samples": 122,
    "test_seen_samples": 1,
    "test_unseen_samples": 1,
}
"""Number of validation samples, like UCF's (1,824 for 1,820); the test splits are not used."""
BARS = "progress bars, in a thread"
TRAINING = ("training batches", "validation")
HARNESS = ("tracking", "study", "checkpoints", "progress", BARS, "other")
GOAL = 0.02
Part = tuple[str, str]
"""An activity, and what it is done for: ``batch``, ``epoch``, ``job``, or ``second`` for continuous work."""


@dataclass
class Stopwatch:
    """Time of wrapped functions without the wrapped functions that they call, for each thread.

    The thread that answers the training loop (``benchmark/protocol/seal.py``) works while the loop waits. Its
    work for an epoch counts as part of the loop, and only the rest of the waiting counts as waiting.
    """

    seconds: dict[Part, float] = field(default_factory=lambda: defaultdict(float))
    checks: float = 0.0
    """Seconds of checks of losses and gradients, which are also part of the training batches."""
    _running: threading.local = field(default_factory=threading.local)

    def timed(self, function: Callable[..., Any], what: str, per: str | None = None) -> Callable[..., Any]:
        """Count a function's time as ``what``; None: per epoch in the training loop, and per job outside."""
        clock = time.thread_time if per == "second" else time.perf_counter

        @functools.wraps(function)
        def wrapper(*args: Any, **options: Any) -> Any:
            inside: list[list[Any]] = self._running.__dict__.setdefault("inside", [])
            answering = threading.current_thread() is not threading.main_thread()
            in_loop = answering or any(name == "loop" for name, _ in inside)
            inside.append([what, 0.0])
            started = clock()
            try:
                return function(*args, **options)
            finally:
                took = clock() - started
                _, of_others = inside.pop()
                name = "other" if what == "loop" else what
                phase = per or ("epoch" if in_loop or what == "loop" else "job")
                self.seconds[name, phase] += took - of_others
                if inside:
                    inside[-1][1] += took
                elif answering and per in (None, "epoch"):
                    self.seconds["other", "epoch"] -= took  # the loop waited for it

        return wrapper

    def checked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its time is added to ``checks``."""

        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.checks += time.perf_counter() - started

        return wrapper

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Time the functions of the harness within the block."""
        watched: list[tuple[Any, str, str, str | None]] = [
            *(
                (Tracker, name, "tracking", None)
                for name, f in vars(Tracker).items()
                if callable(f) and name[0] != "_"
            ),
            (Runner, "run", "other", None),
            (worker.Worker, "run_job", "other", None),
            (study.Study, "run", "study", None),
            (study._Handle, "report", "study", None),
            (worker, "log_study", "study", None),
            (training.Loop, "run", "loop", None),
            (seal.Window, "ask", "other", "epoch"),
            (seal.Window, "tell", "progress", "batch"),
            (Method, "optimizer", "other", "job"),
            (training.Loop, "_epoch", "training batches", "batch"),
            (stages, "validate", "validation", "epoch"),
            *((training.Loop, name, "checkpoints", None) for name in ("_select", "_save", "_resume")),
            *((worker, name, "checkpoints", None) for name in ("clear_checkpoints", "write_weights_record")),
            *((Slot, name, "progress", None) for name in ("start", "epoch", "end", "say", "clear")),
            (Slot, "batch", "progress", "batch"),
            (Live, "refresh", BARS, "second"),
        ]
        with contextlib.ExitStack() as stack:
            for owner, name, what, per in watched:
                stack.enter_context(patch.object(owner, name, self.timed(getattr(owner, name), what, per)))
            for name in ("finite_losses", "check_gradients"):
                stack.enter_context(patch.object(finite, name, self.checked(getattr(finite, name))))
            yield


@dataclass(frozen=True)
class Measured:
    """A measured trial, and the numbers computed from it."""

    epochs: int
    batches: int
    published_epochs: int
    published_batches: int
    seconds: Mapping[Part, float]
    checks: float
    """Seconds of checks of losses and gradients, part of the training batches."""

    def at_published_length(self, what: str) -> float:
        """Computed seconds of a part at the published length."""
        batches = self.published_epochs * self.published_batches
        times = {
            "job": 1.0,
            "epoch": self.published_epochs / self.epochs,
            "batch": batches / (self.epochs * self.batches),
        }
        if what not in TRAINING:
            times["second"] = sum(map(self.at_published_length, TRAINING)) / sum(map(self.measured, TRAINING))
        return sum(s * times[per] for (name, per), s in self.seconds.items() if name == what)

    def measured(self, what: str) -> float:
        """Measured seconds of a part."""
        return sum(s for (name, _), s in self.seconds.items() if name == what)

    def share(self, parts: Sequence[str] = HARNESS, *, published: bool = True) -> float:
        """Time of parts of the harness as a fraction of the training time, including validation."""
        of = self.at_published_length if published else self.measured
        return sum(map(of, parts)) / sum(map(of, TRAINING))

    def as_dict(self) -> dict[str, Any]:
        """The numbers in plain types."""
        parts = {
            what: {
                "measured_seconds": self.measured(what),
                "seconds_at_published_length": self.at_published_length(what),
                "by_phase": {per: s for (name, per), s in self.seconds.items() if name == what},
            }
            for what in (*TRAINING, *HARNESS)
        }
        lengths = {"epochs": self.epochs, "batches": self.batches}
        published = {"epochs": self.published_epochs, "batches": self.published_batches}
        shares = {
            "share_at_published_length": self.share(),
            "share_measured": self.share(published=False),
            "goal": GOAL,
        }
        return {
            "measured": lengths,
            "published": published,
            **shares,
            "checks_seconds": self.checks,
            "parts": parts,
        }

    def markdown(self) -> str:
        """The table."""
        rows: list[list[object]] = []
        for what in (*TRAINING, *HARNESS):
            share = "" if what in TRAINING else f"{100 * self.share((what,)):.3f} %"
            rows.append([what, f"{self.measured(what):.3f}", f"{self.at_published_length(what):.1f}", share])
        total = [f"{sum(map(of, HARNESS)):.3f}" for of in (self.measured, self.at_published_length)]
        rows.append(["**harness**", *total, f"**{100 * self.share():.3f} %**"])
        columns = [
            "part",
            f"measured s ({self.epochs} × {self.batches} batches)",
            f"computed s ({self.published_epochs} × {self.published_batches} batches)",
            "share of training, computed",
        ]
        return tabulate(
            rows,
            columns,
            tablefmt="github",
            disable_numparse=True,
            colalign=("left", "right", "right", "right"),
        )


def tcaf_on_ucf(
    data: Path, epochs: int, batches: int, data_settings: Mapping[str, object], small: Mapping[str, object]
) -> Unit:
    """TCAF with its published settings for UCF on synthetic data.

    Args:
        small: settings of TCAF that replace the published ones.
    """
    like = {**LIKE_UCF, **VALIDATED_LIKE_UCF, **data_settings}
    settings = [f"data.{key}={json.dumps(value)}" for key, value in like.items()]
    run = BenchmarkRun(methods="tcaf", dataset="synthetic", stages="1", trials=1, settings=settings)
    unit = make_plan(run, registry.load(), data).units[0]
    short = {"epochs": epochs, "batches_per_epoch": batches}
    changed = {"protocol": {"text_alignment": "by_name"}, "tcaf": dict(small), "train": short}
    space, card = registry.load().search_space(unit.method), load_cards()["ucf"]
    return replace(unit, settings=resolve(unit.method, space, card, "cls", "paper", changed))


def measure(
    folder: Path,
    epochs: int,
    batches: int,
    data_settings: Mapping[str, object] | None = None,
    small: Mapping[str, object] | None = None,
) -> Measured:
    """Run and time a study with one trial in a folder."""
    unit = tcaf_on_ucf(folder / "data", epochs, batches, data_settings or {}, small or {})
    tracker = Tracker(sqlite_uri(folder / "mlflow.db"), folder / "artifacts")
    space = registry.load().search_space(unit.method)
    length = space.published["ucf"]["cls"].train
    watch = Stopwatch()
    screen = LiveDisplay(Console(file=io.StringIO(), force_terminal=True, width=160))
    stores = Stores(tracker, sqlite_uri(folder / "optuna.db"), folder / "runs")
    runner = Runner(stores, screen.slot(), "python -m perf.overhead")
    call = BenchmarkRun(methods="tcaf", dataset="synthetic", stages="1", trials=1)
    with watch.watching(), screen:
        result = runner.run(Plan(call, [unit], tune_only=True))
    if result.failed:
        raise SystemExit(f"the trial failed: {result.failed[0].error}")
    return Measured(
        epochs, batches, length["epochs"], length["batches_per_epoch"], dict(watch.seconds), watch.checks
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; exit code 1 if the share is not below the goal."""
    parser = argparse.ArgumentParser(description="Share of the training time that the harness costs.")
    parser.add_argument("--epochs", type=int, default=2, help="epochs to measure (%(default)s)")
    parser.add_argument("--batches", type=int, default=5, help="batches of an epoch to measure (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.epochs, options.batches)
    print(found.markdown())
    sentence = (
        f"At the published length the harness costs {100 * found.share():.3f} % of the training time (goal: "
        "below "
        f"{100 * GOAL:.0f} %). Measured: {found.epochs} epochs of {found.batches} batches, each with a "
        "whole validation. "
        "Computed: costs of a batch, of an epoch and of the job, times their numbers. The training batches "
        "include checks of "
        f"losses and gradients ({found.checks:.3f} s measured)."
    )
    print(f"\n{sentence}\n\ntorch {torch.__version__}, {torch.get_num_threads()} thread(s), CPU")
    if options.json is not None:
        options.json.write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
    if found.share() >= GOAL:
        raise SystemExit(f"{100 * found.share():.2f} % is not below the goal")


if __name__ == "__main__":
    main()
