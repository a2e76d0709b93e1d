"""The stream that all of them learn: event n is the same whoever writes it, and when."""

from __future__ import annotations

import json
import random
from pathlib import Path

BAD_EVERY = 50


def event(n: int) -> bytes:
    """Event number `n`, from 1 on; every `BAD_EVERY`-th is one that cannot be used."""
    if n % BAD_EVERY == 0:
        return b"no JSON"
    chance = random.Random(n)
    y = chance.gauss(10, 3) + n % 7 + (20 if n % 1000 > 500 else 0)  # drifts, too
    return json.dumps({"id": "abc"[n * n % 3], "y": round(y, 6)}).encode()


def write_events(path: Path, first: int, last: int) -> None:
    """Append events `first` to `last` to a file, one per line."""
    with path.open("ab") as file:
        file.write(b"".join(event(n) + b"\n" for n in range(first, last + 1)))
