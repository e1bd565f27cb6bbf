"""Attention fusion: the gate by hand, its branches' losses, its parameters."""

from __future__ import annotations

import torch

from benchmark.method import Batch, Classes, Spec
from methods.attention_fusion import AttentionFusion
from methods.blocks import Tokens
from methods.losses import WordSide, tcaf_losses

SPEC = Spec(audio_dim=128, video_dim=4096, text_dim=384, audio_seconds=0.96, video_seconds=0.64)
TINY = AttentionFusion.Config(
    dim=4, embedding_dim=2, encoder_hidden=3, decoder_hidden=3, token_size=2,
    encoder_dropout=0.0, decoder_dropout=0.0,
    word_dropout=0.0, token_dropout=0.0,
)  # fmt: skip


def tokens(*lengths: int, steps: int) -> Tokens:
    mask = torch.arange(steps) < torch.tensor(lengths)[:, None]
    return Tokens(torch.randn(sum(lengths), 4), mask)


def test_default_parameters_have_the_published_widths() -> None:
    model = AttentionFusion(AttentionFusion.Config(), SPEC)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}

    assert shapes["gate.weight"] == (64, 128)
    for modality in ("audio", "video"):
        assert shapes[f"{modality}_projection.0.weight"] == (512, 300)
        assert shapes[f"{modality}_projection.4.weight"] == (64, 512)
    assert shapes["sample_decoder.4.weight"] == (384, 512)
    assert shapes["word_decoder.0.weight"] == (384, 64)
    assert shapes["word_projection.0.weight"] == (64, 384)
    assert not any(name.startswith("sample_projection") for name in shapes)  # the gated sum is theta_o itself


def test_gate_mixes_the_branches_per_output_dimension() -> None:
    torch.manual_seed(0)
    model = AttentionFusion(TINY, SPEC).eval()
    audio, video = tokens(1, 2, steps=2), tokens(3, 1, steps=3)
    weight = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 2.0]])  # gate 0 from a_0, gate 1 from v_1
    model.gate.load_state_dict({"weight": weight, "bias": torch.tensor([0.0, -0.5])})
    with torch.no_grad():
        out = model.fuse(audio, video)
        a = model.audio_projection(torch.stack([audio.x[0], audio.x[1:].mean(0)]))
        v = model.video_projection(torch.stack([video.x[:3].mean(0), video.x[3]]))

    z = torch.stack([1 / (1 + torch.exp(-a[:, 0])), 1 / (1 + torch.exp(-(2 * v[:, 1] - 0.5)))], dim=1)
    torch.testing.assert_close(out["audio"], a)
    torch.testing.assert_close(out["video"], v)
    torch.testing.assert_close(out["joint"], z * a + (1 - z) * v)


def test_loss_is_the_tcaf_loss_of_the_fusion_and_of_both_branches() -> None:
    torch.manual_seed(0)
    model = AttentionFusion(TINY, Spec(5, 7, 6, 1.0, 1.0)).eval()
    text, label = torch.randn(3, 6), torch.tensor([0, 2, 1, 0])
    mask, times = torch.ones(4, 2, dtype=torch.bool), torch.arange(2.0).expand(4, 2)
    batch = Batch(torch.randn(4, 2, 5), torch.randn(4, 2, 7), mask, mask, times, times, label, text[label])
    with torch.no_grad():
        losses = model.loss(batch, Classes(text))
        theta_w = model.word_projection(text[label])
        words = WordSide(
            text[label], theta_w, model.word_decoder(theta_w), model.word_projection(text), label
        )
        each = {
            name: tcaf_losses(x, model.sample_decoder(x), words)["total"]
            for name, x in model.sample_embeddings(batch).items()
        }

    assert list(each) == ["joint", "audio", "video"]
    torch.testing.assert_close({name: losses[name] for name in each}, each)
    torch.testing.assert_close(losses["total"], torch.stack(list(each.values())).sum())


def test_only_the_fusion_is_reported() -> None:
    model = AttentionFusion(TINY, Spec(5, 7, 6, 1.0, 1.0)).eval()
    mask, times = torch.ones(1, 2, dtype=torch.bool), torch.arange(2.0).expand(1, 2)
    with torch.no_grad():
        embeddings = model.embed(Batch(torch.randn(1, 2, 5), torch.randn(1, 2, 7), mask, mask, times, times))

    assert list(embeddings.outputs) == [model.reported_output] == ["joint"]
