"""Applies a level of health to the learner: credit rules first, then less and less is taught.

    0 .. n-1    the credit rules, the configured one first
    "readout"   W stands still, the read-out goes on learning
    "frozen"    nothing learns; predictions, hidden states and scores go on

It decides nothing: `health.Governor` does. A level is changed between two ticks and changes neither
a hidden state nor a parameter (docs/algorithms.md 11.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from stream_rnn.credit.base import Noisy
from stream_rnn.credit.fallback import Fallback
from stream_rnn.learner import Learner, Teaches
from stream_rnn.teaching import Teaching

BELOW: dict[str, Teaches] = {"readout": "readout", "frozen": "nothing"}
"""The rungs below every credit rule, from the top down, and what is taught there."""


class Ladder:
    """All rungs of one model; the fallbacks of all its layers move together.

    Args:
        learner: what is taught; told at which level what.
        fallbacks: the credit rules of each layer, all with the same number of rungs; none for a
            recurrence that has its credit built in.
        rules: names of the credit rules, from the top down.
        below: what follows below them: "readout", "frozen", both in this order, or nothing.
    """

    def __init__(
        self,
        learner: Learner,
        fallbacks: Sequence[Fallback],
        rules: Sequence[str],
        below: Sequence[str] = (),
    ) -> None:
        if not rules or (not fallbacks and len(rules) > 1):
            raise ValueError(f"a ladder without fallbacks has one rule, got {list(rules)}")
        for fallback in fallbacks:
            if len(fallback.rungs) != len(rules):
                raise ValueError(
                    f"all layers need the same {len(rules)} rungs, got {len(fallback.rungs)}"
                )
        if list(below) != [name for name in BELOW if name in below]:
            raise ValueError(
                f"below the credit rules there may be {' and '.join(map(repr, BELOW))}, each once "
                f"and in this order, got {list(below)}"
            )
        self.level = 0
        self.names = (*rules, *below)
        self._n_rules = len(rules)
        self.teaching = Teaching(learner)  # others may restrict it further
        self._fallbacks = tuple(fallbacks)

    @property
    def levels(self) -> int:
        """Rungs, all together."""
        return len(self.names)

    @property
    def rule(self) -> str:
        """Name of the rung in use."""
        return self.names[self.level]

    @property
    def noisy(self) -> tuple[int, ...]:
        """Levels whose rule is an estimator: no remedy for another one's noise or explosion."""
        return tuple(
            level
            for level in range(self._n_rules)
            if any(isinstance(fallback.rungs[level], Noisy) for fallback in self._fallbacks)
        )

    def move(self, level: int) -> None:
        """Be on `level`, between two ticks, whatever the level was; also after a state was loaded.

        Raises:
            ValueError: there is no such level.
        """
        if not 0 <= level < self.levels:
            raise ValueError(f"level must be in 0..{self.levels - 1}, got {level}")
        for fallback in self._fallbacks:
            fallback.move(min(level, self._n_rules))  # one past its last rung W stands still
        self.teaching.ask("fallback", "all" if level < self._n_rules else BELOW[self.names[level]])
        self.level = level

    def noise(self) -> float | None:
        """The largest variance share of any layer's estimator; None where there is none.

        Synchronizes the device, so read it by schedule.
        """
        told = [noise for each in self._fallbacks if (noise := each.noise()) is not None]
        # one layer's NaN must not hide another one's noise
        return max((noise for noise in told if not math.isnan(noise)), default=None)
