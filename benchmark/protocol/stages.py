"""The two stages of the protocol: training, the choice of epoch and beta, and the test.

Stage 1 trains on the training split, and chooses epoch and beta on the validation splits. Stage 2 trains a
new model on training and validation splits for as many epochs. Its last model is tested with that beta. Only
this module opens the test splits, once per final model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmark.data.cards import Card, FeatureSetConfig
from benchmark.data.groups import shares_group
from benchmark.data.store import DEVELOPMENT_SPLITS, FeatureStore, Section, counting_test_accesses
from benchmark.errors import JobError
from benchmark.method import Classes, FitResult, Listener, Method, Spec, TrainingData, Validation
from benchmark.protocol.batching import ClassBalanced, FeatureRules, TrainingBatches
from benchmark.protocol.border import Trained, checked_fit, checked_model, file_of
from benchmark.protocol.dead_biases import keep_dead_biases
from benchmark.protocol.device import autocast_for, choose_device, naming_memory, repeatable
from benchmark.protocol.evaluation import (
    Calibration,
    Curve,
    EvaluationSet,
    Nearest,
    grid,
    nearest_classes,
)
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
"""File in a job's folder that counts the test-set accesses."""


@dataclass(frozen=True)
class Experiment:
    """A method with its settings, data and seed: all that both stages share.

    ``running/jobs.py`` makes it for a job (``Job.experiment``), ``running/evaluate.py`` for given weights.
    """

    method: type[Method]
    settings: Settings
    feature_set: FeatureSetConfig
    store: FeatureStore
    seed: int
    card: Card
    """The dataset config, whose grouping rule ``protocol.seen_test=group_disjoint`` needs."""

    @property
    def rules(self) -> FeatureRules:
        """How stored features become the inputs of the method."""
        return FeatureRules.of(
            self.method.inputs, self.feature_set, self.settings.lengths, self.settings.protocol
        )

    @property
    def protocol(self) -> ProtocolConfig:
        return self.settings.protocol

    def development(self, splits: Sequence[str] = DEVELOPMENT_SPLITS) -> Section:
        """The training and validation splits, or some of them."""
        sequences = self.method.inputs == "sequence"
        return self.store.development(
            self.protocol.text_alignment, self.seed, splits=splits, sequences=sequences
        )

    @property
    def spec(self) -> Spec:
        """Sizes of the features, for building the method."""
        config, store = self.feature_set, self.store
        return Spec(
            store.audio_dim,
            store.video_dim,
            store.text_dim,
            config.audio.seconds,
            config.video.seconds,
            {str(modality): size for modality, size in config.text_parts.items()},
        )

    def build(self) -> Method:
        """A new model on its device. The seed fixes its weights and all random draws that follow."""
        torch.set_num_threads(self.settings.train.threads)
        device = choose_device(self.settings.train.device)
        seed_everything(self.seed)
        model = checked_model(self.method(self.settings.config, self.spec))
        if self.protocol.dead_biases == "corrected":
            keep_dead_biases(model)
        return model.to(device)


@dataclass(frozen=True)
class StageOne:
    """What ``stage_one`` chose, for ``stage_two`` and for the record of the job."""

    best_epoch: int
    calibration: Calibration
    validation: Mapping[str, float]
    """Metrics of the best epoch."""
    rates: Sequence[float]
    """Learning rate of each epoch."""

    def as_dict(self) -> dict[str, Any]:
        """The same in plain types, for the record of the job."""
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
    """A tested model, the test data and its distances on them, for ``inspection.py``."""

    experiment: Experiment
    method: Method
    section: Section
    data: EvaluationSet
    nearest: Nearest
    """Of the reported output."""
    exact: bool
    """Whether beta was chosen exactly instead of on the published grid."""


@dataclass(frozen=True)
class StageTwo:
    """Results on the test splits, made by ``test`` and recorded by ``running/``."""

    metrics: Mapping[str, float]
    """seen, unseen, hm, zsl, ausuc as fractions, of the reported output."""
    outputs: Mapping[str, Mapping[str, float]]
    """The same for each output."""
    beta: float
    best_possible: Mapping[str, float]
    """HM and beta if beta were chosen on the test data (oracle beta): an upper bound, never a result."""
    curve: Curve
    disjoint: Mapping[str, float]
    """Result of ``without_shared_groups``; empty unless ``protocol.seen_test=group_disjoint``."""
    epochs: int
    test_openings: int
    """Test-set accesses of this model: one, and another one for each interruption during the test."""
    opened: Opened


def calibration_dict(calibration: Calibration) -> dict[str, Any]:
    """A calibration in plain types."""
    found = {"beta": calibration.beta, "rule": calibration.rule, "per_output": dict(calibration.per_output)}
    return {**found, "summary": dict(calibration.summary)} if calibration.summary else found


