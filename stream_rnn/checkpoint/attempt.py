"""The attempt mark: which events were possibly emitted before the process was killed.

Everything that is not a snapshot is forgotten at restart; this mark is the one exception. It is
written before an event's prediction leaves, so that after a kill the predictions that are made
again can carry `replayed = true`.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from pathlib import Path

_log = logging.getLogger(__name__)

_LAYOUT = struct.Struct("<QQ")  # the ordinal, and the ordinal again under the guard
_GUARD = 0x5EED_A77E_3A12_97C5


class AttemptMark:
    """16 bytes of memory-mapped file that outlive `kill -9` of the process (not a power cut).

    Used by the loop's thread: `open`, then `value`, then `mark` per event, then `close`. The kernel
    owns the page, so a mark costs two stores and no system call.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._value = 0
        self._highest = 0
        self._map: mmap.mmap | None = None

    @property
    def value(self) -> int:
        """The mark as found by `open`: events with ordinal <= value were possibly emitted before.

        0 means none. It does not follow `mark`.
        """
        return self._value

    def open(self) -> None:
        """Read the old mark and map the file.

        A missing file reads as 0; one that is torn or foreign reads as 0 with a warning.

        Raises:
            OSError: the file cannot be created, e.g. the disk is full or read-only.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            self._value = self._highest = self._decode(os.pread(descriptor, _LAYOUT.size + 1, 0))
            os.ftruncate(descriptor, _LAYOUT.size)
            # Written rather than left sparse: storing into a hole of a full disk is a SIGBUS.
            os.pwrite(descriptor, _LAYOUT.pack(self._value, self._value ^ _GUARD), 0)
            os.fsync(descriptor)
            self._map = mmap.mmap(descriptor, _LAYOUT.size)
        finally:
            os.close(descriptor)

    def _decode(self, data: bytes) -> int:
        if not data:
            _log.debug("%s: no attempt mark yet; no event counts as emitted before", self.path)
            return 0
        if len(data) == _LAYOUT.size:
            ordinal, guarded = _LAYOUT.unpack(data)
            if guarded == ordinal ^ _GUARD:
                return int(ordinal)
        _log.warning(
            "%s: the attempt mark is torn or is not one (%s); predictions repeated after this "
            "start will not be flagged as replayed",
            self.path,
            data[: _LAYOUT.size].hex(" "),
        )
        return 0

    def mark(self, ordinal: int) -> None:
        """Note, before emitting it, that event `ordinal` (0 <= ordinal < 2**64) is attempted.

        Never lowers the mark: while events are repeated, those further on stay marked.
        """
        if ordinal > self._highest:
            assert self._map is not None, "open() comes before mark()"
            _LAYOUT.pack_into(self._map, 0, ordinal, ordinal ^ _GUARD)
            self._highest = ordinal

    def close(self) -> None:
        """Unmap the file; the mark stays. May be called twice."""
        if self._map is not None:
            self._map.close()
            self._map = None
