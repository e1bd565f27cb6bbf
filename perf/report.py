"""Time of ``report``, ``status`` and look-ups of ``run`` on a large store. The goal: a report within 60 s.

Run with ``make bench`` or ``python -m perf.report``; ``-h`` lists the options.

The store is written directly in SQL with random but seeded content. Half of its MLflow runs belong to one
large benchmark run: six methods on three datasets in both modes, untuned and tuned. The others belong to
small benchmark runs of one dataset and mode. Each job has the tags, settings and metrics of a real one, and
the artifacts that a report reads: ``recall.csv``, ``groups.json``, ``confusion.csv`` and ``curve.csv`` for
each final job, and ``embedding.csv`` and the map for repetition 0. The numbers of classes and samples are
those of the dataset configs, and the width of embeddings is that of published settings.

- ``newest``: the report of the newest benchmark run, a small one.
- ``largest``: the report of the large benchmark run.
- ``all``: the report of all benchmark runs together, which compares the settings of all their jobs.
- ``look-up``: the queries of ``run`` and ``status`` for each job.
- ``by key``: the finished MLflow runs of a small benchmark run's jobs, as after each of its methods.

Each measurement has its own connection. Opening it is not measured.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from tabulate import tabulate

from benchmark.data.cards import load_cards
from benchmark.inspection import MAP_SAMPLES, EmbeddingMap
from benchmark.report.write import write_report
from benchmark.running.records import embedding_frame
from benchmark.system.databases import sqlite_uri
from benchmark.tracking.benchmark_runs import benchmark_runs
from benchmark.tracking.schema import Artifact
from benchmark.tracking.tracker import Tracker

RUNS, SEED, GOAL = 5_000, 0, 60.0
METHODS = {
    "attention_fusion": "Attention fusion", "perceiver": "Perceiver", "cjme": "CJME",
    "avgzslnet": "AVGZSLNet", "avca": "AVCA",
    "tcaf": "TCAF",
}  # fmt: skip
WIDTHS = {"cjme": 128, "avgzslnet": 128}
"""Width of embeddings in a map, 64 for the other methods; these two have two outputs."""
DATASETS = {"vggsound": "VGGSound", "ucf": "UCF", "activitynet": "ActivityNet"}
MODES = ("paper", "corrected")
TRIALS = 10
SMALL_SEEDS = 5
EPOCHS = 50
"""Logged epochs of a job."""
START = 1_760_000_000_000
"""Start of the oldest benchmark run in milliseconds since the epoch."""
SETTINGS = {
    "lr": "0.001", "weight_decay": "1e-05", "plateau": "True", "dim": "300", "depth": "6",
    "heads": "8", "dim_head": "64",
    "dropout": "0.2", "margin": "1.0",
}  # fmt: skip
COMMON = {
    "train.epochs": "50", "train.batches_per_epoch": "300", "train.batch_size": "64",
    "train.eval_batch_size": "256",
    "train.device": "auto", "train.precision": "float32", "train.threads": "1", "lengths.train": "max",
    "lengths.test": "max",
    "lengths.train_cut": "random", "protocol.seen_test": "published",
}  # fmt: skip
SWITCHES = (
    "evaluation_times",
    "extra_bn_pass",
    "padding_in_bn",
    "video_norm",
    "audio_scale",
    "length_rule",
    "beta_output",
)
LOSSES = ("total", "triplet", "reconstruction", "regression")
VERSIONS = {
    "torch": "2.13.0",
    "numpy": "2.4.6",
    "python": "3.12.1",
    "git_revision": "0123456789ab",
    "platform": "Linux",
}


@dataclass(frozen=True)
class Shape:
    """The settings of a benchmark run."""

    datasets: Sequence[str]
    modes: Sequence[str]
    seeds: int

    @property
    def runs(self) -> int:
        """Number of MLflow runs: the benchmark run, its methods and their jobs, including trials."""
        return 1 + len(self.datasets) * len(self.modes) * len(METHODS) * (1 + TRIALS + 4 * self.seeds)


@dataclass(frozen=True)
class Tested:
    """The classes of a dataset's test splits."""

    names: Sequence[str]
    """Seen ones first."""
    seen: int
    samples: np.ndarray
    """``[C]``"""
    nearest: Sequence[str]
    """The nearest seen class of each unseen one."""
    cosines: np.ndarray


