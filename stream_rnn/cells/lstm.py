"""Long short-term memory without peepholes, PyTorch's gate order (i, f, g, o).

Axes: B lanes, I inputs, N units, K = 2 blocks (h, c), G = 4 gates, S = 2N, Z = 4N, M = I+N+1.

    c_t = f c_tm1 + i g        h_t = o tanh(c_t)

Derivatives (docs/algorithms.md 3.3): with T = tanh(c_t) and kappa = o (1 - T^2),
    dc/dz = (g i (1-i), c_tm1 f (1-f), i (1-g^2), 0),   dh/dz = kappa dc/dz + (0, 0, 0, T o (1-o)),
    dc/dc_tm1 = f,   dh/dc_tm1 = kappa f.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.linearization import Linearization


class Lstm(Cell):
    """Hochreiter & Schmidhuber 1997 with Gers' forget gate; equals `torch.nn.LSTMCell`.

    PyTorch's two biases are one here. The state is `[h, c]`; the forget gate starts open (bias 1).
    """

    blocks = 2
    gates = 4

    @override
    def initial_weight(self, generator: torch.Generator | None = None) -> Tensor:
        W_ZM = super().initial_weight(generator)
        W_ZM[self.n_units : 2 * self.n_units, -1] = 1.0
        return W_ZM

    @override
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        N = self.n_units
        c_tm1 = s_BS[:, N:]
        u_BM = self._assemble(x_BI, s_BS)
        z_BGN = (u_BM @ W_ZM.T).view(-1, 4, N)
        gates_BGN = torch.sigmoid(z_BGN)
        i, f, _, o = gates_BGN.unbind(1)
        g = torch.tanh(z_BGN[:, 2])
        c_t = torch.addcmul(f * c_tm1, i, g)
        T = torch.tanh(c_t)
        h_t = o * T
        kappa = torch.addcmul(o, h_t, T, value=-1)
        slopes_BGN = torch.addcmul(gates_BGN, gates_BGN, gates_BGN, value=-1)
        slopes_B3N = torch.stack((slopes_BGN[:, 0], slopes_BGN[:, 1], 1 - g * g), dim=1)
        dc_B3N = torch.stack((g, c_tm1, i), dim=1) * slopes_B3N
        dh_BGN = torch.cat((kappa[:, None] * dc_B3N, (T * slopes_BGN[:, 3])[:, None]), dim=1)
        dc_BGN = pad(dc_B3N, (0, 0, 0, 1))
        drive_BKGN = torch.stack((dh_BGN, dc_BGN), dim=1)
        from_c_BKN = torch.stack((kappa * f, f), dim=1)
        carry_BKKN = pad(from_c_BKN[:, :, None], (0, 0, 1, 0))
        s_t = torch.cat((h_t, c_t), dim=1)
        return s_t, Linearization(self._recurrent_columns(W_ZM), drive_BKGN, carry_BKKN, u_BM)
