"""Baselines of class targets: no change, the majority so far, smoothed frequencies."""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct
from typing_extensions import override

from stream_rnn.scores.baselines import Baselines
from stream_rnn.scores.saved import Count, plain, require_at_least, require_same, restored

NO_CHANGE = "no-change"
MAJORITY = "majority"
FREQUENCIES = "frequencies"


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


class ClassBaselines(Baselines[_ClassLane]):
    """No change, majority class so far, and Laplace-smoothed class frequencies (for log loss).

    Memory per lane: L symbols and a counter per class seen.
    """

    names = (NO_CHANGE, MAJORITY, FREQUENCIES)

    def __init__(self, n_classes: int, horizon: int = 0, n_lanes: int = 1) -> None:
        super().__init__(horizon, n_lanes)
        require_at_least("baselines", 2, n_classes=n_classes)
        self.n_classes = n_classes

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
        memory = self.memory(lane)
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

    @override
    def state_dict(self) -> dict[str, Any]:
        return plain(_SavedClass(self.n_classes, self.horizon, self._lanes))

    @override
    def load_state_dict(self, state: object) -> None:
        place = "the baselines"
        saved = restored(state, _SavedClass, place)
        require_same(
            place,
            n_classes=(saved.n_classes, self.n_classes),
            horizon=(saved.horizon, self.horizon),
        )
        for lane, memory in saved.lanes.items():
            self._checked(lane)
            symbols = {*memory.past, *memory.counts, memory.majority}
            whole = sum(memory.counts.values()) == memory.n and len(memory.past) <= self.lag
            if max(symbols) >= self.n_classes or not whole:
                raise ValueError(f"state of {place}: lane {lane} has the wrong shape")
            if memory.n and len(memory.past) < self.lag:
                raise ValueError(f"state of {place}: lane {lane} counts symbols it does not hold")
        self._lanes = saved.lanes

    @override
    def _empty(self) -> _ClassLane:
        return _ClassLane([], 0, 0, {})
