"""The protocol: what each stage trains and is tested on, how the epoch and beta are chosen, and when test data are opened.

Stage 1 trains on the training split and chooses epoch and beta on the validation splits. Stage 2 trains afresh on both for as
many epochs, and its last model is tested with that beta. Only this module opens the test splits, once per final model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmark.data.cards import Card, FeatureSetCard
from benchmark.data.groups import shares_group
from benchmark.data.store import DEVELOPMENT_SPLITS, FeatureStore, Section, counting_test_accesses
from benchmark.errors import JobError
from benchmark.method import Classes, FitResult, Listener, Method, Spec, TrainingData, Validation
from benchmark.protocol.batching import ClassBalanced, FeatureRules, TrainingBatches
from benchmark.protocol.border import Trained, checked_fit, checked_model, file_of
from benchmark.protocol.device import autocast_for, choose_device
from benchmark.protocol.evaluation import Calibration, Curve, EvaluationSet, Nearest, nearest_classes
from benchmark.protocol.randomness import seed_everything
from benchmark.protocol.seal import sealed
from benchmark.protocol.training import Loop, save_atomically
from benchmark.settings.resolve import Settings
from benchmark.settings.schema import ProtocolConfig, TrainConfig
from benchmark.system.files import replacing

Stage = Literal[1, 2]
TRAIN, VAL_SEEN, VAL_UNSEEN = "stage_1_train", "stage_1_val_seen", "stage_1_val_unseen"
TEST_SEEN, TEST_UNSEEN = "stage_2_test_seen", "stage_2_test_unseen"
TEST_ACCESSES = "test_openings"
"""File in a job's folder that counts how often the test splits were opened."""


@dataclass(frozen=True)
class Experiment:
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

    def development(self, splits: Sequence[str] = DEVELOPMENT_SPLITS) -> Section:
        """Training and validation splits, or some of them."""
        sequences = self.method.inputs == "sequence"
        return self.store.development(self.protocol.text_alignment, self.seed, splits=splits, sequences=sequences)

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
        return checked_model(self.method(self.settings.config, self.spec)).to(device)


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
class Opened:
    """A tested model, the test data and what it scored on them, for ``inspection.py``."""

    experiment: Experiment
    method: Method
    section: Section
    data: EvaluationSet
    nearest: Nearest
    """Of the reported output."""
    exact: bool
    """Whether beta was chosen exactly, rather than on the published grid."""


@dataclass(frozen=True)
class StageTwo:
    """Results on the test splits."""

    metrics: Mapping[str, float]
    """seen, unseen, hm, zsl, ausuc as fractions, of the reported output."""
    outputs: Mapping[str, Mapping[str, float]]
    """The same for each output."""
    beta: float
    best_possible: Mapping[str, float]
    """HM and beta if beta were chosen on the test data: a bound, never a result."""
    curve: Curve
    disjoint: Mapping[str, float]
    """With ``protocol.seen_test=group_disjoint`` what ``without_shared_groups`` gives; else empty."""
    epochs: int
    test_openings: int
    """How often the test splits were opened for this model: once, and once more for each interruption while testing."""
    opened: Opened


