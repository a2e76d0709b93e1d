"""What every cell must be: its closed form is the derivative of its step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from stream_rnn.cells import Cell


def check_cell(cell: Cell, seed: int = 0) -> None:
    """Assert that the closed form of `cell` is the derivative of its `step`, in float64.

    Args:
        cell: a few inputs and units suffice; brute force costs their square.
        seed: of the random weights, inputs and states looked at.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    N, B = cell.n_units, 3
    S, (Z, M) = cell.n_state, cell.weight_shape
    assert (cell.gates * N, cell.n_inputs + N + 1) == (Z, M), f"weight_shape is {(Z, M)}"
    W_ZM = cell.initial_weight(torch.Generator().manual_seed(seed))
    again_ZM = cell.initial_weight(torch.Generator().manual_seed(seed))
    assert torch.equal(W_ZM, again_ZM), "initial_weight must depend on the generator alone"
    W_ZM = W_ZM + noise(Z, M) * 0.3
    if cell.mask_ZM is not None:
        assert bool((again_ZM[~cell.mask_ZM] == 0).all()), "initial_weight breaks mask_ZM"
        W_ZM = torch.where(cell.mask_ZM, W_ZM, 0.0)
    x_BI, s_BS = noise(B, cell.n_inputs), noise(B, S) * 0.5

    arguments = (W_ZM, x_BI, s_BS)
    copies = [argument.clone() for argument in arguments]
    s_t_BS, lin = cell.step(*arguments)
    for name, argument, copy in zip(("W", "x", "s"), arguments, copies, strict=True):
        assert torch.equal(argument, copy), f"step() changed its argument {name}"
    u_BM = torch.cat((x_BI, s_BS[:, :N], torch.ones_like(x_BI[:, :1])), dim=1)
    assert torch.equal(lin.u_BM, u_BM), "u must be [x_t, h_tm1, 1]; h is the first state block"
    W_h_ZN = W_ZM[:, cell.n_inputs : cell.n_inputs + N]
    assert torch.equal(lin.W_h_ZN, W_h_ZN), "W_h must be the columns that read h"

    def close(name: str, got: Tensor, truth: Tensor) -> None:
        error = float((got - truth).abs().max())
        assert error <= 1e-10, f"{name} of {type(cell).__name__} is off by {error:.1e}"

    X_BSR, q_BS = noise(B, S, 4), noise(B, S)
    pushed_BSR, pulled_BS, dz_BZ = lin.push(X_BSR), lin.pull(q_BS), lin.pull_drive(q_BS)
    for b in range(B):
        lane = slice(b, b + 1)

        def of_state(s: Tensor, lane: slice = lane) -> Tensor:
            return cell.step(W_ZM, x_BI[lane], s[None])[0][0]

        def of_bias(bias: Tensor, lane: slice = lane) -> Tensor:  # ds/dbias = ds/dz
            W_biased_ZM = torch.cat((W_ZM[:, :-1], bias[:, None]), dim=1)
            return cell.step(W_biased_ZM, x_BI[lane], s_BS[lane])[0][0]

        close("step in company of other lanes", s_t_BS[b], of_state(s_BS[b]))
        J_SS: Tensor = jacobian(of_state, s_BS[b])  # type: ignore[no-untyped-call]
        D_SZ: Tensor = jacobian(of_bias, W_ZM[:, -1])  # type: ignore[no-untyped-call]
        close("push (J X)", pushed_BSR[b], J_SS @ X_BSR[b])
        close("pull (J^T q)", pulled_BS[b], J_SS.T @ q_BS[b])
        close("J_h", lin.J_h_BSN()[b], J_SS[:, :N])
        close("dense_drive (ds/dz)", lin.dense_drive()[b], D_SZ)
        close("pull_drive", dz_BZ[b], D_SZ.T @ q_BS[b])
