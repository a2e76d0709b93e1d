"""What every update is: one conditional step on a list of parameters, in place."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Update(ABC):
    """Moves parameters by gradients, where `ok`.

    `ok` false leaves every parameter and every tensor of the update's state bitwise as it was, the
    step counter included: a skipped update is not an update by zeros. A gradient that is not finite
    counts as not ok. No host synchronization.

    Args:
        lr: learning rate.
        clip: largest Euclidean norm of all the gradients together; 0 or None: no limit. Gradients
            are scaled, never the credit rule's state (that would bias it).
    """

    def __init__(self, lr: float, clip: float | None) -> None:
        if not 0 < lr < math.inf:
            raise ValueError(f"lr must be positive and finite, got {lr}")
        if clip is not None and not clip >= 0:
            raise ValueError(f"clip must be positive, or 0 for no limit, got {clip}")
        self.lr = lr
        self.clip = None if clip in (None, 0, math.inf) else clip
        self.state: dict[str, Tensor] = {}
        self._norm: Tensor | None = None

    def step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> Tensor:
        """Update `params` in place where `ok` (bool, zero-dimensional).

        Returns:
            bool, zero-dimensional: whether the update was made.
        """
        norm = torch.linalg.vector_norm(grads[0])
        for grad in grads[1:]:
            norm = torch.hypot(norm, torch.linalg.vector_norm(grad))
        self._norm = norm
        ok = ok & (norm < math.inf)  # NaN compares false
        if self.clip is not None:
            excess = (norm / self.clip).clamp_(min=1)
            grads = [grad / excess for grad in grads]
        self.state_for(params)
        self._step(params, grads, ok)
        return ok

    def state_for(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        """The state, made for `params` if there is none yet."""
        if not self.state:
            self.state = self._initial_state(params)
        return self.state

    def adopt(self, norm: Tensor) -> None:
        """A fused tick made this update's step: the norm of the gradients it saw."""
        self._norm = norm

    def fresh_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        """What `state_dict` would give before the first step if it were made for `params` now."""
        return self._initial_state(params)

    @abstractmethod
    def _initial_state(self, params: Sequence[Tensor]) -> dict[str, Tensor]:
        """Fresh state for `params`."""

    @abstractmethod
    def _step(self, params: Sequence[Tensor], grads: Sequence[Tensor], ok: Tensor) -> None:
        """One step; `torch.where(ok, new, old)` over everything."""

    def evaluation_weights(self) -> list[Tensor]:
        """What to predict with instead of the parameters, one tensor for each; empty: nothing."""
        return []

    def report(self) -> dict[str, Tensor]:
        """`gradient_norm` of the last step, before clipping; on the device.

        Empty before it; a state that is loaded has none.
        """
        return {} if self._norm is None else {"gradient_norm": self._norm}

    def state_dict(self) -> dict[str, Tensor]:
        """Empty before the first step."""
        return dict(self.state)

    def load_state_dict(self, params: Sequence[Tensor], state: Mapping[str, Tensor]) -> None:
        """Take what `state_dict` gave; raises ValueError if it does not fit `params`."""
        self._norm = None
        if not state:
            self.state = {}
            return
        fresh = self._initial_state(params)
        if fresh.keys() != state.keys():
            raise ValueError(f"update state: expected {sorted(fresh)}, got {sorted(state)}")
        for name, mine in fresh.items():
            if mine.shape != state[name].shape or mine.dtype != state[name].dtype:
                raise ValueError(f"update state {name!r} does not fit the parameters")
            mine.copy_(state[name])
        self.state = fresh


def commit(ok: Tensor, new: Tensor, old: Tensor) -> None:
    """`old` becomes `new` where ok, in place."""
    torch.where(ok, new, old, out=old)
