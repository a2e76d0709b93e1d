"""Truncated backpropagation through time over the trajectory really taken (Williams & Peng 1990).

Axes: B lanes, T slots of the window, K blocks, G gates, N units, S = K*N, Z = G*N, M = I+N+1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit, is_sound, norms, outer_sum
from stream_rnn.lane_state import rows
from stream_rnn.linearization import Linearization


class Tbptt(Credit):
    """TBPTT(k1 = every, k2 = window): at every k1-th tick pay the losses of the last k1.

    Each loss is paid once, through between k2 - k1 + 1 and k2 steps. It keeps the linearization of
    each step with the W of that step, so `Tbptt(window >= t, every=1)` equals `Rtrl` at every tick
    while W is being learned. Windows count a lane's own events. No variance; lags beyond the window
    are lost. Memory `window * (S*N + K*Z + M)` a lane, time about `window * S * N` a tick.

    Args:
        cell: the cell whose steps will be observed.
        n_lanes: B.
        window: k2, steps a loss is carried back through at most.
        every: k1, ticks between two payments. 1 (the default): one update per tick, no update lock.
    """

    def __init__(self, cell: Cell, n_lanes: int, window: int = 50, every: int = 1) -> None:
        super().__init__(cell, n_lanes)
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        if not 1 <= every <= window:
            raise ValueError(f"every must be between 1 and window ({window}), got {every}")
        self.window = window
        self.every = every
        N, S = cell.n_units, cell.n_state
        K, G, M = cell.blocks, cell.gates, cell.weight_shape[1]
        lanes = (n_lanes, window)
        self.lane_state = {
            "J_h_BTSN": torch.zeros(*lanes, S, N),
            "carry_BTKKN": torch.zeros(*lanes, K, K, N),
            "drive_BTKGN": torch.zeros(*lanes, K, G, N),
            "u_BTM": torch.zeros(*lanes, M),
            "owed_BTS": torch.zeros(*lanes, S),  # dL/ds not yet paid
            "newest_B": torch.zeros(n_lanes, dtype=torch.int64),  # slot of the newest event
        }
        self._lanes = torch.arange(n_lanes)
        self._ticks = 0  # since the last payment

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(q_BS)
        if self._lanes.device != q_BS.device:
            self._lanes = self._lanes.to(q_BS.device)
        newest_B = self.lane_state["newest_B"]
        torch.where(live_B, (newest_B + 1) % self.window, newest_B, out=newest_B)
        self._store("J_h_BTSN", lin.J_h_BSN(), live_B)
        self._store("carry_BTKKN", lin.carry_BKKN, live_B)
        self._store("drive_BTKGN", lin.drive_BKGN, live_B)
        self._store("u_BTM", lin.u_BM, live_B)
        self._store("owed_BTS", q_BS, live_B)
        self._ticks += 1
        if self._ticks < self.every:
            self._gradient_ZM = None
            self._healthy_B = torch.ones_like(live_B)
        else:
            self._gradient_ZM = self._pay()

    def pays_next(self) -> bool:
        """Whether the next tick has a gradient."""
        return self._ticks + 1 >= self.every

    @override
    def adopt(
        self, gradient_ZM: Tensor | None, healthy_B: Tensor, facts: dict[str, Tensor]
    ) -> None:
        super().adopt(gradient_ZM, healthy_B, facts)
        self._ticks = self._ticks + 1 if gradient_ZM is None else 0

    @override
    def gradient(self) -> Tensor | None:
        return self._gradient_ZM

    @override
    def flush(self) -> Tensor | None:
        return self._pay() if self._ticks else None

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {"ticks": torch.tensor(self._ticks)}

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if "ticks" not in state:
            raise ValueError("credit state 'ticks' is missing")
        super().load_state_dict(state)
        self._ticks = int(state["ticks"])
        self._lanes = self._lanes.to(self.lane_state["newest_B"].device)

    def _store(self, name: str, value: Tensor, live_B: Tensor) -> None:
        """Write `value` into the newest slot of every live lane."""
        ring = self.lane_state[name]
        newest_B = self.lane_state["newest_B"]
        old = ring[self._lanes, newest_B]
        ring[self._lanes, newest_B] = torch.where(rows(live_B, old), value, old)

    def _pay(self) -> Tensor:
        """Carry everything owed back through the window; one matrix product at the end."""
        state = self.lane_state
        B, T, K, G, N = state["drive_BTKGN"].shape
        newest_B = state["newest_B"]
        lag_T = torch.arange(T, device=newest_B.device)
        slots_BT = (newest_B[:, None] - lag_T) % T
        # everything in the order of lags, newest first; q_TB1S turns from owed into carried back
        order_TB = (self._lanes[:, None] * T + slots_BT).T.reshape(-1)
        q_TB1S = self._ordered("owed_BTS", order_TB).view(T, B, 1, K * N)
        J_h = self._ordered("J_h_BTSN", order_TB).view(T, B, K * N, N).unbind(0)
        carry = self._ordered("carry_BTKKN", order_TB).view(T, B, K, K, N)[:, :, :, 1:].unbind(0)
        q, q_h = q_TB1S.unbind(0), q_TB1S[..., :N].unbind(0)
        q_K1N = q_TB1S.view(T, B, K, 1, N).unbind(0)
        q_rest = q_TB1S.view(T, B, K, N)[:, :, 1:].unbind(0)
        for lag in range(1, T):
            q_h[lag].baddbmm_(q[lag - 1], J_h[lag - 1])
            if K > 1:
                q_rest[lag].add_((carry[lag - 1] * q_K1N[lag - 1]).sum(dim=1))

        drive_TBKGN = self._ordered("drive_BTKGN", order_TB).view(T, B, K, G, N)
        p_TBZ = (drive_TBKGN * q_TB1S.view(T, B, K, 1, N)).sum(dim=2).view(T, B, G * N)
        u_TBM = self._ordered("u_BTM", order_TB).view(T, B, -1)
        p_BTZ, u_BTM = p_TBZ.transpose(0, 1), u_TBM.transpose(0, 1)
        sound_B = is_sound(norms(p_BTZ) + norms(u_BTM) + norms(q_TB1S.transpose(0, 1)))
        gradient_ZM = outer_sum(p_BTZ, u_BTM, sound_B)

        state["owed_BTS"].zero_()
        self._healthy_B = sound_B
        self._ticks = 0
        # an unsound lane starts a new window
        self.reset(~sound_B)
        return gradient_ZM

    def _ordered(self, name: str, order_TB: Tensor) -> Tensor:
        """The slots of all lanes, (T*B, ...), in the given order: a copy."""
        return self.lane_state[name].flatten(0, 1).index_select(0, order_TB)
