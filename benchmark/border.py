"""Checks what a method gives back, once, where it enters the harness.

Each error names the method, its file, what was expected and what came.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.errors import JobError
from benchmark.method import Embeddings, EpochRecord, FitResult, Method

METRIC_NAME = re.compile(r"\w[\w\-. :]*")
"""Names that MLflow takes for a metric."""
FRAMES = "frames_behind"
"""Attribute of an error that came through a ``seal.Window``: where it arose, in words."""


def file_of(method: type[Method]) -> str:
    """The file that a method is written in, shortened where it lies in the project; its module where there is no file."""
    try:
        path = Path(inspect.getsourcefile(method) or method.__module__)
    except TypeError:
        return method.__module__
    project = Path(__file__).resolve().parents[1]
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def place_of(error: BaseException, method: type[Method]) -> str:
    """Where in a method's own file an error arose: ``loss, methods/tcaf.py:71``; empty where no frame is of that file."""
    try:
        own = inspect.getsourcefile(method)
    except TypeError:
        return ""
    behind: Sequence[traceback.FrameSummary] = getattr(error, FRAMES, ())
    frames = [frame for frame in (*traceback.extract_tb(error.__traceback__), *behind) if frame.filename == own]
    return f"{frames[-1].name}, {file_of(method)}:{frames[-1].lineno}" if frames else ""


def shown(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(repr, list(value)[:6]))}" if value else "an empty dict"
    if value is None or isinstance(value, (bool, int, float, str)):
        return f"{value!r:.60}"
    return f"{type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (list, tuple)) else "")


def _refuse(method: type[Method], hook: str, expected: str, got: str) -> JobError:
    return JobError(f"{method.title} ({file_of(method)}): {hook} must return {expected}, got {got}")


def checked_losses(method: Method, losses: Any) -> dict[str, Tensor]:
    """What ``loss`` returned.

    Raises:
        JobError: it is no dict of scalar tensors with ``total``, or ``total`` leads to no parameter.
    """
    cls, hook = type(method), "loss"
    if not isinstance(losses, Mapping) or "total" not in losses:
        raise _refuse(cls, hook, "a dict of scalar tensors with 'total'", shown(losses))
    for name, value in losses.items():
        if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
            raise _refuse(cls, hook, "names of letters, digits, spaces and _ - . :", shown(name))
        if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
            raise _refuse(cls, f"{hook}: {name!r}", "a scalar tensor (shape [])", shown(value))
    if not losses["total"].requires_grad:
        raise _refuse(cls, f"{hook}: 'total'", "a tensor that depends on a parameter", "one without a gradient")
    return dict(losses)


def checked_optimizer(method: Method, optimizer: Any) -> torch.optim.Optimizer:
    """What ``optimizer`` returned.

    Raises:
        JobError: it is no optimiser.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise _refuse(type(method), "optimizer", "a torch.optim.Optimizer", shown(optimizer))
    return optimizer


def checked_embeddings(method: Method, embeddings: Any, size: int) -> Embeddings:
    """What ``embed`` returned for a batch of ``size`` samples.

    Raises:
        JobError: it is no ``Embeddings``, or a view or the gate has not a row per sample.
    """
    cls, hook = type(method), "embed"
    if not isinstance(embeddings, Embeddings):
        raise _refuse(cls, hook, "an Embeddings", shown(embeddings))
    if not isinstance(embeddings.views, Mapping) or not embeddings.views:
        raise _refuse(cls, hook, "an Embeddings with at least one view", shown(embeddings.views))
    rows = [(f"view {name!r}", x, f"[{size}, d]") for name, x in embeddings.views.items()]
    if embeddings.gate is not None:
        rows.append(("gate", embeddings.gate, f"[{size}]"))
    for what, x, shape in rows:
        if not isinstance(x, Tensor) or x.dim() == 0 or len(x) != size or (what != "gate" and x.dim() < 2):
            raise _refuse(cls, f"{hook}: {what}", f"a tensor {shape}, a row per sample", shown(x))
    return embeddings


def checked_classes(method: Method, embedded: Any, count: int) -> Tensor:
    """What ``embed_classes`` returned for ``count`` classes.

    Raises:
        JobError: it is no tensor with a row per class.
    """
    if not isinstance(embedded, Tensor) or embedded.dim() < 2 or len(embedded) != count:
        raise _refuse(type(method), "embed_classes", f"a tensor [{count}, d], a row per class", shown(embedded))
    return embedded


def checked_distances(method: Method, distances: Any, size: int, count: int) -> dict[str, Tensor]:
    """What ``distances`` returned for ``size`` samples and ``count`` classes, as plain tensors.

    Raises:
        JobError: it is no dict of tensors ``[size, count]``, lacks the reported view, or holds values that are not finite.
    """
    cls, hook = type(method), "distances"
    if not isinstance(distances, Mapping) or method.reported_view not in distances:
        raise _refuse(cls, hook, f"a dict with the reported view {method.reported_view!r}", shown(distances))
    found = {view: _plain(x) if isinstance(x, Tensor) else x for view, x in distances.items()}
    for view, x in found.items():
        if not isinstance(view, str) or not METRIC_NAME.fullmatch(view):
            raise _refuse(cls, hook, "names of views of letters, digits, spaces and _ - . :", shown(view))
        if not isinstance(x, Tensor) or tuple(x.shape) != (size, count):
            raise _refuse(cls, f"{hook}: view {view!r}", f"a tensor [{size}, {count}] (samples, classes)", shown(x))
        broken = int((~torch.isfinite(x)).sum())
        if broken:
            raise _refuse(cls, f"{hook}: view {view!r}", "finite numbers", f"{broken} of {x.numel()} that are not")
    return found


def _plain(x: Tensor) -> Tensor:
    """A tensor without the code of a subclass, which would go on to run where distances are compared with labels."""
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(Tensor.detach(x), Tensor)


def checked_fit(method: Method, result: Any) -> FitResult:
    """What ``fit`` returned.

    Raises:
        JobError: it is no ``FitResult`` of at least one epoch with a best one among them.
    """
    cls, hook = type(method), "fit"
    if not isinstance(result, FitResult):
        raise _refuse(cls, hook, "the FitResult of loop.run, or one of its own", shown(result))
    history = result.history
    if not isinstance(history, Sequence) or not history or not all(isinstance(r, EpochRecord) for r in history):
        raise _refuse(cls, f"{hook}: history", "an EpochRecord for each epoch, at least one", shown(history))
    if not isinstance(result.best_epoch, int) or not 0 <= result.best_epoch < len(history):
        raise _refuse(cls, f"{hook}: best_epoch", f"an epoch from 0 to {len(history) - 1}", shown(result.best_epoch))
    chosen = result.best_calibration
    if not isinstance(chosen, Mapping) or not {"beta", "rule", "per_view"} <= chosen.keys():
        raise _refuse(
            cls, f"{hook}: best_calibration", "the calibration that data.validate gave for the best epoch", shown(chosen)
        )
    return result
