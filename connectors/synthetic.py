"""Made-up signals: a stream of any length that anyone can reproduce from its seed."""

from __future__ import annotations

import math
import time
from typing import Literal

from typing_extensions import override

from stream_rnn.spi import (
    Batch,
    EndOfStream,
    Event,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    SettingError,
    Source,
    worded,
)

_PARTITION = "synthetic"
_MASK = (1 << 64) - 1
_AR_BLOCK = 1024
_AR_WARM_UP = 256  # 0.98^256 = 0.006: what is forgotten at a block's start is below the noise
_COPY_LENGTH = 8
_MAX_PACED = 1024  # what one poll may catch up with after a pause


class SyntheticSource(Source):
    """The records `{"t": 0, "value": ...}`, `{"t": 1, ...}`, ...; `t` is the position.

    A value depends on `seed` and `t` alone, so that the stream can be taken up anywhere at no cost.

    Args:
        signal: "sines" is three waves of unrelated periods in a little noise, "ar" a noisy, damped
            oscillation (an autoregressive process of order 2), "copy" eight random bits and then
            the same eight again: only a memory of eight steps predicts the second half.
        n: how many events; None = without end.
        seed: another seed, another stream.
        rate_hz: events per second; None = as fast as they are asked for.
    """

    guarantee = Guarantee.REPLAYABLE

    def __init__(
        self,
        signal: Literal["sines", "ar", "copy"] = "sines",
        n: int | None = None,
        seed: int = 0,
        rate_hz: float | None = None,
    ) -> None:
        values = {"sines": self._sines, "ar": self._ar, "copy": self._copy}
        if signal not in values:
            raise SettingError(f"signal: expected one of {', '.join(values)}, got {signal!r}")
        if n is not None and n < 0:
            raise SettingError(f"n: must be at least 0, got {n}")
        if rate_hz is not None and not (0 < rate_hz < math.inf):
            raise SettingError(f"rate_hz: must be positive, got {rate_hz}")
        self._signal = signal
        self._value = values[signal]
        self._n = n
        self._seed = _mixed(seed & _MASK)
        self._phases = [math.tau * self._noise(-1 - k) for k in range(3)]
        self._rate_hz = rate_hz
        self._ar_state = (-1, 0.0, 0.0)  # t, value at t, value at t - 1
        self._next: int | None = None
        self._resume: Position = {}
        self._started_at_s = 0.0
        self._started_at_t = 0

    @override
    def open(self, resume: Position | None) -> None:
        applied = (resume or {}).get(_PARTITION)
        if applied is not None and not (isinstance(applied, int) and applied >= 0):
            raise SettingError(
                f"the resume position {str(applied)[:40]!r} counts no events: the snapshot is of "
                "another source; give this one its own [state] dir, or start with --fresh"
            )
        self._resume = {} if applied is None else {_PARTITION: applied}
        self._next = 0 if applied is None else int(applied) + 1
        self._started_at_s = time.monotonic()
        self._started_at_t = self._next

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self._next is None:
            raise NotConnected("the synthetic source is not open")
        count = max_events if self._n is None else min(max_events, self._n - self._next)
        if count <= 0:
            raise EndOfStream(f"all {self._n} synthetic events were delivered")
        if self._rate_hz is not None:
            count = min(count, self._due(self._rate_hz, timeout_s))
        first, value = self._next, self._value
        events = [
            Event(_PARTITION, t, b'{"t":%d,"value":%b}' % (t, repr(value(t)).encode()))
            for t in range(first, first + count)
        ]
        self._next = first + count
        if events:
            self._resume = {_PARTITION: events[-1].position}
        return Batch(events, self._resume)

    def _due(self, rate_hz: float, timeout_s: float) -> int:
        """How many events have come due; waits for the first of them, at most `timeout_s`."""
        assert self._next is not None
        elapsed_s = time.monotonic() - self._started_at_s
        due = self._started_at_t + int(elapsed_s * rate_hz) - self._next
        if due > _MAX_PACED:  # after a long pause: go on from here, no burst
            self._started_at_s, self._started_at_t = time.monotonic(), self._next + _MAX_PACED
            return _MAX_PACED
        if due < 1:
            wait_s = (self._next + 1 - self._started_at_t) / rate_hz - elapsed_s
            time.sleep(max(0.0, min(wait_s, timeout_s)))
            due = int(wait_s <= timeout_s)
        return due

    def _noise(self, t: int) -> float:
        """Uniform in [0, 1), from the seed and `t` alone (splitmix64's mixer)."""
        return _mixed(self._seed + t * 0x9E3779B97F4A7C15 & _MASK) / 2.0**64

    def _sines(self, t: int) -> float:
        a, b, c = self._phases
        waves = math.sin(t / 7.3 + a) + 0.5 * math.sin(t / 19.1 + b) + 0.3 * math.sin(t / 53.9 + c)
        return waves + 0.05 * (self._noise(t) - 0.5)

    def _ar(self, t: int) -> float:
        """The recursion starts afresh at every block, from a warm-up of its own."""
        last, value, before = self._ar_state
        if t != last + 1 or t % _AR_BLOCK == 0:
            last, value, before = t - t % _AR_BLOCK - _AR_WARM_UP - 1, 0.0, 0.0
        for s in range(last + 1, t + 1):
            value, before = 1.8 * value - 0.96 * before + self._noise(s) - 0.5, value
        self._ar_state = (t, value, before)
        return value

    def _copy(self, t: int) -> float:
        block, place = divmod(t, 2 * _COPY_LENGTH)
        return float(self._noise(block * _COPY_LENGTH + place % _COPY_LENGTH) >= 0.5)

    @override
    def lag(self) -> Lag | None:
        return Lag(events=0) if self._next is not None and self._next == self._n else None

    @override
    def describe(self) -> str:
        count = "without end" if self._n is None else f"{self._n} {worded(self._n, 'event')}"
        return f"the synthetic signal {self._signal!r}, {count}"

    @override
    def close(self) -> None:
        self._next = None


def _mixed(bits: int) -> int:
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & _MASK
    return bits ^ bits >> 31
