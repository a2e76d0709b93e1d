"""A reader is told what a sink would be, had the record come as the next event."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from stream_rnn import app
from stream_rnn.engine.engine import Engine
from stream_rnn.readers.readers import Readers
from stream_rnn.spi import Event, Record

RULE = {"credit": {"kind": "tbptt", "window": 3}, "optimizer": {"kind": "adam", "lr": 0.01}}
GRU = {"cell": {"kind": "gru", "units": 4}} | RULE
TASKS: dict[str, dict[str, Any]] = {
    "forecast": {
        "task": {"kind": "forecast", "target": "y", "horizon": 3, "weight": "w"},
        "features": {"lags": {"y": [1, 4]}},
    },
    "level": {
        "task": {"kind": "forecast", "target": ["y", "z"], "difference": False, "weight": "w"},
        "features": {"numeric": ["z"], "scaling": "lane"},
    },
    "gaussian": {
        "task": {"kind": "regression", "target": "y", "loss": "gaussian"},
        "features": {"numeric": ["z"], "categorical": ["c"], "missing": "previous"},
    },
    "classification": {
        "task": {"kind": "classification", "target": "c"},
        "features": {"numeric": ["y"]},
    },
    "tokens": {"task": {"kind": "next_symbol", "field": "c"}},
    "bytes": {"task": {"kind": "next_symbol", "field": "t", "unit": "byte"}},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "tanh": {"cell": {"kind": "tanh", "units": 4}} | RULE,
    "lstm": {"cell": {"kind": "lstm", "units": 4}} | RULE,
    "rhn": {"cell": {"kind": "rhn", "units": 4}} | RULE,
    "lru": {"cell": {"kind": "lru", "units": 4}},
    "rtu": {"cell": {"kind": "rtu", "units": 4}},
    "elstm": {"cell": {"kind": "elstm", "units": 4}},
    "stack": {
        "cell": [
            {"kind": "rtu", "units": 4},
            {"kind": "feedforward", "units": 4},
            {"kind": "gru", "units": 3},
        ]
    }
    | RULE,
    "least squares": {"cell": {"kind": "gru", "units": 4}, "head_optimizer": {"kind": "rls"}},
    "float64": GRU | {"dtype": "float64"},
    "clipped": GRU | {"optimizer": {"kind": "fptt", "inner": {"kind": "sgd", "lr": 0.1}}},
}
LANES = {"lanes": {"key": "k", "capacity": 4}}


def records(n: int, start: int = 0) -> list[Record]:
    return [
        {
            "y": math.sin(i / 2) * 10 + i % 5,
            "z": float(i * i % 7),
            "c": "uvwx"[i * i % 4],
            "t": "to be"[i % 3 :],
            "k": "abc"[i % 3],
        }
        for i in range(start, start + n)
    ]


def feed(engine: Engine, some: Sequence[Record]) -> None:
    for record in some:
        engine.feed(Event("s", engine.ordinal, json.dumps(record).encode()))


def asked(readers: Readers, *some: Record, **more: Any) -> Any:
    """Ask right after a publication."""
    readers._asked = True
    readers._next_at = 0.0
    readers.publish_if_asked()
    return readers.predict({"records": list(some)} | more)


def built(tables: dict[str, Any]) -> tuple[Engine, Readers]:
    job = app.build({"source": {"kind": "synthetic"}, "readers": {}} | tables)
    assert job.readers is not None
    return job.engine, job.readers


def close(mine: Any, theirs: Any) -> bool:
    """Equal but for rounding: a tick of one lane adds up in another order than one of four."""
    if isinstance(theirs, dict):
        return mine.keys() == theirs.keys() and all(close(mine[k], theirs[k]) for k in theirs)
    if isinstance(theirs, float):
        return math.isclose(mine, theirs, rel_tol=1e-5, abs_tol=1e-5)
    return bool(mine == theirs)


def untaught(tables: dict[str, Any], record: Record, engine: Engine) -> Record:
    """The record as an event that moves no parameter before its prediction is made."""
    if "weight" in tables["task"]:
        return record | {"w": 0}
    if engine.task.horizon:
        engine.learner.teaches = "nothing"
    return record


@pytest.mark.parametrize("lanes", [{}, LANES], ids=["one lane", "lanes"])
@pytest.mark.parametrize("tables", TASKS.values(), ids=TASKS.keys())
def test_the_next_event_gets_the_same_prediction(
    tables: dict[str, Any], lanes: dict[str, Any]
) -> None:
    engine, readers = built(tables | lanes | {"learner": GRU})
    feed(engine, records(15))
    for event in records(3, start=15):
        record = untaught(tables, event, engine)
        answer = asked(readers, record)
        feed(engine, [record])
        line = engine.outputs[-1]
        assert not engine.letters
        assert close(answer.prediction, line["prediction"])
        assert (answer.key, answer.lane) == (line["key"], "known")
        assert answer.step == engine.step - len(engine.task.steps(record, 0))
        engine.learner.teaches = "all"


@pytest.mark.parametrize("kind", ["forecast", "gaussian"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS.keys())
def test_every_network_answers_as_it_predicts(kind: str, network: dict[str, Any]) -> None:
    task: dict[str, Any] = dict(TASKS[kind]["task"])
    task.pop("weight", None)
    task["loss"] = "squared"  # which least squares need, too
    engine, readers = built(TASKS[kind] | {"task": task, "learner": network} | LANES)
    feed(engine, records(20))
    (record,) = records(1, start=20)
    answer = asked(readers, record)
    if engine.task.horizon:
        engine.learner.teaches = "nothing"
    feed(engine, [record])
    assert close(answer.prediction, engine.outputs[-1]["prediction"])


@pytest.mark.parametrize("kind", ["level", "gaussian", "classification"])
def test_several_records_roll_forward_and_leave_nothing_behind(kind: str) -> None:
    tables = TASKS[kind]
    engine, readers = built(tables | {"learner": GRU})
    feed(engine, records(20))
    before = json.dumps(engine.state_dict())
    some = [untaught(tables, record, engine) for record in records(3, start=20)]
    learner = {name: tensor.clone() for name, tensor in engine.learner.state_dict().items()}
    engine.learner.teaches = "nothing"
    answer, again = asked(readers, *some), readers.predict({"records": some})
    assert answer.prediction == again.prediction
    assert json.dumps(engine.state_dict()) == before
    assert all(t.equal(learner[name]) for name, t in engine.learner.state_dict().items())
    feed(engine, some)
    assert close(answer.prediction, engine.outputs[-1]["prediction"])
    assert not close(asked(readers, some[-1]).prediction, answer.prediction)


@pytest.mark.parametrize("scaling", ["shared", "lane"])
def test_an_unknown_key_is_predicted_from_the_start(scaling: str) -> None:
    features = {"numeric": ["z"], "scaling": scaling}
    tables = {"task": {"kind": "regression", "target": "y"}, "features": features}
    engine, readers = built(tables | LANES | {"learner": GRU})
    feed(engine, records(30))
    some = [record | {"k": "new"} for record in records(2, start=30)]
    first, second = asked(readers, some[0]), asked(readers, *some)
    assert (first.key, first.lane, second.lane) == ("new", "fresh", "fresh")
    engine.learner.teaches = "nothing"
    feed(engine, some)
    assert close(first.prediction, engine.outputs[-2]["prediction"])
    assert close(second.prediction, engine.outputs[-1]["prediction"])
    assert asked(readers, some[0]).lane == "known"


def test_a_record_that_ends_an_episode_starts_the_next_one_anew() -> None:
    tables = {"task": {"kind": "regression", "target": "y"}, "features": {"numeric": ["z"]}}
    engine, readers = built(tables | {"learner": GRU, "lanes": {"end": "last"}})
    feed(engine, records(30))
    ending, after = records(2, start=30)
    ending["last"] = True
    engine.learner.teaches = "nothing"
    answer, other = asked(readers, ending, after), asked(readers, ending | {"last": False}, after)
    feed(engine, [ending, after])
    assert close(answer.prediction, engine.outputs[-1]["prediction"])
    assert not close(other.prediction, answer.prediction)


def test_the_producers_key_names_the_stream_where_no_field_does() -> None:
    tables = {"task": {"kind": "forecast", "target": "y"}, "lanes": {"capacity": 2}}
    engine, readers = built(tables | {"learner": GRU})
    for i, record in enumerate(records(20)):
        engine.feed(Event("s", i, json.dumps(record).encode(), "ab"[i % 2]))
    (record,) = records(1, start=20)
    a, b = asked(readers, record, key="a"), asked(readers, record, key="b")
    assert (a.lane, b.lane, asked(readers, record, key="c").lane) == ("known", "known", "fresh")
    engine.learner.teaches = "nothing"
    engine.feed(Event("s", 20, json.dumps(record).encode(), "a"))
    assert close(a.prediction, engine.outputs[-1]["prediction"])
    assert not close(b.prediction, a.prediction)


def test_a_publication_stays_as_it_was_while_learning_goes_on() -> None:
    engine, readers = built(TASKS["forecast"] | LANES | {"learner": GRU})
    feed(engine, records(20))
    (record,) = records(1, start=20)
    answer = asked(readers, record)
    readers._next_at = math.inf  # no newer one
    feed(engine, records(30, start=20))
    later = readers.predict({"record": record})
    assert (later.prediction, later.step) == (answer.prediction, answer.step)
    assert later.age_s > answer.age_s


@pytest.mark.parametrize("kind", ["classification", "tokens"])
def test_a_class_or_category_that_only_a_reader_named_is_not_learned(kind: str) -> None:
    engine, readers = built(TASKS[kind] | {"learner": GRU})
    feed(engine, records(10))
    before = json.dumps(engine.state_dict())
    answer = asked(
        readers, *(record | {"c": f"only asked {i}"} for i, record in enumerate(records(3)))
    )
    assert json.dumps(engine.state_dict()) == before
    assert asked(readers, *records(3)).prediction["class"] is not None
    assert "only asked" not in str(readers.predict({"records": records(3)}))
    assert answer.lane == "known"


def test_a_key_that_lost_its_lane_since_is_answered_from_the_copy() -> None:
    engine, readers = built(TASKS["forecast"] | LANES | {"learner": GRU})
    feed(engine, records(20))
    (record,) = records(1, start=20)
    answer = asked(readers, record)
    readers._next_at = math.inf
    feed(engine, [record | {"k": f"new {i}"} for i in range(4)])
    assert engine.lanes.evictions == 3
    later = readers.predict({"record": record})
    assert (later.lane, later.prediction) == ("known", answer.prediction)
