"""The blocks that wait for their run: learned together, one tick after another, in the same bits.

A run only spares the way between Python and the library; where it is cut changes nothing that is
learned, so its length may follow the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stream_rnn.engine.block import Item

AIM_S = 0.005  # a run takes about that long: predictions wait for the end of theirs
MOST_NUMBERS = 1 << 20  # in the rows of a run: 4 MiB


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
        self._blocks: list[list[Item]] = []
        self._room = 1

    def begins(self) -> bool:
        """Whether the coming block may wait for others, as far as the learner is concerned."""
        if not self._blocks:
            fits = int(AIM_S / self._tick_s) if self._ticks > 1 and self._takes_runs() else 1
            self._room = max(1, min(self._ticks, fits))
        return self._room > 1

    @property
    def room(self) -> int:
        """For how many blocks, until the run is complete."""
        return self._room - len(self._blocks)

    def add(self, blocks: Sequence[list[Item]], positions: dict[str, int | str]) -> bool:
        """More blocks, for which there is room; returns whether the run is complete."""
        self._blocks += blocks
        self.events += sum(map(len, blocks))
        self.positions.update(positions)
        return len(self._blocks) >= self._room

    def took(self, seconds: float, ticks: int) -> None:
        """What the learner needed for the newest ones: the next run is as long as fits."""
        if ticks:
            self._tick_s = max(seconds / ticks, 1e-9)

    def take(self) -> Sequence[list[Item]]:
        """All blocks in order; none waits then."""
        blocks, self._blocks = self._blocks, []
        self.positions.clear()
        self.events = 0
        self._room = 1  # until `begins` is asked
        return blocks
