"""Many events through the whole daemon: is anything lost, does anything grow?

    python -m benchmarks.soak --source file --seconds 900      # or router, journal
    python -m benchmarks.soak --source synthetic --events 1000000

Another process produces (`file`: a followed file that is rotated every 8 MB; `router`: a numbered,
acknowledged stream; `journal`: ZeroMQ PULL behind a journal), two of a thousand events cannot be
used, a snapshot is taken every second, predictions are written and rotated. In ten equal parts of
the run: events/s, processor time per event, resident memory, open files, threads, and how many
events were on their way. Slopes are fitted by least squares without the first part (warm-up).

Exits with 1 if an event is unaccounted for at the end, or if something grew: memory by more than
`--most-mb` (the last three parts against the second to fourth), open files by more than 4 or
threads by more than 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry

from benchmarks.feeding import Counts, producing
from stream_rnn import app
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.resuming import open_store
from stream_rnn.runtime.loop import Runtime

PARTS = 10
SAMPLE_S = 0.1  # between two looks ...
MOST_SAMPLES = 1000  # ... of which so many are kept: the observer must not be what grows
STALLED_S = 60.0  # without progress although events are due: they are lost
MOST_FILES, MOST_THREADS = 4, 1
KINDS = {"file": "file", "router": "router", "journal": "push"}


@dataclass(slots=True)
class Sample:
    """One look at the process."""

    at_s: float
    events: int
    on_the_way: int
    cpu_s: float
    memory_mb: float
    files: int
    threads: int


class Sampler(threading.Thread):
    """Looks at the run from beside it, tells the producer how far it is, and ends it.

    Args:
        runtime: told to stop once all that was produced is accounted for.
        counts: shared with the producer.
    """

    def __init__(self, runtime: Runtime, counts: Counts) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._runtime = runtime
        self._counts = counts
        self._process = psutil.Process()
        self._over = threading.Event()
        self._moved = (time.monotonic(), 0)
        self._looks, self._every = 0, 1  # of so many looks one is kept

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self.look()
            if len(self.samples) >= MOST_SAMPLES:
                self.samples[:] = self.samples[::2]
                self._every *= 2
            counts, now = self._counts, time.monotonic()
            if counts.handled > self._moved[1]:
                self._moved = (now, counts.handled)
            is_lost = now - self._moved[0] > STALLED_S
            if is_lost or counts.failed or (counts.done and counts.handled >= counts.produced):
                self._runtime.stop()

    def look(self) -> None:
        """Take a sample."""
        counts, process = self._counts, self._process
        counts.handled = handled = sum(accounted(self._runtime).values())
        self._looks += 1
        if self._looks % self._every and not self._over.is_set():
            return
        with process.oneshot():
            cpu = process.cpu_times()
            self.samples.append(
                Sample(
                    time.monotonic(),
                    handled,
                    counts.produced - handled,
                    cpu.user + cpu.system,
                    process.memory_info().rss / 1e6,
                    process.num_fds(),
                    process.num_threads(),
                )
            )

    def end(self) -> None:
        """No further sample."""
        self._over.set()
        self.join()


def accounted(runtime: Runtime) -> dict[str, int]:
    """What became of the events."""
    counts = runtime.engine.counts
    became = {"applied": counts.applied}
    became |= {f"rejected {stage}": n for stage, n in dict(counts.rejected).items()}
    shed = sum(dict(runtime.intake.shed).values())
    return became | {"shed": shed, "duplicates": runtime.metrics.duplicates_dropped}


def tables_of(source: str, folder: Path, cell: str, units: int, rule: str) -> dict[str, Any]:
    """The configuration."""
    learner: dict[str, Any] = {"cell": {"kind": cell, "units": units}, "fallback": False}
    if cell not in ("lru", "rtu", "elstm"):
        learner["credit"] = {"kind": rule, **({"rank": 1} if rule == "ok" else {})}
    tables: dict[str, Any] = {
        "task": {"kind": "forecast", "target": "value", "horizon": 3},
        "learner": learner,
        "sink": [{"kind": "jsonl", "path": f"{folder}/p.jsonl", "max_bytes": 1 << 24, "keep": 1}],
        "state": {"dir": f"{folder}/state", "every_s": 1.0},
        "dead_letter": {"max_bytes": 1 << 20},
    }
    address = f"ipc://{folder}/events"
    if source == "synthetic":
        tables["source"] = {"kind": "synthetic", "signal": "sines", "n": 1 << 60}
    elif source == "file":
        tables["source"] = {"kind": "jsonl", "path": f"{folder}/events.jsonl", "follow": True}
    elif source == "router":
        tables["source"] = {"kind": "zeromq_router", "address": address}
    else:
        tables["source"] = {"kind": "zeromq", "address": address, "bind": True}
        tables["journal"] = {"segment_bytes": 1 << 22, "max_bytes": 1 << 28}
    return tables


def watch(
    tables: dict[str, Any], source: str, folder: Path, n_events: int | None, seconds: float | None
) -> tuple[list[Sample], dict[str, int], Counts]:
    """Run; the samples, what became of the events, and what had been produced."""
    job = app.build(tables)
    store = open_store(folder / "state", 3, fresh=False)
    runtime = make_runtime(job, store, CollectorRegistry(), Console(interactive=False, every_s=60))
    with _fed(source, folder, n_events, seconds) as counts:
        sampler = Sampler(runtime, counts)
        sampler.start()
        try:
            runtime.run(n_events if source == "synthetic" else None)
        finally:
            sampler.end()
        if source == "synthetic":
            counts.produced = job.engine.ordinal
        sampler.look()
    store.close()
    return sampler.samples, accounted(runtime), counts


@contextmanager
def _fed(
    source: str, folder: Path, n_events: int | None, seconds: float | None
) -> Iterator[Counts]:
    if source == "synthetic":  # no other process: it is asked for its events
        yield Counts()
        return
    place = f"ipc://{folder}/events"
    if source == "file":
        place = f"{folder}/events.jsonl"
        Path(place).touch()
    with producing(KINDS[source], place, n_events, seconds) as counts:  # type: ignore[arg-type]
        yield counts


def parts_of(samples: list[Sample]) -> list[list[Sample]]:
    """The samples in ten parts with as many events each."""
    last = samples[-1].events
    parts: list[list[Sample]] = [[] for _ in range(PARTS)]
    for sample in samples:
        if sample.events:
            parts[min(PARTS - 1, sample.events * PARTS // max(last, 1))].append(sample)
    return [part for part in parts if len(part) > 1]


def show(parts: list[list[Sample]]) -> list[str]:
    """Print the table; what grew, in words."""
    print(
        f"{'events':>10}{'events/s':>10}{'cpu us':>8}{'RSS MB':>8}{'files':>7}{'threads':>9}"
        f"{'on the way':>12}"
    )
    middle: list[tuple[float, float, float, float]] = []
    for part in parts:
        first, last = part[0], part[-1]
        n = max(1, last.events - first.events)
        row = tuple(
            statistics.median(getattr(each, name) for each in part)
            for name in ("memory_mb", "files", "threads")
        )
        middle.append((last.events / 1e6, *row))
        print(
            f"{last.events:>10}{n / (last.at_s - first.at_s):>10.0f}"
            f"{(last.cpu_s - first.cpu_s) / n * 1e6:>8.1f}"
            f"{row[0]:>8.1f}{row[1]:>7.0f}{row[2]:>9.0f}"
            f"{max(each.on_the_way for each in part):>12}"
        )
    late = middle[1:]
    if len(late) < 6:
        return ["the run was too short to say whether anything grows"]
    million = [row[0] for row in late]
    slopes = [statistics.linear_regression(million, [r[i] for r in late]).slope for i in (1, 2, 3)]
    print(
        f"slope per million events: RSS {slopes[0]:+.2f} MB, files {slopes[1]:+.2f}, "
        f"threads {slopes[2]:+.2f}"
    )
    grown = []
    for i, (what, most) in enumerate(
        (("MB of memory", MOST_MB), ("open files", MOST_FILES), ("threads", MOST_THREADS)), 1
    ):
        before = statistics.median(row[i] for row in late[:3])
        after = statistics.median(row[i] for row in late[-3:])
        if after - before > most:
            grown.append(f"{what}: {before:.1f} -> {after:.1f}, at most {most} more are allowed")
    return grown


MOST_MB = 16.0


def main() -> None:
    """Entry point."""
    global MOST_MB  # noqa: PLW0603
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=("synthetic", *KINDS), default="synthetic")
    parser.add_argument("--events", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--cell", default="rtu")
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--rule", default="ok", help="of a dense cell")
    parser.add_argument("--most-mb", type=float, default=MOST_MB)
    given = parser.parse_args()
    MOST_MB = given.most_mb
    if given.events is None and given.seconds is None:
        given.events = 1_000_000
    if given.source == "synthetic" and given.events is None:
        parser.error("--source synthetic needs --events")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = tables_of(given.source, folder, given.cell, given.units, given.rule)
        samples, became, counts = watch(tables, given.source, folder, given.events, given.seconds)
    faults = show(parts_of(samples))
    truth = {"produced": counts.produced, "not JSON": counts.undecodable}
    print("truth  ", {**truth, "no value": counts.unusable})
    print("became ", became)
    took_s = samples[-1].at_s - samples[0].at_s
    print(f"{counts.produced} events in {took_s:.0f} s, {counts.produced / took_s:.0f} events/s")
    if counts.failed:
        faults.append("the producer failed, see above")
    if sum(became.values()) != counts.produced:
        faults.append(f"{counts.produced - sum(became.values())} events are unaccounted for")
    if became["rejected decode"] != counts.undecodable:
        faults.append("not what was undecodable was rejected as that")
    if became["rejected features"] != counts.unusable:
        faults.append("not what had no value was rejected as that")
    for fault in faults:
        print(f"FAULT: {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
