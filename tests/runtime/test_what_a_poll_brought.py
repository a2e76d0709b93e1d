"""A poll's events: those applied before are left out, whatever is between them keeps its place."""

from __future__ import annotations

import random

import pytest

from stream_rnn.runtime.batches import advanced, newer, not_after, stretches
from stream_rnn.runtime.intake import Shed
from stream_rnn.spi import Event


def event(partition: str, position: int | str) -> Event:
    return Event(partition, position, b"{}")


def one_by_one(events: list[Event], last: dict[str, int | str]) -> list[Event]:
    """What is fed where each event is compared with the newest that was fed before it."""
    last, found = dict(last), []
    for each in events:
        before = last.get(each.partition)
        if before is None or not not_after(each.position, before):
            last[each.partition] = each.position
            found.append(each)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_what_was_applied_before_is_left_out(seed: int) -> None:
    choose = random.Random(seed)
    partitions = "ab" if seed % 2 else "a"
    step = (1, 1) if seed % 3 else (-1, 2)  # with repetitions and steps back
    positions = dict.fromkeys(partitions, 5)
    events = []
    for _ in range(30):
        partition = choose.choice(partitions)
        positions[partition] += choose.randint(*step)
        events.append(event(partition, positions[partition]))
    for last in ({}, {"a": 3}, {"a": 9}, {"a": 1000}, {"b": 9}):
        assert list(newer(events, last.get)) == one_by_one(events, last)  # type: ignore[arg-type]


def test_text_is_compared_as_text() -> None:
    events = [event("a", text) for text in ("01", "02", "02", "10")]
    assert [each.position for each in newer(events, lambda partition: "01")] == ["02", "10"]


@pytest.mark.parametrize("positions", [(1, "2"), (1, 2, "3"), ("1", 2)])
def test_positions_of_two_types_are_an_error(positions: tuple[int | str, ...]) -> None:
    with pytest.raises(TypeError, match="types differ"):
        newer([event("a", position) for position in positions], lambda partition: None)


def test_a_position_of_another_type_than_the_last_one_is_an_error() -> None:
    with pytest.raises(TypeError, match="types differ"):
        newer([event("a", 1), event("a", 2)], lambda partition: "0")


def test_what_was_given_up_stays_between_the_events_around_it() -> None:
    a, b, c = (event("a", i) for i in range(3))
    first, second = Shed(1, {"a": 7}), Shed(2, {"a": 8})
    items = [first, a, b, second, c]
    assert list(stretches(items)) == [first, [a, b], second, [c]]
    assert list(stretches([a, b])) == [[a, b]]
    assert list(stretches([])) == []


def test_a_position_advances_or_stays_and_what_is_left_out_is_forgotten() -> None:
    reached: dict[str, int | str] = {"a": 5, "b": "07", "gone": 1}
    resume: dict[str, int | str] = {"a": 3, "b": "10", "new": 1}
    assert advanced(resume, reached) == {"a": 5, "b": "10", "new": 1}
