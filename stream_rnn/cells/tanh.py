"""The vanilla recurrent cell: `h_t = tanh(W [x_t, h_tm1, 1])`.

Axes: B lanes, I inputs, N units (K = G = 1, so S = Z = N), M = I+N+1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.linearization import Linearization


class Tanh(Cell):
    """Elman's network; equals `torch.nn.RNNCell` with its two biases added up."""

    blocks = 1
    gates = 1

    @override
    def step(self, W_ZM: Tensor, x_BI: Tensor, s_BS: Tensor) -> tuple[Tensor, Linearization]:
        u_BM = self._assemble(x_BI, s_BS)
        h_BN = torch.tanh(u_BM @ W_ZM.T)
        drive_BKGN = (1 - h_BN * h_BN)[:, None, None, :]
        carry_BKKN = torch.zeros_like(drive_BKGN)
        return h_BN, Linearization(self._recurrent_columns(W_ZM), drive_BKGN, carry_BKKN, u_BM)
