"""The rows of the coming ticks: what was put there is gone once they are cleared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream_rnn import app
from stream_rnn.engine.frames import Frames
from stream_rnn.tasks import Step, Steps


@pytest.fixture
def frames() -> Frames:
    learner: Any = {"cell": {"kind": "lru", "units": 2}}
    tables = {"source": {"kind": "synthetic"}, "learner": learner}
    tables |= {"task": {"kind": "forecast", "target": "y"}, "lanes": {"key": "id", "capacity": 3}}
    return Frames(app.build(tables).engine.learner, n_lanes=3, n_inputs=1, ticks=4)


def lanes_with_events(frames: Frames) -> list[int]:
    live_B = frames.block(4).live_TB.any(dim=0)
    return [lane for lane in range(3) if live_B[lane]]


def test_a_lane_has_an_event_from_when_one_is_put_until_all_are_cleared(frames: Frames) -> None:
    assert lanes_with_events(frames) == []
    frames.put(0, 1, [0.5], [1.0])
    assert lanes_with_events(frames) == [1]
    frames.put_many(1, [2, 1], Steps.of([Step([0.5], [1.0], [1.0], ((0.0, 1.0),))] * 2, 1))
    assert lanes_with_events(frames) == [1, 2]
    frames.clear()
    assert lanes_with_events(frames) == []
    frames.put_zeros(0)
    assert lanes_with_events(frames) == [0]
    assert frames.block(4).live_TB[:, 0].all()


@pytest.mark.parametrize("last", range(4))
def test_nothing_is_left_in_any_tick_that_was_filled(last: int, frames: Frames) -> None:
    frames.put(last, 1, [0.5], [1.0])
    frames.put(0, 2, [0.5], [1.0])
    frames.clear()
    block = frames.block(4)
    assert not np.any(block.live_TB.numpy())
    assert not np.any(block.scored_TB.numpy())
