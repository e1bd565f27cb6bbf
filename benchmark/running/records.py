"""Writes jobs to the tracking store: settings, the progress of each epoch, and the results of each stage."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmark.data.cards import Card
from benchmark.errors import Unavailable
from benchmark.inspection import EmbeddingMap, Inspection
from benchmark.method import EpochRecord, Listener
from benchmark.protocol.stages import StageOne, StageTwo
from benchmark.running.events import BatchDone, EpochDone, Said, Show
from benchmark.running.jobs import Job
from benchmark.system.beside import Beside
from benchmark.tracking.schema import Artifact, Metric, Tag
from benchmark.tracking.tracker import Tracker
from benchmark.uncertainty import bootstrap_intervals

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class EpochLog(Listener):
    """Passes the progress of a job to the terminal, the tracking store and further listeners.

    While the store does not answer, epochs are kept here (and in the checkpoint) and training continues. They
    are sent with a later epoch, or by ``send`` at the end.

    Args:
        then: called with each epoch once it is recorded; they may raise to prune or to stop.
    """

    def __init__(
        self, tracker: Tracker, run_id: str, show: Show, *then: Callable[[EpochRecord], None]
    ) -> None:
        self.tracker, self.run_id, self.show, self.then = tracker, run_id, show, then
        self.logged = tracker.logged_steps(run_id, Metric.VALIDATION_HM)
        self.history: list[EpochRecord] = []
        self.unsent: list[EpochRecord] = []

    def on_note(self, text: str) -> None:
        self.show(Said(text))

    def on_batch(self, epoch: int, batch: int, loss: float) -> None:
        self.show(BatchDone(epoch, batch, loss))

    def on_epoch(self, record: EpochRecord) -> None:
        self.history.append(record)
        if record.epoch not in self.logged:
            self.unsent.append(record)
            self.send(wait=False)
        self.show(EpochDone(record))
        for hear in self.then:
            hear(record)

    def send(self, *, wait: bool) -> None:
        """Send the epochs that the store does not have.

        Args:
            wait: whether to wait for a store that does not answer; otherwise they are kept.

        Raises:
            Unavailable: the store did not answer in time.
        """
        while self.unsent:
            record = self.unsent[0]
            metrics = prefixed(Metric.TRAIN, record.losses) | prefixed(Metric.VALIDATION, record.validation)
            metrics |= {Metric.LEARNING_RATE: record.lr, Metric.EPOCH_SECONDS: record.seconds}
            try:
                self.tracker.log_metrics(self.run_id, metrics, step=record.epoch, wait=wait)
            except Unavailable as error:
                if wait:
                    raise
                if len(self.unsent) == 1:
                    self.show(Said(f"{error}; epochs are kept and sent later"))
                return
            del self.unsent[0]


def describe(tracker: Tracker, run_id: str, job: Job, beside: Beside) -> None:
    """Log what the job is: settings, how to repeat it, data."""
    with beside("settings"):
        tracker.log_params(run_id, job.settings.flat())
    with beside(Artifact.CONFIG):
        tracker.log_text(run_id, job.alone().as_yaml(), Artifact.CONFIG)
    with beside(Artifact.IDENTITY):
        tracker.log_json(run_id, job.identity(), Artifact.IDENTITY)
    store = job.unit.store
    with beside("the dataset's registration"):
        digest = store.development_digest if job.stage == 1 else store.digest
        context = "train+validation" if job.stage == 1 else "train+validation+test"
        log_data(tracker, run_id, job.unit.card, job.unit.features, digest, context)
    if not beside.failed:
        tracker.tag(run_id, {Tag.DESCRIBED: "true"})


def log_data(tracker: Tracker, run_id: str, card: Card, features: str, digest: str, context: str) -> None:
    """Register a dataset as an input of a run."""
    name, source = f"{card.name}-{features}", f"{card.title}, feature set {features}"
    tracker.log_dataset(run_id, name=name, digest=digest, source=source, context=context)


def prefixed(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics with a prefix of ``tracking/schema.py`` before their names."""
    return {prefix + name: value for name, value in metrics.items()}


def log_stage_one(tracker: Tracker, run_id: str, found: StageOne) -> None:
    """Log the kept epoch."""
    best = prefixed(Metric.BEST, found.validation)
    chosen = {Metric.BEST_EPOCH: found.best_epoch, Metric.BETA: found.calibration.beta}
    tracker.log_metrics(run_id, {**best, **chosen})


