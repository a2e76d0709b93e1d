"""SnAp-1: each unit remembers its own influence on itself (Menick et al. 2021).

Axes: B lanes, K blocks, G gates, N units, S = K*N, Z = G*N, M = I+N+1.

    e[:, g, n] <- J_n e[:, g, n] + drive[:, g, n] u,      dW[g, n] = sum_k q[k, n] e[k, g, n]

where J_n (K, K) is the block of J that maps unit n onto itself, its own recurrent weights
W_h[(g, n), n] included. What passes through other units is dropped.   (docs/algorithms.md 4.3)
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit, is_sound, norms
from stream_rnn.linearization import Linearization


class Snap1(Credit):
    """Biased, no variance, as cheap as a forward pass: memory K*Z*M a lane, time K^2*Z*M a tick.

    Exact if W_h is diagonal. On gated or leaky cells, whose J_n is close to a forget gate, a strong
    cheap rule; on a tanh cell little better than no memory.
    """

    def __init__(self, cell: Cell, n_lanes: int) -> None:
        super().__init__(cell, n_lanes)
        K, G, N, M = cell.blocks, cell.gates, cell.n_units, cell.weight_shape[1]
        self.lane_state = {"e_BKGNM": torch.zeros(n_lanes, K, G, N, M)}
        self._gradient_ZM = torch.zeros(cell.weight_shape)

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(q_BS)
        e_BKGNM = self.lane_state["e_BKGNM"]
        B, K, _, N, _ = e_BKGNM.shape
        J_BKKN = self._unit_blocks(lin)
        new_BKGNM = lin.drive_BKGN[..., None] * lin.u_BM[:, None, None, None, :]
        for block in range(K):
            J_BK1N1 = J_BKKN[:, :, block, None, :, None]
            new_BKGNM.addcmul_(J_BK1N1, e_BKGNM[:, block, None])
        norm_B = torch.where(live_B, norms(new_BKGNM), 0.0)
        sound_B = is_sound(norm_B)
        # where, not times zero: a lane that is unsound or not live may hold NaN
        dW_BGNM = (q_BS.view(B, K, 1, N, 1) * new_BKGNM).sum(dim=1)
        use_B111 = (live_B & sound_B)[:, None, None, None]
        dW_GNM = torch.where(use_B111, dW_BGNM, 0.0).sum(dim=0)
        self._gradient_ZM = dW_GNM.view(self.cell.weight_shape)
        self._commit("e_BKGNM", new_BKGNM, live_B, sound_B)
        self._healthy_B = sound_B
        self._facts = {"influence_norm": norm_B}

    @override
    def gradient(self) -> Tensor:
        assert self._gradient_ZM is not None
        return self._gradient_ZM

    @staticmethod
    def _unit_blocks(lin: Linearization) -> Tensor:
        """J_n of each unit, (B, K, K, N): the carry, and from h also through the unit's gates."""
        G, N = lin.drive_BKGN.shape[2:]
        own_GN = lin.W_h_ZN.view(G, N, N).diagonal(dim1=1, dim2=2)
        J_BKKN = lin.carry_BKKN.clone()
        J_BKKN[:, :, 0] += (lin.drive_BKGN * own_GN).sum(dim=2)
        return J_BKKN
