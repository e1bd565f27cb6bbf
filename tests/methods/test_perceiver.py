"""Perceiver: its blocks by hand, its parameters, and what its latents attend to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from benchmark.method import Spec
from methods.blocks import Tokens
from methods.perceiver import GatedFeedForward, Perceiver, PerceiverBlock

SPEC = Spec(audio_dim=128, video_dim=4096, text_dim=300, audio_seconds=0.96, video_seconds=0.64)
TINY = Perceiver.Config(
    dim=4,
    embedding_dim=2,
    encoder_hidden=3,
    decoder_hidden=3,
    token_size=2,
    depth=1,
    latents=2,
    heads=2,
    dim_head=3,
    mlp_factor=2,
    dropout=0.0,
)


def heads_by_hand(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of ``[M, h * d]`` queries over ``[N, h * d]`` keys, one head at a time."""
    width = q.shape[1] // heads
    outputs = []
    for i in range(heads):
        part = slice(i * width, (i + 1) * width)
        weights = (q[:, part] @ k[:, part].T / width**0.5).softmax(dim=1)
        outputs.append(weights @ v[:, part])
    return torch.cat(outputs, dim=1)


def test_default_parameters_have_the_described_shapes() -> None:
    model = Perceiver(Perceiver.Config(), SPEC)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}

    assert shapes["latents"] == (16, 300)
    assert len(model.blocks) == 4
    for i in range(4):
        assert shapes[f"blocks.{i}.cross.query.weight"] == (64, 300)
        assert shapes[f"blocks.{i}.own.query.weight"] == (512, 300)
        for feed_forward in ("cross_feed_forward", "own_feed_forward"):
            assert shapes[f"blocks.{i}.{feed_forward}.enter.weight"] == (600, 300)
            assert shapes[f"blocks.{i}.{feed_forward}.leave.weight"] == (300, 300)
    assert shapes["sample_projection.0.weight"] == (512, 300)
    assert len({id(p) for p in model.parameters()}) == len(shapes)


def test_gated_feed_forward_equals_its_formula() -> None:
    layer = GatedFeedForward(1, 2, dropout=0.0)
    layer.enter.load_state_dict({"weight": torch.tensor([[1.0], [2], [3], [-1]]), "bias": torch.zeros(4)})
    layer.leave.load_state_dict({"weight": torch.tensor([[1.0, 10]]), "bias": torch.tensor([0.5])})

    expected = 2.0 * functional.gelu(torch.tensor(6.0)) + 10 * 4.0 * functional.gelu(torch.tensor(-2.0)) + 0.5
    torch.testing.assert_close(layer(torch.tensor([[2.0]])), expected.view(1, 1))


def test_block_looks_at_the_real_tokens_then_at_itself() -> None:
    torch.manual_seed(0)
    block = PerceiverBlock(TINY).eval()
    latents, tokens = torch.randn(2, 4), torch.randn(3, 4)
    with torch.no_grad():
        out = block(latents[None], tokens[None], torch.tensor([[[True, True, False]]]))

        q, context = block.norms[0](latents), block.token_norm(tokens[:2])
        x = latents + block.cross.out(
            heads_by_hand(block.cross.query(q), block.cross.key(context), block.cross.value(context), 1)
        )
        x = x + block.cross_feed_forward(block.norms[1](x))
        y = block.norms[2](x)
        x = x + block.own.out(heads_by_hand(block.own.query(y), block.own.key(y), block.own.value(y), 2))
        x = x + block.own_feed_forward(block.norms[3](x))

    torch.testing.assert_close(out[0], x)


def test_embedding_is_the_projected_norm_of_the_mean_latent() -> None:
    torch.manual_seed(0)
    model = Perceiver(TINY, SPEC).eval()
    audio = Tokens(torch.randn(1, 4), torch.tensor([[True, False]]))
    video = Tokens(torch.randn(2, 4), torch.tensor([[True, True, False]]))
    real = torch.cat([audio.x, video.x])[None]
    with torch.no_grad():
        out = model.fuse(audio, video)["joint"]
        latents = model.blocks[0](model.latents[None], real, torch.ones(1, 1, 3, dtype=torch.bool))
        mean = latents[0].sum(0) / 2
        normed = (mean - mean.mean()) / (mean.var(correction=0) + 1e-5).sqrt()

    torch.testing.assert_close(out, model.sample_projection(normed[None]))
