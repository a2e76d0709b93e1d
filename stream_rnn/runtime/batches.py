"""What a poll brought: how full it is, and whether an event of it was applied before."""

from __future__ import annotations

from stream_rnn.engine.engine import Engine
from stream_rnn.runtime.intake import Shed


def fill_of(n_events: int, wanted: int) -> str:
    """What a poll brought, as a label."""
    return "empty" if n_events == 0 else "part" if n_events < wanted else "full"


def not_after(position: int | str, last: int | str) -> bool:
    """Whether an event at `position` was applied before."""
    if type(position) is not type(last):
        raise TypeError(f"position {position!r} cannot be compared with {last!r}: types differ")
    return position <= last  # type: ignore[operator]


def pass_over(engine: Engine, shed: Shed) -> None:
    """What was given up counts as applied, and its repetition as a repetition."""
    newer = {
        partition: position
        for partition, position in shed.positions.items()
        if (last := engine.last_fed(partition)) is None or not not_after(position, last)
    }
    engine.pass_over(shed.n, newer)
