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
threads by more than 1. Unused objects that refer to each other stay until Python's collector looks,
which the daemon lets it do after 20,000 of them; with `--collect` it looks every second, and what
grows then is kept by somebody.
"""

from __future__ import annotations

import argparse
import gc
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
COLLECT_EVERY = 10  # looks
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
        collects: whether to let the collector look, too.
    """

    def __init__(self, runtime: Runtime, counts: Counts, *, collects: bool = False) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self._runtime = runtime
        self._counts = counts
        self._process = psutil.Process()
        self._collects = collects
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
        if self._collects and self._looks % COLLECT_EVERY == 0:
            gc.collect()
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
    tables: dict[str, Any],
    source: str,
    folder: Path,
    n_events: int | None,
    seconds: float | None,
    *,
    collects: bool = False,
) -> tuple[list[Sample], dict[str, int], Counts]:
    """Run; the samples, what became of the events, and what had been produced."""
    job = app.build(tables)
    store = open_store(folder / "state", 3, fresh=False)
    runtime = make_runtime(job, store, CollectorRegistry(), Console(interactive=False, every_s=60))
    with _fed(source, folder, n_events, seconds) as counts:
        sampler = Sampler(runtime, counts, collects=collects)
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


@dataclass(frozen=True, slots=True)
class Row:
    """One part of the run; medians where it says nothing else."""

    events: int  # by its end
    rate: float
    cpu_us: float
    memory_mb: float
    files: float
    threads: float
    on_the_way: int  # at most


def row_of(part: list[Sample]) -> Row:
    """One line of the table."""
    first, last = part[0], part[-1]
    n = max(1, last.events - first.events)
    return Row(
        last.events,
        n / (last.at_s - first.at_s),
        (last.cpu_s - first.cpu_s) / n * 1e6,
        statistics.median(each.memory_mb for each in part),
        statistics.median(each.files for each in part),
        statistics.median(each.threads for each in part),
        max(each.on_the_way for each in part),
    )


def grown(rows: list[Row], most_mb: float) -> list[str]:
    """What grew by more than is allowed, in words: the last three parts against the 2nd to 4th."""
    late = rows[1:]
    if len(late) < 6:
        return ["the run was too short to say whether anything grows"]
    words = []
    for what, name, most in (
        ("MB of memory", "memory_mb", most_mb),
        ("open files", "files", MOST_FILES),
        ("threads", "threads", MOST_THREADS),
    ):
        values = [getattr(row, name) for row in late]
        before, after = statistics.median(values[:3]), statistics.median(values[-3:])
        if after - before > most:
            words.append(f"{what}: {before:.1f} -> {after:.1f}, at most {most:g} more are allowed")
    return words


def unaccounted(became: dict[str, int], counts: Counts) -> list[str]:
    """Where the daemon's counters and the producer's differ, in words."""
    words = ["the producer failed, see above"] if counts.failed else []
    if sum(became.values()) != counts.produced:
        words.append(f"{counts.produced - sum(became.values())} events are unaccounted for")
    for stage, n in (("decode", counts.undecodable), ("features", counts.unusable)):
        if became[f"rejected {stage}"] != n:
            words.append(f"{n} events should be rejected at {stage}, not what is counted")
    return words


def show(rows: list[Row]) -> None:
    """Print the table and the slopes."""
    print(
        f"{'events':>10}{'events/s':>10}{'cpu us':>8}{'RSS MB':>8}{'files':>7}{'threads':>9}"
        f"{'on the way':>12}"
    )
    for row in rows:
        print(
            f"{row.events:>10}{row.rate:>10.0f}{row.cpu_us:>8.1f}{row.memory_mb:>8.1f}"
            f"{row.files:>7.0f}{row.threads:>9.0f}{row.on_the_way:>12}"
        )
    late = rows[1:]
    if len(late) > 1:
        million = [row.events / 1e6 for row in late]
        slopes = (
            statistics.linear_regression(million, [getattr(row, name) for row in late]).slope
            for name in ("memory_mb", "files", "threads")
        )
        told = zip(("RSS {:+.2f} MB", "files {:+.2f}", "threads {:+.2f}"), slopes, strict=True)
        print("slope per million events: " + ", ".join(text.format(x) for text, x in told))


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=("synthetic", *KINDS), default="synthetic")
    parser.add_argument("--events", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--cell", default="rtu")
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--rule", default="ok", help="of a dense cell")
    parser.add_argument("--most-mb", type=float, default=16.0)
    parser.add_argument(
        "--collect", action="store_true", help="have the collector look each second"
    )
    given = parser.parse_args()
    if given.events is None and given.seconds is None:
        given.events = 1_000_000
    if given.source == "synthetic" and given.events is None:
        parser.error("--source synthetic needs --events")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = tables_of(given.source, folder, given.cell, given.units, given.rule)
        samples, became, counts = watch(
            *(tables, given.source, folder, given.events, given.seconds), collects=given.collect
        )
    rows = [row_of(part) for part in parts_of(samples)]
    show(rows)
    truth = {"produced": counts.produced, "not JSON": counts.undecodable}
    print("truth  ", {**truth, "no value": counts.unusable})
    print("became ", became)
    took_s = samples[-1].at_s - samples[0].at_s
    print(f"{counts.produced} events in {took_s:.0f} s, {counts.produced / took_s:.0f} events/s")
    faults = grown(rows, given.most_mb) + unaccounted(became, counts)
    for fault in faults:
        print(f"FAULT: {fault}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
