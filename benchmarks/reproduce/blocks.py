"""TBPTT(k1 = k2) as the papers run it: block after block, many lanes, every lane at every tick.

Axes: B lanes, T steps of a block, K blocks of the state, G gates, N units, S = K*N, Z = G*N, M.

What it computes is `Tbptt(window=T, every=T)`, whose windows count each lane's own events and so
keep ds/dh_tm1 (S, N) of every lane and step: 1.7 GB for 128 lanes, 100 steps and 128 units. Where
no lane ever sits out, all lanes share the W of a step, and W stands still within a block: then the
gates' slopes are enough, 50 MB.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit, is_sound, norms, outer_sum
from stream_rnn.linearization import Linearization


class Blocks(Credit):
    """Pays all losses of a block at its last tick, carried back to its first.

    Args:
        cell: the cell whose steps will be observed.
        n_lanes: B; every lane must have an event at every tick.
        steps: T, ticks of a block; W may move at its end only.
    """

    def __init__(self, cell: Cell, n_lanes: int, steps: int) -> None:
        super().__init__(cell, n_lanes)
        K, G, N, M = cell.blocks, cell.gates, cell.n_units, cell.weight_shape[1]
        self.steps = steps
        self.lane_state = {
            "drive_BTKGN": torch.zeros(n_lanes, steps, K, G, N),
            "carry_BTKKN": torch.zeros(n_lanes, steps, K, K, N),
            "u_BTM": torch.zeros(n_lanes, steps, M),
            "owed_BTS": torch.zeros(n_lanes, steps, cell.n_state),
        }
        self._filled = 0

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(lin.u_BM)
        step = self._filled
        for name, value in (
            ("drive_BTKGN", lin.drive_BKGN),
            ("carry_BTKKN", lin.carry_BKKN),
            ("u_BTM", lin.u_BM),
            ("owed_BTS", q_BS),
        ):
            self.lane_state[name][:, step] = value
        self._filled += 1
        self._gradient_ZM = None
        self._healthy_B = torch.ones_like(live_B)
        if self._filled == self.steps:
            self._filled = 0
            self._gradient_ZM = self._pay(lin.W_h_ZN)

    @override
    def gradient(self) -> Tensor | None:
        return self._gradient_ZM

    @override
    def reset(self, lanes_B: Tensor) -> None:
        if self._filled:
            raise ValueError(f"blocks: a reset after {self._filled} of {self.steps} ticks")

    def _pay(self, W_h_ZN: Tensor) -> Tensor:
        B, T = self.n_lanes, self.steps
        drive = self.lane_state["drive_BTKGN"].unbind(1)
        carry = self.lane_state["carry_BTKKN"].unbind(1)
        owed = self.lane_state["owed_BTS"].unbind(1)
        p_BTZ = W_h_ZN.new_empty(B, T, W_h_ZN.shape[0])
        q_BS = torch.zeros_like(owed[0])
        for t in range(T - 1, -1, -1):
            q_BS = q_BS + owed[t]
            step = Linearization(W_h_ZN, drive[t], carry[t], W_h_ZN)
            p_BTZ[:, t] = p_BZ = step.pull_drive(q_BS)
            q_BKN = q_BS.view(B, -1, 1, self.cell.n_units)
            back_BKN = (carry[t] * q_BKN).sum(dim=1)
            back_BKN[:, 0].addmm_(p_BZ, W_h_ZN)
            q_BS = back_BKN.view(B, -1)
        u_BTM = self.lane_state["u_BTM"]
        self._healthy_B = is_sound(norms(p_BTZ) + norms(u_BTM))
        return outer_sum(p_BTZ, u_BTM, self._healthy_B)
