"""Events that are learned together leave what they leave one by one: every bit, line and letter."""

import json
import math
import string
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stream_rnn import app
from stream_rnn.engine.attempts import Unwatched
from stream_rnn.engine.engine import Engine
from stream_rnn.engine.frames import Tick
from stream_rnn.evaluation import evaluate
from stream_rnn.native import loading
from stream_rnn.results import Trace
from stream_rnn.spi import Codec, Event, Record

ELEMENTWISE = {"cell": {"kind": "lru", "units": 4}}
NOISY = {
    "cell": {"kind": "lstm", "units": 4},
    "credit": {"kind": "ok", "rank": 2},
    "fallback": {"kind": "tbptt", "window": 4},
}
LOCKED = {
    "cell": {"kind": "tanh", "units": 4},
    "credit": {"kind": "tbptt", "window": 4, "every": 4},
}
WATCHED = NOISY | {"fidelity": {"every": 16, "window": 8}}
LEARNERS = {"elementwise": ELEMENTWISE, "noisy": NOISY, "locked": LOCKED, "watched": WATCHED}
FORECAST = {"kind": "forecast", "target": "y", "horizon": 2}
SYMBOLS = {"kind": "next_symbol", "field": "text", "unit": "byte"}


@pytest.fixture
def engine(kernels: loading.Library, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    # on a busy machine the clock would cut runs where a test expects one
    monkeypatch.setattr("stream_rnn.engine.run.AIM_S", 1e6)

    def make(run: int, learner: Any, **tables: Any) -> Engine:
        defaults = {"source": {"kind": "synthetic"}, "task": FORECAST, "learner": learner}
        one = app.build(defaults | tables).engine
        one.learn_in_runs(run)
        one.most_ticks = lambda: 1_000
        return one

    return make


def events(n: int, keys: str = "a", **more: Any) -> list[Event]:
    records: list[Any] = [
        {"y": math.sin(i / 2) * 10 + i % 5, "id": keys[(7 * i + i // 3) % len(keys)]} | more
        for i in range(n)
    ]
    records[n // 2]["y"] = None  # the features refuse it
    records[n // 3]["y"] = 1e300
    data = [json.dumps(record).encode() for record in records]
    data[n // 4] = b"no JSON"
    return [Event("p", i, each) for i, each in enumerate(data)]


def fed(engine: Engine, polled: list[Event], together: bool) -> Iterator[int]:
    """Feed a poll, as the daemon does or one by one; the place reached each time."""
    at = 0
    while at < len(polled):
        if together:
            at = engine.feed_many(polled, at)
        else:
            engine.feed(polled[at])
            at += 1
        yield at


def learned(
    engine: Engine, stream: list[Event], poll: int = 10_000, *, together: bool = True
) -> dict[str, Any]:
    """Feed it all, in polls of that many events; everything that can be seen afterwards.

    `together`: as the daemon does, else one by one.
    """
    for start in range(0, len(stream), poll):
        for _ in fed(engine, stream[start : start + poll], together):
            pass
        engine.end_of_poll()
    tensors = {name: t.tolist() for name, t in engine.learner.state_dict().items()}
    counts = engine.counts
    return {
        "outputs": engine.outputs,
        "letters": engine.letters,
        "host": json.loads(json.dumps(engine.state_dict())),
        "tensors": tensors,
        "positions": engine.positions,
        "counts": (counts.applied, counts.scored, counts.replayed, counts.rejected),
    }


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("poll", [1, 7, 1000])
@pytest.mark.parametrize("run", [2, 16, 256])
@pytest.mark.parametrize("learner", LEARNERS)
def test_however_a_stream_is_cut_into_runs_the_outcome_is_the_same(
    learner: str, run: int, poll: int, together: bool, engine: Callable[..., Engine]
) -> None:
    stream = events(90)
    expected = learned(engine(1, LEARNERS[learner]), stream, together=False)
    assert len(expected["outputs"]) == 87
    one = engine(run, LEARNERS[learner])
    assert learned(one, stream, poll, together=together) == expected


@pytest.mark.parametrize("batching", ["event", "log"])
@pytest.mark.parametrize(("capacity", "keys"), [(3, "abcde"), (12, "abcdefghijklmnopqrs")])
@pytest.mark.parametrize("learner", LEARNERS)
def test_with_many_keys_that_take_lanes_from_each_other(
    learner: str, capacity: int, keys: str, batching: str, engine: Callable[..., Engine]
) -> None:
    lanes = {"lanes": {"key": "id", "capacity": capacity, "batching": batching}}
    stream = events(120, keys)
    expected = learned(engine(1, LEARNERS[learner], **lanes), stream)
    assert expected["host"]["lanes"]["evictions"] > 10
    assert learned(engine(64, LEARNERS[learner], **lanes), stream, 50) == expected


@pytest.mark.parametrize("keys", ["a", "abcde"])
def test_with_weighted_losses(keys: str, engine: Callable[..., Engine]) -> None:
    told: list[Tick] = []
    fptt = {"cell": {"kind": "lstm", "units": 4}, "optimizer": {"kind": "fptt"}}
    tables = {"task": FORECAST | {"weight": "w"}, "lanes": {"key": "id", "capacity": 3}}
    stream = [
        Event("p", i, each.data.replace(b"}", b', "w": 0.%d}' % (i % 7)) if i % 3 else each.data)
        for i, each in enumerate(events(120, keys))
    ]
    expected = learned(engine(1, fptt, **tables), stream, together=False)
    one = engine(64, fptt, **tables)
    one.on_tick = told.append
    assert learned(one, stream, 50) == expected
    assert max(tick.n for tick in told) > 5


def test_a_lane_that_has_no_event_in_a_run_is_given_away_within_it(
    engine: Callable[..., Engine],
) -> None:
    told: list[Tick] = []
    one = engine(64, ELEMENTWISE, lanes={"key": "id", "capacity": 26})
    stream = [
        Event("p", i, json.dumps({"y": i, "id": each}).encode())
        for i, each in enumerate(string.ascii_letters)
    ]
    learned(one, stream[:26])
    one.on_tick = told.append
    learned(one, stream[26:])
    assert one.lanes.evictions == 26
    assert [tick.n for tick in told] == [25, 1]


def test_with_episodes_that_end_in_the_middle_of_a_poll(engine: Callable[..., Engine]) -> None:
    lanes = {"lanes": {"key": "id", "capacity": 3, "end": "over"}}
    stream = events(60, "ab")
    for i in range(7, 60, 11):
        stream[i] = Event(
            "p", i, json.dumps({"y": i / 9, "id": "ab"[i % 2], "over": True}).encode()
        )
    expected = learned(engine(1, NOISY, **lanes), stream)
    assert learned(engine(64, NOISY, **lanes), stream) == expected


def test_with_events_of_several_ticks(engine: Callable[..., Engine]) -> None:
    words = ["so", "", "it", "goes on", "and on" * 20]
    stream = [Event("p", i, json.dumps({"text": words[i % 5] + "."}).encode()) for i in range(40)]
    expected = learned(engine(1, ELEMENTWISE, task=SYMBOLS), stream)
    assert expected["host"]["step"] > 500
    assert learned(engine(32, ELEMENTWISE, task=SYMBOLS), stream, 9) == expected


def test_a_run_is_told_in_pieces_that_add_up(engine: Callable[..., Engine]) -> None:
    told: list[Tick] = []
    one = engine(64, ELEMENTWISE)
    one.most_ticks, one.on_tick = (lambda: 10), told.append
    learned(one, events(64))
    assert sum(tick.n for tick in told) == one.step == 61
    assert max(tick.n for tick in told) == 9  # a piece of 10: the calm ones, and the last


@pytest.mark.parametrize("together", [True, False])
def test_a_run_ends_where_a_snapshot_is_due(together: bool, engine: Callable[..., Engine]) -> None:
    one = engine(64, ELEMENTWISE)
    one.stops_every = 10
    boundaries = [one.ordinal for _ in fed(one, events(64), together) if one.at_boundary]
    assert {10, 20, 30, 40, 50, 60} <= set(boundaries)
    assert len(boundaries) < 20


def test_what_waits_for_its_run_can_be_dropped_without_a_trace(
    engine: Callable[..., Engine],
) -> None:
    stream = events(60)
    expected = learned(engine(1, NOISY), stream)
    one = engine(256, NOISY)
    learned(one, stream[:30])
    for event in stream[30:33]:
        one.feed(event)
    assert not one.at_boundary
    assert (one.fed, one.ordinal, one.last_fed("p")) == (33, 30, 32)
    one.drop_open_block()
    assert (one.fed, one.last_fed("p")) == (30, 29)
    assert learned(one, stream[30:]) == expected


@pytest.mark.usefixtures("kernels")
def test_a_picture_has_each_event_at_its_place() -> None:
    tables = {
        "source": {"kind": "synthetic", "n": 300},
        "task": FORECAST | {"target": "value"},
        "learner": ELEMENTWISE,
    }
    trace = Trace()
    evaluate(tables, None, None, trace)
    points = trace.every.recent()
    assert [point.event for point in points] == list(range(3, 301))
    assert len({point.loss for point in points}) == len(points)


class Counting:
    """Another codec's records, by the number of what it was given."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.given: list[bytes] = []

    def decode(self, data: bytes) -> Record:
        self.given.append(data)
        return self.codec.decode(data) | {"number": len(self.given)}


@pytest.mark.parametrize("lanes", [{}, {"key": "id"}, {"key": "id", "end": "last"}])
def test_a_codec_sees_each_event_once_whatever_else_comes_in_its_poll(
    lanes: dict[str, str], engine: Callable[..., Engine]
) -> None:
    one = engine(256, ELEMENTWISE, lanes=lanes | {"capacity": 3})
    learned(one, events(8))  # how long a run may be is known now
    codec = one.codec = Counting(one.codec)
    records = [{"y": float(i), "id": "ab"[i % 2], "last": i == 9} for i in range(20)]
    data = [json.dumps(record).encode() for record in records]
    for place in (0, 5, 6, 19):
        data[place] = b"no JSON %d" % place
    data[12] = b'{"y": 12, "id": [], "last": "?"}'  # neither a key nor whether it is the last
    positions = range(8, 28)
    learned(one, [Event("p", at, each) for at, each in zip(positions, data, strict=True)])
    assert codec.given == data
    undecodable = [letter for letter in one.letters[1:] if letter["stage"] == "decode"]
    assert [letter["position"] - 8 for letter in undecodable] == [0, 5, 6, 19]


class Suspicious(Unwatched):
    """Events 11 to 20 are those the last process died in."""

    def together(self, first: int, n: int) -> int:
        return n if first > 20 else max(0, min(n, 11 - first))

    def __init__(self) -> None:
        self.runs: list[tuple[int, int]] = []

    def is_suspect(self, ordinal: int) -> bool:
        return 11 <= ordinal <= 20

    def learning(self, first: int, n: int, event: Event) -> None:
        self.runs.append((first, n))


@pytest.mark.parametrize("together", [True, False])
def test_suspects_are_learned_block_by_block(together: bool, engine: Callable[..., Engine]) -> None:
    one = engine(256, ELEMENTWISE)
    one.attempts = watch = Suspicious()
    learned(one, events(8))  # how long a run may be is known now
    watch.runs.clear()
    learned(one, events(40)[8:], together=together)
    assert [(first, n) for first, n in watch.runs if 11 <= first <= 20] == [
        (first, 1) for first in range(11, 21)
    ]
    assert sum(n for _, n in watch.runs) == 32
    assert max(n for _, n in watch.runs) > 1
