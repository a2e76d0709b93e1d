"""Our cells are the ones of torch.nn, weights mapped over, both biases included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stream_rnn.cells import Cell, Gru, Lstm, Tanh

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


@pytest.mark.parametrize("kind", CASES)
def test_the_gradient_of_one_step_equals_that_of_torch(kind: str) -> None:
    ours, theirs = CASES[kind]
    cell = ours(N_INPUTS, N_UNITS)
    generator = torch.Generator().manual_seed(2)
    module = theirs(N_INPUTS, N_UNITS, dtype=torch.float64)  # type: ignore[call-arg]
    W_ZM = weight_of(kind, module)
    x_BI = torch.randn(2, N_INPUTS, generator=generator, dtype=torch.float64)
    s_BS = torch.randn(2, cell.n_state, generator=generator, dtype=torch.float64) * 0.5
    q_BS = torch.randn(2, cell.n_state, generator=generator, dtype=torch.float64)
    state = (s_BS[:, :N_UNITS], s_BS[:, N_UNITS:]) if kind == "lstm" else s_BS
    out = module(x_BI, state)
    out = torch.cat(out, dim=1) if isinstance(out, tuple) else out
    (q_BS * out).sum().backward()

    _, lin = cell.step(W_ZM, x_BI, s_BS)
    dW_ZM = lin.pull_drive(q_BS).T @ lin.u_BM
    if kind == "gru":  # nx | nh live in rows of their own; r and z rows come first
        split, h = 2 * N_UNITS, slice(N_INPUTS, N_INPUTS + N_UNITS)
        dW_x = torch.cat((dW_ZM[:split], dW_ZM[split : 3 * N_UNITS]))
        dW_h = torch.cat((dW_ZM[:split], dW_ZM[3 * N_UNITS :]))
        biases = (dW_x[:, -1], dW_h[:, -1])
        torch.testing.assert_close(dW_h[:, h], module.weight_hh.grad, rtol=0, atol=1e-12)
        torch.testing.assert_close(dW_x[:, :N_INPUTS], module.weight_ih.grad, rtol=0, atol=1e-12)
    else:
        biases = (dW_ZM[:, -1], dW_ZM[:, -1])
        grads = (module.weight_ih.grad, module.weight_hh.grad)
        torch.testing.assert_close(dW_ZM[:, :-1], torch.cat(grads, dim=1), rtol=0, atol=1e-12)
    torch.testing.assert_close(biases[0], module.bias_ih.grad, rtol=0, atol=1e-12)
    torch.testing.assert_close(biases[1], module.bias_hh.grad, rtol=0, atol=1e-12)
