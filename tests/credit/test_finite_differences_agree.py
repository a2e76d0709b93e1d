"""Differences of what is really computed: the mean loss over lanes, and a shift of history.

No derivative of ours or of torch's takes part on the judging side. float64. Central differences
with steps of 1e-5 are right to about 1e-9; a step along the imaginary axis subtracts nothing, can
be as small as one likes, and is right to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS
from stream_rnn.frame import Frame
from stream_rnn.update import Sgd

STEP = 1e-5


def differences(function: Callable[[Tensor], Tensor], at_ZM: Tensor) -> Tensor:
    """d function / d at: the shape of the value, then (Z, M)."""
    columns = []
    for place in range(at_ZM.numel()):
        shift = torch.zeros(at_ZM.numel(), dtype=torch.float64)
        shift[place] = STEP
        shift = shift.view(at_ZM.shape)
        columns.append((function(at_ZM + shift) - function(at_ZM - shift)) / (2 * STEP))
    return torch.stack(columns, dim=-1).view(*columns[0].shape, *at_ZM.shape)


def imaginary_steps(function: Callable[[Tensor], Tensor], at_ZM: Tensor) -> Tensor:
    """As `differences`, by f(x + ih) = f(x) + ih f'(x) - ..; the cells' functions are analytic."""
    columns = []
    for place in range(at_ZM.numel()):
        shift = torch.zeros(at_ZM.numel(), dtype=torch.complex128)
        shift[place] = 1e-30j
        columns.append(function(at_ZM + shift.view(at_ZM.shape)).imag / 1e-30)
    return torch.stack(columns, dim=-1).view(*columns[0].shape, *at_ZM.shape)


def state_after(cell: Any, weights: list[Tensor], frames: list[Frame]) -> Tensor:
    """In the weights' dtype."""
    s_BS = weights[0].new_zeros(len(frames[0].x_BI), cell.n_state)
    for W_ZM, frame in zip(weights, frames, strict=True):
        s_BS, _ = cell.step(W_ZM, frame.x_BI.to(W_ZM), s_BS)
    return s_BS


@pytest.mark.parametrize("rule", ["rtrl", "tbptt"])
@pytest.mark.parametrize("kind", CELLS)
def test_the_gradient_is_that_of_the_mean_loss_over_lanes(
    kind: str, rule: str, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    """Five lanes, of which the last has an event but no target. W rounds to where it was."""
    frames = frames_of(9, n_lanes=5)
    for frame in frames:
        frame.scored_B[-1] = False
    learner = learner_of(kind, rule, n_lanes=5, update=lambda: Sgd(lr=1e-300, clip=None))
    for frame in frames:
        learner.step(frame)
    cell, (W_ZM, V_PF) = learner.recurrence.cell, learner.parameters()

    def mean_loss(W_ZM: Tensor) -> Tensor:
        h_BN = state_after(cell, [W_ZM] * len(frames), frames)[:4, : cell.n_units]
        bias = torch.ones(4, 1, dtype=torch.float64)
        o_BP = torch.cat((h_BN, frames[-1].x_BI[:4], bias), dim=1) @ V_PF.T
        return (o_BP - frames[-1].y_BQ[:4]).square().mean()

    truth_ZM = differences(mean_loss, W_ZM)
    torch.testing.assert_close(learner.recurrence.credit.gradient(), truth_ZM, rtol=0, atol=1e-8)
    assert truth_ZM.norm() > 1e-2


@pytest.mark.parametrize("kind", CELLS)
def test_the_online_influence_is_the_effect_of_a_shift_of_all_past_weights(
    kind: str, learner_of: Callable[..., Any], frames_of: Callable[..., Any]
) -> None:
    """W moves a lot at every step; the trajectory is replayed with every W_t + eps."""
    frames = frames_of(12)
    learner = learner_of(kind, update=lambda: Sgd(lr=0.3, clip=None))
    weights = []
    for frame in frames:
        weights.append(learner.recurrence.W_ZM.clone())
        learner.step(frame)
    assert (weights[-1] - weights[0]).norm() > 0.1
    cell = learner.recurrence.cell

    def shifted(eps_ZM: Tensor) -> Tensor:
        return state_after(cell, [W_ZM + eps_ZM for W_ZM in weights], frames)

    truth = imaginary_steps(shifted, torch.zeros_like(weights[0]))
    influence = learner.lane_state["credit.G_BSZM"]
    torch.testing.assert_close(influence, truth, rtol=0, atol=1e-10)
    assert truth.norm() > 1
