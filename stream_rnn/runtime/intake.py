"""Between the source and the engine: what waits, and what is given up when too much does.

With the policy "block" there is no queue here: the source waits, which loses nothing. Any other
policy polls without waiting into a bounded queue. What is shed counts as applied, so that a restart
does not bring it back; it is counted, and the model can be told (`[features] gap`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from stream_rnn.overload import SHEDDING, Overload
from stream_rnn.spi import EndOfStream, Event, Lag, NotConnected, Position, Source


@dataclass(slots=True)
class Shed:
    """Events that were given up, between two that were not.

    Attributes:
        n: how many.
        positions: partition -> the newest of them.
    """

    n: int = 0
    positions: dict[str, int | str] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """One more, newer than all before."""
        self.n += 1
        self.positions[event.partition] = event.position


class Taken(msgspec.Struct, frozen=True):
    """What the engine gets at once: events and gaps in order, and where to resume after them.

    Attributes:
        items: events, and what was shed between them.
        resume: complete position after all of them; empty: others are still waiting.
        received: events that came from the source meanwhile.
        is_over: whether more events waited than may.
    """

    items: Sequence[Event | Shed]
    resume: Position
    received: int
    is_over: bool = False


class Intake:
    """Polls a source for the loop, on its thread.

    Args:
        source: polled.
        overload: what happens when too many events wait.
        rewinds: whether what was not applied comes again after a broken connection.
    """

    def __init__(self, source: Source, overload: Overload, *, rewinds: bool) -> None:
        self.policy = overload.policy
        self.limit = overload.limit
        self.shed = dict.fromkeys(SHEDDING, 0)  # by policy
        self._source = source
        self._kept_below = round(overload.keep * 2**64)
        self._rewinds = rewinds
        self._queue: deque[Event | Shed] = deque()
        self._waiting = 0  # events in the queue
        self._resume: Position = {}
        self._ended: EndOfStream | NotConnected | None = None

    @property
    def waiting(self) -> int:
        """Events that were received and not taken."""
        return self._waiting

    @property
    def is_over(self) -> bool:
        """Whether more events wait than may."""
        return self._waiting > self.limit

    def lag(self) -> Lag | None:
        """The source's, and what waits here on top."""
        lag = self._source.lag()
        if self.policy == "block":
            return lag
        behind = (lag.events or 0) if lag is not None else 0
        return Lag(self._waiting + behind, None if lag is None else lag.seconds)

    def poll(self, max_events: int, timeout_s: float) -> Taken:
        """Up to `max_events` events; waits at most `timeout_s`, and only if none is waiting here.

        Raises:
            NotConnected: the connection broke, and nothing waits here but what comes again.
            EndOfStream: no event will come again, and nothing waits here.
        """
        if self.policy == "block":
            batch = self._source.poll(max_events, timeout_s)
            return Taken(batch.events, batch.resume, len(batch.events))
        received = self._fill(max_events, timeout_s)
        if self._ended is not None and not self._queue:
            ended, self._ended = self._ended, None
            raise ended
        return self._take(max_events, received)

    def _fill(self, max_events: int, timeout_s: float) -> int:
        """Take what the source has, within bounds of memory and time."""
        received, most = 0, 2 * self.limit + max_events
        while self._ended is None and received < most and not self._is_full():
            try:
                batch = self._source.poll(max_events, 0.0 if self._queue else timeout_s)
            except NotConnected as error:
                if self._rewinds:  # whatever waits comes again, in order
                    self.clear()
                    raise
                self._ended = error
                break
            except EndOfStream as error:
                self._ended = error
                break
            self._resume = batch.resume
            for event in batch.events:
                self._admit(event)
            received += len(batch.events)
            if not batch.events:
                break
        return received

    def _is_full(self) -> bool:
        """Whether reading on would need memory without bound: then the source has to wait."""
        return self.policy in ("sample", "predict_only", "degrade") and (
            self._waiting >= 2 * self.limit
        )

    def _admit(self, event: Event) -> None:
        is_too_late = self.policy == "drop_newest" and self._waiting >= self.limit
        is_left_out = self.policy == "sample" and self.is_over and not self._is_kept(event)
        if is_too_late or is_left_out:
            self._shed_newest(event)
            return
        self._queue.append(event)
        self._waiting += 1
        if self.policy == "drop_oldest" and self.is_over:
            self._shed_oldest()

    def _is_kept(self, event: Event) -> bool:
        """By what the event is called: a repetition under the same load decides alike."""
        name = f"{event.partition}:{event.position}".encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(name, digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._kept_below

    def _shed_newest(self, event: Event) -> None:
        self.shed[self.policy] += 1
        last = self._queue[-1] if self._queue else None
        if not isinstance(last, Shed):
            last = Shed()
            self._queue.append(last)
        last.add(event)

    def _shed_oldest(self) -> None:
        self.shed[self.policy] += 1
        gone = Shed()
        oldest = self._queue.popleft()
        if isinstance(oldest, Shed):
            gone, oldest = oldest, self._queue.popleft()
        assert isinstance(oldest, Event)  # two gaps in a row are one
        gone.add(oldest)
        self._waiting -= 1
        self._queue.appendleft(gone)

    def _take(self, max_events: int, received: int) -> Taken:
        is_over = self.is_over
        items: list[Event | Shed] = []
        n_events = 0
        while self._queue and n_events < max_events:
            item = self._queue.popleft()
            items.append(item)
            n_events += isinstance(item, Event)
        self._waiting -= n_events
        return Taken(items, {} if self._queue else self._resume, received, is_over)

    def rest(self) -> Taken:
        """Everything that waits, without asking the source for more."""
        return self._take(self._waiting + 1, 0)

    def clear(self) -> None:
        """Nothing waits: what did comes again."""
        self._queue.clear()
        self._waiting = 0