def evaluation_set(
    section: Section, seen_split: str, unseen_split: str, seed: int, resident_share: float = 0.0
) -> EvaluationSet:
    """Samples of a seen and an unseen split, to be classified among the classes of both.

    Args:
        seed: fixes the order in which samples are embedded.
        resident_share: fraction of the free memory of a CUDA device that their features may take.
    """
    seen, unseen = section.classes.splits[seen_split], section.classes.splits[unseen_split]
    text = section.classes.text(np.union1d(seen, unseen))
    return EvaluationSet(
        section.samples,
        section.samples.rows(seen_split, unseen_split),
        seen,
        unseen,
        text,
        seed,
        resident_share,
    )


def training_data(experiment: Experiment, stage: Stage) -> TrainingData:
    """What the method is given in a stage: training batches, and a function that validates the model."""
    # Batches of what the stage trains on.
    section = experiment.development((TRAIN,) if stage == 1 else DEVELOPMENT_SPLITS)
    sampler = ClassBalanced.over(section.samples, np.arange(len(section.samples.labels)))
    classes = Classes(torch.from_numpy(section.classes.text(sampler.class_ids)))
    samples = replace(section.samples, ids=())  # ids contain class names, and batches do not need them
    share = experiment.settings.train.resident_share
    batches = TrainingBatches(
        samples, sampler, classes, experiment.rules, experiment.method.needs_negatives, share
    )

    # Validation is the same in both stages; in stage 2 these samples are trained on too.
    data = evaluation_set(
        experiment.development((VAL_SEEN, VAL_UNSEEN)), VAL_SEEN, VAL_UNSEEN, experiment.seed, share
    )
    unseen = partial(embeddings_of_unseen, experiment, VAL_UNSEEN if stage == 1 else TEST_UNSEEN)
    return TrainingData(
        experiment.method,
        batches,
        partial(validate, experiment.settings, experiment.rules, data),
        unseen if "unseen_names" in experiment.settings.uses else None,
    )


def embeddings_of_unseen(experiment: Experiment, split: str) -> Classes:
    """Class embeddings of a split's classes, for transductive methods. No sample is read."""
    return Classes(
        torch.from_numpy(
            experiment.store.class_embeddings(split, experiment.protocol.text_alignment, experiment.seed)
        )
    )


def validate(settings: Settings, rules: FeatureRules, data: EvaluationSet, method: Method) -> Validation:
    """Score a model on the validation data and choose beta on them."""
    nearest = embed_and_rank(settings, rules, data, method)
    protocol, output = settings.protocol, method.reported_output
    exact = protocol.calibration == "corrected"
    calibration = Calibration.choose(
        nearest,
        output,
        exact=exact,
        mean_of_outputs=protocol.beta_output == "paper",
        betas=grid(*protocol.grid),
    )
    # The numbers are kept with beta. A training never sees them, so it is the same after a resume.
    calibration, method.summary = replace(calibration, summary=dict(method.summary)), {}
    best = nearest[output].at(calibration.per_output[output], exact=exact)
    metrics = {**best.as_dict(), "ausuc": nearest[output].curve().ausuc, "beta": best.beta}
    return Validation(metrics, calibration_dict(calibration))


def embed_and_rank(
    settings: Settings, rules: FeatureRules, data: EvaluationSet, method: Method, **options: Any
) -> dict[str, Nearest]:
    """Nearest classes by output, in the precision of training.

    Args:
        options: ``check`` and ``summary`` of ``evaluation.nearest_classes``.
    """
    train = settings.train
    with naming_memory(train, "eval_batch_size"):
        return nearest_classes(
            method, data, rules, batch_size=train.eval_batch_size, autocast=autocast_for(train), **options
        )


def stage_one(experiment: Experiment, folder: Path, key: str, listener: Listener) -> StageOne:
    """Train on the training split; choose epoch and beta on the validation splits.

    Args:
        folder: of the job, for checkpoints.
        key: of the job; checkpoints of another key are refused.
        listener: is called with the progress.

    Raises:
        JobError: the method returned something wrong, or test data were opened during training.
    """
    options = {"keep_best": True, "extra_pass": experiment.protocol.extra_bn_pass == "paper"}
    with repeatable(experiment.settings.train), counting_test_accesses(partial(count_access, folder)):
        _, result = _trained(experiment, 1, folder, listener, experiment.settings.train, key=key, **options)
    best = result.history[result.best_epoch]
    return StageOne(
        result.best_epoch,
        Calibration(**result.best_calibration),
        best.validation,
        [r.lr for r in result.history],
    )


def stage_two(
    experiment: Experiment, first: StageOne, folder: Path, key: str, listener: Listener
) -> StageTwo:
    """Train on training and validation splits for (best epoch + 1) epochs; test with stage 1's beta.

    Raises:
        JobError: the method returned something wrong, or test data were opened during training.
    """
    # The length of the training and, in mode corrected, its learning rates come from stage 1.
    epochs = first.best_epoch + 1
    replayed = experiment.protocol.stage2_schedule == "corrected"
    train = experiment.settings.train.model_copy(update={"epochs": epochs})
    options = {
        "keep_best": False,
        "extra_pass": experiment.protocol.extra_bn_pass == "paper",
        "replay": list(first.rates[:epochs]) if replayed else None,
    }

    # The weights are safe on disk before the test data are opened.
    with repeatable(train), counting_test_accesses(partial(count_access, folder)):
        method, _ = _trained(experiment, 2, folder, listener, train, key=key, **options)
        save_atomically(folder / "final.pt", {"key": key, "epoch": epochs - 1, "model": method.state_dict()})
        tested = test(experiment, method, first.calibration, epochs)
    return replace(tested, test_openings=test_accesses(folder))


