"""From the source into the journal, in groups: polled, written, flushed, then acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable

from stream_rnn.checkpoint.faults import fault
from stream_rnn.journal.journal import Journal
from stream_rnn.spi import EndOfStream, NotConnected, Position, Source

GROUP_BYTES = 8 << 20  # a group ends beyond this: it is held in memory


class Intake:
    """Fills a journal.

    Args:
        source: opened here, closed by others.
        journal: open before anything is called.
        fsync_every: events in a group, at most.
        fsync_s: seconds a group waits for more, counted from its first event.
        clock: seconds, monotonic.

    Attributes:
        connected: the source is open.
        ended: the source has nothing more, ever.
        failures: groups that could not be written when they should have been.
    """

    def __init__(
        self,
        source: Source,
        journal: Journal,
        fsync_every: int,
        fsync_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.connected = False
        self.ended = False
        self.failures = 0
        self._source = source
        self._journal = journal
        self._fsync_every = fsync_every
        self._fsync_s = fsync_s
        self._clock = clock
        self._broken: NotConnected | None = None  # found out behind events that were kept

    def connect(self) -> None:
        """Open the source behind what the journal holds, and write what could not be written.

        Raises:
            NotConnected: the source is not reachable, or the disk cannot be written.
        """
        self._settle()
        self._broken = None
        if not self.connected:
            self._source.open(dict(self._journal.positions) or None)
            self.connected, self.ended = True, False

    def take(self, most: int, timeout_s: float) -> int:
        """Make up to `most` events durable, in groups; returns how many.

        Args:
            most: events.
            timeout_s: how long to wait for the first one.

        Raises:
            NotConnected: as in `connect`; nothing is lost, nothing was acknowledged too early.
        """
        if self._broken is not None:
            error, self._broken = self._broken, None
            raise error
        self.connect()
        room = self._journal.size_bytes + GROUP_BYTES
        group = n = self._group(min(self._fsync_every, most), self._clock() + timeout_s)
        while (
            group >= self._fsync_every
            and n < most
            and self._broken is None
            and self._journal.size_bytes < room
        ):
            self._settle()
            group = self._group(min(self._fsync_every, most - n), self._clock())
            n += group
        if not n and self._broken is not None:
            error, self._broken = self._broken, None
            raise error
        return n

    def _group(self, most: int, until: float) -> int:
        n, came = 0, False
        resume: Position = {}
        while n < most and self._journal.pending < GROUP_BYTES:
            try:
                batch = self._source.poll(most - n, max(0.0, until - self._clock()))
            except EndOfStream:
                self.ended = True
                break
            except NotConnected as error:
                self.connected, self._broken = False, error
                break
            fresh = self._journal.add(batch)
            resume, came = batch.resume, came or bool(batch.events)
            if fresh and not n:
                until = min(until, self._clock() + self._fsync_s)
            n += fresh
            if self._clock() >= until:
                break
        if n:
            self._journal.seal(dict(resume))
            self._flush()
        if came:
            self._acknowledge()
        return n

    def _settle(self) -> None:
        """Make the journal ready for a group; write the one that could not be written."""
        try:
            self._journal.ready()
        except OSError as error:
            raise self._unwritable(error) from error
        if self._journal.pending:
            self._flush()
            self._acknowledge()

    def _flush(self) -> None:
        try:
            self._journal.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        fault("journal_after_fsync")

    def _acknowledge(self) -> None:
        if not self.connected:  # it comes again, is known, and acknowledged then
            return
        try:
            self._source.ack(dict(self._journal.positions))
        except NotConnected as error:
            self.connected, self._broken = False, error
        fault("journal_after_ack")

    def _unwritable(self, error: OSError) -> NotConnected:
        self.failures += 1
        return NotConnected(
            f"the journal cannot be written: {self._journal.directory}: "
            f"{error.strerror or error}; nothing was acknowledged: free space or permissions"
        )
