"""Windows that still pay the last losses of a sequence after its lane has been reset.

Axes: B lanes, N units, K state blocks, S = K*N.

Resetting a lane makes a rule forget everything about it, the losses not yet paid included. A
window that pays at every tick owes nothing; a locked one would lose the end of nearly every
sequence, which is where a copy task asks its questions, and be beaten for that alone. Here a reset
cuts the chain instead: what is owed is paid, and goes no further back than its own sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.credit.base import Credit
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


class Segmented(Credit):
    """`Tbptt` for lanes that are reset at the end of each sequence.

    Equals `Tbptt` with the same resets where `every` is 1, and pays each loss once where it is not.
    """

    def __init__(self, window: Tbptt) -> None:
        super().__init__(window.cell, window.n_lanes)
        self._window = window
        self._begins_B = torch.zeros(window.n_lanes, dtype=torch.bool)

    @override
    def observe(self, lin: Linearization, q_BS: Tensor, live_B: Tensor) -> None:
        begins_B = self._begins_B = self._begins_B.to(live_B.device)
        carry_BKKN = torch.where(rows(begins_B, lin.carry_BKKN), 0.0, lin.carry_BKKN)
        cut = Cut(lin.W_h_ZN, lin.drive_BKGN, carry_BKKN, lin.u_BM, begins_B=begins_B)
        self._window.observe(cut, q_BS, live_B)
        self._begins_B = begins_B & ~live_B

    @override
    def gradient(self) -> Tensor | None:
        return self._window.gradient()

    @override
    def flush(self) -> Tensor | None:
        return self._window.flush()

    @override
    def healthy(self) -> Tensor:
        return self._window.healthy()

    @override
    def reset(self, lanes_B: Tensor) -> None:
        self._begins_B = self._begins_B.to(lanes_B.device) | lanes_B

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self._window.state_dict() | {"begins_B": self._begins_B}

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if "begins_B" not in state:
            raise ValueError("credit state 'begins_B' is missing")
        self._window.load_state_dict(state)
        self._begins_B = state["begins_B"].to(self._begins_B.device, copy=True)
