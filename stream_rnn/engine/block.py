"""The open block: events that were fed and that no tick has taken in yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from stream_rnn.engine.pending import Scored
from stream_rnn.spi import Event, Record
from stream_rnn.tasks import Step

NOWHERE = -1


class Item(msgspec.Struct, eq=False):
    """One event on its way; made by the million, so not a dataclass.

    Attributes:
        letter: it cannot be used, and this is its dead letter.
        ends: it is the last of its episode.
        lane: where it is laid out; NOWHERE: it is not, or not yet.
        steps: of a turn's; the only one of a stretch's is among the columns.
        id: names the event, and what was predicted at it.
        prediction: as it is published.
        scored: what fell due.
        rejected: the learner took its step back.
        replayed: it was possibly emitted before.
        step: ticks learned when its last one was.
    """

    event: Event
    record: Record | None = None
    key: str | None = None
    letter: Record | None = None
    ends: bool = False
    lane: int = NOWHERE
    steps: Sequence[Step] = ()
    id: str = ""
    prediction: Any = None
    scored: tuple[Scored, ...] = ()
    rejected: bool = False
    replayed: bool = False
    step: int = 0


class OpenBlock:
    """At most `size` events, those that can be used of different keys.

    What stands in it is not applied: dropped, it comes again from the source.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.positions: dict[str, int | str] = {}  # partition -> its newest event in the block
        self._items: list[Item] = []
        self._keys: set[str | None] = set()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_full(self) -> bool:
        """Whether it takes no further event."""
        return len(self._items) >= self.size

    def has_room_for(self, item: Item) -> bool:
        """Whether the item's lane is still free in this tick."""
        return item.letter is not None or item.key not in self._keys

    def add(self, item: Item) -> None:
        """One more event, the newest of its partition."""
        if item.letter is None:
            self._keys.add(item.key)
        self._items.append(item)
        self.positions[item.event.partition] = item.event.position

    def take(self) -> list[Item]:
        """All events in order; the block is empty then."""
        items, self._items = self._items, []
        self._keys.clear()
        self.positions.clear()
        return items
