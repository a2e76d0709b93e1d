"""The format of a segment of the journal: its head, its records, and what is no record.

    segment  MAGIC | length, checksum | head: first sequence, salt, positions of the source
    record   marker | length of the body | sequence | checksum of these | checksum of body | body

Checksums are CRC-32, little endian, and start from the segment's secret salt: no payload can look
like a record, and a record cannot be taken for one of another segment. The first one lets a damaged
body be told from a damaged length, which would lead anywhere.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from stream_rnn.spi import Event

MAGIC = b"SRNNJL01"
PARTITION = "journal"
MARK = b"\xf5Jr"
EVENT = MARK + b"E"
POSITIONS = MARK + b"P"  # where the source stands, if that does not follow from the events
OVERHEAD = 24  # bytes of a record besides its body
CHUNK = 1 << 18

_HEAD_SIZES = struct.Struct("<II")
_RECORD = struct.Struct("<4sIQ")
_CHECKSUM = struct.Struct("<I")

Positions = dict[str, int | str]


class Damage(Exception):
    """What is no whole record stands where one should.

    Attributes:
        path, offset: where.
        reason: what is wrong with it.
        expected: the sequence of the event that should stand there.
        found: the sequence of the next event that can be read, or will be written.
        further: where that one stands in the same file; None: it does not.
    """

    def __init__(self, path: Path, offset: int, reason: str, expected: int) -> None:
        super().__init__(f"{path} at byte {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason
        self.expected = expected
        self.found = expected
        self.further: int | None = None

    @property
    def lost(self) -> int:
        """How many events cannot be read there."""
        return self.found - self.expected


@dataclass(slots=True)
class Segment:
    """One file of the journal.

    Attributes:
        path: where it is.
        first: sequence of its first event.
        salt: what its checksums start from.
        start: offset of its first record.
        positions: where the source stood before its first event.
        size: bytes of whole, durable records, head included.
        unreadable: what is wrong with its head; "" if nothing is.
    """

    path: Path
    first: int
    salt: int = 0
    start: int = 0
    positions: Positions = field(default_factory=dict)
    size: int = 0
    unreadable: str = ""


class Found(NamedTuple):
    """One record: its kind, sequence and body, and the offset behind it."""

    kind: bytes
    sequence: int
    body: memoryview
    end: int


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    first: int
    salt: int
    positions: dict[str, int | str]


_decode = msgspec.msgpack.Decoder().decode
_heads = msgspec.msgpack.Decoder(_Head)
_encode = msgspec.msgpack.Encoder().encode


def head(first: int, salt: int, positions: Mapping[str, int | str]) -> bytes:
    """The bytes a segment begins with."""
    body = _encode(_Head(first, salt, dict(positions)))
    return MAGIC + _HEAD_SIZES.pack(len(body), crc32(body)) + body


def read_head(path: Path, first: int, descriptor: int) -> Segment:
    """The segment in a file named after `first`; `unreadable` says what is wrong with its head."""
    size = os.fstat(descriptor).st_size
    segment = Segment(path, first, size=size)
    fixed = len(MAGIC) + _HEAD_SIZES.size
    data = read_at(descriptor, 0, fixed)
    if len(data) < fixed or not data.startswith(MAGIC):
        segment.unreadable = "its head is torn or none of ours"
        return segment
    length, checksum = _HEAD_SIZES.unpack_from(data, len(MAGIC))
    body = read_at(descriptor, fixed, min(length, size))
    if len(body) < length or crc32(body) != checksum:
        segment.unreadable = "the checksum of its head is wrong"
        return segment
    try:
        found = _heads.decode(body)
    except msgspec.MsgspecError as error:
        segment.unreadable = f"its head cannot be decoded: {error}"
        return segment
    if found.first != first:
        segment.unreadable = f"its head says that it begins with event {found.first}"
        return segment
    segment.salt, segment.positions = found.salt, found.positions
    segment.start = fixed + length
    return segment


def record(kind: bytes, sequence: int, body: bytes, salt: int) -> bytes:
    """The bytes of one record."""
    start = _RECORD.pack(kind, len(body), sequence)
    checksum = crc32(start, salt)
    return b"%b%b%b%b" % (
        start,
        _CHECKSUM.pack(checksum),
        _CHECKSUM.pack(crc32(body, checksum)),
        body,
    )


def event_body(event: Event) -> bytes:
    """An event as kept; what is no Unicode in its texts is spelled with backslashes."""
    fields = (event.partition, event.position, event.data, event.key, event.timestamp)
    try:
        return _encode((*fields, dict(event.headers)))
    except UnicodeEncodeError:
        safe = [_sound(each) for each in fields]
        return _encode((*safe, {_sound(k): _sound(v) for k, v in event.headers.items()}))


def positions_body(positions: Mapping[str, int | str]) -> bytes:
    """Where the source stands."""
    return _encode(dict(positions))


def event_of(sequence: int, body: memoryview) -> Event:
    """What `event_body` wrote, as the journal hands it out: under its number."""
    partition, position, data, key, timestamp, headers = _decode(body)
    headers["origin_partition"] = partition
    headers["origin_position"] = str(position)
    return Event(PARTITION, sequence, data, key, timestamp, headers)


def stand(positions: Positions, found: Found) -> None:
    """Bring up to date where the source stood behind a record."""
    content = _decode(found.body)
    if found.kind == EVENT:
        positions[content[0]] = content[1]
    else:
        positions.clear()
        positions.update(content)


def _sound(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def records(
    segment: Segment, descriptor: int, offset: int, end: int, expected: int
) -> Iterator[Found]:
    """The records in [offset, end); the first event must be number `expected`, and so on.

    Raises:
        Damage: at the first byte that does not begin a whole, sound record.
    """
    buffer, at = b"", 0
    while offset < end:
        if len(buffer) - at < OVERHEAD:
            buffer, at = read_at(descriptor, offset, min(CHUNK, end - offset)), 0
        found = _parse(buffer, at, end - offset, segment.salt)
        if found is None:  # sound so far, and longer than what was read
            _, length, _ = _RECORD.unpack_from(buffer, at)
            buffer, at = read_at(descriptor, offset, min(OVERHEAD + length, end - offset)), 0
            found = _parse(buffer, at, end - offset, segment.salt)
        if not isinstance(found, Found):
            reason = found or "the file became shorter while it was read"
            raise Damage(segment.path, offset, reason, expected)
        if found.sequence != expected - (found.kind == POSITIONS):
            reason = f"record {found.sequence} stands where {expected} should"
            raise Damage(segment.path, offset, reason, expected)
        expected = found.sequence + 1
        offset += found.end - at
        at = found.end
        yield Found(found.kind, found.sequence, found.body, offset)


def _parse(buffer: bytes, at: int, room: int, salt: int) -> Found | str | None:
    """The record at `at`; what is wrong with it; or None if the buffer ends inside it."""
    if room < OVERHEAD or len(buffer) - at < OVERHEAD:
        return "the file ends inside a record"
    kind, length, sequence = _RECORD.unpack_from(buffer, at)
    (head_sum,) = _CHECKSUM.unpack_from(buffer, at + 16)
    if kind not in (EVENT, POSITIONS):
        return "no record begins here"
    if crc32(memoryview(buffer)[at : at + 16], salt) != head_sum:
        return "the checksum of a record's head is wrong"
    if length > room - OVERHEAD:
        return "the file ends inside a record"
    end = at + OVERHEAD + length
    if end > len(buffer):
        return None
    (body_sum,) = _CHECKSUM.unpack_from(buffer, at + 20)
    body = memoryview(buffer)[at + OVERHEAD : end]
    if crc32(body, head_sum) != body_sum:
        return "the checksum of a record's body is wrong"
    return Found(kind, sequence, body, end)


def next_sound(
    segment: Segment, descriptor: int, offset: int, end: int, expected: int
) -> tuple[int, int] | None:
    """Offset and sequence of the next whole event behind a damaged place; None: there is none."""
    offset += 1
    while offset < end:
        buffer = read_at(descriptor, offset, min(CHUNK, end - offset))
        at = buffer.find(MARK)
        while at >= 0 and len(buffer) - at >= OVERHEAD:
            found = _parse(buffer, at, end - offset - at, segment.salt)
            if found is None:
                _, length, _ = _RECORD.unpack_from(buffer, at)
                whole = read_at(descriptor, offset + at, OVERHEAD + length)
                found = _parse(whole, 0, end - offset - at, segment.salt)
            if isinstance(found, Found) and found.kind == EVENT and found.sequence >= expected:
                return offset + at, found.sequence
            at = buffer.find(MARK, at + 1)
        if len(buffer) < CHUNK:
            return None
        offset += len(buffer) - OVERHEAD  # a record's head may lie across two chunks
    return None


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes; fewer only at the end of the file."""
    data = os.pread(descriptor, size, offset)
    while 0 < len(data) < size:
        more = os.pread(descriptor, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data
