"""Checks and times training on a CUDA device, in one command that fits into the time that it is given.

Run ``python -m perf.cuda --minutes 8 --json cuda.json``; ``-h`` lists the options. It needs torch, numpy,
h5py, pydantic, filelock and PyYAML. Features are synthetic, with the dimensions and lengths of UCF. Each part
of the work has a share of the time, which decides how often a measurement is repeated, and does at least one
measurement. When the time is over the rest is left out, and the output says so. A part that fails is
reported, and the others continue. The file is written again after each part. The exit code is 1 if a check
failed. With ``--device cpu`` the same code runs on the CPU, which shows that the command works and nothing
about a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch

from benchmark import registry
from benchmark.data.store import FeatureStore
from benchmark.method import Method
from benchmark.protocol.stages import Experiment
from perf import device_checks, device_speed
from perf.device_checks import Row
from perf.device_speed import PRECISIONS
from perf.generated import experiment_on, generate
from perf.trainer import Trainer

T = TypeVar("T")
UCF_SAMPLES = 6394
SHARES = {
    "agreement": 0.06,
    "batches": 0.03,
    "contract": 0.05,
    "bfloat16": 0.03,
    "waiting": 0.04,
    "not finite": 0.03,
    "memory": 0.03,
    "same bits": 0.1,
    "resume": 0.1,
    "peak": 0.03,
    "steps": 0.17,
    "sources": 0.08,
    "against the CPU": 0.1,
    "company": 0.15,
}
"""Part of the time that each part of the work may take."""
SHORT = {"epochs": 3, "batches_per_epoch": 10}
"""Settings of a training whose weights are compared."""


@dataclass
class Bench:
    """What all parts need: the device, the methods, and stores of synthetic features."""

    device: str
    methods: Sequence[type[Method]]
    samples: Sequence[int]
    folder: Path
    minutes: float
    processes: Sequence[int]
    features: str = "cls"
    """Feature set of the methods that need no class embeddings in its space."""
    batch_size: int | None = None
    """None: that of the published settings."""
    few: int = 2
    """Methods of the parts that start processes."""
    stores: dict[tuple[str, int], FeatureStore] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def store(self, features: str, samples: int) -> FeatureStore:
        """A store with about this many samples."""
        if (features, samples) not in self.stores:
            path = self.folder / f"{features}-{samples}.h5"
            self.stores[features, samples] = generate(path, features, samples)
        return self.stores[features, samples]

    def features_of(self, method: type[Method]) -> str:
        """The feature set on which a method is measured."""
        return "clip_clap" if method.needs_text_parts else self.features

    def experiment(self, method: type[Method], samples: int | None = None, **train: Any) -> Experiment:
        """A method at its published sizes on the device, in float32."""
        store = self.store(self.features_of(method), samples or self.samples[0])
        if self.batch_size is not None:
            train["batch_size"] = self.batch_size
        return experiment_on(store, method.name, device=self.device, **train)

    def seconds(self, part: str) -> float:
        """Time of a part."""
        return 60 * self.minutes * SHARES[part]

    def while_time(self, part: str, items: Sequence[T], seconds: float) -> Iterator[T]:
        """The first item, and the others as long as neither these seconds nor the whole time are over."""
        started, end = time.monotonic(), self.started + 60 * self.minutes
        for i, item in enumerate(items):
            now = time.monotonic()
            if i and (now - started > seconds or now > end):
                print(f"{part}: no time left for {len(items) - i} of {len(items)} measurements")
                return
            yield item

    def each(self, part: str) -> Iterator[tuple[type[Method], float]]:
        """The methods with the time of each, until the part's time is over."""
        seconds = self.seconds(part)
        for method in self.while_time(part, self.methods, seconds):
            yield method, seconds / len(self.methods)

    @cached_property
    def peaks(self) -> dict[str, float]:
        """Operations per second of matrix products by precision."""
        device = torch.device(self.device)
        return {p: device_speed.peak(device, p, self.seconds("peak") / len(PRECISIONS)) for p in PRECISIONS}


def of_each(part: str, check: Callable[[Trainer], Row]) -> Callable[[Bench], Iterator[Row]]:
    """A part that does the same with each method."""

    def rows(bench: Bench) -> Iterator[Row]:
        for method, _ in bench.each(part):
            yield check(Trainer(bench.experiment(method)))

    return rows


def not_finite(bench: Bench) -> Iterator[Row]:
    """A step that is not finite is found again."""
    for method, _ in bench.each("not finite"):
        folder = bench.folder / f"not-finite-{method.name}"
        yield device_checks.replayed(Trainer(bench.experiment(method)), folder)


def memory(bench: Bench) -> Iterator[Row]:
    """Too little memory."""
    for method in bench.methods[: bench.few]:
        trainer = Trainer(bench.experiment(method, **SHORT))
        yield device_checks.memory(trainer, bench.folder / f"memory-{method.name}")


def same_bits(bench: Bench) -> Iterator[Row]:
    """The same training twice."""
    for method, _ in bench.each("same bits"):
        trainers = (Trainer(bench.experiment(method, deterministic=yes, **SHORT)) for yes in (True, False))
        yield device_checks.repetition(*trainers, bench.folder / f"same-{method.name}")


def resume(bench: Bench) -> Iterator[Row]:
    """Trainings that are killed."""
    for method in bench.while_time("resume", bench.methods[: bench.few], bench.seconds("resume")):
        store = bench.store(bench.features_of(method), bench.samples[0])
        train = {"device": bench.device, "deterministic": True, **SHORT, "epochs": 6}
        folder = bench.folder / f"resume-{method.name}"
        yield device_checks.resumed(store.path, method.name, train, folder, bench.seconds("resume") + 120)


