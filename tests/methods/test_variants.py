"""The variants of the linear baseline that explain the results on stamps."""

from __future__ import annotations

import pytest
import torch
from support.checkout import PROJECT

from benchmark import registry
from benchmark.method import Batch, Classes, Spec

FILE = PROJECT / "datasets" / "stamps" / "variants.py"
SPEC = Spec(audio_dim=5, video_dim=7, text_dim=6, audio_seconds=0.5, video_seconds=0.25)
FIXED = ("fixed", "fixed_two", "fixed_triplet")
ONE_LENGTH = ("learned", "learned_triplet")
OWN_LENGTH = ("learned_length", "learned_length_triplet")


@pytest.mark.parametrize("name", [*FIXED, *ONE_LENGTH, *OWN_LENGTH])
def test_a_variant_differs_in_what_its_name_says(name: str) -> None:
    torch.manual_seed(0)
    cls = registry.load([FILE]).get(name)
    method, text = cls(cls.Config(), SPEC), torch.randn(4, SPEC.text_dim)
    batch = Batch(torch.randn(12, 5), torch.randn(12, 7), label=torch.arange(12) % 4)
    method.loss(batch, Classes(text))["total"].backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in method.parameters())
    with torch.no_grad():
        classes = method.eval().embed_classes(text)
    assert torch.equal(classes, torch.nn.functional.normalize(text, dim=1)) == (name in FIXED)
    lengths = classes.norm(dim=1)
    assert torch.allclose(lengths, torch.ones(4)) == (name not in OWN_LENGTH)
