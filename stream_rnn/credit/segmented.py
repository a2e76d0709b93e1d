"""Locked windows that still pay the last losses of a sequence after its lane was given a new one.

Axes: B lanes, N units, K state blocks, S = K*N.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.tbptt import Tbptt
from stream_rnn.lane_state import rows
from stream_rnn.linearization import Linearization


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(Linearization):
    """A step through which no credit flows back in the lanes that begin with it."""

    begins_B: Tensor

    @override
    def J_h_BSN(self) -> Tensor:
        # by name: zero-argument super() does not survive slots=True
        J_h_BSN = Linearization.J_h_BSN(self)
        return torch.where(rows(self.begins_B, J_h_BSN), 0.0, J_h_BSN)


class Segmented(Tbptt):
    """TBPTT(k1, k2) for lanes that are reset at the end of each sequence, as the papers run it.

    Resetting a lane makes a rule forget all about it, the losses not yet paid included: a locked
    window (every > 1) would lose the end of nearly every sequence. Here a reset cuts the chain
    instead: what is owed is paid with the rest, and goes no further back than its own sequence.

    Equals `Tbptt` with the same resets where `every` is 1.
    """

    def __init__(self, cell: Cell, n_lanes: int, window: int = 50, every: int = 1) -> None:
        super().__init__(cell, n_lanes, window, every)
        self.lane_state["begins_B"] = torch.zeros(n_lanes, dtype=torch.bool)

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        self._like(lin.u_BM)
        begins_B = self.lane_state["begins_B"]
        carry_BKKN = torch.where(rows(begins_B, lin.carry_BKKN), 0.0, lin.carry_BKKN)
        cut = Cut(lin.W_h_ZN, lin.drive_BKGN, carry_BKKN, lin.u_BM, begins_B=begins_B.clone())
        begins_B &= ~live_B
        super().observe(cut, q_BS, live_B)

    @override
    def reset(self, lanes_B: Tensor) -> None:
        begins_B = self.lane_state["begins_B"]
        begins_B |= lanes_B.to(begins_B.device)
