"""Building blocks that several methods share: projections, attention, tokens, a base class for fusion.

Shared losses are in ``losses.py``. What only one method uses is in its file.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmark.method import Batch, Classes, Embeddings, Field, Method, MethodConfig, Spec
from methods.losses import WordSide, tcaf_losses

__all__ = [
    "Attention",
    "Dropout",
    "FeedForward",
    "Groups",
    "Perceptron",
    "Projection",
    "SequenceConfig",
    "SequenceMethod",
    "TokenStage",
    "Tokens",
    "TransformerLayer",
    "encode_steps",
    "labels_of",
    "module_names",
    "negative_of",
    "published_settings",
    "rename_published",
    "text_of",
]


class Dropout(nn.Dropout):
    """torch's dropout, with cheaper random draws on the CPU (docs/development/performance.md).

    Each element gets 16 random bits, so the probability is rounded to a multiple of 2^-16. The scale belongs
    to the rounded probability, and the expectation is exact.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape; in training some elements are dropped and the others scaled."""
        dropped = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or self.inplace or not 0 < dropped < 2**16:
            return super().forward(x)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        kept = torch.ge(
            bits, dropped - 2**15, out=torch.empty_like(x, requires_grad=False)
        )  # 1 or 0, in x's type
        return x * kept.mul_(2**16 / (2**16 - dropped))


class Projection(nn.Sequential):
    """Block P of TCAF and AVCA: Linear, BatchNorm, ReLU, Dropout, once or (with a hidden layer) twice.

    Args:
        inputs, outputs: widths; maps ``[N, inputs]`` to non-negative ``[N, outputs]``.
        hidden: width of the hidden layer, None for a single layer.
        dropout: probability, after every ReLU.
        momentum: of the *last* BatchNorm of a two-layer block only; all others have 0.1. The published AVCA
            applies its setting in this way.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int | None = None,
        dropout: float = 0.0,
        momentum: float = 0.1,
    ) -> None:
        layers: list[nn.Module] = []
        if hidden is not None:
            layers += [nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), Dropout(dropout)]
        last = nn.BatchNorm1d(outputs, momentum=0.1 if hidden is None else momentum)
        layers += [
            nn.Linear(inputs if hidden is None else hidden, outputs),
            last,
            nn.ReLU(),
            Dropout(dropout),
        ]
        super().__init__(*layers)


