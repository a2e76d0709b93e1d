"""What snapshots, written by a thread of their own, do to the time of a step.

    python -m benchmarks.snapshot_cost [--cell lstm] [--units 32] [--every-s 1] [--seconds 15]

A daemon in this process learns a made-up signal as fast as it can, one event a poll, with snapshots
and without, in turns. *Step* is what the histogram `stream_rnn_tick_seconds` takes down; *event* is
from the end of one step to the end of the next, so that the copy of the state, which is made
between two steps, is in it, and whatever else the daemon does there. The first tenth of a run is
not counted. One clock for all: `time.perf_counter`.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from prometheus_client import CollectorRegistry

from stream_rnn import app
from stream_rnn.checkpoint.store import Store
from stream_rnn.console import Console
from stream_rnn.daemon import make_runtime
from stream_rnn.engine.frames import Tick

NEVER_S = 3600.0
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "p99.99": 0.9999, "most": 1.0}
write = sys.stdout.write


@dataclass
class Times:
    """Seconds, of all runs of one kind.

    Attributes:
        steps: of each step.
        events: from one step's end to the next one's.
        snapshots: how many were written.
    """

    steps: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    snapshots: float = 0.0


def learn(tables: dict[str, object], every_s: float, seconds: float, times: Times) -> None:
    """A fresh daemon for so long; what each step took is added to `times`."""
    with tempfile.TemporaryDirectory(prefix="snapshots-") as name:
        folder = Path(name)
        job = app.build(tables | {"state": {"dir": str(folder), "every_s": every_s}})
        registry, store = CollectorRegistry(), Store(folder)
        store.open()
        runtime = make_runtime(job, store, registry, Console(io.StringIO()))
        counts, until = job.engine.on_tick, time.perf_counter() + seconds
        steps: list[float] = []
        ends: list[float] = []

        def on_tick(tick: Tick) -> None:
            counts(tick)
            ends.append(time.perf_counter())
            steps.append(tick.seconds / tick.n)
            if ends[-1] >= until:
                runtime.stop()

        job.engine.on_tick = on_tick
        runtime.run()
        store.close()
        first = len(ends) // 10
        times.steps += steps[first:]
        times.events += [after - before for before, after in pairwise(ends[first:])]
        times.snapshots += registry.get_sample_value("stream_rnn_snapshots_total") or 0.0


def quantiles(took: list[float]) -> str:
    """In microseconds, as columns."""
    ordered = sorted(took)
    at = (ordered[math.ceil(q * len(ordered)) - 1] for q in QUANTILES.values())
    return "".join(f"{1e6 * each:11,.0f}" for each in at)


def main() -> None:
    """Print the quantiles of steps and events, without snapshots and with them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cell", default="lstm")
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--every-s", type=float, default=1.0, help="seconds between snapshots")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    tables: dict[str, object] = {
        "source": {"kind": "synthetic"},
        "task": {"kind": "forecast", "target": "value"},
        "learner": {"cell": {"kind": given.cell, "units": given.units}, "device": "cpu"},
        "limits": {"poll_events": 1},
    }
    found = {"without": Times(), f"every {given.every_s:g} s": Times()}
    for _ in range(given.rounds):
        for every_s, times in zip((NEVER_S, given.every_s), found.values(), strict=True):
            learn(tables, every_s, given.seconds, times)
    write(f"{given.cell} of {given.units} units; us\n")
    write(f"{'':24}{'n':>10}" + "".join(f"{name:>11}" for name in QUANTILES) + "\n")
    for name, times in found.items():
        for what, took in (("step", times.steps), ("event", times.events)):
            write(f"{name + ', ' + what:24}{len(took):>10,}{quantiles(took)}\n")
        write(f"  {times.snapshots:g} snapshots (one of them at the end of each run)\n")


if __name__ == "__main__":
    main()
