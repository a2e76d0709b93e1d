"""eLSTM: an LSTM's memory without the dense recurrence (Irie, Gopalakrishnan & Schmidhuber 2024).

Axes: B lanes, I inputs, N units, K = 1, G = 2 gates (f, z), C = 2N, U = I+2 (x, c, 1), Q = 2U.

    f = sig(F x + w_f c_tm1 + b_f)    z = tanh(Z x + w_z c_tm1 + b_z)    c_t = f c_tm1 + (1 - f) z

One number per unit, one trace per weight. Multiply-adds per unit and lane:

    forward     2 I + 4 (+ 1)
    traces      J: 7      transport Q      immediate Q
    soundness   Q
    gradient    Q         dL/dx: 2 I + 2
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.recurrence.elementwise import Elementwise, read, require_sizes, transport


class Step(NamedTuple):
    """What one step leaves for its derivatives."""

    x_BI: Tensor
    c_tm1_BN: Tensor
    f_BN: Tensor
    z_BN: Tensor


class Elstm(Elementwise[Step]):
    """Gated memories that do not see each other; h is c, `width` N.

    `parameters()`: one tensor (2, N, I+2): for the gates f and z the columns [x, c, 1].

    Args:
        n_inputs: I.
        n_units: N.
        n_lanes: B.
        generator: draws the initial values, on the CPU in float64: the same on every device.
        max_memory: the units' memories, 1/(1 - f), start spread from 2 up to this many events
            (docs/algorithms.md 12.4).
        dtype: of parameters and state.
        device: of parameters and state.
    """

    def __init__(
        self,
        n_inputs: int,
        n_units: int,
        n_lanes: int,
        generator: torch.Generator,
        max_memory: float = 100.0,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require_sizes(n_inputs=n_inputs, n_units=n_units, n_lanes=n_lanes)
        if not 2 <= max_memory <= 1e9:
            raise ValueError(f"max_memory must be from 2 to 1e9 events, got {max_memory}")
        W_GNU = torch.zeros(2, n_units, n_inputs + 2, dtype=torch.float64)
        inputs = torch.rand(2, n_units, n_inputs, generator=generator, dtype=torch.float64)
        W_GNU[..., :n_inputs] = (inputs * 2 - 1) * n_inputs**-0.5
        odds_N = 1 + (max_memory - 2) * torch.rand(
            n_units, generator=generator, dtype=torch.float64
        )
        W_GNU[0, :, -1] = odds_N.log()
        self.W_GNU = W_GNU.to(device, dtype)
        super().__init__(n_inputs, n_units, n_lanes, 1, 2 * n_inputs + 4, {"W_GNU": self.W_GNU})

    @override
    def _step(self, x_BI: Tensor, s_BKN: Tensor) -> tuple[Tensor, Step]:
        W_GNU, (of_c, of_one) = self.W_GNU, (self.n_inputs, self.n_inputs + 1)
        inner_BGN = torch.addcmul(W_GNU[..., of_one], W_GNU[..., of_c], s_BKN)
        inner_BGN += (x_BI @ self._input_weights().mT).view(inner_BGN.shape)
        f_BN, z_BN = torch.sigmoid(inner_BGN[:, 0]), torch.tanh(inner_BGN[:, 1])
        c_BN = s_BKN[:, 0]
        return torch.lerp(z_BN, c_BN, f_BN)[:, None], Step(x_BI, c_BN, f_BN, z_BN)

    @override
    def _propagate(self, local: Step, old_BKQN: Tensor, new_BKQN: Tensor) -> Tensor:
        x_BI, c_BN, f_BN, z_BN = local
        (B, N), end = f_BN.shape, self.n_inputs
        away_BN = 1 - f_BN
        d_f_BN = (c_BN - z_BN) * f_BN * away_BN
        d_z_BN = away_BN * (1 - z_BN * z_BN)
        drive_BGN = torch.stack((d_f_BN, d_z_BN), dim=1)
        j_BN = f_BN + (drive_BGN * self.W_GNU[..., end]).sum(dim=1)
        transport(j_BN[:, None, None], old_BKQN, new_BKQN)
        new_BGUN = new_BKQN.view(B, 2, end + 2, N)
        new_BGUN[:, :, :end].addcmul_(drive_BGN[:, :, None], x_BI[:, None, :, None])
        new_BGUN[:, :, end].addcmul_(drive_BGN, c_BN[:, None])
        new_BGUN[:, :, end + 1] += drive_BGN
        return drive_BGN

    @override
    def _input_weights(self) -> Tensor:
        return self.W_GNU.flatten(0, 1)[:, : self.n_inputs]

    @override
    def _gradients(self, q_BKN: Tensor, influence_BKQN: Tensor) -> list[Tensor]:
        read_GUN = read(q_BKN, influence_BKQN).view(2, self.n_inputs + 2, self.n_units)
        return [read_GUN.mT.contiguous()]
