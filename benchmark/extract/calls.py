"""Network calls: always of one shape, and filled with steps of all videos that are worked on at a time.

One shape makes the features of a step depend on the step alone: not on its place in the call and not on the other rows, so
that it does not matter which videos came together. A thread works on a video; there may be many.
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
        networks: by modality: what makes features ``[rows, dim]`` of steps ``[rows, ...]``; called by one thread at a time.
        rows: steps of a call. Where fewer are there, it is filled up with zeros.
        kept: steps of a video that are kept in memory at most until they are computed.
    """

    def __init__(self, networks: Mapping[str, Callable[[Array], Features]], rows: int, kept: int) -> None:
        self.rows = rows
        self._kept = kept
        self._networks = networks
        self._begun: dict[tuple[str, Shape], list[Row]] = {}
        self._changed = threading.Condition()
        self._busy = 0  # threads that may bring further steps, or compute
        self._computing = threading.Lock()

    def compute(self, modality: str, steps: Iterable[Array], keep: Callable[[Features], None]) -> None:
        """Give the features of a video's steps to ``keep``, in their order, some at a time.

        Raises:
            Exception: what the steps or the network raise; a failed call fails all videos that had a step in it.
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
        """Add a step to the call that is being filled; who fills it up computes it, while the others go on decoding."""
        result: Future[Features] = Future()
        with self._changed:
            begun = self._begun.setdefault((modality, step.shape), [])
            begun.append((step, result))
            full = self._begun.pop((modality, step.shape)) if len(begun) == self.rows else []
        self._call(modality, full)
        return result

    def _result(self, modality: str, shape: Shape, result: Future[Features]) -> Features:
        """The features of a step. Where all threads wait for theirs, no call fills up any more: this one computes its own."""
        while not result.done():
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: result.done() or not self._busy)
                self._busy += 1
                begun = [] if result.done() else self._begun.pop((modality, shape))
            self._call(modality, begun)
        return result.result()

    def _call(self, modality: str, taken: list[Row]) -> None:
        if not taken:
            return
        steps = [step for step, _ in taken]
        steps += [np.zeros_like(steps[0])] * (self.rows - len(steps))
        try:
            with self._computing:
                features = self._networks[modality](np.stack(steps))
        except (Exception, SystemExit) as error:  # each of the videos says so
            for _, result in taken:
                result.set_exception(error)
        else:
            for (_, result), row in zip(taken, features, strict=False):
                result.set_result(row)
        with self._changed:
            self._changed.notify_all()
