"""What each thing that a training step spares is worth: the step without it over the step with it, TCAF at its published sizes.

Run with ``make bench`` or ``python -m perf.tricks``; ``-h`` lists the options. Steps of both forms alternate in one run; that
they give the same is tested in ``tests/methods``, but for Adam and for dropout's draws, which are others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional

from benchmark import registry
from benchmark.method import Method
from methods import blocks
from methods.blocks import PADDED, Attention, Groups, Tokens, TransformerLayer
from methods.tcaf import Tcaf, attention_mask
from perf.training_step import Bench


def padded_tokens() -> AbstractContextManager[object]:
    """All layers compute padded tokens too."""

    def fuse(self: Tcaf, audio: Tokens, video: Tokens) -> dict[str, Tensor]:
        first = self.class_token.expand(len(audio.mask), -1, -1)
        x = torch.cat([first, audio.padded(), video.padded()], dim=1)
        steps = [torch.where(tokens.mask, kind, PADDED) for kind, tokens in enumerate((audio, video), 1)]
        mask = attention_mask(functional.pad(torch.cat(steps, dim=1), (1, 0)), self.config.sees)
        *layers, last = self.layers
        for layer in layers:
            x = layer(x, mask)
        normed = last.norms[0](x)
        x = x[:, :1] + last.attention(normed[:, :1], normed, mask[:, :1])
        return {"joint": self.sample_projection((x + last.feed_forward(last.norms[-1](x)))[:, 0])}

    return patch.object(Tcaf, "fuse", fuse)


def whole_last_layer() -> AbstractContextManager[object]:
    """The last layer computes all tokens, of which the class tokens are read."""
    grouped = TransformerLayer.grouped

    def whole(
        self: TransformerLayer, x: Tensor, groups: Groups, masks: Sequence[Tensor], *, first_only: bool = False
    ) -> Tensor:
        out = grouped(self, x, groups, masks)
        return out.index_select(0, groups.firsts) if first_only else out

    return patch.object(TransformerLayer, "grouped", whole)


def keys_of_all_tokens() -> AbstractContextManager[object]:
    """The last layer makes keys and values of all tokens, of which one query of each sequence is asked."""

    def gather(self: Attention, x: Tensor, groups: Groups, masks: Sequence[Tensor]) -> Tensor:
        queries = self.query(x.index_select(0, groups.firsts)).unsqueeze(1).split([n for n, _ in groups.shapes])
        pieces = zip(queries, groups.split(self.key(x)), groups.split(self.value(x)), masks, strict=True)
        return torch.cat([self._gather(q, k, v, mask[:, :1]).flatten(0, 1) for q, k, v, mask in pieces])

    return patch.object(Attention, "_gather_to_firsts", gather)


def one_group() -> AbstractContextManager[object]:
    """All sequences are padded to the longest of the batch."""
    return patch.object(blocks, "GROUP", 2**16)


def zeros_through_the_first_layer() -> AbstractContextManager[object]:
    """The encoders multiply padded steps, which are zeros, where these enter BatchNorm's statistics (mode paper)."""

    def encode(encoder: nn.Module, x: Tensor, mask: Tensor, padding_in_statistics: bool) -> Tensor:
        index = mask.flatten().nonzero().squeeze(1)
        steps = x.flatten(0, 1)
        if padding_in_statistics and encoder.training:
            out: Tensor = encoder(steps).index_select(0, index)
        else:
            out = encoder(steps.index_select(0, index))
        return out

    return patch.object(blocks, "encode_steps", encode)


def plain_adam() -> AbstractContextManager[object]:
    """Adam's update in several passes over the parameters."""

    def optimizer(self: Method) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay, foreach=False)

    return patch.object(Method, "optimizer", optimizer)


def plain_dropout() -> AbstractContextManager[object]:
    """torch's own draws."""
    return patch.object(blocks.Dropout, "forward", nn.Dropout.forward)


TRICKS: dict[str, tuple[Callable[[], AbstractContextManager[object]], str]] = {
    "sequences stand in groups of like length": (one_group, "corrected"),
    "no padding of each modality by itself": (padded_tokens, "corrected"),
    "the last layer computes the class token alone": (whole_last_layer, "corrected"),
    "the last layer makes no keys and values": (keys_of_all_tokens, "corrected"),
    "padded steps are not multiplied by the first layer": (zeros_through_the_first_layer, "paper"),
    "dropout draws 16 bits an element": (plain_dropout, "corrected"),
    "Adam is fused": (plain_adam, "corrected"),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", default="cls,main")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s, as jobs have them by default)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    found, rows = registry.load(), []
    method = found.get("tcaf")
    with tempfile.TemporaryDirectory() as folder:
        for features in options.features.split(","):
            for trick, (without, mode) in TRICKS.items():
                forms = {"with": nullcontext, "without": without}
                benches = {}
                for name, form in forms.items():
                    with form():
                        benches[name] = Bench.published(method, found.recipe(method), features, mode, Path(folder))
                torch.set_num_threads(options.threads)
                seconds: dict[str, list[float]] = {name: [] for name in forms}
                for _ in range(options.rounds):
                    for name, form in forms.items():
                        with form():
                            seconds[name].append(benches[name].steps(2).total)
                ratio = statistics.median(b / a for a, b in zip(seconds["with"], seconds["without"], strict=True))
                rows.append([trick, features, mode, *(1000 * statistics.median(seconds[n]) for n in forms), ratio])
    headers = ["what is spared", "features", "mode", "step (ms)", "without it (ms)", "ratio"]
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", "", "", ".0f", ".0f", ".2f")))
    if options.json:
        named = [dict(zip(headers, row, strict=True)) for row in rows]
        options.json.write_text(json.dumps({"threads": options.threads, "rows": named}, indent=1))


if __name__ == "__main__":
    main()
