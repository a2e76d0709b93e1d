"""Many events through the whole daemon: is memory flat, is the time per event flat?

    python -m benchmarks.soak --events 1000000

Prints resident memory and the median time per event in ten equal parts of the run, and the slope of
each over a million events, fitted by least squares without the first part (warm-up).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.frames import Tick
from stream_rnn.resuming import open_store

PARTS = 10


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--units", type=int, default=16)
    parser.add_argument("--rule", default="ok")
    arguments = parser.parse_args()
    credit: dict[str, Any] = {"kind": arguments.rule}
    if arguments.rule == "ok":
        credit["rank"] = 1
    with tempfile.TemporaryDirectory() as folder:
        tables = {
            "source": {"kind": "synthetic", "signal": "sines", "n": arguments.events},
            "task": {"kind": "forecast", "target": "value", "horizon": 3},
            "learner": {
                "kind": "auto",
                "cell": {"kind": "gru", "units": arguments.units},
                "credit": credit,
            },
            "sink": [
                {"kind": "jsonl", "path": f"{folder}/p.jsonl", "max_bytes": 1 << 24, "keep": 1}
            ],
            "state": {"dir": f"{folder}/state", "every_s": 10},
        }
        watch(tables, arguments.events, Path(folder))


def watch(tables: dict[str, Any], n_events: int, folder: Path) -> None:
    """Run and print."""
    job = app.build(tables)
    store = open_store(folder / "state", 3, fresh=False)
    runtime = make_runtime(job, store, CollectorRegistry(), Console())
    process, part = psutil.Process(), max(1, n_events // PARTS)
    ticks: list[float] = []
    rows: list[tuple[int, float, float]] = []
    inner = job.engine.on_tick

    def on_tick(tick: Tick) -> None:
        inner(tick)
        ticks.append(tick.seconds)
        if len(ticks) == part:
            memory_mb = process.memory_info().rss / 1e6
            rows.append((job.engine.step, memory_mb, statistics.median(ticks) * 1e6))
            ticks.clear()

    job.engine.on_tick = on_tick
    start = time.perf_counter()
    runtime.run(n_events)
    seconds = time.perf_counter() - start
    store.close()
    print(f"{'events':>10}{'RSS MB':>10}{'us/tick':>10}")
    for events, memory_mb, tick_us in rows:
        print(f"{events:>10}{memory_mb:>10.1f}{tick_us:>10.1f}")
    late = rows[1:]
    if len(late) > 1:
        million = [events / 1e6 for events, _, _ in late]
        memory = statistics.linear_regression(million, [m for _, m, _ in late]).slope
        tick = statistics.linear_regression(million, [t for _, _, t in late]).slope
        print(f"slope per million events: RSS {memory:+.2f} MB, median tick {tick:+.2f} us")
    print(f"{n_events} events in {seconds:.0f} s, {n_events / seconds:.0f} events/s")


if __name__ == "__main__":
    main()
