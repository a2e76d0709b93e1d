"""The simple predictors a learned model has to beat, under the same rules as its own forecasts.

At horizon k a forecast of y[t] is made L = max(k, 1) events of the same lane earlier, so a baseline
knows y[t-L] and what came before it, and nothing newer. Host-side plain Python: deterministic, and
its state is plain values that survive a JSON round trip exactly.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from stream_rnn.spi import SettingError

Finite = Annotated[float, Meta(ge=-1.7e308, le=1.7e308)]  # refuses NaN and infinities in a state
Count = Annotated[int, Meta(ge=0)]

PERSISTENCE = "persistence"
SEASONAL = "seasonal"
MEAN = "mean"
NO_CHANGE = "no-change"
MAJORITY = "majority"
FREQUENCIES = "frequencies"

T = TypeVar("T")


def restored(state: object, kind: type[T], place: str) -> T:
    """Read `state`, as a JSON parser gives it, into `kind`; ValueError names what does not fit."""
    try:
        return msgspec.convert(state, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"state of {place}: {error}; it is damaged or from another task") from None


def require_same(place: str, **pairs: tuple[object, object]) -> None:
    """Raise ValueError where a setting in the state differs from the one configured now."""
    for name, (saved, now) in pairs.items():
        if saved != now:
            raise ValueError(
                f"state of {place}: it was saved with {name} = {saved!r}, this task has {now!r}; "
                "restore the setting, or start these scores afresh"
            )


def require_at_least(place: str, minimum: int, **settings: int | None) -> None:
    """Raise SettingError for the first setting below `minimum`; `None` passes."""
    for name, value in settings.items():
        if value is not None and value < minimum:
            raise SettingError(f"{place}: {name} must be at least {minimum}, got {value}")


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


class NumericBaselines:
    """Persistence y[t-L], seasonal y[t - ceil(L/season)*season] (with a season), running mean.

    Memory per lane: as many targets as the longest of the lags; lanes are created at their first
    target, `n_lanes` at most.
    """

    def __init__(
        self, n_targets: int, horizon: int = 0, season: int | None = None, n_lanes: int = 1
    ) -> None:
        require_at_least("baselines", 0, horizon=horizon)
        require_at_least("baselines", 1, n_targets=n_targets, season=season, n_lanes=n_lanes)
        self.n_targets = n_targets
        self.horizon = horizon
        self.season = season
        self.n_lanes = n_lanes
        self.lag = max(horizon, 1)
        self.season_lag = 0 if season is None else math.ceil(self.lag / season) * season
        self.names: tuple[str, ...] = (
            (PERSISTENCE, MEAN) if season is None else (PERSISTENCE, SEASONAL, MEAN)
        )
        self._lanes: dict[int, _NumericLane] = {}

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
        memory = self._lanes.get(lane)
        if memory is None:
            memory = self._lanes[_checked(lane, self.n_lanes)] = self._empty()
        if len(target) != self.n_targets:
            raise ValueError(f"baselines: expected {self.n_targets} targets, got {len(target)}")
        memory.past.append(tuple(map(float, target)))
        if len(memory.past) >= self.lag:
            known = memory.past[-self.lag]
            memory.n += 1
            memory.sums = [total + value for total, value in zip(memory.sums, known, strict=True)]

    def reset_lane(self, lane: int) -> None:
        """Forget `lane`: its slot is given to another stream."""
        self._lanes.pop(lane, None)

    def state_dict(self) -> dict[str, Any]:
        """Everything learned, as JSON-able values."""
        lanes = {
            lane: _SavedNumericLane(list(memory.past), memory.n, memory.sums)
            for lane, memory in self._lanes.items()
        }
        saved = _SavedNumeric(self.n_targets, self.horizon, self.season, lanes)
        return _plain(saved)

    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError, and nothing changed, when it does not fit."""
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
            fresh = lanes[_checked(lane, self.n_lanes)] = self._empty()
            widths = {len(target) for target in memory.past} | {len(memory.sums)}
            too_long = len(memory.past) > max(self.lag, self.season_lag)
            if widths != {self.n_targets} or too_long or memory.n < len(memory.past) - self.lag + 1:
                raise ValueError(f"state of {place}: lane {lane} has the wrong shape")
            if memory.n and len(memory.past) < self.lag:
                raise ValueError(f"state of {place}: lane {lane} counts targets it does not hold")
            fresh.past.extend(memory.past)
            fresh.n, fresh.sums = memory.n, memory.sums
        self._lanes = lanes

    def _empty(self) -> _NumericLane:
        past: deque[tuple[float, ...]] = deque(maxlen=max(self.lag, self.season_lag))
        return _NumericLane(past, 0, [0.0] * self.n_targets)


