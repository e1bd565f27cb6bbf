"""The end of ``fit`` of methods that are not trained in epochs."""

from __future__ import annotations

import time

from benchmark.method import EpochRecord, FitResult, Method, TrainingData, TrainingLoop

__all__ = ["validated_once"]


def validated_once(method: Method, data: TrainingData, loop: TrainingLoop, started: float) -> FitResult:
    """Validate a finished method and record one epoch.

    Args:
        started: ``time.perf_counter()`` when ``fit`` started.
    """
    validation = data.validate(method)
    seconds = time.perf_counter() - started
    record = EpochRecord(0, {}, dict(validation.metrics), method.config.lr, seconds)
    loop.listener.on_epoch(record)
    return FitResult([record], 0, validation.calibration)
