"""Separates a method in training from the data that score it and from the record of the run.

``fit(data, loop)`` runs in the job's thread. The validation data and the listener, which has references to
the tracking store and the plan of the run, are local variables of a second thread. The method only has a
``Window``: a queue for requests to that thread, without a reference to anything behind it.
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
"""Name of a handler, its arguments, and the queue for the answer if one is expected."""
CLOSING_SECONDS = 10.0
"""How long to wait for the end of the second thread after an interruption."""


class Window:
    """The method's only access to the second thread.

    ``sealed`` makes it. The method uses it through ``TrainingData`` and the listener.

    Args:
        requests: queue of requests, which the second thread answers one after the other.
        answering: identifier of the second thread.
    """

    def __init__(self, requests: SimpleQueue[Request | None], answering: int) -> None:
        self._requests, self._answering = requests, answering
        self._lock, self._closed = Lock(), False

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a handler in the second thread and return its result.

        Raises:
            JobError: training is over, or the second thread itself asks, which cannot answer meanwhile.
            BaseException: what the handler raised, without its frames; their text is added as a note.
        """
        if get_ident() == self._answering:
            raise JobError(
                f"{name}: cannot be called in validation (embed, distances); call it in fit or loss"
            )
        answers: SimpleQueue[Answer] = (
            SimpleQueue()
        )  # for this request only: an interrupted one leaves no answer to the next
        if not self._put((name, arguments, answers)):
            raise JobError(f"{name}: can be called in fit only, not after training")
        value, error = answers.get()
        if error is not None:
            raise error
        return value

    def tell(self, name: str, *arguments: Any) -> None:
        """Call a handler in the second thread without waiting. The next ``ask`` raises what it raised."""
        self._put((name, arguments, None))

    def close(self) -> None:
        """End the second thread after its last answer, and refuse further requests."""
        self._put(None)

    def _put(self, request: Request | None) -> bool:
        """Whether a request was accepted. None is the last request; nothing is answered after it."""
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
    """Training data and a listener without references to validation data and the given listener.

    ``stages.py`` trains every method inside this context.

    Raises:
        BaseException: what ``listener`` raised to stop the training, even if the method caught it.
    """
    # What the second thread may be asked.
    handlers: dict[str, Callable[..., Any]] = {
        "on_batch": listener.on_batch,
        "on_note": listener.on_note,
        "on_epoch": listener.on_epoch,
        "validate": data.validate,
    }
    if data.embeddings_of_unseen is not None:
        handlers["unseen_classes"] = data.embeddings_of_unseen

    # Hand the handlers over through the queue: arguments of a thread could be found through its object.
    requests: SimpleQueue[Any] = SimpleQueue()
    stops: SimpleQueue[BaseException] = SimpleQueue()
    taken = Event()
    requests.put(handlers)
    other_side = Thread(target=_answer_all, args=(requests, taken, stops), daemon=True)
    other_side.start()
    taken.wait()

    # Replace everything that leads to the second thread by the window, and drop the originals.
    window = Window(requests, other_side.ident or 0)
    given = replace(
        data,
        validate=partial(window.ask, "validate"),
        embeddings_of_unseen=None
        if data.embeddings_of_unseen is None
        else partial(window.ask, "unseen_classes"),
    )
    del handlers, data, listener

    # Run ``fit``. What stopped the training takes precedence over what the method made of it.
    patience: float | None = CLOSING_SECONDS
    try:
        yield given, SealedListener(window)
        patience = None
    except Exception:
        if stops.empty():
            raise
    finally:
        window.close()
        other_side.join(patience)
    if not stops.empty():
        raise stops.get()


def _answer_all(requests: SimpleQueue[Any], taken: Event, stops: SimpleQueue[BaseException]) -> None:
    """Call handlers until the window closes. Once one has raised, all later requests get its error."""
    handlers: Handlers = requests.get()
    taken.set()
    stop: BaseException | None = None
    while (request := requests.get()) is not None:
        name, arguments, answers = request
        value = None
        if stop is None:
            try:
                value = handlers[name](*arguments)
            except BaseException as error:  # every exception belongs to the thread that asked
                kept = vars(error)  # some exception classes refuse to set attributes
                kept["__notes__"] = [*kept.get("__notes__", ()), "".join(traceback.format_exception(error))]
                kept[FRAMES] = traceback.extract_tb(error.__traceback__)
                _without_frames(error)
                stops.put(error)
                stop = error
        if answers is not None:
            answers.put((value, stop))
        request = arguments = answers = value = None  # keep no reference while waiting for the next request


def _without_frames(error: BaseException) -> None:
    """Remove the frames of an error and of its causes: they lead to local variables of the second thread."""
    found: dict[int, BaseException] = {}
    left: list[BaseException | None] = [error]
    while left:
        other = left.pop()
        if other is not None and id(other) not in found:
            found[id(other)] = other.with_traceback(None)
            left += [other.__cause__, other.__context__]
            left += other.exceptions if isinstance(other, BaseExceptionGroup) else []