@cache
def tested(dataset: str) -> Tested:
    """Random class names of a published dataset, with its numbers of classes and samples."""
    features, random = load_cards()[dataset].features["cls"], np.random.default_rng(SEED)
    seen, unseen = (features.classes[f"stage_2_test_{group}"] for group in ("seen", "unseen"))
    letters = np.array(list("abcdefghijklmnoprstuvwy"))
    names = [f"{''.join(random.choice(letters, random.integers(5, 20)))} {i}" for i in range(seen + unseen)]
    counts = [features.samples[f"stage_2_test_{group}"] for group in ("seen", "unseen")]
    shares = zip(counts, (seen, unseen), strict=True)
    samples = np.concatenate(
        [
            1 + random.multinomial(n - classes, random.dirichlet(np.full(classes, 5.0)))
            for n, classes in shares
        ]
    )
    nearest = [names[i] for i in random.integers(0, seen, unseen)]
    return Tested(names, seen, samples, nearest, random.uniform(0.3, 0.9, unseen))


def shapes(runs: int) -> list[Shape]:
    """The benchmark runs of a store with about this many MLflow runs; the oldest has half of them."""
    units = len(DATASETS) * len(MODES) * len(METHODS)
    large = Shape(list(DATASETS), MODES, max(2, round((runs / 2 / units - 1 - TRIALS) / 4)))
    names, found = list(product(DATASETS, MODES)), [large]
    while sum(shape.runs for shape in found) < runs:
        dataset, mode = names[len(found) % len(names)]
        found.append(Shape([dataset], [mode], SMALL_SEEDS))
    return found


