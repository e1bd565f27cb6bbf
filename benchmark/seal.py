"""Keeps apart what a method is given while it trains from what scores it and records it.

``fit(data, loop)`` runs in the job's own thread. Validation data and the listener, which leads to the tracking store and to the
plan of the run, are local variables of a second thread. What the method holds of them is a ``Window``: two queues through which
it asks, and no reference to anything behind them.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import Any

from benchmark.border import FRAMES
from benchmark.errors import JobError
from benchmark.method import EpochRecord
from benchmark.training import Listener, TrainingData

Handlers = Mapping[str, Callable[..., Any]]
Request = tuple[str, tuple[Any, ...], bool]
"""Name of a handler, its arguments, and whether an answer is waited for."""
Answer = tuple[Any, BaseException | None]
CLOSING_SECONDS = 10.0
"""How long the end of the second thread is waited for after an interruption."""


class Window:
    """What a method's side holds of the other side."""

    def __init__(self, requests: SimpleQueue[Any], answers: SimpleQueue[Answer]) -> None:
        self._requests, self._answers = requests, answers
        self._one_asks, self._closed = Lock(), Event()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Have a handler called and return what it returns.

        Raises:
            JobError: training is over.
            BaseException: what the handler raised, without its frames, whose text is a note of it.
        """
        with self._one_asks:
            if self._closed.is_set():
                raise JobError(f"{name}: can be asked for in fit only, not once training is over")
            self._requests.put((name, arguments, True))
            value, error = self._answers.get()
        if error is not None:
            raise error
        return value

    def tell(self, name: str, *arguments: Any) -> None:
        """Have a handler called and go on. What it raises is raised by the next ``ask``."""
        if not self._closed.is_set():
            self._requests.put((name, arguments, False))

    def close(self) -> None:
        """Let the other side end, and refuse further requests."""
        self._closed.set()
        self._requests.put(None)


@dataclass(frozen=True)
class SealedListener(Listener):
    """Passes progress on through a window."""

    window: Window

    def on_batch(self, epoch: int, batch: int, loss: float) -> None:
        self.window.tell("on_batch", epoch, batch, loss)

    def on_note(self, text: str) -> None:
        self.window.tell("on_note", text)

    def on_epoch(self, record: EpochRecord) -> None:
        self.window.ask("on_epoch", record)


@contextmanager
def sealed(data: TrainingData, listener: Listener) -> Iterator[tuple[TrainingData, Listener]]:
    """Training data and a listener that do the same and lead to nothing behind them.

    Raises:
        BaseException: what ``listener`` raised to stop the training, also where the method took no notice of it.
    """
    handlers: dict[str, Callable[..., Any]] = {
        "on_batch": listener.on_batch,
        "on_note": listener.on_note,
        "on_epoch": listener.on_epoch,
        "validate": data.validate,
    }
    if data.embeddings_of_unseen is not None:
        handlers["unseen_classes"] = data.embeddings_of_unseen
    requests: SimpleQueue[Any] = SimpleQueue()
    answers: SimpleQueue[Answer] = SimpleQueue()
    stops: SimpleQueue[BaseException] = SimpleQueue()
    requests.put(handlers)  # not as arguments of the thread, whose object can be found
    other_side = Thread(target=_answer_all, args=(requests, answers, stops), daemon=True)
    other_side.start()
    window = Window(requests, answers)
    given = replace(
        data,
        validate=partial(window.ask, "validate"),
        embeddings_of_unseen=None if data.embeddings_of_unseen is None else partial(window.ask, "unseen_classes"),
    )
    del handlers, data, listener
    try:
        yield given, SealedListener(window)
    finally:
        window.close()
        other_side.join(CLOSING_SECONDS)
    if not stops.empty():
        raise stops.get()


def _answer_all(requests: SimpleQueue[Any], answers: SimpleQueue[Answer], stops: SimpleQueue[BaseException]) -> None:
    """Call handlers until the window closes. Once one has raised, every further request gets the same error."""
    handlers: Handlers = requests.get()
    stop: BaseException | None = None
    while (request := requests.get()) is not None:
        name, arguments, waits = request
        value = None
        if stop is None:
            try:
                value = handlers[name](*arguments)
            except BaseException as error:  # whatever it is, it belongs to the thread that asked
                error.add_note("".join(traceback.format_exception(error)))
                setattr(error, FRAMES, traceback.extract_tb(error.__traceback__))
                _without_frames(error)
                stops.put(error)
                stop = error
        if waits:
            answers.put((value, stop))
        request = arguments = value = None  # nothing is kept for the next request


def _without_frames(error: BaseException | None) -> None:
    """Remove the frames of an error and of its causes: they lead to local variables of this side."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
