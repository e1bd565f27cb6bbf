"""Time of a training step of each method at its published sizes for UCF, and its share of the peak speed.

Run with ``make bench`` or ``python -m perf.training_step``; ``-h`` lists the options. Features are synthetic
with the sizes and lengths of UCF (``cls``: video 5 to 17 time steps, audio 3 to 11; ``main``: 3 to 10 of
both). The peak is the speed of a product of two 2048 x 2048 matrices, the fastest of several before and
after, with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.data.locate import open_or_build
from benchmark.method import Batch, Method
from benchmark.protocol.batching import with_evaluation_times
from benchmark.protocol.device import autocast_for
from benchmark.protocol.finite import check_gradients, finite_losses
from benchmark.protocol.stages import Experiment, training_data
from benchmark.settings.resolve import resolve
from perf import flops
from perf.sizes import SIZES

PARTS = ("data", "forward", "backward", "checks", "optimiser", "extra pass")


@dataclass(frozen=True)
class Step:
    """Mean seconds of each part of a step."""

    method: str
    features: str
    mode: str
    precision: str
    batch: int
    seconds: dict[str, float]
    operations: float
    """Operations of a step without the extra pass: those needed (TCAF, ``flops.tcaf_step``), or those that
    torch counts."""

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def speed(self) -> float:
        """Operations per second, without the extra pass."""
        return self.operations / (self.total - self.seconds["extra pass"])


class Bench:
    """A method at its published sizes, with batches for training."""

    def __init__(self, experiment: Experiment, features: str, mode: str) -> None:
        self.features, self.mode, self.settings = features, mode, experiment.settings
        self.data = training_data(experiment, 1)
        self.spec, self.model = experiment.spec, experiment.build().train()
        self.optimizer, self.autocast = self.model.optimizer(), autocast_for(self.settings.train)

    @classmethod
    def published(
        cls,
        method: type[Method],
        space: Any,
        features: str,
        mode: str,
        folder: Path,
        precision: str = "float32",
    ) -> Bench:
        """A method on synthetic features, whose store is created in the folder."""
        cards = load_cards()
        store = open_or_build(cards["synthetic"], None, folder, overrides=SIZES[features])
        overrides = {"protocol": {"text_alignment": "by_name"}, "train": {"precision": precision}}
        settings = resolve(method, space, cards["ucf"], features, mode, overrides)
        return cls(
            Experiment(method, settings, cards["ucf"].features[features], store, 0, cards["ucf"]),
            features,
            mode,
        )

    def steps(self, count: int) -> Step:
        """Mean of some steps, after one step to warm up."""
        sums: dict[str, float] = defaultdict(float)
        batches = self.data.batches.epoch(0, 0, count + 1, self.settings.train.batch_size)
        operations = 0.0
        for i in range(count + 1):
            parts: dict[str, float] = defaultdict(float)
            batch = self._timed(parts, "data", lambda: next(batches))
            self._step(batch, parts)
            if i:
                operations += self._operations(batch) / count
                for name, seconds in parts.items():
                    sums[name] += seconds / count
        seconds = {name: sums[name] for name in PARTS}
        train = self.settings.train
        return Step(
            self.model.title, self.features, self.mode, train.precision, train.batch_size, seconds, operations
        )

    def _step(self, batch: Batch, parts: dict[str, float]) -> None:
        """One training step as in ``training.Loop``."""
        classes, model = self.data.batches.classes, self.model
        with self.autocast():
            losses = self._timed(parts, "forward", lambda: model.loss(batch, classes))
        self._timed(parts, "checks", lambda: finite_losses(losses, 0, 0))
        self.optimizer.zero_grad(set_to_none=True)
        self._timed(parts, "backward", lambda: losses["total"].backward())  # type: ignore[no-untyped-call]
        self._timed(parts, "checks", lambda: check_gradients(model, 0, 0, dict))
        self._timed(parts, "optimiser", self.optimizer.step)
        if self.settings.protocol.extra_bn_pass == "paper":
            with torch.no_grad(), self.autocast():
                self._timed(
                    parts,
                    "extra pass",
                    lambda: model.after_step(with_evaluation_times(batch, self.data.batches.rules)),
                )

    def _timed(self, parts: dict[str, float], name: str, action: Any) -> Any:
        started = time.perf_counter()
        result = action()
        parts[name] += time.perf_counter() - started
        return result

    def _operations(self, batch: Batch) -> float:
        classes = self.data.batches.classes
        if self.model.name == "tcaf" and batch.audio_mask is not None and batch.video_mask is not None:
            lengths = [mask.sum(1).tolist() for mask in (batch.audio_mask, batch.video_mask)]
            return flops.tcaf_step(self.model.config, self.spec, *lengths, classes=len(classes.text))
        with flops.counter() as counter, self.autocast():
            self.model.loss(batch, classes)["total"].backward()  # type: ignore[no-untyped-call]
        return float(counter.get_total_flops())


def peak(size: int = 2048) -> float:
    """Operations per second of a product of two square matrices."""
    return 2 * size**3 / product_seconds(size, size, size, times=10)


def product_seconds(rows: int, inner: int, columns: int, times: int) -> float:
    """Seconds of a product of two matrices, the fastest of several."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    best = float("inf")
    for _ in range(times):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return best


def row(step: Step, top: float) -> dict[str, Any]:
    """A line of the table."""
    return {
        "method": step.method,
        "features": step.features,
        "mode": step.mode,
        "precision": step.precision,
        "batch": step.batch,
        **{f"{name} (ms)": round(1000 * seconds, 2) for name, seconds in step.seconds.items()},
        "step (ms)": round(1000 * step.total, 1),
        "data (%)": round(100 * step.seconds["data"] / step.total, 1),
        "operations (GFLOP)": round(step.operations / 1e9, 2),
        "of peak (%)": round(100 * step.speed() / top, 1),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="all")
    parser.add_argument("--features", default="cls,main")
    parser.add_argument("--modes", default="paper,corrected")
    parser.add_argument("--precisions", default="float32", help="such as float32,bfloat16 (%(default)s)")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch (%(default)s, as jobs have them by default)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    found = registry.load()
    steps = []
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        before = peak()
        for method in found.select(options.methods):
            for features in options.features.split(","):
                for mode, precision in product(options.modes.split(","), options.precisions.split(",")):
                    bench = Bench.published(
                        method, found.search_space(method), features, mode, Path(folder), precision
                    )
                    torch.set_num_threads(options.threads)
                    steps.append(bench.steps(options.steps))
    top = max(before, peak())
    rows = [row(step, top) for step in steps]
    print(
        f"{options.threads} threads, matrix products at {top / 1e9:.0f} GFLOP/s; 'of peak' omits the extra "
        "pass\n"
    )
    print(tabulate(rows, headers="keys", tablefmt="github"))
    if options.json:
        options.json.write_text(
            json.dumps({"threads": options.threads, "peak": top, "steps": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
