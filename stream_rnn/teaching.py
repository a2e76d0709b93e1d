"""What is taught now: several may ask for less, and the most restrictive wins."""

from __future__ import annotations

from stream_rnn.learner import Learner, Teaches

LESS: tuple[Teaches, ...] = ("all", "readout", "nothing")
"""From everything down to nothing."""


class Teaching:
    """Combines who says what a learner is taught; the only one that sets `learner.teaches`.

    Args:
        learner: told between two ticks, by the thread that steps it.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._asked: dict[str, Teaches] = {}

    @property
    def restricted_by(self) -> dict[str, Teaches]:
        """Who asks for less than everything, and for what."""
        return {reason: teaches for reason, teaches in self._asked.items() if teaches != "all"}

    def ask(self, reason: str, teaches: Teaches) -> None:
        """Teach at most this from now on, as far as `reason` is concerned; "all" takes it back.

        Args:
            reason: who asks: "fallback" (the ladder), "overload" or "ctl"; a label of
                `stream_rnn_update_skips_total`.
            teaches: what may be learned.
        """
        if self._asked.get(reason, "all") == teaches:
            return
        self._asked[reason] = teaches
        self._learner.teaches = max(self._asked.values(), key=LESS.index)
