"""The add task in parts (Kag & Saligrama 2021): intermediate losses carry what a window cannot.

50 events, two of them marked, one in each half; the target is the sum of their values. Always
saying 1 costs 1/6. No gradient reaches further back than a part of 10 events.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS
from stream_rnn.credit import Tbptt
from stream_rnn.frame import Frame
from stream_rnn.head import Head, SquaredError, initial_readout
from stream_rnn.learner import Learner
from stream_rnn.recurrence import Dense
from stream_rnn.update import Adam, Fptt

T, PART, B, N = 50, 10, 16, 16
LIVE = torch.ones(B, dtype=torch.bool)


def adder(every: int, lr: float) -> Learner:
    generator = torch.Generator().manual_seed(0)
    cell, loss = CELLS["lstm"](2, N), SquaredError()
    W_ZM = cell.initial_weight(generator).float()
    V_PF = initial_readout(N, 2, loss, generator).float()
    credit = Tbptt(cell, B, window=PART, every=every)
    update, head_update = (Fptt(Adam(lr=lr), alpha=0.5) for _ in range(2))
    return Learner(Dense(cell, credit, W_ZM), Head(N, 2, loss, V_PF), update, head_update)


def episode(learner: Learner, generator: torch.Generator) -> Tensor:
    """One sequence in each lane; the loss of its last event, the only one of weight 1."""
    learner.reset(LIVE)
    value_TB = torch.rand(T, B, generator=generator)
    marked_TB, lanes = torch.zeros(T, B), torch.arange(B)
    for half in range(2):
        at = torch.randint(0, T // 2, (B,), generator=generator) + half * T // 2
        marked_TB[at, lanes] = 1
    y_BQ = (value_TB * marked_TB).sum(0)[:, None] - 1
    for t in range(T):
        weight_B = torch.full((B,), (t // PART + 1) * PART / T)
        x_BI = torch.stack((value_TB[t] - 0.5, marked_TB[t]), dim=1)
        outcome = learner.step(Frame(x_BI, y_BQ, LIVE, LIVE, weight_B))
    return outcome.loss_B


@pytest.mark.slow
@pytest.mark.parametrize(("every", "lr"), [(1, 0.01), (PART, 0.02)], ids=["every-event", "locked"])
def test_two_numbers_far_apart_are_added(every: int, lr: float) -> None:
    learner, generator = adder(every, lr), torch.Generator().manual_seed(1)
    losses = [float(episode(learner, generator).mean()) for _ in range(180)]
    assert sum(losses[:10]) / 10 > 0.1  # it has to be learned
    assert sum(losses[-20:]) / 20 < (1 / 6) / 2
    with learner.evaluation_weights():
        averaged = [float(episode(learner, generator).mean()) for _ in range(10)]
    assert sum(averaged) / 10 < (1 / 6) / 2
