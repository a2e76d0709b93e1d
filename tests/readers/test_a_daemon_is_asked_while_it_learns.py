"""A real daemon, asked a thousand times a second, learns to the bit what it learns by itself."""

from __future__ import annotations

import pytest

from benchmarks import readers


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("over", "apart"), [("zeromq", False), ("zeromq", True), ("http", True)])
def test_a_thousand_requests_a_second_change_no_bit(over: str, apart: bool) -> None:
    setting = readers.Setting("lstm", units=8, native="off", over=over, apart=apart)
    events = 6000 if apart else 2500  # some seconds, a process of readers' start included
    alone, asked = readers.measure(events, setting, 1000.0)
    print(readers.table([alone, asked], [1000.0]))  # noqa: T201
    assert asked.state == alone.state
    assert len(alone.state) > 1000
    assert alone.statuses == {}
    assert asked.statuses["200"] > 200
    assert set(asked.statuses) <= {"200", "429", "503", "broken off"}  # 503: before the first event
    assert asked.statuses["broken off"] <= 2 * readers.CONNECTIONS  # as the daemon leaves
