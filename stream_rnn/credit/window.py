"""The last steps of every lane, as they were really taken, and how dL/ds is carried back over them.

Axes: B lanes, T slots, L lags (newest first), K blocks, G gates, N units, S = K*N, Z = G*N, M.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit, is_sound, norms, outer_sum
from stream_rnn.lane_state import rows, zero_lanes
from stream_rnn.linearization import Linearization


class Window(Credit):
    """A ring of the linearizations of each lane's last `slots` events, each with its own W_h.

    Args:
        cell: the cell whose steps will be observed.
        n_lanes: B.
        slots: T.
    """

    def __init__(self, cell: Cell, n_lanes: int, slots: int) -> None:
        super().__init__(cell, n_lanes)
        N, S = cell.n_units, cell.n_state
        K, G, M = cell.blocks, cell.gates, cell.weight_shape[1]
        lanes = (n_lanes, slots)
        self.slots = slots
        self.lane_state = {
            "J_h_BTSN": torch.zeros(*lanes, S, N),
            "carry_BTKKN": torch.zeros(*lanes, K, K, N),
            "drive_BTKGN": torch.zeros(*lanes, K, G, N),
            "u_BTM": torch.zeros(*lanes, M),
            "newest_B": torch.zeros(n_lanes, dtype=torch.int64),  # slot of the newest event
        }
        self._lanes = torch.arange(n_lanes)

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        newest_B = state.get("newest_B")
        if newest_B is not None and not bool(((newest_B >= 0) & (newest_B < self.slots)).all()):
            raise ValueError(f"credit state 'newest_B': expected slots in 0..{self.slots - 1}")
        super().load_state_dict(state)
        self._lanes = self._lanes.to(self.lane_state["newest_B"].device)

    def _append(self, lin: Linearization, live_B: Tensor) -> None:
        """Take the step of every live lane into the ring, in place of its oldest."""
        self._like(lin.u_BM)
        if self._lanes.device != live_B.device:
            self._lanes = self._lanes.to(live_B.device)
        newest_B = self.lane_state["newest_B"]
        torch.where(live_B, (newest_B + 1) % self.slots, newest_B, out=newest_B)
        self._write_newest("J_h_BTSN", lin.J_h_BSN(), live_B)
        self._write_newest("carry_BTKKN", lin.carry_BKKN, live_B)
        self._write_newest("drive_BTKGN", lin.drive_BKGN, live_B)
        self._write_newest("u_BTM", lin.u_BM, live_B)

    def _write_newest(self, name: str, value: Tensor, live_B: Tensor) -> None:
        """Write `value` into the newest slot of every live lane."""
        ring = self.lane_state[name]
        newest_B = self.lane_state["newest_B"]
        old = ring[self._lanes, newest_B]
        ring[self._lanes, newest_B] = torch.where(rows(live_B, old), value, old)

    def _order(self, lags: int) -> Tensor:
        """Where the last `lags` events of all lanes stand, (L*B), newest first."""
        newest_B = self.lane_state["newest_B"]
        lag_L = torch.arange(lags, device=newest_B.device)
        slots_BL = (newest_B[:, None] - lag_L) % self.slots
        return (self._lanes[:, None] * self.slots + slots_BL).T.reshape(-1)

    def _ordered(self, name: str, order: Tensor) -> Tensor:
        """The slots of all lanes, (L*B, ...), in the given order: a copy."""
        return self.lane_state[name].flatten(0, 1).index_select(0, order)

    def _carry_back(self, q_LBS: Tensor, order: Tensor) -> None:
        """Turn the losses of each lag, dL/ds, into what arrives there from all newer ones too."""
        L, B, S = q_LBS.shape
        N = self.cell.n_units
        K = S // N
        J_h = self._ordered("J_h_BTSN", order).view(L, B, S, N).unbind(0)
        carry = self._ordered("carry_BTKKN", order).view(L, B, K, K, N)[:, :, :, 1:].unbind(0)
        q_LB1S = q_LBS.view(L, B, 1, S)
        q, q_h = q_LB1S.unbind(0), q_LB1S[..., :N].unbind(0)
        q_K1N = q_LBS.view(L, B, K, 1, N).unbind(0)
        q_rest = q_LBS.view(L, B, K, N)[:, :, 1:].unbind(0)
        for lag in range(1, L):
            q_h[lag].baddbmm_(q[lag - 1], J_h[lag - 1])
            if K > 1:
                q_rest[lag].add_((carry[lag - 1] * q_K1N[lag - 1]).sum(dim=1))

    def _settle(self, q_LBS: Tensor, order: Tensor) -> Tensor:
        """The gradient of what was carried back, one product; unsound lanes start a new window."""
        L, B, S = q_LBS.shape
        K, G, N = self.cell.blocks, self.cell.gates, self.cell.n_units
        drive_LBKGN = self._ordered("drive_BTKGN", order).view(L, B, K, G, N)
        p_LBZ = (drive_LBKGN * q_LBS.view(L, B, K, 1, N)).sum(dim=2).view(L, B, G * N)
        u_LBM = self._ordered("u_BTM", order).view(L, B, -1)
        p_BLZ, u_BLM = p_LBZ.transpose(0, 1), u_LBM.transpose(0, 1)
        q_BLS = q_LBS.view(L, B, S).transpose(0, 1)
        sound_B = is_sound(norms(p_BLZ) + norms(u_BLM) + norms(q_BLS))
        gradient_ZM = outer_sum(p_BLZ, u_BLM, sound_B)
        self._healthy_B = sound_B
        zero_lanes(self.lane_state, ~sound_B)
        return gradient_ZM
