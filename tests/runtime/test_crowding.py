"""Too few lanes are noticed and told, once."""

from __future__ import annotations

import pytest

from stream_rnn.lanes import Lanes
from stream_rnn.runtime.crowding import Crowding


def come(lanes: Lanes, crowding: Crowding, keys: range, times: int, visits: int = 1) -> None:
    """Every key in turn, `visits` times in a row, `times` over."""
    applied = 0
    for _ in range(times):
        for key in keys:
            for _ in range(visits):
                lanes.assign(str(key))
                applied += 1
        crowding.look(applied)


def test_keys_that_take_turns_on_too_few_lanes(caplog: pytest.LogCaptureFixture) -> None:
    lanes = Lanes("id", 8)
    come(lanes, Crowding(lanes), range(10), times=500)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("[lanes] capacity = 8 is too few: 992 of the last 1000 events took a")


@pytest.mark.parametrize(
    ("keys", "visits"),
    [(range(8), 1), (range(1000), 2), (range(500), 3)],
    ids=["a lane for each", "two events each", "three events each"],
)
def test_lanes_enough_and_visitors_are_no_crowd(
    keys: range, visits: int, caplog: pytest.LogCaptureFixture
) -> None:
    lanes = Lanes("id", 8)
    come(lanes, Crowding(lanes), keys, times=300 if visits == 1 else 3, visits=visits)
    assert not caplog.records


def test_what_was_before_a_restart_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    lanes = Lanes("id", 2)
    crowding = Crowding(lanes)
    for key in range(5000):
        lanes.assign(str(key))
    crowding.restart(5000)
    for _ in range(1000):
        lanes.assign("4999")
    crowding.look(6000)
    assert not caplog.records
