"""Adam (Kingma & Ba 2015), bias correction on, with a conditional commit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.update.base import Update


class Adam(Update):
    """Equals `torch.optim.Adam` wherever `ok`.

    Unbiasedness is a statement about the gradient, not about Adam's step: with a noisy rule v
    tracks noise and signal, so the step shrinks as the noise grows (docs/algorithms.md 8.2).
    """

    def __init__(
        self,
        lr: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        clip: float | None = 1.0,
    ) -> None:
        super().__init__(lr, clip)
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name} must be in [0, 1), got {beta}")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps must be positive and finite, got {eps}")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    @override
    def _initial_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        state = {"count": torch.zeros((), dtype=torch.float64, device=params[0].device)}
        for i, param in enumerate(params):
            state[f"m.{i}"] = torch.zeros_like(param, memory_format=torch.contiguous_format)
            state[f"v.{i}"] = torch.zeros_like(param, memory_format=torch.contiguous_format)
        return state

    @override
    def load_state_dict(self, params: Sequence[Tensor], state: Mapping[str, Tensor]) -> None:
        for name, tensor in state.items():  # a root of one of them would be no number
            if (name == "count" or name.startswith("v.")) and bool((tensor < 0).any()):
                raise ValueError(f"update state {name!r}: must not be negative")
        super().load_state_dict(params, state)

    @override
    def _step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> None:
        state, places = self.state, range(len(params))
        m, v = ([state[f"{name}.{i}"] for i in places if f"{name}.{i}" in state] for name in "mv")
        _require_alike(params, grads, m)
        count = state["count"]
        count += ok
        torch._fused_adam_(
            list(params),
            [grad.contiguous() for grad in grads],
            m,
            v,
            [],
            [count.float()] * len(params),
            lr=self.lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            found_inf=(~ok).float(),
        )


def _require_alike(params: Sequence[Tensor], grads: Sequence[Tensor], m: Sequence[Tensor]) -> None:
    """Refuse what torch's kernel, which looks at the parameters' size alone, would read beside."""
    if not len(params) == len(grads) == len(m):
        raise ValueError(
            f"{len(params)} parameters, but {len(grads)} gradients, and moments of {len(m)}"
        )
    for i, (param, grad, moment) in enumerate(zip(params, grads, m, strict=True)):
        if not param.is_contiguous():
            raise ValueError(f"parameter {i} is a view with gaps: hand in its .contiguous()")
        if not param.shape == grad.shape == moment.shape:
            raise ValueError(
                f"parameter {i} is {tuple(param.shape)}, its gradient {tuple(grad.shape)}, its "
                f"moments {tuple(moment.shape)}: they must be alike, and an update belongs to the "
                "parameters of its first step"
            )
