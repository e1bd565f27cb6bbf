"""The study of a unit, and its record in the run of the method: result, trials, figures.

Reports read the record (``report/tables/studies.py``) without Optuna.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import pandas as pd

from benchmark.running.jobs import SEARCH_REPETITION, Unit
from benchmark.running.records import log_drawn
from benchmark.system.beside import Beside
from benchmark.tracking.schema import PARAMETER, Artifact, Tag
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.results import Importances, PastTrial, TuningResult
from benchmark.tuning.study import Study

COLUMNS = ["number", "state", "start", "value", "seconds", "epochs", "planned_epochs"]


def log_study(
    tracker: Tracker, run_id: str, study: Study, found: TuningResult, title: str, epochs: int, beside: Beside
) -> None:
    """Log a study that has used up its budget, unless this was done before.

    Args:
        run_id: of the method.
        title: heading of the figures.
        epochs: of a trial, if the study does not search them.
        beside: records failures of everything except the result.
    """
    tags = {Tag.TUNING_TRIALS: str(found.complete + found.pruned), Tag.TUNING_PRUNED: str(found.pruned)}
    before = tracker.get(run_id).tags
    if tags.items() <= before.items():
        return
    tracker.log_json(run_id, found.as_dict(), Artifact.TUNING)
    with beside(Artifact.TRIALS):
        trials = trials_frame(study.past_trials(), list(study.ranges), epochs, study.config.seeds)
        tracker.log_text(run_id, trials.to_csv(index=False), Artifact.TRIALS)
        with beside(Artifact.TUNING_FIGURE):
            _log_history(tracker, run_id, trials, title)
    with beside(Artifact.IMPORTANCES):
        importances = study.importances()
        tracker.log_json(run_id, asdict(importances), Artifact.IMPORTANCES)
        with beside(Artifact.IMPORTANCES_FIGURE):
            _log_importances(tracker, run_id, importances, title)
    tracker.tag(run_id, {**tags, **beside.tags(before)})  # last: the tags say that the rest is there


def log_confirmation(tracker: Tracker, run_id: str, found: TuningResult) -> None:
    """Log what the trainings with other seeds came to, unless this was done before.

    Args:
        run_id: of the method.
    """
    if found.confirmation is None:
        return
    tried, trainings = [c.number for c in found.confirmation.candidates], len(found.confirmation.seeds)
    text = f"trial {found.confirmation.number} of {tried}, {trainings} trainings each"
    if tracker.get(run_id).tags.get(Tag.TUNING_CONFIRMED) != text:
        tracker.log_json(run_id, found.as_dict(), Artifact.TUNING)
        tracker.tag(run_id, {Tag.TUNING_CONFIRMED: text})


def _log_history(tracker: Tracker, run_id: str, trials: pd.DataFrame, title: str) -> None:
    from benchmark.figures.searches import history_figure  # matplotlib takes half a second

    log_drawn(tracker, run_id, partial(history_figure, trials, title), Artifact.TUNING_FIGURE)


def _log_importances(tracker: Tracker, run_id: str, importances: Importances, title: str) -> None:
    from benchmark.figures.searches import Panel, importances_figure

    if importances.values:
        panel = Panel(f"{title}, {importances.trials} finished trials", importances.values)
        draw = partial(importances_figure, [panel], importances.evaluator)
        log_drawn(tracker, run_id, draw, Artifact.IMPORTANCES_FIGURE)


def trials_frame(
    trials: Sequence[PastTrial], parameters: Sequence[str], epochs: int, seeds: int
) -> pd.DataFrame:
    """A row per trial.

    Columns: ``number``; ``state`` (complete, pruned or failed); ``start``, whether it has the default
    hyperparameters; ``value``, its highest validation HM (a fraction, empty if no epoch was finished);
    ``seconds`` of its epochs with validation; ``epochs`` reached, of all its seeds; ``planned_epochs``;
    ``param.<name>`` for each hyperparameter.

    Args:
        epochs: of a training, if they are not searched.
        seeds: trainings of a trial.
    """
    rows = []
    for t in trials:
        planned = t.values.get("train.epochs", epochs) * seeds
        facts = [t.number, t.state, t.start, t.hm, round(t.seconds, 3), t.epochs, planned]
        rows.append([*facts, *(t.values.get(p) for p in parameters)])
    return pd.DataFrame(rows, columns=[*COLUMNS, *(PARAMETER + p for p in parameters)])


def study_of(unit: Unit, storage: str) -> Study:
    """The study of a unit.

    Its name depends on everything that changes a trial, and on nothing of the test splits.
    """
    ranges = unit.ranges
    start = unit.settings.searchable()
    identity = unit.job(1, SEARCH_REPETITION).identity()
    identity["tuning"] = unit.tuning.model_dump(exclude={"trials", "timeout", "confirm"})
    identity["ranges"] = {k: r.model_dump() for k, r in ranges.items()}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{unit.method.name} {unit.card.name}-{unit.features} {unit.mode} {digest}"
    return Study(name, storage, ranges, {key: start[key] for key in ranges}, unit.tuning)
