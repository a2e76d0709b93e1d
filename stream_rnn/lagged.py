"""What stood some places back in each lane, for a run of events at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


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
