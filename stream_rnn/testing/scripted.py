"""A source that does what its script says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import NoReturn

from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    Record,
    Source,
)


class ScriptedSource(Source):
    """A source that does what its script says: failure is scripted in the data.

    A script's items are events (`Event`, payload bytes, or a dict that becomes JSON) and
    exceptions, each of which is raised once when it is its turn; EndOfStream is raised for as long
    as the source stands there. Behind the last item polls are empty. Events that are not ready-made
    stand in the partition "script" at their index among the events. After NotConnected, `open` must
    come first.

    `guarantee` decides what `open` does: REPLAYABLE rewinds to `resume`, ACKABLE to the last
    acknowledgement, FIRE_AND_FORGET goes on. `opened`, `acked` and `n_closed` tell what happened.
    """

    def __init__(
        self,
        script: Iterable[Event | bytes | Record | BaseException],
        guarantee: Guarantee = Guarantee.REPLAYABLE,
    ) -> None:
        # The contract has the guarantee per class; here it is the instance that plays one.
        self.guarantee = guarantee
        self.opened: list[Position | None] = []
        self.acked: list[Position] = []
        self.n_closed = 0
        self._items: list[Event | BaseException] = []
        self._raised: set[int] = set()
        self._cursor = 0
        self._resume: dict[str, int | str] = {}
        self._is_open = False
        index = 0
        for item in script:
            if isinstance(item, BaseException):
                self._items.append(item)
                continue
            self._items.append(_as_event(item, index))
            index += 1

    def open(self, resume: Position | None) -> None:
        self.opened.append(None if resume is None else dict(resume))
        self._is_open = True
        if self.guarantee is Guarantee.REPLAYABLE:
            self._seek(resume or {})
        elif self.guarantee is Guarantee.ACKABLE:
            self._seek(self.acked[-1] if self.acked else resume or {})

    def _seek(self, resume: Position) -> None:
        self._resume = dict(resume)
        applied = [
            n + 1
            for n, item in enumerate(self._items)
            if isinstance(item, Event)
            and item.partition in resume
            and not resume[item.partition] < item.position  # type: ignore[operator]
        ]
        self._cursor = max(applied, default=0)

    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if not self._is_open:
            raise NotConnected("the scripted source is not open")
        events: list[Event] = []
        while self._cursor < len(self._items) and len(events) < max_events:
            item = self._items[self._cursor]
            if isinstance(item, Event):
                events.append(item)
                self._resume[item.partition] = item.position
            elif self._cursor not in self._raised:
                if events:  # first what came before
                    break
                self._raise(item)
            self._cursor += 1
        if not events:
            time.sleep(min(timeout_s, 0.001))  # an endless script must not spin
        return Batch(events, dict(self._resume))

    def _raise(self, error: BaseException) -> NoReturn:
        if not isinstance(error, EndOfStream):
            self._raised.add(self._cursor)
            self._cursor += 1
        self._is_open = not isinstance(error, NotConnected)
        raise error

    def ack(self, resume: Position) -> None:
        self.acked.append(dict(resume))

    def lag(self) -> Lag | None:
        return Lag(events=sum(isinstance(item, Event) for item in self._items[self._cursor :]))

    def close(self) -> None:
        self.n_closed += 1
        self._is_open = False


def _as_event(item: Event | bytes | Record, index: int) -> Event:
    if isinstance(item, Event):
        return item
    data = item if isinstance(item, bytes) else json.dumps(item).encode()
    return Event("script", index, data)
