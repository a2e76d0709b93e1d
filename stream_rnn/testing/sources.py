"""What every source must do, tried out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stream_rnn.spi import Batch, EndOfStream, Event, Guarantee, Position, Source, worded

_RESUMES = 40  # from how many positions a long stream is resumed


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long any event may keep us waiting, and by how much a poll may miss its timeout."""

    event_s: float
    slack_s: float


def check_source(
    make: Callable[[], Source],
    *,
    expected: Sequence[bytes] | None,
    n_events: int = 3,
    patience_s: float = 60.0,
    slack_s: float = 2.0,
) -> None:
    """Assert that what `make` builds keeps the contract of `Source`.

    Args:
        make: builds a source, not opened, in front of the whole stream, every time it is called.
        expected: the payloads the stream holds, in order, at least two; a stream may go on silently
            behind them. None = not known beforehand, e.g. measurements; `n_events` are looked at.
        n_events: see `expected`.
        patience_s: how long any event may keep us waiting.
        slack_s: what a busy machine may add to a poll's timeout before we call it overstayed.
    """
    patience = _Patience(patience_s, slack_s)
    assert expected is None or len(expected) >= 2, "check_source needs two payloads or more"
    count = n_events if expected is None else len(expected)
    source = make()
    guarantee = source.guarantee
    assert source.describe().strip(), "describe() must say in one line what is read"
    assert "\n" not in source.describe(), "describe() is one line of the banner"
    source.close()  # a source whose open() never came is closed all the same
    batches = _read(make, None, 1, count, patience, acks=False)
    events = [event for batch in batches for event in batch.events]
    _check_payloads(events, expected, "polled one by one")
    _check_positions(batches)
    for max_events in (2, 7, count + 10):
        batches = _read(
            make, None, max_events, count, patience, acks=True, is_whole=expected is not None
        )
        again = [event for batch in batches for event in batch.events]
        _check_payloads(again, expected, f"polled by {max_events}, with acks")
        _check_positions(batches)
    _check_end(make, count, patience)
    if guarantee is Guarantee.REPLAYABLE:
        _check_resume(make, events, patience)
    else:
        _check_numbering_goes_on(make, events[-1], patience)


def _read(
    make: Callable[[], Source],
    resume: Position | None,
    max_events: int,
    count: int,
    patience: _Patience,
    acks: bool,
    is_whole: bool = False,
) -> list[Batch]:
    """The batches up to `count` events, from a source of their own."""
    with make() as source:
        source.open(resume)
        return _drain(source, max_events, count, patience, acks, is_whole)


def _drain(
    source: Source,
    max_events: int,
    count: int,
    patience: _Patience,
    acks: bool = False,
    is_whole: bool = False,
) -> list[Batch]:
    """Poll until `count` events came; asks for more than that only for a stream known whole."""
    batches: list[Batch] = []
    n_left, deadline = count, time.monotonic() + patience.event_s
    while n_left > 0:
        began = time.monotonic()
        try:
            batch = source.poll(max_events if is_whole else min(max_events, n_left), 0.05)
        except EndOfStream:
            raise AssertionError(
                f"the stream ended {n_left} {worded(n_left, 'event')} early: EndOfStream "
                "means that everything was delivered"
            ) from None
        took_s = time.monotonic() - began
        assert took_s <= 0.05 + patience.slack_s, (
            f"poll(timeout_s=0.05) took {took_s:.2f} s: the loop can neither stop nor checkpoint "
            "meanwhile"
        )
        assert len(batch.events) <= max_events, (
            f"poll(max_events={max_events}) returned {len(batch.events)} events: keep the rest for "
            "the next poll"
        )
        if batch.events:
            n_left, deadline = n_left - len(batch.events), time.monotonic() + patience.event_s
            batches.append(batch)
            if acks:
                source.ack(batch.resume)
        assert time.monotonic() <= deadline, (
            f"no event for {patience.event_s} s, {n_left} are missing"
        )
    _check_lag(source)
    _check_counters(source)
    return batches


