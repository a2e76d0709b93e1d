"""Decides which rung of the ladder is in use. It is told facts and reads neither clock nor tensor.

Ticks are counted and kept in snapshots, so that a resumed run decides alike. Two triggers look at
time, step time and lag: they are off by default, and a run that uses them is not bit-identical to
its repetition.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from statistics import median
from typing import Any

from stream_rnn.spi import Lag

REASONS = ("unsound", "noise", "slow", "lag")  # to go down; in the order of their weight
CALM = "calm"  # the one reason to go up
MOST_PATIENCE = 128  # halved below: the wait doubles up to 64 times

LONGEST = 1_000_000_000  # ticks; nobody waits longer on purpose


class Governor:
    """Moves down when the rule in use is unhealthy, back up when it has been calm for long enough.

    Four triggers. *Unsound*: `trips` unsound ticks (an influence restarted, or a gradient refused)
    within `window` ticks. The other three are off unless their limit is given; each is read every
    `every` ticks and trips after `readings` bad readings in a row. *Noise*: the variance of the
    estimator's newest reduction over its squared influence. *Slow*: the median time of a tick.
    *Lag*: how far the source is behind.

    Unsound credit and noise pass over rungs that are estimators themselves: those are there for
    cost. A trigger with no rung to go to is counted, and nothing else. After `cooldown` calm ticks
    on a lower rung it goes back to the one it came from; each relapse doubles the wait, up to 64
    times; a calm stretch of `64 * cooldown` ticks on the primary forgives.

    Args:
        levels: rungs of the ladder; 1 means there is nothing to decide.
        trips: unsound ticks that trip.
        window: ticks they must fall within.
        cooldown: calm ticks on a lower rung before the next try.
        noise_limit: of the noise (docs/algorithms.md 11.3). Left out: not looked at.
        tick_budget_us: microseconds a tick may take. Left out: not looked at.
        lag_limit_s: seconds behind. Left out: not looked at.
        lag_limit_events: events behind. Left out: not looked at.
        every: ticks between two readings.
        readings: bad readings in a row that trip.
        noisy: levels whose rule is an estimator with a variance of its own.
    """

    def __init__(
        self,
        levels: int,
        trips: int = 3,
        window: int = 1000,
        cooldown: int = 5000,
        noise_limit: float | None = None,
        tick_budget_us: float | None = None,
        lag_limit_s: float | None = None,
        lag_limit_events: int | None = None,
        every: int = 100,
        readings: int = 5,
        noisy: Collection[int] = (),
    ) -> None:
        counts = {"trips": trips, "window": window, "cooldown": cooldown}
        for name, value in (counts | {"every": every, "readings": readings}).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
            if value > LONGEST:
                raise ValueError(f"{name} must be at most {LONGEST}, got {value}")
        self._limits = {
            "noise": noise_limit,
            "slow": tick_budget_us,
            "lag_s": lag_limit_s,
            "lag_events": lag_limit_events,
        }
        names = ("noise_limit", "tick_budget_us", "lag_limit_s", "lag_limit_events")
        for name, limit in zip(names, self._limits.values(), strict=True):
            if limit is not None and not 0 < limit < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {limit}")
        self.levels = levels
        self.trips = trips
        self.window = window
        self.cooldown = cooldown
        self.every = every
        self.readings = readings
        self.noisy = frozenset(noisy)
        self.reason = CALM
        self.moves_down = 0
        self.moves_up = 0
        self.exhausted = dict.fromkeys(REASONS, 0)  # triggers of this process with nowhere to go
        self._path = [0]  # the levels it came by; the last one is in use
        self._recent: deque[int] = deque(maxlen=trips)
        self._bad = dict.fromkeys(REASONS[1:], 0)  # bad readings in a row
        self._ticks_s: deque[float] = deque(maxlen=every)
        self._tick = 0
        self._since = 0
        self._patience = 1

    @property
    def level(self) -> int:
        """The rung in use, 0 the primary; `reason` says why it was last changed."""
        return self._path[-1]

    def limit_lag(self, events: int) -> None:
        """Move down too when more than `events` wait, unless such a limit was given."""
        if self._limits["lag_events"] is None:
            self._limits["lag_events"] = events

    @property
    def wants_noise(self) -> bool:
        """Whether the coming `observe` reads the noise, which synchronizes the device."""
        return self._limits["noise"] is not None and self._reads(self._tick + 1)

    @property
    def wants_lag(self) -> bool:
        """Whether the coming `observe` reads the lag."""
        is_on = self._limits["lag_s"] is not None or self._limits["lag_events"] is not None
        return is_on and self._reads(self._tick + 1)

    def calm_ticks(self) -> int:
        """Coming ticks up to the first after which it may read or move though all are sound."""
        after = LONGEST
        if list(self._limits.values()).count(None) < len(self._limits):
            after = self.every - self._tick % self.every
        wait = self.cooldown * self._patience // 2 if self.level else 64 * self.cooldown
        if self.level or self._patience > 1:
            after = min(after, wait - (self._tick - self._since))
        return max(after, 1)

    def observe_calm(self, n: int, seconds: float) -> None:
        """Take `n` sound ticks, less than `calm_ticks`: the same as as many calls of `observe`.

        Args:
            n: ticks.
            seconds: each of them took.
        """
        self._tick += n
        if self._limits["slow"] is not None:
            self._ticks_s.extend([seconds] * min(n, self.every))

    def observe(
        self,
        unsound: bool,
        seconds: float = 0.0,
        noise: float | None = None,
        lag: Lag | None = None,
    ) -> int:
        """Take one tick; returns the level to be on from the next tick on.

        Args:
            unsound: whether an influence restarted or a gradient was refused.
            seconds: the tick took.
            noise: where wanted; None (or NaN) is unknown and no reading.
            lag: where wanted; None is unknown and no reading.
        """
        self._tick += 1
        reason = self._trouble(unsound, seconds, noise, lag)
        level, calm = self._path[-1], self._tick - self._since
        if reason is not None:
            self._descend(reason)
        elif level > 0 and calm >= self.cooldown * self._patience // 2:
            self._path.pop()
            self.moves_up += 1
            self.reason = CALM
            self._start_counting_anew()
        elif level == 0 and self._patience > 1 and calm >= 64 * self.cooldown:
            self._patience = 1
        return self._path[-1]

    def _reads(self, tick: int) -> bool:
        return tick % self.every == 0

    def _trouble(
        self, unsound: bool, seconds: float, noise: float | None, lag: Lag | None
    ) -> str | None:
        """The gravest trigger of this tick."""
        if unsound:
            self._recent.append(self._tick)
        limits = self._limits
        if limits["slow"] is not None:
            self._ticks_s.append(seconds)
        if self._reads(self._tick):
            self._read("noise", (noise, limits["noise"]))
            if len(self._ticks_s) == self.every:  # all of them on this rung
                self._read("slow", (median(self._ticks_s) * 1e6, limits["slow"]))
            if lag is not None:
                behind = (lag.seconds, limits["lag_s"]), (lag.events, limits["lag_events"])
                self._read("lag", *behind)
        full = len(self._recent) == self.trips
        if full and self._tick - self._recent[0] < self.window:
            return "unsound"
        for name, n in self._bad.items():
            if n >= self.readings:
                return name
        return None

    def _read(self, name: str, *pairs: tuple[float | None, float | None]) -> None:
        """One reading: values and their limits; what is unknown or has no limit says nothing."""
        known = [(v, most) for v, most in pairs if v is not None and most is not None]
        told = [value > limit for value, limit in known if not math.isnan(value)]
        if told:
            self._bad[name] = self._bad[name] + 1 if any(told) else 0

    def _descend(self, reason: str) -> None:
        passed_over = self.noisy if reason in ("unsound", "noise") else ()
        lower = range(self.level + 1, self.levels)
        level = next((n for n in lower if n not in passed_over), None)
        if level is None:
            self.exhausted[reason] += 1
            self._start_counting_anew()
            return
        self._path.append(level)
        self.moves_down += 1
        self.reason = reason
        self._start_counting_anew()
        self._patience = min(self._patience * 2, MOST_PATIENCE)

    def _start_counting_anew(self) -> None:
        self._since = self._tick
        self._recent.clear()
        self._bad = dict.fromkeys(self._bad, 0)
        self._ticks_s.clear()

    def state_dict(self) -> dict[str, Any]:
        """Plain values; readings of time and load are not among them."""
        return {
            "path": list(self._path),
            "reason": self.reason,
            "moves": [self.moves_down, self.moves_up],
            "recent": list(self._recent),
            "noisy_readings": self._bad["noise"],
            "tick": self._tick,
            "since": self._since,
            "patience": self._patience,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; raises ValueError if the ladder has become shorter."""
        path = [_count(level) for level in state["path"]]
        if not path or path[0] != 0 or path != sorted(set(path)):
            raise ValueError(f"health state: a path down the ladder rises from 0, got {path}")
        if path[-1] >= self.levels:
            raise ValueError(
                f"health state: on rung {path[-1]}, but the ladder has {self.levels}; configure "
                "the rungs it had, or start with --fresh"
            )
        reason = str(state["reason"])
        if reason not in (CALM, *REASONS):  # a metric's label
            raise ValueError(f"health state: unknown reason {reason[:40]!r}")
        self._path, self.reason = path, reason
        self.moves_down, self.moves_up = (_count(n) for n in state["moves"])
        self._recent = deque((_count(t) for t in state["recent"]), maxlen=self.trips)
        self._bad = dict.fromkeys(self._bad, 0) | {"noise": _count(state["noisy_readings"])}
        self._ticks_s.clear()
        self._tick, self._since = _count(state["tick"]), _count(state["since"])
        self._patience = min(max(_count(state["patience"]), 1), MOST_PATIENCE)
        if self._since > self._tick:
            raise ValueError(f"health state: since tick {self._since}, now is {self._tick}")


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise ValueError(f"health state: expected a whole number, got {repr(value)[:60]}")
    return value
