"""The protocol: what each stage trains and is tested on, how the epoch and beta are chosen, and when test data are opened.

Stage 1 trains on the training part and chooses epoch and beta on the validation parts. Stage 2 trains afresh on both for as
many epochs, and its last model is tested with that beta. Only this module opens the test parts, once per final model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmark.beside import Beside
from benchmark.config import ProtocolConfig, Settings
from benchmark.data.batching import ClassBalanced, FeatureRules, TrainingBatches, make_batch
from benchmark.data.cards import Card, FeatureSetCard
from benchmark.data.groups import shares_group
from benchmark.data.store import DEVELOPMENT_PARTS, FeatureStore, Section, replacing
from benchmark.evaluation import Calibration, Curve, EvaluationSet, Ints, Nearest, nearest_classes
from benchmark.inspection import (
    MAP_SAMPLES,
    EmbeddingMap,
    balanced_rows,
    cost,
    embedding_map,
    nearest_seen,
    unseen_confusion,
)
from benchmark.method import Batch, Classes, Method, Spec
from benchmark.training import (
    Listener,
    Loop,
    TrainingData,
    Validation,
    autocast_for,
    choose_device,
    save_atomically,
    seed_everything,
)

Stage = Literal[1, 2]
TRAIN, VAL_SEEN, VAL_UNSEEN = "stage_1_train", "stage_1_val_seen", "stage_1_val_unseen"
TEST_SEEN, TEST_UNSEEN = "stage_2_test_seen", "stage_2_test_unseen"


def derive_seed(base: int, dataset: str, repetition: int) -> int:
    """Seed of a repetition: the same for both stages and all methods, and unmoved by what else is run."""
    digest = hashlib.sha256(f"{base}/{dataset}/{repetition}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Task:
    """A method with its settings on a data set: all that both stages share."""

    method: type[Method]
    settings: Settings
    card: FeatureSetCard
    store: FeatureStore
    seed: int
    dataset: Card
    """The data set's card, whose grouping rule ``protocol.seen_test=group_disjoint`` needs."""

    @property
    def rules(self) -> FeatureRules:
        """How features become inputs."""
        return FeatureRules.of(self.method.inputs, self.card, self.settings.lengths, self.settings.protocol)

    @property
    def protocol(self) -> ProtocolConfig:
        return self.settings.protocol

    def development(self) -> Section:
        """Training and validation parts."""
        return self.store.development(self.protocol.text_alignment, self.seed, sequences=self.method.inputs == "sequence")

    @property
    def spec(self) -> Spec:
        """Sizes of the features."""
        audio, video = self.card.audio.seconds, self.card.video.seconds
        return Spec(self.store.audio_dim, self.store.video_dim, self.store.text_dim, audio, video)

    def build(self) -> Method:
        """A fresh model on its device; the seed fixes its weights and every later random draw."""
        torch.set_num_threads(self.settings.train.threads)
        device = choose_device(self.settings.train.device)
        seed_everything(self.seed)
        return self.method(self.settings.config, self.spec).to(device)


