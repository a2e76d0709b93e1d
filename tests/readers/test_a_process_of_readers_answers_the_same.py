"""Answers from shared memory are those of the daemon's own readers, to the bit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from stream_rnn import app
from stream_rnn.engine.engine import Engine
from stream_rnn.readers import answers
from stream_rnn.readers.attached import Attached
from stream_rnn.readers.readers import Readers
from stream_rnn.readers.shared import Shared
from stream_rnn.serving import attached
from stream_rnn.spi import Event, Record

RULE = {"credit": {"kind": "tbptt", "window": 3}, "optimizer": {"kind": "adam", "lr": 0.01}}
GRU = {"cell": {"kind": "gru", "units": 4}} | RULE
TASKS: dict[str, dict[str, Any]] = {
    "forecast": {
        "task": {"kind": "forecast", "target": "y", "horizon": 3},
        "features": {"lags": {"y": [1, 4]}, "scaling": "lane"},
        "lanes": {"key": "k", "capacity": 4},
    },
    "gaussian": {
        "task": {"kind": "regression", "target": ["y", "z"], "loss": "gaussian"},
        "features": {"numeric": ["w"], "categorical": ["c"], "missing": "previous"},
        "lanes": {"key": "k", "capacity": 2, "end": "e"},
    },
    "classification": {
        "task": {"kind": "classification", "target": "c"},
        "features": {"numeric": ["y"]},
    },
    "bytes": {"task": {"kind": "next_symbol", "field": "t", "unit": "byte"}},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "gru": GRU,
    "rtu": {"cell": {"kind": "rtu", "units": 4}},
    "stack": {"cell": [{"kind": "lru", "units": 4}, {"kind": "feedforward", "units": 3}]},
    "least squares": {"cell": {"kind": "gru", "units": 4}, "head_optimizer": {"kind": "rls"}},
    "float64": GRU | {"dtype": "float64"},
}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Passing(Clock):
    """Time passes while somebody looks at it."""

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class Beside:
    """One engine, asked through both ways; both copies are made at the same moment."""

    def __init__(self, tables: dict[str, Any], **readers: Any) -> None:
        common = {"source": {"kind": "synthetic"}} | tables
        job = app.build(common | {"readers": readers})
        assert job.readers is not None
        self.engine: Engine = job.engine
        self.near: Readers = job.readers
        self.clock = Clock()
        self.near._clock = self.clock
        self.shared = Shared(job.engine, 0.05, self.clock)
        copies, page = self.shared.descriptors
        model = json.loads(json.dumps(job.model))  # as the process is told
        told = {"model": model, "max_concurrent": 2, "max_bytes": 65536}
        told |= {"copies": copies, "page": page}
        self.far: Attached = attached(told, self.shared.words)
        self.far._clock = self.clock

    def feed(self, some: list[Record], key: str | None = None) -> None:
        for record in some:
            n = self.engine.ordinal
            self.engine.feed(Event("s", n, json.dumps(record).encode(), key))
        self.publish()

    def publish(self) -> None:
        """As after an event, somebody having asked both."""
        self.clock.now += 1.0
        self.near._asked = True
        self.far._take()
        self.near.publish_if_asked()
        self.shared.publish_if_asked()

    def ask(self, *some: Record, **more: Any) -> dict[str, Any]:
        """What both say, which is the same to the bit."""
        body = json.dumps({"records": list(some)} | more).encode()
        near, far = self.near.answer(body), self.far.answer(body)
        assert far == near
        assert far[0] == 200, far
        told: dict[str, Any] = json.loads(far[1])
        return told

    def close(self) -> None:
        self.far._region.close()
        self.shared.close()


@contextmanager
def beside(tables: dict[str, Any], **readers: Any) -> Iterator[Beside]:
    made = Beside(tables, **readers)
    try:
        yield made
    finally:
        made.close()


def records(n: int, start: int = 0) -> list[Record]:
    return [
        {
            "y": math.sin(i / 2) * 10 + i % 5,
            "z": float(i * i % 7),
            "w": float(i % 9),
            "c": "uvwx"[i * i % 4],
            "t": "to be"[i % 3 :],
            "k": "abcde"[i * i % 5],
            "e": i % 11 == 0,
        }
        for i in range(start, start + n)
    ]


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_every_network_answers_the_same(network: dict[str, Any]) -> None:
    tables = TASKS["forecast"] | {"learner": network}
    if "head_optimizer" in network:  # least squares
        tables["task"] = tables["task"] | {"loss": "squared"}
    with beside(tables) as both:
        for start in range(0, 40, 8):
            both.feed(records(8, start))
            for record in records(3, start + 8):
                both.ask(record)


@pytest.mark.parametrize("tables", TASKS.values(), ids=TASKS.keys())
def test_every_task_answers_the_same(tables: dict[str, Any]) -> None:
    seen = set()
    with beside(tables | {"learner": GRU}) as both:
        for start in range(0, 60, 10):
            both.feed(records(10, start))
            for record in [*records(3, start + 10), records(1)[0] | {"k": "never seen"}]:
                seen.add(both.ask(record, record)["lane"])
            both.ask(*records(2, start + 10)) if "lanes" not in tables else None
    assert seen == ({"known", "fresh"} if "lanes" in tables else {"known"})


def test_half_a_character_in_a_key_does_not_stop_the_copies() -> None:
    """No JSON holds one, but a source of somebody's may."""
    tables = {"task": {"kind": "forecast", "target": "y"}, "lanes": {"capacity": 2}}
    with beside(tables | {"learner": GRU}) as both:
        both.feed(records(5), key="\ud800")
        both.feed(records(5), key="b")
        assert both.ask(records(1)[0], key="b")["lane"] == "known"
        assert "\ud800" in both.far._take().lanes._lane_of  # type: ignore[union-attr]


