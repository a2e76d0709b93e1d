"""A layer without recurrence: the non-linearity above linear units, learned exactly.

Axes: B lanes, I inputs, N units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.recurrence.base import Recurrence
from stream_rnn.saved import take

Activation = Literal["tanh", "relu"]


class Feedforward(Recurrence):
    """`h = f(W [x, 1])`. Keeps no state, so its gradient is instantaneous and exact.

    It belongs on top of element-wise recurrent units (`Lru`, linear `Rtu`), which are linear in
    themselves, and costs nothing in credit: what passes down through it is exact, too.

    Args:
        n_inputs: I.
        n_units: N.
        n_lanes: B.
        generator: where the initial weights come from.
        activation: f.
        dtype, device: of the weights, which are drawn in float64 on the CPU.
    """

    def __init__(
        self,
        n_inputs: int,
        n_units: int,
        n_lanes: int,
        generator: torch.Generator | None = None,
        activation: Activation = "tanh",
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("n_inputs", n_inputs), ("units", n_units), ("n_lanes", n_lanes)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if activation not in ("tanh", "relu"):
            raise ValueError(f'activation must be "tanh" or "relu", got {activation!r}')
        self.n_inputs, self.width, self.n_lanes = n_inputs, n_units, n_lanes
        self.activation = activation
        # inputs of unit variance come out with variance 1 (tanh) or 2 (relu) before f
        bound = ((6 if activation == "relu" else 3) / n_inputs) ** 0.5
        W_NM = torch.zeros(n_units, n_inputs + 1, dtype=torch.float64)
        drawn_NI = torch.rand(n_units, n_inputs, generator=generator, dtype=torch.float64)
        W_NM[:, :n_inputs] = (2 * drawn_NI - 1) * bound
        self.W_NM = W_NM.to(device, dtype)
        self.lane_state = {}
        self._healthy_B = torch.ones(n_lanes, dtype=torch.bool, device=device)
        self._step: tuple[Tensor, Tensor] | None = None

    @override
    def parameters(self) -> list[Tensor]:
        return [self.W_NM]

    @override
    def forward(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        u_BM = torch.cat((x_BI, torch.ones_like(x_BI[:, :1])), dim=1)
        h_BN = self._activate(u_BM @ self.W_NM.T)
        self._step = u_BM, h_BN
        return h_BN

    @override
    def learn(self, dL_dh_BN: Tensor, live_B: Tensor) -> tuple[list[Tensor] | None, Tensor]:
        if self._step is None:
            raise RuntimeError("learn() needs a forward() of the same tick before it")
        u_BM, h_BN = self._step
        self._step = None
        slope_BN = 1 - h_BN * h_BN if self.activation == "tanh" else (h_BN > 0).to(h_BN.dtype)
        # where, not times zero: a lane that is not live may hold NaN
        dL_dz_BN = torch.where(live_B[:, None], dL_dh_BN * slope_BN, 0.0)
        u_BM = torch.where(live_B[:, None], u_BM, 0.0)
        return [dL_dz_BN.T @ u_BM], dL_dz_BN @ self.W_NM[:, : self.n_inputs]

    @override
    def roll(self, x_BI: Tensor, live_B: Tensor) -> Tensor:
        u_BM = torch.cat((x_BI, torch.ones_like(x_BI[:, :1])), dim=1)
        return self._activate(u_BM @ self.W_NM.T)

    @override
    def hidden(self, is_ahead: bool) -> list[Tensor]:
        return []

    @override
    def healthy(self) -> Tensor:
        return self._healthy_B

    @override
    def reset(self, lanes_B: Tensor) -> None:
        """Nothing to forget."""

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {"W_NM": self.W_NM}

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        take(self.W_NM, state, "W_NM")

    def _activate(self, z_BN: Tensor) -> Tensor:
        return torch.tanh(z_BN) if self.activation == "tanh" else torch.relu(z_BN)
