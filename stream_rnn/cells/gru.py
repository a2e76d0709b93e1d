"""The gated recurrent unit with the reset gate after the matrix product, as in PyTorch.

Axes: B lanes, I inputs, N units, K = 1, G = 4 gates (r, z, nx, nh), S = N, Z = 4N, M = I+N+1.

    r = sig(z_r)   z = sig(z_z)   v = tanh(z_nx + r z_nh)   h_t = (1 - z) v + z h_tm1

One weight matrix with structural zeros ("masked" form): the rows nx read no h, the rows nh no x.
Derivatives (docs/algorithms.md 3.2): with d = (1 - z)(1 - v^2),
    dh/dz_nx = d,  dh/dz_nh = d r,  dh/dz_r = d z_nh r (1 - r),  dh/dz_z = (h_tm1 - v) z (1 - z).
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.linearization import Linearization


class Gru(Cell):
    """Cho et al. 2014 in PyTorch's reset-after form; equals `torch.nn.GRUCell`.

    PyTorch's `b_in` and `b_hn` are the biases of the rows nx and nh; its `b_ir + b_hr` and
    `b_iz + b_hz` are one bias each.
    """

    blocks = 1
    gates = 4

    def __init__(self, n_inputs: int, n_units: int) -> None:
        super().__init__(n_inputs, n_units)
        mask_ZM = torch.ones(self.weight_shape, dtype=torch.bool)
        mask_ZM[2 * n_units : 3 * n_units, n_inputs : n_inputs + n_units] = False
        mask_ZM[3 * n_units :, :n_inputs] = False
        self.mask_ZM = mask_ZM

    @override
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        u_BM = self._assemble(x_BI, s_BS)
        z_BGN = (u_BM @ W_ZM.T).view(-1, 4, self.n_units)
        _, _, nx, nh = z_BGN.unbind(1)
        gates_B2N = torch.sigmoid(z_BGN[:, :2])
        slopes_B2N = torch.addcmul(gates_B2N, gates_B2N, gates_B2N, value=-1)
        r, z = gates_B2N.unbind(1)
        v = torch.tanh(torch.addcmul(nx, r, nh))
        rest = s_BS - v
        h_BN = torch.addcmul(v, z, rest)
        d = (1 - z) * (1 - v * v)
        drive_BGN = torch.stack((d * nh, rest, d, d * r), dim=1)
        drive_BGN[:, :2] *= slopes_B2N
        carry_BKKN = z[:, None, None, :]
        W_h_ZN = self._recurrent_columns(W_ZM)
        return h_BN, Linearization(W_h_ZN, drive_BGN[:, None], carry_BKKN, u_BM)
