"""What bounds a training step of each method at its published sizes, by torch's profiler.

Run with ``make bench`` or ``python -m perf.bounds``; ``-h`` lists the options. The time of an operation
excludes the operations that it calls. Recording takes about a twentieth of a step, which counts as Python's
time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.profiler import ProfilerActivity, profile

from benchmark import registry
from perf.training_step import Bench, peak, product_seconds

PRODUCTS, ATTENTION, OPTIMISER, DRAWS, MOVES = "products", "attention", "optimiser", "draws", "moves"
KINDS = {
    PRODUCTS: ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    ATTENTION: ("aten::_scaled_dot_product",),
    OPTIMISER: ("aten::_fused_adam_",),
    DRAWS: ("aten::random_", "aten::ge"),
    MOVES: ("aten::copy_", "aten::cat", "aten::fill_", "aten::index", "aten::zero_"),
}
"""Name prefixes of the operations of each kind: matrix products, attention, Adam, draws of dropout, copies.

All others are element-wise operations or sums (norms, activations, losses).
"""
OTHER, PYTHON = "other operations", "Python"


def of(bench: Bench, steps: int) -> dict[str, Any]:
    """Shares of a step in percent by kind, and the speed of its matrix products in percent of the peak.

    For products *alone*, two matrices of each size of the step are multiplied repeatedly, so that they stay
    in the caches.
    """
    bench.steps(1)
    before = peak()
    seconds = operations = 0.0
    spent: dict[str, float] = defaultdict(float)
    sizes: Counter[tuple[int, int, int]] = Counter()
    for _ in range(steps):  # recorded one by one, since a record of many steps takes gigabytes
        with profile(activities=[ProfilerActivity.CPU], with_flops=True, record_shapes=True) as record:
            started = time.perf_counter()
            bench.steps(0)  # only the step that usually warms up, which is recorded here
            seconds += time.perf_counter() - started
        for event in record.key_averages():
            kind = next((kind for kind, names in KINDS.items() if event.key.startswith(names)), OTHER)
            spent[kind] += event.self_cpu_time_total * 1e-6
            operations += event.flops if kind == PRODUCTS else 0
        for event in record.key_averages(group_by_input_shape=True):
            if event.key in ("aten::mm", "aten::addmm"):
                (rows, inner), (_, columns) = [shape for shape in event.input_shapes if len(shape) == 2][-2:]
                sizes[rows, inner, columns] += event.count
    shares = {kind: round(100 * spent[kind] / seconds, 1) for kind in (*KINDS, OTHER)}
    alone = sum(2 * m * k * n * times for (m, k, n), times in sizes.items())
    alone /= sum(product_seconds(*size, times=5) * times for size, times in sizes.items())
    top = max(before, peak())
    speeds = {"products, of peak": operations / spent[PRODUCTS], "alone, of peak": alone}
    return {
        **shares,
        PYTHON: round(100 - sum(shares.values()), 1),
        **{name: round(100 * speed / top, 1) for name, speed in speeds.items()},
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="all")
    parser.add_argument("--features", default="cls,main")
    parser.add_argument("--modes", default="corrected")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch (%(default)s, as jobs have them by default)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    found, rows = registry.load(), []
    with tempfile.TemporaryDirectory() as folder:
        for method in found.select(options.methods):
            for features in options.features.split(","):
                for mode in options.modes.split(","):
                    bench = Bench.published(method, found.search_space(method), features, mode, Path(folder))
                    torch.set_num_threads(options.threads)
                    named = {"method": method.title, "features": features, "mode": mode}
                    rows.append(named | of(bench, options.steps))
    print(f"{options.threads} threads; shares of a step in percent\n")
    print(tabulate(rows, headers="keys", tablefmt="github"))
    if options.json:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