def test_while_nobody_asks_nothing_is_written() -> None:
    with beside(TASKS["bytes"] | {"learner": GRU}) as both:
        for record in records(5):
            both.clock.now += 10
            both.engine.feed(Event("s", both.engine.ordinal, json.dumps(record).encode()))
            both.shared.publish_if_asked()
        assert both.shared.publications == 0
        assert both.shared.age_s() is None


def test_between_two_copies_passes_the_configured_time() -> None:
    with beside(TASKS["bytes"] | {"learner": GRU}) as both:
        both.feed(records(1))
        assert both.shared.publications == 1
        both.engine.feed(Event("s", 1, json.dumps(records(1)[0]).encode()))
        both.far._take()
        both.clock.now += 0.04
        both.shared.publish_if_asked()
        assert both.shared.publications == 1
        both.clock.now += 0.02
        both.shared.publish_if_asked()
        assert both.shared.publications == 2


def test_without_events_the_newest_copy_stays_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "PATIENCE_S", 60.0)
    with beside(TASKS["bytes"] | {"learner": GRU}) as both:
        both.feed(records(3))
        for _ in range(3):
            both.clock.now += 1000
            both.shared.publish_if_asked()
            both.ask(records(1)[0])  # without waiting
        assert both.shared.publications == 1


def test_before_the_first_copy_who_asks_is_told_to_ask_again() -> None:
    with beside(TASKS["bytes"] | {"learner": GRU}) as both:
        both.far._clock = Passing()
        assert both.far.answer(b'{"record": {"t": "x"}}')[0] == 503
        assert dict(both.shared.counts)["unpublished"] == 1


def late(both: Beside) -> int:
    """A copy that is outdated, since the learner is busy with an event; its step."""
    both.feed(records(1))
    steps = both.engine.step
    both.engine.feed(Event("s", 1, json.dumps(records(1)[0]).encode()))
    both.shared.publish_if_asked()  # nobody wished, or it is too early
    both.far._clock = both.clock = Passing()
    both.clock.now += 60.0
    return steps


def test_after_a_pause_who_asks_waits_for_a_copy_and_then_takes_the_outdated_one() -> None:
    with beside(TASKS["bytes"] | {"learner": GRU}) as both:
        steps, begun = late(both), both.clock.now
        assert both.far.predict({"record": {"t": "x"}}).step == steps
        assert 0.1 <= both.clock.now - begun < 0.2  # twice `publish_ms`


def test_who_asks_while_the_learner_is_late_does_not_wait_again() -> None:
    with beside(TASKS["bytes"] | {"learner": GRU}) as both:
        steps = late(both)
        both.far.predict({"record": {"t": "x"}})
        begun = both.clock.now
        for _ in range(3):
            assert both.far.predict({"record": {"t": "x"}}).step == steps
        assert both.clock.now - begun < 0.05


def test_no_memory_for_a_copy_costs_the_copy_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with beside(TASKS["bytes"] | {"learner": GRU}) as both:
        monkeypatch.setattr("os.posix_fallocate", _full)
        both.feed(records(1))
        assert both.shared.publications == 0
        assert "no memory for a copy for readers" in caplog.text
        monkeypatch.undo()
        both.clock.now += 61
        both.shared.publish_if_asked()
        assert both.shared.publications == 1


def _full(*given: object) -> None:
    raise OSError(28, "No space left on device")