def calibration_dict(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain types."""
    return {"beta": calibration.beta, "rule": calibration.rule, "per_output": dict(calibration.per_output)}


def evaluation_set(section: Section, seen_split: str, unseen_split: str, seed: int) -> EvaluationSet:
    """Samples of two splits, to be recognised among the classes of both.

    Args:
        seed: fixes the order in which samples are embedded.
    """
    seen, unseen = section.classes.splits[seen_split], section.classes.splits[unseen_split]
    text = section.classes.text(np.union1d(seen, unseen))
    return EvaluationSet(section.samples, section.samples.rows(seen_split, unseen_split), seen, unseen, text, seed)


def training_data(experiment: Experiment, stage: Stage) -> TrainingData:
    """Batches over the splits that a stage trains on, and validation as every epoch sees it."""
    section = experiment.development((TRAIN,) if stage == 1 else DEVELOPMENT_SPLITS)
    sampler = ClassBalanced.over(section.samples, np.arange(len(section.samples.labels)))
    classes = Classes(torch.from_numpy(section.classes.text(sampler.class_ids)))
    samples = replace(section.samples, ids=())  # ids name classes, and batches have no use for them
    batches = TrainingBatches(samples, sampler, classes, experiment.rules, experiment.method.needs_negatives)
    data = evaluation_set(experiment.development((VAL_SEEN, VAL_UNSEEN)), VAL_SEEN, VAL_UNSEEN, experiment.seed)
    unseen = partial(embeddings_of_unseen, experiment, VAL_UNSEEN if stage == 1 else TEST_UNSEEN)
    return TrainingData(
        experiment.method,
        batches,
        partial(validate, experiment.settings, experiment.rules, data),
        unseen if experiment.method.uses else None,
    )


def embeddings_of_unseen(experiment: Experiment, split: str) -> Classes:
    """Word vectors of a split's classes, for transductive methods; no sample is read."""
    return Classes(
        torch.from_numpy(experiment.store.class_embeddings(split, experiment.protocol.text_alignment, experiment.seed))
    )


def validate(settings: Settings, rules: FeatureRules, data: EvaluationSet, method: Method) -> Validation:
    """Score a model on validation data and choose beta on it."""
    nearest = embed_and_rank(settings, rules, data, method)
    protocol, output = settings.protocol, method.reported_output
    exact = protocol.calibration == "corrected"
    calibration = Calibration.choose(nearest, output, exact=exact, mean_of_outputs=protocol.beta_output == "paper")
    best = nearest[output].at(calibration.per_output[output], exact=exact)
    metrics = {**best.as_dict(), "ausuc": nearest[output].curve().ausuc, "beta": best.beta}
    return Validation(metrics, calibration_dict(calibration))


def embed_and_rank(
    settings: Settings, rules: FeatureRules, data: EvaluationSet, method: Method, *, check: bool = False
) -> dict[str, Nearest]:
    """Nearest classes per output, in the precision of training.

    Args:
        check: whether a split is scored again beside other samples (``evaluation.nearest_classes``).
    """
    train = settings.train
    return nearest_classes(method, data, rules, batch_size=train.eval_batch_size, autocast=autocast_for(train), check=check)


def stage_one(experiment: Experiment, folder: Path, key: str, listener: Listener) -> StageOne:
    """Train on the training split; choose epoch and beta on validation.

    Raises:
        JobError: the method returned something wrong, or the test splits were opened while it trained.
    """
    options = {"keep_best": True, "extra_pass": experiment.protocol.extra_bn_pass == "paper"}
    with counting_test_accesses(partial(count_access, folder)):
        _, result = _trained(experiment, 1, folder, listener, experiment.settings.train, key=key, **options)
    best = result.history[result.best_epoch]
    return StageOne(result.best_epoch, Calibration(**result.best_calibration), best.validation, [r.lr for r in result.history])


def stage_two(experiment: Experiment, first: StageOne, folder: Path, key: str, listener: Listener) -> StageTwo:
    """Train afresh on training and validation splits for (best epoch + 1) epochs; test the last model with stage 1's beta.

    Raises:
        JobError: the method returned something wrong, or the test splits were opened while it trained.
    """
    epochs = first.best_epoch + 1
    replayed = experiment.protocol.stage2_schedule == "corrected"
    train = experiment.settings.train.model_copy(update={"epochs": epochs})
    options = {
        "keep_best": False,
        "extra_pass": experiment.protocol.extra_bn_pass == "paper",
        "replay": list(first.rates[:epochs]) if replayed else None,
    }
    with counting_test_accesses(partial(count_access, folder)):
        method, _ = _trained(experiment, 2, folder, listener, train, key=key, **options)
        save_atomically(folder / "final.pt", {"key": key, "epoch": epochs - 1, "model": method.state_dict()})
        tested = test(experiment, method, first.calibration, epochs)
    return replace(tested, test_openings=test_accesses(folder))


def _trained(
    experiment: Experiment, stage: Stage, folder: Path, listener: Listener, train: TrainConfig, **options: Any
) -> tuple[Method, FitResult]:
    """A fresh model after ``fit``, which is given nothing that leads to validation data, test data or the run's record.

    Args:
        options: of the loop.

    Raises:
        JobError: ``fit`` returned something wrong, or the test splits were opened meanwhile.
    """
    before = test_accesses(folder)
    with sealed(training_data(experiment, stage), listener) as (data, sealed_listener):
        loop = Loop(train, seed=experiment.seed, folder=folder, listener=sealed_listener, **options)
        method = experiment.build()
        trained = Trained(method)
        result = method.fit(replace(data, validate=trained.watching(data.validate)), loop)
        result = checked_fit(method, result, train.epochs)
        trained.check()
    opened = test_accesses(folder) - before
    if opened:
        raise JobError(
            f"{experiment.method.title} ({file_of(experiment.method)}): the test data were opened while it trained "
            f"({opened} times); a method learns from what fit(data, loop) is given"
        )
    return method, result


def evaluate_weights(
    first: Experiment, model_a: Method, final: Experiment, model_b: Method, epochs: int
) -> tuple[Validation, StageTwo]:
    """What trained models are worth: beta from stage 1's model on validation, then stage 2's model tested with it.

    Args:
        first, model_a: the model trained on the training split, and its experiment.
        final, model_b: the model trained on training and validation splits, and its experiment.
        epochs: that the latter was trained for.
    """
    section = first.development((VAL_SEEN, VAL_UNSEEN))
    opened: list[None] = []
    with counting_test_accesses(partial(opened.append, None)):
        found = validate(first.settings, first.rules, evaluation_set(section, VAL_SEEN, VAL_UNSEEN, first.seed), model_a)
        tested = test(final, model_b, Calibration(**found.calibration), epochs)
    return found, replace(tested, test_openings=len(opened))


def count_access(folder: Path) -> None:
    """Note in the job's folder that the test splits are being opened."""
    accesses = test_accesses(folder) + 1
    with replacing(folder / TEST_ACCESSES) as temporary:
        temporary.write_text(str(accesses), encoding="utf-8")


def test_accesses(folder: Path) -> int:
    """How often the test splits were opened for a job so far, before interruptions too."""
    file = folder / TEST_ACCESSES
    return int(file.read_text(encoding="utf-8")) if file.exists() else 0


def open_test(experiment: Experiment) -> Section:
    """The sealed test splits."""
    return experiment.store.open_test(
        experiment.protocol.text_alignment, experiment.seed, sequences=experiment.method.inputs == "sequence"
    )


def test(experiment: Experiment, method: Method, calibration: Calibration, epochs: int) -> StageTwo:
    """Open the test splits and score a final model at a beta chosen elsewhere.

    Raises:
        JobError: the method returned something wrong, or its distances depend on the samples beside.
    """
    section = open_test(experiment)
    data = evaluation_set(section, TEST_SEEN, TEST_UNSEEN, experiment.seed)
    nearest = embed_and_rank(experiment.settings, experiment.rules, data, method, check=True)
    beta, exact, output = calibration.beta, calibration.rule == "exact", experiment.method.reported_output
    curve = nearest[output].curve()
    outputs = {name: {**x.at(beta, exact=exact).as_dict(), "ausuc": x.curve().ausuc} for name, x in nearest.items()}
    return StageTwo(
        metrics=outputs[output],
        outputs=outputs,
        beta=beta,
        best_possible={"hm": curve.best_hm(), "beta": curve.best_beta()},
        disjoint=without_shared_groups(experiment, data, nearest[output], beta, exact=exact),
        curve=curve,
        epochs=epochs,
        test_openings=1,
        opened=Opened(experiment, method, section, data, nearest[output], exact),
    )


def without_shared_groups(
    experiment: Experiment, data: EvaluationSet, nearest: Nearest, beta: float, *, exact: bool
) -> dict[str, float]:
    """Results without the test-seen samples that have a relative in training (same group of the card's rule).

    Returns:
        ``samples`` and ``classes`` that remain and, where any does, ``seen`` (mean over those classes) and ``hm`` with the
        same U; fractions. Empty unless ``protocol.seen_test=group_disjoint``.
    """
    if experiment.protocol.seen_test != "group_disjoint":
        return {}
    trained = experiment.development().samples.ids
    related = shares_group(experiment.dataset, [data.samples.ids[row] for row in data.rows], trained)
    kept = nearest.keep(~(nearest.is_seen & related))
    counts = {"samples": float(kept.is_seen.sum()), "classes": float(len(np.unique(kept.label[kept.is_seen])))}
    if not counts["samples"]:
        return counts
    scores = kept.at(beta, exact=exact)
    return {**counts, "seen": scores.seen, "hm": scores.hm}