class ClassGuess(NamedTuple):
    """What the class baselines say about the next symbol of a lane."""

    no_change: int  # the symbol L events ago
    majority: int  # the most frequent symbol up to then; the first to get there wins ties


class _ClassLane(Struct, forbid_unknown_fields=True):
    past: list[Count]  # the newest L symbols, oldest first
    n: Count
    majority: Count
    counts: dict[Count, Count]  # symbols at least L events old


class _SavedClass(Struct, forbid_unknown_fields=True):
    n_classes: int
    horizon: int
    lanes: dict[Count, _ClassLane]


class ClassBaselines:
    """No change, majority class so far, and Laplace-smoothed class frequencies (for log loss).

    Memory per lane: L symbols and a counter per class seen.
    """

    names = (NO_CHANGE, MAJORITY, FREQUENCIES)

    def __init__(self, n_classes: int, horizon: int = 0, n_lanes: int = 1) -> None:
        require_at_least("baselines", 2, n_classes=n_classes)
        require_at_least("baselines", 0, horizon=horizon)
        require_at_least("baselines", 1, n_lanes=n_lanes)
        self.n_classes = n_classes
        self.horizon = horizon
        self.n_lanes = n_lanes
        self.lag = max(horizon, 1)
        self._lanes: dict[int, _ClassLane] = {}

    def predict(self, lane: int) -> ClassGuess | None:
        """The guesses for the symbol that comes next; `None` before the lane has L symbols."""
        memory = self._lanes.get(lane)
        if memory is None or not memory.n:
            return None
        return ClassGuess(memory.past[0], memory.majority)

    def frequency(self, lane: int, symbol: int) -> float:
        """The smoothed share of `symbol` up to t-L, (count + 1) / (n + n_classes): never zero."""
        memory = self._lanes.get(lane)
        if memory is None:
            return 1 / self.n_classes
        return (memory.counts.get(symbol, 0) + 1) / (memory.n + self.n_classes)

    def learn(self, lane: int, symbol: int) -> None:
        """Take the next symbol of `lane` in; called once per event, after `predict`."""
        if not 0 <= symbol < self.n_classes:
            raise ValueError(f"baselines: expected a class below {self.n_classes}, got {symbol}")
        memory = self._lanes.get(lane)
        if memory is None:
            memory = self._lanes[_checked(lane, self.n_lanes)] = _ClassLane([], 0, 0, {})
        past, counts = memory.past, memory.counts
        past.append(symbol)
        if len(past) > self.lag:
            del past[0]
        if len(past) == self.lag:
            known = past[0]
            counts[known] = counts.get(known, 0) + 1
            memory.n += 1
            if counts[known] > counts.get(memory.majority, 0):
                memory.majority = known

    def reset_lane(self, lane: int) -> None:
        """Forget `lane`: its slot is given to another stream."""
        self._lanes.pop(lane, None)

    def state_dict(self) -> dict[str, Any]:
        """Everything learned, as JSON-able values."""
        return _plain(_SavedClass(self.n_classes, self.horizon, self._lanes))

    def load_state_dict(self, state: object) -> None:
        """Continue from `state_dict`; ValueError, and nothing changed, when it does not fit."""
        place = "the baselines"
        saved = restored(state, _SavedClass, place)
        require_same(
            place,
            n_classes=(saved.n_classes, self.n_classes),
            horizon=(saved.horizon, self.horizon),
        )
        for lane, memory in saved.lanes.items():
            _checked(lane, self.n_lanes)
            symbols = {*memory.past, *memory.counts, memory.majority}
            whole = sum(memory.counts.values()) == memory.n and len(memory.past) <= self.lag
            if max(symbols) >= self.n_classes or not whole:
                raise ValueError(f"state of {place}: lane {lane} has the wrong shape")
            if memory.n and len(memory.past) < self.lag:
                raise ValueError(f"state of {place}: lane {lane} counts symbols it does not hold")
        self._lanes = saved.lanes


def _checked(lane: int, n_lanes: int) -> int:
    if not 0 <= lane < n_lanes:
        raise ValueError(f"baselines: lane {lane} of {n_lanes}; lanes count from 0")
    return lane


def _plain(saved: Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(saved, str_keys=True)
    return plain
