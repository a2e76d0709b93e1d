"""A read-out that owns its update: recursive least squares with forgetting (Haykin 2002, ch. 10).

Axes: B lanes, I inputs, N units, P outputs, F = N+I+1 features.

    e = y - V f,   V += psi(e) C f / (lambda + f^T C f),
    C = (C - w C f f^T C / (lambda + w f^T C f)) / lambda,   w = |psi(e) / e|

psi bounds the innovation at `reach` times its running mean size (Huber 1964), so that a burst of
outliers cannot throw away what was learned: without it a few faults of a sensor do. The covariance
counts an event for as much of it as was taken (Zou, Chan & Ng 2000): if it counted all, a read-out
that has much to learn would soon be certain of having learned it.
(docs/algorithms.md 9.2)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.head import Head, Loss, Quantile, SquaredError
from stream_rnn.saved import take

SIZE_RATE = 0.02  # of the running mean size of an innovation, per scored event
# Targets are standardized. Without a least size a signal that stands still for hours would make the
# bound zero, and a bound of zero never grows again.
LEAST_SIZE = 0.01
WINDUP = 1e4  # a weight's variance may grow to this times its start
LAST_RESORT = 10.0  # ... and the mean of all to this times more, whatever the forgetting


class LeastSquaresHead(Head):
    """Second order: hundreds of events where a gradient step takes tens of thousands.

    It minimizes a discounted robust squared error to the standardized targets; the recurrence is
    taught by the loss's own slope through V. O(F^2) a lane and tick; lanes are taken one after
    another. C is float64: in float32 it would lose its positive definiteness within a day.

    Forgetting without excitation makes C grow ("wind-up"), e.g. where a category never occurs. So
    the widest weight is held at its limit as if it had been measured: this adds information in that
    direction only, and the others go on forgetting. Scaling C as a whole would stop them.

    Args:
        n_units: N.
        n_inputs: I.
        loss: squared error, or the quantile loss at 0.5 (l1).
        V_PF: initial weights; the prior they are drawn to.
        forgetting: lambda; the memory is 1 / (1 - lambda) scored events.
        prior: variance of the weights around their start.
        reach: bound of an innovation, in running mean sizes; about 2 or 3, inf for none.

    Attributes:
        C_FF: covariance of the weights of each output, float64, exactly symmetric.
        size_P: running mean sizes of the innovations, float64.
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
        if not 0 < prior < math.inf:
            raise ValueError(f"prior must be positive and finite, got {prior}")
        if not reach > 1:  # at 1 the mean size of bounded innovations could only shrink
            raise ValueError(f"reach must be above 1 (2 or 3 is usual), got {reach}")
        median = isinstance(loss, Quantile) and loss.tau == 0.5
        if not isinstance(loss, SquaredError) and not median:
            raise ValueError(
                f"least squares fits squared or l1 loss (quantile 0.5), not {_described(loss)}; "
                'use head_optimizer = { kind = "adam" }'
            )
        self.forgetting = forgetting
        self.prior = prior
        self.reach = reach
        F = V_PF.shape[1]
        self.C_FF = torch.eye(F, dtype=torch.float64, device=V_PF.device) * prior
        self.size_P = torch.ones(V_PF.shape[0], dtype=torch.float64, device=V_PF.device)

    @property
    @override
    def owns_update(self) -> bool:
        return True

    @override
    def refit(self, y_BQ: Tensor, scored_B: Tensor) -> None:
        features_BF = self.features().double()
        C_FF, V_PF, size_P = self.C_FF, self.V_PF, self.size_P
        for lane in range(features_BF.shape[0]):
            f_F, ok = features_BF[lane], scored_B[lane]
            Cf_F = C_FF @ f_F
            variance = (f_F @ Cf_F).clamp(min=0)  # negative by rounding only
            error_P = y_BQ[lane].double() - V_PF.double() @ f_F
            bound_P = size_P.clamp(min=LEAST_SIZE) * self.reach
            psi_P = torch.minimum(torch.maximum(error_P, -bound_P), bound_P)
            # several targets share one covariance: what the least taken one says
            taken = torch.where(psi_P == error_P, 1.0, psi_P / error_P).amin()
            k_F = Cf_F / (variance + self.forgetting)
            V_new = V_PF + torch.outer(psi_P, k_F).to(V_PF.dtype)
            size_new = torch.lerp(size_P, psi_P.abs(), SIZE_RATE)
            learned_F = Cf_F * (taken / (variance * taken + self.forgetting))
            C_new = self._limited((C_FF - torch.outer(learned_F, Cf_F)) / self.forgetting)
            sound = ok & torch.isfinite(V_new).all() & torch.isfinite(C_new).all()
            torch.where(sound, V_new, V_PF, out=V_PF)
            torch.where(sound, C_new, C_FF, out=C_FF)
            torch.where(sound, size_new, size_P, out=size_P)

    def _limited(self, C_FF: Tensor) -> Tensor:
        """C without wind-up, exactly symmetric; as it is where no variance is over its limit."""
        limit = self.prior * WINDUP
        widest, at = C_FF.diagonal().max(dim=0, keepdim=True)
        widest = widest.clamp(min=limit)
        c_F = C_FF.index_select(0, at)[0]
        # measuring that weight with the noise that leaves it a variance of `limit`
        C_FF = C_FF - torch.outer(c_F * ((1 - limit / widest) / widest), c_F)
        C_FF = (C_FF + C_FF.T) / 2
        most = limit * LAST_RESORT
        return C_FF * (most / C_FF.diagonal().mean().clamp(min=most))

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {"C_FF": self.C_FF, "size_P": self.size_P}

    @override
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        super().load_state_dict(state)
        take(self.C_FF, state, "C_FF")
        take(self.size_P, state, "size_P")


def _described(loss: Loss) -> str:
    name = type(loss).__name__
    return f"{name}(tau={loss.tau})" if isinstance(loss, Quantile) else name
