"""A cell with dense recurrence and a credit rule: the waist, wrapped for the learner.

Axes: B lanes, I inputs, N units, S = K*N, Z = G*N, M = I+N+1.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from stream_rnn.cells.base import Cell
from stream_rnn.credit.base import Credit
from stream_rnn.credit.fidelity import Fidelity
from stream_rnn.lane_state import reset_lanes
from stream_rnn.linearization import Linearization
from stream_rnn.recurrence.base import Recurrence
from stream_rnn.saved import part, take


class Dense(Recurrence):
    """One recurrent layer of any cell, taught by any credit rule.

    Args:
        cell: the forward pass and its derivatives.
        credit: the rule; built for the same cell and number of lanes.
        W_ZM: initial weights; kept, and moved in place by the update.
        fidelity: compares the rule's gradient with a long window's now and then, for metrics.
    """

    def __init__(
        self, cell: Cell, credit: Credit, W_ZM: Tensor, fidelity: Fidelity | None = None
    ) -> None:
        if credit.cell is not cell:
            raise ValueError("the credit rule was built for another cell object")
        if tuple(W_ZM.shape) != cell.weight_shape:
            raise ValueError(f"W: expected {cell.weight_shape}, got {tuple(W_ZM.shape)}")
        self.cell = cell
        self.credit = credit
        self.fidelity = fidelity
        self.n_inputs, self.width, self.n_lanes = cell.n_inputs, cell.n_units, credit.n_lanes
        self.W_ZM = W_ZM
        mask_ZM = cell.mask_ZM
        self._mask_ZM = None if mask_ZM is None else mask_ZM.to(W_ZM.device)
        zeros_BS = W_ZM.new_zeros(self.n_lanes, cell.n_state)
        self._own = {"s_BS": zeros_BS, "ahead_BS": zeros_BS.clone()}
        self._candidate_BS: Tensor | None = None
        self._lin: Linearization | None = None

    @property
    def lane_state(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Hidden states and the credit rule's, by flat names."""
        return self._own | {f"credit.{k}": v for k, v in self.credit.lane_state.items()}

    @override
    def parameters(self) -> list[Tensor]:
        return [self.W_ZM]

    @override
    def forward(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        self._candidate_BS, self._lin = self.cell.step(self.W_ZM, x_BI, self._own["s_BS"])
        return self._candidate_BS[:, : self.width]

    @override
    def learn(self, dL_dh_BN: Tensor, live_B: Tensor) -> tuple[list[Tensor] | None, Tensor]:
        if self._lin is None or self._candidate_BS is None:
            raise RuntimeError("learn() needs a forward() of the same tick before it")
        lin, s_BS = self._lin, self._own["s_BS"]
        torch.where(live_B[:, None], self._candidate_BS, s_BS, out=s_BS)
        self._lin = self._candidate_BS = None
        q_BS = dL_dh_BN  # the other blocks of the state have no loss of their own
        if self.cell.blocks > 1:
            q_BS = pad(q_BS, (0, s_BS.shape[1] - self.width))
        self.credit.observe(lin, q_BS, live_B)
        dL_dx_BI = lin.pull_drive(q_BS) @ self.W_ZM[:, : self.n_inputs]
        gradient_ZM = self.credit.gradient()
        if gradient_ZM is not None and self._mask_ZM is not None:
            gradient_ZM = torch.where(self._mask_ZM, gradient_ZM, 0.0)
        if (probe := self._probe()) is not None:
            probe.observe(lin, q_BS, live_B, gradient_ZM, self._mask_ZM)
        return None if gradient_ZM is None else [gradient_ZM], dL_dx_BI

    @override
    def settle(self, updated: Tensor) -> None:
        self.credit.settle(updated)

    @override
    def roll(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        ahead_BS = self._own["ahead_BS"]
        candidate_BS, _ = self.cell.step(self.W_ZM, x_BI, ahead_BS)
        torch.where(live_B[:, None], candidate_BS, ahead_BS, out=ahead_BS)
        return ahead_BS[:, : self.width]

    @override
    def hidden(self, is_ahead: bool) -> list[Tensor]:
        return [self._own["ahead_BS" if is_ahead else "s_BS"]]

    @override
    def healthy(self) -> Tensor:
        return self.credit.healthy()

    @override
    def report(self) -> dict[str, Tensor]:
        probe = self._probe()
        return self.credit.report() | ({} if probe is None else probe.report())

    @override
    def reset(self, lanes_B: Tensor) -> None:
        reset_lanes(self._own, lanes_B)
        self.credit.reset(lanes_B)
        if self.fidelity is not None:
            self.fidelity.reset(lanes_B)

    @override
    def state_dict(self) -> dict[str, Tensor]:
        credit = {f"credit.{name}": t for name, t in self.credit.state_dict().items()}
        probe = self._probe()
        found = {} if probe is None else probe.state_dict()
        probed = {f"fidelity.{name}": t for name, t in found.items()}
        return {"W_ZM": self.W_ZM} | self._own | credit | probed

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, mine in ({"W_ZM": self.W_ZM} | self._own).items():
            take(mine, state, name)
        self.credit.load_state_dict(part(state, "credit."))
        for name, tensor in self.credit.lane_state.items():
            is_fresh = tensor.dtype == torch.float32 and not bool(tensor.any())  # of a rung unused
            if tensor.is_floating_point() and tensor.dtype != self.W_ZM.dtype and not is_fresh:
                raise ValueError(f"credit state {name!r}: {tensor.dtype}, not {self.W_ZM.dtype}")
        if (probe := self._probe()) is not None:
            probe.load_state_dict(part(state, "fidelity."))

    def _probe(self) -> Fidelity | None:
        """What compares the rule in use, which may be another one by now."""
        if self.fidelity is not None:
            self.fidelity.follow(self.credit.switches)
        return self.fidelity
