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

from benchmark.running.jobs import Unit
from benchmark.running.records import log_drawn
from benchmark.system.beside import Beside
from benchmark.tracking.schema import PARAMETER, Artifact, Tag, of_study
from benchmark.tracking.tracker import Tracker
from benchmark.tuning.results import Importances, PastTrial, TuningResult
from benchmark.tuning.study import Study

COLUMNS = ["number", "state", "start", "value", "seconds", "epochs", "planned_epochs"]


def log_study(
    tracker: Tracker, run_id: str, study: Study, found: TuningResult, unit: Unit, epochs: int, beside: Beside
) -> None:
    """Log a study that has used up its budget, unless this was done before.

    Args:
        run_id: of the method.
        unit: what is tuned.
        epochs: of a training, if the study does not search them.
        beside: records failures of everything except the result.
    """
    named = partial(of_study, number=unit.study)
    tags = {
        named(Tag.TUNING_TRIALS): str(found.complete + found.pruned),
        named(Tag.TUNING_PRUNED): str(found.pruned),
    }
    before = tracker.get(run_id).tags
    if tags.items() <= before.items():
        return
    tracker.log_json(run_id, found.as_dict(), named(Artifact.TUNING))
    with beside(named(Artifact.TRIALS)):
        trials = trials_frame(study.past_trials(), list(study.ranges), epochs, study.config.seeds)
        tracker.log_text(run_id, trials.to_csv(index=False), named(Artifact.TRIALS))
        with beside(named(Artifact.TUNING_FIGURE)):
            _log_history(tracker, run_id, trials, unit)
    with beside(named(Artifact.IMPORTANCES)):
        importances = study.importances()
        tracker.log_json(run_id, asdict(importances), named(Artifact.IMPORTANCES))
        with beside(named(Artifact.IMPORTANCES_FIGURE)):
            _log_importances(tracker, run_id, importances, unit)
    tracker.tag(run_id, {**tags, **beside.tags(before)})  # last: the tags say that the rest is there


def log_confirmation(tracker: Tracker, run_id: str, found: TuningResult, number: int) -> None:
    """Log what the trainings with other seeds came to, unless this was done before.

    Args:
        run_id: of the method.
        number: of the search.
    """
    if found.confirmation is None:
        return
    tried, trainings = [c.number for c in found.confirmation.candidates], len(found.confirmation.seeds)
    text = f"trial {found.confirmation.number} of {tried}, {trainings} trainings each"
    tag = of_study(Tag.TUNING_CONFIRMED, number)
    if tracker.get(run_id).tags.get(tag) != text:
        tracker.log_json(run_id, found.as_dict(), of_study(Artifact.TUNING, number))
        tracker.tag(run_id, {tag: text})


def _log_history(tracker: Tracker, run_id: str, trials: pd.DataFrame, unit: Unit) -> None:
    from benchmark.figures.searches import history_figure  # matplotlib takes half a second

    name = of_study(Artifact.TUNING_FIGURE, unit.study)
    log_drawn(tracker, run_id, partial(history_figure, trials, unit.title), name)


def _log_importances(tracker: Tracker, run_id: str, importances: Importances, unit: Unit) -> None:
    from benchmark.figures.searches import Panel, importances_figure

    if importances.values:
        panel = Panel(f"{unit.title}, {importances.trials} finished trials", importances.values)
        draw = partial(importances_figure, [panel], importances.evaluator)
        log_drawn(tracker, run_id, draw, of_study(Artifact.IMPORTANCES_FIGURE, unit.study))


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
    identity = unit.job(1, unit.searching[0]).identity()
    identity["tuning"] = unit.tuning.model_dump(exclude={"trials", "timeout", "confirm"})
    identity["ranges"] = {k: r.model_dump() for k, r in ranges.items()}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    name = f"{unit.method.name} {unit.card.name}-{unit.features} {unit.mode} {digest}"
    return Study(name, storage, ranges, {key: start[key] for key in ranges}, unit.tuning)
