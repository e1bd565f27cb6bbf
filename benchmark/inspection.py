"""Inspects a tested model for figures and tables; it changes no result.

Everything is computed on the evaluation set that the protocol opened. Nothing here reads a feature file.
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

from benchmark.data.groups import groups_of, usable_grouping
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
    """Some test samples and all classes in the space where they are compared."""

    samples: Floats
    """``[M, d]`` embeddings of the samples by the reported output. If it has no embeddings, because it
    combines distances of other outputs, those of the other outputs are concatenated."""
    labels: Ints
    """``[M]`` class ids."""
    classes: Floats
    """``[C, d]`` embeddings of ``class_ids``, repeated for concatenated outputs; ``[0, d]`` if samples and
    classes have different widths."""
    class_ids: Ints
    seen_ids: Ints
    """Ids of the seen classes."""


@dataclass(frozen=True)
class Inspection:
    """What ``inspect`` found out about a tested model. ``running/`` records it, and reports show it."""

    recall: Sequence[Mapping[str, Any]]
    """A row per class: name, group (seen or unseen), recall, recall within its group, samples. Unseen classes
    also have the training class with the most similar class embedding, and the cosine of the two."""
    groups: Mapping[str, Any]
    """Correct predictions for each group of clips (``group_counts``)."""
    confusion: Sequence[Mapping[str, Any]]
    """Unseen samples among unseen classes only: ``true`` and ``predicted`` class, ``count``."""
    embedding: EmbeddingMap | None
    """Of some test samples; None if it was not requested."""
    cost: Mapping[str, float]
    """``parameters``, ``flops_per_sample`` (function ``cost``)."""
    class_names: Mapping[int, str]
    failed: Mapping[str, str]
    """What could not be computed, with the reason; the field above is empty then."""


def inspect(found: StageTwo, *, with_map: bool) -> Inspection:
    """Inspect a tested model. What fails is omitted and listed in ``Inspection.failed``.

    Args:
        found: results of the test; they do not change.
        with_map: whether to embed test samples for a map.
    """
    opened = found.opened
    experiment, method, data = opened.experiment, opened.method, opened.data
    nearest, exact = opened.nearest, opened.exact
    names, size = opened.section.classes.names, experiment.settings.train.eval_batch_size
    beside = Beside(lambda text: None)  # whoever logs the results reports the failures

    # Each item is computed on its own: a failure must not cost the other items.
    recall, confusion, groups = list[dict[str, Any]](), list[dict[str, Any]](), dict[str, Any]()
    embedding, costs = None, dict[str, float]()
    with beside(Artifact.GROUPS):
        groups = group_counts(experiment, opened.section, data, nearest, found.beta, exact=exact)
    with beside(Artifact.RECALL):
        recall = recall_rows(opened.section, nearest, found.beta, exact=exact)
    with beside(Artifact.CONFUSION):
        confusion = [
            {"true": names[t], "predicted": names[p], "count": n} for t, p, n in unseen_confusion(nearest)
        ]
    with beside(Artifact.EMBEDDING):
        if with_map:
            rows = _mapped_rows(data, experiment.seed)
            embedding = embedding_map(method, data, experiment.rules, rows, size)
    with beside("cost"):
        costs = dict(cost(method, data, experiment.rules, size, experiment.seed))
    return Inspection(recall, groups, confusion, embedding, costs, names, beside.failed)


def nearest_seen(seen: Floats, unseen: Floats) -> tuple[Ints, NDArray[np.float64]]:
    """The most similar seen class of each unseen class, by the cosine of their class embeddings.

    Args:
        seen: class embeddings ``[S, D_w]``.
        unseen: class embeddings ``[U, D_w]``.

    Returns:
        ``[U]`` rows of ``seen`` (the lower one at a tie), and ``[U]`` cosines; 0 for a vector of zeros.
    """
    cosines = np.asarray(_directions(unseen) @ _directions(seen).T, np.float64)
    rows = cosines.argmax(1)
    return rows, cosines[np.arange(len(rows)), rows]


def _directions(vectors: Floats) -> NDArray[np.float64]:
    x = vectors.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0), np.float64)


def unseen_confusion(nearest: Nearest) -> list[tuple[int, int, int]]:
    """Counts of unseen samples: (class, nearest unseen class, samples), ids ascending.

    Pairs without a sample are omitted.
    """
    pairs = np.stack([nearest.label, nearest.unseen_class], 1)[~nearest.is_seen]
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return [(int(true), int(predicted), int(n)) for (true, predicted), n in zip(found, counts, strict=True)]


def balanced_rows(labels: Ints, is_seen: NDArray[np.bool_], limit: int, seed: int) -> Ints:
    """Draw samples without replacement, as balanced over classes as their sizes allow; ascending.

    Unseen samples fill at least half of the limit if there are enough. Seen samples fill the rest.

    Args:
        labels: ``[N]`` class ids.
        is_seen: ``[N]`` whether the class is seen.
        limit: maximum number of samples.
        seed: of the draw.
    """
    # In each class the samples get turns 0, 1, 2, ... in random order.
    order = stream(Purpose.MAPPED_SAMPLES, seed).permutation(len(labels))
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        mine = order[labels[order] == label]
        turn[mine] = np.arange(len(mine))

    # Take all samples of turn 0, then those of turn 1, and so on.
    by_turn = order[np.argsort(turn[order], kind="stable")]
    unseen, seen = by_turn[~is_seen[by_turn]], by_turn[is_seen[by_turn]]
    kept = unseen[: max(limit - limit // 2, limit - len(seen))]
    return np.sort(np.concatenate([kept, seen[: limit - len(kept)]]))


def embedding_map(
    method: Method, data: EvaluationSet, rules: FeatureRules, rows: Ints, batch_size: int
) -> EmbeddingMap:
    """Embed some samples and all classes with a trained method, in float32.

    Args:
        rows: of ``data.samples``.
        batch_size: how many samples are embedded together.
    """
    parts: list[Tensor] = []
    with _looking_at(method) as device:
        classes = method.embed_classes(torch.tensor(data.text, device=device)).flatten(1)
        for start in range(0, len(rows), batch_size):
            batch = make_batch(data.samples, rows[start : start + batch_size], rules, training=False)
            outputs = _compared(method.embed(batch.to(device)), method.reported_output)
            parts.append(torch.cat([x.flatten(1) for x in outputs], 1).float().cpu())
    samples = torch.cat(parts).numpy()
    wide = torch.cat([classes] * len(outputs), 1).float().cpu().numpy()
    class_ids, width = data.class_ids, samples.shape[1]
    if wide.shape[1] != width:
        wide, class_ids = np.empty((0, width), np.float32), np.empty(0, np.int64)
    return EmbeddingMap(samples, data.samples.labels[rows], wide, class_ids, data.seen_ids)


def _compared(embeddings: Embeddings, output: str) -> list[Tensor]:
    """The embeddings from which the distances of an output are computed."""
    return [embeddings.outputs[output]] if output in embeddings.outputs else list(embeddings.outputs.values())


def parameter_count(method: Method) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in method.parameters() if p.requires_grad)


def flops_per_sample(
    method: Method, data: EvaluationSet, rules: FeatureRules, batch_size: int, seed: int
) -> float | None:
    """Floating-point operations per test sample to embed one batch of randomly drawn samples.

    It counts matrix products, convolutions and attention, a multiply-add as 2, and nothing else (no recurrent
    layers). For sequence methods it depends on the lengths in the batch, with padding if they compute on it.

    Returns:
        None if the operations of the method cannot be counted.
    """
    rows = stream(Purpose.COUNTED_SAMPLES, seed).permutation(data.rows)[:batch_size]
    counter = FlopCounterMode(display=False, custom_mapping=cpu_attention())
    with _looking_at(method) as device:
        batch = make_batch(data.samples, rows, rules, training=False).to(device)
        fused = torch.backends.mha.get_fastpath_enabled()
        trained = [p for p in method.parameters() if p.requires_grad]
        try:
            # The counter follows gradients, and fails at views of parameters without one.
            for parameter in trained:
                parameter.requires_grad_(False)
            torch.backends.mha.set_fastpath_enabled(False)  # fused layers are opaque to the counter
            with counter:
                method.embed(batch)
        except Exception:  # the counter cannot follow every method, for example a compiled one
            return None
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for parameter in trained:
                parameter.requires_grad_(True)
    return counter.get_total_flops() / len(rows)


def cpu_attention() -> dict[Any, Any]:
    """How to count the attention kernel of the CPU, which torch's counter does not include."""
    kernel = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)

    def count(
        query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
    ) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    return {} if kernel is None else {kernel: count}


