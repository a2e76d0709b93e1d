"""Truncated backpropagation through time over the trajectory really taken (Williams & Peng 1990).

Axes: B lanes, T slots of the window, L lags, S state, Z = G*N, M = I+N+1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import MANY
from stream_rnn.credit.window import Window
from stream_rnn.linearization import Linearization
from stream_rnn.saved import counted


class Tbptt(Window):
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

    COUNTED = "_ticks"
    """What `passed` keeps, as it is no tensor."""

    def __init__(self, cell: Cell, n_lanes: int, window: int = 50, every: int = 1) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        if not 1 <= every <= window:
            raise ValueError(f"every must be between 1 and window ({window}), got {every}")
        super().__init__(cell, n_lanes, slots=window)
        self.window = window
        self.every = every
        # dL/ds not yet paid
        self.lane_state["owed_BTS"] = torch.zeros(n_lanes, window, cell.n_state)
        self._ticks = 0  # since the last payment

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._append(lin, live_B)
        self._write_newest("owed_BTS", q_BS, live_B)
        self._ticks += 1
        if self._ticks < self.every:
            self._gradient_ZM = None
            self._healthy_B = torch.ones_like(live_B)
        else:
            self._gradient_ZM = self._pay()

    def pays_next(self) -> bool:
        """Whether the next tick has a gradient."""
        return self._ticks + 1 >= self.every

    def calm_ticks(self) -> int:
        """How many coming ticks either all have a gradient, or all have none."""
        if self.every == 1:
            return MANY
        return max(self.every - self._ticks - 1, 1)

    @override
    def adopt(
        self, gradient_ZM: Tensor | None, healthy_B: Tensor, facts: dict[str, Tensor], n: int = 1
    ) -> None:
        super().adopt(gradient_ZM, healthy_B, facts, n)
        self.passed(n, paid=gradient_ZM is not None)

    def passed(self, n: int, paid: bool) -> None:
        """`n` ticks were made in this rule's place, all of which paid or none."""
        self._ticks = 0 if paid else self._ticks + n

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
        ticks = counted(state, "ticks", self.every)
        super().load_state_dict(state)
        self._ticks = ticks

    def _pay(self) -> Tensor:
        """Carry everything owed back through the window; one matrix product at the end."""
        order = self._order(self.window)
        q_LBS = self._ordered("owed_BTS", order).view(self.window, self.n_lanes, -1)
        self._carry_back(q_LBS, order)
        self.lane_state["owed_BTS"].zero_()
        self._ticks = 0
        return self._settle(q_LBS, order)
