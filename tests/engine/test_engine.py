"""Events -> predictions: blocks, dead letters, evicted lanes, state that continues exactly."""

import base64
import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from typing_extensions import override

from stream_rnn import app
from stream_rnn.engine.attempts import Unwatched
from stream_rnn.engine.engine import Engine
from stream_rnn.spi import Event

TINY = {
    "cell": {"kind": "gru", "units": 4},
    "credit": {"kind": "ok", "rank": 1},
    "fallback": {"kind": "tbptt", "window": 4},
    "optimizer": {"kind": "adam", "lr": 0.01},
}
LANES = {"key": "id", "capacity": 4}


def engine(**tables: Any) -> Engine:
    defaults = {
        "source": {"kind": "synthetic"},
        "task": {"kind": "forecast", "target": "y", "horizon": 2},
        "learner": TINY,
    }
    return app.build(defaults | tables).engine


def events(n: int, keys: str = "abc") -> list[Event]:
    records = [
        {"y": math.sin(i / 2) * 10 + i % 5, "id": keys[(i * i) % len(keys)]} for i in range(n)
    ]
    records[n // 2]["y"] = None
    return [Event("p", i, json.dumps(record).encode()) for i, record in enumerate(records)]


def feed(engine: Engine, stream: Iterable[Event]) -> list[dict[str, Any]]:
    for event in stream:
        engine.feed(event)
    outputs, engine.outputs = engine.outputs, []
    return outputs


def same_tensors(one: Engine, two: Engine) -> bool:
    mine, other = one.learner.state_dict(), two.learner.state_dict()
    return mine.keys() == other.keys() and all(mine[k].equal(other[k]) for k in mine)


def host(engine: Engine) -> Any:
    return json.loads(json.dumps(engine.state_dict()))


# Blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 50])
def test_blocks_by_position_do_not_depend_on_the_size_of_a_poll(size: int) -> None:
    lanes = {"lanes": LANES | {"batching": "log"}}
    one, two = engine(**lanes), engine(**lanes)
    stream = events(50)
    expected = feed(one, stream)
    got = []
    for start in range(0, 50, size):
        got += feed(two, stream[start : start + size])
        two.end_of_poll()
    assert got == expected
    assert 10 < one.step < 50  # several events per tick, really
    assert host(one) == host(two)
    assert same_tensors(one, two)


def test_a_block_by_time_closes_at_the_end_of_a_poll() -> None:
    by_time = engine(lanes=LANES | {"batching": "time"})
    feed(by_time, events(2, "ab"))
    assert not by_time.at_boundary
    by_time.end_of_poll()
    assert by_time.at_boundary
    assert by_time.step == 1


def test_a_block_holds_a_lane_at_most_once_and_no_more_events_than_lanes() -> None:
    by_log = engine(lanes=LANES | {"batching": "log"})
    keys = [json.dumps({"y": 1.0, "id": key}).encode() for key in "abcdeffgh"]
    steps = []
    for n, data in enumerate(keys):
        by_log.feed(Event("p", n, data))
        steps.append(by_log.step)
    assert steps == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # four lanes full; then f comes twice


def test_an_open_block_can_be_dropped_without_a_trace() -> None:
    lanes = {"lanes": LANES | {"batching": "log"}}
    one, two = engine(**lanes), engine(**lanes)
    stream = events(40)
    expected = feed(one, stream)
    got = feed(two, stream[:20])
    assert two.fed > two.ordinal
    two.drop_open_block()
    position = two.positions["p"]
    assert isinstance(position, int)
    assert two.last_fed("p") == position
    got += feed(two, stream[position + 1 :])
    assert got == expected
    assert same_tensors(one, two)


# Lanes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        {"kind": "forecast", "target": "y", "horizon": 2},
        {"kind": "regression", "target": "y"},
        {"kind": "classification", "target": "y", "classes": [0, 1, 2, 3, 4]},
        {"kind": "next_symbol", "field": "y", "vocabulary": ["0", "1", "2", "3", "4"]},
    ],
    ids=lambda task: str(task["kind"]),
)
def test_a_key_in_a_lane_taken_from_another_starts_from_nothing(task: dict[str, Any]) -> None:
    features = {"numeric": ["x"], "lags": {"x": [1]}, "scaling": "lane"}
    small = engine(
        task=task,
        features=features,
        lanes={"key": "id", "capacity": 1},
    )
    small.learner.teaches = "nothing"
    stream = [{"x": math.sin(i), "y": i % 5} for i in range(8)]

    def predictions(key: str) -> list[Any]:
        lines = []
        for i, record in enumerate(stream):
            small.feed(Event(key, i, json.dumps(record | {"id": key}).encode()))
            line = small.outputs[-1]
            lines.append((line["prediction"], line["scored"] and line["scored"]["loss"]))
        return lines

    first = predictions("a")
    assert predictions("b") == first
    assert small.lanes.evictions == 1
    assert predictions("a") == first