@contextmanager
def _looking_at(method: Method) -> Iterator[torch.device]:
    """Evaluation mode without gradients; gives the device, and restores mode and random states afterwards."""
    was_training, states = method.training, random_states()
    method.eval()
    try:
        with torch.no_grad():
            yield next(method.parameters()).device
    finally:
        method.train(was_training)
        restore_random_states(states)


def cost(
    method: Method, data: EvaluationSet, rules: FeatureRules, batch_size: int, seed: int
) -> Mapping[str, float]:
    """Number of trainable ``parameters``, and ``flops_per_sample`` of embedding if it can be counted."""
    flops = flops_per_sample(method, data, rules, batch_size, seed)
    counted = {} if flops is None else {Metric.FLOPS: flops}
    return {Metric.PARAMETERS: float(parameter_count(method))} | counted


def _mapped_rows(data: EvaluationSet, seed: int) -> Ints:
    """The rows of the test samples of an embedding map, the same for all methods."""
    labels = data.samples.labels[data.rows]
    rows: Ints = data.rows[balanced_rows(labels, np.isin(labels, data.seen_ids), MAP_SAMPLES, seed)]
    return rows


def recall_rows(section: Section, nearest: Nearest, beta: float, *, exact: bool) -> list[dict[str, Any]]:
    """The rows of ``Inspection.recall``: one per class of the test splits, by class id."""
    # The training class that is most similar to each unseen class.
    table = section.classes
    trained = np.unique(np.concatenate([table.splits[split] for split in DEVELOPMENT_SPLITS]))
    unseen = table.splits[TEST_UNSEEN]
    rows, cosines = nearest_seen(table.text(trained), table.text(unseen))
    similar = {
        int(c): (table.names[int(trained[r])], float(x))
        for c, r, x in zip(unseen, rows, cosines, strict=True)
    }

    found = []
    for c, (gzsl, own, samples) in nearest.recall(beta, exact=exact).items():
        name, cosine = similar.get(c, (None, None))
        row: dict[str, Any] = {"class": table.names[c], "group": "unseen" if c in similar else "seen"}
        row |= {"gzsl": gzsl, "own_group": own, "samples": samples}
        found.append(row | {"nearest_seen_class": name, "nearest_seen_cosine": cosine})
    return found


