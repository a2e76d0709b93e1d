"""Reading the journal in order, from any event on; what cannot be read is named, never guessed."""

from __future__ import annotations

import os

from stream_rnn.journal import records, segments
from stream_rnn.journal.journal import Journal
from stream_rnn.journal.records import EVENT, Damage, Segment
from stream_rnn.spi import Event

BATCH_BYTES = 64 << 20  # a batch ends beyond this, however many events were asked for


class Reader:
    """A place in the journal. Used by the thread that writes it.

    Attributes:
        next: sequence of the event to be read next.
    """

    def __init__(self, journal: Journal) -> None:
        self.next = 1
        self._journal = journal
        self._segment: Segment | None = None
        self._descriptor: int | None = None
        self._offset = 0

    @property
    def left(self) -> int:
        """Events that can be read now."""
        return self._journal.newest - self.next + 1

    def seek(self, sequence: int) -> None:
        """Go to the place behind event `sequence`; raises OSError, Damage."""
        self.close()
        self.next = sequence + 1
        holding = [each for each in self._journal.segments if each.first <= self.next]
        if holding:
            self._take(holding[-1])
            if not holding[-1].unreadable:
                self._walk(holding[-1], self.next)

    def _walk(self, segment: Segment, target: int) -> None:
        """Skip what is in front of event `target`, damaged places included."""
        assert self._descriptor is not None
        expected = segment.first
        while expected < target:
            try:
                for found in records.records(
                    segment, self._descriptor, self._offset, segment.size, expected
                ):
                    if found.kind == EVENT and found.sequence >= target:
                        return
                    self._offset, expected = found.end, found.sequence + 1
                return
            except Damage as damage:
                segments.look_on(damage, segment, self._descriptor, target + 1)
                if damage.further is None or damage.found > target:
                    self._offset = damage.offset
                    return
                self._offset, expected = damage.further, damage.found

    def read(self, max_events: int) -> list[Event]:
        """Up to `max_events` of the events that are left.

        Raises:
            Damage: at the event to be read next.
        """
        events: list[Event] = []
        n_bytes = 0
        try:
            while self.left > 0 and len(events) < max_events and n_bytes < BATCH_BYTES:
                n_bytes += self._read_on(events, max_events)
        except Damage:
            if not events:
                raise
        return events

    def _read_on(self, events: list[Event], max_events: int) -> int:
        """Append what the segment at hand still holds; returns its bytes."""
        segment = self._segment
        if segment is None or (self._offset >= segment.size and self._follower() is not None):
            segment = self._turn()
        assert self._descriptor is not None
        n_bytes = 0
        try:
            if segment.unreadable:
                raise Damage(segment.path, 0, segment.unreadable, self.next)
            if self._offset >= segment.size:
                raise Damage(segment.path, segment.size, "events are missing", self.next)
            for found in records.records(
                segment, self._descriptor, self._offset, segment.size, self.next
            ):
                if found.kind == EVENT:
                    if len(events) >= max_events or n_bytes >= BATCH_BYTES:
                        break
                    events.append(records.event_of(found.sequence, found.body))
                    n_bytes += len(found.body)
                self._offset, self.next = found.end, found.sequence + 1
        except Damage as damage:
            follower = self._follower()
            stop = self._journal.newest + 1 if follower is None else follower.first
            segments.look_on(damage, segment, self._descriptor, stop)
            raise
        return n_bytes

    def _turn(self) -> Segment:
        """Go on to the next segment."""
        follower = self._follower()
        assert follower is not None
        if follower.first != self.next:
            assert self._segment is not None
            damage = Damage(self._segment.path, self._segment.size, "events are missing", self.next)
            damage.found = follower.first
            raise damage
        self._take(follower)
        return follower

    def _follower(self) -> Segment | None:
        first = 0 if self._segment is None else self._segment.first
        return next((s for s in self._journal.segments if s.first > first), None)

    def skip(self, damage: Damage) -> None:
        """Go on behind a damaged place."""
        self.next = damage.found
        if damage.further is not None:
            self._offset = damage.further
            return
        assert self._segment is not None
        self._offset = self._segment.size  # the next segment begins with that event, or will

    def _take(self, segment: Segment) -> None:
        self.close()
        self._descriptor = os.open(segment.path, os.O_RDONLY | os.O_NOFOLLOW)
        self._segment, self._offset = segment, segment.start

    def close(self) -> None:
        """Let the file go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = self._segment = None
