"""The governor counts ticks: it trips, waits, tries again, waits longer, forgives, and resumes."""

from __future__ import annotations

import json

import pytest

from stream_rnn.health import Governor


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


@pytest.mark.parametrize("name", ["trips", "window", "cooldown"])
def test_senseless_settings_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Governor(levels=2, **{name: 0})
