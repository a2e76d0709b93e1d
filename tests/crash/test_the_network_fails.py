"""Cut, half open, slow, the sink away: nothing is lost or doubled, and memory stays bounded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.storm.place import CONFIG, Place, differences, finish, undisturbed
from benchmarks.storm.proxy import Proxy
from benchmarks.storm.stream import write_events

pytestmark = pytest.mark.slow
Make = Callable[..., Place]

N_EVENTS = 600
FLAKY = """
import time
from pathlib import Path
from connectors.jsonl import JsonlSink
from stream_rnn.spi import NotConnected

class Flaky(JsonlSink):
    def write(self, records):
        if Path("down").exists():
            raise NotConnected("the sink is down")
        if Path("slow").exists():
            time.sleep(0.005 * len(records))
        super().write(records)
"""


def told(text: str) -> None:
    """Shown with `pytest -rP`."""
    sys.stdout.write(f"{text}\n")


class Growing:
    """A stream that is written while it is read."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "growing.jsonl"
        self.path.touch()
        self._marker = folder / "growing.jsonl.growing"
        self._marker.touch()
        self._n = 0

    def grow(self, to: int) -> None:
        write_events(self.path, self._n + 1, to)
        self._n = to

    def end(self) -> None:
        self._marker.unlink()


@pytest.fixture
def stream(tmp_path: Path) -> Growing:
    return Growing(tmp_path)


def calm_end(make: Make, stream: Growing, n_events: int = N_EVENTS) -> Place:
    place = make("calm", "router", stream.path)
    undisturbed(place, n_events)
    return place


@pytest.mark.parametrize("accident", ["cut", "half open", "delay"])
def test_an_accident_on_the_line_costs_time_and_nothing_else(
    accident: str, make: Make, stream: Growing
) -> None:
    place = make("place", "router", stream.path)
    daemon = place.daemon()
    with Proxy(place.port) as proxy:
        stream.grow(100)
        producer = place.producer(proxy.port)
        place.wait_for(50)
        for to in (300, 500):
            if accident == "cut":
                proxy.cut()
            elif accident == "half open":
                proxy.freeze()
            else:
                proxy.delay_s = 0.05
            stream.grow(to - 20)
            time.sleep(0.5 if accident == "delay" else 2.5)
            if accident != "delay":
                assert place.applied() < to - 20, "the accident did not happen"
                proxy.heal()
            healed = time.monotonic()
            stream.grow(to)
            place.wait_for(to - 20)
            told(f"{accident}: up to date {time.monotonic() - healed:.2f} s after it was over")
        stream.grow(N_EVENTS)
        stream.end()
        finish(place, daemon, N_EVENTS, producer)
    assert differences(place, calm_end(make, stream)) == []


def test_a_producer_that_restarts_goes_on_where_it_was(make: Make, stream: Growing) -> None:
    place = make("place", "spool", stream.path)
    daemon = place.daemon()
    for to in (150, 300, 450):
        producer = place.producer()
        stream.grow(to)
        place.wait_for(to - 100)
        producer.kill()
        producer.wait()
    stream.grow(N_EVENTS)
    stream.end()
    finish(place, daemon, N_EVENTS)
    assert differences(place, calm_end(make, stream)) == []


@pytest.mark.parametrize("kind", ["router", "router+journal"])
def test_a_sink_that_is_down_holds_everything_back_and_loses_nothing(
    kind: str, make: Make, stream: Growing
) -> None:
    config = CONFIG.replace('kind = "jsonl"', 'kind = "flaky:Flaky"')
    place = make("place", kind, stream.path, config=config)
    (place.folder / "flaky.py").write_text(FLAKY)
    daemon = place.daemon()
    stream.grow(100)
    producer = place.producer()
    place.wait_for(50)
    (place.folder / "down").touch()
    n_events = 2000
    stream.grow(n_events)
    time.sleep(1.0)
    before, _ = daemon.size()
    n_told = len(place.lines())
    time.sleep(4.0)
    after, _ = daemon.size()
    assert len(place.lines()) == n_told
    assert place.applied() < 300  # of 2000: they wait where they are
    assert after < before + 8, "memory grows while nobody takes the predictions"
    (place.folder / "slow").touch()
    (place.folder / "down").unlink()
    begin = time.monotonic()
    place.wait_for(400)
    told(f"going on {time.monotonic() - begin:.2f} s after the sink came back")
    (place.folder / "slow").unlink()
    stream.end()
    finish(place, daemon, n_events, producer)

    calm = make("calm", kind, stream.path)
    undisturbed(calm, n_events)
    assert differences(place, calm) == []
