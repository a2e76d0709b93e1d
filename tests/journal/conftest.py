"""A journal in front of a scripted source, small enough to be taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stream_rnn.journal.source import JournaledSource
from stream_rnn.spi import EndOfStream, Event, Guarantee
from stream_rnn.testing import ScriptedSource

Make = Callable[..., JournaledSource]


def drained(source: JournaledSource, max_events: int = 256) -> list[Event]:
    """Every event until two polls in a row bring nothing."""
    events: list[Event] = []
    idle = 0
    while idle < 2:
        try:
            batch = source.poll(max_events, 0.0)
        except EndOfStream:
            break
        idle = 0 if batch.events else idle + 1
        events += batch.events
    return events


@pytest.fixture(name="drained")
def drained_fixture() -> Callable[..., list[Event]]:
    return drained


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Builds sources over the same folder; the one before is closed first."""
    made: list[JournaledSource] = []

    def build(
        script: Sequence[Any], guarantee: Guarantee = Guarantee.ACKABLE, **settings: Any
    ) -> JournaledSource:
        for each in made:
            each.close()
        settings = {"fsync_ms": 0.0} | settings
        made.append(
            JournaledSource(ScriptedSource(script, guarantee), tmp_path / "journal", **settings)
        )
        return made[-1]

    yield build
    for each in made:
        each.close()
