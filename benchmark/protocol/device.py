"""Chooses devices, precision and deterministic algorithms, and explains what a device lacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import JobError, UsageError
from benchmark.method import Method
from benchmark.settings.schema import TrainConfig

GPU_FILE, GPU_TOOL = Path("/dev/nvidia0"), "nvidia-smi"
"""What a machine with an NVIDIA GPU and its driver has."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
CUBLAS, REPEATABLE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
"""Variable of cuBLAS, and the value with which products have the same bits each time (cuBLAS manual)."""


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
        why = (unused_gpu() if name == "cuda" else None) or "this machine or this build of torch has none"
        raise UsageError(f"train.device={name}: {why}; or use train.device=cpu")
    return torch.device(name)


def unused_gpu() -> str | None:
    """Why torch does not use this machine's NVIDIA GPU, and what to do; None if it can, or there is none.

    An empty ``CUDA_VISIBLE_DEVICES`` hides the GPUs on purpose, which is said only to whoever asks for one.
    """
    if torch.cuda.is_available() or not (GPU_FILE.exists() or shutil.which(GPU_TOOL)):
        return None
    if os.environ.get(VISIBLE, "0").strip() in ("", "-1"):
        return f"{VISIBLE} is empty and hides all GPUs; unset it"
    if torch.version.cuda is None:
        version = str(torch.__version__).partition("+")[0]
        return (
            f"this machine has an NVIDIA GPU, but torch {torch.__version__} was built for CPUs; "
            f"install the CUDA build (Linux: pip install --force-reinstall torch=={version})"
        )
    return (
        f"torch cannot use the NVIDIA GPU of this machine (torch was built for CUDA {torch.version.cuda}); "
        f"check the driver with {GPU_TOOL}"
    )


def overlooked_gpu(train: TrainConfig) -> str | None:
    """A message if ``auto`` means the CPU although the machine has a GPU that nobody hid; otherwise None."""
    if train.device != "auto" or os.environ.get(VISIBLE, "0").strip() in ("", "-1"):
        return None
    reason = unused_gpu()
    return f"train.device=auto: the CPU, because {reason}" if reason else None


@contextmanager
def repeatable(train: TrainConfig) -> Iterator[None]:
    """Deterministic algorithms within the block, for ``train.deterministic`` on CUDA; nothing elsewhere."""
    if not train.deterministic or choose_device(train.device, train.precision).type != "cuda":
        yield
        return
    os.environ.setdefault(CUBLAS, REPEATABLE)  # torch refuses products without it
    before = torch.are_deterministic_algorithms_enabled()
    only_warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warns)


@contextmanager
def naming_memory(train: TrainConfig, *names: str) -> Iterator[None]:
    """Name the settings that need less of the device's memory when lowered, if it is too small.

    Args:
        names: fields of ``train``.

    Raises:
        JobError: torch ran out of memory of the device.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        lower = " or ".join(f"train.{name} ({getattr(train, name)})" for name in names)
        what = str(error).partition(". GPU")[0].rstrip(". ")
        raise JobError(
            f"{what}; lower {lower}. If other programs used the device, repeat with --retry-failed"
        ) from error


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
