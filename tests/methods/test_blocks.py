"""Shared blocks, and properties of every method built from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.method import Batch, Classes, Method, Spec
from methods.attention_fusion import AttentionFusion
from methods.avca import Avca
from methods.avgzslnet import AvgzslNet
from methods.blocks import (
    PADDED,
    Attention,
    Dropout,
    Groups,
    Projection,
    Tokens,
    TokenStage,
    TransformerLayer,
    encode_steps,
)
from methods.cjme import Cjme, surer_modality
from methods.perceiver import Perceiver
from methods.tcaf import Tcaf, attention_mask

SPEC = Spec(audio_dim=5, video_dim=7, text_dim=6, audio_seconds=0.96, video_seconds=0.64)
SEQUENCE: dict[str, Any] = {
    "dim": 12, "embedding_dim": 8, "encoder_hidden": 10, "decoder_hidden": 9, "token_size": 4,
}  # fmt: skip
SEQUENCE_METHODS = {
    "tcaf": (Tcaf, {**SEQUENCE, "depth": 2, "heads": 2, "dim_head": 4, "mlp_dim": 6}),
    "attention_fusion": (AttentionFusion, SEQUENCE),
    "perceiver": (Perceiver, {**SEQUENCE, "depth": 2, "latents": 3, "heads": 2, "dim_head": 4}),
}
MEAN_METHODS = {
    "avca": (
        Avca,
        {"dim": 12, "embedding_dim": 8, "encoder_hidden": 10, "projection_hidden": 9, "dim_head": 4},
    ),
    "cjme": (Cjme, {"hidden": 10, "text_hidden": 9, "embedding_dim": 8}),
    "avgzslnet": (AvgzslNet, {"hidden": 10, "text_hidden": 9, "embedding_dim": 8, "decoder_hidden": 7}),
}
ALL_METHODS = {**SEQUENCE_METHODS, **MEAN_METHODS}
CLASSES = Classes(
    torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str) -> Method:
    torch.manual_seed(0)
    cls, settings = ALL_METHODS[name]
    return cls(cls.Config(**settings), SPEC)


def sequences(extra: int = 0, *, seed: int = 1) -> Batch:
    """Six sequences of 1-4 audio and 1-5 video steps, padded by ``extra`` steps more than needed."""
    g = torch.Generator().manual_seed(seed)
    lengths = {"audio": torch.tensor([4, 1, 2, 3, 4, 2]), "video": torch.tensor([2, 5, 1, 3, 4, 5])}
    values: dict[str, Tensor] = {}
    for modality, dim in (("audio", SPEC.audio_dim), ("video", SPEC.video_dim)):
        longest = int(lengths[modality].max())
        mask = torch.arange(longest) < lengths[modality][:, None]
        x = torch.randn(6, longest, dim, generator=g) * mask.unsqueeze(-1)
        times = torch.arange(longest).float().expand(6, -1)
        values[modality] = nn.functional.pad(x, (0, 0, 0, extra))
        values[f"{modality}_mask"] = nn.functional.pad(mask, (0, extra))
        values[f"{modality}_times"] = nn.functional.pad(times, (0, extra))
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    return Batch(**values, label=label, text=CLASSES.text[label])


def means() -> Batch:
    g = torch.Generator().manual_seed(1)
    label, other = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([1, 2, 3, 0, 2, 3])
    one, two = ((torch.randn(6, 5, generator=g), torch.randn(6, 7, generator=g)) for _ in range(2))
    return Batch(*one, label=label, text=CLASSES.text[label], negative=Batch(*two, text=CLASSES.text[other]))


def batch_for(name: str) -> Batch:
    return sequences() if name in SEQUENCE_METHODS else means()


def test_projection_gives_its_momentum_to_the_last_norm_of_two_layers_only() -> None:
    norms = [x for x in Projection(3, 4, hidden=5, momentum=0.99) if isinstance(x, nn.BatchNorm1d)]
    single = [x for x in Projection(3, 4, momentum=0.99) if isinstance(x, nn.BatchNorm1d)]

    assert [x.momentum for x in norms] == [0.1, 0.99]
    assert [x.momentum for x in single] == [0.1]


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    x = torch.full((400, 301), 2.0, requires_grad=True)
    dropout = Dropout(0.3).train()
    torch.manual_seed(0)
    y = dropout(x)
    torch.manual_seed(0)
    assert torch.equal(y, dropout(x)), "the draws follow torch's generator"
    assert not torch.equal(y, dropout(x))
    dropped = y == 0
    assert torch.allclose(y[~dropped], torch.tensor(2 / 0.7), rtol=1e-4)
    for share in (dropped.float().mean(0), dropped.float().mean(1)):  # 5 standard deviations
        assert (share - 0.3).abs().max() < 0.133
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.007)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, dropped)
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
    assert not Dropout(1.0).train()(x).any()


def test_attention_equals_its_formula_and_never_sees_masked_keys() -> None:
    torch.manual_seed(0)
    attention = Attention(6, heads=2, dim_head=3, dropout=0.0)
    x, mask = torch.randn(2, 4, 6), torch.tensor([[True, True, False, False], [True, True, True, False]])

    q, k, v = (
        part(x).view(2, 4, 2, 3).transpose(1, 2) for part in (attention.query, attention.key, attention.value)
    )
    scores = (q @ k.transpose(2, 3) * 3**-0.5).masked_fill(
        ~mask[:, None, None, :], torch.finfo(torch.float32).min
    )
    expected = attention.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, 4, 6))

    torch.testing.assert_close(attention(x, mask=mask[:, None, :]), expected)


def test_attention_of_reduced_precision_is_computed_in_float32_on_the_cpu() -> None:
    torch.manual_seed(0)
    attention, x = Attention(6, heads=2, dim_head=3, dropout=0.0), torch.randn(2, 4, 6)
    taken: list[torch.dtype] = []
    plain = nn.functional.scaled_dot_product_attention

    def spied(*qkv: Tensor, **options: Any) -> Tensor:
        taken.extend(x.dtype for x in qkv)
        return plain(*qkv, **options)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention.query(x).dtype == torch.bfloat16
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.functional, "scaled_dot_product_attention", spied)
            reduced = attention(x)

    assert set(taken) == {torch.float32}
    torch.testing.assert_close(reduced.float(), attention(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("shared_norm", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, None])
def test_layers_over_groups_give_values_and_gradients_of_padded_ones(
    shared_norm: bool, size: int | None
) -> None:
    torch.manual_seed(0)
    first, second = (
        TransformerLayer(6, heads=2, dim_head=3, mlp_dim=5, dropout=0.0, shared_norm=shared_norm)
        for _ in range(2)
    )
    audio, video = (
        torch.arange(n) < torch.tensor(lengths)[:, None] for n, lengths in ((3, [1, 3, 2]), (4, [4, 1, 2]))
    )
    real = torch.cat([torch.ones(3, 1, dtype=torch.bool), audio, video], dim=1)
    x = torch.randn(3, 8, 6, requires_grad=True)
    kinds = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2]).where(real, PADDED)
    mask = attention_mask(kinds, "cross")
    weights = [*first.parameters(), *second.parameters(), x]

    plain = second(first(x, mask), mask)[:, 0]
    expected = torch.autograd.grad(plain.sin().sum(), weights)
    groups = Groups.of(audio, video, size=size)
    masks = [attention_mask(mine, "cross") for mine in groups.kinds]
    rows = torch.cat([x[:, 0], x[:, 1:4][audio], x[:, 4:][video]]).index_select(0, groups.rows)
    hidden = first.grouped(rows, groups, masks)
    grouped = second.grouped(hidden, groups, masks, first_only=True).index_select(0, groups.back)
    found = torch.autograd.grad(grouped.sin().sum(), weights)

    torch.testing.assert_close(grouped, plain)
    torch.testing.assert_close(found, expected)
    every = second.grouped(hidden, groups, masks)
    torch.testing.assert_close(every.index_select(0, groups.firsts).index_select(0, groups.back), plain)


def test_groups_hold_sequences_of_like_lengths_and_all_of_their_tokens() -> None:
    audio, video = (
        torch.arange(n) < torch.tensor(lengths)[:, None]
        for n, lengths in ((3, [1, 3, 0, 2]), (4, [4, 1, 1, 2]))
    )

    groups = Groups.of(audio, video, size=2)

    assert groups.shapes == [(2, 5), (2, 6)]  # lengths 2 and 5, then 5 and 6
    assert [k.tolist() for k in groups.kinds] == [
        [[0, 2, PADDED, PADDED, PADDED], [0, 1, 1, 1, 2]],
        [[0, 1, 1, 2, 2, PADDED], [0, 1, 2, 2, 2, 2]],
    ]
    # rows 0 to 3: first tokens; 4 to 9: audio steps; 10 to 17: video steps
    assert groups.rows.tolist() == [2, 15, 2, 2, 2, 1, 5, 6, 7, 14, 3, 8, 9, 16, 17, 3, 0, 4, 10, 11, 12, 13]
    assert groups.firsts[groups.back].tolist() == [16, 5, 0, 10]
    pieces = groups.split(torch.arange(22.0)[:, None])
    assert [piece.flatten().tolist() for piece in pieces] == [list(range(10)), list(range(10, 22))]


@pytest.mark.parametrize("padding_in_statistics", [True, False])
def test_encoding_steps_gives_what_a_network_over_all_steps_gives(padding_in_statistics: bool) -> None:
    """Padded time steps pass through all layers but the first, or through none."""
    torch.manual_seed(0)
    encoder = Projection(3, 4, hidden=5, dropout=0.4).train()
    plain = Projection(3, 4, hidden=5, dropout=0.4).train()
    plain.load_state_dict(encoder.state_dict())
    mask = torch.arange(4) < torch.tensor([2, 4, 1])[:, None]
    x = torch.randn(3, 4, 3) * mask.unsqueeze(-1)

    torch.manual_seed(1)
    found = encode_steps(encoder, x, mask, padding_in_statistics)
    torch.manual_seed(1)
    expected = plain(x.flatten(0, 1))[mask.flatten()] if padding_in_statistics else plain(x[mask])

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(dict(encoder.named_buffers()), dict(plain.named_buffers()))
    found.sin().sum().backward()
    expected.sin().sum().backward()
    torch.testing.assert_close(*([p.grad for p in network.parameters()] for network in (encoder, plain)))


def test_attention_mask_lets_a_step_see_the_class_token_and_real_steps_of_the_other_modality() -> None:
    kinds = torch.tensor([[0, 1, 1, 2, PADDED]])

    cross = attention_mask(kinds, "cross")[0].int().tolist()
    own = attention_mask(kinds, "self")[0].int().tolist()
    everything = attention_mask(kinds, "all")[0].int().tolist()

    assert cross[:4] == [[1, 1, 1, 1, 0], [1, 0, 0, 1, 0], [1, 0, 0, 1, 0], [1, 1, 1, 0, 0]]
    assert own[:4] == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 0, 0, 1, 0]]
    assert everything == [[1, 1, 1, 1, 0]] * 5
    for seen in (cross, own):
        assert any(seen[4]), "no row may be empty"
        assert not seen[4][4]


def test_token_stage_equals_its_formula() -> None:
    torch.manual_seed(0)
    stage = TokenStage(3, size=4, scale=2.0, dropout=0.0)
    x, times = torch.randn(1, 2, 3), torch.tensor([[0.5, 1.5]])
    mask = torch.tensor([[True, False]])
    video = Tokens(x[mask], mask)

    _, tokens = stage(video, times, video, times)

    phase = 2 * torch.pi * times[0, 0] * stage.get_buffer("frequencies").sum(0)
    extra = stage.position(torch.cat([phase.sin(), phase.cos()])) + stage.modality[1]
    torch.testing.assert_close(tokens.x[0], stage.video(torch.cat([x[0, 0], extra])), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(tokens.x.sum(), [stage.padding])
    assert not gradient.any(), "it is there, so that Adam decays the padding embedding"


def test_mean_of_tokens_counts_real_steps_only() -> None:
    tokens = Tokens(torch.tensor([[2.0], [4.0]]), torch.tensor([[True, True, False]]))

    assert tokens.mean().item() == 3.0


@pytest.mark.parametrize(("published", "rows"), [(True, 6), (False, 4)])
def test_padded_steps_enter_statistics_only_if_the_batch_allows_it(published: bool, rows: int) -> None:
    encoder = Projection(1, 1).train()
    nn.init.ones_(encoder[0].weight)
    nn.init.zeros_(encoder[0].bias)
    encoder[1].momentum = None  # then the running mean is the mean of all rows
    x, mask = torch.tensor([1.0, 2, 0, 3, 6, 0]).view(2, 3, 1), torch.tensor([[True, True, False]] * 2)

    encode_steps(encoder, x, mask, padding_in_statistics=published)

    assert encoder[1].running_mean.item() == pytest.approx(12 / rows)


@pytest.mark.parametrize("name", SEQUENCE_METHODS)
def test_embeddings_depend_neither_on_padding_nor_on_other_samples(name: str) -> None:
    model = build(name).eval()
    with torch.no_grad():
        expected = model.embed(sequences()).outputs["joint"]
        padded = model.embed(sequences(extra=3)).outputs["joint"]
        corrected = model.embed(replace(sequences(extra=3), padding_in_statistics=False)).outputs["joint"]
        alone = model.embed(
            Batch(**{k: v[1:2] for k, v in vars(sequences()).items() if isinstance(v, Tensor)})
        )

    assert expected.std() > 0
    torch.testing.assert_close(padded, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(corrected, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(alone.outputs["joint"], expected[1:2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SEQUENCE_METHODS)
def test_embeddings_depend_on_both_modalities_and_on_time(name: str) -> None:
    model, batch = build(name).eval(), sequences()
    assert batch.audio_times is not None
    variants = [replace(batch, audio=-batch.audio), replace(batch, video=-batch.video)]
    variants.append(replace(batch, audio_times=batch.audio_times + 0.3))
    with torch.no_grad():
        expected = model.embed(batch).outputs["joint"]
        changed = [model.embed(x).outputs["joint"] for x in variants]

    assert all(not torch.allclose(x, expected, atol=1e-4) for x in changed)


@pytest.mark.parametrize("name", SEQUENCE_METHODS)
@pytest.mark.parametrize("padding_in_statistics", [True, False])
def test_extra_pass_moves_encoders_and_projections_but_no_decoder_and_no_weight(
    name: str, padding_in_statistics: bool
) -> None:
    model = build(name).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    model.after_step(replace(sequences(), padding_in_statistics=padding_in_statistics))

    changed = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    projections = (
        {"audio_projection", "video_projection"} if name == "attention_fusion" else {"sample_projection"}
    )
    assert changed == {"audio_encoder", "video_encoder", "word_projection"} | projections


@pytest.mark.parametrize("name", SEQUENCE_METHODS)
def test_sequence_methods_refuse_temporal_means(name: str) -> None:
    with pytest.raises(ValueError, match="needs sequences"):
        build(name).embed(means())


@pytest.mark.parametrize("name", MEAN_METHODS)
def test_mean_methods_refuse_a_training_batch_without_negatives(name: str) -> None:
    assert ALL_METHODS[name][0].needs_negatives
    with pytest.raises(ValueError, match="no negatives"):
        build(name).loss(replace(means(), negative=None), CLASSES)


@pytest.mark.parametrize("name", ALL_METHODS)
@pytest.mark.parametrize("autocast", [False, True])
def test_training_lowers_the_loss_and_reaches_every_parameter(name: str, autocast: bool) -> None:
    model, batch = build(name).train(), batch_for(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    totals = []
    for _ in range(30):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses = model.loss(batch, CLASSES)
        assert all(x.ndim == 0 and x.isfinite() for x in losses.values())
        optimizer.zero_grad()
        losses["total"].backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        optimizer.step()
        totals.append(losses["total"].item())

    assert sum(totals[-5:]) < 0.97 * sum(totals[:5])


@pytest.mark.parametrize("name", ALL_METHODS)
def test_reported_output_has_distances_and_the_text_size_is_free(name: str) -> None:
    model = build(name).eval()
    with torch.no_grad():
        distances = model.distances(model.embed(batch_for(name)), model.embed_classes(CLASSES.text))

    assert model.reported_output in distances
    assert all(x.shape == (6, 4) and (x >= 0).all() for x in distances.values())


def test_cjme_reports_the_distance_of_the_gated_modality() -> None:
    model = build("cjme").eval()
    with torch.no_grad():
        embeddings = replace(model.embed(means()), gate=torch.tensor([0.0, 1, 0, 1, 0, 1]))
        d = model.distances(embeddings, model.embed_classes(CLASSES.text))

    assert torch.equal(d["both"][0::2], d["audio"][0::2])
    assert torch.equal(d["both"][1::2], d["video"][1::2])


def test_avgzslnet_reports_the_sum_of_both_distances() -> None:
    model = build("avgzslnet").eval()
    with torch.no_grad():
        d = model.distances(model.embed(means()), model.embed_classes(CLASSES.text))

    assert torch.equal(d["both"], d["audio"] + d["video"])


def test_cjme_pairings_weight_triplets_by_the_mean_attention_or_by_each_samples_own() -> None:
    torch.manual_seed(0)
    outer, sample = (
        Cjme(Cjme.Config(hidden=10, text_hidden=9, embedding_dim=8, dropout=0.0, pairing=x), SPEC).eval()
        for x in ("outer", "sample")
    )
    sample.load_state_dict(outer.state_dict())
    batch = means()
    assert batch.negative is not None
    assert batch.text is not None
    with torch.no_grad():
        t, alpha = outer.text_net(batch.text), outer.modality_attention(batch)
        near = [
            torch.relu((t - net(x) + 1e-6).norm(dim=1) - (t - net(n) + 1e-6).norm(dim=1) + 1)
            for net, x, n in (
                (outer.audio_net, batch.audio, batch.negative.audio),
                (outer.video_net, batch.video, batch.negative.video),
            )
        ]
        pairs = (1 - alpha)[:, None] * near[0][None, :] + alpha[:, None] * near[1][None, :]
        losses = [m.loss(batch, CLASSES)["triplet"] for m in (outer, sample)]

    torch.testing.assert_close(losses[0], pairs.mean())
    torch.testing.assert_close(losses[1], pairs.diagonal().mean())
    assert Cjme.corrected_settings == {"pairing": "sample"}


def test_the_surer_modality_is_the_one_with_less_entropy_by_a_margin() -> None:
    classes, sure, unsure = torch.eye(3), torch.tensor([[9.0, 0, 0]]), torch.zeros(1, 3)

    assert surer_modality(sure, unsure, classes, 0.1).item() == 0.0
    assert surer_modality(unsure, sure, classes, 0.1).item() == 1.0
    assert surer_modality(sure, sure, classes, 0.1).item() == 0.5
