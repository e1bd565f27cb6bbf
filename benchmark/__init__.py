"""The harness: data, protocol, training, evaluation, tuning, tracking, reports. It names no method and no
dataset.

``import benchmark as gz`` has the Python API (``api.py``), which loads when one of its names is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.api import (
        Comparison,
        Result,
        compare,
        datasets,
        describe,
        evaluate,
        load_results,
        methods,
        run,
    )

__version__ = "0.1.0"
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


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("benchmark.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
