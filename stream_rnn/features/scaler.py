"""Scales learned online: mean and standard deviation that one outlier cannot bend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stream_rnn.columns import Array, places
from stream_rnn.features.saved import MOST, count, finite, items
from stream_rnn.features.values import BadEvent
from stream_rnn.native.columns import Scaling

ABSURD_JUMP = 1e9  # no measurement is that many times the largest one seen
WARM = 30  # values after which a scale is trusted
PACKED = np.dtype(
    [("n", "i8"), ("mean", "f8"), ("var", "f8"), ("std", "f8"), ("largest", "f8")], align=True
)
"""A `Scaler` as the native library knows it."""


class Scaler:
    """Running mean and standard deviation, exact at first, then fading over `memory` values.

    Robust: once warm, a value counts at most ten standard deviations from the mean, so that one
    outlier cannot flatten a feature for weeks, while a lasting shift is followed within some dozen
    values.

    Attributes:
        std: standard deviation; 1 while nothing varies. Kept, as it is read several times an event.
    """

    __slots__ = ("largest", "mean", "memory", "n", "std", "var")

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.n = 0
        self.mean = 0.0
        self.var = 0.0
        self.std = 1.0
        self.largest = 0.0

    def copied(self) -> Scaler:
        """One that goes on by itself."""
        twin = Scaler(self.memory)
        twin.n, twin.mean, twin.var, twin.largest = self.n, self.mean, self.var, self.largest
        twin.std = self.std
        return twin

    def check(self, name: str, value: float) -> None:
        """Raise BadEvent for a value out of all proportion to everything seen."""
        if self.n >= WARM and self.largest > 0 and abs(value) > ABSURD_JUMP * self.largest:
            raise BadEvent(
                "absurd", f"field {name!r} is {value:g}; the largest so far was {self.largest:g}"
            )

    def learn(self, value: float) -> None:
        """Take one value."""
        n, mean, var = self.n, self.mean, self.var
        self.largest = max(self.largest, abs(value))
        if n >= WARM and var > 0:
            reach = 10 * self.std
            value = min(max(value, mean - reach), mean + reach)
        self.n = n = n + 1
        weight = 1 / min(n, self.memory)
        delta = value - mean
        self.mean = mean + weight * delta
        self.var = var = (1 - weight) * (var + weight * delta * delta)
        self.std = math.sqrt(var) if var > 0 else 1.0

    def scale(self, value: float) -> float:
        """In standard deviations from the mean."""
        return (value - self.mean) / self.std

    def unscale(self, value: float) -> float:
        """The inverse of `scale`."""
        return value * self.std + self.mean

    def state_dict(self) -> list[float]:
        """Plain numbers."""
        return [self.n, self.mean, self.var, self.largest]

    def load_state_dict(self, state: list[float]) -> None:
        """Take what `state_dict` gave."""
        n, mean, var, largest = items(state, "a scale", 4, 4)
        self.n = count(int(finite(n, "a scale", 0)), "a scale")
        self.mean = finite(mean, "a scale")
        self.var, self.largest = finite(var, "a scale", 0), finite(largest, "a scale", 0)
        self.std = math.sqrt(self.var) if self.var > 0 else 1.0


FRESH = (0, 0.0, 0.0, 1.0, 0.0)
"""A `Scaler` that has seen nothing, as the library's numbers."""

NEW_LANE = -1
"""Stands for a lane that starts anew: it has no past, and nothing is kept for it."""


class Scales:
    """A `Scaler` for each of several fields.

    Args:
        names: the fields.
        memory: events over which they fade.
        by_lane: whether every lane has its own, or all lanes share them.
    """

    def __init__(self, names: Sequence[str], memory: int, by_lane: bool) -> None:
        self._names = tuple(names)
        self._memory = memory
        self._by_lane = by_lane
        self._of_lane: dict[int, dict[str, Scaler]] = {}

    def of(self, lane: int) -> dict[str, Scaler]:
        """Field -> its scale in `lane`, in the order of the names."""
        lane = lane if self._by_lane else 0
        known = self._of_lane.get(lane)
        if known is not None:
            return known
        fresh = {name: Scaler(self._memory) for name in self._names}
        if lane != NEW_LANE:
            self._of_lane[lane] = fresh
        return fresh

    def packed(self, lanes: Sequence[int]) -> Array:
        """The scales of these lanes as rows of the library's numbers; keeps nothing for a new one.

        Args:
            lanes: as `places` gives them, different ones.
        """
        rows: list[list[tuple[float, ...]]] = []
        for lane in lanes:
            known = self._of_lane.get(lane)
            if known is None:
                rows.append([FRESH] * len(self._names))
            else:
                rows.append([(s.n, s.mean, s.var, s.std, s.largest) for s in known.values()])
        return np.array(rows, dtype=PACKED).reshape(len(rows), len(self._names))

    def take(self, lanes: Sequence[int], table: Array) -> None:
        """Take back what `packed` gave for these lanes, or the first of them."""
        for lane, row in zip(lanes, table.tolist(), strict=False):
            for scaler, numbers in zip(self.of(lane).values(), row, strict=True):
                scaler.n, scaler.mean, scaler.var, scaler.std, scaler.largest = numbers

    def places(self, lanes: Sequence[int]) -> tuple[Array | None, list[int]]:
        """Which scales each event has, of those of the lanes that are named."""
        return places(lanes) if self._by_lane else (None, [0] if lanes else [])

    def scaling(self, clip: float) -> Scaling:
        """What the library must know of all of them."""
        return Scaling(min(self._memory, MOST), WARM, ABSURD_JUMP, clip)

    def copied(self, lane: int | None = None) -> Scales:
        """The same scales, sharing nothing that changes; what one lane sees, if one is named."""
        twin = Scales(self._names, self._memory, self._by_lane)
        wanted = self._of_lane if lane is None else {lane if self._by_lane else 0}
        twin._of_lane = {
            each: {name: scaler.copied() for name, scaler in self._of_lane[each].items()}
            for each in wanted
            if each in self._of_lane
        }
        return twin

    def reset_lane(self, lane: int) -> None:
        """Another key takes the lane; shared scales stay."""
        if self._by_lane:
            self._of_lane.pop(lane, None)

    def state_dict(self) -> dict[str, dict[str, list[float]]]:
        """Plain values, JSON-able."""
        return {
            str(lane): {name: scaler.state_dict() for name, scaler in scalers.items()}
            for lane, scalers in self._of_lane.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take what `state_dict` gave; raises KeyError for a field that is none of ours."""
        self._of_lane = {}
        for lane, fields in state.items():
            if int(lane) < 0 or (int(lane) and not self._by_lane):
                raise ValueError(f"state of the scales: there is no lane {lane[:20]!r}")
            scalers = self.of(int(lane))
            for name, numbers in fields.items():
                scalers[name].load_state_dict(numbers)
