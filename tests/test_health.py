"""The governor counts ticks: it trips, waits, tries again, waits longer, forgives, and resumes."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from stream_rnn.health import Governor
from stream_rnn.spi import Lag


def levels(governor: Governor, unsound: list[bool]) -> list[int]:
    return [governor.observe(bad) for bad in unsound]


def test_a_sound_stream_stays_on_the_primary() -> None:
    governor = Governor(levels=2, trips=1, window=10, cooldown=10)
    assert set(levels(governor, [False] * 2000)) == {0}
    assert (governor.moves_down, governor.moves_up) == (0, 0)


def test_enough_trips_within_the_window_move_one_rung_down() -> None:
    governor = Governor(levels=3, trips=3, window=10, cooldown=100)
    assert levels(governor, [True, False, True, False, True, False]) == [0, 0, 0, 0, 1, 1]
    assert governor.moves_down == 1


def test_trips_spread_wider_than_the_window_do_not_count() -> None:
    governor = Governor(levels=2, trips=3, window=10, cooldown=100)
    spread = [t % 5 == 0 for t in range(200)]  # any three span 11 ticks
    assert set(levels(governor, spread)) == {0}
    assert set(levels(Governor(2, trips=3, window=11, cooldown=100), spread)) == {0, 1}


def test_after_the_cooldown_it_tries_one_rung_up() -> None:
    governor = Governor(levels=2, trips=1, window=10, cooldown=7)
    assert governor.observe(True) == 1
    assert levels(governor, [False] * 7) == [1] * 6 + [0]
    assert governor.moves_up == 1


def test_each_relapse_doubles_the_wait_up_to_sixty_four_times() -> None:
    governor = Governor(levels=2, trips=1, window=10, cooldown=3)
    waits = []
    for _ in range(9):
        assert governor.observe(True) == 1
        ticks = 1
        while governor.observe(False) == 1:
            ticks += 1
        waits.append(ticks)
    assert waits == [3, 6, 12, 24, 48, 96, 192, 192, 192]


def test_a_long_calm_stretch_on_the_primary_forgives() -> None:
    governor = Governor(levels=2, trips=1, window=10, cooldown=2)
    for _ in range(4):  # the wait is 16 by now
        governor.observe(True)
        while governor.observe(False) == 1:
            pass
    levels(governor, [False] * (64 * 2))
    governor.observe(True)
    assert levels(governor, [False] * 2) == [1, 0]


def test_the_lowest_rung_is_never_left_downwards() -> None:
    governor = Governor(levels=2, trips=1, window=10, cooldown=1000)
    assert levels(governor, [True] * 50) == [1] * 50
    assert governor.moves_down == 1


def test_a_ladder_of_one_rung_has_nothing_to_decide() -> None:
    assert set(levels(Governor(levels=1, trips=1), [True] * 100)) == {0}


def test_trips_before_a_move_do_not_count_after_it() -> None:
    governor = Governor(levels=3, trips=3, window=100, cooldown=1000)
    assert levels(governor, [True] * 5) == [0, 0, 1, 1, 1]
    assert governor.observe(True) == 2


@pytest.mark.parametrize("cut", [1, 4, 17, 60, 99])
def test_a_resumed_governor_decides_alike(cut: int) -> None:
    unsound = [t % 7 == 0 or 30 < t < 36 for t in range(200)]
    governor = Governor(levels=3, trips=2, window=8, cooldown=10)
    levels(governor, unsound[:cut])
    resumed = Governor(levels=3, trips=2, window=8, cooldown=10)
    resumed.load_state_dict(json.loads(json.dumps(governor.state_dict())))
    assert levels(resumed, unsound[cut:]) == levels(governor, unsound[cut:])
    assert resumed.state_dict() == governor.state_dict()
    assert governor.moves_down > 1


def test_a_state_from_a_longer_ladder_is_refused() -> None:
    governor = Governor(levels=3, trips=1)
    levels(governor, [True, True])
    with pytest.raises(ValueError, match="on rung 2, but the ladder has 2"):
        Governor(levels=2).load_state_dict(governor.state_dict())


@pytest.mark.parametrize("name", ["trips", "window", "cooldown", "every", "readings"])
def test_senseless_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Governor(levels=2, **{name: 0})


# Noise ----------------------------------------------------------------------------------------


def readings(governor: Governor, noises: list[float | None]) -> list[int]:
    """The level after each reading; the ticks between two of them are sound."""
    after = []
    for noise in noises:
        while not governor.wants_noise:
            governor.observe(False)
        after.append(governor.observe(False, noise=noise))
    return after


def test_noise_that_stays_above_its_limit_moves_down() -> None:
    governor = Governor(levels=2, noise_limit=0.5, every=10, readings=3)
    assert readings(governor, [0.6, 0.6, 0.4, 0.6, 0.6, 0.6]) == [0, 0, 0, 0, 0, 1]
    assert governor.reason == "noise"


def test_noise_is_asked_for_every_so_many_ticks_and_never_without_a_limit() -> None:
    governor, silent = Governor(levels=2, noise_limit=0.5, every=4), Governor(levels=2, every=4)
    asked = []
    for _ in range(12):
        asked.append(governor.wants_noise)
        assert not silent.wants_noise
        governor.observe(False)
        silent.observe(False, noise=9.0)
    assert asked == [False, False, False, True] * 3
    assert silent.level == 0


@pytest.mark.parametrize("unknown", [None, float("nan")])
def test_an_unknown_noise_is_no_reading(unknown: float | None) -> None:
    governor = Governor(levels=2, noise_limit=0.5, every=1, readings=2)
    assert readings(governor, [0.6, unknown, 0.6]) == [0, 0, 1]


def test_an_infinite_noise_is_a_bad_reading() -> None:
    governor = Governor(levels=2, noise_limit=0.5, every=1, readings=1)
    assert readings(governor, [float("inf")]) == [1]


# Time and lag ---------------------------------------------------------------------------------


def test_ticks_that_take_too_long_move_down() -> None:
    governor = Governor(levels=2, tick_budget_us=1000, every=10, readings=2)
    assert [governor.observe(False, seconds=0.0011) for _ in range(20)] == [0] * 19 + [1]
    assert governor.reason == "slow"


def test_the_step_time_is_a_median_that_one_slow_tick_does_not_move() -> None:
    governor = Governor(levels=2, tick_budget_us=1000, every=5, readings=1)
    assert {governor.observe(False, seconds=9.0 if t % 5 < 2 else 0.0009) for t in range(99)} == {0}
    assert [governor.observe(False, seconds=9.0 if t % 5 < 3 else 0.0009) for t in range(6)][-1]


def test_a_step_time_is_judged_by_a_full_count_of_ticks_on_the_same_rung() -> None:
    governor = Governor(levels=3, trips=1, tick_budget_us=1000, every=10, readings=1)
    for tick in range(1, 16):
        governor.observe(tick == 15, seconds=0.0001)
    levels_after = [governor.observe(False, seconds=1.0) for _ in range(16, 31)]
    assert levels_after == [1] * 14 + [2]  # not at tick 20: five of the ten were on the rung above


def test_ticks_of_the_rung_above_are_not_held_against_the_one_below() -> None:
    governor = Governor(levels=3, trips=1, tick_budget_us=1000, every=10, readings=1)
    for _ in range(9):
        governor.observe(False, seconds=1.0)
    assert governor.observe(True, seconds=1.0) == 1
    assert {governor.observe(False, seconds=0.0001) for _ in range(30)} == {1}


@pytest.mark.parametrize(
    ("limit", "lag"),
    [("lag_limit_events", Lag(events=101)), ("lag_limit_s", Lag(seconds=100.5))],
    ids=["events", "seconds"],
)
def test_a_source_too_far_behind_moves_down(limit: str, lag: Lag) -> None:
    governor = Governor(levels=2, every=10, readings=3, **{limit: 100})
    assert [governor.observe(False, lag=lag) for _ in range(30)] == [0] * 29 + [1]
    assert governor.reason == "lag"
    calm = Governor(levels=2, every=10, readings=3, **{limit: 101})
    assert {calm.observe(False, lag=lag) for _ in range(100)} == {0}


def test_an_unknown_lag_is_no_reading() -> None:
    governor = Governor(levels=2, lag_limit_events=5, every=1, readings=2)
    lags = [Lag(events=9), None, Lag(), Lag(seconds=1.0), Lag(events=9)]
    assert [governor.observe(False, lag=lag) for lag in lags] == [0, 0, 0, 0, 1]


def test_lag_is_asked_for_only_where_it_has_a_limit() -> None:
    assert not Governor(levels=2, every=1).wants_lag
    assert Governor(levels=2, every=1, lag_limit_s=1.0).wants_lag
    assert not Governor(levels=2, every=2, lag_limit_s=1.0).wants_lag


def test_time_and_lag_are_off_unless_asked_for() -> None:
    governor = Governor(levels=2, every=1, readings=1)
    behind = Lag(events=10**9, seconds=1e9)
    assert {governor.observe(False, seconds=1e9, lag=behind) for _ in range(100)} == {0}


# Which rung -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["unsound", "noise"])
def test_a_rung_that_is_an_estimator_is_no_remedy_for_bad_credit(reason: str) -> None:
    governor = Governor(3, trips=1, noise_limit=1, every=1, readings=1, cooldown=5, noisy=(0, 1))
    down = governor.observe(reason == "unsound", noise=2.0 if reason == "noise" else 0.1)
    assert (down, governor.reason) == (2, reason)
    ways = [governor.observe(False) for _ in range(5)]
    assert ways[-1] == 0  # back the way it came


def test_a_rung_that_is_an_estimator_is_one_for_cost() -> None:
    governor = Governor(levels=3, lag_limit_events=5, every=1, readings=1, noisy=(0, 1))
    assert governor.observe(False, lag=Lag(events=6)) == 1


def test_a_trigger_with_nowhere_to_go_is_counted_and_changes_nothing() -> None:
    governor = Governor(levels=2, trips=1, cooldown=10)
    assert levels(governor, [True] * 4) == [1] * 4
    assert governor.exhausted == {"unsound": 3, "noise": 0, "slow": 0, "lag": 0}
    assert governor.moves_down == 1
    assert levels(governor, [False] * 10) == [1] * 9 + [0]  # it waits for calm, not for less


def test_a_ladder_whose_other_rungs_are_estimators_has_nowhere_to_go() -> None:
    governor = Governor(levels=2, trips=1, noisy=(0, 1))
    assert levels(governor, [True] * 4) == [0] * 4
    assert governor.exhausted["unsound"] == 4


def test_every_rung_is_left_downwards_and_upwards_one_at_a_time() -> None:
    governor = Governor(levels=4, trips=1, cooldown=3)
    assert levels(governor, [True] * 3) == [1, 2, 3]
    seen = levels(governor, [False] * 60)
    assert list(dict.fromkeys(seen)) == [3, 2, 1, 0]
    assert (governor.moves_down, governor.moves_up, governor.reason) == (3, 3, "calm")


def test_a_resumed_governor_goes_back_the_way_it_came() -> None:
    settings = {"trips": 1, "cooldown": 5, "noise_limit": 0.5, "every": 3, "readings": 3}
    governor = Governor(3, noisy=(0, 1), **settings)
    readings(governor, [0.6, 0.6])
    resumed = Governor(3, noisy=(0, 1), **settings)
    resumed.load_state_dict(json.loads(json.dumps(governor.state_dict())))
    assert readings(resumed, [0.6]) == [2]
    again = Governor(3, noisy=(0, 1), **settings)
    again.load_state_dict(json.loads(json.dumps(resumed.state_dict())))
    assert again.reason == "noise"
    assert set(levels(again, [False] * 50)) == {2, 0}


def test_a_state_that_is_no_way_down_is_refused() -> None:
    state = Governor(levels=3).state_dict()
    for path in ([], [1], [0, 0], [0, 2, 1]):
        with pytest.raises(ValueError, match="rises from 0"):
            Governor(levels=3).load_state_dict(state | {"path": path})


@pytest.mark.parametrize(
    "name", ["noise_limit", "tick_budget_us", "lag_limit_s", "lag_limit_events"]
)
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_senseless_limits_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got"):
        Governor(levels=2, **{name: value})


# Many calm ticks at once -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [{}, {"noise_limit": 0.5}, {"tick_budget_us": 100.0}, {"lag_limit_events": 10}],
    ids=lambda limits: next(iter(limits), "none"),
)
@pytest.mark.parametrize("seed", range(5))
def test_calm_ticks_told_together_are_the_same_as_one_by_one(
    limits: dict[str, Any], seed: int
) -> None:
    settings = {"trips": 2, "window": 30, "cooldown": 40, "every": 10, "readings": 2} | limits
    dice = random.Random(seed)
    apart, together = Governor(3, **settings), Governor(3, **settings)

    def tell(governor: Governor, unsound: bool, seconds: float) -> None:
        noise = 1.0 if governor.wants_noise else None
        lag = Lag(events=20) if governor.wants_lag else None
        governor.observe(unsound, seconds, noise, lag)

    levels = set()
    for _ in range(2000):
        seconds = dice.choice([5e-5, 2e-4])
        n = dice.randint(1, min(together.calm_ticks(), 60))
        unsound = dice.random() < 0.1
        for i in range(n):
            tell(apart, unsound and i == n - 1, seconds)
            assert i == n - 1 or apart.level == together.level
        if n > 1:
            together.observe_calm(n - 1, seconds)
        tell(together, unsound, seconds)
        assert together.state_dict() == apart.state_dict()
        levels.add(together.level)
    assert len(levels) > 1
