"""Checks what the functions of a method return, where it enters the harness.

Each error names the method, its file, what was expected, and what it got.
"""

from __future__ import annotations

import inspect
import math
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from benchmark.errors import JobError
from benchmark.method import Embeddings, EpochRecord, FitResult, Method
from benchmark.system.shipped_files import PACKAGE

if TYPE_CHECKING:
    from benchmark.method import Validation

METRIC_NAME, NAME_RULE = (
    re.compile(r"\w[\w\-. :]{0,99}"),
    "names of letters, digits, spaces and _ - . :, 100 at most",
)
"""Names that MLflow accepts for a metric."""
FRAMES = "frames_behind"
"""Attribute of an error that came through a ``seal.Window``: the frames where it was raised, as text."""


def file_of(method: type[Method]) -> str:
    """The source file of a method, relative to the project if inside; its module if there is none."""
    try:
        path = Path(inspect.getsourcefile(method) or method.__module__)
    except TypeError:
        return method.__module__
    project = PACKAGE.parent
    return str(path.relative_to(project)) if path.is_relative_to(project) else str(path)


def place_of(error: BaseException, method: type[Method]) -> str:
    """Where in a method's own file an error was raised, ``loss, methods/tcaf.py:71``; else empty."""
    try:
        own = inspect.getsourcefile(method)
    except TypeError:
        return ""
    behind: Sequence[traceback.FrameSummary] = getattr(error, FRAMES, ())
    frames = [
        frame for frame in (*traceback.extract_tb(error.__traceback__), *behind) if frame.filename == own
    ]
    return f"{frames[-1].name}, {file_of(method)}:{frames[-1].lineno}" if frames else ""


def shown(value: Any) -> str:
    """A value in a few words, for messages."""
    if isinstance(value, Tensor):
        kind = "" if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} "
        where = " without storage (device meta)" if value.is_meta else ""
        return f"a {kind}tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}{where}"
    if isinstance(value, Mapping):
        return f"a dict with {', '.join(map(repr, list(value)[:6]))}" if value else "an empty dict"
    if value is None or isinstance(value, (bool, int, float, str)):
        return f"{value!r:.60}"
    return f"{type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (list, tuple)) else "")


def _refuse(method: type[Method], hook: str, expected: str, got: str) -> JobError:
    return JobError(f"{method.title} ({file_of(method)}): {hook} must return {expected}, got {got}")


def _is_plain(x: Any) -> TypeGuard[Tensor]:
    """Whether a value is a dense tensor of real numbers."""
    return isinstance(x, Tensor) and x.layout == torch.strided and not x.is_complex() and not x.is_meta


def _check_names(method: type[Method], hook: str, names: Iterable[Any]) -> None:
    for name in names:
        if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
            raise _refuse(method, hook, NAME_RULE, shown(name))


def checked_model(method: Method) -> Method:
    """Check a method after ``__init__``.

    Raises:
        JobError: it has no parameters.
    """
    if next(method.parameters(), None) is None:
        raise JobError(
            f"{type(method).title} ({file_of(type(method))}): has no parameters; __init__ must call "
            "super().__init__ and set at least one module or nn.Parameter as an attribute"
        )
    return method


def checked_losses(method: Method, losses: Any) -> dict[str, Tensor]:
    """Check the result of ``loss``.

    Raises:
        JobError: it is no dict of scalar tensors with ``total``, or ``total`` depends on no parameter.
    """
    cls, hook = type(method), "loss"
    if not isinstance(losses, Mapping) or "total" not in losses:
        raise _refuse(cls, hook, "a dict of scalar tensors with 'total'", shown(losses))
    _check_names(cls, hook, losses)
    for name, value in losses.items():
        if not _is_plain(value) or value.shape != () or not value.is_floating_point():
            raise _refuse(cls, f"{hook}: {name!r}", "a scalar tensor (shape [])", shown(value))
        if value.device.type != losses["total"].device.type:
            raise _refuse(
                cls, f"{hook}: {name!r}", f"a tensor on {losses['total'].device}", f"one on {value.device}"
            )
    if not losses["total"].requires_grad:
        raise _refuse(
            cls, f"{hook}: 'total'", "a tensor that depends on a parameter", "one without a gradient"
        )
    return dict(losses)


