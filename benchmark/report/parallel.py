"""Work on many items at once: figures to save, maps to lay out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from benchmark.system.beside import reason_of

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
PROCESSES = 4
"""At most; each takes some 150 MiB."""
ITEMS_EACH = 4
"""Items that a process must have for its start, two seconds, to pay."""


def side_by_side(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """What a function gives for each item, in order; by several processes where items and processors are many enough.

    Args:
        function: a module's own, which processes can import; it gives the same in each.
    """
    from joblib import Parallel, cpu_count, delayed  # a tenth of a second

    processes = min(PROCESSES, int(cpu_count()), len(items) // ITEMS_EACH)
    if processes < 2:
        return [function(item) for item in items]
    try:
        return list(Parallel(n_jobs=processes, batch_size=1)(delayed(function)(item) for item in items))
    except Exception as error:  # a process was killed or could not be started, for example for want of memory
        logger.warning("working without further processes, since these failed (%s)", reason_of(error))
        return [function(item) for item in items]
