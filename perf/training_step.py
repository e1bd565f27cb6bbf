"""Seconds of a training step of each method at its published sizes for UCF, cls features: data, step, extra pass.

Run with ``make bench`` or ``python -m perf.training_step [METHODS] [STEPS]``. Features are generated with the dimensions and
lengths of UCF (video 5 to 17 steps, audio 3 to 11); nothing is learnt.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from tabulate import tabulate

from benchmark import registry
from benchmark.config import Sources, resolve
from benchmark.data.batching import with_evaluation_times
from benchmark.data.cards import load_cards
from benchmark.data.locate import open_or_build
from benchmark.method import Method
from benchmark.protocol import Task, training_data

LIKE_UCF = {
    "train_classes": 30,
    "val_unseen_classes": 12,
    "test_unseen_classes": 6,
    "audio_dim": 128,
    "video_dim": 4096,
    "text_dim": 300,
    "audio_steps": (3, 11),
    "video_steps": (5, 17),
    "order_signal": 0.0,
}


def measure(method: type[Method], recipe: object, folder: Path, steps: int) -> list[object]:
    """Milliseconds of data, step and extra pass, and parameters."""
    cards = load_cards()
    store = open_or_build(cards["synthetic"], None, folder, overrides=LIKE_UCF)
    settings = resolve(method, recipe, Sources("ucf", "cls", True, {}, {}), "paper", {"protocol": {"text_alignment": "corrected"}})  # type: ignore[arg-type] # fmt: skip # noqa: E501
    task = Task(method, settings, cards["ucf"].features["cls"], store, seed=0, dataset=cards["ucf"])
    data = training_data(task, task.development(), ["stage_1_train"])
    model = task.build().train()
    optimizer = model.optimizer()
    batches = data.batches.epoch(0, 0, steps + 1, settings.train.batch_size)
    totals = [0.0, 0.0, 0.0]
    for i in range(steps + 1):
        started = time.perf_counter()
        batch = next(batches)
        assembled = time.perf_counter()
        loss = model.loss(batch, data.batches.classes)["total"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        stepped = time.perf_counter()
        with torch.no_grad():
            model.after_step(with_evaluation_times(batch, data.batches.rules))
        ended = time.perf_counter()
        if i > 0:  # the first step warms up
            for j, seconds in enumerate((assembled - started, stepped - assembled, ended - stepped)):
                totals[j] += 1000 * seconds / steps
    share = totals[0] / sum(totals)
    return [
        method.title,
        settings.train.batch_size,
        *totals,
        f"{100 * share:.1f} %",
        sum(p.numel() for p in model.parameters()),
    ]


def main() -> None:
    """Print the table."""
    found = registry.load()
    names = sys.argv[1] if len(sys.argv) > 1 else "all"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(m, found.recipe(m), Path(folder), steps) for m in found.select(names)]
    columns = ["method", "batch", "data ms", "step ms", "extra pass ms", "data share", "parameters"]
    print(tabulate(rows, columns, tablefmt="github", floatfmt=".1f"))
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} thread(s), CPU")


if __name__ == "__main__":
    main()
