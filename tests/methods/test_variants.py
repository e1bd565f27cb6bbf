"""The variants of the linear baseline that explain the results on stamps."""

from __future__ import annotations

import torch
from support.checkout import PROJECT

from benchmark import registry
from benchmark.method import Batch, Classes, Spec

FILE = PROJECT / "datasets" / "stamps" / "variants.py"
SPEC = Spec(audio_dim=5, video_dim=7, text_dim=6, audio_seconds=0.5, video_seconds=0.25)
FIXED = ("fixed", "fixed_two", "fixed_triplet")
ONE_LENGTH = ("learned", "learned_triplet")
OWN_LENGTH = ("learned_length", "learned_length_triplet")


def test_each_variant_differs_in_what_its_name_says() -> None:
    methods = registry.load([FILE])
    for name in (*FIXED, *ONE_LENGTH, *OWN_LENGTH):
        torch.manual_seed(0)
        cls = methods.get(name)
        method, text = cls(cls.Config(), SPEC), torch.randn(4, SPEC.text_dim)
        batch = Batch(torch.randn(12, 5), torch.randn(12, 7), label=torch.arange(12) % 4)
        method.loss(batch, Classes(text))["total"].backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None for p in method.parameters()), name
        with torch.no_grad():
            classes = method.eval().embed_classes(text)
        assert torch.equal(classes, torch.nn.functional.normalize(text, dim=1)) == (name in FIXED), name
        of_one_length = torch.allclose(classes.norm(dim=1), torch.ones(4))
        assert of_one_length == (name not in OWN_LENGTH), name
