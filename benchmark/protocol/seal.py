"""Keeps apart what a method is given while it trains from what scores it and records it.

``fit(data, loop)`` runs in the job's own thread. Validation data and the listener, which leads to the tracking store and to the
plan of the run, are local variables of a second thread. What the method holds of them is a ``Window``: a queue through which it
asks, and no reference to anything behind it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from threading import Event, Lock, Thread, get_ident
from typing import Any

from benchmark.errors import JobError
from benchmark.method import EpochRecord, Listener, TrainingData
from benchmark.protocol.border import FRAMES

Handlers = Mapping[str, Callable[..., Any]]
Answer = tuple[Any, BaseException | None]
Request = tuple[str, tuple[Any, ...], SimpleQueue[Answer] | None]
"""Name of a handler, its arguments, and where an answer is waited for, if it is."""
CLOSING_SECONDS = 10.0
"""How long the end of the second thread is waited for after an interruption."""


class Window:
    """What a method's side holds of the other side.

    Args:
        requests: what the other side answers, one after the other.
        answering: identifies the thread of the other side.
    """

    def __init__(self, requests: SimpleQueue[Request | None], answering: int) -> None:
        self._requests, self._answering = requests, answering
        self._lock, self._closed = Lock(), False

    def ask(self, name: str, *arguments: Any) -> Any:
        """Have a handler called and return what it returns.

        Raises:
            JobError: training is over, or the other side itself asks, which cannot answer meanwhile.
            BaseException: what the handler raised, without its frames, whose text is a note of it.
        """
        if get_ident() == self._answering:
            raise JobError(f"{name}: cannot be asked for by what validation calls (embed, distances); ask in fit or loss")
        answers: SimpleQueue[Answer] = SimpleQueue()  # of this request alone: an interrupted one leaves none to the next
        if not self._put((name, arguments, answers)):
            raise JobError(f"{name}: can be asked for in fit only, not once training is over")
        value, error = answers.get()
        if error is not None:
            raise error
        return value

    def tell(self, name: str, *arguments: Any) -> None:
        """Have a handler called and go on. What it raises is raised by the next ``ask``."""
        self._put((name, arguments, None))

    def close(self) -> None:
        """Let the other side end once it has answered, and refuse further requests."""
        self._put(None)

    def _put(self, request: Request | None) -> bool:
        """Whether a request was taken: after the last one, None, there is nobody to answer."""
        with self._lock:
            if self._closed:
                return False
            self._closed = request is None
            self._requests.put(request)
            return True


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
    stops: SimpleQueue[BaseException] = SimpleQueue()
    taken = Event()
    requests.put(handlers)  # not as arguments of the thread, whose object can be found
    other_side = Thread(target=_answer_all, args=(requests, taken, stops), daemon=True)
    other_side.start()
    taken.wait()
    window = Window(requests, other_side.ident or 0)
    given = replace(
        data,
        validate=partial(window.ask, "validate"),
        embeddings_of_unseen=None if data.embeddings_of_unseen is None else partial(window.ask, "unseen_classes"),
    )
    del handlers, data, listener
    patience: float | None = CLOSING_SECONDS
    try:
        yield given, SealedListener(window)
        patience = None
    except Exception:
        if stops.empty():  # else what stopped the training counts, and not what the method made of it
            raise
    finally:
        window.close()
        other_side.join(patience)
    if not stops.empty():
        raise stops.get()


def _answer_all(requests: SimpleQueue[Any], taken: Event, stops: SimpleQueue[BaseException]) -> None:
    """Call handlers until the window closes. Once one has raised, every further request gets the same error."""
    handlers: Handlers = requests.get()
    taken.set()
    stop: BaseException | None = None
    while (request := requests.get()) is not None:
        name, arguments, answers = request
        value = None
        if stop is None:
            try:
                value = handlers[name](*arguments)
            except BaseException as error:  # whatever it is, it belongs to the thread that asked
                kept = vars(error)  # a class of errors may refuse that attributes are set
                kept["__notes__"] = [*kept.get("__notes__", ()), "".join(traceback.format_exception(error))]
                kept[FRAMES] = traceback.extract_tb(error.__traceback__)
                _without_frames(error)
                stops.put(error)
                stop = error
        if answers is not None:
            answers.put((value, stop))
        request = arguments = answers = value = None  # nothing is kept for the next request


def _without_frames(error: BaseException) -> None:
    """Remove the frames of an error and of all that it came from: they lead to local variables of this side."""
    found: dict[int, BaseException] = {}
    left: list[BaseException | None] = [error]
    while left:
        other = left.pop()
        if other is not None and id(other) not in found:
            found[id(other)] = other.with_traceback(None)
            left += [other.__cause__, other.__context__]
            left += other.exceptions if isinstance(other, BaseExceptionGroup) else []