@dataclass(frozen=True)
class StageOne:
    """What stage 1 hands to stage 2."""

    best_epoch: int
    calibration: Calibration
    validation: Mapping[str, float]
    """Metrics of the best epoch."""
    rates: Sequence[float]
    """Learning rate of each epoch."""

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for the record of the run."""
        return {
            "best_epoch": self.best_epoch,
            "calibration": calibration_dict(self.calibration),
            "validation": dict(self.validation),
            "rates": list(self.rates),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> StageOne:
        """The inverse of ``as_dict``."""
        calibration = Calibration(**record["calibration"])
        return cls(int(record["best_epoch"]), calibration, record["validation"], record["rates"])


@dataclass(frozen=True)
class StageTwo:
    """Results on the test parts."""

    metrics: Mapping[str, float]
    """seen, unseen, hm, zsl, ausuc as fractions, of the reported view."""
    views: Mapping[str, Mapping[str, float]]
    """The same for each view."""
    beta: float
    best_possible: Mapping[str, float]
    """HM and beta if beta were chosen on the test data: a bound, never a result."""
    recall: Sequence[Mapping[str, Any]]
    """A row per class: name, group, recall, recall within its group, samples; of unseen classes also the training class with
    the most similar word vector, and the cosine of the two vectors as they are used."""
    confusion: Sequence[Mapping[str, Any]]
    """Unseen samples with unseen classes as the only candidates: ``true`` and ``predicted`` class, ``count`` > 0."""
    embedding: EmbeddingMap | None
    """Of some test samples, where it was asked for."""
    cost: Mapping[str, float]
    """``parameters``, ``flops_per_sample`` (``inspection.cost``)."""
    class_names: Mapping[int, str]
    curve: Curve
    disjoint: Mapping[str, float]
    """With ``protocol.seen_test=group_disjoint`` what ``without_shared_groups`` gives; else empty."""
    epochs: int
    test_openings: int
    """How often the test parts were opened for this model: once, and once more for a transductive method that asked for them
    and for each interruption while testing."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """What could not be computed beside the results, with the reason: it is empty above."""


def calibration_dict(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain types."""
    return {"beta": calibration.beta, "rule": calibration.rule, "per_view": dict(calibration.per_view)}


def evaluation_set(section: Section, seen_part: str, unseen_part: str) -> EvaluationSet:
    """Samples of two parts, to be recognised among the classes of both."""
    seen, unseen = section.classes.parts[seen_part], section.classes.parts[unseen_part]
    text = section.classes.text(np.union1d(seen, unseen))
    return EvaluationSet(section.samples, section.samples.rows(seen_part, unseen_part), seen, unseen, text)


@dataclass(frozen=True)
class EvaluatedParts:
    """What a stage is evaluated on, for transductive methods; opened when one asks for it, and not before."""

    task: Task
    open: Callable[[], Section]
    seen_part: str
    unseen_part: str

    def classes(self) -> Classes:
        """Word vectors of the unseen classes."""
        table = self.open().classes
        return Classes(torch.from_numpy(table.text(table.parts[self.unseen_part])))

    def features(self, epoch: int, size: int) -> Iterator[Batch]:
        """All samples once, without labels, in an order that seed and epoch fix."""
        samples = self.open().samples
        rng = np.random.default_rng([self.task.seed, epoch, 3])
        rows = rng.permutation(samples.rows(self.seen_part, self.unseen_part))
        for start in range(0, len(rows), size):
            yield make_batch(samples, rows[start : start + size], self.task.rules, training=True, rng=rng)


def training_data(task: Task, section: Section, parts: Sequence[str], evaluated: EvaluatedParts | None = None) -> TrainingData:
    """Batches over the named parts, and validation as every epoch sees it; a stage is evaluated on validation by default."""
    evaluated = evaluated or EvaluatedParts(task, lambda: section, VAL_SEEN, VAL_UNSEEN)
    sampler = ClassBalanced.over(section.samples, section.samples.rows(*parts))
    classes = Classes(torch.from_numpy(section.classes.text(sampler.class_ids)))
    batches = TrainingBatches(section.samples, sampler, classes, task.rules, task.method.needs_negatives)
    data = evaluation_set(section, VAL_SEEN, VAL_UNSEEN)
    validation = partial(validate, task.settings, task.rules, data)  # without the task, which has the store
    return TrainingData(task.method, batches, validation, evaluated if task.method.uses else None)


def validate(settings: Settings, rules: FeatureRules, data: EvaluationSet, method: Method) -> Validation:
    """Score a model on validation data and choose beta on it."""
    nearest = embed_and_rank(settings, rules, data, method)
    protocol, view = settings.protocol, method.reported_view
    exact = protocol.calibration == "corrected"
    calibration = Calibration.choose(nearest, view, exact=exact, mean_of_views=protocol.beta_view == "paper")
    best = nearest[view].at(calibration.per_view[view], exact=exact)
    metrics = {**best.as_dict(), "ausuc": nearest[view].curve().ausuc, "beta": best.beta}
    return Validation(metrics, calibration_dict(calibration))


