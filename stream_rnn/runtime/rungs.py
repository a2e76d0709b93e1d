"""The ladder of rungs in a run: the governor is told of each tick, and moves are made and told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

from stream_rnn.engine.engine import Engine
from stream_rnn.engine.frames import Tick
from stream_rnn.health import Governor
from stream_rnn.metrics import Metrics
from stream_rnn.runtime.intake import Intake

_log = logging.getLogger(__name__)

WHY = {
    "unsound": "the credit was unsound",
    "noise": "the credit was too noisy",
    "slow": "ticks took longer than their budget",
    "lag": "too far behind the source",
    "calm": "calm again",
}


class Teaching(Protocol):
    """Where others than the ladder ask for less to be learned."""

    @property
    def restricted_by(self) -> Mapping[str, str]:
        """Who asks for less than everything."""

    def ask(self, reason: str, teaches: Literal["all", "nothing"]) -> None:
        """Teach at most this, as far as `reason` is concerned."""


class Ladder(Protocol):
    """The rungs that are changed from outside."""

    level: int

    @property
    def teaching(self) -> Teaching:
        """What is taught."""

    def move(self, level: int) -> None:
        """Change to that rung, between two ticks."""

    def noise(self) -> float | None:
        """Variance share of the credit in use, None where it has none; synchronizes the device."""


class Moves:
    """Changes rungs between two ticks, and nowhere else.

    Args:
        intake: asked for the lag, where the governor looks at it.
        engine: counts the ticks.
        governor: decides.
        ladder: its rungs, if there are several.
        rule: names the rung in use.
        metrics: count the moves.
    """

    def __init__(
        self,
        intake: Intake,
        engine: Engine,
        governor: Governor,
        ladder: Ladder | None,
        rule: Callable[[], str],
        metrics: Metrics,
    ) -> None:
        self.is_unsaved = False  # a move since the newest snapshot
        self._intake = intake
        self._engine = engine
        self._governor = governor
        self._ladder = ladder
        self._rule = rule
        self._metrics = metrics

    def restored(self) -> None:
        """A snapshot was loaded: tell the learner what it teaches on this rung."""
        if self._ladder is not None:
            self._ladder.move(self._governor.level)

    def on_tick(self, tick: Tick) -> None:
        """After each tick, before the next one; after several only if they cannot bring a move."""
        governor, ladder = self._governor, self._ladder
        if tick.n > 1:
            governor.observe_calm(tick.n, tick.seconds)
            return
        level = governor.observe(
            tick.restarted > 0 or tick.refused,
            tick.seconds,
            # sync: reads the device, seldom
            noise=ladder.noise() if ladder is not None and governor.wants_noise else None,
            lag=self._intake.lag() if governor.wants_lag else None,
        )
        if ladder is None or level == ladder.level:
            return
        before = self._rule()
        direction = "down" if level > ladder.level else "up"
        ladder.move(level)
        self.is_unsaved = True
        self._metrics.fallback_moves[direction, governor.reason] += 1
        _log.warning(
            "fallback: %s -> %s at tick %d (%s)",
            before,
            self._rule(),
            self._engine.step,
            WHY[governor.reason],
        )
