"""What is drawn: one point per second, unknown where nothing was heard."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from stream_rnn.top.answer import Answer
from stream_rnn.top.series import quantile

SLOW = 2  # points that may be missed without a gap: the way there and back takes its time
KEPT = 1024  # seconds; the widest screen shows about 400
TICKS_OVER_S = 10  # durations are told as counts since the start: percentiles need some of them


@dataclass(frozen=True, slots=True)
class Point:
    """One second; None is unknown."""

    loss: float | None = None
    baseline: float | None = None
    rate: float | None = None
    lag_events: float | None = None
    lag_s: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None


GAP = Point()


class History:
    """The newest points.

    Args:
        slot_s: seconds between two points.

    Attributes:
        points: the oldest first.
        fresh: how many of them came since the scales were last set anew.
    """

    def __init__(self, slot_s: float = 1.0) -> None:
        self.points: deque[Point] = deque(maxlen=KEPT)
        self.fresh = 0
        self._slot_s = slot_s
        self._at: float | None = None
        self._ticks: deque[list[tuple[float, float]]] = deque(maxlen=TICKS_OVER_S + 1)

    @property
    def now(self) -> Point:
        """The newest point."""
        return self.points[-1] if self.points else GAP

    def add(self, answer: Answer, at: float) -> None:
        """One more answer, `at` in seconds, monotonic; what was missed before it is a gap."""
        missed = 0 if self._at is None else round((at - self._at) / self._slot_s) - 1
        point = self._point(answer)
        between = point if missed <= SLOW else GAP
        for _ in range(min(max(missed, 0), KEPT)):
            self._append(between)
        self._at = at
        self._append(point)

    def rescale(self) -> None:
        """Scales follow what comes from now on."""
        self.fresh = min(1, len(self.points))

    def _append(self, point: Point) -> None:
        self.points.append(point)
        self.fresh = min(self.fresh + 1, KEPT)

    def _point(self, answer: Answer) -> Point:
        ticks = answer.series.buckets("tick_seconds")
        if self._ticks and ticks[-1:] < self._ticks[-1][-1:]:
            self._ticks.clear()  # fewer than before: the daemon began anew
        before = self._ticks[0] if self._ticks else []
        self._ticks.append(ticks)
        baseline = answer.baseline
        return Point(
            _finite(answer.loss),
            None if baseline is None else baseline[1],
            answer.number("events_per_s"),
            _finite(answer.series.one("lag_events")),
            _finite(answer.series.one("lag_seconds")),
            quantile(before, ticks, 0.5),
            quantile(before, ticks, 0.99),
        )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
