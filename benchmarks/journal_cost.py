"""Events per second through the journal: appended at several group sizes, and replayed.

    python -m benchmarks.journal_cost [--folder .] [--bytes 200]

The source hands out ready-made events, nothing is learned: what remains is the journal. Flushes
cost what the disk of `--folder` takes for them, so measure where the journal will live.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from typing_extensions import override

from stream_rnn.journal.source import JournaledSource
from stream_rnn.spi import Batch, EndOfStream, Event, Position, Source

POLL = 256


class Ready(Source):
    """`n` events of `size` bytes, as fast as they are taken."""

    def __init__(self, n: int, size: int) -> None:
        self._n = n
        self._data = bytes(range(256)) * (size // 256) + bytes(size % 256)
        self._next = 1

    @override
    def open(self, resume: Position | None) -> None:
        self._next = int((resume or {}).get("ready", 0)) + 1

    @override
    def poll(self, max_events: int, timeout_s: float) -> Batch:
        first, stop = self._next, min(self._next + max_events, self._n + 1)
        if first >= stop:
            raise EndOfStream("no more")
        self._next = stop
        events = [Event("ready", n, self._data) for n in range(first, stop)]
        return Batch(events, {"ready": stop - 1})

    @override
    def close(self) -> None:
        """Nothing to close."""


def drain(source: JournaledSource) -> tuple[int, float]:
    """Events and seconds until the end."""
    n, start = 0, time.perf_counter()
    while True:
        try:
            n += len(source.poll(POLL, 0.0).events)
        except EndOfStream:
            return n, time.perf_counter() - start


def measure(folder: Path, fsync_every: int, n: int, size: int) -> tuple[float, float, float]:
    """Microseconds per event live and replayed, and of that in flushes."""
    flushes: list[float] = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        with JournaledSource(Ready(n, size), Path(name), fsync_every=fsync_every) as source:
            assert isinstance(source, JournaledSource)
            source.on_fsync(flushes.append)
            source.open(None)
            n_live, live_s = drain(source)
        with JournaledSource(Ready(n, size), Path(name), fsync_every=fsync_every) as source:
            assert isinstance(source, JournaledSource)
            source.open(None)
            n_again, again_s = drain(source)
        assert n_live == n_again == n
    return live_s / n * 1e6, again_s / n * 1e6, sum(flushes) / n * 1e6


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--bytes", type=int, default=200)
    arguments = parser.parse_args()
    print(
        f"{'fsync_every':>11} {'events/s':>10} {'us/event':>9} {'in flushes':>10} {'replay/s':>10}"
    )
    for fsync_every, n in ((1, 2_000), (100, 100_000), (10_000, 200_000)):
        live, again, flushing = measure(arguments.folder, fsync_every, n, arguments.bytes)
        print(
            f"{fsync_every:>11} {1e6 / live:>10,.0f} {live:>9.2f} {flushing:>10.2f} "
            f"{1e6 / again:>10,.0f}"
        )


if __name__ == "__main__":
    main()
