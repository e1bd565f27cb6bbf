"""Where the time of whole stages goes: training batches, waiting for data, validation, checkpoints, the test.

Run with ``make bench`` or ``python -m perf.stage``; ``-h`` lists the options. Both stages of a method run at
its published sizes in mode ``corrected``, on a synthetic store with UCF's dimensions, lengths and numbers of
samples, without tracking (see ``perf.overhead``). Epochs are short (``--batches``). Seconds at the published
length are computed: an epoch has more batches, but also one validation and one checkpoint. For TCAF the table
has the share of the machine's matrix-product peak that a whole epoch reaches. It counts only needed
operations (``perf/flops.py``), including those of the validation.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tabulate import tabulate

from benchmark import registry
from benchmark.method import Batch, Listener
from benchmark.protocol import stages, training
from benchmark.protocol.evaluation import Ints
from benchmark.protocol.stages import VAL_SEEN, VAL_UNSEEN, Experiment, stage_one, stage_two, training_data
from benchmark.protocol.training import Loop
from perf import flops
from perf.generated import experiment_on, generate
from perf.training_step import peak

BATCHES, WAITING, VALIDATION, CHECKPOINTS, TEST = (
    "training batches",
    "waiting for data",
    "validation",
    "checkpoints",
    "test",
)
WHOLE = "both stages"
UCF_SAMPLES = 6394
"""Numbers of samples of training, validation and test."""


class Silent(Listener):
    """Ignores progress."""


def run(experiment: Experiment) -> dict[str, float]:
    """Run both stages in a temporary folder; the seconds of each activity. Batches include waiting."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(function: Callable[..., Any], what: str) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                seconds[what] += time.perf_counter() - started

        return wrapper

    # Waiting is the time until the next batch is there.
    drawn = training.ahead

    def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
        coming = drawn(batches)
        while (batch := timed(next, WAITING)(coming, None)) is not None:
            yield batch

    watched: list[tuple[Any, str, str]] = [
        (Loop, "_epoch", BATCHES),
        (stages, "validate", VALIDATION),
        (Loop, "_select", CHECKPOINTS),
        (Loop, "_save", CHECKPOINTS),
        (stages, "test", TEST),
    ]

    # Run with all these functions timed.
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        stack.enter_context(patch.object(training, "ahead", ahead))
        for owner, name, what in watched:
            stack.enter_context(patch.object(owner, name, timed(getattr(owner, name), what)))
        started = time.perf_counter()
        first = stage_one(experiment, Path(folder), "first", Silent())
        (Path(folder) / "second").mkdir()
        stage_two(experiment, first, Path(folder) / "second", "second", Silent())
        seconds[WHOLE] = time.perf_counter() - started
    return dict(seconds)


def needed(experiment: Experiment, batches: int) -> float | None:
    """Operations that an epoch of stage 1 with its validation needs; None if there is no formula."""
    if experiment.method.name != "tcaf":
        return None
    section, spec, config = experiment.development(), experiment.spec, experiment.settings.config
    samples, sampler = section.samples, training_data(experiment, 1).batches.sampler

    def steps(rows: Ints) -> tuple[list[int], list[int]]:
        return samples.audio.lengths[rows].tolist(), samples.video.lengths[rows].tolist()

    drawn, _ = sampler.epoch(experiment.seed, 0, batches, experiment.settings.train.batch_size)
    trained = sum(
        flops.tcaf_step(config, spec, *steps(rows), classes=len(sampler.class_ids)) for rows in drawn
    )
    return trained + flops.tcaf_embedding(config, spec, *steps(samples.rows(VAL_SEEN, VAL_UNSEEN)))


def row(experiment: Experiment, published: int) -> dict[str, Any]:
    """A line of the table.

    Args:
        experiment: has one epoch, so that the length of stage 2 (the best epoch of stage 1) is known.
        published: batches of an epoch at the published length.
    """
    train = experiment.settings.train
    before = peak()
    seconds, epochs = run(experiment), 2  # one in each stage
    top = max(before, peak())
    batch = seconds[BATCHES] / (epochs * train.batches_per_epoch)
    validation, checkpoint = seconds[VALIDATION] / epochs, seconds[CHECKPOINTS] / epochs
    epoch, operations = published * batch + validation + checkpoint, needed(experiment, published)
    rest = seconds[WHOLE] - sum(seconds[part] for part in (BATCHES, VALIDATION, CHECKPOINTS, TEST))
    return {
        "method": experiment.method.title,
        "features": experiment.store.features,
        "batch (ms)": round(1000 * batch, 1),
        "waiting for data (%)": round(100 * seconds[WAITING] / seconds[BATCHES], 1),
        "validation (s)": round(validation, 2),
        "checkpoint (s)": round(checkpoint, 2),
        "test (s)": round(seconds[TEST], 2),
        "rest (s)": round(rest, 2),
        "batches of an epoch": published,
        "epoch (s)": round(epoch, 1),
        "validation (%)": round(100 * validation / epoch, 1),
        "checkpoint (%)": round(100 * checkpoint / epoch, 1),
        "of peak (%)": None if operations is None else round(100 * operations / epoch / top, 1),
        "peak (GFLOP/s)": round(top / 1e9),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="all")
    parser.add_argument("--features", default="cls")
    parser.add_argument(
        "--batches", type=int, default=10, help="batches of an epoch (%(default)s); each stage has one epoch"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch (%(default)s, as jobs have them by default)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    found, rows = registry.load(), []
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        for features in options.features.split(","):
            store = generate(Path(folder) / f"{features}.h5", features, UCF_SAMPLES)
            for method in found.select(options.methods):
                published = experiment_on(store, method.name).settings.train.batches_per_epoch
                short = {"epochs": 1, "batches_per_epoch": options.batches, "threads": options.threads}
                rows.append(row(experiment_on(store, method.name, **short), published))
    print(f"{options.threads} threads, both stages with an epoch of {options.batches} batches each\n")
    print(tabulate(rows, headers="keys", tablefmt="github"))
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
