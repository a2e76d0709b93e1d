"""A snapshot under a right hash whose values make no sense: told at the start, not ticks later."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from stream_rnn import app
from stream_rnn.assembly import memory
from stream_rnn.config import ConfigError
from stream_rnn.runtime.checkpointing import UNFIT
from stream_rnn.spi import Event, SettingError

TABLES: dict[str, Any] = {
    "source": {"kind": "synthetic"},
    "task": {"kind": "forecast", "target": "y", "horizon": 2},
    "features": {"numeric": ["x"], "categorical": ["c"], "lags": {"x": [1]}},
    "lanes": {"key": "k", "capacity": 4},
    "learner": {
        "cell": {"kind": "gru", "units": 3},
        "credit": {"kind": "ok", "rank": 2},
        "fallback": {"kind": "tbptt", "window": 4},
        "optimizer": {"kind": "adam"},
    },
}
State = dict[str, Any]


@pytest.fixture(scope="module")
def learned() -> tuple[dict[str, torch.Tensor], State]:
    job = app.build(TABLES)
    for i in range(1, 30):
        job.engine.feed(
            Event("p", i, b'{"x":%d,"y":%d,"c":"%c","k":"%d"}' % (i % 7, i, 97 + i % 3, i % 3))
        )
    tensors = {name: tensor.clone() for name, tensor in job.engine.learner.state_dict().items()}
    return tensors, {"engine": job.engine.state_dict(), "governor": job.governor.state_dict()}


def put(*way: Any, value: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        for step in way[:-1]:
            state = state[step]
        state[way[-1]] = value

    return change


TASK = ("engine", "task")
FEATURES = (*TASK, "features")
HOST = {
    "a negative step": put("engine", "step", value=-1),
    "a step that is text": put("engine", "step", value="29"),
    "an ordinal without end": put("engine", "ordinal", value=10**30),
    "a lane beyond the capacity": put("engine", "lanes", "lanes", 0, value=["0", 9]),
    "a lane left out": put("engine", "lanes", "lanes", value=[["0", 1], ["1", 2]]),
    "a key in two lanes": put("engine", "lanes", "lanes", value=[["0", 0], ["0", 1]]),
    "fewer than no evictions": put("engine", "lanes", "evictions", value=-1),
    "a scale from less than no values": put(*FEATURES, "scalers", "0", "x", 0, value=-1),
    "a scale that is text": put(*FEATURES, "scalers", "0", "x", 1, value="1.5"),
    "a negative variance": put(*FEATURES, "scalers", "0", "x", 2, value=-1.0),
    "an absurd mean": put(*FEATURES, "scalers", "0", "x", 1, value=1e300),
    "a scale in no lane": put(*FEATURES, "scalers", "7", value={}),
    "categories of no field": put(*FEATURES, "vocabularies", "zz", value=["a"]),
    "a category twice": put(*FEATURES, "vocabularies", "c", value=["a", "a"]),
    "more categories than room": put(
        *FEATURES, "vocabularies", "c", value=[str(i) for i in range(99)]
    ),
    "a history of texts": put(*FEATURES, "history", "0", "x", value=["a"]),
    "an issue of no known name": put(*FEATURES, "issues", "hello", value=1),
    "past targets too wide": put(*TASK, "past", "0", value=[[1.0, 2.0]]),
    "a pending prediction too wide": put("engine", "pending", "0", value=[["p:1", [1.0, 2.0]]]),
    "more pending than the horizon": put("engine", "pending", "0", value=[["p:1", [1.0]]] * 3),
    "a negative lane": put("engine", "pending", "-1", value=[]),
    "scores of a negative number": put(*TASK, "scores", "model", 0, "n", value=-1.0),
    "a negative sum of squares": put(*TASK, "scores", "model", 0, "squared", value=-1.0),
    "an unknown reason": put("governor", "reason", value="because"),
    "a tick before the beginning": put("governor", "tick", value=-5),
    "a change in the future": put("governor", "since", value=2**40),
}
CREDIT = "recurrence.credit."
TENSORS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "a slot outside of the window": (CREDIT + "1.newest_B", lambda t: t + 4),
    "a slot below it": (CREDIT + "1.newest_B", lambda t: t - 5),
    "credit of another number type": (CREDIT + "0.U_BCMR", lambda t: t.to(torch.int8)),
    "credit of half precision": (CREDIT + "0.U_BCMR", lambda t: t.half()),
    "credit twice as wide": (CREDIT + "0.U_BCMR", lambda t: (t + 1).double()),
    "ticks that are many": (CREDIT + "1.ticks", lambda t: torch.zeros(3, dtype=torch.int64)),
    "ticks beyond the next payment": (CREDIT + "1.ticks", lambda t: t + 100),
    "a rung there is not": (CREDIT + "level", lambda t: t + 7),
    "no random state": (CREDIT + "0.generator", torch.zeros_like),
    "a count below zero": ("learner.count_B", lambda t: t - 1000),
    "fewer than no updates": ("update.count", lambda t: t - 1000),
    "a negative square": ("update.v.0", lambda t: t - 1),
    "probes that are many": ("recurrence.fidelity.ticks", lambda t: torch.ones(2).long()),
}


def restore(tensors: dict[str, torch.Tensor], state: State) -> None:
    job = app.build(TABLES)
    job.engine.learner.load_state_dict(tensors)
    job.engine.load_state_dict(state["engine"])
    job.governor.load_state_dict(state["governor"])


def test_what_was_learned_is_taken_back(learned: tuple[dict[str, torch.Tensor], State]) -> None:
    restore(*learned)


@pytest.mark.parametrize("nonsense", HOST)
def test_a_value_that_makes_no_sense_is_refused(
    learned: tuple[dict[str, torch.Tensor], State], nonsense: str
) -> None:
    state = copy.deepcopy(learned[1])
    HOST[nonsense](state)
    with pytest.raises(UNFIT):
        restore(learned[0], state)


@pytest.mark.parametrize("nonsense", TENSORS)
def test_a_tensor_that_makes_no_sense_is_refused(
    learned: tuple[dict[str, torch.Tensor], State], nonsense: str
) -> None:
    name, change = TENSORS[nonsense]
    with pytest.raises(UNFIT):
        restore(learned[0] | {name: change(learned[0][name])}, learned[1])


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ({"cell": {"kind": "lstm", "units": 10**9}}, "units must be at most 131072"),
        (
            {"cell": [{"kind": "rtu", "units": 10**9}, {"kind": "gru", "units": 3}]},
            "units must be at most 131072",
        ),
        ({"cell": {"kind": "lstm", "units": 100_000}}, "the model would take about"),
        ({"credit": {"kind": "ok", "rank": 10**9}}, "the model would take about"),
        ({"credit": {"kind": "tbptt", "window": 10**9}}, "the model would take about"),
        ({"fallback": [{"kind": "tbptt", "window": 10**12}]}, "the model would take about"),
        ({"fidelity": {"window": 10**9, "every": 10**9}}, "window must be at most 10000"),
    ],
)
def test_a_model_without_room_is_refused_before_it_is_allocated(
    learner: State, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_room", lambda device: 16 << 30)
    with pytest.raises(ConfigError, match=message):
        app.build(TABLES | {"learner": TABLES["learner"] | learner})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lanes": {"key": "k", "capacity": 10**7}}, "capacity must be in"),
        ({"task": {"kind": "forecast", "target": "y", "season": 10**9}}, "season must be at most"),
        (
            {"task": {"kind": "classification", "target": "c", "max_classes": 10**9}},
            "at most 100000 classes",
        ),
        ({"limits": {"poll_events": 10**9}}, "poll_events must be at most"),
    ],
)
def test_a_table_of_absurd_size_is_refused(changes: State, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        app.build(TABLES | {"features": {"numeric": ["x"]}} | changes)


@pytest.mark.parametrize("position", ["12", -3])
@pytest.mark.parametrize(
    ("source", "partition"),
    [
        ({"kind": "synthetic"}, "synthetic"),
        ({"kind": "river", "dataset": "WaterFlow"}, "WaterFlow"),
    ],
)
def test_a_position_that_counts_nothing_is_refused_by_its_source(
    source: State, partition: str, position: int | str
) -> None:
    with app.build_source({"source": source}) as opened, pytest.raises(SettingError):
        opened.open({partition: position})
