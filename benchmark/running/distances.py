"""Tests the distances of any model under the protocol."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from benchmark.data.arrays import as_array, as_list, numbers
from benchmark.errors import UsageError
from benchmark.protocol.evaluation import Calibration, Nearest
from benchmark.system import arguments
from benchmark.tracking.schema import METRIC_LABELS

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
    beta = arguments.number("evaluate: beta", beta)
    if calibrate_on is not None:
        if not isinstance(calibrate_on, (tuple, list)) or len(calibrate_on) != 4:
            wanted = "(distances, labels, class ids, seen classes) of validation samples"
            raise arguments.refuse("evaluate: calibrate_on", wanted, calibrate_on)
        if beta != 0:
            raise UsageError(f"evaluate: calibrate_on chooses beta: omit beta (got {beta:g})")
    exact = calibration == "exact"
    test = _nearest("distances", distances, labels, class_ids, seen, exact=exact)
    if calibrate_on is not None:
        validation = {"": _nearest("calibrate_on", *calibrate_on, exact=exact)}
        beta = Calibration.choose(validation, "", exact=exact, mean_of_outputs=False).beta
    scores = {**test.at(beta, exact=exact).as_dict(), "ausuc": test.curve().ausuc}
    percent = {label: 100 * scores[name] for name, label in METRIC_LABELS.items()}
    return pd.Series({**percent, "beta": beta})


def _nearest(
    what: str, distances: ArrayLike, labels: ArrayLike, ids: ArrayLike, seen: ArrayLike, *, exact: bool
) -> Nearest:
    """The distances of samples to classes in the order of their ids, checked."""
    table = numbers(f"evaluate: {what}", distances, np.float64 if exact else np.float32)
    given_ids = _ids("evaluate: class_ids", ids)
    known, order = np.unique(given_ids, return_index=True)
    if table.ndim != 2 or not len(known) == len(given_ids) == table.shape[1]:
        raise UsageError(
            f"evaluate: {what} must be [N, C] with a column for each of C different class ids "
            f"(got {list(table.shape)} and {len(known)} different ids)"
        )

    def indices(name: str, values: ArrayLike) -> NDArray[np.int64]:
        given = _ids(f"evaluate: {name} of {what}", values)
        if given.dtype == bool and known.dtype != bool:
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
        columns: NDArray[Any] = table[:, order]
        found = Nearest.of(columns, np.arange(len(known)), seen_ids, label)
    except ValueError as error:
        raise UsageError(f"evaluate: {what}: {error}") from None
    if found.is_seen.all() or not found.is_seen.any():
        raise UsageError(f"evaluate: {what} needs samples of seen and of unseen classes")
    return found


def _ids(what: str, values: ArrayLike) -> NDArray[Any]:
    """Class ids, all numbers or all texts.

    NumPy would turn the numbers of a mixed list into texts, and compare None with nothing.
    """
    given = as_array(what, values)
    if given.ndim != 1:
        raise UsageError(f"{what} must be a list of class ids (got an array {list(given.shape)})")
    texts = sum(isinstance(one, str) for one in as_list(what, values))
    if texts not in (0, len(given)) or (not texts and given.dtype.kind not in "iufb"):
        raise UsageError(f"{what} must be all numbers or all texts")
    return given.astype(str) if texts else given
