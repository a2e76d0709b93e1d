"""Episodes in a stream: after the last event of one its key starts anew, and nobody else does."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn import app
from stream_rnn.engine.engine import Engine
from stream_rnn.lanes import Lanes
from stream_rnn.spi import Event

GRU = {
    "cell": {"kind": "gru", "units": 4},
    "credit": {"kind": "ok", "rank": 1},
    "optimizer": {"kind": "adam", "lr": 0.01},
}
LOCKED = GRU | {"credit": {"kind": "tbptt", "window": 6, "every": 4}}
TASKS: dict[str, dict[str, Any]] = {
    "forecast": {"task": {"kind": "forecast", "target": "y", "horizon": 2}},
    "regression": {"task": {"kind": "regression", "target": "y"}},
    "classification": {"task": {"kind": "classification", "target": "c", "classes": ["1", "2"]}},
    "token": {"task": {"kind": "next_symbol", "field": "c", "vocabulary": ["1", "2"]}},
    "bytes": {"task": {"kind": "next_symbol", "field": "c", "unit": "byte"}},
}
COLORS = {"categorical": {"color": ["red", "blue"]}}
NUMBERS = {"numeric": ["x"], "lags": {"x": [1]}}


def engine(kind: str = "forecast", end: str | None = "done", **tables: Any) -> Engine:
    defaults = {"source": {"kind": "synthetic"}, "features": NUMBERS, "learner": GRU}
    lanes = {"key": "id", "capacity": 4, "batching": tables.pop("batching", "event")}
    built = app.build(defaults | TASKS[kind] | {"lanes": lanes} | tables).engine
    built.lanes = Lanes("id", 4, end)
    return built


def record(n: int, **more: Any) -> dict[str, Any]:
    y = math.sin(n / 2) * 10 + n % 5
    plain = {"x": math.cos(n), "y": y, "c": "12"[n * n % 3 % 2], "color": "red"}
    return plain | {"id": "ab"[n % 2]} | more


def event(n: int, **more: Any) -> Event:
    return Event("p", n, json.dumps(record(n, **more)).encode())


def feed(engine: Engine, stream: Iterable[Event]) -> list[dict[str, Any]]:
    for each in stream:
        engine.feed(each)
    outputs, engine.outputs = engine.outputs, []
    return outputs


def tensors(engine: Engine) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in engine.learner.state_dict().items()}


def lane_of(engine: Engine, key: str) -> dict[str, Tensor]:
    lane = engine.lanes.find(key)
    assert lane is not None
    return {name: tensor[lane].clone() for name, tensor in engine.learner.lane_state.items()}


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def host(engine: Engine) -> Any:
    return json.loads(json.dumps(engine.state_dict()))


def remembered(engine: Engine, key: str) -> list[Any]:
    """What the host keeps of a key's past events."""
    lane, state = str(engine.lanes.find(key)), host(engine)
    kept = [state["pending"], state["task"]["features"]["history"]]
    kept += [state["task"][name] for name in ("past", "previous") if name in state["task"]]
    return [each[lane] for each in kept if lane in each]


def test_the_configuration_names_the_field() -> None:
    lanes = {"key": "id", "end": "done"}
    source = {"kind": "synthetic"}
    job = app.build({"source": source, "lanes": lanes, "learner": GRU} | TASKS["forecast"])
    assert job.model["lanes"]["end"] == "done"
    feed(job.engine, [event(n, done=n == 3) for n in range(4)])
    assert not any(tensor.any() for tensor in lane_of(job.engine, "b").values())
    assert any(tensor.any() for tensor in lane_of(job.engine, "a").values())
    del lanes["end"]
    plain = app.build({"source": source, "lanes": lanes, "learner": GRU} | TASKS["forecast"])
    assert "end" not in plain.model["lanes"]
    assert plain.fingerprint != job.fingerprint


@pytest.mark.parametrize("kind", ["forecast", "regression"])
def test_the_scales_of_a_key_outlive_its_episodes(kind: str) -> None:
    ending, going_on = (engine(kind, features=NUMBERS | {"scaling": "lane"}) for _ in range(2))
    feed(ending, [event(n, done=n == 9) for n in range(10)])
    feed(going_on, [event(n) for n in range(10)])
    scales = [host(job)["task"]["features"]["scalers"] for job in (ending, going_on)]
    assert scales[0] == scales[1]
    assert len(scales[0]) == 2


