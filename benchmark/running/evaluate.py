"""Tests trained weights from folders, for the command ``evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmark.data.cards import Card
from benchmark.data.store import FeatureStore
from benchmark.errors import UsageError
from benchmark.inspection import Inspection, inspect
from benchmark.method import Method
from benchmark.protocol.stages import Experiment, StageTwo, evaluate_weights
from benchmark.running.provenance import data_caption, environment, words_of_uses
from benchmark.running.records import log_data, log_map, log_stage_two, prefixed
from benchmark.settings.resolve import Settings, own_switches, protocol_for
from benchmark.settings.schema import LengthConfig, Mode, ProtocolConfig
from benchmark.settings.search_space import SearchSpace
from benchmark.system.beside import Beside
from benchmark.tracking.schema import Artifact, Kind, Metric, Tag
from benchmark.tracking.tracker import Tracker
from benchmark.weights.own import Weights, digest_of

TRAINING_ALONE = ("epochs", "batches_per_epoch", "batch_size")
"""Settings of training without effect on an evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """The test of trained weights on a dataset."""

    first: Weights
    final: Weights
    settings: Settings
    validation: Mapping[str, float]
    """Of stage A's model at its best beta; fractions."""
    result: StageTwo
    explained: Inspection
    notes: Sequence[str]
    """What a reader must know: other data than trained on, other arguments per stage."""
    adapted: str
    """What is ours in the settings for these features."""
    published_settings: bool
    """Whether the weights have the published settings for these data."""
    run_id: str = ""

    def numbers(self) -> dict[str, float]:
        """S, U, HM and ZSL in percent, and beta, to two decimals."""
        metrics = {
            name: round(100 * self.result.metrics[name], 2) for name in ("seen", "unseen", "hm", "zsl")
        }
        return {**metrics, "beta": round(self.result.beta, 2)}

    def disjoint(self) -> dict[str, float]:
        """The same without test-seen samples whose group is trained on (``seen_test=group_disjoint``).

        Returns:
            ``samples`` and ``classes`` that remain; ``seen`` and ``hm`` in percent, if any remain.
            Empty in other protocols.
        """
        found = self.result.disjoint
        return {
            name: round(100 * value, 2) if name in ("seen", "hm") else value for name, value in found.items()
        }


def evaluate(
    pair: tuple[Weights, Weights],
    card: Card,
    features: str,
    store: FeatureStore,
    mode: Mode | None,
    overrides: Mapping[str, Mapping[str, Any]],
    space: SearchSpace,
) -> Evaluation:
    """Choose beta with stage A's model on the validation splits, and test stage B's model.

    Args:
        pair: weights of both stages.
        card, features, store: what to test on.
        mode: the protocol; None for that of the training (published weights: paper).
        overrides: checked ``--set`` values of the sections ``protocol`` and ``train``.
        space: search space of the method, for its published settings.

    Raises:
        UsageError: the weights are for another dataset, feature set or size, or ``overrides`` change
            their settings.
    """
    # Both stages must fit the data and each other.
    first, final = pair
    for weights in pair:
        _check_data(weights, card, features, store)
    settings = [_settings(weights, card, mode, overrides) for weights in pair]
    experiments = [
        Experiment(w.method, s, card.features[features], store, w.seed, card)
        for w, s in zip(pair, settings, strict=True)
    ]
    for weights, experiment in zip(pair, experiments, strict=True):
        weights.check(experiment.spec)

    # Load them, then evaluate as a benchmark run does.
    models: list[Method] = []
    for weights, experiment in zip(pair, experiments, strict=True):
        models.append(experiment.build())
        models[-1].load_state_dict(dict(weights.state))
    validation, result = evaluate_weights(experiments[0], models[0], experiments[1], models[1], final.epochs)
    return Evaluation(
        first=first,
        final=final,
        settings=settings[1],
        validation=validation.metrics,
        result=result,
        explained=inspect(result, with_map=True),
        notes=[*_notes(pair, store), *_protocol_notes(final.method, settings[1])],
        adapted=published.note if (published := space.settings_for(card.name, features)) else "",
        published_settings=all(_has_published_settings(w, card, features, space) for w in pair),
    )


def _has_published_settings(weights: Weights, card: Card, features: str, space: SearchSpace) -> bool:
    """Whether the weights have the published settings of the method, its training and its lengths. Weights
    that are distributed without arguments have unknown ones."""
    published = space.settings_for(card.name, features)
    if published is None or published.note or not weights.training:
        return False
    same_config = weights.config == weights.method.Config.model_validate(published.config)
    same_training = all(weights.training.get(name, value) == value for name, value in published.train.items())
    return same_config and same_training and weights.lengths == LengthConfig.model_validate(published.lengths)


def _check_data(weights: Weights, card: Card, features: str, store: FeatureStore) -> None:
    names = {card.name.lower(), card.official.folder.lower() if card.official else ""}
    if weights.dataset and weights.dataset.lower() not in names:
        raise UsageError(f"{weights.file}: trained on {weights.dataset}; --dataset is {card.name}")
    dims = {"audio": store.audio_dim, "video": store.video_dim}
    other = {m: size for m, size in weights.dims.items() if size != dims[m]}
    if other or (weights.features and weights.features != features):
        sizes = ", ".join(f"{m} {size}" for m, size in (weights.dims or dims).items())
        was = f"{weights.features or 'features'} of {sizes}"
        raise UsageError(
            f"{weights.file}: made for {was}; {card.name}/{features} has audio {dims['audio']}, "
            f"video {dims['video']}; choose with --features"
        )
    if weights.method.inputs == "sequence":
        store.require_sequences(weights.method.title)


