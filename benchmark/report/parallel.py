"""Works on many items in parallel: figures to save, embedding maps to compute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from benchmark.system.beside import reason_of

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
PROCESSES = 4
"""At most; each takes about 150 MiB."""
ITEMS_EACH = 4
"""Items per process that make its start (two seconds) worthwhile."""


def in_parallel(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results of a function for each item, in order; several processes are used if there are enough items
    and cores.

    Args:
        function: a function of a module, which other processes can import. Its results must not depend on the
            process.
    """
    from joblib import Parallel, cpu_count, delayed  # the import takes a tenth of a second

    processes = min(PROCESSES, int(cpu_count()), len(items) // ITEMS_EACH)
    if processes < 2:
        return [function(item) for item in items]
    try:
        return list(Parallel(n_jobs=processes, batch_size=1)(delayed(function)(item) for item in items))
    except Exception as error:  # a process was killed or could not start, for example for lack of memory
        logger.warning("continuing in one process, since further ones failed (%s)", reason_of(error))
        return [function(item) for item in items]
