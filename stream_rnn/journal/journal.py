"""The journal of one process: events appended in groups, flushed, and removed when outlived."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from stream_rnn.checkpoint.faults import fault
from stream_rnn.checkpoint.files import sync_folder
from stream_rnn.checkpoint.owner import take_lock
from stream_rnn.journal import records, segments
from stream_rnn.journal.records import EVENT, POSITIONS, Positions, Segment
from stream_rnn.journal.segments import DurableMark, Inventory
from stream_rnn.spi import Batch

_log = logging.getLogger(__name__)


class Journal:
    """`open`, then `repair`, then `ready`, `add`..., `seal`, `flush`, again and again; `close`.

    Args:
        directory: made if it is not there.
        segment_bytes: a segment larger than this is followed by a new one.

    Attributes:
        newest: sequence of the newest durable event; 0: there never was one.
        positions: where the source stands behind it, for `Source.open` and `Source.ack`.
        segments: oldest first; the last one is written.
        doubles: events not added because they were there.
        on_fsync: told the seconds of each flush to disk.
    """

    def __init__(self, directory: Path, segment_bytes: int) -> None:
        self.directory = directory
        self.newest = 0
        self.positions: Positions = {}
        self.segments: list[Segment] = []
        self.size_bytes = 0
        self.doubles = 0
        self.on_fsync: Callable[[float], None] = lambda seconds: None
        self._segment_bytes = segment_bytes
        self._lock: int | None = None
        self._mark: DurableMark | None = None
        self._descriptor: int | None = None  # of the last segment; None: a new one comes next
        self._torso = False  # bytes of a write that failed stand behind the last segment
        self._group = bytearray()
        self._n = 0  # events in the group
        self._after: Positions | None = None  # `positions` once the group is durable

    @property
    def oldest(self) -> int:
        """Sequence of the first event kept; behind `newest` if there is none."""
        return self.segments[0].first if self.segments else self.newest + 1

    @property
    def pending(self) -> int:
        """Bytes of the group that is not durable yet."""
        return len(self._group)

    def open(self) -> Inventory:
        """Take the folder and look what is in it; repairs nothing.

        Raises:
            StateLocked: another process writes there.
            CheckpointError, OSError: it cannot be made or read.
        """
        if not self.directory.is_dir():
            self.directory.mkdir(mode=0o700, parents=True)
            sync_folder(self.directory.parent)
        self._lock = take_lock(self.directory, wait_s=0.0)
        self._mark = DurableMark(self.directory / "durable")
        found = segments.inspect(self.directory)
        self.segments, self.newest, self.positions = found.segments, found.newest, found.positions
        self.size_bytes = found.size_bytes
        return found

    def repair(self, found: Inventory) -> None:
        """Cut off what a killed process left behind, and make ready to append; raises OSError."""
        if found.unborn is not None:
            found.unborn.unlink()
            _log.info("%s: removed; its making was interrupted", found.unborn)
        if not self.segments or found.closed:
            return
        last = self.segments[-1]
        if found.torn:
            _log.warning(
                "%s: %d bytes behind event %d were never flushed to disk: cut off at byte %d",
                last.path,
                found.torn,
                self.newest,
                last.size,
            )
        self._descriptor = segments.reopen(last, last.size)

    def begin_at(self, sequence: int, positions: Positions) -> None:
        """Number what comes next behind `sequence`, from where the source stands; kept events stay.

        Raises OSError.
        """
        while self.segments and self.segments[-1].first > self.newest:  # an empty one
            self.segments.pop().path.unlink()
        self._let_go()
        self.newest, self.positions = sequence, positions
        self.size_bytes = sum(segment.size for segment in self.segments)

    def ready(self) -> None:
        """Make room: cut off the torso of a failed write, begin a new segment; raises OSError."""
        if self._torso:
            assert self._descriptor is not None
            os.ftruncate(self._descriptor, self.segments[-1].size)
            self._torso = False
        if self._descriptor is not None:
            last = self.segments[-1]
            if last.size < self._segment_bytes or last.first > self.newest or self._group:
                return
        segment, descriptor = segments.create(self.directory, self.newest + 1, self.positions)
        self._let_go()
        self._descriptor = descriptor
        self.segments = [*self.segments, segment]  # a scrape may be walking over the old one
        self.size_bytes += segment.size

    def add(self, batch: Batch) -> int:
        """Put a batch into the group; returns how many of its events were not there yet."""
        if self._after is None:
            self._after = dict(self.positions)
        before, after, salt = self._n, self._after, self.segments[-1].salt
        for event in batch.events:
            last = after.get(event.partition)
            if last is not None and not last < event.position:  # type: ignore[operator]
                self.doubles += 1
                continue
            self._n += 1
            sequence = self.newest + self._n
            self._group += records.record(EVENT, sequence, records.event_body(event), salt)
            after[event.partition] = event.position
        return self._n - before

    def seal(self, resume: Positions) -> None:
        """The group is whole; `resume` is where the source says it stands behind it."""
        after = {} if self._after is None else self._after
        # A source that delivers again what is here stands further back than we do.
        stands = {p: _later(position, after.get(p)) for p, position in resume.items()}
        if stands != after and self._n:
            body = records.positions_body(stands)
            sequence = self.newest + self._n
            self._group += records.record(POSITIONS, sequence, body, self.segments[-1].salt)
            self._after = stands

    def flush(self) -> None:
        """Write the group and wait for the disk; raises OSError, and may be tried again."""
        assert self._descriptor is not None
        last = self.segments[-1]
        fault("journal_append")
        self._torso = True
        segments.write_at(self._descriptor, self._group, last.size)
        fault("journal_before_fsync")
        start = time.perf_counter()
        os.fsync(self._descriptor)
        self.on_fsync(time.perf_counter() - start)
        self._torso = False
        last.size += len(self._group)
        self.size_bytes += len(self._group)
        self.newest += self._n
        if self._after is not None:
            self.positions = self._after
        self._group, self._n, self._after = bytearray(), 0, None
        assert self._mark is not None
        self._mark.set(self.newest)

    def forget(self, upto: int) -> None:
        """Remove the segments that hold no event behind `upto`."""
        while len(self.segments) > 1 and self.segments[1].first <= upto + 1:
            oldest = self.segments[0]
            try:
                oldest.path.unlink()
                sync_folder(self.directory)
            except OSError as error:
                _log.warning("%s: not removed: %s; tried again later", oldest.path, error)
                return
            self.segments = self.segments[1:]
            self.size_bytes -= oldest.size

    def close(self) -> None:
        """Let the folder go. May be called twice."""
        self._let_go()
        if self._mark is not None:
            self._mark.close()
            self._mark = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _later(one: int | str, other: int | str | None) -> int | str:
    return one if other is None or other < one else other  # type: ignore[operator]