def embed_and_rank(settings: Settings, rules: FeatureRules, data: EvaluationSet, method: Method) -> dict[str, Nearest]:
    """Nearest classes per view, in the precision of training."""
    train = settings.train
    autocast = None if train.precision == "float32" else autocast_for(train)
    return nearest_classes(method, data, rules, batch_size=train.eval_batch_size, autocast=autocast)


def stage_one(task: Task, folder: Path, key: str, listener: Listener) -> StageOne:
    """Train on the training part; choose epoch and beta on validation."""
    data = training_data(task, task.development(), [TRAIN])
    loop = Loop(
        task.settings.train,
        seed=task.seed,
        folder=folder,
        key=key,
        listener=listener,
        keep_best=True,
        extra_pass=task.protocol.extra_bn_pass == "paper",
    )
    result = task.build().fit(data, loop)
    best = result.history[result.best_epoch]
    return StageOne(result.best_epoch, Calibration(**result.best_calibration), best.validation, [r.lr for r in result.history])


def stage_two(task: Task, first: StageOne, folder: Path, key: str, listener: Listener, *, with_map: bool = False) -> StageTwo:
    """Train afresh on training and validation parts for (best epoch + 1) epochs; test the last model with stage 1's beta.

    Args:
        with_map: whether embeddings of test samples are wanted.
    """
    epochs = first.best_epoch + 1

    @cache
    def opened() -> Section:  # by transductive methods only
        count_opening(folder)
        return open_test(task)

    evaluated = EvaluatedParts(task, opened, TEST_SEEN, TEST_UNSEEN)
    data = training_data(task, task.development(), [TRAIN, VAL_SEEN, VAL_UNSEEN], evaluated)
    replayed = task.protocol.stage2_schedule == "corrected"
    loop = Loop(
        task.settings.train.model_copy(update={"epochs": epochs}),
        seed=task.seed,
        folder=folder,
        key=key,
        listener=listener,
        keep_best=False,
        extra_pass=task.protocol.extra_bn_pass == "paper",
        replay=list(first.rates[:epochs]) if replayed else None,
    )
    method = task.build()
    method.fit(data, loop)
    save_atomically(folder / "final.pt", {"key": key, "epoch": epochs - 1, "model": method.state_dict()})
    return test(task, method, first.calibration, epochs, count_opening(folder), with_map=with_map)


def evaluate_weights(first: Task, model_a: Method, final: Task, model_b: Method, epochs: int) -> tuple[Validation, StageTwo]:
    """What trained models are worth: beta from stage 1's model on validation, then stage 2's model tested with it.

    Args:
        first, model_a: the model trained on the training part, and its task.
        final, model_b: the model trained on training and validation parts, and its task.
        epochs: that the latter was trained for.
    """
    section = first.development()
    found = validate(first.settings, first.rules, evaluation_set(section, VAL_SEEN, VAL_UNSEEN), model_a)
    return found, test(final, model_b, Calibration(**found.calibration), epochs, openings=1, with_map=True)


def count_opening(folder: Path) -> int:
    """Note in the job's folder that the test parts are being opened; how often that happened, interrupted jobs included."""
    file = folder / "test_openings"
    openings = int(file.read_text(encoding="utf-8")) + 1 if file.exists() else 1
    with replacing(file) as temporary:
        temporary.write_text(str(openings), encoding="utf-8")
    return openings


def open_test(task: Task) -> Section:
    """The sealed test parts."""
    return task.store.open_test(task.protocol.text_alignment, task.seed, sequences=task.method.inputs == "sequence")


