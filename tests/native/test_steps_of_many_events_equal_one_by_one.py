"""Steps made many at a time are, bit for bit, those made one by one, and leave the same state."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stream_rnn.engine.frames import numerics
from stream_rnn.features.cycles import Calendar
from stream_rnn.features.encoder import Features
from stream_rnn.features.values import BadEvent
from stream_rnn.native import loading
from stream_rnn.spi import Record
from stream_rnn.tasks import Classification, Forecast, NextSymbol, Regression, Step, Task

LANES = 3
EVENTS = 180


def calendar() -> Calendar:
    return Calendar("at", ("hour", "day", "week"), 2)


def forecast(
    horizon: int = 1, target: Any = "a", numeric: Any = ("a", "b"), **features: Any
) -> Any:
    rest = {
        name: features.pop(name) for name in ("difference", "loss", "weight") if name in features
    }
    return lambda: Forecast(
        Features(numeric=list(numeric), **features), target, horizon, lanes=LANES, **rest
    )


def regression(target: Any = "y", numeric: Any = ("a", "b"), **features: Any) -> Any:
    rest = {name: features.pop(name) for name in ("previous_target", "weight") if name in features}
    return lambda: Regression(
        Features(numeric=list(numeric), **features), target, lanes=LANES, **rest
    )


FILLED: dict[str, Any] = {"missing": "previous", "scaling": "lane", "lags": {"b": [1, 5]}}
TASKS: dict[str, Callable[[], Task]] = {
    "forecast": forecast(),
    "forecast of one field": forecast(numeric=("a",)),
    "forecast 24 ahead": forecast(24, scaling="lane"),
    "forecast of two, by lane": forecast(3, ["a", "b"], scaling="lane", clip=1.5),
    "forecast of levels": forecast(2, difference=False, loss="gaussian", memory=20),
    "forecast of what is no input": forecast(2, "y"),
    "forecast, weighted": forecast(weight="w"),
    "forecast, lags": forecast(lags={"a": [1, 3, 30], "b": [2]}, gap=True),
    "forecast, gaps filled with the mean": forecast(missing="mean", categorical=["color"]),
    "forecast, gaps filled with the previous": forecast(numeric=("b", "y", "a"), **FILLED),
    "forecast, categories": forecast(categorical={"color": ["red", "blue"]}, calendar=calendar()),
    "forecast, open categories": forecast(categorical=["color", "odd"], max_categories=2),
    "regression": regression(),
    "regression by lane": regression(["y", "c"], scaling="lane", calendar=calendar()),
    "regression without the previous": regression(previous_target=False, missing="mean"),
    "regression, weighted": regression(weight="w", missing="previous"),
    "regression on nothing": regression(numeric=()),
    "classification": lambda: Classification(Features(numeric=["a"], missing="mean"), "color"),
    "next token": lambda: NextSymbol(Features(), "color"),
    "next byte": lambda: NextSymbol(Features(), "color", unit="byte"),
}
ODD: tuple[Any, ...] = (None, "7", math.nan, -math.inf, 1e30, 10**400, [1], True, 3, 2**60, 1e12)


def records(seed: int, n: int, odd: float) -> Iterator[Record]:
    """A stream with fields that jump, are of any type, or not there; `odd` of them."""
    rng = random.Random(seed)
    level = 0.0
    for i in range(n):
        level += rng.gauss(0, 1)
        record: Record = {
            "a": level,
            "b": 10.0 + 3 * math.sin(i / 5) + rng.gauss(0, 1),
            "c": rng.choice([0.0, 0.0, 5, 1e3]),
            "y": 1e-9 * level,
            "w": rng.random(),
            "at": 1_700_000_000 + 61 * i if i % 50 < 40 else "2024-05-01T10:00:00+02:00",
            "color": rng.choice(["red", "blue", "green"]),
            "odd": rng.choice([1, 1.0, "x", "y" * 300, None]) if odd else "x",
        }
        for name in list(record):
            if rng.random() < odd:
                record[name] = rng.choice(ODD)
        if rng.random() < odd:
            del record[rng.choice(list(record))]
        if rng.random() < 0.1:
            record["y"] = record["c"] = None
        yield record


def plain(task: Task) -> str:
    """All of its state, in the order it would be saved in."""
    return json.dumps(task.state_dict())


def in_turn(task: Task, record: Record, lane: int) -> list[Step] | str:
    try:
        return task.steps(record, lane)
    except BadEvent as error:
        task.features.count(error.issue)
        return str(error)


def exact(step: Any) -> str:
    """Bits, and the sign of zeros."""
    return repr(step if isinstance(step, str) else tuple(step))


@pytest.mark.parametrize("odd", [0.0, 0.04], ids=["sound", "some odd"])
@pytest.mark.parametrize("n_lanes", [1, LANES], ids=["one lane", "lanes"])
@pytest.mark.parametrize("name", TASKS)
def test_they_are_the_same_however_the_stream_is_cut(
    name: str, n_lanes: int, odd: float, kernels: loading.Library
) -> None:
    rng = random.Random(len(name))
    one_by_one, many = TASKS[name](), TASKS[name]()
    stream = [(r, rng.randrange(n_lanes)) for r in records(len(name) + n_lanes, EVENTS, odd)]
    at = 0
    while at < len(stream):
        run = stream[at : at + rng.choice([1, 2, 7, 64, 150])]
        steps = many.steps_many([record for record, _ in run], [lane for _, lane in run])
        for t in range(len(steps)):
            (truth,) = one_by_one.steps(*run[t])
            assert exact(steps.step(t)) == exact(truth)
        at += len(steps)
        if len(steps) < len(run):
            got, truth = (in_turn(task, *run[len(steps)]) for task in (many, one_by_one))
            assert repr(got) == repr(truth)
            at += 1
        assert plain(many) == plain(one_by_one)
        for task in (many, one_by_one):
            task.features.pass_over(at % 3)
            if at % 5 == 0:
                task.reset_lane(at % n_lanes)


def test_without_the_library_they_are_the_same() -> None:
    stream = list(records(1, 50, 0.0))
    with loading.switched_off():
        steps = TASKS["forecast, lags"]().steps_many(stream, [0] * len(stream))
    one_by_one = TASKS["forecast, lags"]()
    truth = [one_by_one.steps(record, 0)[0] for record in stream]
    assert [exact(steps.step(t)) for t in range(len(steps))] == list(map(exact, truth))


def test_numbers_that_flush_to_zero_do_so_in_both(kernels: loading.Library) -> None:
    rng = random.Random(0)
    stream: list[Record] = [{"a": rng.gauss(0, 1) * 1e-308, "b": 1e-160} for _ in range(100)]
    one_by_one, many = TASKS["forecast"](), TASKS["forecast"]()
    with numerics():
        truth = [one_by_one.steps(record, 0)[0] for record in stream]
        steps = many.steps_many(stream, [0] * len(stream))
    assert [exact(steps.step(t)) for t in range(len(steps))] == list(map(exact, truth))
    assert plain(many) == plain(one_by_one)


def test_a_run_is_made_without_a_call_for_each_event(
    kernels: loading.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def called(*_: object) -> list[Step]:
        raise AssertionError("one by one")

    for name in ("forecast, lags", "forecast, open categories", "regression by lane"):
        task = TASKS[name]()
        monkeypatch.setattr(task, "steps", called)
        stream = list(records(2, 60, 0.0))
        assert len(task.steps_many(stream, [0] * 60)) == 60, name


@pytest.mark.parametrize("kind", [Forecast, Classification], ids=["native", "loop"])
def test_nothing_is_counted_of_the_event_it_ends_before(
    kind: type[Forecast | Classification], kernels: loading.Library
) -> None:
    features = Features(numeric=["a", "b"], missing="mean", calendar=calendar())
    task: Task = kind(features, "b" if kind is Forecast else "color")
    sound = next(records(0, 1, 0.0))
    steps = task.steps_many([sound] * 9 + [sound | {"a": None, "at": None}], [0] * 10)
    assert len(steps) == 9
    assert features.issues == {"extra": 9}
