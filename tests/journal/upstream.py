"""A broker of one file, for daemons under test: numbered lines, kept until they are acknowledged.

events.jsonl      what there is
upstream.acked    the number of the last line acknowledged: it is never delivered again
upstream.log      one line for everything that happened
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from typing_extensions import override

from stream_rnn.spi import Batch, EndOfStream, Event, Guarantee, Position, Source

PARTITION = "line"


class Broker(Source):
    """Delivers what was not acknowledged; with `keeps = false` what was not delivered."""

    guarantee = Guarantee.ACKABLE

    def __init__(self, folder: str, keeps: bool = True, most: int = 64) -> None:
        self._folder = Path(folder)
        self._keeps = keeps
        self._most = most
        self._next = 1
        self._lines: list[bytes] = []
        if not keeps:
            self.guarantee = Guarantee.FIRE_AND_FORGET

    @override
    def open(self, resume: Position | None) -> None:
        self._lines = (self._folder / "events.jsonl").read_bytes().splitlines()
        acked = self._folder / "upstream.acked"
        self._next = 1 + (int(acked.read_text()) if acked.exists() else 0)
        self._log(f"open {dict(resume or {})} at {self._next}")

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        first = self._next
        taken = self._lines[first - 1 :][: min(max_events, self._most)]
        if not taken:
            time.sleep(min(timeout_s, 0.01))
            raise EndOfStream("no more lines")
        self._next += len(taken)
        if not self._keeps:
            self._write(self._next - 1)
        events = [Event(PARTITION, n, data) for n, data in enumerate(taken, first)]
        return Batch(events, {PARTITION: self._next - 1})

    @override
    def ack(self, resume: Position) -> None:
        self._log(f"ack {dict(resume)}")
        if self._keeps:
            self._write(int(resume[PARTITION]))

    @override
    def close(self) -> None:
        self._lines = []

    def _write(self, number: int) -> None:
        draft = self._folder / "upstream.draft"
        draft.write_text(str(number))
        draft.rename(self._folder / "upstream.acked")

    def _log(self, text: str) -> None:
        with (self._folder / "upstream.log").open("a") as file:
            file.write(f"{os.getpid()} {text}\n")
