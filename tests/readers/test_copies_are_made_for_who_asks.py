"""The state is copied when somebody asked, by schedule, and never while nobody does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from stream_rnn import app
from stream_rnn.config import ConfigError
from stream_rnn.engine.engine import Engine
from stream_rnn.readers import answers
from stream_rnn.readers import readers as module
from stream_rnn.readers.readers import Readers
from stream_rnn.readers.request import Refused
from stream_rnn.recurrence import Feedforward
from stream_rnn.spi import Event

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "y"},
    "learner": {
        "cell": {"kind": "gru", "units": 3},
        "credit": {"kind": "tbptt", "window": 2},
        "optimizer": {"kind": "sgd"},
    },
}
ASKED = {"record": {"y": 1.0}}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Readable:
    """An engine and its readers, with a clock that is set by hand."""

    def __init__(self, **table: Any) -> None:
        job = app.build(TABLES | {"readers": {"publish_ms": 1000} | table})
        assert job.readers is not None
        self.engine: Engine = job.engine
        self.readers: Readers = job.readers
        self.clock = Clock()
        self.readers._clock = self.clock

    def event(self) -> None:
        """One event is learned, as the runtime does it."""
        engine = self.engine
        engine.feed(Event("s", engine.ordinal, b'{"y": %d}' % (engine.ordinal % 7)))
        self.readers.publish_if_asked()

    def ask(self) -> int:
        """The step that the answer was made from."""
        return self.readers.predict(ASKED).step


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PATIENCE_S", 0.02)
    monkeypatch.setattr(answers, "FIRST_S", 0.02)


@pytest.fixture
def asked_once(short_patience: None) -> Readable:
    """One event, one copy of it, one answer."""
    readable = Readable()
    with pytest.raises(Refused):
        readable.ask()
    readable.event()
    assert readable.ask() == 1
    readable.event()  # a request leaves its wish behind, and it is too early for it
    return readable


def test_while_nobody_asks_nothing_is_copied() -> None:
    readable = Readable()
    for _ in range(5):
        readable.clock.now += 10
        readable.event()
    assert readable.readers.publications == 0
    assert readable.readers.age_s() is None


def test_before_the_first_copy_a_request_waits_a_while_and_is_told_to_ask_again(
    short_patience: None,
) -> None:
    readable = Readable()
    status, body = readable.readers.answer(json.dumps(ASKED).encode())
    assert status == 503
    assert json.loads(body)["retry_after_s"] == 1


def test_between_two_copies_passes_the_configured_time(asked_once: Readable) -> None:
    assert asked_once.readers.publications == 1
    asked_once.clock.now += 0.9
    asked_once.event()
    assert asked_once.readers.publications == 1
    asked_once.clock.now += 0.2
    asked_once.event()
    assert asked_once.readers.publications == 2
    assert asked_once.ask() == 4


def test_a_copy_that_takes_long_is_made_less_often(
    asked_once: Readable, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = module.publish

    def slow(engine: Engine, at: float) -> Any:
        asked_once.clock.now += 0.5
        return made(engine, at)

    monkeypatch.setattr(module, "publish", slow)
    asked_once.clock.now += 2
    asked_once.event()
    begun = asked_once.clock.now - 0.5
    asked_once.ask()
    asked_once.clock.now = begun + 9.9  # a twentieth of the time is 10 s for 0.5 s
    asked_once.event()
    assert asked_once.readers.publications == 2
    asked_once.clock.now = begun + 10.1
    asked_once.event()
    assert asked_once.readers.publications == 3


def test_without_events_the_newest_copy_stays_the_truth(
    asked_once: Readable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_once.clock.now += 5
    asked_once.event()
    asked_once.ask()
    asked_once.clock.now += 1000
    monkeypatch.setattr(answers, "PATIENCE_S", 60.0)
    start = time.perf_counter()
    assert asked_once.ask() == 3
    assert time.perf_counter() - start < 30.0  # it waited for no other one
    asked_once.readers.publish_if_asked()
    assert asked_once.readers.publications == 2  # it would be the same


def test_an_outdated_copy_is_waited_for_and_then_used(asked_once: Readable) -> None:
    asked_once.clock.now += 1000
    start = time.perf_counter()
    assert asked_once.ask() == 1
    assert time.perf_counter() - start >= answers.PATIENCE_S


def test_who_waits_is_answered_from_the_next_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "FIRST_S", 60.0)
    readable = Readable()
    steps: list[int] = []
    thread = threading.Thread(target=lambda: steps.append(readable.ask()))
    thread.start()
    while thread.is_alive():  # learning goes on meanwhile
        readable.event()
    thread.join()
    assert readable.readers.publications == 1
    assert steps[0] >= 1


def test_more_requests_than_may_wait_are_sent_away(
    monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    monkeypatch.setattr(answers, "WAITING", 1)
    monkeypatch.setattr(answers, "FIRST_S", 60.0)
    readable = Readable(max_concurrent=1)
    done: list[int] = []
    ask: Callable[[], None] = lambda: done.append(readable.ask())  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: not readable.readers._room._value)
    status, body = readable.readers.answer(json.dumps(ASKED).encode())
    assert status == 429
    assert json.loads(body)["retry_after_s"] == 1
    readable.event()
    for thread in threads:
        thread.join()
    assert done == [1, 1]
    assert readable.ask() == 1  # there is room again


def test_without_the_table_or_switched_off_there_are_no_readers() -> None:
    assert app.build(TABLES).readers is None
    assert app.build(TABLES | {"readers": {"enabled": False}}).readers is None


def test_the_table_is_no_part_of_the_model() -> None:
    with_readers = app.build(TABLES | {"readers": {"max_concurrent": 3}})
    assert with_readers.fingerprint == app.build(TABLES).fingerprint


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"publish_ms": 0}, "publish_ms must be in 1..3600000, got 0"),
        ({"max_concurrent": 0}, "max_concurrent must be in 1..64, got 0"),
        ({"max_bytes": 3}, "max_bytes must be at least 64, got 3"),
        ({"address": "127.0.0.1:5570"}, 'expected "tcp://127.0.0.1:5570", got'),
        ({"address": "tcp://0.0.0.0:5570"}, "can be reached by other machines"),
        ({"port": 3}, "unknown key 'port'"),
    ],
)
def test_a_wrong_table_is_refused_with_the_remedy(table: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=r"\[readers\]") as error:
        app.build(TABLES | {"readers": table})
    assert words in str(error.value)


class Untold(Feedforward):
    """A recurrence of somebody's that does not tell its hidden state."""

    def hidden(self, is_ahead: bool) -> Any:
        return super(Feedforward, self).hidden(is_ahead)


def test_a_network_that_does_not_tell_its_state_has_no_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "untold", __import__("types").ModuleType("u"))
    monkeypatch.setattr("untold.Untold", Untold, raising=False)
    learner = {"cell": {"kind": "untold:Untold", "units": 3}}
    app.build(TABLES | {"learner": learner})
    with pytest.raises(ConfigError, match=r"\[readers\] Untold does not tell its `hidden` state"):
        app.build(TABLES | {"learner": learner, "readers": {}})
