"""LRU: a linear complex diagonal recurrence (Orvieto et al. 2023; online: Zucchet et al. 2023).

Axes: B lanes, I inputs, N complex units, K = 2 (Re, Im) and L the same, C = 2N, P = 3, Q = I+3.

    lam = exp(-exp(nu) + i exp(theta)),  gamma = exp(g),   h_t = lam o h_tm1 + gamma o (W x_t)

Multiply-adds per unit and lane, of which the terms with I are those that count:

    forward     W x: 2 I        lam h: 4        gamma: 2
    traces      transport 4 Q   gamma x: I      columns nu, theta: 6
    soundness   2 Q
    gradient    4 Q             dL/dx: 2 I + 2

Turning an input weight by a quarter turns its trace: one complex trace serves Re W and Im W
(docs/algorithms.md 12.2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.recurrence.elementwise import (
    LONGEST_DECAY,
    Elementwise,
    moved,
    read,
    require_sizes,
    ring,
    rotation,
    transport,
    turned,
)


class Step(NamedTuple):
    """What one step leaves for its derivatives."""

    x_BI: Tensor
    J_1KLN: Tensor
    decay_N: Tensor
    phase_N: Tensor
    gamma_N: Tensor
    moved_BKN: Tensor  # lam h_tm1
    drive_BKN: Tensor  # gamma W x


class Lru(Elementwise[Step]):
    """Linear in its state: put a non-linear layer above (the credit for it is exact).

    h is [Re h, Im h], `width` 2N. `parameters()`: the input weights [Re W; Im W] (2N, I), and
    nu, theta, g in three rows (3, N).

    Args:
        n_inputs: I.
        n_units: N, complex.
        n_lanes: B.
        generator: draws the initial values, on the CPU in float64: the same on every device.
        r_min: smallest initial |lam|.
        r_max: largest; |lam|^2 starts evenly spread. A unit remembers about 1/(1 - |lam|) events.
        max_phase: largest initial phase, radians per event.
        dtype: of parameters and state.
        device: of parameters and state.
    """

    def __init__(
        self,
        n_inputs: int,
        n_units: int,
        n_lanes: int,
        generator: torch.Generator,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require_sizes(n_inputs=n_inputs, n_units=n_units, n_lanes=n_lanes)
        nu_N, theta_N = ring(n_units, generator, r_min, r_max, max_phase)
        # unit variance in, unit variance of h: gamma = sqrt(1 - |lam|^2), W of variance 1/(2 I)
        g_N = 0.5 * torch.log(-torch.expm1(-2 * nu_N.exp()))
        W_CI = torch.randn(2 * n_units, n_inputs, generator=generator, dtype=torch.float64)
        self.W_CI: Tensor = (W_CI / math.sqrt(2 * n_inputs)).to(device, dtype)
        self.dynamics_PN = torch.stack((nu_N, theta_N, g_N)).to(device, dtype)
        parameters = {"W_CI": self.W_CI, "dynamics_PN": self.dynamics_PN}
        super().__init__(n_inputs, n_units, n_lanes, 2, n_inputs + 3, parameters)

    @override
    def _step(self, x_BI: Tensor, s_BKN: Tensor) -> tuple[Tensor, Step]:
        decay_N, phase_N, gamma_N = self.dynamics_PN.exp().unbind()
        decay_N = decay_N.clamp(max=LONGEST_DECAY)
        J_1KLN = rotation(decay_N, phase_N)
        moved_BKN = moved(J_1KLN, s_BKN)
        drive_BKN = gamma_N * (x_BI @ self.W_CI.mT).view(s_BKN.shape)
        step = Step(x_BI, J_1KLN, decay_N, phase_N, gamma_N, moved_BKN, drive_BKN)
        return moved_BKN + drive_BKN, step

    @override
    def _propagate(self, local: Step, old_BKQN: Tensor, new_BKQN: Tensor) -> Tensor:
        end = self.n_inputs
        transport(local.J_1KLN, old_BKQN, new_BKQN)
        new_BKQN[:, 0, :end].addcmul_(local.gamma_N, local.x_BI[:, :, None])
        d_nu_BKN = local.moved_BKN * -local.decay_N
        d_theta_BKN = turned(local.moved_BKN) * local.phase_N
        new_BKQN[:, :, end:] += torch.stack((d_nu_BKN, d_theta_BKN, local.drive_BKN), dim=2)
        return local.gamma_N.view(1, 1, -1)

    @override
    def _input_weights(self) -> Tensor:
        return self.W_CI

    @override
    def _gradients(self, q_BKN: Tensor, influence_BKQN: Tensor) -> list[Tensor]:
        return complex_gradients(q_BKN, influence_BKQN, self.n_inputs)


def complex_gradients(q_BKN: Tensor, influence_BKQN: Tensor, n_inputs: int) -> list[Tensor]:
    """Gradients of [Re W; Im W] and of the dynamics from complex traces [x | dynamics].

    The trace of Im W is that of Re W turned by a quarter; instead, q is turned back.
    """
    read_QN = read(q_BKN, influence_BKQN)
    turned_IN = read(-turned(q_BKN), influence_BKQN[:, :, :n_inputs])
    W_CI = torch.cat((read_QN[:n_inputs].mT, turned_IN.mT))
    return [W_CI, read_QN[n_inputs:]]
