"""What a frame holds: the numbers of /metrics, and what only watching is worth collecting."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from stream_rnn.engine.engine import Engine
from stream_rnn.metrics import Metrics
from stream_rnn.runtime.feed import Feed
from stream_rnn.runtime.outputs import Outputs

FRAME_S = 0.5
MAX_PAIRS = 128  # scored predictions in a frame: the newest
MAX_TICKS = 1024  # durations behind a frame's percentiles: the newest

Target = list[float] | int


class Showing:
    """Fills a feed; all of it is for the loop's thread.

    While nobody watches it has no hand in the engine and costs one look at a number per tick.

    Args:
        feed: where frames go.
        engine: its scored predictions are listened to, behind whoever does already.
        metrics: brought up to date before each frame.
        outputs: knows the newest dead letters.
        rule: names the rung of the ladder in use.
        reason: why that rung, "" if it is the first.
        ready: reasons not to trust the daemon now.
    """

    def __init__(
        self,
        feed: Feed,
        engine: Engine,
        metrics: Metrics,
        outputs: Outputs,
        *,
        rule: Callable[[], str],
        reason: Callable[[], str],
        ready: Callable[[], list[str]],
    ) -> None:
        self.feed = feed
        self._engine = engine
        self._metrics = metrics
        self._outputs = outputs
        self._rule, self._reason, self._ready = rule, reason, ready
        self._listens = False
        self._behind: Callable[[list[float], Target, float, str], None] | None = None
        self._pairs: deque[tuple[list[float], Target]] = deque(maxlen=MAX_PAIRS)
        self._ticks: deque[float] = deque(maxlen=MAX_TICKS)
        self._shown_at = -math.inf
        self._applied = 0

    def on_tick(self, seconds: float) -> None:
        """A tick's duration, while somebody watches."""
        self._ticks.append(seconds)

    def publish(self, now: float) -> None:
        """Put a frame if somebody watches and one is due."""
        if not self.feed.watchers:
            if self._listens:
                self._engine.on_score, self._behind = self._behind, None
                self._listens = False
            return
        if not self._listens:  # begin: rates and percentiles are of what comes from now on
            self._listens = True
            self._behind, self._engine.on_score = self._engine.on_score, self._on_score
            self._pairs.clear()
            # the stream may be through: of predictions there are those from before
            self._pairs.extend((s.prediction, s.target) for s in self._engine.newest_scored)
            self._ticks.clear()
            self._applied, self._shown_at = self._engine.counts.applied, now
        elif now - self._shown_at >= 0.9 * FRAME_S:  # `publish` does not come to the millisecond
            self.feed.put(msgspec.json.encode(self._frame(now)))

    def _on_score(self, prediction: list[float], target: Target, loss: float, stream: str) -> None:
        self._pairs.append((prediction, target))
        if self._behind is not None:
            self._behind(prediction, target, loss, stream)

    def _frame(self, now: float) -> dict[str, Any]:
        m, applied = self._metrics, self._engine.counts.applied
        seconds, before = now - self._shown_at, self._applied
        self._shown_at, self._applied = now, applied
        ticks = sorted(self._ticks)
        self._ticks.clear()
        pairs = [_pair(*each) for each in self._pairs]
        self._pairs.clear()
        age_s: Any = m.snapshot_age_seconds
        return {
            "at": time.time(),
            "events": applied,
            "events_per_s": (applied - before) / seconds,
            "step": m.step,
            "loss": m.prequential_loss,
            "baselines": m.baseline_loss,
            "lag_events": m.lag_events,
            "lag_seconds": m.lag_seconds,
            "rule": self._rule(),
            "fallback_level": m.fallback_level,
            "fallback_reason": self._reason(),
            "snapshot_age_s": age_s() if callable(age_s) else age_s,
            "ready": self._ready(),
            "tick_p50_s": _quantile(ticks, 0.5),
            "tick_p99_s": _quantile(ticks, 0.99),
            "scored": {"until": self._engine.counts.scored, "pairs": pairs},
            "rejected": self._engine.counts.rejected,
            "letters": self._outputs.newest_letters,
        }


def _pair(prediction: Sequence[float], target: Target) -> tuple[float | None, float | None]:
    """What is drawn: the first target's forecast, or the probability of the class that came."""
    if isinstance(target, int):
        return _finite(prediction[target] if target < len(prediction) else 0.0), 1.0
    return _finite(prediction[0]), _finite(target[0])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The least value that `share` of them do not exceed; None of nothing."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