class Perceptron(nn.Sequential):
    """Network of CJME and AVGZSLNet: Linear, BatchNorm, ReLU, Dropout, Linear, and an optional last ReLU.

    Maps ``[N, inputs]`` to ``[N, outputs]``.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, dropout: float, last_relu: bool = False
    ) -> None:
        first = (nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), Dropout(dropout))
        super().__init__(*first, nn.Linear(hidden, outputs), *([nn.ReLU()] if last_relu else []))


@dataclass(frozen=True)
class Groups:
    """Sequences of a first token and time steps, in groups of similar length, each padded to its longest.

    Their tokens are rows ``[R, D]``: those of the first sequence of the first group, padded, then those of
    the second, and so on.
    """

    rows: Tensor
    """``[R]``: the index of each row among all first tokens, then all real time steps of the first modality,
    then those of the next. Padded rows repeat the first token of their sequence; their results are unused."""
    shapes: Sequence[tuple[int, int]]
    """Of each group: the number of sequences, and of tokens per sequence."""
    kinds: Sequence[Tensor]
    """``[n, L]`` of each group: 0 for the first token, 1, 2, ... for a modality, ``PADDED``."""
    firsts: Tensor
    """``[B]`` rows of the first tokens, sorted by length."""
    back: Tensor
    """``[B]`` indices of the batch's samples in ``firsts``."""

    @classmethod
    def of(cls, *masks: Tensor, size: int | None = None, longest: int | None = None) -> Groups:
        """Groups of sequences with a first token and the real time steps of several modalities.

        Args:
            masks: ``[B, T]`` of each modality, True for real time steps.
            size: sequences per group. Default: few on the CPU, where attention to padded tokens is slow; all
                elsewhere, where many small groups are slow.
            longest: tokens per sequence of a single group, at least as many as there are. Default off the
                CPU: as many as fit, so that the host does not wait for their count.
        """
        # The length of each sequence, and the index and kind of each of its tokens.
        batch, device = len(masks[0]), masks[0].device
        counts = [mask.sum(1) for mask in masks]
        length = 1 + torch.stack(counts).sum(0)
        if longest is None and size is None and device.type != "cpu":
            longest = 1 + sum(mask.shape[1] for mask in masks)
        at = torch.arange(int(length.max()) if longest is None else longest, device=device)
        rows = torch.arange(batch, device=device)[:, None].expand(-1, len(at))
        kinds = torch.where(at == 0, 0, PADDED).expand(batch, -1)
        begin, before = torch.ones_like(length), torch.full_like(length[0], batch)
        for kind, count in enumerate(counts, 1):
            step = at - begin[:, None]
            inside = (step >= 0) & (step < count[:, None])
            rows = torch.where(inside, before + (count.cumsum(0) - count)[:, None] + step, rows)
            kinds = torch.where(inside, kind, kinds)
            begin, before = begin + count, before + count.sum()
        order = length.argsort(stable=True)

        # All in one group.
        if longest is not None:
            shape, firsts = (batch, longest), torch.arange(batch, device=device) * longest
            return cls(rows[order].flatten(), [shape], [kinds[order]], firsts, order.argsort())

        # Divide into groups of similar length.
        groups = torch.split(order, size or (GROUP if device.type == "cpu" else batch))
        lengths = [int(length[group[-1]]) for group in groups]
        shapes = [(len(group), n) for group, n in zip(groups, lengths, strict=True)]

        # The row at which each sequence starts.
        starts = torch.tensor([n for count, n in shapes for _ in range(count)]).cumsum(0)
        firsts = torch.cat([starts.new_zeros(1), starts[:-1]]).to(device)
        pieces = [(group, n) for group, n in zip(groups, lengths, strict=True)]
        return cls(
            torch.cat([rows[group, :n].flatten() for group, n in pieces]),
            shapes,
            [kinds[group, :n] for group, n in pieces],
            firsts,
            order.argsort(),
        )

    def split(self, x: Tensor) -> list[Tensor]:
        """Split rows ``[R, D]`` into ``[n, L, D]`` of each group."""
        parts = torch.split(x, [n * length for n, length in self.shapes])
        return [part.view(*shape, -1) for part, shape in zip(parts, self.shapes, strict=True)]


PADDED = -1
"""The kind of a padded token."""
GROUP = 8
"""Sequences per group on the CPU."""