def test_the_state_of_a_lane_is_all_zero_before_the_next_tick_after_it_was_taken() -> None:
    small = engine(lanes={"key": "id", "capacity": 2})
    feed(small, events(30, "ab"))
    assert any(bool(t[1].any()) for t in small.learner.lane_state.values())
    small._reset_lane(1)
    small._learn_laid()
    assert not any(bool(t[1].any()) for t in small.learner.lane_state.values())
    assert any(bool(t[0].any()) for t in small.learner.lane_state.values())


# Dead letters ---------------------------------------------------------------------------------


def test_a_dead_letter_tells_where_when_why_and_what() -> None:
    job = engine()
    data = b"\xff not JSON" * 1000
    job.feed(Event("orders", 17, data, key="k" * 1_000_000, timestamp=3.5))
    (letter,) = job.letters
    assert letter.pop("reason").startswith("expected a JSON object, got 10000 bytes")
    assert base64.b64decode(letter.pop("data_base64")) == data[:4096]
    assert letter == {
        "id": "orders:17",
        "partition": "orders",
        "position": 17,
        "stage": "decode",
        "issue": "undecodable",
        "key": "k" * 256,
        "timestamp": 3.5,
        "size_bytes": 10000,
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    assert job.counts.rejected == {"decode": 1, "features": 0, "learn": 0, "poison": 0}
    assert job.positions == {"orders": 17}


def test_a_bad_event_changes_nothing_but_counts_and_position() -> None:
    one, two = engine(), engine()
    good = [event for event in events(30) if b"null" not in event.data]
    bad = [b"", b"[1]", b'{"y": 1e30}', b'{"y": "7"}', b'{"z": 1}', b'{"y": null}', b'{"y":1e999}']
    expected = feed(one, good)
    got = []
    for event in good:
        got += feed(two, [event])
        feed(two, [Event("q", n, data) for n, data in enumerate(bad)])
    assert [o["prediction"] for o in got] == [o["prediction"] for o in expected]
    assert same_tensors(one, two)
    assert two.step == one.step
    assert sum(two.counts.rejected.values()) == len(bad) * len(good) == len(two.letters)


def test_a_bad_event_in_a_block_leaves_the_others_alone() -> None:
    by_log = engine(lanes=LANES | {"batching": "log"})
    block = [{"y": 1.0, "id": "a"}, {"y": "?", "id": "b"}, {"y": 2.0, "id": "c"}, {"id": None}]
    outputs = feed(by_log, [Event("p", n, json.dumps(r).encode()) for n, r in enumerate(block)])
    assert [output["position"] for output in outputs] == [0, 2]
    assert [letter["position"] for letter in by_log.letters] == [1, 3]
    assert by_log.positions == {"p": 3}
    assert by_log.step == 1


# Replays and state ----------------------------------------------------------------------------


class Notes(Unwatched):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    @override
    def decoding(self, ordinal: int, event: Event) -> None:
        self.told.append(f"decoding {ordinal}")

    @override
    def decoded(self) -> None:
        self.told.append("decoded")

    @override
    def learning(self, first: int, n: int, event: Event) -> None:
        self.told.append(f"learning {n} from {first}, at {event.position}")

    @override
    def done(self, ordinal: int) -> None:
        self.told.append(f"done {ordinal}")


def test_each_attempt_of_an_event_is_told_from_decoding_to_done() -> None:
    job = engine()
    notes = job.attempts = Notes()
    feed(job, events(2))
    assert notes.told == [
        *("decoding 1", "learning 1 from 1, at 0", "done 1"),
        *("decoding 2", "learning 1 from 2, at 1", "done 2"),
    ]


def test_an_event_that_waits_in_an_open_block_is_not_being_attempted() -> None:
    job = engine(lanes={"key": "id", "capacity": 2, "batching": "log"})
    notes = job.attempts = Notes()
    for event in events(3):
        job.feed(event)
    waiting = ["decoding 1", "decoded", "decoding 2", "decoded"]
    assert notes.told[:4] == waiting
    assert notes.told[4:6] == ["learning 2 from 1, at 0", "done 2"]
    assert notes.told[6:] == ["decoding 3", "decoded"]


def test_predictions_up_to_the_mark_are_told_replayed() -> None:
    job = engine()
    job.replayed_until = 3
    outputs = feed(job, events(8))
    assert [o["replayed"] for o in outputs] == [True] * 3 + [False] * 4  # the fifth is bad
    assert job.counts.replayed == 3


@pytest.mark.parametrize("batching", ["event", "log"])
@pytest.mark.parametrize("at", [1, 7, 23])
def test_a_restored_engine_continues_exactly(batching: str, at: int) -> None:
    tables = {
        "lanes": {"key": "id", "capacity": 2, "batching": batching},
        "features": {"numeric": ["y"], "categorical": ["id"], "lags": {"y": [1, 3]}},
    }
    one, two = engine(**tables), engine(**tables)
    stream = events(60)
    feed(one, stream[:at])
    one.drop_open_block()
    tensors = {name: t.clone() for name, t in one.learner.state_dict().items()}
    two.learner.load_state_dict(tensors)
    two.load_state_dict(host(one))
    two.positions = dict(one.positions)
    assert host(two) == host(one)
    rest = [e for e in stream if e.position > one.positions.get("p", -1)]  # type: ignore[operator]
    assert feed(two, rest) == feed(one, rest)
    assert host(two) == host(one)
    assert same_tensors(one, two)


def test_parameters_move_by_the_ratio_that_is_told() -> None:
    job = engine()
    feed(job, events(20))
    before = [p.clone() for p in job.learner.parameters()]
    job.probe_update = True
    feed(job, [Event("q", 0, b'{"y": 3.0}')])
    moved = sum(
        float((b - a).square().sum()) for a, b in zip(before, job.learner.parameters(), strict=True)
    )
    size = sum(float(p.square().sum()) for p in job.learner.parameters())
    assert job.update_ratio == pytest.approx(math.sqrt(moved / size))
    assert not job.probe_update


@pytest.mark.parametrize("scaling", ["shared", "lane"])
def test_an_event_that_cannot_be_used_takes_no_lane_from_another_key(scaling: str) -> None:
    tables = {
        "source": {"kind": "synthetic"},
        "task": {"kind": "forecast", "target": "y"},
        "features": {"numeric": ["y"], "scaling": scaling},
        "lanes": {"key": "id", "capacity": 2},
        "learner": {
            "kind": "auto",
            "cell": {"kind": "gru", "units": 3},
            "credit": {"kind": "ok", "rank": 1},
        },
    }
    engine = app.build(tables).engine
    good = [json.dumps({"id": "ab"[i % 2], "y": i}).encode() for i in range(8)]
    bad = [
        b'{"id": "c", "y": null}',
        b'{"id": "d"}',
        b'{"id": "e", "y": "?"}',
        b'{"id": "f", "y": 1e30}',
    ]
    for position, data in enumerate(good):
        engine.feed(Event("p", position, data))
    before = json.dumps(engine.state_dict()["lanes"])
    tensors = {k: t.clone() for k, t in engine.learner.state_dict().items()}
    for position, data in enumerate(bad, len(good)):
        engine.feed(Event("p", position, data))
    assert engine.counts.rejected["features"] == len(bad)
    assert json.dumps(engine.state_dict()["lanes"]) == before
    assert all(torch.equal(t, tensors[k]) for k, t in engine.learner.state_dict().items())
