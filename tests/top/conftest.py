"""A daemon's HTTP side with scripted numbers, and a screen over it, as fixtures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from textual.pilot import Pilot

from stream_rnn.http.bounded import Bounds
from stream_rnn.http.pages import pages
from stream_rnn.http.server import HttpServer
from stream_rnn.metrics import Metrics
from stream_rnn.top import asking
from stream_rnn.top.place import Place, parse
from stream_rnn.top.poller import Poller
from stream_rnn.top.screen import Top

EVERY_S = 0.05
PATIENCE_S = 60.0  # for what comes in milliseconds unless the machine is very busy
BOUNDS = Bounds(poll_s=0.01, patience_s=PATIENCE_S)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that is slow because the machine is does not count as silent."""
    monkeypatch.setattr(asking, "PATIENCE_S", PATIENCE_S)


class Scripted:
    """What the two pages say; tests change it."""

    def __init__(self, port: int = 0) -> None:
        registry = CollectorRegistry()
        self.metrics = m = Metrics(registry, baselines=("persistence", "mean"))
        m.prequential_loss = 2.5
        m.baseline_loss = {"persistence": 5.0, "mean": 9.0}
        m.lag_events, m.lag_seconds = 1234, 7.0
        m.events_applied = 56_789
        m.events_rejected["decode"] = 12
        m.duplicates_dropped = 3
        m.snapshot_age_seconds = lambda: 4.0
        m.snapshot_bytes, m.snapshot_seconds, m.snapshot_failures = 1.5e6, 0.25, 2
        m.parameters = 4386
        m.guarantee_info = (("source", "replayable"),)
        m.build_info = (("0.1.0", "2.13"),)
        self.status: dict[str, Any] = {
            "source": "lines of power.jsonl",
            "guarantee": "replayable",
            "task": "forecast load 3 events ahead",
            "rule": "rtrl",
            "fallback_level": 0,
            "fallback_reason": "calm",
            "events_per_s": 321.0,
            "ready": [],
            "letters": [],
            "execution": {"device": "cpu", "path": "native: rtrl of lstm", "torch": "2.13"},
            "model": {"learner": {"cell": {"kind": "lstm", "units": 32}}},
        }
        self.asked: list[str] = []
        routes = pages(registry, self._status, list, list)
        self.server = HttpServer(
            f"127.0.0.1:{port}", routes, bounds=Bounds(poll_s=0.01, patience_s=60.0)
        )

    def _status(self) -> dict[str, Any]:
        self.asked.append("/status")
        return self.status

    @property
    def place(self) -> Place:
        return parse(f"127.0.0.1:{self.server.port}")


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    daemon = Scripted()
    with daemon.server:
        yield daemon


class Screen:
    """A screen under a test's hands."""

    def __init__(self, app: Top, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    def lines(self) -> list[str]:
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip) for strip in strips]

    def text(self) -> str:
        return "\n".join(self.lines())

    async def press(self, *keys: str) -> None:
        """Press keys; the pilot's own way waits for an idle process, which a poller is not."""
        for key in keys:
            self.app.simulate_key(key)
            await asyncio.sleep(0.05)

    async def until(self, words: str, is_there: bool = True) -> str:
        """Wait until the screen has the words, or has them no more; returns it."""
        end = time.monotonic() + PATIENCE_S
        while (words in self.text()) is not is_there:
            assert time.monotonic() < end, f"{words!r} {'not' * is_there} on:\n{self.text()}"
            await asyncio.sleep(0.02)
        return self.text()


@pytest.fixture
def watching() -> Callable[..., None]:
    """Run a test's coroutine with a screen over a place."""

    def run(
        place: Place,
        play: Callable[[Screen], Awaitable[None]],
        size: tuple[int, int] = (120, 40),
        **options: Any,
    ) -> None:
        async def main() -> None:
            every_s = options.get("every_s", EVERY_S)
            poller = Poller(place, options.get("letters"), every_s)
            clock = options.get("clock", time.monotonic)
            app = Top(
                place,
                poller,
                options.get("state"),
                clock=clock,
                slot_s=EVERY_S,
                look_every_s=EVERY_S / 2,
            )
            async with app.run_test(size=size) as pilot:
                await play(Screen(app, pilot))

        asyncio.run(main())

    return run
