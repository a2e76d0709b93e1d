"""Baselines of numeric targets: persistence, the same place of the season, the mean so far."""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from typing_extensions import override

from stream_rnn.scores.baselines import Baselines
from stream_rnn.scores.saved import (
    Count,
    Finite,
    plain,
    require_at_least,
    require_same,
    restored,
)

PERSISTENCE = "persistence"
SEASONAL = "seasonal"
MEAN = "mean"


class _NumericLane(Struct):
    past: deque[tuple[float, ...]]  # the newest targets, oldest first
    n: int  # targets in `sums`: those at least L events old
    sums: list[float]


class _SavedNumericLane(Struct, forbid_unknown_fields=True):
    past: list[tuple[Finite, ...]]
    n: Count
    sums: list[Finite]


class _SavedNumeric(Struct, forbid_unknown_fields=True):
    n_targets: int
    horizon: int
    season: int | None
    lanes: dict[Count, _SavedNumericLane]


class NumericBaselines(Baselines[_NumericLane]):
    """Persistence y[t-L], seasonal y[t - ceil(L/season)*season] (with a season), running mean.

    Memory per lane: as many targets as the longest of the lags; lanes are created at their first
    target, `n_lanes` at most.
    """

    def __init__(
        self, n_targets: int, horizon: int = 0, season: int | None = None, n_lanes: int = 1
    ) -> None:
        super().__init__(horizon, n_lanes)
        require_at_least("baselines", 1, n_targets=n_targets, season=season)
        self.n_targets = n_targets
        self.season = season
        self.season_lag = 0 if season is None else math.ceil(self.lag / season) * season
        self.names: tuple[str, ...] = (
            (PERSISTENCE, MEAN) if season is None else (PERSISTENCE, SEASONAL, MEAN)
        )

    def predict(self, lane: int) -> dict[str, Sequence[float]]:
        """The forecasts of the target that comes next in `lane`; without those not yet due."""
        memory = self._lanes.get(lane)
        if memory is None or not memory.n:
            return {}
        past = memory.past
        guesses: dict[str, Sequence[float]] = {PERSISTENCE: past[-self.lag]}
        if self.season_lag and len(past) >= self.season_lag:
            guesses[SEASONAL] = past[-self.season_lag]
        guesses[MEAN] = [total / memory.n for total in memory.sums]
        return guesses

    def learn(self, lane: int, target: Sequence[float]) -> None:
        """Take the next target of `lane` in; called once per event, after `predict`."""
        memory = self.memory(lane)
        if len(target) != self.n_targets:
            raise ValueError(f"baselines: expected {self.n_targets} targets, got {len(target)}")
        past = memory.past
        past.append(tuple(map(float, target)))
        if len(past) >= self.lag:
            memory.n += 1
            memory.sums = list(map(operator.add, memory.sums, past[-self.lag]))

    @override
    def state_dict(self) -> dict[str, Any]:
        # by hand: there may be thousands of lanes, and meanwhile nothing is learned
        lanes = {
            str(lane): {"past": list(memory.past), "n": memory.n, "sums": list(memory.sums)}
            for lane, memory in self._lanes.items()
        }
        saved = _SavedNumeric(self.n_targets, self.horizon, self.season, {})
        return plain(saved) | {"lanes": lanes}

    @override
    def load_state_dict(self, state: object) -> None:
        place = "the baselines"
        saved = restored(state, _SavedNumeric, place)
        require_same(
            place,
            n_targets=(saved.n_targets, self.n_targets),
            horizon=(saved.horizon, self.horizon),
            season=(saved.season, self.season),
        )
        lanes = {}
        for lane, memory in saved.lanes.items():
            fresh = lanes[self._checked(lane)] = self._empty()
            widths = {len(target) for target in memory.past} | {len(memory.sums)}
            too_long = len(memory.past) > max(self.lag, self.season_lag)
            if widths != {self.n_targets} or too_long or memory.n < len(memory.past) - self.lag + 1:
                raise ValueError(f"state of {place}: lane {lane} has the wrong shape")
            if memory.n and len(memory.past) < self.lag:
                raise ValueError(f"state of {place}: lane {lane} counts targets it does not hold")
            fresh.past.extend(memory.past)
            fresh.n, fresh.sums = memory.n, memory.sums
        self._lanes = lanes

    @override
    def _empty(self) -> _NumericLane:
        past: deque[tuple[float, ...]] = deque(maxlen=max(self.lag, self.season_lag))
        return _NumericLane(past, 0, [0.0] * self.n_targets)
