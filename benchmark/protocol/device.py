"""Chooses devices and precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from benchmark.errors import UsageError
from benchmark.method import Method
from benchmark.settings.schema import TrainConfig


def method_device(method: Method) -> torch.device:
    """The device of a method's parameters."""
    return next(method.parameters()).device


def choose_device(name: str, precision: str = "float32") -> torch.device:
    """The device of ``train.device``; ``auto`` is CUDA if available, otherwise the CPU.

    Raises:
        UsageError: the device is unavailable, or it is a CPU and the precision is float16.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu" and precision == "float16":
        raise UsageError(
            "train.precision=float16: not for CPUs (losses are scaled on CUDA alone); use bfloat16 or float32"
        )
    if (name == "cuda" and not torch.cuda.is_available()) or (
        name == "mps" and not torch.backends.mps.is_available()
    ):
        raise UsageError(
            f"train.device={name}: this machine or this build of torch has none; use train.device=cpu"
        )
    return torch.device(name)


def autocast_for(train: TrainConfig) -> Callable[[], AbstractContextManager[Any]]:
    """The context of mixed precision; it does nothing for float32."""
    if train.precision == "float32":
        return nullcontext
    return partial(
        torch.autocast,
        choose_device(train.device, train.precision).type,
        dtype=getattr(torch, train.precision),
    )


def slow_precision(train: TrainConfig) -> str | None:
    """A message if reduced precision makes training slower on this machine; otherwise None."""
    if train.precision == "float32" or choose_device(train.device, train.precision).type != "cpu":
        return None
    if torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return f"train.precision={train.precision}: slow on this processor; float32 is many times as fast"
