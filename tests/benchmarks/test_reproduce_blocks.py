"""Blocks of many lanes give the gradient of `Tbptt(window=T, every=T)`, in less memory."""

from collections.abc import Callable

import pytest
import torch

from benchmarks.reproduce.blocks import Blocks
from stream_rnn.cells import Gru, Lstm, Rhn, Tanh
from stream_rnn.cells.base import Cell
from stream_rnn.credit import Tbptt


@pytest.mark.parametrize("make", [Tanh, Gru, Lstm, Rhn])
def test_a_block_pays_what_a_locked_window_pays(make: Callable[[int, int], Cell]) -> None:
    torch.manual_seed(0)
    B, T = 3, 5
    cell = make(2, 4)
    W_ZM = torch.randn(cell.weight_shape, dtype=torch.float64)
    blocks, window = Blocks(cell, B, T), Tbptt(cell, B, window=T, every=T)
    s_BS = torch.randn(B, cell.n_state, dtype=torch.float64)
    all_B = torch.ones(B, dtype=torch.bool)
    for t in range(3 * T):
        s_BS, lin = cell.step(W_ZM, torch.randn(B, 2, dtype=torch.float64), s_BS)
        q_BS = torch.randn(B, cell.n_state, dtype=torch.float64)
        blocks.observe(lin, q_BS, all_B)
        window.observe(lin, q_BS, all_B)
        mine, expected = blocks.gradient(), window.gradient()
        assert (mine is None) == (expected is None) == ((t + 1) % T != 0)
        if mine is not None and expected is not None:
            torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-12)
            W_ZM = W_ZM - 0.01 * mine  # W moves between two blocks


def test_an_unsound_lane_gives_nothing_and_harms_no_other() -> None:
    torch.manual_seed(0)
    cell = Lstm(2, 4)
    W_ZM, all_B = torch.randn(cell.weight_shape), torch.ones(2, dtype=torch.bool)
    gradients = []
    for spoiled in (False, True):
        generator = torch.Generator().manual_seed(1)
        blocks, s_BS = Blocks(cell, 2, 2), torch.zeros(2, cell.n_state)
        for _ in range(2):
            s_BS, lin = cell.step(W_ZM, torch.randn(2, 2, generator=generator), s_BS)
            q_BS = torch.randn(2, cell.n_state, generator=generator)
            q_BS[1] = float("nan") if spoiled else 0.0
            blocks.observe(lin, q_BS, all_B)
        assert blocks.healthy().tolist() == [True, not spoiled]
        gradient = blocks.gradient()
        assert gradient is not None
        gradients.append(gradient)
    assert torch.equal(*gradients)


def test_a_block_cannot_be_cut_short() -> None:
    cell = Tanh(1, 2)
    blocks = Blocks(cell, 1, 2)
    all_B = torch.ones(1, dtype=torch.bool)
    _, lin = cell.step(torch.zeros(cell.weight_shape), torch.zeros(1, 1), torch.zeros(1, 2))
    blocks.observe(lin, torch.zeros(1, 2), all_B)
    with pytest.raises(ValueError, match="a reset after 1 of 2 ticks"):
        blocks.reset(all_B)
