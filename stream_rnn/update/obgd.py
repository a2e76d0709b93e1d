"""ObGD, overshooting-bounded gradient descent (Elsayed, Vasan & Mahmood 2024), for gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.update.base import Update, commit

CURVATURE = 2.0  # of (o - y)^2 in o, the largest of the losses that have a bounded one


class Obgd(Update):
    """Descends as far as no output can pass its target: a step size that fits every event.

    The parameters move along the gradient g, in the sum of their sizes by at most 1 / kappa and by
    at most max|g| / (2 kappa^2). While every feature is at most kappa in size, a linear prediction
    then moves by at most 1 (a standard deviation of the target), and under squared error never
    past its target, whatever `lr` is. The read-out's features are bounded so with
    `[features] clip` = kappa, above gated cells. Of a recurrence it holds to first order, where no
    parameter's effect on the prediction is larger than kappa. Losses without a bounded curvature
    (l1, quantile, gaussian) have the first bound only (docs/algorithms.md 8.4).

    Args:
        lr: largest step size; the bounds decide unless it is small.
        kappa: largest size of a feature, at least 1: a constant 1 is among them.
    """

    def __init__(self, lr: float = 1.0, kappa: float = 2.0) -> None:
        super().__init__(lr, clip=None)
        if not 1 <= kappa < math.inf:
            raise ValueError(f"kappa must be at least 1 and finite, got {kappa}")
        self.kappa = kappa

    @override
    def _initial_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        return {}

    @override
    def _step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> None:
        sums = torch.stack([torch.linalg.vector_norm(grad, 1) for grad in grads])
        largest = torch.stack([torch.linalg.vector_norm(grad, math.inf) for grad in grads])
        # no feature is above kappa, so the target is at least this far away
        least_error = largest.amax() / (CURVATURE * self.kappa)
        total = sums.sum().clamp(min=torch.finfo(sums.dtype).tiny)  # 0 moves nothing
        size = (least_error.clamp(max=1) / (self.kappa * total)).clamp(max=self.lr)
        for param, grad in zip(params, grads, strict=True):
            commit(ok, param - size * grad, param)
