"""Forecasts scored many at a time get, bit for bit, the losses and sums of one by one."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from stream_rnn.engine.pending import Pending
from stream_rnn.features.encoder import Features
from stream_rnn.native import loading
from stream_rnn.scores import Absolute, Gaussian, LossFn, NumericScores, Quantile, Squared
from stream_rnn.tasks import Classification, Forecast, Regression, Task

LANES = 3
EVENTS = 250
LOSSES: dict[str, LossFn] = {
    "squared": Squared(),
    "absolute": Absolute(),
    "quantile": Quantile(0.9),
    "gaussian": Gaussian(),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "2 ahead": {"horizon": 2, "warmup": 30},
    "24 ahead, season": {"horizon": 24, "season": 7, "fading": 0.9},
    "short season": {"season": 3, "warmup": 10**6},
}
Forecasts = tuple[int, list[float] | None, list[float]]


def forecasts(
    seed: int, width: int, has_std: bool, n_lanes: int, odd: float
) -> Iterator[Forecasts]:
    """Lane, prediction and target; `odd` of them are not there, not finite, or absurd."""
    rng = random.Random(seed)
    level = 0.0
    for _ in range(EVENTS):
        level += rng.choice([0.0, rng.gauss(0, 1)])
        target = [level * (q + 1) for q in range(width)]
        prediction: list[float] | None = [y + rng.choice([0.0, rng.gauss(0, 1)]) for y in target]
        assert prediction is not None
        if has_std:
            prediction += [rng.random() for _ in range(width)]
        if rng.random() < odd:
            prediction[rng.randrange(len(prediction))] = rng.choice(
                [math.nan, math.inf, -1.0, 0.0, 1e101, 1e99]
            )
        if rng.random() < odd:
            prediction = None
        if rng.random() < odd / 10:
            target[rng.randrange(width)] = rng.choice([math.nan, -math.inf, 1e120, 1e90])
        yield rng.randrange(n_lanes), prediction, target


def cuts(stream: list[Any], rng: random.Random) -> Iterator[list[Any]]:
    at = 0
    while at < len(stream):
        size = rng.choice([1, 3, 4, 20, 64, 150])
        yield stream[at : at + size]
        at += size


@pytest.mark.parametrize("odd", [0.0, 0.1], ids=["sound", "some odd"])
@pytest.mark.parametrize("n_lanes", [1, LANES], ids=["one lane", "lanes"])
@pytest.mark.parametrize("width", [1, 3], ids=["one target", "three"])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("loss", LOSSES)
def test_they_are_the_same_however_the_stream_is_cut(
    loss: str, settings: str, width: int, n_lanes: int, odd: float, kernels: loading.Library
) -> None:
    names = ["x", "y", "z"][:width]
    one_by_one, many = (
        NumericScores(names, LOSSES[loss], n_lanes=LANES, **SETTINGS[settings]) for _ in range(2)
    )
    rng = random.Random(width)
    stream = list(forecasts(n_lanes, width, LOSSES[loss].needs_std, n_lanes, odd))
    for run in cuts(stream, rng):
        truth = [one_by_one.update(*each) for each in run]
        lanes, predictions, targets = (list(column) for column in zip(*run, strict=True))
        assert repr(many.update_many(lanes, predictions, targets)) == repr(truth)
        assert repr(many.state_dict()) == repr(one_by_one.state_dict())
        if rng.random() < 0.1:
            for scores in (one_by_one, many):
                scores.reset_lane(run[0][0])


def test_a_run_is_judged_without_a_call_for_each_event(
    kernels: loading.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = NumericScores(["y"], Absolute())

    def called(*_: object) -> float:
        raise AssertionError("one by one")

    monkeypatch.setattr(scores, "update", called)
    assert scores.update_many([0] * 8, [None, *([[1.0]] * 7)], [[3.0]] * 8) == [None, *[2.0] * 7]
    monkeypatch.undo()
    with loading.switched_off():
        assert scores.update_many([0], [[1.0]], [[3.0]]) == [2.0]


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (([0] * 9, [[1.0]] * 8 + [[1.0, 2.0]], [[1.0]] * 9), "expected 1 predicted values, got 2"),
        (([0] * 9, [[1.0]] * 9, [[1.0]] * 8 + [[]]), "expected 1 targets"),
        (([0] * 8 + [5], [[1.0]] * 9, [[1.0]] * 9), "lane 5 of 3"),
        (([0] * 8, [[1.0]] * 9, [[1.0]] * 9), "longer"),
    ],
)
def test_what_does_not_fit_is_told_as_one_by_one(
    run: tuple[Any, Any, Any], message: str, kernels: loading.Library
) -> None:
    scores = NumericScores(["y"], Absolute(), n_lanes=LANES)
    with pytest.raises(ValueError, match=message):
        scores.update_many(*run)


def features() -> Features:
    return Features(numeric=["a"])


TASKS: dict[str, Callable[[], Task]] = {
    "forecast": lambda: Forecast(features(), "a", lanes=LANES),
    "gaussian forecast 3 ahead": lambda: Forecast(
        features(), ["a", "y"], 3, "gaussian", season=5, lanes=LANES
    ),
    "forecast 100 ahead": lambda: Forecast(features(), "a", 100, lanes=LANES, difference=False),
    "regression": lambda: Regression(features(), ["y"], "squared", lanes=LANES),
    "classification": lambda: Classification(features(), "color", lanes=LANES),
}


def saved(*parts: Task | Pending) -> str:
    return json.dumps([part.state_dict() for part in parts])


@pytest.mark.parametrize("native", [True, False], ids=["native", "twin"])
@pytest.mark.parametrize("n_lanes", [1, LANES], ids=["one lane", "lanes"])
@pytest.mark.parametrize("name", TASKS)
def test_predictions_settle_and_are_published_as_one_by_one(
    name: str, n_lanes: int, native: bool, kernels: loading.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(loading, "_found", None)
        monkeypatch.setattr(loading, "_why", "not built")
    rng = random.Random(n_lanes)
    one_by_one, many = TASKS[name](), TASKS[name]()
    waiting_one, waiting_many = Pending(one_by_one), Pending(many)
    stream = [
        (
            {
                "a": rng.gauss(0, 1),
                "y": None if name == "regression" and rng.random() < 0.3 else rng.gauss(3, 1),
                "color": rng.choice(["red", "blue", "green", None]),
            },
            rng.randrange(n_lanes),
        )
        for _ in range(EVENTS)
    ]
    width = len(many.output_names())
    seen = 0
    for run in cuts(stream, rng):
        records, lanes = (list(column) for column in zip(*run, strict=True))
        steps = many.steps_many(records, lanes)
        assert len(steps) == len(run)
        ids = [f"p:{seen + i}" for i in range(len(run))]
        seen += len(run)
        outputs_TP = np.array([[rng.random() for _ in range(width)] for _ in run], np.float32)
        cut = rng.randrange(len(run) + 1)  # learned in two calls
        for a, b in ((0, cut), (cut, len(run))):
            part = steps.part(a, b)
            natural = many.natural_many(outputs_TP[a:b], part)
            published = many.publish_many(natural, part)
            settled = waiting_many.settle_many(lanes[a:b], ids[a:b], natural, part.targets)
            for t in range(a, b):
                (step,) = one_by_one.steps(*run[t])
                truth = one_by_one.natural(outputs_TP[t].tolist(), step)
                assert repr(natural[t - a]) == repr(truth)
                assert repr(published[t - a]) == repr(one_by_one.publish(truth, step))
                scored = waiting_one.settle(lanes[t], ids[t], truth, step.target)
                assert repr(settled[t - a]) == repr(scored)
        assert saved(many, waiting_many) == saved(one_by_one, waiting_one)
