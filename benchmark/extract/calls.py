"""Network calls of one fixed shape, filled with the time steps of all videos that are being extracted.

With one shape, the features of a time step depend on that step alone: not on its place in the call, nor on
    the other rows.
So it does not matter which videos are extracted together. A thread works on one video; there may be many
threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Features = NDArray[np.float32]
Shape = tuple[int, ...]
Row = tuple[Array, "Future[Features]"]


class Calls:
    """The network calls of an extractor.

    Args:
        networks: for each modality, the function from inputs ``[rows, ...]`` to features ``[rows, dim]``.
            Only one thread at a time calls it.
        rows: time steps of a call. A call with fewer is filled up with zeros.
        kept: most time steps of a video that are held in memory until they are computed.
    """

    def __init__(self, networks: Mapping[str, Callable[[Array], Features]], rows: int, kept: int) -> None:
        self.rows = rows
        self._kept = kept
        self._networks = networks
        self._filling: dict[tuple[str, Shape], list[Row]] = {}
        self._changed = threading.Condition()
        self._busy = 0  # threads that may add time steps, or compute
        self._computing = threading.Lock()

    def compute(self, modality: str, steps: Iterable[Array], keep: Callable[[Features], None]) -> None:
        """Compute the features of a video's time steps, and pass them to ``keep`` in order, some at a time.

        Raises:
            Exception: raised by the steps or the network. A failed call fails all videos with a time step in
                it.
        """
        own: deque[tuple[Shape, Future[Features]]] = deque()

        def hand_over(count: int) -> None:
            keep(np.stack([self._result(modality, *own.popleft()) for _ in range(count)]))

        self._enter()
        try:
            for step in steps:
                own.append((step.shape, self._submit(modality, step)))
                if len(own) == self._kept:
                    hand_over(-(-len(own) // 2))
            if own:
                hand_over(len(own))
        finally:
            self._leave()

    def _enter(self) -> None:
        with self._changed:
            self._busy += 1

    def _leave(self) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def _submit(self, modality: str, step: Array) -> Future[Features]:
        """Add a time step to the call being filled; the thread that fills it computes while others decode."""
        result: Future[Features] = Future()
        with self._changed:
            rows = self._filling.setdefault((modality, step.shape), [])
            rows.append((step, result))
            full = self._filling.pop((modality, step.shape)) if len(rows) == self.rows else []
        self._call(modality, full)
        return result

    def _result(self, modality: str, shape: Shape, result: Future[Features]) -> Features:
        """The features of a time step.

        If all threads wait for features, no call can fill up any more. This one then computes the call of its
        time step.
        """
        while not result.done():
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: result.done() or not self._busy)
                self._busy += 1
                rows = [] if result.done() else self._filling.pop((modality, shape))
            self._call(modality, rows)
        return result.result()

    def _call(self, modality: str, rows: list[Row]) -> None:
        if not rows:
            return
        steps = [step for step, _ in rows]
        steps += [np.zeros_like(steps[0])] * (self.rows - len(steps))
        try:
            with self._computing:
                features = self._networks[modality](np.stack(steps))
        except (Exception, SystemExit) as error:  # each of the videos reports it
            for _, result in rows:
                result.set_exception(error)
        else:
            for (_, result), row in zip(rows, features, strict=False):
                result.set_result(row)
        with self._changed:
            self._changed.notify_all()
