"""Compares two methods, seed by seed."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from benchmark.errors import UsageError, near
from benchmark.report.frames import ROW
from benchmark.report.tables.means import LABELS
from benchmark.system import arguments
from benchmark.uncertainty import FEWEST_SEEDS, mean_interval, p_value


@dataclass(frozen=True)
class Comparison:
    """Two methods, seed by seed. Differences are in percentage points, the first method minus the second.

    Attributes:
        method: the first method.
        other: the second method.
        metric: S, U, HM, ZSL or AUSUC.
        differences: by seed.
        mean: of the differences.
        low: lower end of the 95 % t-interval of the mean; None if nothing can be inferred.
        high: upper end of this interval, or None.
        p: two-sided p-value of the paired t-test, not corrected for several comparisons; or None.
        note: why nothing can be inferred, or empty.
    """

    method: str
    other: str
    metric: str
    differences: pd.Series
    mean: float
    low: float | None
    high: float | None
    p: float | None
    note: str

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
        method: name of the first method.
        other: name of the second method.
        metric: S, U, HM, ZSL or AUSUC.

    Returns:
        Without interval and p-value below 5 seeds, and for tuned rows.

    Raises:
        UsageError: a method or seed is missing, or a method has several rows for a seed.
    """
    _check(frame, method, other, metric)
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


def _check(frame: object, method: object, other: object, metric: object) -> None:
    """Refuse arguments of another kind."""
    if not isinstance(frame, pd.DataFrame):
        wanted = "a frame such as result.metrics or load_results(); join several by pandas.concat"
        raise arguments.refuse("compare: frame", wanted, frame)
    for what, name in (("method", method), ("other", other)):
        arguments.text(f"compare: {what}", name, "the name of a method")
    if method == other:
        raise arguments.refuse("compare: other", f"another method than {method!r}", other)
    if metric not in LABELS.values():
        raise UsageError(f"compare: no metric {metric!r}: {near(str(metric), LABELS.values())}")
    columns = [*ROW, "study", "seed", "random_seed", str(metric)]
    if lacking := [name for name in columns if name not in frame.columns]:
        raise UsageError(
            f"compare: frame has no column {lacking[0]!r}: pass rows of result.metrics or load_results()"
        )
    if not pd.api.types.is_numeric_dtype(frame[metric]):
        raise UsageError(f"compare: column {metric!r} of frame must be numbers")


def _rows_of(frame: pd.DataFrame, method: str, metric: str) -> pd.DataFrame:
    """A method's rows, one for each seed."""
    rows = frame[frame["method"] == method].drop_duplicates().dropna(subset=[metric])
    if rows.empty:
        raise UsageError(
            f"compare: no rows of method {method!r}: {near(method, map(str, frame['method'].unique()))}"
        )
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
