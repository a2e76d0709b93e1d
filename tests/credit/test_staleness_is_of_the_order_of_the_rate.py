"""The online influence differs from that of re-running the past by as much as W moved.

Exact RTRL inside a learner, plain SGD, float64: a tenth of the learning rate, a tenth of the gap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stream_rnn.cells import CELLS
from stream_rnn.credit import Rtrl
from stream_rnn.update import Sgd


@pytest.mark.parametrize("kind", CELLS)
def test_a_tenth_of_the_rate_is_a_tenth_of_the_gap(
    kind: str, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    frames, here = frames_of(60, n_lanes=1), torch.tensor([True])

    def gap(rate: float) -> float:
        learner = learner_of(kind, n_lanes=1, update=lambda: Sgd(lr=rate, clip=None))
        for frame in frames[:-1]:
            learner.step(frame)
        W_ZM = learner.recurrence.W_ZM.clone()  # what the last step is taken with
        learner.step(frames[-1])
        cell = learner.recurrence.cell
        again, s_BS = Rtrl(cell, 1), torch.zeros(1, cell.n_state, dtype=torch.float64)
        for frame in frames:
            s_BS, lin = cell.step(W_ZM, frame.x_BI, s_BS)
            again.observe(lin, torch.zeros_like(s_BS), here)
        fresh = again.lane_state["G_BSZM"]
        return float((learner.lane_state["credit.G_BSZM"] - fresh).norm() / fresh.norm())

    assert gap(0.0001) > 1e-6
    assert gap(0.001) / gap(0.0001) == pytest.approx(10, rel=0.1)
