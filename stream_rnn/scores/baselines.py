"""The simple predictors a learned model has to beat, under the same rules as its own forecasts.

At horizon k a forecast of y[t] is made L = max(k, 1) events of the same lane earlier, so a baseline
knows y[t-L] and what came before it, and nothing newer. Host-side plain Python: deterministic, and
its state is plain values that survive a JSON round trip exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from stream_rnn.scores.saved import require_at_least

L = TypeVar("L")


class Baselines(ABC, Generic[L]):
    """One memory per lane, made at its first target, and the horizon all forecasts keep.

    Args:
        horizon: k; targets L = max(k, 1) events old and older are known.
        n_lanes: independent streams at most.
    """

    def __init__(self, horizon: int, n_lanes: int) -> None:
        require_at_least("baselines", 0, horizon=horizon)
        require_at_least("baselines", 1, n_lanes=n_lanes)
        self.horizon = horizon
        self.n_lanes = n_lanes
        self.lag = max(horizon, 1)
        self._lanes: dict[int, L] = {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything learned, as JSON-able values."""

    @abstractmethod
    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError, and nothing changed, when it does not fit."""

    def reset_lane(self, lane: int) -> None:
        """Forget `lane`: its slot is given to another stream."""
        self._lanes.pop(lane, None)

    @abstractmethod
    def _empty(self) -> L:
        """The memory of a lane before its first target."""

    def memory(self, lane: int) -> L:
        """The memory of `lane`, made if it has none yet."""
        memory = self._lanes.get(lane)
        if memory is None:
            memory = self._lanes[self._checked(lane)] = self._empty()
        return memory

    def _checked(self, lane: int) -> int:
        if not 0 <= lane < self.n_lanes:
            raise ValueError(f"baselines: lane {lane} of {self.n_lanes}; lanes count from 0")
        return lane
