"""A read-out that owns its update: recursive least squares with forgetting (Haykin 2002, ch. 10).

Axes: B lanes, I inputs, N units, P outputs, F = N+I+1 features.

    k = C f / (lambda + f^T C f),    V += psi(y - V f) k^T,    C = (C - k f^T C) / lambda

psi bounds the innovation at `reach` times its running mean size (Huber 1964), so that a burst of
outliers cannot throw away what was learned: without it a few faults of a sensor do.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.head import Head, Loss
from stream_rnn.saved import take

SIZE_RATE = 0.02  # of the running mean size of an innovation, per scored event
WINDUP = 1e4  # the covariance's mean variance may grow to this times its start, no further


class LeastSquaresHead(Head):
    """Second order: hundreds of events where a gradient step takes tens of thousands.

    It minimizes a discounted robust squared error to the standardized targets; the recurrence is
    taught by the loss's own slope through V. Forgetting without excitation makes C grow
    ("wind-up"), so its mean is capped. O(F^2) a lane and tick; lanes are taken one after another.

    Args:
        n_units: N.
        n_inputs: I.
        loss: with as many outputs as targets.
        V_PF: initial weights; the prior they are drawn to.
        forgetting: lambda; the memory is 1 / (1 - lambda) scored events.
        prior: variance of the weights around their start.
        reach: bound of an innovation, in running mean sizes; about 2 or 3.
    """

    def __init__(
        self,
        n_units: int,
        n_inputs: int,
        loss: Loss,
        V_PF: Tensor,
        forgetting: float = 0.9995,
        prior: float = 0.1,
        reach: float = 2.0,
    ) -> None:
        super().__init__(n_units, n_inputs, loss, V_PF)
        if not 0 < forgetting <= 1:
            raise ValueError(f"forgetting must be in (0, 1], got {forgetting}")
        for name, value in (("prior", prior), ("reach", reach)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if loss.n_outputs != loss.n_targets:
            raise ValueError(
                f"least squares needs an output per target; {type(loss).__name__} has "
                f"{loss.n_outputs} for {loss.n_targets} (use squared or l1 loss, or adam)"
            )
        self.forgetting = forgetting
        self.prior = prior
        self.reach = reach
        F = V_PF.shape[1]
        # float64: the covariance loses positive definiteness in float32 within a day
        self._C_FF = torch.eye(F, dtype=torch.float64, device=V_PF.device) * prior
        self._size_P = torch.ones(V_PF.shape[0], dtype=torch.float64, device=V_PF.device)

    @property
    @override
    def owns_update(self) -> bool:
        return True

    @override
    def refit(self, y_BQ: Tensor, scored_B: Tensor) -> None:
        features_BF = self.features().double()
        C_FF, V_PF = self._C_FF, self.V_PF
        F = C_FF.shape[0]
        for lane in range(features_BF.shape[0]):
            f_F, ok = features_BF[lane], scored_B[lane]
            Cf_F = C_FF @ f_F
            k_F = Cf_F / (self.forgetting + f_F @ Cf_F)
            error_P = y_BQ[lane].double() - V_PF.double() @ f_F
            bound_P = self.reach * self._size_P
            psi_P = torch.minimum(torch.maximum(error_P, -bound_P), bound_P)
            V_new = V_PF + torch.outer(psi_P, k_F).to(V_PF.dtype)
            size_new = torch.lerp(self._size_P, psi_P.abs(), SIZE_RATE)
            C_new = (C_FF - torch.outer(k_F, Cf_F)) / self.forgetting
            C_new = (C_new + C_new.T) / 2
            mean = C_new.diagonal().sum() / F
            C_new = C_new * (self.prior * WINDUP / mean.clamp(min=self.prior * WINDUP))
            sound = ok & torch.isfinite(V_new).all() & torch.isfinite(C_new).all()
            torch.where(sound, V_new, V_PF, out=V_PF)
            torch.where(sound, C_new, C_FF, out=C_FF)
            torch.where(sound, size_new, self._size_P, out=self._size_P)

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {"C_FF": self._C_FF, "size_P": self._size_P}

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        take(self._C_FF, state, "C_FF")
        take(self._size_P, state, "size_P")
