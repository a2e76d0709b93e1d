"""Which lane a key's stream runs in: a table of fixed capacity, least recently used goes first."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal

from stream_rnn.features.saved import count
from stream_rnn.features.values import MAX_CHARS, BadEvent, category, shown
from stream_rnn.spi import Event, Record

Batching = Literal["event", "log", "time"]
"""What a tick takes in: one event, a block that follows from the events alone, or a poll's."""


class Lanes:
    """Key -> lane, at most `capacity` at a time.

    All lanes share the parameters; each has a hidden state of its own. When a new key finds the
    table full, the key unseen for longest loses its lane (and its state), which is counted.

    Args:
        key: the field that tells the streams apart; None: one stream, or the producer's key if
            `capacity` is above 1.
        capacity: lanes; by default 1 without a key and 64 with one.
        end: the field that is true in the last event of an episode; None: streams have no end.
    """

    def __init__(
        self, key: str | None = None, capacity: int | None = None, end: str | None = None
    ) -> None:
        if capacity is None:
            capacity = 1 if key is None else 64
        if not 1 <= capacity <= 1_000_000:
            raise ValueError(f"capacity must be in 1..1000000, got {capacity}")
        if end is not None and end == key:
            raise ValueError(f"end = {end!r} is the key; name the field that tells the last event")
        self.key = key
        self.end = end
        self.capacity = capacity
        self.evictions = 0
        self._lane_of: OrderedDict[str, int] = OrderedDict()

    @property
    def used(self) -> int:
        """Lanes taken."""
        return len(self._lane_of)

    def key_of(self, event: Event, record: Record) -> str | None:
        """The key of an event; raises BadEvent if the field is missing or no category."""
        if self.key is not None:
            return category(record, self.key)
        if event.key is not None and len(event.key) > MAX_CHARS:
            raise BadEvent(
                "bad_key",
                f"the event's key has {len(event.key)} characters, at most {MAX_CHARS} are allowed",
            )
        return event.key or None  # "" and None are one stream: they must not share a tick

    def keys_of(self, events: Sequence[Event], records: Sequence[Record]) -> list[str | None]:
        """`key_of` each; raises BadEvent of the first without one."""
        if self.key is None:
            keys: list[str | None] = list(map(attrgetter("key"), events))
            if keys.count(None) == len(keys):
                return keys
        return list(map(self.key_of, events, records))

    def ends(self, record: Record) -> bool:
        """Whether the event ends its episode; raises BadEvent if the field is no boolean."""
        value = None if self.end is None else record.get(self.end)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise BadEvent(
                "wrong_type",
                f"field {self.end!r}: expected true or false ([lanes] end), got {_told(value)}; "
                "leave it out where no episode ends",
            )
        return value

    def find(self, key: str | None) -> int | None:
        """The lane of `key`, if it has one; it counts as unseen."""
        return self._lane_of.get(self.stream_of(key))

    def assign_known(self, keys: Sequence[str | None]) -> list[int]:
        """The lanes of the first keys, up to one that has none; they count as seen."""
        if self.capacity == 1 and self.key is None:
            return list(self._lane_of.values()) * len(keys)
        lanes: list[int] = []
        for key in keys:
            lane = self._lane_of.get(key or "")
            if lane is None:
                break
            self._lane_of.move_to_end(key or "")
            lanes.append(lane)
        return lanes

    def stream_of(self, key: str | None) -> str:
        """What the stream of `key` goes by; "" where there is one only."""
        return "" if self.capacity == 1 and self.key is None else key or ""

    def assign(self, key: str | None) -> tuple[int, bool]:
        """The lane of `key`, and whether it starts anew there."""
        name = self.stream_of(key)
        lane = self._lane_of.get(name)
        if lane is not None:
            self._lane_of.move_to_end(name)
            return lane, False
        if len(self._lane_of) < self.capacity:
            lane = len(self._lane_of)
            self._lane_of[name] = lane
            return lane, False
        _, lane = self._lane_of.popitem(last=False)
        self._lane_of[name] = lane
        self.evictions += 1
        return lane, True

    def copied(self) -> Lanes:
        """The table as it is now, to look keys up in; shares nothing that changes."""
        twin = copy.copy(self)
        twin._lane_of = self._lane_of.copy()
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Keys with their lanes, least recently used first."""
        return {"lanes": list(self._lane_of.items()), "evictions": self.evictions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what `state_dict` gave; raises ValueError if it does not fit the capacity."""
        pairs = [(str(key), int(lane)) for key, lane in state["lanes"]]
        if len(dict(pairs)) != len(pairs) or {lane for _, lane in pairs} != set(range(len(pairs))):
            raise ValueError("lanes: the keys in the state share lanes, or leave some out")
        if len(pairs) > self.capacity:
            raise ValueError(f"lanes: {len(pairs)} keys do not fit capacity {self.capacity}")
        self._lane_of = OrderedDict(pairs)
        self.evictions = count(state["evictions"], "the lanes")


def _told(value: object) -> str:
    """`shown`, and a number by its value: whatever came, the text is short."""
    if isinstance(value, int | float) and abs(value) < 1e15:
        return f"{type(value).__name__} {value:g}"
    return shown(value)