def group_counts(
    experiment: Experiment,
    section: Section,
    data: EvaluationSet,
    nearest: Nearest,
    beta: float,
    *,
    exact: bool,
) -> dict[str, Any]:
    """Correct predictions for each group of clips: the samples of a class from the same source video.

    Returns:
        ``grouping``: the rule of the dataset config; None if each sample is its own group, since there is no
        rule or the source videos of some samples are unknown.
        ``classes``: by class id, with ``class`` (name), ``group`` (seen or unseen), and lists with an entry
        for each group of clips, in the order of their names: ``samples``, and how many of them are correct
        among all classes at ``beta`` (``gzsl``) and among seen or unseen classes only (``own_group``).
    """
    right, own = nearest.right(beta, exact=exact)
    ids = [data.samples.ids[row] for row in data.rows]
    names = np.array(groups_of(experiment.card, ids), dtype=object)
    found = []
    for c in np.unique(nearest.label):
        mask = nearest.label == c
        _, index = np.unique(names[mask], return_inverse=True)
        counts = {"samples": index, "gzsl": index[right[mask]], "own_group": index[own[mask]]}
        group = "seen" if nearest.is_seen[mask].all() else "unseen"
        lists = {name: np.bincount(of, minlength=index.max() + 1).tolist() for name, of in counts.items()}
        found.append({"class": section.classes.names[int(c)], "group": group, **lists})
    return {"grouping": usable_grouping(experiment.card, ids), "classes": found}