class Attention(nn.Module):
    """Multi-head attention, no biases in query, key and value, scale dim_head^-0.5; Linear and dropout."""

    def __init__(self, dim: int, *, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, heads * dim_head, bias=False)
        self.key = nn.Linear(dim, heads * dim_head, bias=False)
        self.value = nn.Linear(dim, heads * dim_head, bias=False)
        self.out = nn.Linear(heads * dim_head, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attention of queries ``x`` ``[B, Q, dim]`` to ``context`` ``[B, K, dim]``, by default themselves.

        ``mask`` is bool, ``[B, Q, K]`` or ``[B, 1, K]``, True if a query attends to a key. No row may be all
        False.
        """
        context = x if context is None else context
        out: Tensor = self.dropout(
            self.out(self._gather(self.query(x), self.key(context), self.value(context), mask))
        )
        return out

    def grouped(
        self, x: Tensor, groups: Groups, masks: Sequence[Tensor], *, first_only: bool = False
    ) -> Tensor:
        """Self-attention of groups of sequences, rows ``[R, dim]``.

        Args:
            masks: ``[n, L, L]`` of each group.
            first_only: return only the first token of each sequence, ``[B, dim]``.
        """
        if first_only:
            gathered = self._gather_to_firsts(x, groups, masks)
        else:
            pieces = zip(
                *(groups.split(project(x)) for project in (self.query, self.key, self.value)),
                masks,
                strict=True,
            )
            gathered = torch.cat([self._gather(q, k, v, mask).flatten(0, 1) for q, k, v, mask in pieces])
        out: Tensor = self.dropout(self.out(gathered))
        return out

    def _gather_to_firsts(self, x: Tensor, groups: Groups, masks: Sequence[Tensor]) -> Tensor:
        """Attention of the first tokens, ``[B, heads * dim_head]``, without keys and values of all tokens.

        A head scores a token x with q . K x = (K^T q) . x, and the weighted sum of all V x is V times that of
        all x. So the heads of a first token are the queries of one attention to the tokens themselves.
        """
        of_heads = (self.heads, -1, x.shape[1])
        key, value = self.key.weight.view(of_heads), self.value.weight.view(of_heads)
        query = self.query(x.index_select(0, groups.firsts)).view(-1, *key.shape[:2])
        queries = torch.split(torch.einsum("bhk,hkd->bhd", query, key), [n for n, _ in groups.shapes])
        pieces = zip(queries, groups.split(x), masks, strict=True)
        sums = torch.cat(
            [self._attend(q, tokens, tokens, mask[:, :1], key.shape[1] ** -0.5) for q, tokens, mask in pieces]
        )
        return torch.einsum("bhd,hkd->bhk", sums, value).flatten(1)

    def _gather(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of queries ``[B, Q, E]`` to keys and values ``[B, K, E]``, E = heads * dim_head."""
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v))
        return self._attend(q, k, v, None if mask is None else mask.unsqueeze(1)).transpose(1, 2).flatten(2)

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
        """Torch's attention, on the CPU in 32 bits: 16 bits take ten times as long in the backward pass."""
        if q.device.type == "cpu" and q.dtype.itemsize == 2:
            with torch.autocast("cpu", enabled=False):
                return Attention._attend(q.float(), k.float(), v.float(), mask, scale)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


