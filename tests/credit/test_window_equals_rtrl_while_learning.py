"""A window as long as the stream equals exact RTRL at every tick, while W is being learned.

Both differentiate the trajectory really taken, each step with its own W. float64, Adam.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stream_rnn.cells import CELLS
from stream_rnn.credit import Tbptt
from stream_rnn.frame import Frame

T = 40


@pytest.mark.parametrize("kind", CELLS)
def test_both_learn_the_same_weights(
    kind: str,
    learner_of: Callable[..., Any],
    frames_of: Callable[..., list[Frame]],
) -> None:
    exact = learner_of(kind, "rtrl", n_lanes=3)
    window = learner_of(kind, lambda cell, n: Tbptt(cell, n, window=T), n_lanes=3)
    start = [parameter.clone() for parameter in exact.parameters()]
    for frame in frames_of(T, n_lanes=3, idle=0.2, unscored=0.2):
        one, other = exact.step(frame), window.step(frame)
        torch.testing.assert_close(one.prediction_BP, other.prediction_BP, rtol=0, atol=1e-10)
        for mine, theirs in zip(exact.parameters(), window.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)
    moved = [float((p - p_0).abs().max()) for p, p_0 in zip(exact.parameters(), start, strict=True)]
    assert min(moved) > 0.05  # W was moving all the time


@pytest.mark.parametrize("kind", CELLS)
def test_rerunning_the_past_under_the_newest_weights_is_something_else(
    kind: str,
    learner_of: Callable[..., Any],
    frames_of: Callable[..., list[Frame]],
) -> None:
    """So that the test above cannot pass by W hardly moving."""
    learner = learner_of(kind, n_lanes=1)
    frames = frames_of(T, n_lanes=1)
    for frame in frames:
        learner.step(frame)
    cell, (W_ZM,) = learner.recurrence.cell, learner.recurrence.parameters()
    s_BS = torch.zeros(1, cell.n_state, dtype=torch.float64)
    for frame in frames:
        s_BS, _ = cell.step(W_ZM, frame.x_BI, s_BS)
    assert float((s_BS - learner.lane_state["s_BS"]).abs().max()) > 1e-3
