"""A method trains in its own thread: requests, errors and its stop pass between the threads."""

from __future__ import annotations

import signal
import threading
import traceback
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.tiny import QuietListener

from benchmark.errors import JobError
from benchmark.method import EpochRecord, Method, TrainingData, Validation
from benchmark.protocol import seal
from benchmark.protocol.seal import sealed


class Stop(Exception):
    """Ends a training."""


class Stopping(QuietListener):
    """Stops in an epoch, or at a batch."""

    def __init__(self, where: str) -> None:
        self.where, self.secret = where, "of the harness"

    def on_batch(self, epoch: int, batch: int, loss: float) -> None:
        if self.where == "batch":
            raise Stop

    def on_epoch(self, record: EpochRecord) -> None:
        if self.where == "epoch":
            raise Stop


RECORD = EpochRecord(0, {}, {}, 0.1, 0.0)


def given(validate: Any) -> TrainingData:
    return TrainingData(Method, None, validate)  # type: ignore[arg-type]


def test_requests_are_answered_in_another_thread() -> None:
    with sealed(given(lambda method: Validation({"thread": threading.get_ident()}, {})), QuietListener()) as (
        data,
        listener,
    ):
        listener.on_epoch(RECORD)
        assert data.validate(None).metrics["thread"] != threading.get_ident()  # type: ignore[arg-type]


def test_an_error_comes_back_without_frames_and_with_their_text() -> None:
    def validate(method: object) -> Validation:
        raise JobError("broken")

    def ask() -> None:
        with sealed(given(validate), QuietListener()) as (data, _):
            data.validate(None)  # type: ignore[arg-type]

    with pytest.raises(JobError, match="broken") as error:
        ask()
    assert "validate" not in [frame.name for frame in traceback.extract_tb(error.value.__traceback__)]
    assert "in validate" in error.value.__notes__[0], "whoever reads the traceback sees where it arose"


@pytest.mark.parametrize("where", ["epoch", "batch"])
def test_a_method_that_ignores_a_stop_is_still_stopped(where: str) -> None:
    def go_on_regardless() -> None:
        with sealed(given(lambda method: Validation({}, {})), Stopping(where)) as (data, listener):
            listener.on_batch(0, 0, 1.0)
            for _ in range(3):
                with suppress(Stop):
                    listener.on_epoch(RECORD)
                    pytest.fail("an epoch after the stop was taken")
            with suppress(Stop):
                data.validate(None)  # type: ignore[arg-type]
                pytest.fail("a validation after the stop was done")

    with pytest.raises(Stop):
        go_on_regardless()


def test_what_a_method_makes_of_a_stop_does_not_hide_it() -> None:
    def translate() -> None:
        with sealed(given(lambda method: Validation({}, {})), Stopping("epoch")) as (_, listener):
            try:
                listener.on_epoch(RECORD)
            except Stop as stop:
                raise RuntimeError("training failed") from stop

    with pytest.raises(Stop):
        translate()


class Frozen(Exception):
    """Refuses to set attributes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def test_no_cause_of_a_stop_keeps_its_frames() -> None:
    """Neither its cause, nor the context of the cause, nor the errors of a group."""

    def fail(error: BaseException) -> BaseException:
        with pytest.raises(type(error)) as raised:
            raise error
        return raised.value

    beside, cause, member = fail(KeyError("beside")), fail(ValueError("cause")), fail(TypeError("member"))

    def validate(method: object) -> Validation:
        try:
            raise beside
        except KeyError:
            raise ExceptionGroup("all", [member]) from cause  # type: ignore[list-item]

    cause.__context__ = member
    member.__context__ = cause  # a circle
    with suppress(ExceptionGroup), sealed(given(validate), QuietListener()) as (data, _):
        data.validate(None)  # type: ignore[arg-type]
    assert [error.__traceback__ for error in (beside, cause, member)] == [None] * 3


def test_an_error_that_refuses_attributes_comes_back_too() -> None:
    def validate(method: object) -> Validation:
        raise Frozen("as it is")

    with (
        pytest.raises(Frozen, match="as it is"),
        sealed(given(validate), QuietListener()) as (data, _),
        suppress(Frozen),
    ):
        data.validate(None)  # type: ignore[arg-type]


def test_what_validation_calls_cannot_wait_for_the_second_thread() -> None:
    """If ``embed`` requested a validation or reported an epoch, it would wait for itself."""
    told = []

    def validate(ask: Any) -> Validation:
        with pytest.raises(JobError, match="embed, distances") as error:
            ask()
        told.append(str(error.value).split(":")[0])
        return Validation({}, {})

    with sealed(given(validate), QuietListener()) as (data, listener):
        data.validate(lambda: data.validate(None))  # type: ignore[arg-type]
        data.validate(lambda: listener.on_epoch(RECORD))  # type: ignore[arg-type]
    assert told == ["validate", "on_epoch"]


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C interrupts this process, also if other tests changed its handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupted_request_leaves_no_answer_to_the_next() -> None:
    """Ctrl-C while a validation runs; the method ignores it."""
    main = threading.get_ident()

    def validate(name: Any) -> Validation:
        if name == "first":
            signal.pthread_kill(main, signal.SIGINT)
            threading.Event().wait(0.2)
        return Validation({name: 1.0}, {})

    with sealed(given(validate), QuietListener()) as (data, _):
        with pytest.raises(KeyboardInterrupt):
            data.validate("first")  # type: ignore[arg-type]
        assert data.validate("second").metrics == {"second": 1.0}  # type: ignore[arg-type]


def test_the_last_messages_reach_a_slow_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    class Slow(QuietListener):
        def on_note(self, text: str) -> None:
            threading.Event().wait(0.1)
            heard.append(text)

    monkeypatch.setattr(seal, "CLOSING_SECONDS", 0.01)
    with sealed(given(lambda method: Validation({}, {})), Slow()) as (_, listener):
        listener.on_note("first")
        listener.on_note("second")
    assert heard == ["first", "second"]


def test_no_thread_and_no_validation_data_are_left_after_training() -> None:
    class Held:
        def __call__(self, method: Method) -> Validation:
            return Validation({}, {})

    validate = Held()
    held, before = weakref.ref(validate), threading.active_count()
    with sealed(given(validate), QuietListener()) as (data, _):
        del validate
        data.validate(None)  # type: ignore[arg-type]
        assert held() is not None
    assert held() is None
    assert threading.active_count() == before


def test_after_training_nothing_can_be_requested() -> None:
    with sealed(given(lambda method: Validation({}, {})), QuietListener()) as (data, listener):
        pass
    with pytest.raises(JobError, match="in fit only"):
        data.validate(None)  # type: ignore[arg-type]
    listener.on_batch(0, 0, 1.0)
