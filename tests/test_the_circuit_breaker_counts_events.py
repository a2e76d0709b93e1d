"""The circuit breaker: when it trips, when it does not, and what it says."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from stream_rnn.assembly.settings import Limits
from stream_rnn.metrics import Metrics
from stream_rnn.runtime.breaker import Breaker
from stream_rnn.runtime.holds import Pause


class Rig:
    def __init__(self, events: int = 10, share: float = 0.5) -> None:
        self.pause = Pause()
        self.metrics = Metrics(CollectorRegistry())
        self.breaker = Breaker(events, share, self.pause, self.metrics, lambda: "no \x1b number")

    def feed(self, outcomes: str, at_once: int = 1) -> Rig:
        """`.` used, `d` refused at decode, `f` at features, `l` by the learner."""
        stages = [{"d": "decode", "f": "features", "l": "learn"}.get(each) for each in outcomes]
        for i in range(0, len(stages), at_once):
            self.breaker.count(stages[i : i + at_once])
        return self

    @property
    def is_open(self) -> bool:
        assert self.metrics.breaker_open == int("breaker" in self.pause.reasons)
        return bool(self.pause.reasons)


@pytest.mark.parametrize(
    ("outcomes", "trips"),
    [
        pytest.param("d" * 4, False, id="one-too-few"),
        pytest.param("d" * 5, True, id="before-the-window-is-full"),
        pytest.param("." * 50 + "d" * 5, True, id="a-stream-that-turns-bad"),
        pytest.param(".d" * 50, True, id="half-of-it"),
        pytest.param("..d" * 50, False, id="a-third-of-it-for-ever"),
        pytest.param("dddd......" * 20, False, id="bursts-below-the-share"),
        pytest.param("dddd......d" + "dddd", True, id="the-oldest-leave-one-by-one"),
        pytest.param("dddd.........." + "dddd", False, id="what-left-the-window-is-forgotten"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 3, 7, 256])
def test_it_trips_when_the_share_of_the_last_events_is_reached(
    outcomes: str, trips: bool, at_once: int
) -> None:
    assert Rig().feed(outcomes, at_once).is_open is trips


def test_it_says_how_many_where_and_what_to_do() -> None:
    reason = Rig().feed("......ff").feed("ddd").pause.reasons["breaker"]
    assert reason == (
        "the breaker is open: 5 of the last 10 events were refused, 3 of them at stage decode, "
        "the newest: no ? number; correct the configuration and start again, or look at the dead "
        "letters, then `stream-rnn ctl CONFIG resume`"
    )


def test_a_young_window_says_how_young_it_is() -> None:
    assert (
        "5 of the last 5 events were refused, all of them"
        in (Rig().feed("lllll").pause.reasons["breaker"])
    )


def test_an_open_breaker_keeps_its_first_reason() -> None:
    rig = Rig().feed("ddddd")
    reason = rig.pause.reasons["breaker"]
    assert rig.feed("fffff").pause.reasons["breaker"] == reason


def test_a_fresh_window_needs_as_many_refusals_again() -> None:
    rig = Rig().feed("ddddd")
    rig.pause.release("breaker")
    rig.breaker.reset()
    assert not rig.feed("dddd").is_open
    assert rig.feed("d").is_open


def test_without_events_it_never_trips() -> None:
    assert not Rig(events=0).feed("d" * 10_000).is_open


def test_by_default_499_refusals_in_a_thousand_do_not_trip_and_500_do() -> None:
    rig = Rig(*Limits().breaker).feed(".d" * 499 + "..")
    assert not rig.is_open
    assert rig.feed("d.d").is_open


def test_it_can_be_turned_off() -> None:
    assert Limits(breaker_events=False).breaker == (0, 0.5)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"breaker_events": True}, "breaker_events must be in 1..1_000_000, or false, got true"),
        ({"breaker_events": 0}, "got 0"),
        ({"breaker_events": -5}, "got -5"),
        ({"breaker_events": 10**9}, "got 1000000000"),
        ({"breaker_share": 0.0}, "breaker_share must be above 0, at most 1, got 0.0"),
        ({"breaker_share": 1.5}, "got 1.5"),
        ({"breaker_share": float("nan")}, "got nan"),
    ],
    ids=str,
)
def test_a_senseless_breaker_is_refused(table: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Limits(**table)  # type: ignore[arg-type]


def test_an_event_costs_it_no_more_than_some_empty_calls() -> None:
    """Less than a microsecond or two, on a machine of today; in a run much less."""
    count = Rig(1000).breaker.count
    alone = [None]

    def cost_s(call: Callable[[None], object]) -> float:
        costs = []
        for _ in range(7):  # the least of some: the machine is shared
            start = time.thread_time()
            for _ in range(10_000):
                call(None)
            costs.append(time.thread_time() - start)
        return min(costs)

    assert cost_s(lambda each: count(alone)) < 30 * cost_s(lambda each: None)
