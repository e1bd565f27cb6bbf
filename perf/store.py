"""Speed of the feature store: imports, reading (warm, cold, in memory), and training steps by dataset size.

Run with ``make bench`` or ``python -m perf.store``; ``-h`` lists the options. Features are synthetic with
UCF's dimensions and lengths. An import reads pickled sequences in the official layout, which are in the
system's cache since they were just written. Before a cold pass, the system is asked to drop its cached pages
of the file. Caches of a host or a disk below it stay. The measurements of a table alternate, and medians are
shown.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from benchmark.data.cards import load_cards
from benchmark.data.importing.official_layout import import_official
from benchmark.data.store import SPLITS, FeatureStore
from benchmark.protocol.batching import make_batch
from perf.generated import experiment_on, forget, generate
from perf.sizes import SIZES
from perf.training_step import Bench

READERS = {"sequences": ("tcaf", 64), "means": ("avca", 256)}
"""A method that reads each form of features, and its published batch size."""
Rows = list[dict[str, Any]]


def write_official(folder: Path, samples: int) -> int:
    """Write UCF in the official layout with about this many samples (``cls``); the bytes of its sequences.

    It has no sample lists, which are optional, so an import takes the samples of the class files.
    """
    random, card = np.random.default_rng(0), load_cards()["ucf"]
    assert card.official is not None
    features, sizes, root = card.features["cls"], SIZES["cls"], folder / card.official.folder
    names = [f"Class{i:02d}" for i in range(48)]
    classes = dict(zip(SPLITS, (names[:30], names[:30], names[30:42], names[:42], names[42:]), strict=True))
    lists, files = root / "class-split" / "cls_split", root / "features" / "cls_features_non_averaged"
    lists.mkdir(parents=True)
    (root / "class-split" / "all_class.txt").write_text("\n".join(names))
    (root / "class-split" / card.official.names_file).write_text(
        "\n".join(["original,manual", *(f"{n},{n}" for n in names)])
    )
    (files / "text").mkdir(parents=True)
    vectors = dict(zip(names, random.standard_normal((48, features.text_dim), np.float32), strict=True))
    np.save(files / "text" / card.official.text_file, vectors, allow_pickle=True)  # type: ignore[arg-type]
    written, total = 0, sum(features.samples[split] for split in SPLITS)
    for split, own in classes.items():
        (lists / f"{split}.txt").write_text("\n".join(own))
        each = max(1, round(samples * features.samples[split] / total / len(own)))
        for name in own:
            ids = [f"v_{name}_{split}_g{i:05d}_c01" for i in range(each)]
            for modality in ("audio", "video"):
                lengths = random.integers(*sizes[f"{modality}_steps"], each, endpoint=True)  # type: ignore[misc]
                frames = [random.standard_normal((t, sizes[f"{modality}_dim"]), np.float32) for t in lengths]
                content = {"features": frames, "video_names": [i.encode() for i in ids], "fps": [25] * each}
                path = files / modality / split / f"{name}.pkl"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(pickle.dumps(content))
                written += sum(x.nbytes for x in frames)
    return written


def importing(folder: Path, sizes: Sequence[int], rounds: int) -> Rows:
    """Time of imports of several sizes."""
    written = {n: write_official(folder / f"official {n}", n) for n in sizes}
    seconds: dict[int, list[float]] = {n: [] for n in sizes}
    samples = {}
    for _ in range(rounds):
        for n in sizes:
            target = folder / "imported.h5"
            started = time.perf_counter()
            report = import_official(
                load_cards()["ucf"], "cls", folder / f"official {n}", target, generated=True, force=True
            )
            seconds[n].append(time.perf_counter() - started)
            samples[n] = sum(split.found for split in report.splits.values())
            target.unlink()
    medians = {n: statistics.median(seconds[n]) for n in sizes}
    return [
        {"samples": samples[n], "frames (MB)": round(written[n] / 1e6), "import (s)": round(medians[n], 2)}
        | {
            "MB/s": round(written[n] / 1e6 / medians[n]),
            "ms a sample": round(1000 * medians[n] / samples[n], 2),
        }
        for n in sizes
    ]


def reading(folder: Path, samples: int, rounds: int) -> Rows:
    """Time to read all development samples once as batches in random order."""
    stores = {dtype: folder / f"{dtype}.h5" for dtype in ("float32", "float16")}
    for dtype, path in stores.items():
        generate(path, "cls", samples, dtype)  # type: ignore[arg-type]
    ways = [
        (form, dtype, way) for form in READERS for dtype in stores for way in ("cold", "warm", "in memory")
    ]
    found: dict[tuple[str, str, str], list[dict[str, float]]] = {way: [] for way in ways}
    for turn in range(rounds):
        for form, dtype, way in ways:
            found[form, dtype, way].append(read(stores[dtype], form, way, turn))
    rows = []
    for (form, dtype, way), passes in found.items():
        median = {name: statistics.median(p[name] for p in passes) for name in passes[0]}
        row: dict[str, Any] = {"features": form, "stored as": dtype, "way": way, "batch": READERS[form][1]}
        row |= {"opening (s)": round(median["opening"], 3), "batch (ms)": round(1000 * median["batch"], 2)}
        rows.append(row | {"MB/s": round(median["bytes"] / median["batch"] / 1e6)})
    return rows


def read(path: Path, form: str, way: str, seed: int) -> dict[str, float]:
    """Seconds to open a store, mean seconds to make a batch, and bytes of a batch's features in the store."""
    if way == "cold":
        forget(path)
    name, size = READERS[form]
    started = time.perf_counter()
    store = FeatureStore(path, in_memory=way == "in memory")
    seconds = time.perf_counter() - started
    experiment = experiment_on(store, name)
    started = time.perf_counter()
    data = experiment.development().samples
    seconds += time.perf_counter() - started
    random = np.random.default_rng(seed)
    rows = random.permutation(len(data.labels))
    started = time.perf_counter()
    for start in range(0, len(rows), size):
        make_batch(data, rows[start : start + size], experiment.rules, training=True, rng=random)
    batches = len(rows) / size
    took = (time.perf_counter() - started) / batches
    arrays = [x.means if form == "means" else x.frames for x in (data.audio, data.video)]
    return {
        "opening": seconds,
        "batch": took,
        "bytes": sum(a.nbytes for a in arrays if a is not None) / batches,
    }