@pytest.mark.parametrize("kind", TASKS)
def test_the_last_event_is_learned_then_its_key_starts_anew_and_no_other(kind: str) -> None:
    ending, going_on = engine(kind), engine(kind)
    stream = [event(n) for n in range(20)]
    for each in (ending, going_on):
        feed(each, stream)
    (line,) = feed(ending, [event(20, done=True)])
    (truth,) = feed(going_on, [event(20, done=False)])
    assert line == truth
    assert different(lane_of(ending, "b"), lane_of(going_on, "b")) == []
    assert remembered(ending, "b") == remembered(going_on, "b")
    assert not any(tensor.any() for tensor in lane_of(ending, "a").values())
    assert any(tensor.any() for tensor in lane_of(going_on, "a").values())
    assert remembered(ending, "a") == []
    assert remembered(going_on, "a") != []
    shared = {id(t) for each in (ending, going_on) for t in each.learner.lane_state.values()}
    states = [
        {k: t for k, t in each.learner.state_dict().items() if id(t) not in shared}
        for each in (ending, going_on)
    ]
    assert different(*states) == []  # what was learned is the same


@pytest.mark.parametrize("kind", ["regression", "classification", "token", "bytes"])
def test_the_next_event_of_the_key_is_like_the_first_of_a_new_key(kind: str) -> None:
    """In one tick, so with the same parameters; nothing in it moves a scale."""
    job = engine(kind, features=COLORS, batching="log")
    feed(job, [event(n) for n in range(14)])
    feed(job, [event(14, done=True), event(15)])
    unlabelled = {} if kind in ("token", "bytes") else {"y": None, "c": None}
    same = [event(16 + n, id=key, **{"c": "1"} | unlabelled) for n, key in enumerate("acb")]
    job.close_block()
    feed(job, same)
    job.close_block()
    old, new, other = (line["prediction"] for line in job.outputs[-3:])
    assert old == new
    assert other != new
    states = [lane_of(job, key)["s_BS"] for key in "acb"]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[2], states[1])


def test_a_forecast_of_what_comes_after_the_end_is_never_scored() -> None:
    job = engine()
    stream = [event(n, id="a", done=n == 4) for n in range(10)]
    due = [line["scored"] and line["scored"]["id"] for line in feed(job, stream)]
    assert due == [None, None, "p:0", "p:1", "p:2", None, None, "p:5", "p:6", "p:7"]


def test_without_the_setting_the_field_is_an_ordinary_one() -> None:
    job, plain = engine(end=None), engine(end=None)
    got = feed(job, [event(n, done=n % 5 == 4) for n in range(20)])
    assert got == feed(plain, [event(n) for n in range(20)])
    assert different(tensors(job), tensors(plain)) == []


@pytest.mark.parametrize("missing", [{}, {"done": None}, {"done": False}], ids=str)
def test_no_field_is_no_end(missing: dict[str, Any]) -> None:
    job, plain = engine(), engine(end=None)
    feed(job, [event(n, **missing) for n in range(12)])
    feed(plain, [event(n) for n in range(12)])
    assert different(tensors(job), tensors(plain)) == []


@pytest.mark.parametrize("bad", [1, 0, "true", [True], {}, 2.5], ids=repr)
def test_an_end_that_is_no_boolean_is_a_dead_letter_and_changes_nothing(bad: Any) -> None:
    job = engine()
    feed(job, [event(n) for n in range(9)])
    before = tensors(job)
    feed(job, [event(9, done=bad)])
    (letter,) = job.letters
    told = (letter["stage"], letter["issue"], letter["position"])
    assert told == ("features", "wrong_type", 9)
    assert letter["reason"].startswith("field 'done': expected true or false ([lanes] end), got ")
    assert job.task.features.issues["wrong_type"] == 1
    assert different(tensors(job), before) == []


