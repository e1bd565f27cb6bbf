"""What a study leaves in the tracking store, in the run of its method: result, trials, importances, figures.

Names of artifacts and columns stand here; reports read them (``report/studies.py``) without Optuna.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from benchmark.tracking import Tracker
from benchmark.tuning import PastTrial, Study, TuningResult

TRIALS, IMPORTANCES, RESULT = "trials.csv", "importances.json", "tuning.json"
COLUMNS = ["number", "state", "start", "value", "seconds", "epochs", "planned_epochs"]
PARAMETER = "param."
"""Stands before the names of searched settings, so that none is taken for another column."""


def log_study(tracker: Tracker, run_id: str, study: Study, found: TuningResult, title: str, epochs: int, method: str) -> None:
    """Log a study that has used up its budget, unless that was done before.

    Args:
        run_id: of the method.
        title: heading of the figures.
        epochs: of a trial, where the study does not search them.
        method: its name, by which figures have their colours.
    """
    tags = {"tuning.trials": str(found.complete + found.pruned), "tuning.pruned": str(found.pruned)}
    if tags.items() <= tracker.get(run_id).tags.items():
        return
    from benchmark.report.figures import as_written
    from benchmark.report.published import method_number
    from benchmark.report.study_figures import Panel, history_figure, importances_figure  # matplotlib takes half a second

    tracker.log_json(run_id, found.as_dict(), RESULT)
    trials, importances = trials_frame(study.past_trials(), list(study.ranges), epochs), study.importances()
    tracker.log_text(run_id, trials.to_csv(index=False), TRIALS)
    tracker.log_json(run_id, asdict(importances), IMPORTANCES)
    tracker.log_figure(run_id, as_written(history_figure(trials, title, method_number(method))), "tuning-history.png")
    if importances.values:
        panel = Panel(f"{title}, {importances.trials} finished trials", importances.values, method_number(method))
        tracker.log_figure(run_id, as_written(importances_figure([panel], importances.evaluator)), "importances.png")
    tracker.tag(run_id, **tags)  # last: it says that the rest is there


def trials_frame(trials: Sequence[PastTrial], parameters: Sequence[str], epochs: int) -> pd.DataFrame:
    """A row per trial.

    Columns: ``number``; ``state`` (complete, pruned or failed); ``start``, whether it has the starting settings; ``value``, its
    highest validation HM, fraction, missing where no epoch was finished; ``seconds`` of its epochs, validation included;
    ``epochs`` reached; ``planned_epochs``; and ``param.<setting>`` for each searched setting.

    Args:
        epochs: of a trial, where they are not searched.
    """
    rows = []
    for t in trials:
        planned = t.values.get("train.epochs", epochs)
        facts = [t.number, t.state, t.start, t.hm, round(t.seconds, 3), t.epochs, planned]
        rows.append([*facts, *(t.values.get(p) for p in parameters)])
    return pd.DataFrame(rows, columns=[*COLUMNS, *(PARAMETER + p for p in parameters)])
