"""Batches from features that lie on a device, or are copied there: the same bits as those of the CPU.

The CPU stands for the device here. What only CUDA has, its memory and its streams, is replaced.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from support.tiny import Bench
from torch import Tensor

from benchmark.data.store import Samples
from benchmark.method import Batch
from benchmark.protocol import sources, stages
from benchmark.protocol.batching import TrainingBatches, ahead, make_batch
from benchmark.protocol.evaluation import nearest_classes
from benchmark.protocol.sources import HOST, Copied, CopyStream, Resident, Source, bytes_of, source_for
from benchmark.protocol.stages import Experiment

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
Make = Callable[[Samples, Any], Source]
SOURCES: dict[str, Make] = {
    "resident": lambda samples, inputs: Resident(samples, inputs, CPU),
    "copied": lambda *_: Copied(CPU),
}


def experiment(bench: Bench, method: str, *extra: str) -> Experiment:
    return bench.units(bench.call(*extra, methods=method))[0].job(1, 0).experiment()


def training_batches(its: Experiment) -> TrainingBatches:
    batches = stages.training_data(its, 1).batches
    assert isinstance(batches, TrainingBatches)
    assert batches.source is HOST
    return batches


def assert_equal(one: Batch, other: Batch) -> None:
    for field in fields(Batch):
        x, y = getattr(one, field.name), getattr(other, field.name)
        if isinstance(x, Batch):
            assert_equal(x, y)
        elif isinstance(x, Tensor):
            assert x.dtype == y.dtype, field.name
            assert torch.equal(x, y), field.name
        else:
            assert x == y, field.name


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("tcaf", []),
        ("tcaf", ["lengths.train=6", "lengths.test=4"]),
        ("tcaf", ["lengths.train=6", "protocol.length_rule=corrected", "protocol.video_norm=corrected"]),
        ("avca", []),
    ],
)
def test_batches_are_the_same_from_wherever_the_features_come(
    bench: Bench, make: Make, method: str, settings: list[str]
) -> None:
    plain = training_batches(experiment(bench, method, *settings))
    placed = replace(plain, source=make(plain.samples, plain.rules.inputs))

    for one, other in zip(plain.epoch(3, 1, 5, 16), placed.epoch(3, 1, 5, 16), strict=True):
        assert_equal(one, other)
    for one, other in zip(plain.each(50), placed.each(50), strict=True):
        assert_equal(one, other)
    rows, arguments = np.array([5, 0, 5]), {"training": False}
    one = make_batch(plain.samples, rows, plain.rules, **arguments)
    assert_equal(one, make_batch(plain.samples, rows, plain.rules, source=placed.source, **arguments))


def half(samples: Samples) -> Samples:
    """The samples in 16 bits, as a store may have them."""

    def of(modality: Any) -> Any:
        return replace(modality, frames=np.array(modality.frames, np.float16))

    return replace(samples, audio=of(samples.audio), video=of(samples.video))


def test_features_of_16_bits_lie_there_as_such_and_batches_have_32(bench: Bench) -> None:
    plain = training_batches(experiment(bench, "tcaf"))
    whole, plain = bytes_of(plain.samples, "sequence"), replace(plain, samples=half(plain.samples))
    assert bytes_of(plain.samples, "sequence") == whole // 2

    placed = replace(plain, source=Resident(plain.samples, "sequence", CPU))
    one, other = next(plain.epoch(0, 0, 1, 16)), next(placed.epoch(0, 0, 1, 16))

    assert other.audio.dtype == torch.float32
    assert_equal(one, other)


def test_features_are_copied_to_the_device_in_blocks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = training_batches(experiment(bench, "tcaf"))
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1000)
    placed = replace(plain, source=Resident(plain.samples, "sequence", CPU))
    assert_equal(next(plain.epoch(0, 0, 1, 16)), next(placed.epoch(0, 0, 1, 16)))


def test_features_lie_on_the_device_if_they_fit_into_the_share_of_its_free_memory(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = training_batches(experiment(bench, "tcaf")).samples
    size = bytes_of(samples, "sequence")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * size, 9 * size))
    monkeypatch.setattr(sources, "_copy", lambda array, _: torch.from_numpy(np.array(array)))

    assert isinstance(source_for(samples, "sequence", CUDA, 0.5), Resident)
    assert not isinstance(source_for(samples, "sequence", CUDA, 0.49), Resident)
    assert isinstance(source_for(samples, "mean", CUDA, 0.49), Resident)
    assert not isinstance(source_for(samples, "mean", CUDA, 0.0), Resident)
    assert source_for(samples, "sequence", CPU, 1.0) is HOST
    assert not isinstance(source_for(samples, "sequence", torch.device("mps"), 1.0), Resident)


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("method", ["tcaf", "avca"])
def test_an_evaluation_is_the_same_from_wherever_the_features_come(
    bench: Bench, make: Make, method: str
) -> None:
    its = experiment(bench, method)
    section, model = its.development((stages.VAL_SEEN, stages.VAL_UNSEEN)), its.build()
    data = stages.evaluation_set(section, stages.VAL_SEEN, stages.VAL_UNSEEN, 0, resident_share=0.5)
    placed = replace(data, _sources={CPU: make(data.samples, its.rules.inputs)})
    one, other = (nearest_classes(model, each, its.rules, batch_size=64) for each in (data, placed))

    assert data.source(CPU, its.rules.inputs) is HOST
    for output, nearest in one.items():
        assert np.array_equal(nearest.seen_distance, other[output].seen_distance)
        assert np.array_equal(nearest.unseen_class, other[output].unseen_class)


class FakeCuda:
    """Records what happens in which stream."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.inside: dict[int, Any] = {}

    def Stream(self, _: Any) -> FakeStream:  # noqa: N802
        return FakeStream(self, "copies")

    def current_stream(self, _: Any) -> FakeStream:
        return FakeStream(self, "steps")

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.inside[threading.get_ident()] = stream.name
        yield
        del self.inside[threading.get_ident()]


class FakeStream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name, self.events = cuda, name, 0

    def record_event(self) -> str:
        self.events += 1
        return f"event {self.events}"

    def wait_event(self, event: str) -> None:
        self.cuda.log.append((self.name, event))


def test_batches_are_assembled_in_a_stream_of_their_own_and_each_step_waits_for_its_own() -> None:
    cuda = FakeCuda()
    made: list[str | None] = []

    def batches() -> Iterator[Batch]:
        for i in range(3):
            made.append(cuda.inside.get(threading.get_ident()))
            yield Batch(torch.full((1,), i), torch.zeros(1))

    stream, steps = CopyStream(CUDA, cuda), []
    for batch in ahead(stream.assemble(batches())):
        steps.append(int(stream.arrived(batch).audio))

    assert steps == [0, 1, 2]
    assert made == ["copies"] * 3
    assert cuda.log == [("steps", f"event {i}") for i in (1, 2, 3)]
    assert cuda.inside == {}
