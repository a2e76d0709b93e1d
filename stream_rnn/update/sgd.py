"""Stochastic gradient descent with optional heavy-ball momentum and a conditional commit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.update.base import Update, commit


class Sgd(Update):
    """Equals `torch.optim.SGD` (no dampening, no weight decay) wherever `ok`."""

    def __init__(self, lr: float = 1e-2, momentum: float = 0.0, clip: float | None = 1.0) -> None:
        super().__init__(lr, clip)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.momentum = momentum

    @override
    def _initial_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        if not self.momentum:
            return {}
        return {f"velocity.{i}": torch.zeros_like(param) for i, param in enumerate(params)}

    @override
    def _step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> None:
        for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
            if self.momentum:
                velocity = self.state[f"velocity.{i}"]
                commit(ok, velocity * self.momentum + grad, velocity)
                grad = velocity  # noqa: PLW2901
            commit(ok, torch.sub(param, grad, alpha=self.lr), param)
