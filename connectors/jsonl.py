"""Lines of a file: a source that survives rotation and truncation, and a sink that rotates.

Longer than most: the two halves of one file format belong together, and every branch of the source
is one way in which a log file can be taken away from under its reader.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from typing_extensions import override

from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Finding,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    Record,
    SettingError,
    Sink,
    Source,
    worded,
)

log = logging.getLogger(__name__)

_BLOCK_BYTES = 256 * 1024
_HEAD_BYTES = 256
_IDLE_S = 0.05  # how often a followed file is looked at; a stat costs microseconds
_KNOWN_FILES = 1000  # rotated files remembered, to tell a second file with the same first line
_NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in some file, as a resume position spells it."""

    digest: str
    generation: int
    offset: int


class JsonlSource(Source):
    """One event per line of a file; empty lines are skipped. Positions are byte offsets.

    A position is the offset of the END of the line, so that resuming is a seek. The partition names
    the file's content: base name and a hash of the first line (at most 256 bytes), with a counter
    behind it when another file with the same first line follows. Files that always begin with the
    same line, e.g. a header, can be told apart by their size and line ends only.

    With `follow` the source behaves like `tail -F`: an unfinished last line waits; a rotated file
    is read to its end before the new one begins; a truncated file starts again as a new partition.
    After a restart the rest of a file rotated away meanwhile is looked for at `path.1`. If it is
    not there either, or the file was truncated below the position, there is a gap.

    Args:
        path: the file.
        follow: wait for more at the end, and follow rotation; otherwise the stream ends there.
        on_gap: what to do at a restart when what comes next is gone: "refuse" to start, go on with
            the "earliest" line of the file that is there now, or after its "latest"; counted as
            `gaps`.
        max_line_bytes: a longer line is delivered cut to this many bytes (so it fails to decode and
            is dead-lettered), counted as `long_lines`; the rest of it is skipped.
    """

    guarantee = Guarantee.REPLAYABLE

    def __init__(
        self,
        path: str,
        follow: bool = False,
        max_line_bytes: int = 16 * 1024 * 1024,
        on_gap: Literal["refuse", "earliest", "latest"] = "refuse",
    ) -> None:
        if on_gap not in ("refuse", "earliest", "latest"):
            raise SettingError(f'on_gap: expected "refuse", "earliest" or "latest", got {on_gap!r}')
        if not path:
            raise SettingError("path: expected the name of a file, got ''")
        if max_line_bytes < 1:
            raise SettingError(f"max_line_bytes: must be at least 1, got {max_line_bytes}")
        self._path = Path(path)
        self._old_path = Path(f"{path}.1")
        self._follow = follow
        self._limit = max_line_bytes
        self._on_gap = on_gap
        self._counters = {"rotations": 0, "truncations": 0, "long_lines": 0, "gaps": 0}
        self._generations: OrderedDict[str, int] = OrderedDict()
        self._file: io.FileIO | None = None
        self._resume: Position = {}
        self._read_events = self._read_bytes = 0  # since it was made: how long a line is
        self._clear()

    def _clear(self) -> None:
        """Forget everything about the file read so far, as if its first byte came next."""
        self._partition: str | None = None  # None until the first line, hence the name, is known
        self._head = b""
        self._read_at = 0
        self._tail = b""  # the unfinished last line ...
        self._dropped = 0  # ... and how much of it was beyond the limit
        self._pending: list[Event] = []
        self._cursor = 0
        self._at_end = False
        self._is_old = False

    # ------------------------------------------------------------------ opening

    @override
    def open(self, resume: Position | None) -> None:
        self.close()
        self._clear()
        self._resume = dict(resume or {})
        known = self._known(self._resume)
        for place in known:
            self._remember(place.digest, place.generation)
        current = self._file = _open_file(self._path)
        if known and current is not None and self._resume_in(current, known):
            return
        old = _open_file(self._old_path) if known else None
        if old is not None and self._resume_in(old, known):
            if current is not None:
                current.close()
            self._file, self._is_old = old, True
            log.info("%s was rotated; reading the rest of %s first", self._path, self._old_path)
            return
        if old is not None:
            old.close()
        if current is None and self._follow:
            raise NotConnected(f"{self._path} does not exist yet")
        if current is None:
            raise SettingError(f"path: there is no file {self._path}; correct it or set follow")
        if known:
            self._gap(current, known)
        elif resume:
            log.warning(
                "%s: no part of the resume position %s is about this file; "
                "starting at its beginning",
                self._path,
                sorted(resume),
            )

    def _known(self, resume: Position) -> list[_Place]:
        pattern = re.compile(re.escape(self._path.name) + r":([0-9a-f]{12})(?:\.(\d+))?")
        places = [
            _Place(match[1], int(match[2] or 0), offset)
            for partition, offset in resume.items()
            if (match := pattern.fullmatch(partition)) and isinstance(offset, int)
        ]
        return sorted(places, key=lambda place: -place.generation)

    def _resume_in(self, file: io.FileIO, known: list[_Place]) -> bool:
        """Stand at a known place if `file` is the one that it is about."""
        head = _head(file, is_final=not self._follow)
        for place in known:
            if head is not None and _digest(head) == place.digest and _fits(file, place.offset):
                self._name(head, place.generation)
                self._read_at = place.offset
                return True
        return False

    def _gap(self, file: io.FileIO, known: list[_Place]) -> None:
        """What comes after the newest known place is gone: refuse, or go on as asked."""
        what = self._what_is_gone(file, known)
        if self._on_gap == "refuse":
            raise SettingError(
                f"path: {what}; put the file back, or go on without what is gone: "
                'on_gap = "earliest" (from the first line there is now) or "latest" (from the next '
                "line on), or start over with --fresh"
            )
        self._counters["gaps"] += 1
        if self._on_gap == "latest":
            self._skip_to_end(file)
        log.warning("%s; going on at byte %d (on_gap)", what, self._read_at)

    def _what_is_gone(self, file: io.FileIO, known: list[_Place]) -> str:
        size = os.fstat(file.fileno()).st_size
        head = _head(file, is_final=True)
        for place in known:
            if head is not None and _digest(head) == place.digest and size < place.offset:
                return (
                    f"{self._path} holds {size} bytes, but was read up to byte {place.offset} "
                    f"already: it was truncated, {place.offset - size} bytes that were read are "
                    f"gone, and its rest is not at {self._old_path}"
                )
        newest = known[0]
        return (
            f"{self._path} ({size} bytes, none of them read) is another file than the one that was "
            f"read up to byte {newest.offset}, whose rest is not at {self._old_path}: what came "
            f"behind that byte is gone, and nobody knows how many bytes; these {size} are new"
        )

    def _skip_to_end(self, file: io.FileIO) -> None:
        """Stand behind the last whole line; a file without one is read from its beginning."""
        end = _whole_lines_bytes(file, os.fstat(file.fileno()).st_size)
        if end and self._identify(is_final=True):
            assert self._partition is not None
            self._read_at = end
            self._resume = {self._partition: end}  # or a restart before the next line skips it too

    def _name(self, head: bytes, generation: int) -> None:
        digest = _digest(head)
        self._head = head
        self._remember(digest, generation)
        suffix = f".{generation}" if generation else ""
        self._partition = f"{self._path.name}:{digest}{suffix}"

    def _remember(self, digest: str, generation: int) -> None:
        self._generations[digest] = max(generation, self._generations.pop(digest, 0))
        if len(self._generations) > _KNOWN_FILES:
            self._generations.popitem(last=False)

    def _identify(self, is_final: bool) -> bool:
        """Name a new file as soon as its first line is complete (or nothing more will come)."""
        if self._partition is None and self._file is not None:
            head = _head(self._file, is_final)
            if head is None:
                return False
            self._name(head, self._generations.get(_digest(head), -1) + 1)
        return True

    # ------------------------------------------------------------------ reading

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self._file is None:
            raise NotConnected(f"{self._path} is not open")
        deadline = time.monotonic() + timeout_s
        while self._cursor >= len(self._pending):
            self._pending.clear()
            self._cursor = 0
            try:
                progressed = self._advance(self._file)
            except OSError as error:
                raise NotConnected(f"cannot read {self._path}: {error}") from error
            left_s = deadline - time.monotonic()
            if not self._pending and left_s <= 0:
                return Batch((), self._resume)
            if not progressed:
                time.sleep(min(_IDLE_S, left_s))
        events = self._pending[self._cursor : self._cursor + max_events]
        self._cursor += len(events)
        self._resume = {events[-1].partition: events[-1].position}
        return Batch(events, self._resume)

    def _advance(self, file: io.FileIO) -> bool:
        """Read one block, or find out why there is none; False = nothing new now."""
        if self._identify(is_final=not self._follow):
            # The file may have been truncated and have grown again while nobody looked.
            if self._at_end and os.pread(file.fileno(), len(self._head), 0) != self._head:
                return self._truncated(file)
            # Growing with the tail keeps the work linear in the length of a long line.
            if self._parse(os.pread(file.fileno(), self._block_bytes(), self._read_at)):
                return True
        self._at_end = True
        if self._follow:
            if os.fstat(file.fileno()).st_size < self._read_at:
                return self._truncated(file)
            return self._rotated(file)
        if self._tail:
            self._finish_tail()
        elif self._is_old and (current := _open_file(self._path)) is not None:
            self._switch(current)
        else:
            raise EndOfStream(f"end of {self._path}")
        return True

    def _block_bytes(self) -> int:
        return max(_BLOCK_BYTES, len(self._tail))

    def _parse(self, block: bytes) -> bool:
        """Turn `block` into the events that it completes; False if it is empty."""
        if not block:
            return False
        assert self._partition is not None
        position = self._read_at - len(self._tail) - self._dropped
        self._read_at += len(block)
        self._read_bytes += len(block)
        self._at_end = False
        waiting = len(self._pending)
        if self._dropped:
            rest, newline, block = block.partition(b"\n")
            self._dropped += len(rest)
            if not newline:
                return True
            position += len(self._tail) + self._dropped + 1
            self._append(position, self._tail, is_long=True)
            self._tail, self._dropped = b"", 0
        *lines, tail = (self._tail + block).split(b"\n")
        partition, append, limit = self._partition, self._pending.append, self._limit
        for line in lines:
            position += len(line) + 1
            if not line or line.isspace():
                continue
            if len(line) > limit:
                self._append(position, line[:limit], is_long=True)
            else:
                append(Event(partition, position, line, None, None, _NO_HEADERS))
        self._tail, self._dropped = tail[:limit], max(0, len(tail) - limit)
        self._read_events += len(self._pending) - waiting
        return True

    def _append(self, position: int, data: bytes, is_long: bool) -> None:
        assert self._partition is not None
        self._counters["long_lines"] += is_long
        self._pending.append(Event(self._partition, position, data, None, None, _NO_HEADERS))

    def _finish_tail(self) -> None:
        """Deliver an unfinished last line of which no more will come."""
        if self._tail and not self._tail.isspace():
            self._append(self._read_at, self._tail, is_long=self._dropped > 0)
        self._tail, self._dropped = b"", 0

    def _rotated(self, file: io.FileIO) -> bool:
        """Go on to another file that now stands at the path, once its first line is there.

        A writer that has begun the new file has finished the old one, so that one more look at the
        old file's end is enough.
        """
        current = _open_file(self._path)
        if current is None or _same(current, file) or _head(current, is_final=False) is None:
            if current is not None:
                current.close()
            return False
        if self._identify(is_final=True) and self._parse(
            os.pread(file.fileno(), self._block_bytes(), self._read_at)
        ):
            current.close()
            return True
        self._finish_tail()
        self._switch(current)
        return True

    def _switch(self, current: io.FileIO) -> None:
        """Read `current` from its beginning, behind the events that still wait."""
        if self._file is not None:
            self._file.close()
        pending = self._pending
        self._clear()
        self._file, self._pending = current, pending
        self._counters["rotations"] += 1
        log.info("%s was rotated; reading the new file", self._path)

    def _truncated(self, file: io.FileIO) -> bool:
        """Go on in the copy that copytruncate left behind, or else at the beginning."""
        self._counters["truncations"] += 1
        copy = _open_file(self._old_path)
        if copy is not None and not _same(copy, file):
            is_copy = os.pread(copy.fileno(), len(self._head), 0) == self._head
            if is_copy and os.fstat(copy.fileno()).st_size >= self._read_at:
                log.info("%s was truncated; reading the rest of its copy first", self._path)
                file.close()
                self._file, self._at_end, self._is_old = copy, False, True
                return True
        if copy is not None:
            copy.close()
        log.warning("%s was truncated; starting at its beginning", self._path)
        self._finish_tail()
        pending = self._pending
        self._clear()
        self._pending = pending
        return True

    # ------------------------------------------------------------------ the rest of the contract

    @override
    def lag(self) -> Lag | None:
        """Exact at the end; before it what the bytes left are in lines as long as those read.

        Unknown before the first line.
        """
        waiting = len(self._pending) - self._cursor
        if self._at_end and not self._tail:
            return Lag(events=waiting)
        if self._file is None or not self._read_events:
            return None
        tail = len(self._tail) + self._dropped
        ahead = os.fstat(self._file.fileno()).st_size - self._read_at + tail
        lines = max(0, ahead) * self._read_events / (self._read_bytes - tail)
        return Lag(events=waiting + round(lines))

    @override
    def check(self, resume: Position | None) -> list[Finding]:
        try:
            size = self._path.stat().st_size
        except OSError as error:
            if self._follow and isinstance(error, FileNotFoundError):
                return [Finding(True, f"{self._path} may come later: a run waits for it")]
            return [Finding(self._follow, f"{self._path} cannot be read now: {error.strerror}")]
        findings = [Finding(True, f"{self._path} holds {size} {worded(size, 'byte')}")]
        for place in self._known(resume or {}):
            text = f"the resume position is byte {place.offset} of {size}"
            findings.append(Finding(place.offset <= size or self._old_path.exists(), text))
        return findings

    @override
    def counters(self) -> Mapping[str, int]:
        return dict(self._counters)

    @override
    def describe(self) -> str:
        return f"lines of {self._path}{', followed' if self._follow else ''}"

    @override
    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _open_file(path: Path) -> io.FileIO | None:
    """Open a regular file; None if there is none."""
    try:
        # Non-blocking: opening a named pipe would otherwise wait for its writer.
        file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingError(
            f"path: cannot open {path}: {error.strerror}; name a file that this user may read"
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise SettingError(f'path: {path} is not a regular file; pipes are read by kind = "stdin"')
    return file


def _head(file: io.FileIO, is_final: bool) -> bytes | None:
    """The first line, cut to 256 bytes; None while it may still become longer."""
    start = os.pread(file.fileno(), _HEAD_BYTES, 0)
    line, newline, _ = start.partition(b"\n")
    return line if newline or len(start) == _HEAD_BYTES or (is_final and start) else None


def _digest(head: bytes) -> str:
    return hashlib.sha1(head, usedforsecurity=False).hexdigest()[:12]


def _fits(file: io.FileIO, offset: int) -> bool:
    """Whether a line ends at `offset`, or, unfinished then, was finished there since."""
    if offset <= 0:
        return offset == 0
    around = os.pread(file.fileno(), 2, offset - 1)
    return bool(around) and (around[:1] == b"\n" or around[1:] in (b"", b"\n"))


def _same(one: io.FileIO, other: io.FileIO) -> bool:
    return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))