def test(task: Task, method: Method, calibration: Calibration, epochs: int, openings: int, *, with_map: bool) -> StageTwo:
    """Open the test parts and score a final model at a beta chosen elsewhere."""
    section = open_test(task)
    data = evaluation_set(section, TEST_SEEN, TEST_UNSEEN)
    nearest = embed_and_rank(task.settings, task.rules, data, method)
    beta, exact, view = calibration.beta, calibration.rule == "exact", task.method.reported_view
    curve = nearest[view].curve()
    views = {name: {**x.at(beta, exact=exact).as_dict(), "ausuc": x.curve().ausuc} for name, x in nearest.items()}
    names, size = section.classes.names, task.settings.train.eval_batch_size
    beside = Beside(lambda text: None)  # told by who logs the results
    recall, confusion, embedding, costs = list[dict[str, Any]](), list[dict[str, Any]](), None, dict[str, float]()
    with beside("recall.csv"):
        recall = recall_rows(section, nearest[view], beta, exact=exact)
    with beside("confusion.csv"):
        found = unseen_confusion(nearest[view])
        confusion = [{"true": names[t], "predicted": names[p], "count": n} for t, p, n in found]
    with beside("embedding.csv"):
        embedding = embedding_map(method, data, task.rules, _mapped_rows(data, task.seed), size) if with_map else None
    with beside("cost"):
        costs = dict(cost(method, data, task.rules, size, task.seed))
    return StageTwo(
        metrics=views[view],
        views=views,
        beta=beta,
        best_possible={"hm": float(curve.hm.max()), "beta": curve.best_beta()},
        disjoint=without_shared_groups(task, data, nearest[view], beta, exact=exact),
        recall=recall,
        confusion=confusion,
        embedding=embedding,
        cost=costs,
        class_names=names,
        curve=curve,
        epochs=epochs,
        test_openings=openings,
        failed=beside.failed,
    )


def _mapped_rows(data: EvaluationSet, seed: int) -> Ints:
    """The test samples of an embedding map: the same for all methods."""
    labels = data.samples.labels[data.rows]
    rows: Ints = data.rows[balanced_rows(labels, np.isin(labels, data.seen_ids), MAP_SAMPLES, seed)]
    return rows


def recall_rows(section: Section, nearest: Nearest, beta: float, *, exact: bool) -> list[dict[str, Any]]:
    """``StageTwo.recall``: each class of the test parts with what its samples gave, by class id."""
    table = section.classes
    trained = np.unique(np.concatenate([table.parts[part] for part in DEVELOPMENT_PARTS]))
    unseen = table.parts[TEST_UNSEEN]
    rows, cosines = nearest_seen(table.text(trained), table.text(unseen))
    similar = {int(c): (table.names[int(trained[r])], float(x)) for c, r, x in zip(unseen, rows, cosines, strict=True)}
    found = []
    for c, (gzsl, own, samples) in nearest.recall(beta, exact=exact).items():
        name, cosine = similar.get(c, (None, None))
        row: dict[str, Any] = {"class": table.names[c], "group": "unseen" if c in similar else "seen"}
        row |= {"gzsl": gzsl, "own_group": own, "samples": samples}
        found.append(row | {"nearest_seen_class": name, "nearest_seen_cosine": cosine})
    return found


def without_shared_groups(task: Task, data: EvaluationSet, nearest: Nearest, beta: float, *, exact: bool) -> dict[str, float]:
    """Results without the test-seen samples that have a relative in training (same group of the card's rule).

    Returns:
        ``samples`` and ``classes`` that remain and, where any does, ``seen`` (mean over those classes) and ``hm`` with the
        same U; fractions. Empty unless ``protocol.seen_test=group_disjoint``.
    """
    if task.protocol.seen_test != "group_disjoint":
        return {}
    store = task.store
    trained = [id_ for id_, part in zip(store.ids, store.parts, strict=True) if part < len(DEVELOPMENT_PARTS)]
    related = shares_group(task.dataset, [data.samples.ids[row] for row in data.rows], trained)
    kept = nearest.keep(~(nearest.is_seen & related))
    counts = {"samples": float(kept.is_seen.sum()), "classes": float(len(np.unique(kept.label[kept.is_seen])))}
    if not counts["samples"]:
        return counts
    scores = kept.at(beta, exact=exact)
    return {**counts, "seen": scores.seen, "hm": scores.hm}