@dataclass
class Filler:
    """Fills an empty store."""

    experiment: str
    artifacts: Path
    random: np.random.Generator
    maps: bool = True
    """Whether jobs have logged their maps. Those of older versions have not, and reports compute them."""
    rows: dict[str, list[tuple[Any, ...]]] = field(
        default_factory=lambda: {"runs": [], "tags": [], "params": [], "metrics": [], "latest_metrics": []}
    )

    def run(self, name: str, start: int, tags: Mapping[str, str], parent: str | None = None) -> str:
        """A finished run."""
        run_id = self.random.bytes(16).hex()
        uri = (self.artifacts / run_id / "artifacts").as_uri()
        facts = (
            run_id,
            name,
            "LOCAL",
            "run_benchmark.py",
            "",
            "",
            "FINISHED",
            start,
            start + 60_000,
            "",
            "active",
            uri,
        )
        self.rows["runs"].append((*facts, int(self.experiment), None))
        own = {
            "mlflow.runName": name,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": "run_benchmark.py",
            **tags,
        }
        own |= {} if parent is None else {"mlflow.parentRunId": parent}
        self.rows["tags"] += [(key, value, run_id) for key, value in own.items()]
        return run_id

    def artifact(self, run_id: str, name: str, text: str) -> None:
        """A file of a run."""
        folder = self.artifacts / run_id / "artifacts"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")

    def metric(self, run_id: str, values: Mapping[str, float], step: int, time_: int) -> None:
        """Values of a step."""
        self.rows["metrics"] += [(key, value, time_, run_id, step, False) for key, value in values.items()]

    def latest(self, run_id: str, values: Mapping[str, float], step: int, time_: int) -> None:
        """Latest values, which have their own table."""
        self.rows["latest_metrics"] += [
            (key, value, time_, step, False, run_id) for key, value in values.items()
        ]

    def call(self, shape: Shape, start: int) -> None:
        """A benchmark run with all its MLflow runs."""
        tags = {
            "kind": "benchmark_run",
            "benchmark_run_key": str(start),
            "command": "python run_benchmark.py",
            "git_revision": "0123456789ab",
        }
        run_id, entries = self.run("a call", start, tags), list[dict[str, Any]]()
        for dataset, mode, method in product(shape.datasets, shape.modes, METHODS):
            identity = {"dataset": dataset, "features": "cls", "mode": mode, "method": method, "ablation": ""}
            start += 1_000
            entries += self.method(identity, shape.seeds, start, run_id)
        self.artifact(run_id, "jobs.json", json.dumps(entries))

    def method(
        self, identity: Mapping[str, str], seeds: int, start: int, call: str
    ) -> Iterator[dict[str, Any]]:
        """A method with its study and jobs; their entries in the list of the benchmark run."""
        method, mode = identity["method"], identity["mode"]
        unit = {
            **identity, "alignment": "official", "method_title": METHODS[method], "method_note": "",
            "method_inputs": "mean",
            "method_uses": "", "dataset_title": DATASETS[identity["dataset"]], "dataset_kind": "published",
            "dataset_caption": "", "reduced_sizes": "false", "epochs": "50", "batches_per_epoch": "300",
            "lengths": "max/max",
            "preset": "",
        }  # fmt: skip
        tags = {**unit, "kind": "method", "tuning.trials": str(TRIALS), "tuning.pruned": "2"}
        parent = self.run(METHODS[method], start, tags, call)

        # Its study.
        best = {"lr": float(self.random.uniform(1e-4, 1e-2))}
        study = {
            "study": f"{method} {start}",
            "best_values": best,
            "best_number": 3,
            "best_hm": 0.3,
            "start_hm": 0.2,
        }
        study |= {"complete": TRIALS - 2, "pruned": 2, "failed": 0}
        self.artifact(parent, "tuning.json", json.dumps(study))
        trials = pd.DataFrame({"number": range(TRIALS)}).assign(
            state=["complete"] * (TRIALS - 2) + ["pruned"] * 2, start=lambda f: f["number"] == 0,
            value=self.random.uniform(0.1, 0.3, TRIALS), seconds=60.0, epochs=50, planned_epochs=50,
            **{"param.lr": self.random.uniform(1e-4, 1e-2, TRIALS)},
        )  # fmt: skip
        self.artifact(parent, "trials.csv", trials.to_csv(index=False))
        importances = {
            "values": {"lr": 0.7, "dropout": 0.3},
            "trials": TRIALS - 2,
            "evaluator": "fANOVA",
            "seed": 0,
        }
        self.artifact(parent, "importances.json", json.dumps(importances))

        # Its trials and final jobs.
        params = {f"{method}.{k}": v for k, v in SETTINGS.items()} | COMMON | {"protocol.mode": mode}
        params |= {
            "protocol.text_alignment": "official",
            "protocol.calibration": mode,
            "protocol.stage2_schedule": mode,
        }
        params |= {f"protocol.{name}": mode for name in SWITCHES}
        for trial in range(TRIALS):
            lr = {f"{method}.lr": str(self.random.uniform(1e-4, 1e-2))}
            self.job({**unit, "variant": "trial", "trial": str(trial)}, {**params, **lr}, parent, 0, 1, start)
        for variant, repetition, stage in product(("published", "tuned"), range(seeds), (1, 2)):
            own = {**params, f"{method}.lr": str(best["lr"])} if variant == "tuned" else params
            key = self.job({**unit, "variant": variant}, own, parent, repetition, stage, start)
            facts = {
                "variant": variant,
                "repetition": repetition,
                "stage": stage,
                "job_key": key,
                "state": "done",
                "error": "",
            }
            yield {**identity, **facts}

    def job(
        self,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        parent: str,
        repetition: int,
        stage: int,
        start: int,
    ) -> str:
        """A job with everything that it logs; its key."""
        key = self.random.bytes(8).hex()
        own = {
            "kind": "job",
            "job_key": key,
            "stage": str(stage),
            "seed": str(1000 + repetition),
            "base_seed": "42",
        }
        own |= {
            "repetition": str(repetition),
            "described": "true",
            "outcome": "done",
            "cuda_device": "",
            **VERSIONS,
        }
        run_id = self.run(f"{tags['method']} seed {repetition}", start, {**tags, **own}, parent)
        self.rows["params"] += [(name, value, run_id) for name, value in params.items()]
        seen, unseen = self.random.uniform(0.1, 0.5, 2)
        values = {
            "seen": seen,
            "unseen": unseen,
            "hm": 2 * seen * unseen / (seen + unseen),
            "zsl": unseen * 1.2,
            "ausuc": 0.1,
        }

        # Curves of the training.
        for epoch in range(EPOCHS):
            logged = {**{f"val/{k}": v for k, v in values.items()}, "val/beta": 0.5}
            logged |= {f"train/{name}": self.random.uniform(0.9, 1.1) / (1 + epoch) for name in LOSSES}
            logged |= {"lr": 0.001, "epoch_seconds": 60.0}
            self.metric(run_id, logged, epoch, start + epoch)
        self.latest(run_id, logged, EPOCHS - 1, start + EPOCHS - 1)

        # Final numbers, and the artifacts of a test.
        final = {"calibration/beta": 0.5, "duration_seconds": 60.0, "peak_memory_mb": 700.0}
        if stage == 1:
            final |= {f"best/{k}": v for k, v in values.items()} | {"best/epoch": 4.0}
        else:
            final |= {f"test/{k}": v for k, v in values.items()} | {"epochs": 5.0}
            final |= {
                f"bootstrap/{k}_{end}": v
                for k, v in values.items()
                if k != "ausuc"
                for end in ("low", "high")
            }
            final |= {"parameters": 3e6, "flops_per_sample": 2e9}
            t = np.linspace(0, 1, 500)
            points = pd.DataFrame(
                {"beta": 4 * t - 1.6, "seen": seen * (1 - t**3.5), "unseen": unseen * (1 - t[::-1] ** 3.5)}
            )
            self.artifact(run_id, "curve.csv", points.to_csv(index=False))
            self.looks(
                run_id,
                tested(tags["dataset"]),
                unseen,
                WIDTHS.get(tags["method"], 64) if repetition == 0 else None,
            )
        self.metric(run_id, final, 0, start)
        self.latest(run_id, final, 0, start)
        self.artifact(
            run_id,
            "identity.json",
            json.dumps({"digest": f"data of {tags['dataset']}", "code": "c0de", "torch": "2"}),
        )
        return key

    def looks(self, run_id: str, data: Tested, accuracy: float, width: int | None) -> None:
        """Write what explains a final job's results: recall, confusion and, if a width is given, embeddings.

        Args:
            accuracy: mean recall of a class.
        """
        count, unseen = len(data.names), data.names[data.seen :]
        rates = self.random.beta(4 * accuracy, 4 * (1 - accuracy), (2, count))
        gzsl, own = self.random.binomial(data.samples, np.sort(rates, axis=0)) / data.samples
        recall = pd.DataFrame({"class": data.names, "group": ["seen"] * data.seen + ["unseen"] * len(unseen)})
        recall = recall.assign(
            gzsl=gzsl,
            own_group=own,
            samples=data.samples,
            nearest_seen_class=None,
            nearest_seen_cosine=np.nan,
        )
        recall.loc[data.seen :, "nearest_seen_class"] = data.nearest
        recall.loc[data.seen :, "nearest_seen_cosine"] = data.cosines
        self.artifact(run_id, "recall.csv", recall.sort_values("class").to_csv(index=False))
        self.artifact(run_id, "groups.json", json.dumps(self.groups(data, gzsl, own), separators=(",", ":")))
        counts = []
        for true, (n, rate) in enumerate(zip(data.samples[data.seen :], own[data.seen :], strict=True)):
            shares = (1 - rate) * self.random.dirichlet(np.full(len(unseen), 0.1))
            shares[true] += rate
            found = self.random.multinomial(n, shares / shares.sum())
            counts += [
                (unseen[true], unseen[predicted], found[predicted]) for predicted in np.flatnonzero(found)
            ]
        confusion = pd.DataFrame(counts, columns=["true", "predicted", "count"]).sort_values(
            ["true", "predicted"]
        )
        self.artifact(run_id, "confusion.csv", confusion.to_csv(index=False))
        if width is None:
            return
        ids, half = np.arange(count), MAP_SAMPLES // 2
        labels = np.sort(
            np.concatenate([np.resize(ids[: data.seen], half), np.resize(ids[data.seen :], half)])
        )
        centres = self.random.normal(size=(count, width))
        samples = centres[labels] + self.random.normal(size=(len(labels), width))
        values = [np.maximum(0, x).round(4) for x in (samples, centres)]  # with zeros as after a ReLU
        found_map = EmbeddingMap(values[0], labels, values[1], ids, ids[: data.seen])
        frame = embedding_frame(found_map, dict(enumerate(data.names)))
        self.artifact(run_id, "embedding.csv", frame.to_csv(index=False))
        if self.maps:
            # Takes as long to read as a real layout.
            flat = frame[["kind", "class", "group"]].assign(x=frame["e0"], y=frame["e1"])
            self.artifact(run_id, Artifact.EMBEDDING_MAP, flat.to_csv(index=False))

    def groups(self, data: Tested, *recalls: np.ndarray) -> dict[str, Any]:
        """Correct predictions in groups of two samples, as a final job logs them."""
        rows = []
        for c, (name, count) in enumerate(zip(data.names, data.samples, strict=True)):
            sizes = [2] * (count // 2) + [1] * (count % 2)
            right = [self.random.binomial(sizes, recall[c]).tolist() for recall in recalls]
            kind = "seen" if c < data.seen else "unseen"
            rows.append(
                {"class": name, "group": kind, "samples": sizes, "gzsl": right[0], "own_group": right[1]}
            )
        return {"grouping": "^(.+)_", "classes": rows}

    def write(self, file: Path) -> None:
        """Put the rows into the database."""
        with closing(sqlite3.connect(file)) as connection:
            columns = "run_uuid, name, source_type, source_name, entry_point_name, user_id, status"
            columns += ", start_time, end_time, source_version, lifecycle_stage, artifact_uri"
            tables = {
                f"runs ({columns}, experiment_id, deleted_time)": "runs",
                "tags (key, value, run_uuid)": "tags",
                "params (key, value, run_uuid)": "params",
                "metrics (key, value, timestamp, run_uuid, step, is_nan)": "metrics",
                "latest_metrics (key, value, timestamp, step, is_nan, run_uuid)": "latest_metrics",
            }
            for table, name in tables.items():
                if not (rows := self.rows[name]):
                    continue
                connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
            connection.execute("ANALYZE")
            connection.commit()


def fill(folder: Path, runs: int = RUNS, seed: int = SEED, *, maps: bool = True) -> int:
    """Create a store in a folder; the number of its MLflow runs.

    Args:
        maps: whether jobs have logged their maps.
    """
    tracker = Tracker(sqlite_uri(folder / "mlflow.db"), folder / "artifacts")
    filler = Filler(
        tracker.experiment_id, (folder / "artifacts").resolve(), np.random.default_rng(seed), maps
    )
    for i, shape in enumerate(shapes(runs)):
        filler.call(shape, START + i * 3_600_000)
    filler.write(folder / "mlflow.db")
    return len(filler.rows["runs"])


def tracker_of(folder: Path) -> Tracker:
    """A connection to the store of a folder."""
    return Tracker(sqlite_uri(folder / "mlflow.db"), folder / "artifacts")


def measurements(folder: Path) -> dict[str, tuple[int, Callable[[Tracker], object]]]:
    """The measurements by name: the repetitions in one measurement, and the action."""
    tracker = tracker_of(folder)
    newest, *_ = found = benchmark_runs(tracker)
    keys = [str(entry["job_key"]) for entry in tracker.read_json(newest.run_id, "jobs.json")]
    some = keys[:: max(1, len(keys) // 20)]
    return {
        "newest": (1, lambda t: write_report(t, folder / "newest")),
        "largest": (1, lambda t: write_report(t, folder / "largest", [found[-1].run_id])),
        "all": (1, lambda t: write_report(t, folder / "all", [call.run_id for call in found])),
        "look-up": (len(some), lambda t: [t.find(kind="job", job_key=key) for key in some]),
        "by key": (1, lambda t: t.by_job_key(keys)),
    }


def processor_seconds() -> float:
    """Processor seconds of this process and its children."""
    own = psutil.Process()
    used = [own.cpu_times(), *(child.cpu_times() for child in own.children(recursive=True))]
    return sum(times.user + times.system for times in used) + used[0].children_user + used[0].children_system


def timed(folder: Path, only: Sequence[str] | None, profiled: bool) -> dict[str, tuple[float, float]]:
    """Wall-clock and processor seconds of each measurement on the store of a folder.

    Args:
        only: names of the measurements to run; None for all.
    """
    seconds = {}
    for what, (times, action) in measurements(folder).items():
        if only and what not in only:
            continue
        tracker, profile = tracker_of(folder), cProfile.Profile()
        started, used = time.perf_counter(), processor_seconds()
        if profiled:
            profile.runcall(action, tracker)
        else:
            action(tracker)
        seconds[what] = ((time.perf_counter() - started) / times, (processor_seconds() - used) / times)
        if profiled:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; exit code 1 if a report takes longer than the goal."""
    parser = argparse.ArgumentParser(description="Time of reports and look-ups on a large tracking store.")
    parser.add_argument(
        "--runs", default=str(RUNS), help="MLflow runs of the store (%(default)s); 900,1800,3600 shows growth"
    )
    parser.add_argument(
        "--without-maps", action="store_true", help="like older jobs, whose maps reports have to compute"
    )
    parser.add_argument("--only", nargs="*", metavar="NAME", help="measure these only")
    parser.add_argument(
        "--profile", action="store_true", help="print where the time of each measurement goes"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file too")
    options = parser.parse_args(arguments)
    stores = list[dict[str, Any]]()
    for wanted in map(int, options.runs.split(",")):
        with tempfile.TemporaryDirectory() as name:
            started = time.perf_counter()
            runs = fill(Path(name), wanted, maps=not options.without_maps)
            print(f"store of {runs} runs made in {time.perf_counter() - started:.1f} s", flush=True)
            seconds = timed(Path(name), options.only, options.profile)
            stores.append({"runs": runs, "largest call": shapes(wanted)[0].runs, "seconds": seconds})
    rows = [
        [what, store["runs"], store["largest call"], *(f"{value:.3f}" for value in store["seconds"][what])]
        for what in stores[0]["seconds"]
        for store in stores
    ]
    headers = ["what", "runs", "of the largest call", "s", "s of processors"]
    print(
        tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * 4))
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"stores": stores}, indent=1) + "\n", encoding="utf-8")
    slow = [
        what
        for what in ("newest", "largest", "all")
        if any(s["seconds"].get(what, (0,))[0] > GOAL for s in stores)
    ]
    if slow:
        raise SystemExit(f"over {GOAL:.0f} s: {', '.join(slow)}")


if __name__ == "__main__":
    main()
