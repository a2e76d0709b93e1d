"""Standard input and output: lines in, JSON lines out."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

import msgspec
from typing_extensions import override

from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    Record,
    SettingError,
    Sink,
    Source,
)

log = logging.getLogger(__name__)

_BLOCK_BYTES = 64 * 1024
_PARTITION = "stdin"


class StdinSource(Source):
    """One event per line of standard input; empty lines are skipped; ends with the input.

    A pipe cannot be rewound: what was read and is not in a snapshot is lost when the daemon is
    killed (`tee` the input to a file to be able to replay it). Positions count lines and go on
    where the last run stopped. A producer that is too fast is held back by the pipe.

    Args:
        max_line_bytes: a longer line is delivered cut to this many bytes (so it fails to decode and
            is dead-lettered), counted as `long_lines`; the rest of it is skipped.
    """

    guarantee = Guarantee.FIRE_AND_FORGET
    fd: ClassVar[int] = 0

    def __init__(self, max_line_bytes: int = 16 * 1024 * 1024) -> None:
        if max_line_bytes < 1:
            raise SettingError(f"max_line_bytes: must be at least 1, got {max_line_bytes}")
        self._limit = max_line_bytes
        self._position = 0
        self._pending: list[Event] = []
        self._cursor = 0
        self._parts: list[bytes] = []  # the unfinished last line, as it came
        self._kept = 0
        self._is_long = False
        self._ended = False
        self._is_open = False
        self._long_lines = 0

    @override
    def open(self, resume: Position | None) -> None:
        try:
            os.fstat(self.fd)
        except OSError as error:
            raise SettingError(
                "kind: standard input is closed; start with `producer | stream-rnn run ...`"
            ) from error
        applied = (resume or {}).get(_PARTITION, 0)
        # Never backwards: what was read since cannot be read again under a smaller number.
        self._position = max(self._position, int(applied))
        self._is_open = True

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if not self._is_open:
            raise NotConnected("standard input is not open")
        deadline = time.monotonic() + timeout_s
        while self._cursor >= len(self._pending):
            self._pending.clear()
            self._cursor = 0
            if self._ended:
                raise EndOfStream("end of standard input")
            left_s = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self.fd], [], [], left_s)
            if readable:
                self._read()
            if not self._pending and not self._ended and time.monotonic() >= deadline:
                return Batch((), {_PARTITION: self._position})
        events = self._pending[self._cursor : self._cursor + max_events]
        self._cursor += len(events)
        return Batch(events, {_PARTITION: events[-1].position})

    def _read(self) -> None:
        try:
            block = os.read(self.fd, _BLOCK_BYTES)
        except BlockingIOError:  # another process emptied the shared, non-blocking pipe
            return
        if not block:
            self._ended = True
            self._finish_line()
            return
        *lines, rest = block.split(b"\n")
        for line in lines:
            self._keep(line)
            self._finish_line()
        self._keep(rest)

    def _keep(self, part: bytes) -> None:
        room = self._limit - self._kept
        self._is_long |= len(part) > room
        if part and room > 0:
            self._parts.append(part[:room])
            self._kept += len(self._parts[-1])

    def _finish_line(self) -> None:
        line = b"".join(self._parts)
        if line and not line.isspace():
            self._position += 1
            self._long_lines += self._is_long
            self._pending.append(Event(_PARTITION, self._position, line))
        self._parts, self._kept, self._is_long = [], 0, False

    @override
    def lag(self) -> Lag | None:
        """Unknown while the producer may write; 0 once everything of it was delivered."""
        return Lag(events=0) if self._ended and self._cursor >= len(self._pending) else None

    @override
    def counters(self) -> Mapping[str, int]:
        return {"long_lines": self._long_lines}

    @override
    def describe(self) -> str:
        return "lines of standard input"

    @override
    def close(self) -> None:
        """Leave the descriptor open: it belongs to the process."""
        self._is_open = False


class StdoutSink(Sink):
    """One JSON object per line to standard output, unbuffered.

    A reader that is too slow holds the daemon back, as pipes do. When the reader goes away
    (`stream-rnn run ... | head`) `write` raises EndOfStream once: nobody is there to predict for,
    so drain, snapshot and leave. What is written after that is dropped, so that draining succeeds.
    NaN and infinity are written as null.
    """

    fd: ClassVar[int] = 1

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._is_gone = False

    @override
    def open(self) -> None:
        try:
            os.fstat(self.fd)
        except OSError as error:
            raise SettingError("kind: standard output is closed; use a file sink") from error

    @override
    def write(self, records: Sequence[Record]) -> None:
        if self._is_gone or not records:
            return
        data = self._encoder.encode_lines(records)
        left = memoryview(data)
        try:
            while left:
                try:
                    left = left[os.write(self.fd, left) :]
                except BlockingIOError:  # someone made the shared descriptor non-blocking
                    select.select([], [self.fd], [])
        except BrokenPipeError as error:
            self._is_gone = True
            log.warning("the reader of standard output is gone; predictions are dropped from now")
            raise EndOfStream("the reader of standard output is gone") from error

    @override
    def describe(self) -> str:
        return "lines to standard output"

    @override
    def close(self) -> None:
        """Nothing is buffered, and the descriptor belongs to the process."""
