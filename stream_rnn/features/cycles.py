"""Time of day, week, month and year as points on circles: the calendar features."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stream_rnn.columns import Array
from stream_rnn.features.values import BadEvent, number, shown
from stream_rnn.spi import Record

Cycle = Literal["hour", "day", "week", "month", "year"]
CYCLE_S: dict[str, float] = {
    "hour": 3600.0,
    "day": 86400.0,
    "week": 7 * 86400.0,
    "month": 2629746.0,
    "year": 31556952.0,
}
MOST_S = 1e11  # beyond, they are milliseconds
MONDAY = dt.datetime(1970, 1, 5)  # noqa: DTZ001 - wall-clock arithmetic, weeks start on Monday


@dataclass(frozen=True)
class Calendar:
    """Cyclic time features: sine and cosine of each cycle's phase and its harmonics.

    Args:
        field: epoch seconds (or milliseconds), or an ISO 8601 text; wall-clock time as written.
        cycles: of "hour", "day", "week", "month", "year".
        harmonics: 1 = the cycle itself; 2 adds its half, and so on.
    """

    field: str
    cycles: tuple[Cycle, ...] = ("day", "week")
    harmonics: int = 1

    def __post_init__(self) -> None:
        if not self.cycles:
            raise ValueError(f"cycles: name at least one of {', '.join(CYCLE_S)}")
        if not 1 <= self.harmonics <= 64:
            raise ValueError(f"harmonics must be in 1..64, got {self.harmonics}")

    @property
    def width(self) -> int:
        """Numbers per event."""
        return 2 * len(self.cycles) * self.harmonics

    def names(self) -> list[str]:
        """One name per number."""
        return [
            f"{wave}({h}*{cycle})"
            for cycle in self.cycles
            for h in range(1, self.harmonics + 1)
            for wave in ("sin", "cos")
        ]

    def encode(self, record: Record) -> list[float]:
        """Raises BadEvent if the field is missing or no time."""
        seconds = self.seconds(record)
        out: list[float] = []
        for cycle in self.cycles:
            turn = 2 * math.pi * (seconds / CYCLE_S[cycle])
            for h in range(1, self.harmonics + 1):
                out += (math.sin(h * turn), math.cos(h * turn))
        return out

    def of_numbers(self, value_T: Array) -> Array:
        """`seconds` of many numbers."""
        return np.where(np.abs(value_T) > MOST_S, value_T / 1000, value_T) - 4 * 86400.0

    def seconds(self, record: Record) -> float:
        """Since a Monday, 0:00; raises BadEvent."""
        value = record.get(self.field)
        if isinstance(value, str):
            try:
                time = dt.datetime.fromisoformat(value)
            except ValueError:
                text = f"field {self.field!r}: no time: {shown(value)}"
                raise BadEvent("wrong_type", text) from None
            return (time.replace(tzinfo=None) - MONDAY).total_seconds()
        seconds = number(record, self.field)
        if abs(seconds) > MOST_S:
            seconds /= 1000
        return seconds - 4 * 86400.0
