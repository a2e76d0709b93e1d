"""Which event the process dies of: deaths are counted across starts, the culprit is remembered.

`quarantine.json` in the state folder holds the suspicion (events that the process died in, and how
often in a row) and the verdicts (events that are not attempted any more). It is written at a start
and when a verdict is met, never per event.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from zlib import crc32

import msgspec

from stream_rnn.checkpoint.attempt import Attempt
from stream_rnn.checkpoint.files import (
    CheckpointError,
    explained,
    open_regular,
    sync_folder,
    write_durably,
)
from stream_rnn.spi import Event

_log = logging.getLogger(__name__)

DEATHS = 3  # in a row in the attempt of one event, alone and without progress, and it is poison
REPEATS = 2  # deaths in a row inside one block, before its events are fed one by one
MOST_VERDICTS = 1000  # who has more has no poison event but a broken installation
HASHED_BYTES = 1024
_MAX_FILE_BYTES = 4 << 20


class Suspect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events among which the culprit is.

    Attributes:
        first, last: ordinals.
        deaths: in a row; anew when they narrowed it from a run to one of its blocks.
        alone: of these, the newest in a row that happened in one and the same event, alone.
        identity: of that event; 0 while there are several.
    """

    first: int
    last: int
    deaths: int
    alone: int
    identity: int


class Verdict(msgspec.Struct, forbid_unknown_fields=True):
    """An event that is not attempted any more.

    Attributes:
        ordinal: it had when the process died of it.
        identity: see `identity_of`.
        partition, position: known once it came again.
    """

    ordinal: int
    identity: int
    partition: str | None = None
    position: int | str | None = None


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    format: int = 1
    counted: int = -1  # the newest process whose death was counted, by the mark's `run`
    suspect: Suspect | None = None
    poison: list[Verdict] = []


def identity_of(event: Event) -> int:
    """64 bits that tell an event from others that come at the same ordinal; under 0.3 us.

    Of its position and the beginning of its payload: a source that numbers what it receives may
    give a position again.
    """
    place = event.position
    if type(place) is not int:
        place = crc32(str(place).encode("utf-8", "surrogatepass"))
    return crc32(event.data[:HASHED_BYTES]) << 32 | place & 0xFFFF_FFFF


def after_death(suspect: Suspect | None, attempt: Attempt) -> Suspect:
    """The suspicion after one more death, during `attempt`."""
    is_single = attempt.n == 1
    fresh = Suspect(
        attempt.first, attempt.last, 1, int(is_single), attempt.identity if is_single else 0
    )
    if suspect is None or attempt.last < suspect.first or suspect.last < attempt.first:
        return fresh
    was_single = suspect.alone > 0
    if is_single and was_single and suspect.identity != attempt.identity:
        return fresh  # another event at the same ordinal
    first, last = max(suspect.first, attempt.first), min(suspect.last, attempt.last)
    is_one_of_its_blocks = suspect.first <= attempt.first and attempt.last <= suspect.last
    is_one_of_its_blocks &= attempt.n <= suspect.last - suspect.first
    return Suspect(
        first,
        last,
        1 if is_one_of_its_blocks and not is_single else suspect.deaths + 1,
        suspect.alone + 1 if is_single and was_single else int(is_single),
        attempt.identity if is_single else 0,
    )


class Quarantine:
    """The file, and what it says. Used by the loop's thread.

    Args:
        directory: the state folder, held by this process.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "quarantine.json"
        self._content = _Content()

    @property
    def suspect(self) -> Suspect | None:
        """Events among which the culprit is, if the last process died in an attempt."""
        return self._content.suspect

    @property
    def poison(self) -> list[Verdict]:
        """Events that must not be attempted; oldest first."""
        return self._content.poison

    def open(self) -> None:
        """Read the file; one that is missing, torn or foreign says nothing (with a warning)."""
        if not os.path.lexists(self.path):
            return
        try:
            with open_regular(self.path) as descriptor:
                data = os.read(descriptor, _MAX_FILE_BYTES)
            content = msgspec.json.decode(data, type=_Content)
        except (CheckpointError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            _log.warning(
                "%s: not readable (%s); events quarantined before will be tried again",
                self.path,
                error,
            )
            return
        content.poison = content.poison[-MOST_VERDICTS:]
        self._content = content

    def count(self, run: int, attempt: Attempt | None, reached: int) -> Verdict | None:
        """Take the end of the last process into account, durably; a verdict if that is one.

        Args:
            run: its number, so that no death is counted twice.
            attempt: what it died in; None: in nothing, which counts for nothing.
            reached: the newest event it was done with.

        Raises:
            CheckpointError: it cannot be written.
        """
        before = self._content
        if before.counted == run:
            return None
        suspect = before.suspect
        if suspect is not None and reached >= suspect.last:
            suspect = None  # progress: whatever it was, it is not that event
        if attempt is not None:
            suspect = after_death(suspect, attempt)
        if suspect == before.suspect and attempt is None:
            return None
        verdict, poison = None, before.poison
        if suspect is not None and suspect.alone >= DEATHS:
            verdict = Verdict(suspect.first, suspect.identity)
            poison = [*poison, verdict][-MOST_VERDICTS:]
            suspect = None
        self._content = _Content(counted=run, suspect=suspect, poison=poison)
        self.write()
        return verdict

    def drop(self, verdicts: list[Verdict]) -> None:
        """Forget verdicts on events that can never come again; raises CheckpointError."""
        self._content.poison = [v for v in self.poison if not any(v is old for old in verdicts)]
        self.write()

    def write(self) -> None:
        """Make it durable, all or nothing; raises CheckpointError."""
        draft = self.path.with_name(f".tmp-quarantine-{os.getpid()}")
        with explained(self.path):
            draft.unlink(missing_ok=True)
            write_durably(draft, msgspec.json.format(msgspec.json.encode(self._content), indent=2))
            draft.rename(self.path)
            sync_folder(self.path.parent)
