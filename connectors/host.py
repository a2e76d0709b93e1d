"""Live telemetry of this machine, one record per interval."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from types import ModuleType
from typing import ClassVar

import msgspec
from typing_extensions import override

from stream_rnn.spi import (
    Batch,
    Event,
    Finding,
    Guarantee,
    Lag,
    NotConnected,
    Position,
    SettingError,
    Source,
)

log = logging.getLogger(__name__)

_PARTITION = "host"

METRICS = (
    "cpu_percent",  # all cores together, 0..100
    "load1",  # runnable processes, mean over a minute
    "memory_used",  # fraction, 0..1
    "swap_used",  # fraction, 0..1
    "disk_read_bytes_per_s",
    "disk_write_bytes_per_s",
    "net_received_bytes_per_s",
    "net_sent_bytes_per_s",
    "context_switches_per_s",
    "n_processes",
)
"""The fields of a record beside `timestamp` (seconds since the epoch); all are numbers."""


class HostSource(Source):
    """One record of `METRICS` and `timestamp` per interval; no names of users or processes.

    The machine does not repeat itself: what was measured and is not in a snapshot is lost when the
    daemon is killed. Positions count records and go on where the last run stopped. After a pause
    the intervals that passed meanwhile are skipped and counted as `intervals_missed`.

    Args:
        interval_s: seconds from one record to the next; rates are means over it.
    """

    guarantee = Guarantee.FIRE_AND_FORGET
    metrics: ClassVar[tuple[str, ...]] = METRICS

    def __init__(self, interval_s: float = 1.0) -> None:
        if not 0.01 <= interval_s <= 86_400:
            raise SettingError(f"interval_s: must be from 0.01 to 86400, got {interval_s}")
        self._psutil = _psutil()
        self._interval_s = interval_s
        self._encoder = msgspec.json.Encoder()
        self._position = 0
        self._missed = 0
        self._due_s: float | None = None
        self._before: dict[str, float] = {}
        self._before_s = 0.0

    @override
    def open(self, resume: Position | None) -> None:
        # Never backwards: what was delivered since cannot be measured again.
        self._position = max(self._position, int((resume or {}).get(_PARTITION, 0)))
        for finding in self.check(resume):
            if not finding.ok:
                log.warning("%s", finding.text)
        self._before = self._totals()
        self._before_s = time.monotonic()
        self._psutil.cpu_percent(interval=None)  # the first call only sets the start
        self._due_s = self._before_s + self._interval_s

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        if self._due_s is None:
            raise NotConnected("the host source is not open")
        wait_s = self._due_s - time.monotonic()
        if wait_s > timeout_s:
            time.sleep(timeout_s)
            return Batch((), {_PARTITION: self._position})
        if wait_s > 0:
            time.sleep(wait_s)
        now_s = time.monotonic()
        missed = int((now_s - self._due_s) / self._interval_s)
        self._missed += missed
        self._due_s += (missed + 1) * self._interval_s
        self._position += 1
        timestamp = time.time()
        data = self._encoder.encode({"timestamp": timestamp, **self._measure(now_s)})
        event = Event(_PARTITION, self._position, data, timestamp=timestamp)
        return Batch([event], {_PARTITION: self._position})

    def _totals(self) -> dict[str, float]:
        """What only ever grows. A container without disks or network shows none: 0."""
        disk = self._psutil.disk_io_counters()
        net = self._psutil.net_io_counters()
        return {
            "disk_read_bytes_per_s": disk.read_bytes if disk else 0,
            "disk_write_bytes_per_s": disk.write_bytes if disk else 0,
            "net_received_bytes_per_s": net.bytes_recv if net else 0,
            "net_sent_bytes_per_s": net.bytes_sent if net else 0,
            "context_switches_per_s": self._psutil.cpu_stats().ctx_switches,
        }

    def _measure(self, now_s: float) -> dict[str, float]:
        totals = self._totals()
        elapsed_s = max(now_s - self._before_s, 1e-6)
        # A disk or interface that was removed takes its count along: 0, not a negative rate.
        rates = {
            name: max(0.0, (total - self._before[name]) / elapsed_s)
            for name, total in totals.items()
        }
        self._before, self._before_s = totals, now_s
        return {
            "cpu_percent": self._psutil.cpu_percent(interval=None),
            "load1": self._psutil.getloadavg()[0],
            "memory_used": self._psutil.virtual_memory().percent / 100,
            "swap_used": self._psutil.swap_memory().percent / 100,
            **rates,
            "n_processes": len(self._psutil.pids()),
        }

    @override
    def lag(self) -> Lag | None:
        return Lag(events=0)

    @override
    def check(self, resume: Position | None) -> list[Finding]:
        counted = {
            "disk": self._psutil.disk_io_counters(),
            "network": self._psutil.net_io_counters(),
        }
        return [
            Finding(
                counters is not None, f"{name} counters {'are' if counters else 'are not'} here"
            )
            for name, counters in counted.items()
        ]

    @override
    def counters(self) -> Mapping[str, int]:
        return {"intervals_missed": self._missed}

    @override
    def describe(self) -> str:
        return f"telemetry of this machine, every {self._interval_s:g} s"

    @override
    def close(self) -> None:
        self._due_s = None


def _psutil() -> ModuleType:
    try:
        import psutil
    except ImportError as error:
        raise SettingError(
            'kind: the host source needs psutil; pip install "stream-rnn[host]"'
        ) from error
    return psutil  # type: ignore[no-any-return,unused-ignore]
