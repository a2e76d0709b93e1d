"""What a poll brought: how full it is, and which events of it were not applied before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter, lt

from stream_rnn.engine.engine import Engine
from stream_rnn.runtime.intake import Shed
from stream_rnn.spi import Event, Position

_partition, _position = attrgetter("partition"), attrgetter("position")


def fill_of(n_events: int, wanted: int) -> str:
    """What a poll brought, as a label."""
    return "empty" if n_events == 0 else "part" if n_events < wanted else "full"


def not_after(position: int | str, last: int | str) -> bool:
    """Whether an event at `position` was applied before."""
    if type(position) is not type(last):
        raise TypeError(f"position {position!r} cannot be compared with {last!r}: types differ")
    return position <= last  # type: ignore[operator]


def stretches(items: Sequence[Event | Shed]) -> Iterable[Sequence[Event] | Shed]:
    """Events in a row, and what was given up between them."""
    if Shed in set(map(type, items)):
        return _stretches(items)
    return [items] if items else []  # type: ignore[list-item]  # as nearly always


def _stretches(items: Sequence[Event | Shed]) -> Iterator[Sequence[Event] | Shed]:
    events: list[Event] = []
    for item in items:
        if isinstance(item, Shed):
            if events:
                yield events
            yield item
            events = []
        else:
            events.append(item)
    if events:
        yield events


def newer(events: Sequence[Event], last_of: Callable[[str], int | str | None]) -> Sequence[Event]:
    """Those behind `last_of` their partition, and behind all before them here."""
    first = events[0]
    last = last_of(first.partition)
    positions = list(map(_position, events))
    is_usual = (
        len(set(map(_partition, events))) == 1
        and len(set(map(type, positions))) == 1
        and all(map(lt, positions, positions[1:]))
        and (last is None or not not_after(first.position, last))
    )
    if is_usual:  # of one partition, none seen before
        return events
    newest: dict[str, int | str] = {}
    found = []
    for event in events:
        last = newest.get(event.partition)
        if last is None:
            last = last_of(event.partition)
        if last is None or not not_after(event.position, last):
            newest[event.partition] = event.position
            found.append(event)
    return found


def advanced(resume: Position, reached: Position) -> dict[str, int | str]:
    """`resume`, where no partition steps back behind what was `reached`: repetitions did not."""
    return {
        partition: position
        if (last := reached.get(partition)) is None or not_after(last, position)
        else last
        for partition, position in resume.items()
    }


def pass_over(engine: Engine, shed: Shed) -> None:
    """What was given up counts as applied, and its repetition as a repetition."""
    newer = {
        partition: position
        for partition, position in shed.positions.items()
        if (last := engine.last_fed(partition)) is None or not not_after(position, last)
    }
    engine.pass_over(shed.n, newer)