def checked_optimizer(method: Method, optimizer: Any) -> torch.optim.Optimizer:
    """Check the result of ``optimizer``.

    Raises:
        JobError: it is no optimiser, needs a closure, or changes tensors that are no parameters.
    """
    cls, hook = type(method), "optimizer"
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise _refuse(cls, hook, "a torch.optim.Optimizer", shown(optimizer))
    if isinstance(optimizer, torch.optim.LBFGS):
        raise _refuse(cls, hook, "one whose step needs no closure", "an LBFGS; override fit to use it")
    own = {id(parameter) for parameter in method.parameters()}
    foreign = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in own]
    if foreign:
        expected = "one of parameters of the method (modules in an nn.ModuleList, not in a list)"
        raise _refuse(cls, hook, expected, f"{len(foreign)} that are not in self.parameters()")
    return optimizer


def checked_embeddings(method: Method, embeddings: Any, size: int) -> Embeddings:
    """Check the result of ``embed`` for a batch of ``size`` samples.

    Raises:
        JobError: it is no ``Embeddings``, or an output or the gate does not have a row per sample.
    """
    cls, hook = type(method), "embed"
    if not isinstance(embeddings, Embeddings):
        raise _refuse(cls, hook, "an Embeddings", shown(embeddings))
    if not isinstance(embeddings.outputs, Mapping) or not embeddings.outputs:
        raise _refuse(cls, hook, "an Embeddings with at least one output", shown(embeddings.outputs))
    _check_names(cls, f"{hook}: outputs", embeddings.outputs)
    rows = [(f"output {name!r}", x, f"[{size}, d]") for name, x in embeddings.outputs.items()]
    if embeddings.gate is not None:
        rows.append(("gate", embeddings.gate, f"[{size}]"))
    for what, x, shape in rows:
        if not _is_plain(x) or x.dim() == 0 or len(x) != size or (what != "gate" and x.dim() < 2):
            raise _refuse(cls, f"{hook}: {what}", f"a tensor {shape}, a row per sample", shown(x))
    return embeddings


def checked_classes(method: Method, embedded: Any, count: int) -> Tensor:
    """Check the result of ``embed_classes`` for ``count`` classes.

    Raises:
        JobError: it is no tensor with a row per class.
    """
    if not _is_plain(embedded) or embedded.dim() < 2 or len(embedded) != count:
        raise _refuse(
            type(method), "embed_classes", f"a tensor [{count}, d], a row per class", shown(embedded)
        )
    return embedded


def checked_summary(method: Method, numbers: Any) -> dict[str, float]:
    """Check the result of ``summarise``.

    Raises:
        JobError: it is no dict of finite numbers.
    """
    if not isinstance(numbers, Mapping):
        raise _refuse(type(method), "summarise", "a dict of numbers", shown(numbers))
    _check_names(type(method), "summarise", numbers)
    for name, value in numbers.items():
        if not isinstance(value, Real) or not math.isfinite(value):
            raise _refuse(type(method), f"summarise: {name!r}", "a finite number", shown(value))
    return {name: float(value) for name, value in numbers.items()}


def check_comparable(method: Method, embeddings: Embeddings, classes: Tensor) -> None:
    """Check that the default ``distances`` can compare samples and classes.

    Raises:
        JobError: an output is not as wide as the class embeddings, or is on another device.
    """
    if type(method).distances is not Method.distances:
        return
    samples = len(next(iter(embeddings.outputs.values())))
    expected = f"as many columns as embed_classes, [{samples}, {classes.shape[-1]}]"
    for name, x in embeddings.outputs.items():
        if x.dim() != 2 or classes.dim() != 2 or x.shape[1] != classes.shape[1] or not x.shape[1]:
            got = f"{shown(x)} and classes {list(classes.shape)}; or override distances"
            raise _refuse(type(method), f"embed: output {name!r}", expected, got)
        if x.device.type != classes.device.type:
            raise _refuse(
                type(method), f"embed: output {name!r}", f"a tensor on {classes.device}", f"one on {x.device}"
            )


def checked_distances(method: Method, distances: Any, size: int, count: int) -> dict[str, Tensor]:
    """Check the result of ``distances`` for ``size`` samples and ``count`` classes; returns plain tensors.

    Raises:
        JobError: it is no dict of tensors ``[size, count]``, lacks the reported output, or is not finite.
    """
    cls, hook = type(method), "distances"
    if not isinstance(distances, Mapping) or method.reported_output not in distances:
        raise _refuse(
            cls, hook, f"a dict with the reported output {method.reported_output!r}", shown(distances)
        )
    _check_names(cls, f"{hook}: outputs", distances)
    found = {output: _plain(x) if isinstance(x, Tensor) else x for output, x in distances.items()}
    for output, x in found.items():
        if not _is_plain(x) or tuple(x.shape) != (size, count) or x.dtype == torch.bool:
            raise _refuse(
                cls, f"{hook}: output {output!r}", f"a tensor [{size}, {count}] (samples, classes)", shown(x)
            )
        broken = int((~torch.isfinite(x.float())).sum())
        if broken:
            raise _refuse(
                cls, f"{hook}: output {output!r}", "finite numbers", f"{broken} of {x.numel()} that are not"
            )
    return found


