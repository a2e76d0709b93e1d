"""Exact real-time recurrent learning (Williams & Zipser 1989).

Axes: B lanes, K blocks, G gates, N units, S = K*N, Z = G*N, M = I+N+1.

The influence G_t = ds_t/dW follows `G_t = J_t G_tm1 + D_t (x) u_t`, G_0 = 0. Memory S*Z*M a lane.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit, is_sound, norms
from stream_rnn.linearization import Linearization


class Rtrl(Credit):
    """Exact, no variance; equals backpropagation through all of time for frozen W.

    While W is being learned the influence is d s_t / d eps of the trajectory really taken, replayed
    with every W_1..W_t replaced by W_1 + eps .. W_t + eps (docs/algorithms.md 7.3).
    """

    def __init__(self, cell: Cell, n_lanes: int) -> None:
        super().__init__(cell, n_lanes)
        Z, M = cell.weight_shape
        self.lane_state = {"G_BSZM": torch.zeros(n_lanes, cell.n_state, Z, M)}
        self._gradient_ZM = torch.zeros(Z, M)

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(q_BS)
        B, S, Z, M = self.lane_state["G_BSZM"].shape
        K, G, N = lin.drive_BKGN.shape[1:]
        G_BSQ = lin.push(self.lane_state["G_BSZM"].view(B, S, Z * M))
        immediate_BKGMN = lin.drive_BKGN[:, :, :, None] * lin.u_BM[:, None, None, :, None]
        G_BSQ.view(B, K, N, G, N, M).diagonal(dim1=2, dim2=4).add_(immediate_BKGMN)
        norm_B = torch.where(live_B, norms(G_BSQ), 0.0)
        sound_B = is_sound(norm_B)
        # where, not times zero: a lane that is unsound or not live may hold NaN
        dW_BQ = torch.bmm(q_BS[:, None], G_BSQ)[:, 0]
        dW_BQ = torch.where((live_B & sound_B)[:, None], dW_BQ, 0.0)
        self._gradient_ZM = dW_BQ.sum(dim=0).view(Z, M)
        self._commit("G_BSZM", G_BSQ, live_B, sound_B)
        self._healthy_B = sound_B
        self._facts = {"influence_norm": norm_B}

    @override
    def gradient(self) -> Tensor:
        assert self._gradient_ZM is not None
        return self._gradient_ZM