def peak(bench: Bench) -> Iterator[Row]:
    """The speed of matrix products."""
    for precision, speed in bench.peaks.items():
        yield {"precision": precision, "TFLOP/s": speed / 1e12}


def steps(bench: Bench) -> Iterator[Row]:
    """Steps and epochs of each method, and of a larger store."""
    for method, seconds in bench.each("steps"):
        for samples in bench.samples:
            experiment = bench.experiment(method, samples)
            yield {
                "samples": samples,
                **device_speed.steps(experiment, bench.peaks, seconds / len(bench.samples)),
            }


def sources(bench: Bench) -> Iterator[Row]:
    """Ways to feed a step."""
    for method, seconds in bench.each("sources"):
        yield device_speed.sources(bench.experiment(method), seconds)


def against_cpu(bench: Bench) -> Iterator[Row]:
    """The device and the CPU of the same machine."""
    for method, seconds in bench.each("against the CPU"):
        yield device_speed.against_cpu(bench.experiment(method), seconds)


def company(bench: Bench) -> Iterator[Row]:
    """Jobs per hour alone and in company, and of the CPU with a process per core."""
    runs = [(bench.device, n) for n in bench.processes] + [("cpu", os.cpu_count() or 1)]
    chosen = bench.methods[: bench.few]
    pairs = list(product(chosen, runs))
    whole = bench.seconds("company")
    for method, (device, count) in bench.while_time("company", pairs, whole):
        experiment, store = bench.experiment(method), bench.store(bench.features_of(method), bench.samples[0])
        folder = bench.folder / f"company-{method.name}-{device}-{count}-{time.monotonic_ns()}"
        train = {"device": device, "threads": 1, "resident_share": 0.5 / count}
        seconds = whole / len(pairs) / 2
        yield device_speed.company(store.path, experiment, train, folder, count, seconds)


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "agreement": of_each("agreement", device_checks.agreement),
    "batches": of_each("batches", device_checks.batches),
    "contract": of_each("contract", device_checks.contract),
    "bfloat16": of_each("bfloat16", device_checks.bfloat),
    "waiting": of_each("waiting", device_checks.waiting),
    "not finite": not_finite,
    "memory": memory,
    "same bits": same_bits,
    "resume": resume,
    "peak": peak,
    "steps": steps,
    "sources": sources,
    "against the CPU": against_cpu,
    "company": company,
}


def done(part: str, bench: Bench) -> dict[str, Any]:
    """Do a part: its rows, the seconds that it took, and the error that ended it, if any."""
    started, rows, error = time.monotonic(), [], ""
    try:
        for row in PARTS[part](bench):
            rows.append(row)
    except Exception as reason:
        error = f"{type(reason).__name__}: {reason}"
        traceback.print_exc()
    return {"rows": rows, "error": error, "seconds": time.monotonic() - started}


def table(rows: Sequence[Row]) -> str:
    """Rows as a markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[_shown(row.get(name, "")) for name in columns] for row in rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [columns, ["---"] * len(columns), *lines])


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine(device: str) -> dict[str, Any]:
    """What the numbers belong to."""
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
    }
    return {"device": name, "processor": platform.processor(), "cores": os.cpu_count(), **versions}


def chosen_methods(names: str) -> list[type[Method]]:
    """The methods of a comma-separated list; ``all`` are those that the shared loop trains.

    TCAF and AVCA come first: parts that take only a few methods take these.
    """
    methods = registry.load().select(names)
    if names != "all":
        return methods
    looped = [m for m in methods if (m.fit is Method.fit and not m.needs_text_parts) or m.name == "clipclap"]
    return sorted(looped, key=lambda m: m.name not in ("tcaf", "avca"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Do all parts, print their tables and write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(%(default)s)")
    parser.add_argument("--methods", default="all", help="(%(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="such as agreement,steps; default: all")
    parser.add_argument("--samples", default=f"{UCF_SAMPLES},25000", help="of the stores (%(default)s)")
    parser.add_argument("--features", choices=("cls", "main"), default="cls", help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, help="default: the published one")
    parser.add_argument("--processes", default="1,2,4,8", help="that share the device (%(default)s)")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device; --device cpu runs the same code on the CPU")
    unknown = [part for part in options.parts.split(",") if part not in PARTS]
    if unknown:
        parser.error(f"--parts: there is no {', '.join(unknown)}; known: {', '.join(PARTS)}")
    found: dict[str, Any] = {
        "machine": machine(options.device),
        "minutes": options.minutes,
        "bounds": {k: v for k, v in vars(device_checks).items() if k.endswith("_BOUND")},
        "parts": {},
    }
    print(json.dumps(found, indent=1))
    samples, processes = ([int(n) for n in text.split(",")] for text in (options.samples, options.processes))
    with tempfile.TemporaryDirectory() as folder, device_speed.products("float32"):
        bench = Bench(
            options.device,
            chosen_methods(options.methods),
            samples,
            Path(folder),
            options.minutes,
            processes,
            options.features,
            options.batch_size,
        )
        for part in options.parts.split(","):
            found["parts"][part] = did = done(part, bench)
            print(f"\n## {part} ({did['seconds']:.0f} s)\n\n{table(did['rows'])}\n{did['error']}", flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    failed = [
        part
        for part, did in found["parts"].items()
        if did["error"] or not all(row.get("ok", True) for row in did["rows"])
    ]
    print(f"\nfailed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
