"""The recurrent highway cell is its published equations, written once more by themselves.

z = [z_c; z_f] = W [x, h, 1], c = 2 sig(z_c) - 1, f = sig(z_f), h' = f h + (1 - f) c. Derivatives by
automatic differentiation of these lines. float64.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import jacrev

from stream_rnn.cells import Rhn
from stream_rnn.credit import Rtrl

N_INPUTS, N = 2, 3


def by_the_book(W_ZM: Tensor, x_I: Tensor, h_N: Tensor) -> Tensor:
    rows = []
    for n in range(N):
        z_c = W_ZM[n, :N_INPUTS] @ x_I + W_ZM[n, N_INPUTS : N_INPUTS + N] @ h_N + W_ZM[n, -1]
        z_f = (
            W_ZM[N + n, :N_INPUTS] @ x_I
            + W_ZM[N + n, N_INPUTS : N_INPUTS + N] @ h_N
            + W_ZM[N + n, -1]
        )
        c = 2 / (1 + torch.exp(-z_c)) - 1
        f = 1 / (1 + torch.exp(-z_f))
        rows.append(f * h_N[n] + (1 - f) * c)
    return torch.stack(rows)


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """W, x, h of one lane."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return noise(2 * N, N_INPUTS + N + 1), noise(N_INPUTS), noise(N) * 0.5


@pytest.mark.parametrize("seed", range(3))
def test_a_step_is_the_equations(seed: int) -> None:
    W_ZM, x_I, h_N = drawn(seed)
    s_BS, _ = Rhn(N_INPUTS, N).step(W_ZM, x_I[None], h_N[None])
    torch.testing.assert_close(s_BS[0], by_the_book(W_ZM, x_I, h_N), rtol=0, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_its_linearization_is_the_jacobian_of_the_equations(seed: int) -> None:
    W_ZM, x_I, h_N = drawn(seed)
    _, lin = Rhn(N_INPUTS, N).step(W_ZM, x_I[None], h_N[None])
    J_NN = jacrev(by_the_book, argnums=2)(W_ZM, x_I, h_N)
    torch.testing.assert_close(lin.J_h_BSN()[0], J_NN, rtol=0, atol=1e-13)
    dh_dW_NZM = jacrev(by_the_book, argnums=0)(W_ZM, x_I, h_N)
    immediate_NZM = lin.dense_drive()[0, :, :, None] * lin.u_BM[0]
    torch.testing.assert_close(immediate_NZM, dh_dW_NZM, rtol=0, atol=1e-13)


def test_the_influence_after_twelve_steps_is_the_jacobian_of_the_equations() -> None:
    W_ZM, x_I, h_N = drawn(0)
    inputs = [x_I * scale for scale in torch.linspace(-2, 2, 12).tolist()]

    def last_state(W_ZM: Tensor) -> Tensor:
        state_N = torch.zeros_like(h_N)
        for x_t_I in inputs:
            state_N = by_the_book(W_ZM, x_t_I, state_N)
        return state_N

    cell = Rhn(N_INPUTS, N)
    rule, s_BS = Rtrl(cell, 1), torch.zeros(1, N, dtype=torch.float64)
    for x_t_I in inputs:
        s_BS, lin = cell.step(W_ZM, x_t_I[None], s_BS)
        rule.observe(lin, torch.zeros_like(s_BS), torch.tensor([True]))
    truth_NZM = jacrev(last_state)(W_ZM)
    torch.testing.assert_close(rule.lane_state["G_BSZM"][0], truth_NZM, rtol=0, atol=1e-12)


def test_the_state_stays_within_one() -> None:
    """An average of a candidate within one and the state: it cannot grow."""
    W_ZM, x_I, _ = drawn(1)
    s_BS = torch.tensor([[1.0, -1.0, 1.0]], dtype=torch.float64)
    for _ in range(50):
        s_BS, _ = Rhn(N_INPUTS, N).step(W_ZM * 10, x_I[None], s_BS)
        assert s_BS.abs().max() <= 1.0
