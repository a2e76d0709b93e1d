"""SnAp-1 is the masked recursion of its definition, and exact where nothing is masked away.

SnAp-n: G <- mask_n o (J G + F). mask_1 marks the entries (state of unit n, row of W of unit n');
mask_{n+1} those that J can fill from mask_n. The dense recursion here is the judge. float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import CELLS, Cell
from stream_rnn.credit import Rtrl, Snap1

ALL = torch.tensor([True, True])


def unit_mask(cell: Cell) -> Tensor:
    """(S, Z) bool: state and row of W belong to the same unit."""
    units = torch.arange(cell.n_units)
    return units.repeat(cell.blocks)[:, None] == units.repeat(cell.gates)


def grown(mask_SZ: Tensor, J_SS: Tensor) -> Tensor:
    """What one more step can reach."""
    return mask_SZ | ((J_SS != 0).double() @ mask_SZ.double() > 0)


def masked_gradients(walk: Any, reach: int) -> list[Tensor]:
    """dW of each tick by the definition of SnAp-`reach`."""
    cell: Cell = walk.cell
    B, S = walk.q_TBS.shape[1:]
    G_BSZM, gradients = torch.zeros(B, S, *cell.weight_shape, dtype=torch.float64), []
    for lin, q_BS in walk:
        J_BSS = lin.push(torch.eye(S, dtype=torch.float64).expand(B, S, S))
        mask_SZ = unit_mask(cell)
        for _ in range(reach - 1):
            mask_SZ = grown(mask_SZ, J_BSS.abs().sum(dim=0))
        pushed = torch.einsum("bsr,brzm->bszm", J_BSS, G_BSZM)
        now = torch.einsum("bsz,bm->bszm", lin.dense_drive(), lin.u_BM)
        G_BSZM = torch.where(mask_SZ[:, :, None], pushed + now, 0.0)
        gradients.append(torch.einsum("bs,bszm->zm", q_BS, G_BSZM))
    return gradients


def cut_to_the_diagonal(walk: Any) -> None:
    """No unit reads another one."""
    cell = walk.cell
    square = torch.eye(cell.n_units, dtype=torch.bool).repeat(cell.gates, 1)
    W_h_ZN = walk.W_ZM[:, cell.n_inputs : -1]
    W_h_ZN.masked_fill_(~square, 0.0)


@pytest.mark.parametrize("kind", CELLS)
def test_the_unit_form_is_the_masked_recursion(kind: str, random_walk: Callable[..., Any]) -> None:
    walk = random_walk(kind, n_units=4, n_ticks=30)
    rule = Snap1(walk.cell, 2)
    for (lin, q_BS), truth_ZM in zip(walk, masked_gradients(walk, reach=1), strict=True):
        rule.observe(lin, q_BS, ALL)
        atol = 1e-13 * float(truth_ZM.abs().max())
        torch.testing.assert_close(rule.gradient(), truth_ZM, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", CELLS)
def test_it_is_exact_if_no_unit_reads_another(kind: str, random_walk: Callable[..., Any]) -> None:
    walk = random_walk(kind, n_units=4, n_ticks=30)
    cut_to_the_diagonal(walk)
    rule = Snap1(walk.cell, 2)
    for (lin, q_BS), truth_ZM in zip(walk, walk.bptt(), strict=True):
        rule.observe(lin, q_BS, ALL)
        atol = 1e-12 * float(truth_ZM.abs().max())
        torch.testing.assert_close(rule.gradient(), truth_ZM, rtol=0, atol=atol)


@pytest.mark.parametrize("kind", CELLS)
def test_a_dense_net_makes_it_biased(
    kind: str, random_walk: Callable[..., Any], relative_error: Callable[..., float]
) -> None:
    walk = random_walk(kind, n_units=4, n_ticks=30)
    rule = Snap1(walk.cell, 2)
    for lin, q_BS in walk:
        rule.observe(lin, q_BS, ALL)
    assert 0.01 < relative_error(rule.gradient(), walk.bptt()[-1]) < 2.0


@pytest.mark.parametrize("kind", CELLS)
def test_reach_two_of_a_dense_net_is_exact_rtrl(kind: str, random_walk: Callable[..., Any]) -> None:
    """Everything is within two steps, so SnAp-2 would store what exact RTRL stores."""
    walk = random_walk(kind, n_units=4, n_ticks=20)
    exact = Rtrl(walk.cell, 2)
    for (lin, q_BS), masked_ZM in zip(walk, masked_gradients(walk, reach=2), strict=True):
        exact.observe(lin, q_BS, ALL)
        torch.testing.assert_close(masked_ZM, exact.gradient(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", CELLS)
def test_it_stores_no_more_than_a_copy_of_w_for_each_block(kind: str) -> None:
    cell = CELLS[kind](5, 7)
    Z, M = cell.weight_shape
    n_numbers = sum(state.numel() for state in Snap1(cell, 3).lane_state.values())
    assert n_numbers == 3 * cell.blocks * Z * M