def _plain(x: Tensor) -> Tensor:
    """A plain tensor: the code of a tensor subclass must not run where distances meet labels."""
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.as_subclass(Tensor.detach(x), Tensor)


class Trained:
    """Finds out whether ``fit`` trained the method that it was called on.

    Args:
        method: a new model, before ``fit``.
    """

    def __init__(self, method: Method) -> None:
        self._method, self._validated = method, False
        self._before = {name: x if is_lazy(x) else x.detach().clone() for name, x in _values(method).items()}

    def watching(self, validate: Callable[[Method], Validation]) -> Callable[[Method], Validation]:
        """``validate``, which also records whether the method itself was validated."""

        def watched(method: Method) -> Validation:
            self._validated |= method is self._method
            return validate(method)

        return watched

    def check(self) -> None:
        """Compare the method after ``fit`` with what it was.

        Raises:
            JobError: it did not change and was never validated, so another model was trained, or none.
        """
        after = _values(self._method)
        if not self._validated and all(
            name in after and _same(x, after[name]) for name, x in self._before.items()
        ):
            cls = type(self._method)
            raise JobError(
                f"{cls.title} ({file_of(cls)}): fit trained another model or none: no parameter of self "
                "changed and self was never validated; train self, as loop.run(self, data) does"
            )


def _values(method: Method) -> dict[str, Tensor]:
    return {**dict(method.named_parameters()), **dict(method.named_buffers())}


def _same(x: Tensor, y: Tensor) -> bool:
    return not is_lazy(x) and x.dtype == y.dtype and x.device == y.device and torch.equal(x, y)


def checked_fit(method: Method, result: Any, epochs: int) -> FitResult:
    """Check the result of ``fit``.

    Args:
        epochs: how many epochs were requested.

    Raises:
        JobError: it is no ``FitResult`` of one to ``epochs`` epochs, or its best epoch or beta is invalid.
    """
    cls, hook = type(method), "fit"
    if not isinstance(result, FitResult):
        raise _refuse(cls, hook, "a FitResult, such as that of loop.run", shown(result))

    # An epoch record for each epoch, with the numbers that the protocol reads.
    history = result.history
    if (
        not isinstance(history, Sequence)
        or not history
        or not all(isinstance(r, EpochRecord) for r in history)
    ):
        raise _refuse(cls, f"{hook}: history", "an EpochRecord for each epoch, at least one", shown(history))
    if len(history) > epochs:
        raise _refuse(
            cls, f"{hook}: history", f"at most the {epochs} epochs of loop.train.epochs", str(len(history))
        )
    for i, record in enumerate(history):
        numbers = record.validation.get("hm") if isinstance(record.validation, Mapping) else None, record.lr
        if not all(isinstance(x, Real) and math.isfinite(x) for x in numbers):
            raise _refuse(
                cls,
                f"{hook}: history[{i}]",
                "validation metrics with 'hm', and a learning rate",
                shown(record),
            )

    # The best epoch, and the beta that was chosen there.
    if not isinstance(result.best_epoch, int) or not 0 <= result.best_epoch < len(history):
        raise _refuse(
            cls, f"{hook}: best_epoch", f"an epoch from 0 to {len(history) - 1}", shown(result.best_epoch)
        )
    chosen = result.best_calibration
    if isinstance(chosen, Mapping):
        checked_summary(method, chosen.get("summary", {}))
    if not _is_calibration(chosen, method.reported_output):
        raise _refuse(
            cls,
            f"{hook}: best_calibration",
            "the calibration that data.validate gave for the best epoch",
            shown(chosen),
        )
    return result


def _is_calibration(chosen: Any, output: str) -> bool:
    if not isinstance(chosen, Mapping) or chosen.keys() - {"summary"} != {"beta", "rule", "per_output"}:
        return False
    beta, per_output = chosen["beta"], chosen["per_output"]
    fine = (
        isinstance(beta, Real)
        and math.isfinite(beta)
        and isinstance(per_output, Mapping)
        and output in per_output
    )
    return fine and chosen["rule"] in ("grid", "exact")
