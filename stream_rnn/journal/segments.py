"""The files of a journal: listed, made, read through once at the start, repaired at the torn end.

    DIR/lock                             flock of the one process that may write
    DIR/durable                          sequence of the newest event that was flushed to disk
    DIR/00000000000000000001.journal     a segment, named after its first event

A *torn tail* is what a killed process or a power cut left behind the last whole record, and was
never flushed: it is cut off. Anything else that cannot be read is *damage*: whole records stand
behind it, or the file `durable` knows that there were more.
"""

from __future__ import annotations

import os
import re
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from stream_rnn.checkpoint.faults import fault
from stream_rnn.checkpoint.files import open_regular, sync_folder
from stream_rnn.journal import records
from stream_rnn.journal.records import Damage, Positions, Segment

_NAME = re.compile(r"(\d{20})\.journal")
_LAYOUT = struct.Struct("<QQ")
_GUARD = 0x5EED_1077_3A12_97C5


@dataclass(slots=True)
class Inventory:
    """What a journal's folder holds, found out without touching it.

    Attributes:
        segments: oldest first.
        newest: sequence of the last whole event, or of the last one known to have been there.
        positions: where the source stood then.
        torn: bytes behind the last whole record that were never flushed.
        tail: what is wrong with them.
        unborn: a segment whose making was interrupted; it never held anything.
        closed: nothing may be appended to the last segment: events are missing at its end.
        damages: places in the last segment that cannot be read.
    """

    segments: list[Segment]
    newest: int = 0
    positions: Positions = field(default_factory=dict)
    torn: int = 0
    tail: Damage | None = None
    unborn: Path | None = None
    closed: bool = False
    damages: list[Damage] = field(default_factory=list)

    @property
    def oldest(self) -> int:
        """Sequence of the first event kept; behind `newest` if there is none."""
        return self.segments[0].first if self.segments else self.newest + 1

    @property
    def size_bytes(self) -> int:
        """Of all segments."""
        return sum(segment.size for segment in self.segments)


def inspect(directory: Path) -> Inventory:
    """Read all heads and the last segment; raises CheckpointError if one cannot be opened."""
    segments = _find(directory)
    durable = read_mark(directory)
    found = Inventory(segments)
    last = segments[-1] if segments else None
    if last is not None and last.unreadable and durable < last.first and not _has_records(last):
        segments.pop()
        found.unborn = last.path
    for segment in reversed(segments):  # the last one, unless nothing of it can be told
        if not segment.unreadable:
            _read_through(segment, found)
            break
        found.damages.append(Damage(segment.path, 0, segment.unreadable, segment.first))
    known = max([durable, found.newest, *(s.first - (not s.unreadable) for s in segments)])
    if known > found.newest:
        found.closed = True
        if not found.damages:
            path, size = (last.path, last.size) if last else (directory, 0)
            lost = Damage(path, size, "events that were there once are missing", found.newest + 1)
            found.damages.append(found.tail or lost)
        found.torn = 0
        found.newest = known
    for damage in found.damages:
        if damage.found <= damage.expected:
            damage.found = known + 1
    return found


def _find(directory: Path) -> list[Segment]:
    found = []
    for path in directory.iterdir() if directory.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match:
            with open_regular(path) as descriptor:
                found.append(records.read_head(path, int(match[1]), descriptor))
    return sorted(found, key=lambda segment: segment.first)


def _has_records(segment: Segment) -> bool:
    with open_regular(segment.path) as descriptor:
        return records.MARK in records.read_at(descriptor, 0, segment.size)


def _read_through(segment: Segment, found: Inventory) -> None:
    found.newest, found.positions = segment.first - 1, dict(segment.positions)
    offset, expected, size = segment.start, segment.first, segment.size
    segment.size = segment.start
    with open_regular(segment.path) as descriptor:
        while True:
            try:
                for each in records.records(segment, descriptor, offset, size, expected):
                    records.stand(found.positions, each)
                    found.newest, segment.size = each.sequence, each.end
                return
            except Damage as damage:
                further = records.next_sound(
                    segment, descriptor, damage.offset, size, damage.expected
                )
                if further is None:
                    found.torn, found.tail = size - segment.size, damage
                    return
                damage.further, damage.found = offset, expected = further
                found.damages.append(damage)


