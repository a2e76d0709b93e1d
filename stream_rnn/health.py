"""Decides which rung of the fallback ladder is in use. Counts ticks, never seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any


class Governor:
    """Moves down when the rule in use is unhealthy, back up when it has been calm for long enough.

    Unhealthy: `trips` unsound ticks (an influence restarted, or a gradient refused) within `window`
    ticks. After `cooldown` ticks on a lower rung it tries one rung up; each relapse doubles the
    wait, up to 64 times; a calm stretch of `64 * cooldown` ticks on the primary forgives.
    Everything is counted in ticks and kept in snapshots, so that a resumed run decides alike.

    Args:
        levels: rungs of the ladder; 1 means there is nothing to decide.
        trips: unsound ticks that trip.
        window: ticks they must fall within.
        cooldown: ticks on a lower rung before the next try.
    """

    def __init__(
        self, levels: int, trips: int = 3, window: int = 1000, cooldown: int = 5000
    ) -> None:
        for name, value in (("trips", trips), ("window", window), ("cooldown", cooldown)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.levels = levels
        self.trips = trips
        self.window = window
        self.cooldown = cooldown
        self.level = 0
        self.moves_down = 0
        self.moves_up = 0
        self._recent: deque[int] = deque(maxlen=trips)
        self._tick = 0
        self._since = 0
        self._patience = 1

    def observe(self, unsound: bool) -> int:
        """Take one tick; returns the level to be on from the next tick on."""
        self._tick += 1
        if unsound:
            self._recent.append(self._tick)
        calm = self._tick - self._since
        full = len(self._recent) == self.trips
        if full and self._tick - self._recent[0] < self.window:
            self._recent.clear()
            if self.level < self.levels - 1:
                self._go(self.level + 1)
                self.moves_down += 1
                self._patience = min(self._patience * 2, 128)
        elif self.level > 0 and calm >= self.cooldown * self._patience // 2:
            self._go(self.level - 1)
            self.moves_up += 1
        elif self.level == 0 and self._patience > 1 and calm >= 64 * self.cooldown:
            self._patience = 1
        return self.level

    def _go(self, level: int) -> None:
        self.level = level
        self._since = self._tick
        self._recent.clear()

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "level": self.level,
            "moves": [self.moves_down, self.moves_up],
            "recent": list(self._recent),
            "tick": self._tick,
            "since": self._since,
            "patience": self._patience,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; raises ValueError if the ladder has become shorter."""
        level = int(state["level"])
        if not 0 <= level < self.levels:
            raise ValueError(
                f"health state: on rung {level}, but the ladder has {self.levels}; configure the "
                "rungs it had, or start with --fresh"
            )
        self.level = level
        self.moves_down, self.moves_up = (int(n) for n in state["moves"])
        self._recent = deque((int(t) for t in state["recent"]), maxlen=self.trips)
        self._tick, self._since = int(state["tick"]), int(state["since"])
        self._patience = int(state["patience"])