def _check_payloads(events: list[Event], expected: Sequence[bytes] | None, how: str) -> None:
    assert all(isinstance(event.data, bytes) for event in events), "Event.data must be bytes"
    if expected is None:
        return
    for n, (event, data) in enumerate(zip(events, expected, strict=False)):
        assert event.data == data, f"{how}: event {n} is {event.data!r}, expected {data!r}"
    assert len(events) == len(expected), (
        f"{how}: {len(events)} events came, expected {len(expected)}"
    )


def _check_positions(batches: list[Batch]) -> None:
    last: dict[str, int | str] = {}
    for batch in batches:
        for event in batch.events:
            before = last.get(event.partition)
            assert before is None or before < event.position, (  # type: ignore[operator]
                f"positions must strictly increase within a partition under Python's <: "
                f"{event.position!r} came after {before!r} in {event.partition!r}"
            )
            last[event.partition] = event.position
        event = batch.events[-1]
        assert batch.resume.get(event.partition) == event.position, (
            f"batch.resume must name the last event of the batch, inclusive: expected "
            f"{event.partition!r} at {event.position!r}, got {dict(batch.resume)}"
        )


def _check_lag(source: Source) -> None:
    lag = source.lag()
    for value in (lag.events, lag.seconds) if lag else ():
        assert value is None or value >= 0, f"lag cannot be negative, got {lag}; unknown is None"


def _check_counters(source: Source) -> None:
    for name, value in source.counters().items():
        assert name.isidentifier(), f"counter {name!r} becomes a metric label: use a plain name"
        assert isinstance(value, int), f"counter {name} must be an int, got {value!r}"
        assert value >= 0, f"counter {name} must not be negative, got {value}"


def _check_end(make: Callable[[], Source], count: int, patience: _Patience) -> None:
    """Behind the last event: empty polls or EndOfStream, for good; close as often as you like."""
    source = make()
    try:
        source.open(None)
        resume = _drain(source, count, count, patience)[-1].resume
        began = time.monotonic()
        try:
            batch = source.poll(10, 0.1)
        except EndOfStream:
            ended_again = False
            try:
                source.poll(10, 0.0)
            except EndOfStream:
                ended_again = True
            assert ended_again, "EndOfStream must be raised again: the stream is over for good"
        else:
            if not batch.events:
                assert dict(batch.resume) == dict(resume), (
                    f"an empty batch changes no position: expected {dict(resume)}, "
                    f"got {dict(batch.resume)}"
                )
        took_s = time.monotonic() - began
        assert took_s <= 0.1 + patience.slack_s, (
            f"poll(timeout_s=0.1) at the end took {took_s:.2f} s"
        )
    finally:
        source.close()
        source.close()  # closing twice must not hurt


def _check_resume(make: Callable[[], Source], events: list[Event], patience: _Patience) -> None:
    """Resuming anywhere delivers the very same rest: nothing lost, nothing twice."""
    step = max(1, len(events) // _RESUMES)
    for n in sorted({*range(0, len(events) - 1, step), len(events) - 2}):
        resume = _read(make, None, n + 1, n + 1, patience, acks=False)[-1].resume
        rest = events[n + 1 :]
        for is_same_source in (False, True):
            with make() as source:
                if is_same_source:  # as after NotConnected: read on, then go back
                    source.open(None)
                    _drain(source, n + 2, n + 2, patience)
                source.open(resume)
                batches = _drain(source, 7, len(rest), patience)
            got = [event for batch in batches for event in batch.events]
            how = "opened again" if is_same_source else "a new source"
            places = [(event.partition, event.position, event.data) for event in got]
            assert places == [(event.partition, event.position, event.data) for event in rest], (
                f"{how} with resume={dict(resume)} must deliver what came after it, at the same "
                f"positions; first expected {rest[0]}, got {got[0]}"
            )


def _check_numbering_goes_on(make: Callable[[], Source], last: Event, patience: _Patience) -> None:
    """A source that cannot rewind still numbers on: a restart must not repeat positions."""
    with make() as source:
        source.open({last.partition: last.position})
        event = _drain(source, 1, 1, patience)[0].events[0]
    is_further = event.partition != last.partition or event.position > last.position  # type: ignore[operator]
    assert is_further, (
        f"after open({{{last.partition!r}: {last.position!r}}}) positions must go on behind it, "
        f"got {event.position!r}: the runtime would take the event for a repetition"
    )
