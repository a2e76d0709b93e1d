"""The blocks that wait for their run: learned together, one tick after another, in the same bits.

A run only spares the way between Python and the library; where it is cut changes nothing that is
learned, so its length may follow the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from stream_rnn.engine.block import Item

AIM_S = 0.005  # a run takes about that long: predictions wait for the end of theirs
MOST_NUMBERS = 1 << 20  # in the rows of a run: 4 MiB


class Run(NamedTuple):
    """Events in order.

    Attributes:
        items: all of them.
        sizes: how many make up each block.
        positions: partition -> its newest one.
    """

    items: list[Item]
    sizes: list[int]
    positions: dict[str, int | str]

    def blocks(self) -> Iterator[list[Item]]:
        """The events of each block."""
        end = 0
        for size in self.sizes:
            end += size
            yield self.items[end - size : end]

    @property
    def last(self) -> list[Item]:
        """The events of the last block."""
        return self.items[-self.sizes[-1] :]


class Waiting:
    """Blocks in order, closed and not yet learned.

    What waits here is not applied: dropped, it comes again from the source.

    Args:
        ticks: of a run, at most.
        takes_runs: whether the learner takes several ticks at once now.
    """

    def __init__(self, ticks: int, takes_runs: Callable[[], bool]) -> None:
        self.positions: dict[str, int | str] = {}  # partition -> its newest event that waits
        self.events = 0
        self._ticks = ticks
        self._takes_runs = takes_runs
        self._tick_s = AIM_S
        self._items: list[Item] = []
        self._sizes: list[int] = []
        self._room = 1

    def begins(self) -> bool:
        """Whether the coming block may wait for others, as far as the learner is concerned."""
        if not self._items:
            fits = int(AIM_S / self._tick_s) if self._ticks > 1 and self._takes_runs() else 1
            self._room = max(1, min(self._ticks, fits))
        return self._room > 1

    @property
    def room(self) -> int:
        """For how many blocks, until the run is complete."""
        return self._room - len(self._sizes)

    def add(
        self, items: Sequence[Item], sizes: Sequence[int], positions: Mapping[str, int | str]
    ) -> bool:
        """More blocks, for which there is room; returns whether the run is complete."""
        self._items += items
        self._sizes += sizes
        self.events += len(items)
        self.positions.update(positions)
        return len(self._sizes) >= self._room

    def took(self, seconds: float, ticks: int) -> None:
        """What the learner needed for the newest ones: the next run is as long as fits."""
        if ticks:
            self._tick_s = max(seconds / ticks, 1e-9)

    def take(self) -> Run:
        """All blocks in order; none waits then."""
        run = Run(self._items, self._sizes, self.positions)
        self._items, self._sizes, self.positions, self.events = [], [], {}, 0
        self._room = 1  # until `begins` is asked
        return run
