"""What the coming ticks are: a turn of several lanes, or a stretch of events with a tick each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stream_rnn.engine.block import Item
from stream_rnn.engine.frames import Frames
from stream_rnn.tasks import Steps


@dataclass(slots=True)
class Turn:
    """One tick: step `i` of each event."""

    i: int
    items: Sequence[Item]
    ticks: int = field(default=1, init=False)

    @property
    def lanes(self) -> Sequence[int]:
        """Of each event."""
        return [item.lane for item in self.items]

    def fill(self, frames: Frames, t: int) -> None:
        """Its row, in tick `t`."""
        for item in self.items:
            step = item.steps[self.i]
            frames.put(t, item.lane, step.x, step.y, step.weight)


@dataclass(slots=True)
class Stretch:
    """Events one after another, with a tick each."""

    items: Sequence[Item]
    lanes: Sequence[int]
    steps: Steps

    @property
    def ticks(self) -> int:
        """One for each event."""
        return len(self.items)

    def fill(self, frames: Frames, t: int) -> None:
        """Their rows, from tick `t` on."""
        frames.put_many(t, self.lanes, self.steps)


Laid = Turn | Stretch
