"""A source behind a journal: written down, flushed, acknowledged, and only then learned.

What is handed out is read from the journal, live and after a crash alike: its position is the
journal's own sequence. A crash at any place repeats work and loses nothing that was written down.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from typing_extensions import override

from stream_rnn.checkpoint.files import CheckpointError
from stream_rnn.journal import resuming, segments
from stream_rnn.journal.intake import Intake
from stream_rnn.journal.journal import Journal
from stream_rnn.journal.reading import Reader
from stream_rnn.journal.records import PARTITION, Damage
from stream_rnn.journal.resuming import OnDamage, OnGap
from stream_rnn.journal.segments import Inventory
from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Finding,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    SettingError,
    Source,
    worded,
)

_log = logging.getLogger(__name__)

AHEAD = 4  # polls' worth of events written down per poll while others wait to be learned
FULL_WAIT_S = 0.02
AGAIN_S = 5.0  # between two tries to reach the source while there is something to learn
PRESSED = 0.75  # of `max_bytes`: from here on a snapshot is asked for, to make room
BEFORE = {
    Guarantee.REPLAYABLE: "the source can rewind by itself: it needs no journal",
    Guarantee.ACKABLE: "before the journal at least once: what was not acknowledged comes again, "
    "and is known by its position if the source numbers it as before",
    Guarantee.FIRE_AND_FORGET: "before the journal at most once: what was received and is not "
    "written down yet is lost at a crash, like all that is lost on the way",
}


class JournaledSource(Source):
    """Any source, made replayable from the journal on.

    Args:
        source: the one behind the journal.
        directory: of the journal; one process at a time.
        fsync_every: events flushed to disk together, at most.
        fsync_ms: milliseconds that they wait for more, at most, counted from the first.
        segment_bytes: a file larger than this is followed by a new one.
        max_bytes: of the journal. Beyond it the source is not polled until a snapshot frees room.
        keep: the events behind that many of the newest snapshots stay.
        on_damage: whether what cannot be read is refused or skipped.
        on_gap: what to do when events behind the snapshot are gone.
        clock: seconds, monotonic.
    """

    guarantee = Guarantee.REPLAYABLE
    can_preview = False  # what is polled is written

    def __init__(
        self,
        source: Source,
        directory: Path,
        *,
        fsync_every: int = 100,
        fsync_ms: float = 20.0,
        segment_bytes: int = 64 << 20,
        max_bytes: int = 1 << 30,
        keep: int = 3,
        on_damage: OnDamage = "refuse",
        on_gap: OnGap = "refuse",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.inner = source
        self.directory = directory
        self._max_bytes = max_bytes
        self._on_damage = on_damage
        self._on_gap = on_gap
        self._clock = clock
        self._ahead = 0 if source.guarantee is Guarantee.REPLAYABLE else AHEAD
        self._fsync_every = fsync_every
        self._journal = Journal(directory, segment_bytes)
        self._intake = Intake(source, self._journal, fsync_every, fsync_ms / 1000, clock)
        self._reader = Reader(self._journal)
        # of the newest snapshots, oldest first: of which step, up to which event
        self._acks: deque[tuple[int | None, int]] = deque(maxlen=keep)
        # set by the composition: the step of the snapshot that is acknowledged
        self.saved_step: Callable[[], int | None] = lambda: None
        self._is_open = False
        self._first = 0  # reading begins behind this, whatever older position comes
        self._acked = 0  # newest event known to be in a durable snapshot
        self._again_at = 0.0
        self._full = False
        self._counters = {
            "journal_torn_tails": 0,
            "journal_events_skipped": 0,
            "journal_gap_events": 0,
        }

    @property
    def size_bytes(self) -> int:
        """Of the files. Any thread."""
        return self._journal.size_bytes

    @property
    def n_segments(self) -> int:
        """Files. Any thread."""
        return len(self._journal.segments)

    @property
    def backlog(self) -> int:
        """Events written down and not handed out. Any thread."""
        return max(0, self._reader.left)

    def on_fsync(self, tell: Callable[[float], None]) -> None:
        """Have the seconds of each flush to disk told."""
        self._journal.on_fsync = tell

    @override
    def open(self, resume: Position | None) -> None:
        if not self._is_open:
            self._begin(resume)
        wanted = (resume or {}).get(PARTITION, 0)
        try:
            self._reader.seek(max(int(wanted), self._first))
        except OSError as error:
            raise _unreadable(error) from error
        try:
            self._intake.connect()
        except NotConnected as error:
            if not self._reader.left:
                raise
            self._postpone(error)

    def _begin(self, resume: Position | None) -> None:
        """Take the folder, refuse what cannot be honored, repair the rest."""
        journal = self._journal
        try:
            found = journal.open()
            begin = self._start(found, resume)
            journal.repair(found)
            if begin.anew is not None:
                journal.begin_at(begin.after, begin.anew)
        except (CheckpointError, OSError) as error:
            journal.close()
            text = str(error).replace("its own [state] directory", "a folder of its own")
            raise SettingError(f"dir = {str(self.directory)!r}: {text}") from error
        except BaseException:
            journal.close()
            raise
        self._first = self._acked = begin.after
        self._counters["journal_torn_tails"] += found.torn > 0
        self._counters["journal_gap_events"] += begin.gap
        if begin.gap:
            _log.warning("%s: %d events are passed over (on_gap)", self.directory, begin.gap)
        self._is_open = True

    def _start(self, found: Inventory, resume: Position | None) -> resuming.Start:
        rewinds = self.inner.guarantee is Guarantee.REPLAYABLE
        begin = resuming.start(self.directory, found, resume, self._on_gap, rewinds)
        damaged = resuming.damage(found, begin.after)
        if damaged and self._on_damage == "refuse":
            raise resuming.refusal(damaged)
        for damage in damaged:
            _log.warning("%s: %d events cannot be read (on_damage)", damage, damage.lost)
        return begin

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if not self._is_open:
            raise NotConnected(f"the journal {self.directory} is not open")
        if self._is_full():
            if not self._reader.left:
                time.sleep(min(timeout_s, FULL_WAIT_S))
        elif not self._reader.left or (self._ahead and self._clock() >= self._again_at):
            most = max(self._ahead, 1) * max_events  # what waits is safe only once it is here
            try:
                self._intake.take(
                    max(most, self._fsync_every), 0.0 if self._reader.left else timeout_s
                )
            except NotConnected as error:
                if not self._reader.left:
                    raise
                self._postpone(error)
        events = self._read(max_events)
        if not events and self._intake.ended and not self._reader.left:
            raise EndOfStream("the source behind the journal has ended")
        after = self._reader.next - 1
        return Batch(events, {PARTITION: after} if after else {})

    def _read(self, max_events: int) -> list[Event]:
        while True:
            try:
                return self._reader.read(max_events)
            except OSError as error:
                raise _unreadable(error) from error
            except Damage as damage:
                if self._on_damage == "refuse":
                    raise resuming.refusal([damage]) from damage
                _log.warning("%s: %d events skipped (on_damage)", damage, damage.lost)
                self._counters["journal_events_skipped"] += damage.lost
                self._reader.skip(damage)

    def _postpone(self, error: NotConnected) -> None:
        """There is something to learn meanwhile."""
        _log.warning("%s; %d events wait in the journal meanwhile", error, self._reader.left)
        self._again_at = self._clock() + AGAIN_S

    def _is_full(self) -> bool:
        """Whether only a snapshot can make room; told once, and once again when there is."""
        # With everything in a snapshot already, waiting for the next one would be for ever.
        full = self._journal.size_bytes >= self._max_bytes and not self._all_is_acked()
        if full != self._full:
            self._full = full
            _log.warning(
                "%s: %s (%d of max_bytes = %d)",
                self.directory,
                "full: the source waits for a snapshot" if full else "there is room again",
                self._journal.size_bytes,
                self._max_bytes,
            )
        return full

    def _all_is_acked(self) -> bool:
        return self._acked >= self._journal.newest

    @override
    def wants_snapshot(self) -> bool:
        return self._is_pressed() and not self._all_is_acked()

    def _is_pressed(self) -> bool:
        return self._journal.size_bytes >= PRESSED * self._max_bytes

    @override
    def ack(self, resume: Position) -> None:
        applied = resume.get(PARTITION)
        if not isinstance(applied, int):
            return
        self._acked = applied
        step = self.saved_step()
        # A step saved again takes the place of its former snapshot, and the older ones stay. Where
        # all is refused no step ever comes: then the bound of the disk counts for more.
        if step is not None and self._acks and self._acks[-1][0] == step and not self._is_pressed():
            self._acks.pop()
        self._acks.append((step, applied))
        if len(self._acks) == self._acks.maxlen:
            self._journal.forget(self._acks[0][1])

    @override
    def lag(self) -> Lag | None:
        behind = self.inner.lag()
        left = self.backlog
        if not left:
            return behind
        known = 0 if behind is None or behind.events is None else behind.events
        return Lag(events=left + known)  # at least

    @override
    def counters(self) -> Mapping[str, int]:
        return {
            **self.inner.counters(),
            **self._counters,
            "journal_doubles": self._journal.doubles,
            "journal_write_failures": self._intake.failures,
        }

    @override
    def describe(self) -> str:
        return f"{self.inner.describe()}, through the journal {self.directory}"

    def promise(self) -> str:
        """What holds before the journal."""
        return BEFORE[self.inner.guarantee]

    @override
    def check(self, resume: Position | None) -> list[Finding]:
        try:
            found = segments.inspect(self.directory)
            begin = self._start(found, resume)
        except (CheckpointError, OSError, SettingError) as error:
            return [Finding(False, f"journal: {error}"), *self.inner.check(None)]
        told = f"journal {self.directory}: new"
        if found.segments:
            n, again = len(found.segments), found.newest - begin.after
            which = worded(
                again, "event is in no snapshot and comes", "events are in no snapshot and come"
            )
            told = (
                f"journal {self.directory}: {found.size_bytes / 1e6:.3g} MB in {n} "
                f"{worded(n, 'file')}; {again} {which} again from it"
            )
        stands = begin.anew if begin.anew is not None else found.positions
        return [Finding(True, told), *self.inner.check(stands or None)]

    def rehearse(self, resume: Position | None) -> None:
        """Open the source alone, where the journal ends; touches no file. Raises as `open` does."""
        try:
            found = segments.inspect(self.directory)
        except (CheckpointError, OSError) as error:
            raise SettingError(f"dir = {str(self.directory)!r}: {error}") from error
        begin = self._start(found, resume)
        stands = begin.anew if begin.anew is not None else found.positions
        self.inner.open(dict(stands) or None)

    @override
    def close(self) -> None:
        self._is_open = self._intake.connected = False
        self._reader.close()
        self._journal.close()
        self.inner.close()


def _unreadable(error: OSError) -> NotConnected:
    return NotConnected(f"the journal cannot be read: {error}")
