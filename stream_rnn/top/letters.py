"""The newest dead letters: as the daemon tells them, else from the end of its file."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from stream_rnn.top.words import clean

SHOWN = 20
TAIL_BYTES = 64 << 10
_ID_CHARS, _STAGE_CHARS, _REASON_CHARS = 80, 16, 300


@dataclass(frozen=True, slots=True)
class Letter:
    """An event that could not be used: which, where it failed, why."""

    id: str
    stage: str
    reason: str


def told(records: object) -> tuple[Letter, ...] | None:
    """Those in an answer, the newest last; None if it says nothing about them."""
    if not isinstance(records, list):
        return None
    found = (letter(each) for each in records[-SHOWN:])
    return tuple(each for each in found if each is not None)


def letter(record: object) -> Letter | None:
    """One dead letter, or None if that is none."""
    if not isinstance(record, dict) or "reason" not in record:
        return None
    return Letter(
        clean(record.get("id"), _ID_CHARS),
        clean(record.get("stage"), _STAGE_CHARS),
        clean(record.get("reason"), _REASON_CHARS),
    )


def written(path: Path) -> tuple[Letter, ...]:
    """Those at the end of the file, the newest last; none while there is no such file.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        # without waiting: it may be a pipe
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return ()
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return ()
        file.seek(max(0, found.st_size - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).split(b"\n")
    letters: list[Letter] = []
    for line in reversed(lines):
        one = letter(_decoded(line)) if line else None
        if one is not None:
            letters.append(one)
        if len(letters) == SHOWN:
            break
    return tuple(reversed(letters))


def _decoded(line: bytes) -> object:
    try:
        return msgspec.json.decode(line)
    except (msgspec.MsgspecError, RecursionError):  # half a line, at either end, or no letter
        return None
