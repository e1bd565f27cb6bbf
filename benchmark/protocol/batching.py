"""Makes batches: class-balanced sampling, cutting, padding, masks, times and scaling.

All differences between the modes in a method's inputs are made here, by the protocol flags. So no method
needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.data.cards import FeatureSetConfig
from benchmark.data.store import Samples
from benchmark.method import Batch, Classes, Inputs
from benchmark.protocol.sources import HOST, Cuts, Ints, Source, source_for
from benchmark.settings.schema import LengthConfig, ProtocolConfig
from benchmark.system.streams import Purpose, stream


@dataclass(frozen=True)
class FeatureRules:
    """How stored features become the inputs of a method.

    ``Experiment.rules`` makes them. Training batches and evaluation use the same rules.
    """

    inputs: Inputs
    audio_seconds: float
    video_seconds: float
    audio_scale: float
    video_scale: float
    lengths: LengthConfig
    protocol: ProtocolConfig

    @classmethod
    def of(
        cls, inputs: Inputs, feature_set: FeatureSetConfig, lengths: LengthConfig, protocol: ProtocolConfig
    ) -> FeatureRules:
        """The rules for a feature set, from its config, the length settings and the protocol flags."""

        def scale(modality: Any) -> float:
            paper = protocol.audio_scale == "paper" and modality.published_scale is not None
            return float(modality.published_scale if paper else modality.scale)

        audio, video = feature_set.audio, feature_set.video
        return cls(inputs, audio.seconds, video.seconds, scale(audio), scale(video), lengths, protocol)

    def audio_length(self, video_length: int) -> int:
        """Number of audio time steps that belong to ``video_length`` video time steps."""
        if self.protocol.length_rule == "paper":
            return max(1, round(video_length * self.video_seconds * self.audio_seconds))
        return max(1, round(video_length * self.video_seconds / self.audio_seconds))

    def audio_start(self, video_start: Ints) -> Ints:
        """Audio time step at the same time as the video time step ``video_start``, ``[B]``."""
        start: Ints = np.rint(video_start * (self.video_seconds / self.audio_seconds)).astype(np.int64)
        return start


def plan_cuts(
    rules: FeatureRules,
    audio_lengths: Ints,
    video_lengths: Ints,
    *,
    training: bool,
    rng: np.random.Generator | None,
) -> tuple[Cuts, Cuts]:
    """Where to cut the sequences of a batch: the cuts of audio and of video.

    With length ``max`` nothing is cut. With length n, video is cut or padded to n time steps, and audio to
    m = ``rules.audio_length(n)``. The surplus is the number of video time steps beyond n. In evaluation the
    video's cut starts at half of the surplus, rounded down; in training at random or there too
    (``lengths.train_cut``). ``protocol.length_rule`` decides the rest:

    - ``corrected``: a random start is uniform over 0 to the surplus. The audio's cut starts at the same time
      as the video's. It is shorter than m if the audio ends first, and has at least one time step.
    - ``paper``: a random start is uniform over 0 to the surplus - 1, and 0 if there is no surplus. The
      audio's cut starts at the same time as the video's, but early enough to have m time steps. Audio of m
      time steps or fewer is kept whole.
    """
    # Without a length, only pad to the longest of the batch.
    wanted = rules.lengths.train if training else rules.lengths.test
    if wanted == "max":
        zeros = np.zeros_like(audio_lengths)
        return Cuts(zeros, audio_lengths, int(audio_lengths.max())), Cuts(
            zeros, video_lengths, int(video_lengths.max())
        )

    # Where the video's cut starts.
    published = rules.protocol.length_rule == "paper"
    surplus = np.maximum(video_lengths - wanted, 0)
    if training and rules.lengths.train_cut == "random":
        if rng is None:
            raise ValueError("random cuts need a generator")
        video_start = rng.integers(0, np.maximum(surplus, 1) if published else surplus + 1)
    else:
        video_start = surplus // 2

    # The audio's cut starts at the same time, but not after ``latest``.
    audio_wanted = rules.audio_length(wanted)
    latest = np.maximum(audio_lengths - audio_wanted, 0) if published else audio_lengths - 1
    audio_start = np.minimum(rules.audio_start(video_start), latest)
    return (
        Cuts(audio_start, np.minimum(audio_lengths - audio_start, audio_wanted), audio_wanted),
        Cuts(video_start, np.minimum(video_lengths - video_start, wanted), wanted),
    )


def _normalise(x: Tensor, *, over_time: bool) -> None:
    """Divide ``[B, T, D]`` by the Euclidean norm over time or over channels, in place.

    Over time the CPU does a sample at a time, to use its cache; torch's norm is fast over channels only.
    """
    if not over_time:
        x /= torch.linalg.vector_norm(x, dim=2, keepdim=True).clamp_(min=1e-12)
        return
    if x.device.type != "cpu":
        x /= x.square().sum(1, keepdim=True).sqrt_().clamp_(min=1e-12)
        return
    for sample in x:
        sample /= sample.square().sum(0).sqrt_().clamp_(min=1e-12)


def _times(cuts: Cuts, seconds: float, *, index_only: bool, from_cut: bool) -> Tensor:
    """Times ``[B, T]``: indices of time steps or seconds, from the start of the cut or of the sample."""
    start = cuts.start if from_cut else np.zeros_like(cuts.start)
    steps = start[:, None] + np.arange(cuts.padded)
    return torch.from_numpy((steps * (1.0 if index_only else seconds)).astype(np.float32))


def make_batch(
    samples: Samples,
    rows: Ints,
    rules: FeatureRules,
    *,
    training: bool,
    rng: np.random.Generator | None = None,
    source: Source = HOST,
) -> Batch:
    """The features of ``rows`` as a method gets them, without labels.

    Args:
        training: whether to use the lengths and times of training, or those of evaluation.
        rng: draws the random cuts.
        source: gives the features; the batch is on its device.
    """
    if rules.inputs == "mean":
        return Batch(source.means(samples, "audio", rows), source.means(samples, "video", rows))

    # Cut and pad.
    audio_cuts, video_cuts = plan_cuts(
        rules, samples.audio.lengths[rows], samples.video.lengths[rows], training=training, rng=rng
    )
    audio, audio_mask = source.sequences(samples, "audio", rows, audio_cuts)
    video, video_mask = source.sequences(samples, "video", rows, video_cuts)

    # Scale and normalise.
    for x, scale in ((audio, rules.audio_scale), (video, rules.video_scale)):
        if scale != 1:
            x /= scale
    _normalise(video, over_time=rules.protocol.video_norm == "paper")

    # The published code has real times in training only, and they restart with each cut.
    real = rules.protocol.evaluation_times == "corrected"
    times = {"index_only": not training and not real, "from_cut": real}
    return Batch(
        audio=audio,
        video=video,
        audio_mask=audio_mask,
        video_mask=video_mask,
        audio_steps=source.put(torch.from_numpy(np.flatnonzero(audio_cuts.mask))),
        video_steps=source.put(torch.from_numpy(np.flatnonzero(video_cuts.mask))),
        audio_times=source.put(_times(audio_cuts, rules.audio_seconds, **times)),
        video_times=source.put(_times(video_cuts, rules.video_seconds, **times)),
        padding_in_statistics=rules.protocol.padding_in_bn == "paper",
    )


def with_evaluation_times(batch: Batch, rules: FeatureRules) -> Batch:
    """A training batch with the times of evaluation, for the extra forward pass of the published code."""
    if (
        batch.audio_times is None
        or batch.video_times is None
        or rules.protocol.evaluation_times == "corrected"
    ):
        return batch

    def positions(times: Tensor) -> Tensor:
        return torch.arange(times.shape[1], dtype=times.dtype, device=times.device).expand_as(times)

    return replace(batch, audio_times=positions(batch.audio_times), video_times=positions(batch.video_times))


@dataclass(frozen=True)
class ClassBalanced:
    """Draws samples: a class uniformly, then one of its samples uniformly, with replacement.

    Positives, negatives and cuts each have their own random stream, which depends on seed and epoch only. So
    all methods with the same batch size train on the same samples, and any epoch can be repeated alone.
    """

    rows: Ints
    """``[N]`` rows that may be drawn, sorted by class."""
    starts: Ints
    counts: Ints
    class_ids: Ints
    """``[C]`` ascending; the label of a batch is an index into it."""

    @classmethod
    def over(cls, samples: Samples, rows: Ints) -> ClassBalanced:
        """A sampler over ``rows`` and the classes that occur there."""
        labels = samples.labels[rows]
        order = np.argsort(labels, kind="stable")
        class_ids, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        return cls(rows[order], starts, counts, class_ids)

    def _draw(self, labels: Ints, rng: np.random.Generator) -> Ints:
        rows: Ints = self.rows[self.starts[labels] + rng.integers(0, self.counts[labels])]
        return rows

    def epoch(self, seed: int, epoch: int, batches: int, size: int) -> tuple[Ints, Ints]:
        """Rows and labels of an epoch's batches, each ``[batches, size]``."""
        rng = stream(Purpose.POSITIVES, seed, epoch)
        labels = rng.integers(0, len(self.class_ids), (batches, size))
        return self._draw(labels, rng), labels

    def negatives(self, labels: Ints, seed: int, epoch: int) -> tuple[Ints, Ints]:
        """Rows and labels of samples of other classes, drawn uniformly, in the shape of ``labels``.

        Raises:
            ValueError: there is only one class.
        """
        if len(self.class_ids) < 2:
            raise ValueError("negatives need at least two classes")
        rng = stream(Purpose.NEGATIVES, seed, epoch)
        other = (labels + rng.integers(1, len(self.class_ids), labels.shape)) % len(self.class_ids)
        return self._draw(other, rng), other


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each drawn in a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


