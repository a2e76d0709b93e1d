"""Our cells are the ones of torch.nn, weights mapped over, both biases included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import Cell, Gru, Lstm, Tanh
from stream_rnn.credit import Rtrl

N_INPUTS, N_UNITS = 3, 5
CASES: dict[str, tuple[type[Cell], type[torch.nn.RNNCellBase]]] = {
    "tanh": (Tanh, torch.nn.RNNCell),
    "gru": (Gru, torch.nn.GRUCell),
    "lstm": (Lstm, torch.nn.LSTMCell),
}


def weight_of(kind: str, theirs: torch.nn.RNNCellBase) -> Tensor:
    """W (Z, M) that does what torch's two matrices and two biases do."""
    W_x, W_h = theirs.weight_ih, theirs.weight_hh
    b_x, b_h = theirs.bias_ih[:, None], theirs.bias_hh[:, None]
    if kind != "gru":
        return torch.cat((W_x, W_h, b_x + b_h), dim=1).detach()
    gates = 2 * N_UNITS  # r and z read both; nx reads x only, nh h only
    rows_rz = torch.cat((W_x[:gates], W_h[:gates], b_x[:gates] + b_h[:gates]), dim=1)
    rows_nx = torch.cat((W_x[gates:], torch.zeros_like(W_h[gates:]), b_x[gates:]), dim=1)
    rows_nh = torch.cat((torch.zeros_like(W_x[gates:]), W_h[gates:], b_h[gates:]), dim=1)
    return torch.cat((rows_rz, rows_nx, rows_nh)).detach()


@pytest.mark.parametrize("kind", CASES)
def test_forty_steps_equal_those_of_torch(kind: str) -> None:
    ours, theirs = CASES[kind]
    cell = ours(N_INPUTS, N_UNITS)
    generator = torch.Generator().manual_seed(1)
    module = theirs(N_INPUTS, N_UNITS, dtype=torch.float64)  # type: ignore[call-arg]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7)
    W_ZM = weight_of(kind, module)
    s_BS = torch.zeros(4, cell.n_state, dtype=torch.float64)
    state = None
    for _ in range(40):
        x_BI = torch.randn(4, N_INPUTS, generator=generator, dtype=torch.float64)
        s_BS, _ = cell.step(W_ZM, x_BI, s_BS)
        state = module(x_BI, state)
        truth = torch.cat(state, dim=1) if isinstance(state, tuple) else state
        torch.testing.assert_close(s_BS, truth.detach(), rtol=0, atol=1e-12)


def gradients_of(kind: str, dW_ZM: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Those of torch's W_ih, W_hh, b_ih and b_hh, out of that of W."""
    dW_x = dW_h = dW_ZM
    if kind == "gru":  # nx and nh live in rows of their own; those of r and z come first
        both, nx, nh = dW_ZM.split((2 * N_UNITS, N_UNITS, N_UNITS))
        dW_x, dW_h = torch.cat((both, nx)), torch.cat((both, nh))
    return dW_x[:, :N_INPUTS], dW_h[:, N_INPUTS:-1], dW_x[:, -1], dW_h[:, -1]


@pytest.mark.parametrize("kind", CASES)
def test_the_gradient_over_forty_steps_equals_that_of_torch(kind: str) -> None:
    """A loss at every step, paid back through all of them; by exact RTRL on our side."""
    ours, theirs = CASES[kind]
    cell, n_lanes = ours(N_INPUTS, N_UNITS), 2
    generator = torch.Generator().manual_seed(2)
    module = theirs(N_INPUTS, N_UNITS, dtype=torch.float64)  # type: ignore[call-arg]
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    W_ZM = weight_of(kind, module)
    rule, dW_ZM = Rtrl(cell, n_lanes), torch.zeros(cell.weight_shape, dtype=torch.float64)
    s_BS = torch.zeros(n_lanes, cell.n_state, dtype=torch.float64)
    state, loss = None, torch.zeros((), dtype=torch.float64)
    for _ in range(40):
        x_BI = torch.randn(n_lanes, N_INPUTS, generator=generator, dtype=torch.float64)
        q_BS = torch.randn(n_lanes, cell.n_state, generator=generator, dtype=torch.float64)
        s_BS, lin = cell.step(W_ZM, x_BI, s_BS)
        rule.observe(lin, q_BS, torch.ones(n_lanes, dtype=torch.bool))
        dW_ZM += rule.gradient()
        state = module(x_BI, state)
        out = torch.cat(state, dim=1) if isinstance(state, tuple) else state
        loss = loss + (q_BS * out).sum()
    theirs_all = (module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
    truths = torch.autograd.grad(loss, theirs_all)
    for got, truth in zip(gradients_of(kind, dW_ZM), truths, strict=True):
        assert float((got - truth).norm()) < 1e-12 * float(truth.norm())
