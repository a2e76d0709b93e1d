import json
import time
from typing import Any

import pytest

from connectors.synthetic import SyntheticSource
from stream_rnn.spi import EndOfStream, Lag, SettingError
from stream_rnn.testing import check_source

SIGNALS = ("sines", "ar", "copy")


def _take(n: int, after: int | None = None, **settings: Any) -> list[dict[str, float]]:
    with SyntheticSource(**settings) as source:
        source.open(None if after is None else {"synthetic": after})
        return [json.loads(event.data) for event in source.poll(n, 1.0).events]


@pytest.mark.parametrize("signal", SIGNALS)
def test_the_source_conforms(signal: Any) -> None:
    expected = [json.dumps(r, separators=(",", ":")).encode() for r in _take(50, signal=signal)]
    check_source(lambda: SyntheticSource(signal, n=50), expected=expected, slack_s=30.0)


@pytest.mark.parametrize("signal", SIGNALS)
def test_an_endless_source_conforms(signal: Any) -> None:
    check_source(lambda: SyntheticSource(signal), expected=None, n_events=30, slack_s=30.0)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("after", [500, 1022, 1023, 1024, 2500])
def test_the_stream_can_be_taken_up_anywhere(signal: str, after: int) -> None:
    whole = _take(3000, signal=signal)
    assert _take(3000 - after - 1, after=after, signal=signal) == whole[after + 1 :]


@pytest.mark.parametrize("signal", SIGNALS)
def test_taking_up_a_stream_after_a_year_costs_nothing(signal: str) -> None:
    began = time.process_time()
    (record,) = _take(1, after=30_000_000_000, signal=signal)
    assert record["t"] == 30_000_000_001
    assert time.process_time() - began < 10.0  # one by one it would take hours


def test_another_seed_is_another_stream() -> None:
    assert _take(20, seed=1) != _take(20, seed=2)
    assert _take(20, seed=1) == _take(20, seed=1)


@pytest.mark.parametrize("signal", SIGNALS)
def test_values_vary_and_stay_within_bounds(signal: str) -> None:
    values = [record["value"] for record in _take(20_000, signal=signal)]
    assert max(values) - min(values) >= 1.0
    # The ar signal is driven by at most 0.5 through a filter whose impulse response sums to < 150.
    assert max(map(abs, values)) < 75


def test_copy_says_everything_twice() -> None:
    values = [record["value"] for record in _take(160, signal="copy")]
    blocks = [tuple(values[n : n + 16]) for n in range(0, 160, 16)]
    assert all(block[:8] == block[8:] for block in blocks)
    assert set(values) == {0.0, 1.0}
    assert len(set(blocks)) >= 7  # of ten draws of 256


def test_the_ar_signal_does_not_jump_where_a_block_begins() -> None:
    values = [record["value"] for record in _take(10_300, signal="ar")]
    # What the recursion leaves unexplained is the noise, at most 0.5, here and everywhere.
    rest = [c - 1.8 * b + 0.96 * a for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    assert max(map(abs, rest)) < 0.75


def test_the_stream_ends_after_n_events() -> None:
    with SyntheticSource(n=3) as source:
        source.open(None)
        assert len(source.poll(10, 0.0).events) == 3
        assert source.lag() == Lag(events=0)
        with pytest.raises(EndOfStream):
            source.poll(10, 0.0)


def test_a_rate_is_kept() -> None:
    with SyntheticSource(rate_hz=200) as source:
        source.open(None)
        began, n = time.monotonic(), 0
        for _ in range(10):
            before_s = time.monotonic() - began  # a busy machine may pause us anywhere
            n += len(source.poll(1000, 0.02).events)
        after_s = time.monotonic() - began
    assert 0.5 * 200 * before_s - 2 <= n <= 200 * after_s + 2


def test_a_rate_slower_than_the_timeout_gives_empty_polls() -> None:
    with SyntheticSource(rate_hz=1) as source:
        source.open(None)
        assert source.poll(10, 0.01).events == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"signal": "noise"}, "signal: expected one of sines, ar, copy"),
        ({"n": -1}, "n: must"),
        ({"rate_hz": 0.0}, "rate_hz: must be positive"),
    ],
    ids=["signal", "n", "rate_hz"],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=f"^{message}"):
        SyntheticSource(**settings)