def growing(folder: Path, sizes: Sequence[int], rounds: int, threads: int) -> Rows:
    """Time of a training step on stores of several sizes (``main``), on means and on sequences."""
    benches: dict[tuple[str, int], Bench] = {}
    for n in sizes:
        store = generate(folder / f"grown {n}.h5", "main", n)
        for name in ("avca", "tcaf"):
            benches[name, n] = Bench(experiment_on(store, name), "main", "corrected")
    torch.set_num_threads(threads)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in benches}
    for _ in range(rounds):
        for key, bench in benches.items():
            step = bench.steps(3)
            found[key].append((step.seconds["data"], step.total))
    rows = []
    for (name, n), steps in found.items():
        data, total = (1000 * statistics.median(part) for part in zip(*steps, strict=True))
        rows.append({"method": name, "samples": n, "data (ms)": round(data, 2), "step (ms)": round(total, 1)})
    return sorted(rows, key=lambda row: str(row["method"]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="*", metavar="TABLE", help="only these tables: importing, reading, growing"
    )
    parser.add_argument("--imported", default="250,500,1000", help="samples of the imports (%(default)s)")
    parser.add_argument(
        "--read", type=int, default=2000, help="samples of the stores that are read (%(default)s)"
    )
    parser.add_argument(
        "--grown", default="1000,4000,16000", help="samples of the stores under training (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch (%(default)s, as jobs have them by default)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file too")
    options = parser.parse_args(arguments)
    imported, grown = ([int(n) for n in text.split(",")] for text in (options.imported, options.grown))
    tables: dict[str, Callable[[Path], Rows]] = {
        "importing": lambda folder: importing(folder, imported, options.rounds),
        "reading": lambda folder: reading(folder, options.read, options.rounds),
        "growing": lambda folder: growing(folder, grown, options.rounds, options.threads),
    }
    torch.set_num_threads(options.threads)
    found = {}
    for name, measure in tables.items():
        if options.only and name not in options.only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[name] = measure(Path(folder))
        print(f"{name}\n\n{tabulate(found[name], headers='keys', tablefmt='github')}\n", flush=True)
    if options.json is not None:
        options.json.write_text(
            json.dumps({"threads": options.threads, **found}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
