import json
import math
import time

import pytest

from connectors.host import METRICS, HostSource
from stream_rnn.spi import NotConnected, SettingError
from stream_rnn.testing import check_source


def test_the_source_conforms() -> None:
    check_source(lambda: HostSource(interval_s=0.02), expected=None, slack_s=30.0)


def test_a_record_holds_every_metric_as_a_number_and_the_time() -> None:
    with HostSource(interval_s=0.02) as source:
        source.open(None)
        began = time.time()
        (event,) = source.poll(10, 60.0).events
    record = json.loads(event.data)
    assert set(record) == {"timestamp", *METRICS}
    assert all(math.isfinite(record[name]) and record[name] >= 0 for name in METRICS)
    assert began - 1.0 < record["timestamp"] < time.time() + 1.0
    assert event.timestamp == record["timestamp"]


def test_a_poll_before_the_interval_is_over_is_empty() -> None:
    with HostSource(interval_s=60) as source:
        source.open({"host": 7})
        batch = source.poll(10, 0.01)
    assert not batch.events
    assert batch.resume == {"host": 7}


def test_intervals_that_passed_in_a_pause_are_skipped_and_counted() -> None:
    with HostSource(interval_s=0.02) as source:
        source.open(None)
        time.sleep(0.1)
        assert len(source.poll(10, 60.0).events) == 1
        assert source.counters()["intervals_missed"] >= 3


def test_numbering_continues_after_the_position_resumed_from() -> None:
    with HostSource(interval_s=0.01) as source:
        source.open({"host": 41})
        assert source.poll(1, 60.0).events[0].position == 42
        source.open({"host": 41})  # as after a broken connection, with an older snapshot
        assert source.poll(1, 60.0).events[0].position == 43


@pytest.mark.parametrize("interval_s", [0.0, -1.0, math.nan, math.inf])
def test_a_wrong_interval_is_refused(interval_s: float) -> None:
    with pytest.raises(SettingError, match=r"^interval_s: must be from 0.01"):
        HostSource(interval_s)


def test_without_psutil_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psutil", None)
    with pytest.raises(SettingError, match=r'pip install "stream-rnn\[host\]"'):
        HostSource()


def test_reading_a_source_that_is_not_open_says_so() -> None:
    with pytest.raises(NotConnected):
        HostSource().poll(1, 0.0)