class FeedForward(nn.Sequential):
    """Linear, GELU, dropout, Linear, dropout on the last axis."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(dim, hidden), nn.GELU(), Dropout(dropout), nn.Linear(hidden, dim), Dropout(dropout)
        )


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward, each with a residual.

    Args:
        shared_norm: one LayerNorm for both inputs (published TCAF) instead of one each (AVCA).
    """

    def __init__(
        self, dim: int, *, heads: int, dim_head: int, mlp_dim: int, dropout: float, shared_norm: bool = False
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(1 if shared_norm else 2))
        self.attention = Attention(dim, heads=heads, dim_head=dim_head, dropout=dropout)
        self.feed_forward = FeedForward(dim, mlp_dim, dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[B, N, dim]`` to ``[B, N, dim]``; ``mask`` as in ``Attention``."""
        x = x + self.attention(self.norms[0](x), mask=mask)
        out: Tensor = x + self.feed_forward(self.norms[-1](x))
        return out

    def grouped(
        self, x: Tensor, groups: Groups, masks: Sequence[Tensor], *, first_only: bool = False
    ) -> Tensor:
        """The same for groups of sequences, ``[R, dim]`` to ``[R, dim]`` or ``[B, dim]``."""
        gathered = self.attention.grouped(self.norms[0](x), groups, masks, first_only=first_only)
        x = (x.index_select(0, groups.firsts) if first_only else x) + gathered
        out: Tensor = x + self.feed_forward(self.norms[-1](x))
        return out


@dataclass(frozen=True)
class Tokens:
    """The tokens of one modality, packed: without padding."""

    x: Tensor
    """``[M, dim]``: the real time steps of the first sample, then those of the second, and so on."""
    mask: Tensor
    """``[B, T]`` bool, True for real time steps."""
    steps: Tensor | None = None
    """``[M]`` indices of the real time steps among all ``B * T``; None: those of the mask."""

    @property
    def index(self) -> Tensor:
        """``steps``, counted if they are not given."""
        return real_steps(self.mask) if self.steps is None else self.steps

    def padded(self) -> Tensor:
        """``[B, T, dim]`` with zeros at padded time steps."""
        zeros = self.x.new_zeros(self.mask.numel(), self.x.shape[-1])
        return zeros.index_copy(0, self.index, self.x).view(*self.mask.shape, -1)

    def mean(self) -> Tensor:
        """Mean over the real time steps, ``[B, dim]``; zeros for a sample without any."""
        return self.padded().sum(1) / self.mask.sum(1, keepdim=True).clamp(min=1).to(self.x.dtype)


def real_steps(mask: Tensor) -> Tensor:
    """Indices ``[M]`` of the real time steps of a mask ``[B, T]``; the host waits for their count."""
    return mask.flatten().nonzero().squeeze(1)


def encode_steps(
    encoder: Projection,
    x: Tensor,
    mask: Tensor,
    padding_in_statistics: bool,
    steps: Tensor | None = None,
) -> Tensor:
    """Apply a per-step network to the real time steps of ``[B, T, D]``; packed result ``[M, outputs]``.

    In training with ``padding_in_statistics``, the padded time steps pass through the network too and enter
    the BatchNorm statistics, as published. They are zeros, for which the first Linear returns its bias. So
    only the other layers compute them.

    Args:
        steps: ``[M]`` indices of the real time steps; None: those of the mask.
    """
    index = real_steps(mask) if steps is None else steps
    real = x.flatten(0, 1).index_select(0, index)
    if not (padding_in_statistics and encoder.training):
        out: Tensor = encoder(real)
        return out
    first, *others = cast(list[nn.Module], list(encoder))
    hidden: Tensor = first(real)
    everything = (
        cast(Tensor, first.bias).to(hidden.dtype).expand(mask.numel(), -1).index_copy(0, index, hidden)
    )
    for layer in others:
        everything = layer(everything)
    return everything.index_select(0, index)


class TokenStage(nn.Module):
    """Makes tokens of encoded time steps and their times (TCAF).

    token = Linear_modality([features, position + modality + padding]), then dropout. The position of time t
    is a learnt Linear of the Fourier features [sin, cos](2 pi [t, t] M) with a fixed random M ``[2, size /
    2]`` ~ N(0, scale^2). Only padded time steps have the padding embedding, and their tokens are unused.
    """

    def __init__(self, dim: int, *, size: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(2, size // 2) * scale)
        self.position = nn.Linear(size, size)
        self.modality = nn.Parameter(torch.randn(2, size))
        self.padding = nn.Parameter(torch.randn(1, size))
        self.audio = nn.Linear(dim + size, dim)
        self.video = nn.Linear(dim + size, dim)
        self.dropout = Dropout(dropout)

    def forward(
        self, audio: Tokens, audio_times: Tensor, video: Tokens, video_times: Tensor
    ) -> tuple[Tokens, Tokens]:
        """Tokens of both modalities from their encoded time steps and times ``[B, T]``."""
        return (
            self._tokens(audio, audio_times, self.audio, self.modality[0]),
            self._tokens(video, video_times, self.video, self.modality[1]),
        )

    def _tokens(self, steps: Tokens, times: Tensor, projection: nn.Module, modality: Tensor) -> Tokens:
        # Element-wise, not a matrix product: reduced precision in 2 pi t M would destroy the phases.
        frequencies = self.get_buffer("frequencies")
        real = times.flatten().index_select(0, steps.index)
        turns = (2 * math.pi * real.to(frequencies.dtype)).unsqueeze(-1)
        phase = turns * frequencies[0] + turns * frequencies[1]
        position = self.position(torch.cat([phase.sin(), phase.cos()], dim=-1))
        # No real time step has the padding embedding; the product lets Adam decay it as published.
        extra = (position + modality + 0.0 * self.padding).to(steps.x.dtype)
        return replace(steps, x=self.dropout(projection(torch.cat([steps.x, extra], dim=-1))))


class SequenceConfig(MethodConfig):
    """Hyperparameters that TCAF shares with its sequence baselines (defaults: UCF, cls features)."""

    lr: float = Field(7e-5, gt=0, le=1, description="learning rate of Adam")
    weight_decay: float = Field(1e-5, ge=0, le=1, description="L2 penalty of Adam")
    dim: int = Field(300, ge=1, description="width of the tokens")
    embedding_dim: int = Field(64, ge=1, description="size of the common embedding space")
    encoder_hidden: int = Field(512, ge=1, description="hidden width of the per-step encoders (h_e)")
    encoder_dropout: float = Field(0.3, ge=0, lt=1, description="dropout of the per-step encoders")
    decoder_hidden: int = Field(
        512, ge=1, description="hidden width of sample projection and sample decoder (h_d)"
    )
    decoder_dropout: float = Field(
        0.1, ge=0, lt=1, description="dropout of sample projection and sample decoder"
    )
    word_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of word projection and word decoder")
    token_size: int = Field(
        64, ge=2, multiple_of=2, description="size of position, modality and padding embeddings"
    )
    token_dropout: float = Field(0.2, ge=0, lt=1, description="dropout of the tokens")
    fourier_scale: float = Field(
        10.0, gt=0, description="standard deviation of the random time frequencies, per unit of time"
    )


class SequenceMethod(Method):
    """TCAF without its fusion, which a subclass adds: encoders, tokens, projections, decoders, loss.

    A_enc, V_enc: P(D, h_e, dim) per step; W_proj: P(D_w, d); D_o: P(d, h_d, D_w); D_w: P(d, D_w).
    """

    Config: type[MethodConfig] = SequenceConfig

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        encoder = {"hidden": c.encoder_hidden, "dropout": c.encoder_dropout}
        self.audio_encoder = Projection(spec.audio_dim, c.dim, **encoder)
        self.video_encoder = Projection(spec.video_dim, c.dim, **encoder)
        self.token_stage = TokenStage(
            c.dim, size=c.token_size, scale=c.fourier_scale, dropout=c.token_dropout
        )
        self.word_projection = Projection(spec.text_dim, c.embedding_dim, dropout=c.word_dropout)
        self.sample_decoder = Projection(
            c.embedding_dim, spec.text_dim, hidden=c.decoder_hidden, dropout=c.decoder_dropout
        )
        self.word_decoder = Projection(c.embedding_dim, spec.text_dim, dropout=c.word_dropout)

    @abstractmethod
    def fuse(self, audio: Tokens, video: Tokens) -> dict[str, Tensor]:
        """Embeddings that the loss trains, name -> ``[B, d]``; ``"joint"`` is evaluated."""

    def sample_projection_of(self, inputs: int) -> Projection:
        """O_proj: P(inputs, h_d, d)."""
        c = self.config
        return Projection(inputs, c.embedding_dim, hidden=c.decoder_hidden, dropout=c.decoder_dropout)

    def sample_embeddings(self, batch: Batch) -> dict[str, Tensor]:
        """Encode a batch of sequences, make tokens and fuse them.

        Raises:
            ValueError: the batch has temporal means.
        """
        masks, times = (batch.audio_mask, batch.video_mask), (batch.audio_times, batch.video_times)
        if masks[0] is None or masks[1] is None or times[0] is None or times[1] is None:
            raise ValueError(
                f"{type(self).__name__} needs sequences with masks and times; this batch has temporal means"
            )
        everything = batch.padding_in_statistics
        encoded = (
            Tokens(encode_steps(encoder, x, mask, everything, steps), mask, steps)
            for encoder, x, mask, steps in (
                (self.audio_encoder, batch.audio, masks[0], batch.audio_steps),
                (self.video_encoder, batch.video, masks[1], batch.video_steps),
            )
        )
        audio, video = encoded
        return self.fuse(*self.token_stage(audio, times[0], video, times[1]))

    def loss(self, batch: Batch, classes: Classes) -> dict[str, Tensor]:
        """The TCAF loss and its terms, summed over the trained embeddings, with each total if several."""
        text, label = text_of(batch), labels_of(batch)
        embeddings = self.sample_embeddings(batch)
        decoded = [self.sample_decoder(x) for x in embeddings.values()]
        word_embedding = self.word_projection(text)
        words = WordSide(
            text, word_embedding, self.word_decoder(word_embedding), self.word_projection(classes.text), label
        )
        each = [tcaf_losses(x, rho, words) for x, rho in zip(embeddings.values(), decoded, strict=True)]
        losses = {part: torch.stack([terms[part] for terms in each]).sum() for part in each[0]}
        if len(each) > 1:
            losses |= {name: terms["total"] for name, terms in zip(embeddings, each, strict=True)}
        return losses

    def embed(self, batch: Batch) -> Embeddings:
        """The joint embedding theta_o, ``[B, d]``."""
        return Embeddings({"joint": self.sample_embeddings(batch)["joint"]})

    def embed_classes(self, text: Tensor) -> Tensor:
        """theta_w = W_proj(w), ``[C, d]``."""
        out: Tensor = self.word_projection(text)
        return out

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Embed the batch again: it changes the running statistics, except those of the decoders."""
        self.sample_embeddings(batch)
        self.word_projection(text_of(batch))


def text_of(batch: Batch) -> Tensor:
    """Class embeddings of a training batch, ``[B, D_w]``. Raises ValueError if it has none."""
    if batch.text is None:
        raise ValueError("the batch has no class embeddings (Batch.text); a loss needs a training batch")
    return batch.text


def labels_of(batch: Batch) -> Tensor:
    """Labels of a training batch, ``[B]``. Raises ValueError if it has none."""
    if batch.label is None:
        raise ValueError("the batch has no labels (Batch.label); a loss needs a training batch")
    return batch.label


def negative_of(batch: Batch) -> Batch:
    """The negatives of a training batch. Raises ValueError if it has none."""
    if batch.negative is None:
        raise ValueError("the batch has no negatives (Batch.negative); set needs_negatives on the method")
    return batch.negative


AFFINE = ("weight", "bias")
BATCH_NORM = (*AFFINE, "running_mean", "running_var", "num_batches_tracked")


def module_names(published: str, ours: str, layers: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Published name -> our name of a module's tensors; ``layers`` maps layers to their tensors."""
    return {
        f"{published}.{layer}.{x}": f"{ours}.{layer}.{x}"
        for layer, tensors in layers.items()
        for x in tensors
    }


PERCEPTRON_LAYERS = {"0": AFFINE, "1": BATCH_NORM, "4": AFFINE}
ONE_LAYER = {"0": AFFINE, "1": BATCH_NORM}
TWO_LAYERS = {**PERCEPTRON_LAYERS, "5": BATCH_NORM}


def rename_published(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """A published state dict with our names.

    Args:
        state: tensors by published name.
        names: published name -> our name of every required tensor.

    Raises:
        ValueError: tensors are missing or left over; the message names them.
    """
    missing, extra = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or extra:
        raise ValueError(
            f"published state dict does not fit: missing {missing or 'nothing'}, extra {extra or 'nothing'}"
        )
    return {ours: state[published] for published, ours in names.items()}


def published_settings(
    args: Mapping[str, Any], fields: Mapping[str, str], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """Config fields from the arguments stored beside a published checkpoint.

    Args:
        args: the stored arguments; other names are ignored.
        fields: our field -> published argument; an argument that is not stored has our default.
        fixed: published options, each with the only value that we implement.

    Raises:
        ValueError: an option has a value that we do not implement.
    """
    wrong = {name: args[name] for name, value in fixed.items() if name in args and args[name] != value}
    if wrong:
        raise ValueError(f"published settings that are not supported: {wrong}; supported: {dict(fixed)}")
    return {field: args[name] for field, name in fields.items() if name in args}
