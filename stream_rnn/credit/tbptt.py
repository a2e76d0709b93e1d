"""Truncated backpropagation through time over the trajectory really taken (Williams & Peng 1990).

Axes: B lanes, T slots of the window, K blocks, G gates, N units, S = K*N, Z = G*N, M = I+N+1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit, is_sound, rows
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
        self._gradient_ZM: Tensor | None = None

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
        owed_TBS = state["owed_BTS"][self._lanes[:, None], slots_BT].transpose(0, 1)
        J_h = state["J_h_BTSN"].view(B * T, K * N, N)
        carry = state["carry_BTKKN"].view(B * T, K, K, N)
        flat_TB = (self._lanes[:, None] * T + slots_BT).T.contiguous()
        q_BS = owed_TBS[0]
        q_of_lag = [q_BS]
        for lag in range(1, T):
            index_B = flat_TB[lag - 1]
            back_BS = torch.bmm(q_BS[:, None, :], J_h.index_select(0, index_B))[:, 0]
            if K > 1:
                carry_BKKN = carry.index_select(0, index_B)[:, :, 1:]
                rest = (carry_BKKN * q_BS.view(B, K, 1, N)).sum(dim=1)
                back_BS = torch.cat((back_BS, rest.view(B, (K - 1) * N)), dim=1)
            q_BS = owed_TBS[lag] + back_BS
            q_of_lag.append(q_BS)
        q_BTS = torch.stack(q_of_lag, dim=1)

        gathered = (self._lanes[:, None], slots_BT)
        drive_BTKGN, u_BTM = state["drive_BTKGN"][gathered], state["u_BTM"][gathered]
        p_BTZ = (drive_BTKGN * q_BTS.view(B, T, K, 1, N)).sum(dim=2).view(B, T, G * N)
        sizes = (t.square().sum(dim=(1, 2)) for t in (q_BTS, p_BTZ, u_BTM))
        sound_B = is_sound(sum(sizes, torch.zeros_like(q_BTS[:, 0, 0])))
        p_BTZ = torch.where(sound_B[:, None, None], p_BTZ, 0.0)
        u_BTM = torch.where(sound_B[:, None, None], u_BTM, 0.0)
        gradient_ZM = p_BTZ.view(B * T, -1).T @ u_BTM.view(B * T, -1)

        state["owed_BTS"].zero_()
        self._healthy_B = sound_B
        self._ticks = 0
        # an unsound lane starts a new window
        self.reset(~sound_B)
        return gradient_ZM
