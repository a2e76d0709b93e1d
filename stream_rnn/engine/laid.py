"""What the coming ticks are: a turn of several lanes, or a stretch of events with a tick each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stream_rnn.engine.block import Item
from stream_rnn.engine.frames import Frames
from stream_rnn.engine.pending import Scored
from stream_rnn.tasks import Step, Steps


class Work:
    """One event while its steps are learned.

    Attributes:
        steps: of a turn's; the only one of a stretch's is among the columns.
        step: ticks learned when its last one was.
    """

    __slots__ = ("item", "lane", "prediction", "rejected", "scored", "step", "steps")

    def __init__(self, item: Item, lane: int, steps: Sequence[Step] = ()) -> None:
        self.item, self.lane, self.steps = item, lane, steps
        self.prediction: Any = None
        self.scored: list[Scored] = []
        self.rejected = False
        self.step = 0
        item.work = self

    @property
    def n_steps(self) -> int:
        """At least 1."""
        return len(self.steps) or 1


@dataclass(slots=True)
class Turn:
    """One tick: step `i` of each event."""

    i: int
    works: list[Work]
    ticks: int = field(default=1, init=False)

    def fill(self, frames: Frames, t: int) -> None:
        """Its row, in tick `t`."""
        for work in self.works:
            step = work.steps[self.i]
            frames.put(t, work.lane, step.x, step.y, step.weight)


@dataclass(slots=True)
class Stretch:
    """Events one after another, with a tick each."""

    works: list[Work]
    steps: Steps

    @property
    def ticks(self) -> int:
        """One for each event."""
        return len(self.works)

    def fill(self, frames: Frames, t: int) -> None:
        """Their rows, from tick `t` on."""
        frames.put_many(t, [work.lane for work in self.works], self.steps)


Laid = Turn | Stretch