def _trained(
    experiment: Experiment, stage: Stage, folder: Path, listener: Listener, train: TrainConfig, **options: Any
) -> tuple[Method, FitResult]:
    """Build a model and call ``fit``, without references to validation or test data or the record.

    Args:
        options: of ``Loop``.

    Raises:
        JobError: ``fit`` returned something wrong, or test data were opened meanwhile.
    """
    before = test_accesses(folder)

    # Everything that the method gets of validation and listener goes through a window (``seal.py``).
    with sealed(training_data(experiment, stage), listener) as (data, sealed_listener):
        loop = Loop(train, seed=experiment.seed, folder=folder, listener=sealed_listener, **options)
        with naming_memory(train, "batch_size", "resident_share"):
            method = experiment.build()
            trained = Trained(method)
            result = method.fit(replace(data, validate=trained.watching(data.validate)), loop)
        result = checked_fit(method, result, train.epochs)
        trained.check()
        loop.keep(method, result)

    # A method that reads the feature file itself is found by the count of accesses.
    opened = test_accesses(folder) - before
    if opened:
        cls = experiment.method
        raise JobError(
            f"{cls.title} ({file_of(cls)}): the test data were opened while it trained ({opened} times); "
            "a method learns from what fit(data, loop) is given"
        )
    return method, result


def evaluate_weights(
    first: Experiment, model_a: Method, final: Experiment, model_b: Method, epochs: int
) -> tuple[Validation, StageTwo]:
    """Choose beta with stage 1's trained model on validation; test stage 2's model with it.

    Args:
        first, model_a: the experiment of the model that was trained on the training split, and the model.
        final, model_b: the same of the model that was trained on training and validation splits.
        epochs: how many epochs ``model_b`` was trained for.
    """
    section = first.development((VAL_SEEN, VAL_UNSEEN))
    opened: list[None] = []
    with repeatable(first.settings.train), counting_test_accesses(partial(opened.append, None)):
        found = validate(
            first.settings, first.rules, evaluation_set(section, VAL_SEEN, VAL_UNSEEN, first.seed), model_a
        )
        tested = test(final, model_b, Calibration(**found.calibration), epochs)
    return found, replace(tested, test_openings=len(opened))


def count_access(folder: Path) -> None:
    """Count a test-set access in the job's folder."""
    accesses = test_accesses(folder) + 1
    with replacing(folder / TEST_ACCESSES) as temporary:
        temporary.write_text(str(accesses), encoding="utf-8")


def test_accesses(folder: Path) -> int:
    """Test-set accesses of a job so far, those before interruptions included."""
    file = folder / TEST_ACCESSES
    return int(file.read_text(encoding="utf-8")) if file.exists() else 0


def open_test(experiment: Experiment) -> Section:
    """The test splits; the access is counted."""
    return experiment.store.open_test(
        experiment.protocol.text_alignment, experiment.seed, sequences=experiment.method.inputs == "sequence"
    )


def test(experiment: Experiment, method: Method, calibration: Calibration, epochs: int) -> StageTwo:
    """Open the test splits and score a final model with the beta that stage 1 chose.

    Raises:
        JobError: the method returned something wrong, or its distances depend on other samples of a batch.
    """
    # Embed and rank all test samples once; ``check`` finds methods that mix the samples of a batch.
    section = open_test(experiment)
    data = evaluation_set(section, TEST_SEEN, TEST_UNSEEN, experiment.seed)
    summary = None if "test_samples" in experiment.settings.uses else calibration.summary
    nearest = embed_and_rank(experiment.settings, experiment.rules, data, method, check=True, summary=summary)

    # Every result follows from the nearest classes, without another forward pass.
    beta, exact, output = calibration.beta, calibration.rule == "exact", experiment.method.reported_output
    curve = nearest[output].curve()
    outputs = {
        name: {**x.at(beta, exact=exact).as_dict(), "ausuc": x.curve().ausuc} for name, x in nearest.items()
    }
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
    """Results without the test-seen samples whose group is in the training data too.

    Returns:
        The numbers of remaining ``samples`` and ``classes``. If any remain, also ``seen`` (mean over those
        classes) and ``hm`` with the same U; fractions. Empty unless ``protocol.seen_test=group_disjoint``.
    """
    if experiment.protocol.seen_test != "group_disjoint":
        return {}
    trained = experiment.development().samples.ids
    related = shares_group(experiment.card, [data.samples.ids[row] for row in data.rows], trained)
    kept = nearest.keep(~(nearest.is_seen & related))
    counts = {
        "samples": float(kept.is_seen.sum()),
        "classes": float(len(np.unique(kept.label[kept.is_seen]))),
    }
    if not counts["samples"]:
        return counts
    scores = kept.at(beta, exact=exact)
    return {**counts, "seen": scores.seen, "hm": scores.hm}
