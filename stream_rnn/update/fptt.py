"""Forward propagation through time (Kag & Saligrama 2021): a pull on the path of the parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from stream_rnn.update.adam import Adam
from stream_rnn.update.base import Update, commit

INNER = "inner."
ALPHA = 0.0005


class Fptt(Update):
    """Draws the parameters to a running mean of their own, around any other update.

    The gradient g becomes g - lambda + alpha (W - mean), the inner update steps, and then lambda
    and the mean follow. No credit rule: it knows nothing of time; the paper's goes with
    `credit = { kind = "tbptt", window = part }`, which is what it brings where the credit is left
    out. The inner update clips the whole, as the authors' program clips the gradient of loss and
    regularizer together, and `gradient_norm` is the whole's. Around SGD the pull is weak, about
    lr * alpha of the gradient. Around Adam a steady gradient g moves W by about
    min(lr, |g| / alpha) a step (at beta = 1/2): an alpha too large for the size of the loss holds
    W where gradients are small (docs/algorithms.md 8.3).

    The default alpha is the largest tried that held W back in no run of the add task
    (benchmarks/RESULTS.md): with 0.005 and 0.05 the task was solved later, with the authors' 0.5
    never, and at full size not even with 0.02.

    Args:
        inner: what makes the step, e.g. `{ kind = "adam", lr = 0.003 }`; Adam with its defaults
            unless given.
        alpha: strength of the pull.
        beta: share of the newest parameters in the running mean.
    """

    def __init__(
        self, inner: Update | None = None, alpha: float = ALPHA, beta: float = 0.5
    ) -> None:
        inner = Adam() if inner is None else inner
        super().__init__(inner.lr, clip=None)
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, got {alpha}")
        if not 0 < beta <= 1:
            raise ValueError(f"beta must be in (0, 1], got {beta}")
        self.inner = inner
        self.alpha, self.beta = alpha, beta
        self._params: Sequence[Tensor] = ()
        self._moved: Tensor | None = None

    @override
    def step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> Tensor:
        super().step(params, grads, ok)
        assert self._moved is not None
        return self._moved

    @override
    def state_for(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        self._params = params
        self.inner.state_for(params)
        return super().state_for(params)

    @override
    def adopt(self, norm: Tensor) -> None:
        self.inner.adopt(norm)

    @override
    def _initial_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        state = {f"mean.{i}": param.clone() for i, param in enumerate(params)}
        return state | {f"lam.{i}": torch.zeros_like(param) for i, param in enumerate(params)}

    @override
    def fresh_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        inner = self.inner.fresh_state(params)
        return self._initial_state(params) | {f"{INNER}{k}": v for k, v in inner.items()}

    @override
    def _step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> None:
        means, lams = self._of("mean", params), self._of("lam", params)
        totals = [
            torch.add(grad - lam, param - mean, alpha=self.alpha)
            for param, grad, mean, lam in zip(params, grads, means, lams, strict=True)
        ]
        moved = self.inner.step(params, totals, ok)
        for param, mean, lam in zip(params, means, lams, strict=True):
            commit(moved, torch.sub(lam, param - mean, alpha=self.alpha), lam)
            new = torch.lerp(mean, param, self.beta).sub_(lam, alpha=self.beta / self.alpha)
            commit(moved, new, mean)
        self._moved = moved

    def _of(self, name: str, params: Sequence[Tensor]) -> list[Tensor]:
        return [self.state[f"{name}.{i}"] for i in range(len(params))]

    @override
    def evaluation_weights(self) -> list[Tensor]:
        return [tensor for name, tensor in self.state.items() if name.startswith("mean.")]

    @override
    def report(self) -> dict[str, Tensor]:
        """The inner update's, and `fptt_drift`: how far the parameters are from their mean."""
        report = self.inner.report()
        if not report or not self.state:  # no step yet
            return report
        pairs = zip(self._params, self.evaluation_weights(), strict=True)
        gaps = torch.stack([torch.linalg.vector_norm(param - mean) for param, mean in pairs])
        return report | {"fptt_drift": torch.linalg.vector_norm(gaps)}

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self.state | {f"{INNER}{k}": v for k, v in self.inner.state_dict().items()}

    @override
    def load_state_dict(self, params: Sequence[Tensor], state: Mapping[str, Tensor]) -> None:
        inner = {k.removeprefix(INNER): v for k, v in state.items() if k.startswith(INNER)}
        super().load_state_dict(params, {k: v for k, v in state.items() if not k.startswith(INNER)})
        expected = self.inner._initial_state(params) if state else {}
        if inner.keys() != expected.keys():  # an empty one alone would pass for a fresh start
            raise ValueError(
                f"update state: expected {sorted(expected)} within {INNER!r}, got {sorted(inner)}"
            )
        self.inner.load_state_dict(params, inner)
        self._params = params if state else ()
