"""Dead letters read back: from files that anybody may have written to, so nothing is believed."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from stream_rnn.checkpoint.files import open_regular

MAX_LINE_BYTES = 64 << 20  # a letter that keeps the whole of the largest event takes a third of it
_MOST_FILES = 1000


class Letter(msgspec.Struct, frozen=True):
    """One dead letter as its line tells; fields nobody knows are passed over."""

    id: str
    stage: str
    issue: str = ""
    reason: str = ""
    partition: str = ""
    position: int | str = ""
    timestamp: float | None = None
    written_at: float | None = None
    size_bytes: int = 0
    sha256: str = ""
    data_base64: str = ""

    def kept(self) -> bytes:
        """What was kept of the event: its beginning, or all of it; empty if that is damaged."""
        try:
            return base64.b64decode(self.data_base64, validate=True)
        except (binascii.Error, ValueError):
            return b""

    def whole(self) -> bytes | None:
        """The event's own bytes, if all were kept and their checksum is right."""
        data = self.kept()
        is_whole = len(data) == self.size_bytes and hashlib.sha256(data).hexdigest() == self.sha256
        return data if is_whole else None


@dataclass(frozen=True)
class Damaged:
    """A line that is no dead letter.

    Attributes:
        place: file and line.
        why: in words.
    """

    place: str
    why: str


def files_of(path: Path) -> list[Path]:
    """The file and those rotated away from it, oldest first; only those there are."""
    rotated: list[Path] = []
    while len(rotated) < _MOST_FILES:
        older = path.with_name(f"{path.name}.{len(rotated) + 1}")
        if not older.exists():
            break
        rotated.append(older)
    return [*reversed(rotated), *([path] if path.exists() else [])]


def read(paths: Iterable[Path]) -> Iterator[Letter | Damaged]:
    """Every line of the files, in order and one at a time.

    Raises:
        CheckpointError: a file cannot be read or is none (a link, a pipe).
    """
    decoder = msgspec.json.Decoder(Letter)
    for path in paths:
        for number, line in _lines(path):
            place = f"{path}:{number}"
            if line is None:
                yield Damaged(place, f"longer than {MAX_LINE_BYTES} bytes")
                continue
            try:
                yield decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield Damaged(place, str(error)[:200])


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines; None for one that is too long."""
    with open_regular(path) as descriptor, os.fdopen(os.dup(descriptor), "rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES):
            number += 1
            if line.endswith(b"\n") or len(line) < MAX_LINE_BYTES:
                if line.strip():
                    yield number, line
                continue
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES)
            yield number, None


def plain(text: str, width: int) -> str:
    """Fit for a terminal: no escape sequence, no control or direction mark, at most `width`."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: width + 1]
    )
    return shown if len(shown) <= width else shown[: width - 3] + "..."


def as_json(letter: Letter) -> dict[str, Any]:
    """All fields, plain."""
    return msgspec.to_builtins(letter)  # type: ignore[no-any-return]
