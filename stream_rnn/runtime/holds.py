"""What holds a run back on purpose: polling (`Pause`), or learning (`Freeze`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_rnn.engine.engine import Engine
from stream_rnn.runtime.rungs import Teaching


class Pause:
    """Why the source is not polled; no reason, no pause. Forgotten at a restart.

    Written by the loop's thread, read by any.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}  # who holds -> why, for people; replaced, never changed

    def hold(self, by: str, reason: str) -> None:
        """Stop polling; what was received already is still taken in."""
        self.reasons = {**self.reasons, by: reason}

    def release(self, *by: str) -> None:
        """They hold no longer."""
        self.reasons = {who: reason for who, reason in self.reasons.items() if who not in by}


class Freeze:
    """Whether a person stopped the learning: predictions, hidden states, scales and scores go on.

    It influences what is learned, so it is part of every snapshot and outlives a restart.

    Args:
        engine: paid what it owes before.
        teaching: asked to teach nothing; None where nothing can be restricted.
    """

    def __init__(self, engine: Engine, teaching: Teaching | None) -> None:
        self.since_step: int | None = None
        self._engine = engine
        self._teaching = teaching

    def on(self) -> None:
        """Between two ticks. What an update-locked window owes is paid first."""
        if self.since_step is None:
            self._engine.pay()
            self._set(self._engine.step)

    def off(self) -> None:
        """Between two ticks: teach again what the rung of the ladder teaches."""
        self._set(None)

    def _set(self, step: int | None) -> None:
        self.since_step = step
        if self._teaching is not None:
            self._teaching.ask("ctl", "all" if step is None else "nothing")

    def state_dict(self) -> dict[str, Any]:
        """Plain values; nothing where nothing is frozen."""
        return {} if self.since_step is None else {"since_step": self.since_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave."""
        step = state.get("since_step")
        self._set(None if step is None else int(step))
