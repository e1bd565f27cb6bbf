"""The Python API: run methods, read results, compare methods, evaluate distances, make a dataset from arrays.

``import benchmark as gz`` offers all of it. S, U, HM, ZSL and AUSUC are in percent, as in the papers' tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from benchmark.cli.listing import settings_named
from benchmark.cli.options import existing_tracker_of, storage_of, tracker_of
from benchmark.cli.run import carry_out
from benchmark.cli.terminal import warn
from benchmark.cli.workers import Workers
from benchmark.data.arrays import from_arrays
from benchmark.errors import JobError, UsageError, near
from benchmark.method import Method
from benchmark.registry import load
from benchmark.report.frames import (
    ROW,
    ablation_frame,
    metrics_frame,
    recall_frame,
    summary_frame,
    summary_text,
)
from benchmark.report.paired import Comparison, compare
from benchmark.report.results.artifacts import artifact_frame
from benchmark.report.results.collect import Results, collect
from benchmark.report.write import write_report
from benchmark.running.benchmark_run import BASE_SEED
from benchmark.running.descriptions import command_of
from benchmark.running.distances import evaluate
from benchmark.running.from_python import asked_in_python, refuse_methods_of_notebooks
from benchmark.running.planning import make_plan, plan_notes
from benchmark.running.stores import Stores
from benchmark.system import arguments
from benchmark.system.surroundings import mlflow_settings_restored
from benchmark.tracking.benchmark_runs import ALL_RUNS
from benchmark.tracking.schema import Artifact

if TYPE_CHECKING:
    from benchmark.tracking.tracker import Tracker

__all__ = [
    "Comparison",
    "Result",
    "compare",
    "datasets",
    "describe",
    "evaluate",
    "load_results",
    "methods",
    "run",
]

Files = Path | str | Sequence[Path | str]


def run(
    methods: str | type[Method] | Sequence[str | type[Method]] = "all",
    dataset: str | Sequence[str] = "demo",
    *,
    features: str | None = None,
    mode: Literal["paper", "corrected", "both"] | None = None,
    seeds: int | None = None,
    base_seed: int = BASE_SEED,
    trials: int | None = None,
    settings: Mapping[str, Any] | None = None,
    controls: bool = False,
    ablate_protocol: str | Sequence[str] | None = None,
    ablate_parts: str | Sequence[str] | None = None,
    plugins: Files = (),
    dataset_configs: Files = (),
    jobs: int = 1,
    tracking: Path | str | None = None,
    data_root: Path | str = "data",
    progress: bool = True,
) -> Result:
    """Train, tune and test methods: what ``gzsl-bench run`` does.

    Args:
        methods: names, classes with ``@register``, or both; ``all`` for all methods.
        dataset: names of datasets or presets.
        features: the feature set; the dataset's default if None.
        mode: protocol of ``paper``, ``corrected`` or ``both``; the dataset's default if None.
        seeds: number of seeds; 1 or the preset's if None.
        base_seed: the seeds are derived from it.
        trials: tuning trials of each method, 0 for no tuning; 0 or the preset's if None.
        settings: settings to override, such as ``{"train.epochs": 2, "tcaf.lr": 1e-4}``.
        controls: whether to add the controls, which should be at chance.
        ablate_protocol: flags of the protocol to correct one at a time, starting from mode ``paper``;
            ``"all"`` for all of them (``Result.ablation``).
        ablate_parts: parts of the methods to leave out one at a time, or ``"all"``.
        plugins: Python files with more methods.
        dataset_configs: YAML files of more datasets.
        jobs: worker processes. With several, a script must start below ``if __name__ == "__main__"``.
        tracking: folder of the runs, such as ``"runs"``: a repeated call continues there and skips finished
            jobs, and ``gzsl-bench ui`` shows them. If None, the runs are deleted with the result. A class
            that a notebook defines is not kept, since what it needs may be in other cells.
        data_root: folder of the feature files.
        progress: whether to show progress.

    Raises:
        UsageError: a name, setting or option is wrong.
        JobError: no job gave a result.
        KeyboardInterrupt: the run was stopped. With ``tracking``, a repeated call continues it.
    """
    known = load(arguments.paths("run: plugins", plugins))
    asked = asked_in_python(
        known.methods,
        methods=methods,
        dataset=dataset,
        features=features,
        mode=mode,
        seeds=seeds,
        base_seed=base_seed,
        trials=trials,
        settings=settings,
        controls=controls,
        ablate_protocol=ablate_protocol,
        ablate_parts=ablate_parts,
        plugins=plugins,
        dataset_configs=dataset_configs,
    )
    workers = Workers(jobs=arguments.whole_number("run: jobs", jobs, 1))
    data_root = arguments.path("run: data_root", data_root, "a folder")
    kept_in = None if tracking is None else arguments.path("run: tracking", tracking, "a folder, or None")
    quiet = not arguments.flag("run: progress", progress)
    with mlflow_settings_restored():
        plan = make_plan(asked, known, data_root)
        if jobs > 1 or kept_in is not None:
            refuse_methods_of_notebooks(unit.method for unit in plan.units)
        for note in plan_notes(plan, known):
            warn(f"note: {note}")
        temporary = tempfile.TemporaryDirectory(prefix="gzsl-bench-") if kept_in is None else None
        folder = kept_in or Path(temporary.name if temporary else "")
        tracker = tracker_of(folder, None)
        stores = Stores(tracker, storage_of(folder, None), folder)
        done = carry_out(plan, stores, workers, data_root, command_of(asked), quiet=quiet)
        failed = [entry.failure for entry in done.failed]
        if len(done.failed) == len(done.entries):
            raise JobError("no job gave a result:\n" + "\n".join(failed))
        for line in failed:
            warn(line)
        return Result(tracker, done.run_id, failed, temporary)


class Result:
    """What ``run`` found. Its frames are made when they are asked for.

    Attributes:
        failed: a sentence for each job that failed or did not run.
    """

    def __init__(
        self,
        tracker: Tracker,
        run_id: str,
        failed: Sequence[str],
        kept: tempfile.TemporaryDirectory[str] | None,
    ) -> None:
        self.failed, self._tracker, self._run_id, self._kept = failed, tracker, run_id, kept

    @cached_property
    def _results(self) -> Results:
        with mlflow_settings_restored():
            return collect(self._tracker, [self._run_id])

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each test of a seed.

        Columns: method, dataset, features, mode, seed, S, U, HM, ZSL, AUSUC (percent), beta, settings
        (``default``, ``published``, ``user-set`` or ``tuned``, and what else differs), study (which of
        several searches), random_seed (what ``seed`` and the base seed give). ``seed`` counts from 0.
        """
        return metrics_frame(self._results).drop(columns="run_id")

    def summary(self) -> pd.DataFrame:
        """A row for each method: mean over seeds, and ``_low`` and ``_high`` of S, U, HM, ZSL and AUSUC.

        These are the 95 % t-interval of the mean. Below 5 seeds they are the lowest and the highest value.
        """
        return summary_frame(self.metrics)

    def curve(self, seed: int = 0, method: str | None = None, **chosen: str) -> pd.DataFrame:
        """The seen-unseen curve of one test: S and U (percent) by beta.

        Args:
            seed: number of the seed, from 0.
            method: needed if there are several.
            chosen: further columns of ``metrics``, such as ``settings="tuned"``.

        Raises:
            UsageError: none or several tests match.
        """
        wanted = {"seed": seed, **({} if method is None else {"method": method}), **chosen}
        rows = metrics_frame(self._results)
        for name, value in wanted.items():
            if name not in rows:
                raise UsageError(f"curve: no column {name!r}: {near(name, self.metrics.columns)}")
            rows = rows[rows[name] == value]
        if len(rows) != 1:
            found = self.metrics[[*ROW, "seed"]].to_string(index=False)
            raise UsageError(f"curve: {len(rows)} tests match {wanted}; choose one of\n{found}")
        curve = artifact_frame(self._tracker, rows["run_id"].iloc[0], Artifact.CURVE)
        if curve is None:
            raise UsageError("curve: this test did not log it")
        return pd.DataFrame({"beta": curve["beta"], "S": 100 * curve["seen"], "U": 100 * curve["unseen"]})

    def recall(self) -> pd.DataFrame:
        """A row for each test and class, with its recall in percent.

        ``recall`` is among all classes, ``recall_of_side`` among the seen or the unseen classes.
        """
        return recall_frame(self._results)

    def ablation(self) -> pd.DataFrame:
        """What correcting each protocol flag alone changes, in percentage points.

        A row per method and flag; ``all`` is mode ``corrected``. Differences are paired by seed. ``_low`` and
        ``_high`` are as in ``summary``.
        """
        return ablation_frame(self._results)

    def report(self, folder: Path | str) -> Path:
        """Write the report: ``report.md``, ``index.html``, tables as CSV and LaTeX, figures.

        Returns:
            The path of ``report.md``.
        """
        place = arguments.path("report: folder", folder, "a folder")
        with mlflow_settings_restored():
            return write_report(self._tracker, place, [self._run_id], say=warn).files[0]

    def __repr__(self) -> str:
        return summary_text(self.summary())


