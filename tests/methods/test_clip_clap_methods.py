"""Frozen, the text layer of older methods, and HSP-MoE's switches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from benchmark.method import Batch, Classes, Method, Spec
from methods.avca import Avca
from methods.avgzslnet import AvgzslNet
from methods.cjme import Cjme
from methods.clipclap import ClipClap
from methods.frozen import Frozen
from methods.hspmoe import HspMoe, relation, uniformity
from methods.hyper import HyperSingle

SPEC = Spec(5, 7, 12, 1.0, 1.0, {"video": 7, "audio": 5})


def tensors(size: int = 8) -> tuple[Batch, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(4, 12, generator=generator)
    label = torch.arange(size) % 4

    def labelled(labels: torch.Tensor) -> dict[str, Any]:
        audio, video = torch.randn(size, 5, generator=generator), torch.randn(size, 7, generator=generator)
        return {"audio": audio, "video": video, "label": labels, "text": text[labels]}

    return Batch(**labelled(label), negative=Batch(**labelled((label + 1) % 4))), text


@pytest.mark.parametrize("modality", ["both", "audio", "video"])
def test_frozen_is_one_minus_the_mean_cosine(modality: Any) -> None:
    batch, text = tensors()
    method = Frozen(Frozen.Config(modality=modality), SPEC)

    found = method.distances(method.embed(batch), method.embed_classes(text))["joint"]

    video = functional.cosine_similarity(batch.video[:, None], text[None, :, :7], dim=2)
    audio = functional.cosine_similarity(batch.audio[:, None], text[None, :, 7:], dim=2)
    cosine = {"both": (video + audio) / 2, "audio": audio, "video": video}[modality]
    torch.testing.assert_close(found, 1 - cosine)


def test_frozen_follows_the_order_of_the_text_parts() -> None:
    batch, text = tensors()
    swapped = Spec(5, 7, 12, 1.0, 1.0, {"audio": 5, "video": 7})
    first, second = Frozen(Frozen.Config(), SPEC), Frozen(Frozen.Config(), swapped)

    one = first.distances(first.embed(batch), first.embed_classes(text))["joint"]
    classes = second.embed_classes(torch.cat([text[:, 7:], text[:, :7]], dim=1))
    torch.testing.assert_close(one, second.distances(second.embed(batch), classes)["joint"])


@pytest.mark.parametrize("cls", [Avca, AvgzslNet, Cjme, HyperSingle])
def test_a_text_layer_stands_in_place_of_the_word_vector(cls: Any) -> None:
    batch, text = tensors()
    torch.manual_seed(1)
    method: Method = cls(cls.Config(text_layer=9), SPEC).train()
    plain: Method = cls(cls.Config(), SPEC)

    method.loss(batch, Classes(text))["total"].backward()  # type: ignore[no-untyped-call]
    method.after_step(batch)

    layer = method.text_layer
    assert isinstance(layer, torch.nn.Sequential)
    assert layer[0].weight.shape == (9, 12)
    assert layer[0].weight.grad.abs().sum() > 0
    assert method.embed_classes(text).shape == plain.embed_classes(text).shape
    assert not [name for name in plain.state_dict() if name.startswith("text_layer")]


def test_hyper_trains_in_half_precision() -> None:
    batch, text = tensors()
    method = HyperSingle(HyperSingle.Config(similarity="norm", curvature=0.19), SPEC).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = method.loss(batch, Classes(text))
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["hyperbolic"].dtype == torch.float32


def test_weights_of_hspmoe_that_was_trained_without_experts_are_read() -> None:
    args = {"semantic_hyperspherical": True, "semantic_consensus_routing": False}
    assert HspMoe.is_published_as(args)
    assert not ClipClap.is_published_as(args)
    config: Any = HspMoe.published_config(args)
    method = HspMoe(config, SPEC)
    published = {ours: name for name, ours in HspMoe.published_blocks({}).items()}
    state = {published[name]: x for name, x in method.state_dict().items()}
    assert HspMoe.published_state(state).keys() == method.state_dict().keys()


@pytest.mark.parametrize("name", ["semantic_radial_mode", "semantic_distill_weight"])
def test_published_variants_of_hspmoe_that_we_do_not_have_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        HspMoe.published_config({"semantic_hyperspherical": True, name: "ce"})


@pytest.mark.parametrize("part", ["dp", "rp", "hup"])
def test_each_term_of_hspmoe_can_be_left_out(part: str) -> None:
    batch, text = tensors()
    names = {"dp": "distribution", "rp": "relation", "hup": "uniformity"}

    def losses(**switches: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(2)
        return HspMoe(HspMoe.Config(**switches), SPEC).train().loss(batch, Classes(text))

    every, without = losses(), losses(**{part: False})

    assert every.keys() - without.keys() == {names[part]}
    torch.testing.assert_close(every["total"] - every[names[part]], without["total"])


def test_hspmoe_without_its_parts_is_clipclap_on_its_own_distance() -> None:
    batch, text = tensors()
    off = dict.fromkeys(("sphere", "moe", "far", "dp", "rp", "hup"), False)
    method = HspMoe(HspMoe.Config(**off), SPEC).eval()
    embeddings, classes = method.embed(batch), method.embed_classes(text)

    assert embeddings.outputs["joint"].shape == (8, 64)
    assert method.summarise(embeddings, classes) == {}
    assert method.uses_with(method.config) == ()
    torch.testing.assert_close(
        method.distances(embeddings, classes)["joint"], torch.cdist(embeddings.outputs["joint"], classes)
    )


def test_only_the_published_scale_of_far_is_transductive() -> None:
    assert HspMoe.uses_with(HspMoe.Config()) == ("test_samples",)
    assert HspMoe.uses_with(HspMoe.Config(far_scale="validation")) == ()
    assert HspMoe.uses_with(HspMoe.Config(far=False)) == ()
    assert HspMoe.corrected_settings == {"far_scale": "validation"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "audio"}, "moe needs modality=both"),
        ({"sphere": False}, "needs sphere=true"),
        ({"word_embeddings": "clip"}, "need word_embeddings=both"),
    ],
)
def test_parts_that_do_not_fit_together_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HspMoe.Config(**changes)


def test_terms_of_degenerate_batches_are_finite() -> None:
    q = functional.normalize(torch.ones(3, 4), dim=1)
    assert uniformity(q, torch.zeros(3, dtype=torch.long)) == 0
    assert uniformity(q, torch.arange(3)) == pytest.approx(8.0)
    assert relation(q, q) == pytest.approx(0.0)