@dataclass(frozen=True)
class TrainingBatches:
    """The batches that a stage trains on, made by ``stages.training_data`` and drawn by ``Loop``."""

    samples: Samples
    sampler: ClassBalanced
    classes: Classes
    rules: FeatureRules
    negatives: bool
    resident_share: float = 0.0
    """Fraction of the free memory of a CUDA device that the features may take (``train.resident_share``)."""
    source: Source = HOST
    """Where features come from, and the device of the batches."""

    def on(self, device: torch.device) -> TrainingBatches:
        """The same batches, assembled on a device."""
        return replace(self, source=source_for(self.samples, self.rules.inputs, device, self.resident_share))

    def epoch(self, seed: int, epoch: int, batches: int, size: int) -> Iterator[Batch]:
        """The batches of an epoch. The same arguments always give the same batches."""
        rows, labels = self.sampler.epoch(seed, epoch, batches, size)
        cut_rng = stream(Purpose.CUTS, seed, epoch)
        other = self.sampler.negatives(labels, seed, epoch) if self.negatives else None
        for i in range(batches):
            batch = self._labelled(rows[i], labels[i], cut_rng)
            if other is not None:
                batch = replace(batch, negative=self._labelled(other[0][i], other[1][i], cut_rng))
            yield batch

    def each(self, size: int) -> Iterator[Batch]:
        """Every training sample once, class by class, with the lengths and times of evaluation."""
        labels = np.repeat(np.arange(len(self.sampler.class_ids)), self.sampler.counts)
        for start in range(0, len(labels), size):
            label = torch.from_numpy(labels[start : start + size])
            rows = self.sampler.rows[start : start + size]
            batch = make_batch(self.samples, rows, self.rules, training=False, source=self.source)
            yield self._with_labels(batch, label)

    def at_evaluation_times(self, batch: Batch) -> Batch:
        """A batch with the times of evaluation, for the extra forward pass of the published code."""
        return with_evaluation_times(batch, self.rules)

    def _labelled(self, rows: Ints, labels: Ints, rng: np.random.Generator) -> Batch:
        batch = make_batch(self.samples, rows, self.rules, training=True, rng=rng, source=self.source)
        return self._with_labels(batch, torch.from_numpy(labels))

    def _with_labels(self, batch: Batch, label: Tensor) -> Batch:
        text = self.classes.text[label]
        return replace(batch, label=self.source.put(label), text=self.source.put(text))