def load_results(tracking: Path | str = "runs") -> pd.DataFrame:
    """All finished tests of a folder of runs, with the columns of ``Result.metrics``.

    Of two tests with the same seed and settings the newer one counts.

    Raises:
        UsageError: the folder has no results.
    """
    folder = arguments.path("load_results: tracking", tracking, "a folder")
    with mlflow_settings_restored():
        results = collect(existing_tracker_of(folder, None), [ALL_RUNS])
        return metrics_frame(results).drop(columns="run_id")


def methods(plugins: Files = ()) -> pd.DataFrame:
    """The known methods: name, title, inputs (``sequence`` or ``mean``), paper, note."""
    found = load(arguments.paths("methods: plugins", plugins)).methods.values()
    names = ["name", "title", "inputs", "paper", "note"]
    return pd.DataFrame([[getattr(method, name) for name in names] for method in found], columns=names)


def describe(name: str, plugins: Files = ()) -> pd.DataFrame:
    """The settings of a method, or of ``train``, ``protocol``, ``lengths``, ``tuning`` or ``data``.

    Columns: name, default, allowed, description, search (the range that tuning searches).

    Raises:
        UsageError: nothing has this name.
    """
    wanted = arguments.text("describe: name", name, "the name of a method or section")
    found, _ = settings_named(load(arguments.paths("describe: plugins", plugins)), wanted)
    return pd.DataFrame([asdict(setting) for setting in found])


class datasets:  # noqa: N801 - a namespace: ``gz.datasets.from_arrays``
    """Datasets of one's own."""

    from_arrays = staticmethod(from_arrays)
