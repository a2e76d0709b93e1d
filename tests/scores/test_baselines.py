from __future__ import annotations

import json
import math
import random
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_rnn.scores.class_baselines import ClassBaselines
from stream_rnn.scores.numeric_baselines import NumericBaselines
from stream_rnn.spi import SettingError

NUMBERS = st.floats(-1e6, 1e6)


def through_json(state: dict[str, Any]) -> Any:
    return json.loads(json.dumps(state, allow_nan=False))


@given(st.lists(NUMBERS, max_size=40), st.integers(0, 7), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_numeric_baselines_equal_their_definitions(
    ys: list[float], horizon: int, season: int
) -> None:
    lag = max(horizon, 1)
    back = math.ceil(lag / season) * season
    baselines = NumericBaselines(1, horizon, season)
    for t, y in enumerate(ys):
        expected: dict[str, list[float]] = {}
        if t >= lag:
            expected["persistence"] = [ys[t - lag]]
            known = ys[: t - lag + 1]
            expected["mean"] = [sum(known) / len(known)]
        if t >= back:
            expected["seasonal"] = [ys[t - back]]
        assert {k: list(v) for k, v in baselines.predict(0).items()} == expected
        baselines.learn(0, [y])


def test_several_targets_are_remembered_together() -> None:
    baselines = NumericBaselines(2)
    baselines.learn(0, [1.0, 10.0])
    baselines.learn(0, [3.0, 20.0])
    guesses = baselines.predict(0)
    assert list(guesses["persistence"]) == [3.0, 20.0]
    assert list(guesses["mean"]) == [2.0, 15.0]


def test_without_a_season_there_is_no_seasonal_baseline() -> None:
    assert NumericBaselines(1).names == ("persistence", "mean")


def test_lanes_do_not_see_each_other() -> None:
    baselines = NumericBaselines(1, n_lanes=2)
    baselines.learn(0, [1.0])
    assert baselines.predict(1) == {}


def test_a_reset_lane_knows_nothing_and_the_others_everything() -> None:
    baselines = NumericBaselines(1, n_lanes=2)
    baselines.learn(0, [1.0])
    baselines.learn(1, [2.0])
    baselines.reset_lane(0)
    assert baselines.predict(0) == {}
    assert list(baselines.predict(1)["persistence"]) == [2.0]


def test_memory_of_a_lane_stays_bounded() -> None:
    baselines = NumericBaselines(1, horizon=3, season=4)
    for t in range(1000):
        baselines.learn(0, [float(t)])
    assert len(baselines.state_dict()["lanes"]["0"]["past"]) == 4


def test_memory_of_a_class_lane_stays_bounded() -> None:
    baselines = ClassBaselines(5, horizon=3)
    for t in range(1000):
        baselines.learn(0, t % 5)
    lane = baselines.state_dict()["lanes"]["0"]
    assert len(lane["past"]) == 3
    assert len(lane["counts"]) == 5


@pytest.mark.parametrize("lane", [-1, 2])
def test_a_lane_beyond_the_capacity_is_refused(lane: int) -> None:
    with pytest.raises(ValueError, match=f"lane {lane} of 2"):
        NumericBaselines(1, n_lanes=2).learn(lane, [0.0])


def test_targets_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 targets, got 1"):
        NumericBaselines(2).learn(0, [0.0])


def test_a_setting_out_of_range_is_named_with_its_value() -> None:
    with pytest.raises(SettingError, match="season must be at least 1, got 0"):
        NumericBaselines(1, season=0)


def test_numeric_baselines_continue_bit_identically_after_json() -> None:
    rng = random.Random(1)
    ys = [[rng.gauss(0, 1), rng.gauss(0, 1)] for _ in range(60)]
    straight, resumed = (NumericBaselines(2, 2, 5, n_lanes=3) for _ in range(2))
    for t, y in enumerate(ys[:30]):
        straight.learn(t % 3, y)
    resumed.load_state_dict(through_json(straight.state_dict()))
    for t, y in enumerate(ys[30:]):
        lane = t % 3
        before = [{k: list(v) for k, v in b.predict(lane).items()} for b in (straight, resumed)]
        assert before[0] == before[1]
        straight.learn(lane, y)
        resumed.learn(lane, y)
    assert straight.state_dict() == resumed.state_dict()


def test_a_state_of_numbers_is_a_copy() -> None:
    baselines = NumericBaselines(1, horizon=1)
    baselines.learn(0, [1.0])
    state = baselines.state_dict()
    before = json.dumps(state)
    baselines.learn(0, [2.0])
    assert json.dumps(state) == before != json.dumps(baselines.state_dict())


def test_a_state_is_a_copy() -> None:
    baselines = ClassBaselines(3)
    baselines.learn(0, 1)
    state = baselines.state_dict()
    before = json.dumps(state)
    baselines.learn(0, 2)
    assert json.dumps(state) == before


@given(st.lists(st.integers(0, 3), max_size=50), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_class_baselines_equal_their_definitions(symbols: list[int], horizon: int) -> None:
    lag = max(horizon, 1)
    baselines = ClassBaselines(4, horizon)
    for t, symbol in enumerate(symbols):
        known = symbols[: max(t - lag + 1, 0)]
        guess = baselines.predict(0)
        assert baselines.frequency(0, symbol) == (known.count(symbol) + 1) / (len(known) + 4)
        if t < lag:
            assert guess is None
        else:
            assert guess is not None
            assert guess.no_change == symbols[t - lag]
            assert known.count(guess.majority) == max(map(known.count, range(4)))
        baselines.learn(0, symbol)


def test_class_baselines_continue_bit_identically_after_json() -> None:
    rng = random.Random(2)
    straight, resumed = (ClassBaselines(6, 2, n_lanes=2) for _ in range(2))
    for t in range(40):
        straight.learn(t % 2, rng.randrange(6))
    resumed.load_state_dict(through_json(straight.state_dict()))
    for t in range(40):
        symbol = rng.randrange(6)
        straight.learn(t % 2, symbol)
        resumed.learn(t % 2, symbol)
        assert straight.predict(t % 2) == resumed.predict(t % 2)
    assert straight.state_dict() == resumed.state_dict()


def test_a_class_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a class below 3, got 3"):
        ClassBaselines(3).learn(0, 3)


def test_a_state_of_another_horizon_is_refused_with_the_remedy() -> None:
    state = NumericBaselines(1, horizon=2).state_dict()
    with pytest.raises(ValueError, match=re.escape("saved with horizon = 2, this task has 5")):
        NumericBaselines(1, horizon=5).load_state_dict(state)


def good() -> dict[str, Any]:
    return {"past": [[1.0], [2.0]], "n": 2, "sums": [3.0]}


@pytest.mark.parametrize(
    "lane",
    [
        good() | {"past": [[1.0, 2.0], [3.0, 4.0]]},
        good() | {"past": [[1.0], [2.0], [3.0]]},
        good() | {"past": []},
        good() | {"past": "12"},
        good() | {"past": [[math.nan], [2.0]]},
        good() | {"n": -1},
        good() | {"n": 0},
        good() | {"n": "2"},
        good() | {"sums": []},
        good() | {"sums": [None]},
        good() | {"surprise": 1},
        [],
    ],
    ids=str,
)
def test_a_damaged_numeric_state_is_refused_and_changes_nothing(lane: object) -> None:
    baselines = NumericBaselines(1, season=2)
    state = {"n_targets": 1, "horizon": 0, "season": 2, "lanes": {"0": good()}}
    baselines.load_state_dict(state)
    before = baselines.state_dict()
    with pytest.raises(ValueError, match="state of the baselines"):
        baselines.load_state_dict(state | {"lanes": {"0": lane}})
    assert baselines.state_dict() == before


@pytest.mark.parametrize(
    "lane",
    [
        {"past": [3], "n": 1, "majority": 0, "counts": {"0": 1}},
        {"past": [0, 0], "n": 1, "majority": 0, "counts": {"0": 1}},
        {"past": [], "n": 1, "majority": 0, "counts": {"0": 1}},
        {"past": [0], "n": 2, "majority": 0, "counts": {"0": 1}},
        {"past": [0], "n": 1, "majority": 9, "counts": {"0": 1}},
        {"past": [0], "n": 1, "majority": 0, "counts": {"7": 1}},
    ],
    ids=str,
)
def test_a_damaged_class_state_is_refused(lane: dict[str, Any]) -> None:
    state = {"n_classes": 3, "horizon": 0, "lanes": {"0": lane}}
    with pytest.raises(ValueError, match="state of the baselines"):
        ClassBaselines(3).load_state_dict(state)


def test_a_state_with_a_lane_beyond_the_capacity_is_refused() -> None:
    wide = NumericBaselines(1, n_lanes=9)
    wide.learn(8, [1.0])
    with pytest.raises(ValueError, match="lane 8 of 2"):
        NumericBaselines(1, n_lanes=2).load_state_dict(wide.state_dict())
