"""The Python API: run methods, read results, compare methods, evaluate distances, make a dataset from arrays.

``import benchmark as gz`` offers all of it. S, U, HM, ZSL and AUSUC are in percent, as in the papers' tables.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from benchmark.cli.listing import settings_named
from benchmark.cli.options import existing_tracker_of, storage_of, tracker_of
from benchmark.cli.run import carry_out
from benchmark.cli.terminal import warn
from benchmark.cli.workers import Workers
from benchmark.data.arrays import as_array, from_arrays
from benchmark.errors import JobError, UsageError, near, validation_message
from benchmark.method import Method
from benchmark.protocol.evaluation import Calibration, Nearest
from benchmark.registry import load, source_file
from benchmark.report.results.artifacts import artifact_frame
from benchmark.report.results.collect import Results, collect
from benchmark.report.tables.means import LABELS, ablation_effects
from benchmark.report.write import write_report
from benchmark.running.benchmark_run import BASE_SEED, BenchmarkRun
from benchmark.running.descriptions import command_of
from benchmark.running.planning import make_plan, plan_notes
from benchmark.running.stores import Stores
from benchmark.tracking.benchmark_runs import ALL_RUNS
from benchmark.tracking.schema import Artifact
from benchmark.uncertainty import FEWEST_SEEDS, mean_interval, p_value, spread

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
ENDS = ("", "_low", "_high")
ROW = ["method", "dataset", "features", "mode", "settings"]
"""What the seeds of a row of a table have in common."""


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
    if jobs < 1:
        raise UsageError(f"run: jobs must be at least 1 (got {jobs})")
    named = [methods] if isinstance(methods, (str, type)) else list(methods)
    known = load(_paths(plugins))
    for method in named:
        if not isinstance(method, str) and known.methods.get(getattr(method, "name", "")) is not method:
            raise UsageError(
                f"{getattr(method, '__name__', method)} is no registered method: decorate the class with "
                "@register(...), and pass it as it is now"
            )
    options = {
        "methods": ",".join(one if isinstance(one, str) else one.name for one in named),
        "dataset": dataset if isinstance(dataset, str) else ",".join(dataset),
        "features": features,
        "mode": mode,
        "seeds": seeds,
        "base_seed": base_seed,
        "trials": trials,
        "settings": [f"{name}={value}" for name, value in dict(settings or {}).items()],
        "controls": controls,
        "ablate": [ablate_protocol] if isinstance(ablate_protocol, str) else ablate_protocol,
        "plugins": _paths(plugins),
        "dataset_configs": _paths(dataset_configs),
    }
    try:
        asked = BenchmarkRun.model_validate(options)
    except ValueError as error:
        raise UsageError(validation_message(error, "run")) from None  # type: ignore[arg-type]
    with _surroundings():
        plan = make_plan(asked, known, Path(data_root))
        if jobs > 1 or tracking is not None:
            _check_files(unit.method for unit in plan.units)
        for note in plan_notes(plan, known):
            warn(f"note: {note}")
        kept = tempfile.TemporaryDirectory(prefix="gzsl-bench-") if tracking is None else None
        folder = Path(kept.name if kept is not None else str(tracking))
        tracker = tracker_of(folder, None)
        stores = Stores(tracker, storage_of(folder, None), folder)
        workers = Workers(jobs=jobs)
        done = carry_out(plan, stores, workers, Path(data_root), command_of(asked), quiet=not progress)
        failed = [f"{e.method}, seed {e.repetition}, stage {e.stage}: {e.error}" for e in done.failed]
        if len(done.failed) == len(done.entries):
            raise JobError("no job gave a result:\n" + "\n".join(failed))
        for line in failed:
            warn(f"failed: {line}")
        return Result(tracker, done.run_id, failed, kept)


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
        with _surroundings():
            return collect(self._tracker, [self._run_id])

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each test of a seed.

        Columns: method, dataset, features, mode, seed, S, U, HM, ZSL, AUSUC (percent), beta, settings
        (``default``, ``published``, ``user-set`` or ``tuned``, and what else differs), study (which of
        several searches), random_seed (what ``seed`` and the base seed give). ``seed`` counts from 0.
        """
        return self._tests.drop(columns="run_id")

    @property
    def _tests(self) -> pd.DataFrame:
        return _metrics(self._results)

    def summary(self) -> pd.DataFrame:
        """A row for each method: mean over seeds, and ``_low`` and ``_high`` of S, U, HM, ZSL and AUSUC.

        These are the 95 % t-interval of the mean. Below 5 seeds they are the lowest and the highest value.
        """
        rows = []
        for key, group in self.metrics.groupby(ROW, sort=False):
            row: dict[str, Any] = {**dict(zip(ROW, key, strict=True)), "seeds": len(group)}
            for name in LABELS.values():
                low, high = spread(group[name])
                row |= {name: group[name].mean(), f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

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
        rows = self._tests
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
        found = self._results.recall.merge(self._tests)
        percent = {"recall": 100 * found["gzsl"], "recall_of_side": 100 * found["own_group"]}
        columns = [*ROW, "seed", "class", "group", "recall", "recall_of_side", "samples"]
        return found.assign(**percent)[columns]

    def ablation(self) -> pd.DataFrame:
        """What correcting each protocol flag alone changes, in percentage points.

        A row per method and flag; ``all`` is mode ``corrected``. Differences are paired by seed. ``_low`` and
        ``_high`` are as in ``summary``.
        """
        found = ablation_effects(self._results.ablation)
        found = found[found["ablation"] != ""].rename(columns={"ablation": "flag"})
        effects = {f"{m}_effect{end}": label + end for m, label in LABELS.items() for end in ENDS}
        columns = ["method", "dataset", "features", "flag", "seeds", *effects]
        return found[columns].rename(columns=effects).reset_index(drop=True)

    def report(self, folder: Path | str) -> Path:
        """Write the report: ``report.md``, ``index.html``, tables as CSV and LaTeX, figures.

        Returns:
            The path of ``report.md``.
        """
        with _surroundings():
            return write_report(self._tracker, Path(folder), [self._run_id], say=warn).files[0]

    def __repr__(self) -> str:
        table = self.summary()
        if table.empty:
            return "Result without a test"
        same = [name for name in ROW[1:] if table[name].nunique() == 1]
        shown = table[[name for name in [*ROW, "seeds"] if name not in same]].copy()
        for name in LABELS.values():
            shown[name] = table[name].map("{:.2f}".format)
            if name in ("HM", "ZSL") and table["seeds"].max() > 1:
                ends = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
                shown[name] += [f" [{low:.2f}, {high:.2f}]" for low, high in ends]
        enough = table["seeds"].min() >= FEWEST_SEEDS
        note = "95 % interval of the mean" if enough else "lowest and highest seed"
        about = ", ".join(f"{name} {table[name].iloc[0]}" for name in same) + "; percent"
        about += f", [{note}]" if table["seeds"].max() > 1 else ""
        return f"{about}\n{shown.to_string(index=False)}"


def load_results(tracking: Path | str = "runs") -> pd.DataFrame:
    """All finished tests of a folder of runs, with the columns of ``Result.metrics``.

    Of two tests with the same seed and settings the newer one counts.

    Raises:
        UsageError: the folder has no results.
    """
    with _surroundings():
        results = collect(existing_tracker_of(Path(tracking), None), [ALL_RUNS])
        return _metrics(results).drop(columns="run_id")


def _metrics(results: Results) -> pd.DataFrame:
    """``Result.metrics``, and ``run_id``."""
    done = results.test[results.test["state"] == "done"].reset_index(drop=True)
    frame = done[["run_id", "method", "dataset", "features", "mode"]].assign(seed=done["repetition"])
    for name, label in LABELS.items():
        frame[label] = 100 * done[name].astype(float)
    settings = (done["variant"] + " " + done["settings"]).str.strip()
    return frame.assign(beta=done["beta"], settings=settings, study=done["study"], random_seed=done["seed"])


@dataclass(frozen=True)
class Comparison:
    """Two methods, seed by seed. Differences are in percentage points, the first method minus the second."""

    method: str
    other: str
    metric: str
    differences: pd.Series
    """By seed."""
    mean: float
    low: float | None
    """Ends of the 95 % t-interval of the mean difference; None if nothing can be inferred."""
    high: float | None
    p: float | None
    """Two-sided p-value of the paired t-test, not corrected for several comparisons; or None."""
    note: str
    """Why nothing can be inferred, or empty."""

    def __str__(self) -> str:
        seeds = len(self.differences)
        shown = f"{self.metric} of {self.method} - {self.other}: {self.mean:+.2f} over {seeds} seeds"
        if self.p is None:
            return f"{shown}. {self.note}"
        return f"{shown} (95 % interval {self.low:+.2f} to {self.high:+.2f}, p = {self.p:.3g})"


def compare(frame: pd.DataFrame, method: str, other: str, *, metric: str = "HM") -> Comparison:
    """Compare two methods, paired by seed: a seed gives both the same batches.

    Args:
        frame: rows of ``Result.metrics`` or ``load_results``, or several of these together.

    Returns:
        Without interval and p-value below 5 seeds, and for tuned rows.

    Raises:
        UsageError: a method or seed is missing, or a method has several rows for a seed.
    """
    if metric not in LABELS.values():
        raise UsageError(f"compare: no metric {metric!r}: {near(metric, LABELS.values())}")
    one, two = (_rows_of(frame, name, metric) for name in (method, other))
    for name in ("dataset", "features", "mode"):
        if one[name].iloc[0] != two[name].iloc[0]:
            pair = f"{method} {one[name].iloc[0]}, {other} {two[name].iloc[0]}"
            raise UsageError(f"compare: the methods differ in {name} ({pair})")
    joined = one.merge(two, on=["seed", "random_seed"])
    differences = pd.Series(
        (joined[f"{metric}_x"] - joined[f"{metric}_y"]).to_numpy(), joined["seed"], name=metric
    )
    if differences.empty:
        raise UsageError(f"compare: {method} and {other} have no seed in common")
    note = ""
    if any(rows["settings"].str.startswith("tuned").any() for rows in (one, two)):
        note = "Nothing is inferred: a tuned row is from one search, whose scatter is not known."
    elif len(differences) < FEWEST_SEEDS:
        note = f"Nothing is inferred from fewer than {FEWEST_SEEDS} seeds."
    low, high = (None, None) if note else mean_interval(differences)
    p = None if note else p_value(differences)
    return Comparison(method, other, metric, differences, float(differences.mean()), low, high, p, note)


def _rows_of(frame: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """A method's rows, one for each seed."""
    rows = frame[frame["method"] == method].drop_duplicates().dropna(subset=[metric])
    if rows.empty:
        raise UsageError(f"compare: no rows of method {method!r}: {near(method, frame['method'].unique())}")
    several = [name for name in (*ROW[1:], "study") if rows[name].nunique() > 1]
    if several:
        values = rows[several[0]].unique().tolist()
        raise UsageError(
            f"compare: the rows of {method} differ in {several[0]} ({', '.join(map(str, values))}); "
            f"choose one, such as frame[frame[{several[0]!r}] == {values[0]!r}]"
        )
    if rows.duplicated(["seed", "random_seed"]).any():
        raise UsageError(f"compare: {method} has several rows for a seed")
    return rows


Distances = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]


def evaluate(
    distances: ArrayLike,
    labels: ArrayLike,
    class_ids: ArrayLike,
    *,
    seen: ArrayLike,
    calibrate_on: Distances | None = None,
    calibration: Literal["exact", "grid"] = "exact",
    beta: float = 0.0,
) -> pd.Series:
    """S, U, HM, ZSL and AUSUC of any model's distances under this protocol. Arrays or tensors are accepted.

    Args:
        distances: ``[N, C]`` distances of test samples to classes; the smallest one is the prediction.
        labels: ``[N]`` the class of each sample.
        class_ids: ``[C]`` the class of each column, numbers or names, in any order.
        seen: classes of ``class_ids`` that are seen; the others are unseen.
        calibrate_on: distances, labels, class ids and seen classes of validation samples, on which beta is
            chosen. Never give test samples here.
        calibration: ``exact``, or ``grid``: the published grid of 0, 0.2, ..., 3.
        beta: added to the distances of seen classes if ``calibrate_on`` is None.

    Returns:
        S, U, HM, ZSL, AUSUC (percent) and beta.

    Raises:
        UsageError: sizes do not fit, an id is unknown, a value is not finite, or there is no seen or unseen
            class.
    """
    if calibration not in ("exact", "grid"):
        raise UsageError(f"evaluate: calibration must be exact or grid (got {calibration!r})")
    if calibrate_on is not None and (beta != 0 or len(calibrate_on) != 4):
        raise UsageError(
            "evaluate: calibrate_on is (distances, labels, class ids, seen), and chooses beta: omit beta"
        )
    if not isinstance(beta, (int, float)) or not np.isfinite(beta):
        raise UsageError(f"evaluate: beta must be a finite number (got {beta!r})")
    exact = calibration == "exact"
    test = _nearest("distances", distances, labels, class_ids, seen, exact=exact)
    if calibrate_on is not None:
        validation = {"": _nearest("calibrate_on", *calibrate_on, exact=exact)}
        beta = Calibration.choose(validation, "", exact=exact, mean_of_outputs=False).beta
    scores = {**test.at(beta, exact=exact).as_dict(), "ausuc": test.curve().ausuc}
    percent = {label: 100 * scores[name] for name, label in LABELS.items()}
    return pd.Series({**percent, "beta": beta})


def _nearest(
    what: str, distances: ArrayLike, labels: ArrayLike, ids: ArrayLike, seen: ArrayLike, *, exact: bool
) -> Nearest:
    table, given_ids = as_array(f"evaluate: {what}", distances), as_array("evaluate: class_ids", ids)
    try:
        known, order = np.unique(given_ids, return_index=True)
    except TypeError:
        raise UsageError("evaluate: class_ids must be all numbers or all texts") from None
    if given_ids.ndim != 1 or table.ndim != 2 or not len(known) == len(given_ids) == table.shape[1]:
        raise UsageError(
            f"evaluate: {what} must be [N, C] with a column for each of C different class ids "
            f"(got {list(table.shape)} and {len(known)} different ids)"
        )

    def indices(name: str, values: ArrayLike) -> NDArray[np.int64]:
        given = as_array(f"evaluate: {name}", values)
        if given.ndim != 1 or (given.dtype == bool and known.dtype != bool):
            raise UsageError(
                f"evaluate: {name} of {what} must be a list of class ids, such as class_ids[mask]"
            )
        if unknown := given[~np.isin(given, known)].tolist():
            raise UsageError(f"evaluate: {unknown[0]!r} in {name} of {what} is not in class_ids")
        return np.searchsorted(known, given).astype(np.int64)

    label, seen_ids = indices("labels", labels), np.unique(indices("seen", seen))
    if len(label) != len(table):
        raise UsageError(f"evaluate: {what} has {len(table)} rows for {len(label)} labels")
    try:
        columns: NDArray[Any] = table[:, order].astype(np.float64 if exact else np.float32)
        found = Nearest.of(columns, np.arange(len(known)), seen_ids, label)
    except ValueError as error:
        raise UsageError(f"evaluate: {what}: {error}") from None
    if found.is_seen.all() or not found.is_seen.any():
        raise UsageError(f"evaluate: {what} needs samples of seen and of unseen classes")
    return found


def methods(plugins: Files = ()) -> pd.DataFrame:
    """The known methods: name, title, inputs (``sequence`` or ``mean``), paper, note."""
    found = load(_paths(plugins)).methods.values()
    names = ["name", "title", "inputs", "paper", "note"]
    return pd.DataFrame([[getattr(method, name) for name in names] for method in found], columns=names)


def describe(name: str, plugins: Files = ()) -> pd.DataFrame:
    """The settings of a method, or of ``train``, ``protocol``, ``lengths``, ``tuning`` or ``data``.

    Columns: name, default, allowed, description, search (the range that tuning searches).

    Raises:
        UsageError: nothing has this name.
    """
    found, _ = settings_named(load(_paths(plugins)), str(name))
    return pd.DataFrame([asdict(setting) for setting in found])


class datasets:  # noqa: N801 - a namespace: ``gz.datasets.from_arrays``
    """Datasets of one's own."""

    from_arrays = staticmethod(from_arrays)


def _check_files(chosen: Iterator[type[Method]]) -> None:
    for method in chosen:
        if source_file(method) is None:
            raise UsageError(
                f"{method.title} is defined in a notebook: use jobs=1 and tracking=None, or write it to a "
                "file and pass plugins=[FILE]"
            )


def _paths(files: Files) -> list[Path]:
    return [Path(files)] if isinstance(files, (str, Path)) else [Path(file) for file in files]


@contextmanager
def _surroundings() -> Iterator[None]:
    """Restore the environment afterwards: MLflow's variables of the user do not apply to our stores."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in [name for name in {*os.environ, *before} if name.startswith("MLFLOW_")]:
            os.environ.pop(name, None)
            os.environ.update({name: before[name]} if name in before else {})
