"""What a tested model looks like, for figures and tables that explain its results: none of it changes a number.

All of it is computed on the evaluation set that the protocol opened; nothing here reads a store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmark.data.groups import groups_of
from benchmark.data.store import DEVELOPMENT_SPLITS, Section
from benchmark.method import Embeddings, Method
from benchmark.protocol.batching import FeatureRules, make_batch
from benchmark.protocol.evaluation import EvaluationSet, Floats, Ints, Nearest
from benchmark.protocol.randomness import random_states, restore_random_states
from benchmark.protocol.stages import TEST_UNSEEN, Experiment, StageTwo
from benchmark.system.beside import Beside
from benchmark.system.streams import Purpose, stream
from benchmark.tracking.schema import Artifact, Metric

MAP_SAMPLES = 400
"""Test samples of an embedding map, at most."""


@dataclass(frozen=True)
class EmbeddingMap:
    """Some test samples and all classes in the space in which they are compared."""

    samples: Floats
    """``[M, d]`` embeddings of the samples in the reported output. If that output has none of its own, because it combines
    distances of others, those of the other outputs side by side."""
    labels: Ints
    """``[M]`` class ids."""
    classes: Floats
    """``[C, d]`` embeddings of ``class_ids``, repeated for outputs side by side; ``[0, d]`` where a method compares samples and
    classes in spaces of different widths."""
    class_ids: Ints
    seen_ids: Ints
    """Ids of the seen classes."""


@dataclass(frozen=True)
class Inspection:
    """What explains the results of a tested model."""

    recall: Sequence[Mapping[str, Any]]
    """A row per class: name, group, recall, recall within its group, samples; of unseen classes also the training class with
    the most similar word vector, and the cosine of the two vectors as they are used."""
    groups: Mapping[str, Any]
    """Right answers for each group of test samples (``group_counts``)."""
    confusion: Sequence[Mapping[str, Any]]
    """Unseen samples with unseen classes as the only candidates: ``true`` and ``predicted`` class, ``count`` > 0."""
    embedding: EmbeddingMap | None
    """Of some test samples, if asked for."""
    cost: Mapping[str, float]
    """``parameters``, ``flops_per_sample`` (``cost``)."""
    class_names: Mapping[int, str]
    failed: Mapping[str, str]
    """What could not be computed, with the reason: it is empty above."""


def inspect(found: StageTwo, *, with_map: bool) -> Inspection:
    """Look at a tested model. What fails is left out and named.

    Args:
        found: the results, which do not change.
        with_map: whether embeddings of test samples are wanted.
    """
    opened = found.opened
    experiment, method, data, nearest, exact = opened.experiment, opened.method, opened.data, opened.nearest, opened.exact
    names, size = opened.section.classes.names, experiment.settings.train.eval_batch_size
    beside = Beside(lambda text: None)  # told by who logs the results
    recall, confusion, embedding, costs = list[dict[str, Any]](), list[dict[str, Any]](), None, dict[str, float]()
    groups: dict[str, Any] = {}
    with beside(Artifact.GROUPS):
        groups = group_counts(experiment, opened.section, data, nearest, found.beta, exact=exact)
    with beside(Artifact.RECALL):
        recall = recall_rows(opened.section, nearest, found.beta, exact=exact)
    with beside(Artifact.CONFUSION):
        confusion = [{"true": names[t], "predicted": names[p], "count": n} for t, p, n in unseen_confusion(nearest)]
    with beside(Artifact.EMBEDDING):
        embedding = (
            embedding_map(method, data, experiment.rules, _mapped_rows(data, experiment.seed), size) if with_map else None
        )
    with beside("cost"):
        costs = dict(cost(method, data, experiment.rules, size, experiment.seed))
    return Inspection(recall, groups, confusion, embedding, costs, names, beside.failed)


def nearest_seen(seen: Floats, unseen: Floats) -> tuple[Ints, NDArray[np.float64]]:
    """For each unseen class the most similar seen one: its row, and the cosine of the two word vectors.

    Args:
        seen: word vectors ``[S, D_w]``.
        unseen: word vectors ``[U, D_w]``.

    Returns:
        ``[U]`` rows of ``seen`` (the lower one at a tie) and ``[U]`` cosines; 0 for a vector of zeros.
    """
    cosines = np.asarray(_directions(unseen) @ _directions(seen).T, np.float64)
    rows = cosines.argmax(1)
    return rows, cosines[np.arange(len(rows)), rows]


def _directions(vectors: Floats) -> NDArray[np.float64]:
    x = vectors.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0), np.float64)


def unseen_confusion(nearest: Nearest) -> list[tuple[int, int, int]]:
    """Unseen samples by class and by the nearest of the unseen classes: (true id, predicted id, samples), ascending.

    Pairs without a sample are left out.
    """
    pairs = np.stack([nearest.label, nearest.unseen_class], 1)[~nearest.is_seen]
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return [(int(true), int(predicted), int(n)) for (true, predicted), n in zip(found, counts, strict=True)]


def balanced_rows(labels: Ints, is_seen: NDArray[np.bool_], limit: int, seed: int) -> Ints:
    """A draw of samples without replacement, as equal over classes as their sizes allow; ascending.

    Unseen samples fill at least half of the limit, where there are so many; seen ones get what is left.

    Args:
        labels: ``[N]`` class ids.
        is_seen: ``[N]``.
        limit: how many samples at most.
        seed: of the draw, which depends on nothing else.
    """
    order = stream(Purpose.MAPPED_SAMPLES, seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turn[mine] = np.arange(len(mine))
    by_turn = order[np.argsort(turn[order], kind="stable")]
    unseen, seen = by_turn[~is_seen[by_turn]], by_turn[is_seen[by_turn]]
    kept = unseen[: max(limit - limit // 2, limit - len(seen))]
    return np.sort(np.concatenate([kept, seen[: limit - len(kept)]]))


def embedding_map(method: Method, data: EvaluationSet, rules: FeatureRules, rows: Ints, batch_size: int) -> EmbeddingMap:
    """Embeddings of some samples and of all classes by a trained method, float32.

    Args:
        rows: of ``data.samples``.
        batch_size: samples that are embedded at a time.
    """
    parts: list[Tensor] = []
    with _looking_at(method) as device:
        classes = method.embed_classes(torch.tensor(data.text, device=device)).flatten(1)
        for start in range(0, len(rows), batch_size):
            batch = make_batch(data.samples, rows[start : start + batch_size], rules, training=False).to(device)
            outputs = _compared(method.embed(batch), method.reported_output)
            parts.append(torch.cat([x.flatten(1) for x in outputs], 1).float().cpu())
    samples = torch.cat(parts).numpy()
    wide = torch.cat([classes] * len(outputs), 1).float().cpu().numpy()
    kept, width = (wide, data.class_ids), samples.shape[1]
    if wide.shape[1] != width:
        kept = (np.empty((0, width), np.float32), np.empty(0, np.int64))
    return EmbeddingMap(samples, data.samples.labels[rows], *kept, data.seen_ids)


def _compared(embeddings: Embeddings, output: str) -> list[Tensor]:
    """The embeddings that the distances of an output are made of."""
    return [embeddings.outputs[output]] if output in embeddings.outputs else list(embeddings.outputs.values())


def parameter_count(method: Method) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in method.parameters() if p.requires_grad)


def flops_per_sample(method: Method, data: EvaluationSet, rules: FeatureRules, batch_size: int, seed: int) -> float | None:
    """Floating-point operations to embed a test sample, over one batch of samples that are drawn at random.

    Matrix products, convolutions and attention count, a multiply-add as 2; nothing else does, recurrent layers neither.
    Sequence methods take the lengths of the batch, padding included where they compute on it.

    Returns:
        None where a method cannot be counted.
    """
    rows = stream(Purpose.COUNTED_SAMPLES, seed).permutation(data.rows)[:batch_size]
    counter = FlopCounterMode(display=False, custom_mapping=cpu_attention())
    with _looking_at(method) as device:
        batch = make_batch(data.samples, rows, rules, training=False).to(device)
        fused = torch.backends.mha.get_fastpath_enabled()
        trained = [p for p in method.parameters() if p.requires_grad]
        try:
            for parameter in trained:  # the counter follows gradients, and stumbles over views of parameters that have none
                parameter.requires_grad_(False)
            torch.backends.mha.set_fastpath_enabled(False)  # fused layers are opaque to the counter
            with counter:
                method.embed(batch)
        except Exception:  # a method that works may still be compiled or dispatch in ways that the counter cannot follow
            return None
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for parameter in trained:
                parameter.requires_grad_(True)
    return counter.get_total_flops() / len(rows)


def cpu_attention() -> dict[Any, Any]:
    """The CPU's attention kernel, which the counter does not know by itself."""
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)

    def count(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    return {} if kernel is None else {kernel: count}


@contextmanager
def _looking_at(method: Method) -> Iterator[torch.device]:
    """Evaluation mode without gradients on the method's device; mode and all random states are as before afterwards."""
    was_training, states = method.training, random_states()
    method.eval()
    try:
        with torch.no_grad():
            yield next(method.parameters()).device
    finally:
        method.train(was_training)
        restore_random_states(states)


def cost(method: Method, data: EvaluationSet, rules: FeatureRules, batch_size: int, seed: int) -> Mapping[str, float]:
    """``parameters`` that are trained and, where they can be counted, ``flops_per_sample`` of embedding."""
    flops = flops_per_sample(method, data, rules, batch_size, seed)
    return {Metric.PARAMETERS: float(parameter_count(method))} | ({} if flops is None else {Metric.FLOPS: flops})


def _mapped_rows(data: EvaluationSet, seed: int) -> Ints:
    """The test samples of an embedding map: the same for all methods."""
    labels = data.samples.labels[data.rows]
    rows: Ints = data.rows[balanced_rows(labels, np.isin(labels, data.seen_ids), MAP_SAMPLES, seed)]
    return rows


def recall_rows(section: Section, nearest: Nearest, beta: float, *, exact: bool) -> list[dict[str, Any]]:
    """``Inspection.recall``: each class of the test splits with what its samples gave, by class id."""
    table = section.classes
    trained = np.unique(np.concatenate([table.splits[split] for split in DEVELOPMENT_SPLITS]))
    unseen = table.splits[TEST_UNSEEN]
    rows, cosines = nearest_seen(table.text(trained), table.text(unseen))
    similar = {int(c): (table.names[int(trained[r])], float(x)) for c, r, x in zip(unseen, rows, cosines, strict=True)}
    found = []
    for c, (gzsl, own, samples) in nearest.recall(beta, exact=exact).items():
        name, cosine = similar.get(c, (None, None))
        row: dict[str, Any] = {"class": table.names[c], "group": "unseen" if c in similar else "seen"}
        row |= {"gzsl": gzsl, "own_group": own, "samples": samples}
        found.append(row | {"nearest_seen_class": name, "nearest_seen_cosine": cosine})
    return found


def group_counts(
    experiment: Experiment, section: Section, data: EvaluationSet, nearest: Nearest, beta: float, *, exact: bool
) -> dict[str, Any]:
    """Right answers for each group of test samples: the samples of a class that come from one source (the card's rule).

    Returns:
        ``grouping``, the card's rule (None: each sample is its own group), and ``classes`` by class id: ``class`` (name),
        ``group`` (seen or unseen), and lists with an entry for each group, in the order of the groups' names: ``samples``, and
        how many of them are right among all classes at ``beta`` (``gzsl``) and among seen or unseen ones (``own_group``).
    """
    right, own = nearest.right(beta, exact=exact)
    names = np.array(groups_of(experiment.dataset, [data.samples.ids[row] for row in data.rows]), dtype=object)
    found = []
    for c in np.unique(nearest.label):
        mask = nearest.label == c
        _, index = np.unique(names[mask], return_inverse=True)
        counts = {"samples": index, "gzsl": index[right[mask]], "own_group": index[own[mask]]}
        row = {"class": section.classes.names[int(c)], "group": "seen" if nearest.is_seen[mask].all() else "unseen"}
        found.append(row | {name: np.bincount(of, minlength=index.max() + 1).tolist() for name, of in counts.items()})
    return {"grouping": experiment.dataset.grouping, "classes": found}
