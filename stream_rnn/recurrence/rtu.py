"""RTU: recurrent trace units, rotating pairs of real numbers (Elelimy et al. 2024).

Axes: B lanes, I inputs, N pairs, K = 2 components and L the same, C = 2N, P = 2,
Q = I+2 (linear) or 2I+2.

    r = exp(-exp(w_r)),  th = exp(w_th),  nrm = sqrt(1 - r^2)
    pre_1 = r cos th h_1 - r sin th h_2 + nrm W_1 x
    pre_2 = r cos th h_2 + r sin th h_1 + nrm W_2 x          h = f(pre), inside the recurrence

Both derivatives by w_r and w_th carry their inner factor (-exp(w_r) and th): the weights that are
learned are logarithms (docs/algorithms.md 12.3).

Multiply-adds per unit and lane, of which the terms with I are those that count:

                linear                       tanh, relu
    forward     2 I + 6                      2 I + 6 (+ 2)
    traces      4 Q + I + 10, Q = I+2        4 Q + 2 I + 20, Q = 2I+2
    soundness   2 Q                          2 Q
    gradient    4 Q, and dL/dx 2 I + 2       2 Q, and dL/dx 2 I + 2
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

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
from stream_rnn.recurrence.lru import complex_gradients

Activation = Literal["linear", "tanh", "relu"]
TINY = 1e-30  # below any nrm but an exact zero, where the unit never forgets


class Step(NamedTuple):
    """What one step leaves for its derivatives."""

    x_BI: Tensor
    J_1KLN: Tensor  # of the rotation alone
    decay_N: Tensor
    phase_N: Tensor
    nrm_N: Tensor
    moved_BKN: Tensor  # rotation of h_tm1
    raw_BKN: Tensor  # W x
    h_BKN: Tensor


class Rtu(Elementwise[Step]):
    """Pairs that rotate and fade, with exact traces.

    h is [h_1, h_2], `width` 2N. `parameters()`: the input weights [W_1; W_2] (2N, I), and w_r, w_th
    in two rows (2, N). With `activation="linear"` h = pre is handed out as it is: the layer above
    is the non-linearity.

    The defaults give each unit a memory of 2 to 100 events. A unit of shorter memory repeats what
    the read-out sees anyway; the gain for a slow input is sqrt((1 + r)/(1 - r)) - 14 at r = 0.99 -
    while noise of unit variance stays of unit variance, so that beyond it a tanh saturates, and
    what is saturated is forgotten. Phases above pi would repeat those below with W_2 reversed.

    Args:
        n_inputs: I.
        n_units: N, pairs.
        n_lanes: B.
        generator: draws the initial values, on the CPU in float64: the same on every device.
        activation: f.
        r_min: smallest initial r.
        r_max: largest; r^2 starts evenly spread. A linear unit remembers about 1/(1 - r) events.
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
        activation: Activation = "tanh",
        r_min: float = 0.5,
        r_max: float = 0.99,
        max_phase: float = math.pi,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        require_sizes(n_inputs=n_inputs, n_units=n_units, n_lanes=n_lanes)
        if activation not in get_args(Activation):
            known = ", ".join(get_args(Activation))
            raise ValueError(f"activation: expected one of {known}, got {activation!r}")
        self.activation = activation
        self._is_linear = activation == "linear"
        w_r_N, w_th_N = ring(n_units, generator, r_min, r_max, max_phase)
        W_CI = torch.randn(2 * n_units, n_inputs, generator=generator, dtype=torch.float64)
        self.W_CI: Tensor = (W_CI / math.sqrt(2 * n_inputs)).to(device, dtype)
        self.dynamics_PN = torch.stack((w_r_N, w_th_N)).to(device, dtype)
        parameters = {"W_CI": self.W_CI, "dynamics_PN": self.dynamics_PN}
        n_columns = (n_inputs if self._is_linear else 2 * n_inputs) + 2
        super().__init__(n_inputs, n_units, n_lanes, 2, n_columns, parameters)

    @override
    def _step(self, x_BI: Tensor, s_BKN: Tensor) -> tuple[Tensor, Step]:
        decay_N, phase_N = self.dynamics_PN.exp().unbind()
        decay_N = decay_N.clamp(max=LONGEST_DECAY)
        # 1 - r^2 without cancellation, however long the memory
        nrm_N = torch.expm1(-2 * decay_N).neg_().sqrt_()
        J_1KLN = rotation(decay_N, phase_N)
        moved_BKN = moved(J_1KLN, s_BKN)
        raw_BKN = (x_BI @ self.W_CI.mT).view(s_BKN.shape)
        h_BKN = torch.addcmul(moved_BKN, nrm_N, raw_BKN)
        if self.activation == "tanh":
            h_BKN = torch.tanh(h_BKN)
        elif self.activation == "relu":
            h_BKN = torch.relu(h_BKN)
        return h_BKN, Step(x_BI, J_1KLN, decay_N, phase_N, nrm_N, moved_BKN, raw_BKN, h_BKN)

    @override
    def _propagate(self, local: Step, old_BKQN: Tensor, new_BKQN: Tensor) -> Tensor:
        end, x_BI1 = self.n_inputs, local.x_BI[:, :, None]
        d_nrm_N = local.decay_N * torch.exp(-2 * local.decay_N) / local.nrm_N.clamp(min=TINY)
        d_w_r_BKN = torch.addcmul(local.raw_BKN * d_nrm_N, local.moved_BKN, -local.decay_N)
        d_w_th_BKN = turned(local.moved_BKN) * local.phase_N
        dynamics_BKPN = torch.stack((d_w_r_BKN, d_w_th_BKN), dim=2)
        if self._is_linear:
            transport(local.J_1KLN, old_BKQN, new_BKQN)
            new_BKQN[:, 0, :end].addcmul_(local.nrm_N, x_BI1)
            new_BKQN[:, :, end:] += dynamics_BKPN
            return local.nrm_N.view(1, 1, -1)
        f_BKN = self._slope(local.h_BKN)
        transport(f_BKN[:, :, None] * local.J_1KLN, old_BKQN, new_BKQN)
        slope_BKN = f_BKN * local.nrm_N
        new_BKQN[:, 0, :end].addcmul_(slope_BKN[:, 0, None], x_BI1)
        new_BKQN[:, 1, end : 2 * end].addcmul_(slope_BKN[:, 1, None], x_BI1)
        new_BKQN[:, :, 2 * end :].addcmul_(f_BKN[:, :, None], dynamics_BKPN)
        return slope_BKN

    def _slope(self, h_BKN: Tensor) -> Tensor:
        """f'(pre) from h = f(pre)."""
        if self.activation == "tanh":
            return 1 - h_BKN * h_BKN
        return (h_BKN > 0).to(h_BKN.dtype)

    @override
    def _input_weights(self) -> Tensor:
        return self.W_CI

    @override
    def _gradients(self, q_BKN: Tensor, influence_BKQN: Tensor) -> list[Tensor]:
        end, N = self.n_inputs, self.n_units
        if self._is_linear:
            return complex_gradients(q_BKN, influence_BKQN, end)
        read_QN = read(q_BKN, influence_BKQN)
        W_CI = read_QN[: 2 * end].view(2, end, N).mT.reshape(2 * N, end)
        return [W_CI, read_QN[2 * end :]]
