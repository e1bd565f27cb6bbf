"""Time and memory of evaluating a full test set: distances in blocks, the published grid, the exact curve.

Run with ``make bench`` or ``python -m perf.evaluation``; ``-h`` lists the options. Sizes are samples x
classes, by default VGGSound's test set. ``drawn`` embeddings (64 numbers, all distances different) measure
only the evaluation. A method also computes embeddings, at its published sizes for UCF ``cls``, of repeated
samples of a synthetic store. Each row has its own process (Linux).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from benchmark import registry
from benchmark.data.store import ModalityData, Samples
from benchmark.method import Batch, Classes, Embeddings, Method, MethodConfig, Spec
from benchmark.protocol.batching import FeatureRules
from benchmark.protocol.evaluation import EvaluationSet, nearest_classes
from benchmark.settings.schema import LengthConfig, ProtocolConfig
from perf.resident import watched
from perf.training_step import Bench

DRAWN, DIM, BLOCK = "drawn", 64, 256
"""Name and size of embeddings without a method, and the samples of a block (default of
``train.eval_batch_size``)."""
VGGSOUND = "12232x271"


class DrawnEmbeddings(Method):
    """Draws random sample embeddings; the class embeddings are used as they are."""

    def __init__(self) -> None:
        super().__init__(MethodConfig(), Spec(1, 1, DIM, 1.0, 1.0))
        self.device = torch.nn.Parameter(torch.zeros(()))

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        raise NotImplementedError

    def embed(self, batch: Batch) -> Embeddings:
        return Embeddings({"joint": torch.randn(len(batch), DIM)})

    def embed_classes(self, text: Tensor) -> Tensor:
        return text


def drawn_set(samples: int, classes: int) -> tuple[Method, EvaluationSet, FeatureRules]:
    """An evaluation of drawn embeddings, without features."""
    random = np.random.default_rng(0)
    nothing = ModalityData(1, np.broadcast_to(np.float32(0), (samples, 1)), None, None)
    labels = random.integers(0, classes, samples)
    content = Samples(nothing, nothing, labels, np.zeros(samples, np.uint8), range(samples))  # type: ignore[arg-type]
    rules = FeatureRules("mean", 1.0, 1.0, 1.0, 1.0, LengthConfig(), ProtocolConfig())
    return DrawnEmbeddings(), among(content, np.arange(samples), classes, DIM), rules


def method_set(
    name: str, samples: int, classes: int, folder: Path
) -> tuple[Method, EvaluationSet, FeatureRules]:
    """An evaluation of a method: repeated samples of a small store, among more classes than it has."""
    found = registry.load()
    bench = Bench.published(found.get(name), found.search_space(found.get(name)), "cls", "corrected", folder)
    content = bench.data.batches.samples
    rows = np.resize(np.arange(len(content.labels)), samples)
    return bench.model, among(content, rows, classes, bench.spec.text_dim), bench.data.batches.rules


def among(content: Samples, rows: np.ndarray, classes: int, text_dim: int) -> EvaluationSet:
    """An evaluation of samples among classes of which every other one is seen."""
    ids = np.arange(classes)
    text = np.random.default_rng(1).standard_normal((classes, text_dim), np.float32)
    return EvaluationSet(content, rows, ids[::2], ids[1::2], text)


def measure(what: str, samples: int, classes: int, folder: Path, threads: int) -> dict[str, float]:
    """Seconds of the parts of an evaluation; ``what`` is a method or ``DRAWN``."""
    parts = drawn_set(samples, classes) if what == DRAWN else method_set(what, samples, classes, folder)
    torch.set_num_threads(threads)
    started = time.perf_counter()
    method, data, rules = parts
    nearest = nearest_classes(method, data, rules, batch_size=BLOCK)[method.reported_output]
    ranked = time.perf_counter()
    nearest.best_on_grid()
    gridded = time.perf_counter()
    curve = nearest.curve()
    curve.best_beta(), curve.ausuc
    ended = time.perf_counter()
    return {"embed and rank": ranked - started, "grid": gridded - ranked, "curve": ended - gridded}


def row(what: str, size: str, folder: Path, threads: int) -> dict[str, Any]:
    """A line of the table."""
    samples, classes = (int(n) for n in size.split("x"))
    if what != DRAWN:
        watched(method_set, what, 1, classes, folder)  # creates the store
    seconds, memory = watched(measure, what, samples, classes, folder, threads)
    return {
        "embeddings": what,
        "samples": samples,
        "classes": classes,
        **{f"{part} (s)": round(value, 3) for part, value in seconds.items()},
        "memory before (MB)": round(memory.start / 1e6),
        "own memory, peak (MB)": round(memory.own / 1e6),
        "with mapped files, peak (MB)": round(memory.whole / 1e6),
        "whole matrix (MB)": round(4 * samples * classes / 1e6),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--methods", default="avca,tcaf", help="methods that embed VGGSound's number of samples; '' for none"
    )
    parser.add_argument(
        "--sizes", default=f"{VGGSOUND},100000x1000", help="of drawn embeddings (%(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch (%(default)s, as jobs have them by default)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file too")
    options = parser.parse_args(arguments)
    wanted = [(DRAWN, size) for size in options.sizes.split(",")]
    wanted += [(name, VGGSOUND) for name in filter(None, options.methods.split(","))]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(what, size, Path(folder), options.threads) for what, size in wanted]
    print(f"{options.threads} threads, blocks of {BLOCK} samples\n")
    print(tabulate(rows, headers="keys", tablefmt="github"))
    if options.json is not None:
        options.json.write_text(
            json.dumps({"threads": options.threads, "rows": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