def log_stage_two(
    tracker: Tracker,
    run_id: str,
    found: StageTwo,
    explained: Inspection,
    title: str,
    seed: int,
    beside: Beside,
) -> dict[str, Any]:
    """Log the test results and what explains them; return the results as plain types.

    Args:
        found: the results.
        explained: confusion, recall, embeddings and cost of the tested model.
        title: heading of the figure.
        seed: of the bootstrap over test samples.
        beside: records failures of everything except the results.
    """
    # The results themselves: a failure here fails the job.
    metrics = prefixed(Metric.TEST, found.metrics)
    metrics |= prefixed(Metric.TEST + Metric.DISJOINT, found.disjoint)
    tracker.log_metrics(run_id, {**metrics, Metric.BETA: found.beta, Metric.EPOCHS: found.epochs})
    beside.note(explained.failed)

    # What explains them: a failure here is recorded, and the results stay.
    intervals: dict[str, float] = {}
    if explained.groups:
        with beside("intervals over test samples"):
            intervals = _bootstrap(explained.groups, seed)
            tracker.log_metrics(run_id, prefixed(Metric.BOOTSTRAP, intervals))
        with beside(Artifact.GROUPS):
            tracker.log_text(run_id, json.dumps(explained.groups, separators=(",", ":")), Artifact.GROUPS)
    if explained.recall:
        with beside(Artifact.RECALL):
            tracker.log_text(run_id, pd.DataFrame(explained.recall).to_csv(index=False), Artifact.RECALL)
    with beside("cost"):
        tracker.log_metrics(run_id, explained.cost)
    if Artifact.CONFUSION not in explained.failed:
        with beside(Artifact.CONFUSION):
            confusion = pd.DataFrame(explained.confusion, columns=["true", "predicted", "count"])
            tracker.log_text(run_id, confusion.to_csv(index=False), Artifact.CONFUSION)
    if explained.embedding is not None:
        with beside(Artifact.EMBEDDING):
            text = embedding_csv(explained.embedding, explained.class_names)
            tracker.log_text(run_id, text, Artifact.EMBEDDING)
    with beside(Artifact.CURVE):
        curve = found.curve.thinned()
        points = pd.DataFrame({"beta": curve.beta, "seen": curve.seen, "unseen": curve.unseen})
        tracker.log_text(run_id, points.to_csv(index=False), Artifact.CURVE)
    with beside(Artifact.CURVE_FIGURE):
        log_curve(tracker, run_id, points, found, title)
    return {
        "metrics": dict(found.metrics),
        "outputs": {output: dict(values) for output, values in found.outputs.items()},
        "beta": found.beta,
        "best_possible": dict(found.best_possible),
        "disjoint": dict(found.disjoint),
        "bootstrap": intervals,
        "epochs": found.epochs,
        "test_openings": found.test_openings,
    }


def log_curve(tracker: Tracker, run_id: str, points: pd.DataFrame, found: StageTwo, title: str) -> None:
    """Log the seen-unseen curve as a figure."""
    from benchmark.figures.curves import seen_unseen_figure  # matplotlib takes half a second

    chosen = (found.metrics["unseen"], found.metrics["seen"])
    draw = partial(seen_unseen_figure, points, chosen, found.beta, title)
    log_drawn(tracker, run_id, draw, Artifact.CURVE_FIGURE)


def log_drawn(tracker: Tracker, run_id: str, draw: Callable[[], Figure], file: str) -> None:
    """Draw a figure and log it, in matplotlib's default style."""
    from benchmark.figures.style import default_style, drawn

    with default_style():
        tracker.log_figure(run_id, drawn(draw), file)


def log_map(tracker: Tracker, run_id: str, found: Inspection) -> None:
    """Log the map of the embeddings, if there are any, so that reports need not compute its layout.

    The layout takes seconds and 100 MiB, so peak memory is measured before. It starts from the logged,
    rounded embeddings.
    """
    if found.embedding is None:
        return
    from benchmark.figures.embedding_layout import flat_map

    text = tracker.read_text(run_id, Artifact.EMBEDDING)
    flat = flat_map(pd.read_csv(io.StringIO(text), keep_default_na=False))
    if flat is not None:
        tracker.log_text(run_id, flat.to_csv(index=False), Artifact.EMBEDDING_MAP)


def embedding_csv(found: EmbeddingMap, names: Mapping[int, str]) -> str:
    """``embedding_frame`` as text, four significant digits."""
    return str(embedding_frame(found, names).to_csv(index=False, float_format="%.4g"))


def embedding_frame(found: EmbeddingMap, names: Mapping[int, str]) -> pd.DataFrame:
    """A row per embedding: ``kind`` (sample or class), ``class``, ``group`` (seen or unseen), and ``e0``,
    ``e1``, ...

    Args:
        names: of class ids.
    """
    values = np.concatenate([found.samples, found.classes])
    ids = np.concatenate([found.labels, found.class_ids])
    labels = pd.DataFrame(
        {
            "kind": np.repeat(["sample", "class"], [len(found.samples), len(found.classes)]),
            "class": [names[int(c)] for c in ids],
            "group": np.where(np.isin(ids, found.seen_ids), "seen", "unseen"),
        }
    )
    return pd.concat([labels, pd.DataFrame(values).add_prefix("e")], axis=1)


def _bootstrap(groups: Mapping[str, Any], seed: int) -> dict[str, float]:
    """``<metric>_low`` and ``<metric>_high``: 95 % intervals over groups of test samples, fractions."""
    found = bootstrap_intervals([groups["classes"]], seed=seed)
    return {
        f"{name}_{end}": value
        for name, ends in found.items()
        for end, value in zip(("low", "high"), ends, strict=True)
    }
