"""What is shown of a job: the rows of its table, and what its picture is drawn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_rnn import app, report, results
from stream_rnn.engine.engine import Engine
from stream_rnn.results import Trace
from stream_rnn.spi import Event, Record

LEARNER = {"cell": {"kind": "gru", "units": 4}, "credit": {"kind": "ok", "rank": 1}}
FORECAST = {"kind": "forecast", "target": "y"}
CLASSES = {"kind": "classification", "target": "c", "classes": ["a", "b", "c"]}
SEEN = {"numeric": ["x"]}
LANES = {"key": "id", "capacity": 2}


def learned(records: list[Record], task: dict[str, Any], **tables: Any) -> tuple[Engine, Trace]:
    """The engine that has taken them all, and the trace of its scores."""
    trace = Trace()
    configured = {"source": {"kind": "synthetic"}, "task": task, "learner": LEARNER, **tables}
    engine = app.build(configured, on_score=lambda *score: trace.add(engine.task, *score)).engine
    for i, record in enumerate(records):
        engine.feed(Event("p", i, json.dumps(record).encode()))
    engine.learn_waiting()
    return engine, trace


def drawn(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> dict[str, Any]:
    """What the picture is told, apart from its path and title."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(report, "plot", lambda *_, **words: told.update(words))
    assert results.plot(Path("x.png"), *arguments)
    return told


def test_the_forecasts_of_one_stream_are_kept_and_the_loss_of_all() -> None:
    records = [{"id": "ab"[i % 2], "y": 100.0 * (i % 2) + i % 3} for i in range(40)]
    _, trace = learned(records, FORECAST, lanes=LANES)
    assert (trace.stream, trace.is_one_of_several) == ("a", True)
    assert len(trace.every.recent()) == 38
    assert [point.event for point in trace.one.recent()] == list(range(3, 41, 2))
    assert all(point.target < 10 for point in trace.one.recent())


def test_a_key_that_takes_the_lane_of_another_is_another_stream() -> None:
    records = [{"id": "a" if i < 10 else "b", "y": float(i)} for i in range(20)]
    _, trace = learned(records, FORECAST, lanes={"key": "id", "capacity": 1})
    assert [point.target for point in trace.one.recent()] == list(range(1, 10))
    assert trace.every.recent()[-1].target == 19.0


def test_the_picture_says_of_which_stream_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [{"id": "ab"[i % 2], "y": float(i)} for i in range(20)]
    engine, trace = learned(records, FORECAST, lanes=LANES)
    told = drawn(monkeypatch, trace, engine.task, "", engine.lanes.key)
    assert told["stream"] == "id a"
    assert told["forecasts"] is trace.one


def test_of_one_stream_the_picture_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, trace = learned([{"y": float(i)} for i in range(20)], FORECAST)
    told = drawn(monkeypatch, trace, engine.task, "", engine.lanes.key)
    assert told["stream"] == ""
    assert told["made"] == "forecast, made in advance"


def test_what_is_predicted_of_the_event_itself_is_called_no_forecast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = [{"y": float(i % 3), "x": 1.0} for i in range(20)]
    engine, trace = learned(records, {"kind": "regression", "target": "y"}, features=SEEN)
    assert trace.every.recent()
    told = drawn(monkeypatch, trace, engine.task, "")
    assert told["made"] == "prediction, before the target was seen"


def test_of_classes_the_probability_of_the_one_that_came_and_the_accuracy_are_kept() -> None:
    records = [{"c": "aabc"[i % 4], "x": float(i % 4)} for i in range(60)]
    engine, trace = learned(records, CLASSES, features=SEEN)
    points = trace.every.recent()
    assert {point.target for point in points} == {1.0}
    assert all(0.0 < (point.prediction or 0.0) < 1.0 for point in points)
    accuracy, guesses = engine.task.scores.live_accuracy()  # type: ignore[union-attr]
    assert points[-1].accuracy == accuracy
    assert points[-1].baseline_accuracy == max(each for each in guesses.values() if each)


def test_of_several_targets_what_has_no_unit_comes_first() -> None:
    records = [{"y": float(i % 3), "z": 1e6 * (i % 2), "still": 1.0} for i in range(40)]
    engine, trace = learned(records, FORECAST | {"target": ["y", "z", "still"]})
    rows = {row.name: row for row in results.rows(engine.task)}
    each = [f"{metric} {name}" for name in "yz" for metric in ("MAE", "RMSE", "MAPE", "NRMSE")]
    assert [*rows][:10] == ["NRMSE", "MAPE", *each]
    moving = [rows["NRMSE y"].model, rows["NRMSE z"].model]
    assert rows["NRMSE still"].model is None
    assert rows["NRMSE"].model == pytest.approx(sum(m or 0.0 for m in moving) / 2)
    name, loss, _ = engine.task.scores.shown()
    assert (name, trace.every.recent()[-1].loss) == ("NRMSE", loss)
    assert loss is not None
    assert loss < 100


def test_of_one_target_an_absolute_loss_is_told_as_mae() -> None:
    engine, _ = learned([{"y": float(i % 3)} for i in range(20)], FORECAST)
    assert [row.name for row in results.rows(engine.task)] == ["MAE", "RMSE", "MAPE", "NRMSE"]