class JsonlSink(Sink):
    """One JSON object per line, appended to a file that rotates: path, path.1, ... path.`keep`.

    A line is whole or absent: a write that fails half-way, e.g. on a full disk, is taken back and
    raises NotConnected without having taken its records; opening cuts a torn last line. NaN and
    infinity are written as null, since JSON has no word for them.

    Args:
        path: the file; missing folders are created.
        max_bytes: the size beyond which the file is rotated; a file never exceeds it, save by a
            single write larger than that.
        keep: how many rotated files stay; older ones are deleted.
    """

    def __init__(self, path: str, max_bytes: int = 256 * 1024 * 1024, keep: int = 3) -> None:
        if not path:
            raise SettingError("path: expected the name of a file, got ''")
        if max_bytes < 1:
            raise SettingError(f"max_bytes: must be at least 1, got {max_bytes}")
        if keep < 1:
            raise SettingError(f"keep: must be at least 1, got {keep}")
        self._path = Path(path)
        self._max_bytes = max_bytes
        self._keep = keep
        self._encoder = msgspec.json.Encoder()
        self._lock = threading.Lock()  # the snapshot thread flushes while the loop thread writes
        self._file: io.FileIO | None = None
        self._size = 0
        self._retired: list[io.FileIO] = []  # rotated away, not yet known to be on disk

    @override
    def open(self) -> None:
        self.close()
        with self._lock:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._open_file()
            except OSError as error:
                raise SettingError(f"path: cannot write {self._path}: {error.strerror}") from error

    def _open_file(self) -> io.FileIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = io.FileIO(os.open(self._path, flags, 0o644), "r+b")
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise SettingError(
                f"path: another process writes {self._path}; give each sink a file of its own"
            ) from error
        size = os.fstat(file.fileno()).st_size
        self._size = _whole_lines_bytes(file, size)
        if self._size < size:
            log.warning("%s: cut a torn last line of %d bytes", self._path, size - self._size)
            os.ftruncate(file.fileno(), self._size)
        return file

    @override
    def write(self, records: Sequence[Record]) -> None:
        if not records:
            return
        data = self._encoder.encode_lines(records)
        with self._lock:
            if self._file is None:
                raise NotConnected(f"{self._path} is not open")
            try:
                if self._size and self._size + len(data) > self._max_bytes:
                    self._rotate(self._file)
                self._append(data)
            except OSError as error:
                raise NotConnected(f"cannot write {self._path}: {error.strerror}") from error

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            raise
        self._size += len(data)

    def _rotate(self, file: io.FileIO) -> None:
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._keep + 1))]
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.replace(older)
        self._file = self._open_file()
        self._retired.append(file)
        if len(self._retired) > self._keep:  # deleted by now; its bytes need no disk
            self._retired.pop(0).close()
        log.info("rotated %s", self._path)

    @override
    def flush(self) -> None:
        with self._lock:
            if self._file is None:
                return
            # Duplicated, so that the disk's slowness does not hold up the thread that writes.
            files = [*self._retired, io.FileIO(os.dup(self._file.fileno()), "r+b")]
            has_rotated, self._retired = bool(self._retired), []
        for file in files:
            with file:
                os.fsync(file.fileno())
        if has_rotated:
            self._sync_folder()

    def _sync_folder(self) -> None:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    @override
    def describe(self) -> str:
        return f"lines to {self._path}"

    @override
    def close(self) -> None:
        try:
            self.flush()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None


def _backwards(file: io.FileIO, size: int) -> Iterator[tuple[int, bytes]]:
    for start in range((size - 1) // _BLOCK_BYTES * _BLOCK_BYTES, -1, -_BLOCK_BYTES):
        yield start, os.pread(file.fileno(), min(_BLOCK_BYTES, size - start), start)


def _whole_lines_bytes(file: io.FileIO, size: int) -> int:
    """How many of the `size` bytes are complete lines."""
    for start, block in _backwards(file, size):
        if (newline := block.rfind(b"\n")) >= 0:
            return start + newline + 1
    return 0
