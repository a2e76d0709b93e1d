"""The recurrent highway network of depth one, coupled gates.

Axes: B lanes, I inputs, N units, K = 1, G = 2 gates (c, f), S = N, Z = 2N, M = I+N+1.

    c = 2 sig(z_c) - 1 = tanh(z_c / 2)        f = sig(z_f)        h_t = f h_tm1 + (1 - f) c

Derivatives (docs/algorithms.md 3.4):
    dh/dz_c = (1 - f) (1 - c^2) / 2,  dh/dz_f = (h_tm1 - c) f (1 - f),  dh/dh_tm1 = f + through z.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.linearization import Linearization


class Rhn(Cell):
    """Zilly et al. 2017 at depth 1, with the candidate `2 sig(z) - 1` of the OK experiments.

    A leaky average: |h| never exceeds 1 if it starts there, and half of what a GRU computes.
    """

    blocks = 1
    gates = 2

    @override
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        u_BM = self._assemble(x_BI, s_BS)
        gates_BGN = torch.sigmoid((u_BM @ W_ZM.T).view(-1, 2, self.n_units))
        slopes_BGN = torch.addcmul(gates_BGN, gates_BGN, gates_BGN, value=-1)
        half, f = gates_BGN.unbind(1)
        # h_t = h_tm1 - (1 - f) d with d = h_tm1 - c, c = 2 half - 1: twice the slope of `half`
        d = torch.sub(s_BS, half, alpha=2).add_(1)
        twice_rest = torch.rsub(f, 2, alpha=2)  # 2 (1 - f)
        h_BN = torch.addcmul(s_BS, twice_rest, d, value=-0.5)
        drive_BGN = torch.stack((twice_rest, d), dim=1) * slopes_BGN
        carry_BKKN = f[:, None, None, :]
        W_h_ZN = self._recurrent_columns(W_ZM)
        return h_BN, Linearization(W_h_ZN, drive_BGN[:, None], carry_BKKN, u_BM)
