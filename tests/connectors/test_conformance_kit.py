"""The conformance checks must fail for the mistakes they are there for."""

import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    Record,
    Source,
)
from stream_rnn.testing import ListSink, ScriptedSource, check_sink, check_source

PAYLOADS = [b"a", b"b", b"c", b"d"]


class Good(Source):
    """The shortest source that keeps the contract; each mistake below changes one line of it."""

    guarantee = Guarantee.REPLAYABLE

    def open(self, resume: Position | None) -> None:
        self.next = int((resume or {}).get("p", -1)) + 1

    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self.next == len(PAYLOADS):
            raise EndOfStream
        last = min(self.next + max_events, len(PAYLOADS))
        events = [Event("p", n, PAYLOADS[n]) for n in range(self.next, last)]
        self.next = last
        return Batch(events, {"p": last - 1})

    def close(self) -> None:
        pass


class ResumesInclusively(Good):
    def open(self, resume: Position | None) -> None:
        self.next = int((resume or {}).get("p", 0))


class IgnoresResume(Good):
    def open(self, resume: Position | None) -> None:
        self.next = 0


class ResumeIsExclusive(Good):
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        batch = super().poll(max_events, timeout_s)
        return Batch(batch.events, {"p": self.next})


class ReturnsMore(Good):
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        return super().poll(max_events + 1, timeout_s)


class Overstays(Good):
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        time.sleep(timeout_s + 0.6)
        return super().poll(max_events, timeout_s)


class PositionsStandStill(Good):
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        batch = super().poll(max_events, timeout_s)
        return Batch([Event("p", 0, event.data) for event in batch.events], {"p": 0})


class EndsEarly(Good):
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self.next == 3:
            raise EndOfStream
        return super().poll(min(max_events, 1), timeout_s)


class NegativeLag(Good):
    def lag(self) -> Lag:
        return Lag(events=-1)


class AckRewinds(Good):
    def ack(self, resume: Position) -> None:
        self.next -= 1


class ClosesOnce(Good):
    closed = False

    def close(self) -> None:
        if self.closed:
            raise ValueError("closed twice")
        self.closed = True


class NumbersFromZero(Good):
    guarantee = Guarantee.FIRE_AND_FORGET

    def open(self, resume: Position | None) -> None:
        self.next = 0


def test_a_source_that_keeps_the_contract_passes() -> None:
    check_source(Good, expected=PAYLOADS)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ResumesInclusively, "what came after it"),
        (IgnoresResume, "what came after it"),
        (ResumeIsExclusive, "last event of the batch, inclusive"),
        (ReturnsMore, "keep the rest for the next poll"),
        (Overstays, "neither stop nor checkpoint"),
        (PositionsStandStill, "strictly increase"),
        (EndsEarly, "ended 1 event early"),
        (NegativeLag, "lag cannot be negative"),
        (AckRewinds, "with acks"),
        (NumbersFromZero, "positions must go on"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_mistake_is_found_and_named(source: type[Source], message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_source(source, expected=PAYLOADS, slack_s=0.5 if source is Overstays else 30.0)


def test_closing_twice_is_tried() -> None:
    with pytest.raises(ValueError, match="closed twice"):
        check_source(ClosesOnce, expected=PAYLOADS)


def test_other_payloads_than_expected_are_shown() -> None:
    with pytest.raises(AssertionError, match=r"event 1 is b'b', expected b'x'"):
        check_source(Good, expected=[b"a", b"x", b"c", b"d"])


@pytest.mark.parametrize(
    "script",
    [PAYLOADS, [*PAYLOADS, EndOfStream()], [Event("q", n, p) for n, p in enumerate(PAYLOADS)]],
    ids=["endless", "ended", "ready-made events"],
)
def test_a_scripted_source_conforms(script: Any) -> None:
    check_source(lambda: ScriptedSource(script), expected=PAYLOADS)


def test_a_scripted_exception_is_raised_once_behind_what_came_before_it() -> None:
    with ScriptedSource([b"a", NotConnected("gone"), {"n": 1}, EndOfStream()]) as source:
        source.open(None)
        batch = source.poll(9, 0.0)
        assert [event.data for event in batch.events] == [b"a"]
        with pytest.raises(NotConnected, match="gone"):
            source.poll(9, 0.0)
        with pytest.raises(NotConnected, match="not open"):
            source.poll(9, 0.0)
        source.open(batch.resume)
        assert [event.data for event in source.poll(9, 0.0).events] == [b'{"n": 1}']
        for _ in range(2):
            with pytest.raises(EndOfStream):
                source.poll(9, 0.0)
    assert source.opened == [None, {"script": 0}]
    assert source.n_closed == 1


def test_an_ackable_script_redelivers_what_was_not_acknowledged() -> None:
    source = ScriptedSource(PAYLOADS, Guarantee.ACKABLE)
    source.open(None)
    source.ack(source.poll(2, 0.0).resume)
    source.poll(2, 0.0)
    source.open({"script": 3})
    assert [event.data for event in source.poll(9, 0.0).events] == [b"c", b"d"]


def test_a_script_that_cannot_rewind_goes_on() -> None:
    source = ScriptedSource(PAYLOADS, Guarantee.FIRE_AND_FORGET)
    source.open(None)
    source.poll(3, 0.0)
    source.open(None)
    assert [event.data for event in source.poll(9, 0.0).events] == [b"d"]


def test_a_list_sink_conforms_and_knows_what_was_flushed() -> None:
    sink = ListSink()
    check_sink(lambda: sink, lambda: sink.records)
    sink.open()
    sink.write([{"n": -1}])
    assert (len(sink.records), sink.n_flushed) == (61, 60)


class LosesWithoutFlush(ListSink):
    def __init__(self, shared: list[Record]) -> None:
        super().__init__()
        self.shared = shared

    def flush(self) -> None:
        n = len(self.records)  # another thread may write meanwhile
        self.shared.extend(self.records[:n])
        del self.records[:n]

    def close(self) -> None:
        pass


class Overwrites(ListSink):
    def __init__(self, shared: list[Record]) -> None:
        super().__init__()
        self.records = shared

    def open(self) -> None:
        super().open()
        self.records.clear()


class Reorders(ListSink):
    def __init__(self, shared: list[Record]) -> None:
        super().__init__()
        self.records = shared

    def write(self, records: Sequence[Record]) -> None:
        super().write(records[::-1])


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        (LosesWithoutFlush, "after close without flush: 30 records arrived of 40"),
        (Overwrites, "append, do not overwrite"),
        (Reorders, "after flush: record 1 is"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_sinks_mistake_is_found_and_named(sink: Any, message: str) -> None:
    shared: list[Record] = []
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_sink(lambda: sink(shared), lambda: list(shared), patience_s=0.05)
