"""A small mutator: damaged bytes, and values that no honest program writes."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63), 2**64, 10**30,
    0.0, -0.0, 0.5, -1.5, 1e-320, 1e24, 1.7e308, -1.7e308,
    "", "0", "-1", "nan", "../../etc/passwd", "a\x00b", "\x1b[2J", "é" * 300, "x" * 70_000,
    [], {}, [[]], [None], [1, 2, 3], {"": 0}, {"0": []}, [0.0] * 1000,
)  # fmt: skip
SNIPPETS = (
    b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\x00" * 8, b"\xff" * 8, b"1e999", b"-1", b"NaN",
    b"9" * 400, b"[" * 5000, b"{\"a\":" * 2000,
    b"\"", b"}", b",", b"null", b"\xc1", b"\xdf\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\n", b"99999999999999999999", b"0x",
    b"true", b"\x91" * 5000,
)  # fmt: skip


def damaged(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """`data` with one to four accidents of bytes."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(result) + 1)
        match rng.randrange(8):
            case 0 if result:
                result[min(at, len(result) - 1)] ^= 1 << rng.randrange(8)
            case 1 if result:
                result[min(at, len(result) - 1)] = rng.randrange(256)
            case 2:
                del result[at : at + rng.choice((1, 2, 8, 100))]
            case 3:
                result[at:at] = rng.choice(SNIPPETS)
            case 4:
                result[at : at + rng.choice((1, 4, 20))] = rng.choice(SNIPPETS)
            case 5 if others:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                result[at:] = other[start:]
            case 6:
                end = at + rng.choice((1, 4, 16, 64))
                result[at:at] = result[at:end] * rng.choice((1, 2, 30))
            case _:
                del result[at:]
    return bytes(result)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything inside a value of dictionaries and lists."""
    found = [path] if path else []
    if len(path) > 40:
        return found
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for i, inner in enumerate(value[:8]):
            found += places(inner, (*path, i))
    return found


def twisted(rng: random.Random, value: Any, nasty: Sequence[Any] = NASTY) -> Any:
    """A copy with one to three things inside replaced, removed, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        ways = places(value)
        if not ways:
            return value
        *way, last = rng.choice(ways)
        owner = value
        for step in way:
            owner = owner[step]
        match rng.randrange(6):
            case 0 if isinstance(owner, dict):
                del owner[last]
            case 1 if isinstance(owner, dict):
                owner[rng.choice(("", "x", "0", "-1", "999999999", last * 2))] = owner.pop(last)
            case 2 if isinstance(owner, list):
                owner.insert(last, copy.deepcopy(owner[last]))
            case 3 if isinstance(owner[last], int | float):
                number = owner[last]
                owner[last] = rng.choice((-number, number + 1, number - 1, str(number), [number]))
            case 4:
                owner[last] = deep(rng.choice((50, 150)))
            case _:
                owner[last] = copy.deepcopy(rng.choice(nasty))
    return value


def deep(levels: int) -> Any:
    """Lists within lists."""
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value
