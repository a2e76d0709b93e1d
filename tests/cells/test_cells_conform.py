"""Every cell's closed form is the derivative of its step; a wrong one is found."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells import CELLS, Tanh
from stream_rnn.linearization import Linearization
from stream_rnn.testing import check_cell


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", CELLS)
def test_the_closed_form_is_the_derivative(kind: str, seed: int) -> None:
    check_cell(CELLS[kind](n_inputs=2 + seed, n_units=4 - seed), seed)


def test_a_wrong_closed_form_is_found() -> None:
    class WrongTanh(Tanh):
        @override
        def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
            s_t_BS, lin = super().step(W_ZM, x_BI, s_BS)
            return s_t_BS, dataclasses.replace(lin, drive_BKGN=lin.drive_BKGN * 1.001)

    with pytest.raises(AssertionError, match=r"push \(J X\) of WrongTanh is off by"):
        check_cell(WrongTanh(2, 3))


def test_a_cell_that_writes_into_its_state_is_found() -> None:
    class Careless(Tanh):
        @override
        def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
            out = super().step(W_ZM, x_BI, s_BS)
            s_BS += 1.0
            return out

    with pytest.raises(AssertionError, match=r"step\(\) changed its argument s"):
        check_cell(Careless(2, 3))


@pytest.mark.parametrize("kind", CELLS)
def test_a_lane_with_nan_inputs_leaves_the_others_bitwise(kind: str) -> None:
    cell = CELLS[kind](2, 3)
    W_ZM = cell.initial_weight(torch.Generator().manual_seed(0))
    x_BI = torch.linspace(-1, 1, 6, dtype=torch.float64).view(3, 2)
    s_BS = torch.zeros(3, cell.n_state, dtype=torch.float64)
    alone, _ = cell.step(W_ZM, x_BI, s_BS)
    x_BI[1] = torch.nan
    together, _ = cell.step(W_ZM, x_BI, s_BS)
    assert torch.equal(alone[[0, 2]], together[[0, 2]])


@pytest.mark.parametrize("kind", CELLS)
def test_push_works_on_no_copy_of_its_argument(kind: str) -> None:
    """Pushing leaves X alone, so that a rule may hand in its own state."""
    cell = CELLS[kind](2, 3)
    generator = torch.Generator().manual_seed(0)
    W_ZM = cell.initial_weight(generator)
    zeros = torch.zeros(2, cell.n_state, dtype=torch.float64)
    _, lin = cell.step(W_ZM, zeros[:, :2], zeros)
    X_BSR = torch.randn(2, cell.n_state, 5, generator=generator, dtype=torch.float64)
    copy = X_BSR.clone()
    assert torch.equal(lin.push(X_BSR), lin.push(copy))
    assert torch.equal(X_BSR, copy)


@pytest.mark.parametrize(("n_inputs", "n_units"), [(0, 3), (3, 0)])
def test_a_cell_without_inputs_or_units_is_refused(n_inputs: int, n_units: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        Tanh(n_inputs, n_units)
