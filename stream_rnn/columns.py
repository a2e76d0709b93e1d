"""Runs of events as columns: lanes as places, and what stood some places back in each lane."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def at(array: Array | None) -> int | None:
    """Where its numbers are, for a pointer; the array, a contiguous one, must live as long."""
    if array is None or not array.size:
        return None
    # `array.ctypes` takes three times as long
    return ctypes.addressof(ctypes.c_char.from_buffer(array.data))


def rows(values: Sequence[Sequence[float]], width: int) -> Array | None:
    """(T, width) of them; None: not all are as wide."""
    if set(map(len, values)) != {width}:
        return None
    flat = np.fromiter(chain.from_iterable(values), np.float64, len(values) * width)
    return flat.reshape(-1, width)


def filled(values: Sequence[Sequence[float] | None], width: int) -> tuple[Array | None, Array]:
    """`rows` with zeros where there is none, and which of them there are."""
    given = [value for value in values if value is not None]
    if len(given) == len(values):
        return rows(given, width), np.ones(len(values), dtype=np.bool_)
    nothing = (0.0,) * width
    there_T = np.array([value is not None for value in values], dtype=np.bool_)
    return rows([nothing if value is None else value for value in values], width), there_T


def places(keys: Sequence[K]) -> tuple[Array | None, list[K]]:
    """Which of the different keys, in the order they come, each one is; None: all the first."""
    if not keys or keys.count(keys[0]) == len(keys):
        return None, list(keys[:1])
    place: dict[K, int] = {}
    found = [place.setdefault(key, len(place)) for key in keys]
    return np.array(found, dtype=np.int64), list(place)


def used(place_T: Array | None, n: int) -> int:
    """How many different places the first n events have."""
    return min(n, 1) if place_T is None else int(place_T[:n].max(initial=-1)) + 1


def behind(
    pasts: Sequence[deque[T]],
    places: Iterable[int] | None,
    fresh: Sequence[T],
    backs: Sequence[int],
) -> list[list[T | None]]:
    """For each of `backs`, a column: what stands that far behind each value; None: nothing does.

    Then `pasts` hold the fresh values too. 0 back is the value itself.

    Args:
        pasts: earlier values, oldest first, with room for as many as the longest of `backs`.
        places: which of `pasts` each value belongs to; None: all to the first.
        fresh: in order.
        backs: how far to look.
    """
    if places is None:
        found = [_behind(pasts[0], fresh, back) for back in backs]
        pasts[0].extend(fresh)
        return found
    columns: list[list[T | None]] = [[] for _ in backs]
    looks = list(zip(columns, backs, strict=True))
    for place, value in zip(places, fresh, strict=True):
        past = pasts[place]
        n = len(past)
        for column, back in looks:
            column.append(value if not back else past[-back] if n >= back else None)
        past.append(value)
    return columns


def _behind(past: deque[T], fresh: Sequence[T], back: int) -> list[T | None]:
    """Of one lane."""
    n, start = len(fresh), len(past) - back
    column: list[T | None] = [None] * min(max(-start, 0), n)
    column += [past[i] for i in range(max(start, 0), min(start + n, len(past)))]
    column += fresh[: n - len(column)]
    return column