def create(directory: Path, first: int, positions: Mapping[str, int | str]) -> tuple[Segment, int]:
    """A new segment, durable, and its descriptor; raises OSError."""
    path = directory / f"{first:020d}.journal"
    path.unlink(missing_ok=True)  # of an interrupted try: no segment of ours has this name
    salt = secrets.randbits(32)
    data = records.head(first, salt, positions)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        write_at(descriptor, data, 0)
        fault("journal_rotate")
        os.fsync(descriptor)
        sync_folder(directory)
    except BaseException:
        os.close(descriptor)
        raise
    return Segment(path, first, salt, len(data), dict(positions), len(data)), descriptor


def reopen(segment: Segment, size: int) -> int:
    """A descriptor to write behind `size`; what stands behind it is cut off, durably."""
    descriptor = os.open(segment.path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    segment.size = size
    return descriptor


def write_at(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    """All of `data`; raises OSError."""
    view = memoryview(data)
    while view:
        n = os.pwrite(descriptor, view, offset)
        view, offset = view[n:], offset + n


def damages(segments: Sequence[Segment], after: int, newest: int) -> Iterator[Damage]:
    """Read every event behind number `after`, and tell what cannot be read."""
    ends = [(one, other.first) for one, other in pairwise(segments)]
    for segment, stop in [*ends, *((last, newest + 1) for last in segments[-1:])]:
        if stop <= after + 1:
            continue
        offset, expected = segment.start, segment.first
        with open_regular(segment.path) as descriptor:
            while expected < stop:
                try:
                    if segment.unreadable:
                        raise Damage(segment.path, 0, segment.unreadable, expected)
                    for found in records.records(
                        segment, descriptor, offset, segment.size, expected
                    ):
                        expected = found.sequence + 1
                    if expected < stop:
                        raise Damage(segment.path, segment.size, "the file is too short", expected)
                except Damage as damage:
                    look_on(damage, segment, descriptor, stop)
                    offset, expected = damage.further or segment.size, damage.found
                    if expected > after + 1:
                        damage.expected = max(damage.expected, after + 1)
                        yield damage


def look_on(damage: Damage, segment: Segment, descriptor: int, stop: int) -> None:
    """Note in `damage` where reading can go on; `stop`: the event the next segment begins with."""
    further = None
    if not segment.unreadable:
        further = records.next_sound(
            segment, descriptor, damage.offset, segment.size, damage.expected
        )
    damage.further, damage.found = further or (None, stop)


class DurableMark:
    """The sequence of the newest event flushed to disk, in 16 bytes that outlive `kill -9`.

    A power cut may leave it behind the truth, never before it.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        self.value = decode_mark(os.pread(self._descriptor, _LAYOUT.size + 1, 0))

    def set(self, sequence: int) -> None:
        """Note that everything up to `sequence` was flushed."""
        self.value = sequence
        os.pwrite(self._descriptor, _LAYOUT.pack(sequence, sequence ^ _GUARD), 0)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._descriptor)


def read_mark(directory: Path) -> int:
    """The mark in a folder, without holding it; 0 if there is none."""
    path = directory / "durable"
    if not path.exists():
        return 0
    with open_regular(path) as descriptor:
        return decode_mark(os.pread(descriptor, _LAYOUT.size + 1, 0))


def decode_mark(data: bytes) -> int:
    """What the file says; one that is torn or foreign says 0: nothing is known."""
    if len(data) == _LAYOUT.size:
        sequence, guarded = _LAYOUT.unpack(data)
        if guarded == sequence ^ _GUARD:
            return int(sequence)
    return 0
