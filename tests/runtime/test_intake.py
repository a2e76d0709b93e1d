"""What waits between source and engine, and what is given up when too much does."""

from collections.abc import Sequence
from typing import Any

import pytest
from typing_extensions import override

from stream_rnn.overload import Overload, Policy
from stream_rnn.runtime.intake import Intake, Shed, Taken
from stream_rnn.spi import Batch, EndOfStream, Event, Lag, NotConnected, Position, Source


class Burst(Source):
    """Has `n` events, at once, then what `end` says."""

    def __init__(self, n: int, end: Exception | None = None) -> None:
        self.n, self.end = n, end
        self.next = 0
        self.waits: list[float] = []

    @override
    def open(self, resume: Position | None) -> None:
        self.next = int((resume or {"p": -1})["p"]) + 1

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        self.waits.append(timeout_s)
        last = min(self.next + max_events, self.n)
        events = [Event("p", i, b"x") for i in range(self.next, last)]
        if not events and self.end is not None:
            raise self.end
        self.next = last
        return Batch(events, {"p": last - 1})

    @override
    def lag(self) -> Lag:
        return Lag(self.n - self.next)

    @override
    def close(self) -> None:
        pass


def intake(source: Source, policy: Policy, **more: Any) -> Intake:
    return Intake(source, Overload(policy, **({"limit": 20} | more)), rewinds=True)


def positions(taken: Taken) -> list[Any]:
    """Events by their position, gaps by how many and the newest position."""
    return [
        (each.n, *each.positions.values()) if isinstance(each, Shed) else each.position
        for each in taken.items
    ]


def everything(box: Intake) -> list[Any]:
    told: list[Any] = []
    for _ in range(10_000):
        try:
            told += positions(box.poll(10, 0.0))
        except EndOfStream:
            return told
    raise AssertionError("never ends")


def applied(told: Sequence[Any]) -> int:
    return sum(each[0] if isinstance(each, tuple) else 1 for each in told)


def test_block_is_the_source_itself() -> None:
    source = Burst(30)
    box = intake(source, "block")
    taken = box.poll(10, 0.7)
    assert (positions(taken), taken.resume, taken.received) == (list(range(10)), {"p": 9}, 10)
    assert source.waits == [0.7]
    assert box.waiting == 0
    assert box.lag() == source.lag()


def test_below_the_limit_every_policy_hands_on_everything_in_order() -> None:
    policies: list[Policy] = ["drop_oldest", "drop_newest", "sample", "predict_only", "degrade"]
    for policy in policies:
        box = intake(Burst(19, EndOfStream()), policy)
        assert everything(box) == list(range(19))
        assert sum(box.shed.values()) == 0


def test_drop_oldest_keeps_the_newest_events_and_tells_the_gap_first() -> None:
    box = intake(Burst(60), "drop_oldest")
    taken = box.poll(10, 0.0)
    assert positions(taken)[0] == (30, 29)  # 50 are read at once: twice the limit and a poll
    assert positions(taken)[1:] == list(range(30, 40))
    assert box.shed["drop_oldest"] == 30
    assert taken.resume == {}  # others wait


def test_drop_newest_keeps_the_oldest_events_and_the_gap_follows_them() -> None:
    box = intake(Burst(50), "drop_newest")
    assert positions(box.poll(10, 0.0)) == list(range(10))
    assert positions(box.poll(20, 0.0)) == [*range(10, 20), (30, 49)]
    assert box.shed["drop_newest"] == 30


def test_sample_keeps_about_the_share_and_a_repetition_keeps_the_same() -> None:
    runs = []
    for _ in range(2):
        box = intake(Burst(40_000, EndOfStream()), "sample", limit=2000, keep=0.3)
        first = box.poll(10, 0.0)
        runs.append(first)
        n_beyond = first.received - 2000
        share = 1 - box.shed["sample"] / n_beyond
        assert abs(share - 0.3) < 0.05  # five standard errors of 2,010 coins
    assert positions(runs[0]) == positions(runs[1])
    assert everything(box)[-1] in (39_999, (pytest.approx(1, abs=50), 39_999))


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "sample", "predict_only"])
def test_every_event_is_applied_or_counted_as_shed_and_memory_is_bounded(policy: Policy) -> None:
    box = intake(Burst(5000, EndOfStream()), policy, keep=0.5)
    told: list[Any] = []
    while applied(told) < 5000:
        told += positions(box.poll(7, 0.0))
        assert box.waiting <= 2 * 20 + 7
        assert len(box._queue) <= 2 * (2 * 20 + 7) + 1  # a gap between any two at most
    assert applied(told) == 5000
    assert sum(each[0] for each in told if isinstance(each, tuple)) == sum(box.shed.values())
    last = [each[1] if isinstance(each, tuple) else each for each in told]
    assert last == sorted(last)
    assert last[-1] == 4999


def test_a_policy_that_sheds_nothing_lets_the_source_wait_in_the_end() -> None:
    source = Burst(1000)
    box = intake(source, "predict_only")
    taken = box.poll(10, 0.0)
    assert taken.is_over
    assert source.next == 40
    assert box.waiting == 30


def test_the_end_comes_when_nothing_waits_any_more() -> None:
    box = intake(Burst(15, EndOfStream()), "drop_oldest")
    assert positions(box.poll(10, 0.0)) == list(range(10))
    taken = box.poll(10, 0.0)
    assert (positions(taken), taken.resume) == (list(range(10, 15)), {"p": 14})
    with pytest.raises(EndOfStream):
        box.poll(10, 0.0)


def test_after_a_broken_connection_nothing_waits_that_comes_again() -> None:
    box = intake(Burst(15, NotConnected()), "drop_oldest")
    with pytest.raises(NotConnected):
        box.poll(10, 0.0)
    assert box.waiting == 0


def test_after_a_broken_connection_what_cannot_come_again_is_handed_on_first() -> None:
    box = Intake(Burst(15, NotConnected()), Overload("drop_oldest", 20), rewinds=False)
    assert len(box.poll(10, 0.0).items) == 10
    assert len(box.poll(10, 0.0).items) == 5
    with pytest.raises(NotConnected):
        box.poll(10, 0.0)


def test_the_lag_counts_what_waits_here_too() -> None:
    box = intake(Burst(100), "degrade")
    box.poll(10, 0.0)
    assert box.lag() == Lag(90)


def test_the_rest_is_handed_over_without_asking_for_more() -> None:
    source = Burst(100)
    box = intake(source, "drop_oldest")
    box.poll(10, 0.0)
    n_polls = len(source.waits)
    assert applied(positions(box.rest())) == 10
    assert len(source.waits) == n_polls


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"keep": 1.1}, {"keep": float("nan")}])
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Overload("sample", **wrong)
