"""No method makes the host wait for the device within a step.

Tensors of torch's device ``meta`` have no numbers, so a step fails there if it reads one: a loss as a float,
the number of real time steps, a choice by a mask. It also takes the path that methods have off the CPU.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark import registry
from benchmark.method import Classes, Method
from benchmark.protocol.finite import Deferred
from benchmark.protocol.stages import training_data
from methods.blocks import Attention, Groups
from methods.hspmoe import uniformity, uniformity_on_device
from methods.tcaf import attention_mask
from perf.generated import experiment_on, generate


class NoCopies(TorchDispatchMode):
    """Refuses copies of the host's numbers to the device, for which the host waits too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in (*args, result) if isinstance(x, Tensor)]
        if "copy" in str(func) and {x.device.type for x in tensors} == {"cpu", "meta"}:
            raise AssertionError(f"{func} copies numbers to the device within a step")
        return result


TRAINED = [m for m in registry.load().select("all") if m.fit is Method.fit]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.mark.parametrize("method", TRAINED, ids=lambda m: m.name)
def test_a_step_reads_nothing_from_the_device(
    folder: Path, method: type[Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none on this device
    features = "clip_clap" if method.needs_text_parts else "main"
    np.random.seed(0)
    store = generate(folder / f"{method.name}.h5", features, 60)
    experiment = experiment_on(store, method.name, batch_size=8, device="cpu")
    data, model = training_data(experiment, 1), experiment.build().train()
    batch = next(data.batches.on(torch.device("meta")).epoch(0, 0, 1, 8))
    assert batch.video.is_meta

    there, checks = model.to("meta"), Deferred(0, every=100)
    classes = Classes(data.batches.classes.text.to("meta"))
    with NoCopies():
        losses = there.loss(batch, classes)
        checks.losses(losses, 0)
        losses["total"].backward()  # type: ignore[no-untyped-call]
        checks.gradients(there, 0, dict)
        with torch.no_grad():
            there.after_step(data.batches.at_evaluation_times(batch))

    assert all(p.grad.is_meta for p in there.parameters() if p.grad is not None)
    assert any(p.grad is not None for p in there.parameters())


@pytest.mark.parametrize("longest", [6, 9])
def test_one_group_of_at_least_the_longest_sequence_gives_the_same_attention(longest: int) -> None:
    """As off the CPU, where the group has as many tokens as fit."""
    masks = [torch.arange(4) < torch.tensor(n)[:, None] for n in ([1, 4, 2], [3, 1, 2])]
    x = torch.randn(3 + 7 + 6, 8, generator=torch.Generator().manual_seed(0))
    attention = Attention(8, heads=2, dim_head=4, dropout=0.0)

    def of(groups: Groups, first_only: bool) -> torch.Tensor:
        seen = [attention_mask(kinds, "cross") for kinds in groups.kinds]
        rows = attention.grouped(x.index_select(0, groups.rows), groups, seen, first_only=first_only)
        firsts = rows if first_only else rows.index_select(0, groups.firsts)
        return firsts.index_select(0, groups.back)

    one, several = Groups.of(*masks, longest=longest), Groups.of(*masks, size=1)
    assert list(one.shapes) == [(3, longest)]
    for first_only in (False, True):
        torch.testing.assert_close(of(one, first_only), of(several, first_only))


@pytest.mark.parametrize("label", [[0, 0, 1, 2, 1], [3, 3, 3, 3, 3], [0, 1, 2, 3, 4]])
def test_the_uniformity_of_a_device_is_that_of_the_cpu(label: list[int]) -> None:
    x = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for function in (uniformity, uniformity_on_device):
        q = x.clone().requires_grad_()
        value = function(torch.nn.functional.normalize(q), torch.tensor(label))
        value.backward()  # type: ignore[no-untyped-call]
        found.append((value.detach(), q.grad))
    torch.testing.assert_close(found[0], found[1])
