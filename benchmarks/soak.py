"""Many events through the whole daemon: is memory flat, is the time per event flat?

    python -m benchmarks.soak --events 1000000

Prints resident memory and the median time per tick in ten equal parts of the run, beside a fixed
matrix product timed every hundred ticks (shared machines change speed: read the ratio), and
the slopes over a million events, fitted by least squares without the first part (warm-up). One rule
throughout: the fallback is off, so that a change of rule is not taken for a change of speed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.engine.frames import Tick
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
                "fallback": False,
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
    fixed: list[float] = []
    rows: list[tuple[int, float, float, float]] = []
    inner = job.engine.on_tick
    matrix = torch.ones(96, 96)

    def on_tick(tick: Tick) -> None:
        inner(tick)
        ticks.append(tick.seconds)
        if len(ticks) % 100 == 0:
            begin = time.perf_counter()
            torch.mm(matrix, matrix)
            fixed.append(time.perf_counter() - begin)
        if len(ticks) == part:
            memory_mb = process.memory_info().rss / 1e6
            tick_us = statistics.median(ticks) * 1e6
            rows.append((job.engine.step, memory_mb, tick_us, statistics.median(fixed) * 1e6))
            ticks.clear()
            fixed.clear()

    job.engine.on_tick = on_tick
    start = time.perf_counter()
    runtime.run(n_events)
    seconds = time.perf_counter() - start
    store.close()
    print(f"{'events':>10}{'RSS MB':>10}{'us/tick':>10}{'fixed us':>10}{'ratio':>8}")
    for events, memory_mb, tick_us, fixed_us in rows:
        ratio = tick_us / fixed_us
        print(f"{events:>10}{memory_mb:>10.1f}{tick_us:>10.1f}{fixed_us:>10.2f}{ratio:>8.1f}")
    late = rows[1:]
    if len(late) > 1:
        million = [events / 1e6 for events, *_ in late]
        memory = statistics.linear_regression(million, [m for _, m, _, _ in late]).slope
        ratios = [tick_us / fixed_us for *_, tick_us, fixed_us in late]
        ratio = statistics.linear_regression(million, ratios).slope / statistics.mean(ratios)
        print(f"slope per million events: RSS {memory:+.2f} MB, tick / fixed product {ratio:+.1%}")
    print(f"{n_events} events in {seconds:.0f} s, {n_events / seconds:.0f} events/s")


if __name__ == "__main__":
    main()