@pytest.mark.parametrize("broken", [{"y": None}, {"x": "?"}, {"y": 1e30}], ids=str)
def test_a_last_event_of_no_use_ends_its_episode_all_the_same(broken: dict[str, Any]) -> None:
    job = engine()
    feed(job, [event(n) for n in range(8)])
    before = lane_of(job, "b")
    feed(job, [event(8, done=True, **broken)])
    assert len(job.letters) == 1
    assert not any(tensor.any() for tensor in lane_of(job, "a").values())
    assert remembered(job, "a") == []
    assert different(lane_of(job, "b"), before) == []


def test_a_last_event_that_the_learner_refuses_ends_its_episode_all_the_same() -> None:
    job = engine()
    feed(job, [event(n) for n in range(8)])
    job.learner.head.V_PF.fill_(1e30)
    feed(job, [event(8, done=True)])
    assert job.letters[0]["stage"] == "learn"
    assert not any(tensor.any() for tensor in lane_of(job, "a").values())


def test_the_end_of_a_key_without_a_lane_takes_none() -> None:
    job = engine()
    feed(job, [event(n) for n in range(8)])
    before, lanes = tensors(job), host(job)["lanes"]
    feed(job, [event(8, id="z", y=None, done=True)])
    assert different(tensors(job), before) == []
    assert host(job)["lanes"] == lanes


@pytest.mark.parametrize("length", [3, 4, 6])
def test_a_locked_window_pays_for_the_whole_episode_and_then_starts_anew(length: int) -> None:
    job = engine("regression", learner=LOCKED, features=COLORS)
    labelled = 0
    for episode in range(3):
        for i in range(length):
            n = episode * length + i
            W_ZM = job.learner.parameters()[0].clone()
            ticks, step = int(job.learner.state_dict()["recurrence.credit.ticks"]), job.step
            assert ticks == i % 4  # parts begin with the episode
            feed(job, [event(n, id="a", done=i == length - 1)])
            assert job.step == step + 1  # paying is no tick
            labelled += 1
            pays = i % 4 == 3 or i == length - 1
            assert torch.equal(job.learner.parameters()[0], W_ZM) != pays
        assert not any(tensor.any() for tensor in lane_of(job, "a").values())
    assert job.counts.applied == labelled


@pytest.mark.parametrize("learner", [GRU, LOCKED], ids=["ok", "locked"])
@pytest.mark.parametrize("batching", ["event", "log"])
@pytest.mark.parametrize("at", [1, 6, 7, 20, 31])
def test_a_restored_engine_continues_exactly_before_and_after_an_end(
    at: int, batching: str, learner: dict[str, Any]
) -> None:
    stream = [event(n, id="abc"[n * n % 3], done=n % 7 == 6) for n in range(40)]
    one, two = (engine(learner=learner, batching=batching) for _ in range(2))
    feed(one, stream[:at])
    one.drop_open_block()
    two.learner.load_state_dict(tensors(one))
    two.load_state_dict(host(one))
    two.positions = dict(one.positions)
    rest = stream[int(one.positions.get("p", -1)) + 1 :]
    assert feed(two, rest) == feed(one, rest)
    assert host(two) == host(one)
    assert different(tensors(two), tensors(one)) == []


@pytest.mark.parametrize("size", [1, 3, 40])
def test_ends_do_not_depend_on_the_size_of_a_poll(size: int) -> None:
    stream = [event(n, id="abc"[n * n % 3], done=n % 7 == 6) for n in range(40)]
    one, two = engine(batching="log"), engine(batching="log")
    expected, got = feed(one, stream), []
    for first in range(0, 40, size):
        got += feed(two, stream[first : first + size])
        two.end_of_poll()
    assert got == expected
    assert one.step < 40  # several events in a tick, really
    assert different(tensors(one), tensors(two)) == []


def test_credit_that_comes_out_unsound_at_an_episodes_end_is_told() -> None:
    """Where no episode is as long as the lock, every payment is made there."""
    told = []
    running = engine("regression", learner=LOCKED)
    running.on_tick = told.append
    for n in range(8):
        if n == 5:
            running.learner.lane_state["credit.u_BTM"][0] = math.nan
        feed(running, [event(n, id="a", done=n in (2, 5))])
    assert [tick.restarted for tick in told] == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    # ticks without a loss of their own: the first target has no scale yet, and the two payments
    assert [t for t, tick in enumerate(told) if not tick.learned] == [0, 3, 7]
