"""Memory that one process writes and another reads: the newest of a series of messages, whole.

Two slots take turns. The writer never waits: it numbers the slot, writes, adds a checksum, and
numbers it again. Who copied a slot whose numbers or checksum do not fit was overtaken, and copies
anew. The memory has no name, so that nothing of it outlives the processes, however they end.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress

PAGE = mmap.PAGESIZE
TRIES = 50  # a writer that overtakes a reader so often would write all the time

# words of the first page; four more for each slot
_NEWEST, LIVE, PAUSE_US, _SLOTS = 0, 1, 2, 8
_BEGUN, _DONE, _OFFSET, _LENGTH, _CHECK, _WORDS = range(6)


class Torn(Exception):
    """No message could be copied whole."""


def nameless(name: str) -> int:
    """A descriptor of memory to share, of size 0; `name` is for /proc only."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.fchmod(descriptor, 0o600)
        # who is given it cannot cut it off, which would kill whoever touches what is gone
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return descriptor
    with tempfile.TemporaryFile() as file:  # 0600, and without a name from the start
        return os.dup(file.fileno())


def to_read(descriptor: int) -> int:
    """Another descriptor of the same memory that cannot write, where the system has such."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return os.dup(descriptor)


class Words:
    """A page of whole numbers of 64 bits, each read and written at once.

    Args:
        descriptor: of the memory; it stays its owner's.
        is_ours: whether it may be written.
    """

    def __init__(self, descriptor: int, is_ours: bool) -> None:
        self._map = mmap.mmap(
            descriptor, PAGE, access=mmap.ACCESS_WRITE if is_ours else mmap.ACCESS_READ
        )
        self.words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        """Let go of the memory."""
        self.words.release()
        self._map.close()


class Writer:
    """Writes; for one thread.

    Args:
        name: for /proc.

    Attributes:
        n: of the newest message, counted from 1; 0: there is none.
        words: `LIVE` and `PAUSE_US` are the caller's to use.

    Raises:
        OSError: the system has no memory.
    """

    def __init__(self, name: str) -> None:
        self.descriptor = nameless(name)
        self._size = 0
        self._grow(PAGE)
        self._page = Words(self.descriptor, is_ours=True)
        self.words = self._page.words
        self._maps: list[mmap.mmap | None] = [None, None]
        self.n = 0

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """A message, put together from its pieces; raises OSError if there is no room for it."""
        n, length = self.n + 1, sum(len(piece) for piece in pieces)
        slot = self._slot(n, length)
        words, base = self.words, _SLOTS + n % 2 * _WORDS
        words[base + _BEGUN] = n
        at = check = 0
        for piece in pieces:
            slot[at : at + len(piece)] = piece
            check = zlib.crc32(piece, check)
            at += len(piece)
        words[base + _LENGTH], words[base + _CHECK] = length, check
        words[base + _DONE] = n
        words[_NEWEST] = self.n = n

    def _slot(self, n: int, length: int) -> mmap.mmap:
        """Room for message `n`; the other slot, which may be read now, stays where it is."""
        old = self._maps[n % 2]
        if old is not None and len(old) >= length:
            return old
        offset, room = self._size, -(-max(1, length + length // 2) // PAGE) * PAGE
        self._grow(room)
        made = mmap.mmap(self.descriptor, room, offset=offset)
        self.words[_SLOTS + n % 2 * _WORDS + _OFFSET] = offset
        self._maps[n % 2] = made
        if old is not None:
            with suppress(AttributeError, OSError):  # elsewhere the old slot stays, unused
                old.madvise(mmap.MADV_REMOVE)
            old.close()
        return made

    def _grow(self, room: int) -> None:
        if hasattr(os, "posix_fallocate"):  # or the first write beyond what there is would kill us
            os.posix_fallocate(self.descriptor, self._size, room)
        else:
            os.ftruncate(self.descriptor, self._size + room)
        self._size += room

    def close(self) -> None:
        """Give the memory back, once its readers have."""
        self._page.close()
        for each in self._maps:
            if each is not None:
                each.close()
        os.close(self.descriptor)


class Reader:
    """Copies; one thread at a time, but `newest` and `words` are for any.

    Args:
        descriptor: of a Writer's memory; it stays open, and its owner's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._page = Words(descriptor, is_ours=False)
        self.words = self._page.words
        self._map: mmap.mmap | None = None

    @property
    def newest(self) -> int:
        """The number of the newest message; 0: there is none."""
        return self.words[_NEWEST]

    def read(self) -> tuple[int, bytearray]:
        """The newest message with its number; raises Torn if there is none, or none is whole."""
        for _ in range(TRIES):
            n = self.words[_NEWEST]
            base = _SLOTS + n % 2 * _WORDS
            if n == 0 or self.words[base + _DONE] != n:
                continue
            offset, length, check = self.words[base + _OFFSET : base + _CHECK + 1]
            body = self._copy(offset, length)
            if self.words[base + _BEGUN] == n and zlib.crc32(body) == check:
                return n, body
        raise Torn(f"none of {TRIES} copies was whole")

    def _copy(self, offset: int, length: int) -> bytearray:
        if self._map is None or offset + length > len(self._map):
            self._map = None  # the memory has grown
            size = os.fstat(self._descriptor).st_size
            self._map = mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ)
        with memoryview(self._map) as view:
            return bytearray(view[offset : offset + length])

    def close(self) -> None:
        """Let go of the memory; the descriptor stays its owner's."""
        self._page.close()
        if self._map is not None:
            self._map.close()
