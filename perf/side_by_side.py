"""Whether it would pay to train several seeds of a small method in one process with stacked parameters.

A step (forward, backward, optimiser) of five models one after the other, against one step of the five together: parameters
stacked by ``torch.func.stack_module_state``, the loss mapped over them by ``torch.vmap``, one fused Adam. Published sizes for
UCF, batches of 256, each seed its own batch; both forms have torch's own dropout, since ours draws what cannot be mapped. The
forms alternate; the ratio is the median over rounds of the time apart over the time together. ``one product`` is the largest
matrix product of these methods alone, as five ``mm`` against one ``bmm``.

Run with ``make bench`` or ``python -m perf.side_by_side``; ``-h`` lists the options.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmark import registry
from benchmark.method import Batch, Classes, Method
from methods import blocks
from perf.training_step import SIZES, Bench

METHODS = "avca,avgzslnet,cjme"


class LossOf(nn.Module):
    """A method's total loss as a module of plain tensors, which ``vmap`` can map."""

    def __init__(self, method: Method, classes: Classes) -> None:
        super().__init__()
        self.method, self.classes = method, classes

    def forward(self, positive: tuple[Tensor, ...], negative: tuple[Tensor, ...]) -> Tensor:
        """Each of audio, video, label and word vectors."""
        fields = ("audio", "video", "label", "text")
        other = Batch(**dict(zip(fields, negative, strict=True)))
        batch = Batch(**dict(zip(fields, positive, strict=True)), negative=other)
        return self.method.loss(batch, self.classes)["total"]


def tensors(batch: Batch) -> tuple[Tensor, ...]:
    """What ``LossOf`` takes of a batch."""
    assert batch.label is not None
    assert batch.text is not None
    return batch.audio, batch.video, batch.label, batch.text


class Seeds:
    """Models of several seeds with a batch each, and both ways of making a step of all of them."""

    def __init__(self, models: Sequence[Method], batches: Sequence[Batch], classes: Classes) -> None:
        self.losses = [LossOf(model, classes).train() for model in models]
        pairs = [(tensors(b), tensors(b.negative)) for b in batches if b.negative is not None]
        self.pairs = pairs
        self.stacked = [tuple(torch.stack(x) for x in zip(*side, strict=True)) for side in zip(*pairs, strict=True)]
        self.optimizers = [model.optimizer() for model in models]
        self.parameters, self.buffers = stack_module_state(self.losses)  # type: ignore[arg-type]
        settings = {"lr": models[0].config.lr, "weight_decay": models[0].config.weight_decay}
        self.optimizer = torch.optim.Adam(self.parameters.values(), fused=True, **settings)

    def apart(self) -> list[float]:
        """A step of each; their losses."""
        found = []
        for loss_of, pair, optimizer in zip(self.losses, self.pairs, self.optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(*pair)
            loss.backward()
            optimizer.step()
            found.append(loss.detach())
        return torch.stack(found).tolist()

    def together(self) -> list[float]:
        """The same with stacked parameters."""

        def loss_of(parameters: Any, buffers: Any, positive: Any, negative: Any) -> Tensor:
            out: Tensor = functional_call(self.losses[0], (parameters, buffers), (positive, negative))
            return out

        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.vmap(loss_of, randomness="different")(self.parameters, self.buffers, *self.stacked)
        losses.sum().backward()
        self.optimizer.step()
        found: list[float] = losses.tolist()
        return found


class Products:
    """The largest product of the small methods, video by the first layer of 1,024: one after the other, and as one ``bmm``."""

    def __init__(self, inputs: int, count: int) -> None:
        self.x, self.weights = torch.randn(count, 256, inputs), torch.randn(count, inputs, 1024)

    def apart(self) -> list[Tensor]:
        return [torch.mm(x, w) for x, w in zip(self.x, self.weights, strict=True)]

    def together(self) -> Tensor:
        return torch.bmm(self.x, self.weights)


def seconds(step: Callable[[], object], times: int) -> float:
    """Mean seconds of a step."""
    started = time.perf_counter()
    for _ in range(times):
        step()
    return (time.perf_counter() - started) / times


def seeds_of(name: str, features: str, count: int, folder: Path) -> Seeds:
    """Seeds of a method at its published sizes."""
    found = registry.load()
    method = found.get(name)
    benches = [Bench.published(method, found.recipe(method), features, "corrected", folder) for _ in range(count)]
    size = benches[0].settings.train.batch_size
    batches = list(benches[0].data.batches.epoch(0, 0, count, size))
    return Seeds([bench.model for bench in benches], batches, benches[0].data.batches.classes)


def compared(forms: Seeds | Products, rounds: int, times: int) -> dict[str, float]:
    """Milliseconds of both forms, which alternate, and their ratio."""
    forms.apart(), forms.together()  # warms up
    pairs = [(seconds(forms.apart, times), seconds(forms.together, times)) for _ in range(rounds)]
    apart, together = (round(1000 * statistics.median(part), 1) for part in zip(*pairs, strict=True))
    return {"apart (ms)": apart, "together (ms)": together, "ratio": round(statistics.median(a / b for a, b in pairs), 2)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--features", default="cls,main")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s, as jobs have them by default)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, patch.object(blocks.Dropout, "forward", nn.Dropout.forward):
        for name in options.methods.split(","):
            for features in options.features.split(","):
                seeds = seeds_of(name, features, options.seeds, Path(folder))
                torch.set_num_threads(options.threads)
                rows.append({"what": name, "features": features, **compared(seeds, options.rounds, 2)})
    for features in options.features.split(","):
        products = Products(int(SIZES[features]["video_dim"]), options.seeds)  # type: ignore[call-overload]
        rows.append({"what": "one product", "features": features, **compared(products, options.rounds, 20)})
    print(f"{options.threads} threads, {options.seeds} seeds\n\n{tabulate(rows, headers='keys', tablefmt='github')}")
    if options.json is not None:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
