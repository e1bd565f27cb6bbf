"""The contract of every registered method and of plug-ins in GZSL_CONTRACT_PLUGINS."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmark import registry
from benchmark.data.cards import load_cards
from benchmark.method import Batch, Classes, Method, Spec
from benchmark.running.planning import search_ranges
from benchmark.settings.schema import TrainConfig

PLUGINS = [Path(p) for p in os.environ.get("GZSL_CONTRACT_PLUGINS", "").split(os.pathsep) if p]
FOUND = registry.load(PLUGINS)
SPEC = Spec(audio_dim=5, video_dim=7, text_dim=6, audio_seconds=0.5, video_seconds=0.25)
PARTS = Spec(5, 7, 12, 0.5, 0.25, {"video": 7, "audio": 5})
"""For methods whose class embeddings are in the spaces of the features."""
CLASSES = 4

pytestmark = pytest.mark.parametrize("name", [m.name for m in FOUND.select("all")])


SIZES = load_cards()["stamps"].sizes
"""Small hyperparameters for speed; other methods are tested with their defaults."""


def build(name: str, seed: int = 0) -> Method:
    torch.manual_seed(seed)
    cls = FOUND.get(name)
    return cls(cls.Config(**SIZES.get(name, {})), PARTS if cls.needs_text_parts else SPEC)


def text_of(method: Method) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(CLASSES, method.spec.text_dim, generator=generator))


def distances_of(method: Method, batch: Batch) -> Mapping[str, Tensor]:
    """Distances as the protocol computes them, with the numbers of all samples first."""
    embeddings, classes = method.embed(batch), method.embed_classes(text_of(method))
    method.summary = method.summarise(embeddings, classes)
    return method.distances(embeddings, classes)


def is_trained(method: Method) -> bool:
    return any(p.requires_grad for p in method.parameters())


def one(inputs: str, size: int, generator: torch.Generator, padding: int = 0) -> Batch:
    if inputs == "mean":
        return Batch(torch.randn(size, 5, generator=generator), torch.randn(size, 7, generator=generator))
    features = {"audio": (4, 5), "video": (6, 7)}
    fields: dict[str, Tensor] = {}
    for modality, (steps, dim) in features.items():
        x = torch.randn(size, steps, dim, generator=generator)
        lengths = torch.randint(1, steps + 1, (size,), generator=generator)
        lengths[0] = steps
        mask = torch.arange(steps + padding) < lengths[:, None]
        fields[modality] = torch.cat([x, torch.zeros(size, padding, dim)], 1) * mask[..., None]
        fields[f"{modality}_mask"] = mask
        fields[f"{modality}_times"] = torch.arange(steps + padding).float().expand(size, -1)
    return Batch(**fields)  # type: ignore[arg-type]


def training_batch(method: Method, size: int = 12, seed: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(size) % CLASSES

    def labelled(labels: Tensor) -> Batch:
        batch = one(method.inputs, size, generator)
        signal = text_of(method)[labels]
        in_audio, in_video = signal[:, :5], torch.cat([signal, signal[:, :1]], 1)
        if method.spec.text_parts:
            in_video, in_audio = signal[:, :7], signal[:, 7:]
        audio, video = batch.audio, batch.video
        mask_a = batch.audio_mask[..., None] if batch.audio_mask is not None else 1
        mask_v = batch.video_mask[..., None] if batch.video_mask is not None else 1
        extra = (lambda x: x[:, None]) if method.inputs == "sequence" else (lambda x: x)
        audio = audio * 0.1 + extra(in_audio) * mask_a
        video = video * 0.1 + extra(in_video) * mask_v
        return replace(batch, audio=audio, video=video, label=labels, text=signal)

    batch = labelled(label)
    return replace(batch, negative=labelled((label + 1) % CLASSES)) if method.needs_negatives else batch


def test_losses_are_finite_and_have_a_total(name: str) -> None:
    method = build(name)
    losses = method.loss(training_batch(method), Classes(text_of(method)))
    assert "total" in losses
    for part, value in losses.items():
        assert value.shape == (), part
        assert torch.isfinite(value), part
    if not is_trained(method):
        return
    losses["total"].backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_embeddings_and_distances_have_the_shapes_that_evaluation_reads(name: str) -> None:
    method = build(name).eval()
    batch = one(method.inputs, 3, torch.Generator().manual_seed(3))
    with torch.no_grad():
        distances = distances_of(method, batch)
    assert method.reported_output in distances
    for output, d in distances.items():
        assert d.shape == (3, CLASSES), output
        assert (d > -1e-6).all(), output


def test_embeddings_do_not_depend_on_padding_or_on_the_rest_of_the_batch(name: str) -> None:
    method = build(name).eval()
    with torch.no_grad():
        short = method.embed(one(method.inputs, 5, torch.Generator().manual_seed(4)))
        padded = method.embed(one(method.inputs, 5, torch.Generator().manual_seed(4), padding=9))
        batch = one(method.inputs, 5, torch.Generator().manual_seed(4))
        rows = {k: v[1:3] for k, v in vars(batch).items() if isinstance(v, Tensor)}
        alone = method.embed(Batch(**rows))
    for output, x in short.outputs.items():
        assert torch.allclose(x, padded.outputs[output], atol=1e-5), output
        assert torch.allclose(x[1:3], alone.outputs[output], atol=1e-5), output


def test_each_of_300_samples_has_the_distances_that_it_has_alone(name: str) -> None:
    """The distances of a sample depend neither on the size of the blocks nor on the order."""
    method = build(name).eval()
    batch = one(method.inputs, 300, torch.Generator().manual_seed(7))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        classes = method.embed_classes(text_of(method))
        whole = distances_of(method, batch)
        for size in (300, 64, 7):
            blocks = [
                method.distances(method.embed(rows_of(batch, rows)), classes) for rows in order.split(size)
            ]
            for output, expected in whole.items():
                found = torch.cat([block[output] for block in blocks])
                assert torch.allclose(found, expected[order], rtol=1e-4, atol=1e-5), (output, size)


def rows_of(batch: Batch, rows: Tensor) -> Batch:
    return Batch(**{name: x[rows] for name, x in vars(batch).items() if isinstance(x, Tensor)})


def test_training_lowers_the_loss_and_separates_the_classes(name: str) -> None:
    """With one of three learning rates: a rate that suits a linear map is too high for CJME."""
    if not is_trained(method := build(name)):
        assert share_right(method, training_batch(method, size=16)) > 2 / CLASSES
        return
    ended = []
    for lr in (2e-3, 5e-4, 1e-2):
        first, last, right = trained(name, lr)
        if last < first and right > 2 / CLASSES:
            return
        ended.append((lr, first, last, right))
    pytest.fail(f"rate, first losses, last losses, accuracy: {ended}")


def trained(name: str, lr: float) -> tuple[float, float, float]:
    """Losses of the first and of the last five of forty steps, and the accuracy on a batch after them."""
    method = build(name).train()
    optimizer = torch.optim.Adam(method.parameters(), lr=lr)
    totals = []
    for step in range(40):
        batch = training_batch(method, size=16, seed=step % 4)
        losses = method.loss(batch, Classes(text_of(method)))
        optimizer.zero_grad()
        losses["total"].backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            method.after_step(batch)
        totals.append(losses["total"].item())
    return sum(totals[:5]), sum(totals[-5:]), share_right(method, training_batch(method, size=16, seed=1))


@torch.no_grad()
def share_right(method: Method, batch: Batch) -> float:
    """Fraction of a batch whose nearest class is correct."""
    method.eval()
    distances = distances_of(method, batch)[method.reported_output]
    method.train()
    assert batch.label is not None
    return (distances.argmin(1) == batch.label).float().mean().item()


def test_the_seed_fixes_the_model(name: str) -> None:
    for a, b in zip(build(name, 7).state_dict().values(), build(name, 7).state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_saved_state_gives_the_same_embeddings(name: str) -> None:
    method, other = build(name, 1).eval(), build(name, 2).eval()
    other.load_state_dict(method.state_dict())
    batch = one(method.inputs, 3, torch.Generator().manual_seed(5))
    with torch.no_grad():
        for output, x in method.embed(batch).outputs.items():
            assert torch.equal(x, other.embed(batch).outputs[output])


def test_padding_may_be_kept_out_of_batchnorm_statistics(name: str) -> None:
    method = build(name).train()
    if method.inputs == "mean":
        pytest.skip("no padding in means")
    generator = torch.Generator().manual_seed(6)
    batch = replace(training_batch(method), padding_in_statistics=False)
    longer = one(method.inputs, 12, generator, padding=5)
    assert batch.audio_mask is not None
    states = []
    for padding in (0, 5):
        torch.manual_seed(0)
        method = build(name).train()
        for module in method.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        raw = one(method.inputs, 12, torch.Generator().manual_seed(6), padding=padding)
        method.loss(
            replace(raw, padding_in_statistics=False, label=batch.label, text=batch.text),
            Classes(text_of(method)),
        )
        states.append({k: v for k, v in method.state_dict().items() if "running" in k})
    assert longer.audio.shape[1] > batch.audio.shape[1]
    if not states[0]:
        pytest.skip("no running statistics")
    for key, value in states[0].items():
        assert torch.allclose(value, states[1][key], atol=1e-5), key


def ships(name: str) -> bool:
    """Whether a method is one of the project's."""
    return registry.source_file(FOUND.get(name)).parent == registry.METHODS_DIR


def test_every_setting_is_documented(name: str) -> None:
    cls = FOUND.get(name)
    for key, info in cls.Config.model_fields.items():
        assert info.description, f"{name}.{key} has no description"
    assert cls.title
    if ships(name):
        assert cls.paper
        assert cls.bibtex.lstrip().startswith("@")


def test_both_ends_of_every_search_range_are_settings_the_method_accepts(name: str) -> None:
    cls = FOUND.get(name)
    for card in load_cards().values():
        ranges = search_ranges(cls, FOUND.search_space(cls), card)
        assert ranges or not ships(name), f"search_spaces/{name}.yaml has no search ranges"
        for field, searched in ranges.items():
            model = TrainConfig if field.startswith("train.") else cls.Config
            for value in searched.choices or (searched.low, searched.high):
                model.model_validate({field.removeprefix("train."): value})