def _settings(
    weights: Weights, card: Card, mode: Mode | None, overrides: Mapping[str, Mapping[str, Any]]
) -> Settings:
    """The settings of the weights, under the protocol that is asked for."""
    others = [section for section in overrides if section not in ("protocol", "train", "data")]
    fixed = [f"{section}.{name}" for section in others for name in overrides[section]]
    fixed += [f"train.{k}" for k in overrides.get("train", {}) if k in TRAINING_ALONE]
    fixed += [f"protocol.{k}" for k in overrides.get("protocol", {}) if k not in ProtocolConfig.model_fields]
    if fixed:
        raise UsageError(
            f"--set {', '.join(fixed)}: cannot be changed for trained weights; protocol.* and train.device, "
            ".threads, ... can"
        )
    recorded = weights.recorded
    if recorded is not None and mode is None:
        protocol = recorded.protocol.model_dump()
    else:
        protocol = protocol_for(weights.method, mode or "paper", published_order=card.published_order)
    layers = {
        weights.method.name: weights.config.model_dump(),
        "train": {**(recorded.train.model_dump() if recorded else {}), **overrides.get("train", {})},
        "lengths": weights.lengths.model_dump(),
        "protocol": {**protocol, **overrides.get("protocol", {})},
    }
    return Settings.validated(weights.method, layers, str(weights.record), published=recorded is None)


def _protocol_notes(method: type[Method], settings: Settings) -> Iterator[str]:
    """What of the protocol belongs to the weights, and what the evaluation uses."""
    mode, switches = settings.protocol.mode, settings.as_dict()["protocol"]
    for name in own_switches(method):
        if switches[name] != mode:
            yield f"mode {mode}, but {name} = {switches[name]}, with which the weights were trained"
    if settings.uses:
        yield f"transductive: {method.title} uses {words_of_uses(settings.uses)}"


def _notes(pair: tuple[Weights, Weights], store: FeatureStore) -> Iterator[str]:
    a, b = ({**w.config.model_dump(), **w.lengths.model_dump(), "seed": w.seed} for w in pair)
    differing = [name for name in a if a[name] != b.get(name)]
    if differing:
        shown = ", ".join(f"{n} {a[n]} and {b[n]}" for n in differing)
        yield f"stages A and B were trained with different settings: {shown}"
    for weights, digest in zip(pair, (store.development_digest, store.digest), strict=True):
        if weights.data_digest and weights.data_digest != digest:
            yield (
                f"{weights.file}: trained on other data (hash {weights.data_digest[:12]}) than it is "
                f"tested on here ({digest[:12]})"
            )


def log_evaluation(
    tracker: Tracker, evaluation: Evaluation, card: Card, features: str, store: FeatureStore
) -> Evaluation:
    """Log an evaluation as a finished run of kind ``published-checkpoint``; returns it with the run's id."""
    first, final, settings = evaluation.first, evaluation.final, evaluation.settings
    method = final.method
    title = f"{method.title} · {card.name}/{features} · {settings.protocol.mode} · weights from a folder"
    source = f"{first.file.parent} and {final.file.parent}"
    tags = {
        Tag.KIND: Kind.EVALUATION,
        Tag.METHOD: method.name,
        Tag.METHOD_TITLE: method.title,
        Tag.METHOD_NOTE: "; ".join(filter(None, [method.note, evaluation.adapted])),
        Tag.METHOD_INPUTS: str(method.inputs),
        Tag.METHOD_USES: words_of_uses(settings.uses),
        Tag.DATASET: card.name,
        Tag.DATASET_TITLE: card.title,
        Tag.DATASET_KIND: "generated" if store.generated else card.kind,
        Tag.DATASET_CAPTION: data_caption(store, card),
        Tag.FEATURES: features,
        Tag.MODE: settings.protocol.mode,
        Tag.ALIGNMENT: settings.protocol.text_alignment,
        Tag.ORIGIN: final.origin,
        Tag.PUBLISHED_SETTINGS: str(evaluation.published_settings).lower(),
        Tag.WEIGHTS_DIGEST: digest_of(first, final),
        Tag.DATA_DIGEST: store.digest,
        Tag.SOURCE: source,
        Tag.SEED: str(final.seed),
        Tag.DESCRIPTION: "\n".join([f"Weights: {source}", *evaluation.notes]),
        **environment(),
    }
    run_id = tracker.start(title, tags)
    tracker.log_params(run_id, settings.flat())
    identity = {"settings": settings.as_dict(), "method": method.name, "digest": store.digest}
    identity["weights"] = tags[Tag.WEIGHTS_DIGEST]
    notes = list[str]()
    beside = Beside(notes.append)
    with beside(Artifact.IDENTITY):
        tracker.log_json(run_id, identity, Artifact.IDENTITY)
    with beside("the dataset's registration"):
        log_data(tracker, run_id, card, features, store.digest, "validation+test")
    tracker.log_metrics(run_id, prefixed(Metric.BEST, evaluation.validation))
    result = log_stage_two(tracker, run_id, evaluation.result, evaluation.explained, title, 0, beside)
    tracker.log_json(run_id, result, Artifact.RESULT)
    with beside("the map of embeddings"):
        log_map(tracker, run_id, evaluation.explained)
    if missing := beside.tags():
        tracker.tag(run_id, missing)
    tracker.finish(run_id)
    return replace(evaluation, run_id=run_id, notes=[*evaluation.notes, *notes])
