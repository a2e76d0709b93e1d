"""The attempt mark: which events were possibly emitted, and which one the process died of.

Everything that is not a snapshot is forgotten at restart; this mark is the one exception. It is
written before an event is attempted, so that after a kill the predictions that are made again can
carry `replayed = true`, and so that an event that kills the process can be told from one that did
not (`quarantine`).
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)

_GUARD = 0x5EED_A77E_3A12_97C5
_MAGIC = 0x0002_4B52_414D_5453  # "STMARK", format 2
_OLD_LAYOUT = struct.Struct("<QQ")  # format 1: the ordinal, and the ordinal again under the guard

# Places of the words, 8 bytes each in the machine's order: the file never leaves the machine.
_N_WORDS = 12
_LAYOUT = struct.Struct(f"={_N_WORDS}Q")
_FORMAT, _RUN, _HIGH, _HIGH_GUARD, _HIGH_2, _HIGH_2_GUARD = range(6)
_COUNT, _FIRST, _IDENTITY, _CHECK, _DONE, _SPARE = range(6, 12)

# Why any interleaving with a kill is safe. One thread writes, word by word; a word is aligned and
# stored whole (memoryview's native "Q" is one 8-byte store). A killed process has made a prefix of
# its stores, and the kernel keeps the page, so what is found is such a prefix:
#   `begin` stores FIRST, IDENTITY and CHECK while COUNT is 0, which means "nothing"; the one store
#     of COUNT publishes them. A prefix is "nothing" or the whole attempt.
#   `done` stores DONE first: an attempt that DONE has reached is over, whatever COUNT says.
#   `reach` writes two copies one after the other, each with its guard: at most one is torn.
#   `forget` empties COUNT first. A DONE that is left behind by a kill in between lies before every
#     event that is suspected, or it would not be.
# What no prefix explains (a flipped bit, a foreign file) fails a guard and reads as nothing.


@dataclass(frozen=True)
class Attempt:
    """Events that were being attempted: `n` of them from ordinal `first` on.

    Attributes:
        first: ordinal.
        n: 1, or what a run of blocks holds.
        identity: of the first event; see `quarantine.identity_of`.
    """

    first: int
    n: int
    identity: int

    @property
    def last(self) -> int:
        """Ordinal of the last one."""
        return self.first + self.n - 1


class AttemptMark:
    """96 bytes of memory-mapped file that outlive `kill -9` of the process (not a power cut).

    Used by the loop's thread: `open`, then `value`, `died_in` and `reached` as found, `forget`,
    then `begin`, `reach` and `done` for each tick, then `close`. The kernel owns the page: a mark
    costs a few stores and no system call.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.died_in: Attempt | None = None  # as found by `open`
        self.reached = 0  # as found: the newest event that the last process was done with
        self.run = 0  # as found: number of the process that wrote it
        self._value = 0
        self._highest = 0
        self._map: mmap.mmap | None = None
        self._words = _nowhere()

    @property
    def value(self) -> int:
        """The mark as found by `open`: events with ordinal <= value were possibly emitted before.

        0 means none. It does not follow `reach`.
        """
        return self._value

    def open(self) -> None:
        """Read the old mark and map the file, which stays as it was until `forget`.

        A missing file reads as nothing; one that is torn or foreign too, with a warning.

        Raises:
            OSError: the file cannot be created, e.g. the disk is full or read-only.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o600)
        try:
            self._decode(os.pread(descriptor, _LAYOUT.size + 1, 0))
            self._highest = self._value
            found = self.died_in or Attempt(0, 0, 0)
            guarded = (self._value, self._value ^ _GUARD)
            attempted = (found.n, found.first, found.identity, _checked(found))
            words = (_MAGIC, self.run, *guarded, *guarded, *attempted, self.reached, 0)
            # Written rather than left sparse: storing into a hole of a full disk is a SIGBUS.
            os.pwrite(descriptor, _LAYOUT.pack(*words), 0)
            os.ftruncate(descriptor, _LAYOUT.size)
            os.fsync(descriptor)
            self._map = mmap.mmap(descriptor, _LAYOUT.size)
            self._words = memoryview(self._map).cast("Q")
        finally:
            os.close(descriptor)

    def _decode(self, data: bytes) -> None:
        if not data:
            _log.debug("%s: no attempt mark yet; no event counts as emitted before", self.path)
            return
        if len(data) == _OLD_LAYOUT.size:
            ordinal, guarded = _OLD_LAYOUT.unpack(data)
            if guarded == ordinal ^ _GUARD:
                self._value = int(ordinal)
                return
        if len(data) == _LAYOUT.size:
            words = _LAYOUT.unpack(data)
            copies = ((words[_HIGH], words[_HIGH_GUARD]), (words[_HIGH_2], words[_HIGH_2_GUARD]))
            whole = [high for high, guarded in copies if guarded == high ^ _GUARD]
            found = Attempt(words[_FIRST], words[_COUNT], words[_IDENTITY])
            is_sound = not found.n or words[_CHECK] == _checked(found)
            if words[_FORMAT] == _MAGIC and whole and is_sound:
                self._value = max(whole)
                self.run, self.reached = words[_RUN], words[_DONE]
                self.died_in = found if found.n and found.last > self.reached else None
                return
        _log.warning(
            "%s: the attempt mark is torn or is not one (%s); predictions repeated after this "
            "start will not be flagged as replayed",
            self.path,
            data[: _OLD_LAYOUT.size].hex(" "),
        )

    def forget(self) -> None:
        """What was found has been taken into account; from here on it is this process's mark."""
        words = self._words
        words[_COUNT] = 0
        words[_DONE] = 0
        words[_RUN] = (self.run + 1) % 2**64

    def begin(self, first: int, n: int, identity: int) -> None:
        """Note that `n` events from ordinal `first` on are being attempted from now on.

        Not while others are: `done` or `pause` comes first.
        """
        words = self._words
        words[_FIRST] = first
        words[_IDENTITY] = identity
        words[_CHECK] = first ^ n ^ identity ^ _GUARD
        words[_COUNT] = n

    def reach(self, ordinal: int) -> None:
        """Note, before emitting it, that event `ordinal` (0 <= ordinal < 2**64) is attempted.

        Never lowers the mark: while events are repeated, those further on stay marked.
        """
        if ordinal > self._highest:
            words, guarded = self._words, ordinal ^ _GUARD
            words[_HIGH] = ordinal
            words[_HIGH_GUARD] = guarded
            words[_HIGH_2] = ordinal
            words[_HIGH_2_GUARD] = guarded
            self._highest = ordinal

    def done(self, ordinal: int) -> None:
        """Note that nothing is being attempted, and that event `ordinal` was survived."""
        words = self._words
        words[_DONE] = ordinal
        words[_COUNT] = 0

    def pause(self) -> None:
        """Note that nothing is being attempted. Does nothing once closed."""
        self._words[_COUNT] = 0

    def close(self) -> None:
        """Unmap the file; the mark stays. May be called twice."""
        words, self._words = self._words, _nowhere()
        words.release()
        if self._map is not None:
            self._map.close()
            self._map = None


def _nowhere() -> memoryview:
    """Words in no file, so that the hot path need not ask whether it is open."""
    return memoryview(bytearray(_LAYOUT.size)).cast("Q")


def _checked(attempt: Attempt) -> int:
    return attempt.first ^ attempt.n ^ attempt.identity ^ _GUARD
